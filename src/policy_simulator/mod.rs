//! Policies against a modelled fleet in virtual time.
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
