//! Turns bytes and instants into latencies. Pure: no IO, no clock, no locks.

pub mod attainment;
pub mod bursts;
pub mod compare;
pub mod course;
pub mod evidence;
pub mod exchange;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
pub mod gaps;
pub mod group;
pub mod objective;
mod order;
pub mod outcome;
pub mod percentile;
pub mod reader;
pub mod sieve;
pub mod spread;
pub mod sse;
pub mod timeline;
pub mod trial;
pub mod window;
