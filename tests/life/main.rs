//! How headway lives with its clients and backends, over real sockets: who leaves, who is slow, who is told to stop.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail so")]

#[path = "../life_support/mod.rs"]
mod support;

mod aborts;
mod timers;
