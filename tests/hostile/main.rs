//! Clients, backends and networks that mean harm, over real sockets: what headway lets through, and what it costs others.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail so")]
#![allow(
    clippy::float_cmp,
    clippy::cast_precision_loss,
    clippy::format_push_string,
    reason = "counters are whole; the text is short"
)]

#[path = "../life_support/mod.rs"]
#[allow(dead_code, reason = "each test program uses its part")]
mod support;

mod admin;
mod certificates;
mod crowds;
mod frames;
mod h2_abuse;
mod h2_smuggling;
mod handshakes;
mod neighbour;
mod recorder;
mod smuggling;
