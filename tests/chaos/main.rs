//! Everything that can go wrong between clients and backends, mixed at random from a seed, around one headway process
//! that is looked at from outside only: what clients got, what backends saw, the access log, the metrics, the descriptors.
//!
//! `HEADWAY_CHAOS` is the number of requests, `HEADWAY_CHAOS_SEED` where they are drawn from, `HEADWAY_CHAOS_SLACK` how
//! many seconds beyond its timer a request may take before it counts as hung; `HEADWAY_SOAK=30m` how long the soak lasts,
//! and `HEADWAY_SOAK_MOST` by how many MiB per hour its memory may grow at most; without it, growth is told and not judged.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail so")]
#![allow(clippy::cast_precision_loss, clippy::print_stdout, reason = "figures for people")]
#![allow(clippy::format_push_string, clippy::float_cmp, reason = "the text is short; counters are whole")]

#[allow(dead_code, reason = "each test program uses its part")]
#[path = "../life_support/mod.rs"]
mod life;
#[path = "../support/mod.rs"]
mod support;

mod client;
mod faults;
mod mixed;
mod plan;
mod process;
mod soak;
mod stage;
mod verdict;
