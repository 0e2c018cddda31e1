//! Policies against a modelled fleet in virtual time.
pub mod frozen;
pub mod rivals;
pub mod rule;
pub mod scenario;
pub mod scene;
pub mod workload;
pub mod world;
