//! The rolling windows of one route at one backend, and what routing reads from them.

use std::time::{Duration, Instant};

use crate::measure::objective::{Latency, Objectives};
use crate::route::snapshot::Observed;

/// How long routing remembers a latency.
pub(super) const MEMORY: Duration = Duration::from_secs(60);

/// One window per latency.
#[derive(Debug)]
pub(super) struct Windows {}

impl Windows {
    pub(super) fn new(_now: Instant) -> Self {
        Self {}
    }

    pub(super) fn record(&mut self, _latency: Latency, _value: Duration, _now: Instant) {}

    /// What the window says at the objective's quantile, or at p95 where nothing is promised.
    pub(super) fn observed(&mut self, _latency: Latency, _objectives: &Objectives, _now: Instant) -> Observed {
        Observed::default()
    }
}
