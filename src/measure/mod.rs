//! Turns bytes and instants into latencies. Pure: no IO, no clock, no locks.

pub mod exchange;
pub mod gaps;
pub mod objective;
pub mod outcome;
pub mod reader;
pub mod sse;
pub mod timeline;
