//! Turns a snapshot of the fleet into a decision. Pure: a policy reads nothing but its arguments.
//!
//! In reading order: [`tuning`] holds the constants; [`load`], [`predict`], [`calibrate`] and [`prefix`] are what a
//! [`model`] of a backend is made of; its outlook on a request goes into a [`snapshot`], from which a [`policy`] makes a
//! [`decision`] with the help of [`price`]. [`admission`] orders those that wait, [`scarcity`] says who gives way in overload,
//! [`ejection`] takes backends out, [`outlier`] finds those that have become slow, [`slow_start`] lets new ones begin
//! little by little, [`hedge`] says how often a second one may be asked for the same, [`quota`] holds callers to their limits,
//! [`split`] draws the group of backends that a request belongs to.

pub mod admission;
pub mod calibrate;
pub mod decision;
pub mod ejection;
pub mod hedge;
pub mod load;
pub mod model;
pub mod moment;
pub mod outlier;
pub mod policy;
pub mod predict;
pub mod prefix;
pub mod price;
pub mod quota;
pub mod scarcity;
pub mod slow_start;
pub mod snapshot;
pub mod split;
pub mod tuning;
