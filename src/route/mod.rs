//! Turns a snapshot of the fleet into a decision. Pure: a policy reads nothing but its arguments.

pub mod decision;
pub mod ejection;
pub mod policy;
pub mod price;
pub mod snapshot;
