//! GPUs without a GPU: a stand-in for NVIDIA's library, built from C and loaded by its path, and a DCGM exporter that
//! plays pages; what they say is on the metrics page, in the API, and with each decision.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

#[path = "../support/mod.rs"]
mod support;

mod exporter;
mod library;
mod nvml;
