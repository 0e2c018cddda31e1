//! How headway lives with its clients and backends, over real sockets: who leaves, who is slow, who is told to stop.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail so")]
#![allow(clippy::float_cmp, clippy::format_push_string, reason = "counters are whole; the text is short")]
#![allow(clippy::cast_precision_loss, reason = "counts are far below 2^52")]

#[path = "../life_support/mod.rs"]
#[allow(dead_code, reason = "each test program uses its part")]
mod support;

mod aborts;
mod faults;
mod hand_over;
mod ladder;
mod manager;
mod panics;
mod pass_through;
mod profiles;
mod reload;
mod shutdown;
mod slow;
mod timers;
mod tls;
