//! The proxy on real sockets: what clients see, what backends see, what the record says.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

#[path = "../support/mod.rs"]
mod support;

mod answers;
mod buffering;
mod commit;
mod connections;
mod cors;
mod failover;
mod headers;
mod heartbeat;
mod hedging;
mod keys;
mod learned;
mod limits;
mod metrics;
mod midstream;
mod oddities;
mod overload;
mod privacy;
mod refusals;
mod resilience;
mod simulated;
mod split;
mod stock;
mod transparency;
mod usage;
