//! What a capacity planner makes of measurements: which profile for which route, up to which load, at which price, and
//! how many of them.
//!
//! ```text
//! Sample ─▶ Point ─┬▶ Ladder (which load next)
//!                  ├▶ EngineFit (what kind of engine answers so)
//!                  └▶ Capacity (how far a route's objectives hold) ─▶ Choice, FleetPlan
//! ```
//!
//! Pure: whoever measures brings the samples, of a real server or of a model.

mod capacity;
mod choice;
mod engine_fit;
mod fleet_plan;
mod ladder;
mod least_squares;
mod point;
#[cfg(test)]
mod testing;

pub use capacity::{Capacity, Extent, Missed, cost_per_mtok};
pub use choice::{Alternative, Choice, choose};
pub use engine_fit::{EngineFit, Fitted};
pub use fleet_plan::{FleetPlan, Offer, PlanError, cheapest};
pub use ladder::Ladder;
pub use point::{Point, Sample, Shape};
#[cfg(test)]
pub(crate) use testing::modelled;
