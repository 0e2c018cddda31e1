//! The simulated NIM on real sockets: the bytes of vLLM, honest cancellation, and every fault as announced.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]

mod answers;
mod client;
mod faults;
mod leaving;
mod recorded;
mod serving;
