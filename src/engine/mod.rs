//! Model of a serving engine in virtual time, and named GPU profiles. Pure.
//!
//! The simulated NIM drives [`Model`] by real timers, a policy simulator by its own event queue: both feel the same
//! queueing, batching and preemption, so what is learned in one holds in the other.

#[cfg(test)]
pub(crate) mod closed_loop;
pub mod model;
pub mod prefix;
pub mod profiles;

pub use model::{Event, Model, Refused, Request};
pub use profiles::{Profile, UnknownProfile};
