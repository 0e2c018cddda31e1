//! Turns a snapshot of the fleet into a decision. Pure: a policy reads nothing but its arguments.

pub mod admission;
pub mod calibrate;
pub mod decision;
pub mod ejection;
pub mod load;
pub mod model;
pub mod policy;
pub mod predict;
pub mod prefix;
pub mod price;
pub mod snapshot;
pub mod tuning;
