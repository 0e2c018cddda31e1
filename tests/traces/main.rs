//! Traces as a collector receives them, on the official protobufs, over HTTP and gRPC.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

#[path = "../support/mod.rs"]
mod support;

mod collector;
mod context;
mod isolate;
mod process;
mod sampling;
mod shape;
mod transport;
mod trouble;
