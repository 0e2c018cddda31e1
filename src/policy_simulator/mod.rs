//! Policies against each other on the same traffic: discrete events over [`engine::Model`](crate::engine::Model) and
//! [`route`](crate::route), in virtual time.
//!
//! ```text
//! trace::RecordedPrompt ─▶ workload ─┐
//! scenario, frozen ──────────────────┴▶ Scene ─▶ world::run ◀─▶ Rule (rivals, routed) ─▶ Run ─▶ Score ─▶ Report
//! ```
//!
//! A [`scene::Scene`] is all that is given: fleet, promises, arrivals, incidents. [`world::run`] plays it under a
//! [`rule::Rule`]; [`routed::Routed`] is the one that drives the proxy's own models and policies by the calls that the
//! proxy makes, so what is simulated is what is served. A run follows from its scene alone: the same seed gives the same
//! bytes. What engines do is a model, and all that is claimed of absolute latencies is claimed of that model.

pub mod ablation;
pub mod access_log;
pub mod contender;
pub mod excerpts;
pub mod fate;
pub mod frozen;
pub mod predicted;
pub mod report;
pub mod rivals;
pub mod routed;
pub mod rule;
pub mod scenario;
pub mod scene;
pub mod score;
pub mod summary;
pub mod workload;
pub mod world;

#[cfg(test)]
mod testing;
