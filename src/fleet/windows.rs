//! The rolling windows of one route at one backend, and what routing reads from them.

use std::time::{Duration, Instant};

use crate::measure::objective::{Latency, Objective, Objectives};
use crate::measure::window::LatencyWindow;
use crate::route::snapshot::Observed;
use crate::units::Quantile;

/// How long routing remembers a latency: short enough to follow an incident, long enough for a bound on p95.
const MEMORY: Duration = Duration::from_secs(60);
/// How sure a bound is.
const CONFIDENCE: f64 = 0.95;

/// One window per latency.
#[derive(Debug)]
pub(super) struct Windows {
    ttft: LatencyWindow,
    ttfo: LatencyWindow,
    itl: LatencyWindow,
    e2e: LatencyWindow,
}

impl Windows {
    pub(super) fn new() -> Self {
        let window = || LatencyWindow::new(MEMORY);
        Self { ttft: window(), ttfo: window(), itl: window(), e2e: window() }
    }

    pub(super) fn record(&mut self, latency: Latency, value: Duration, now: Instant) {
        if let Some(window) = self.window(latency) {
            window.record(value, now);
        }
    }

    /// What the window says at the objective's quantile, or at p95 where nothing is promised.
    pub(super) fn observed(&mut self, latency: Latency, objectives: &Objectives, now: Instant) -> Observed {
        let quantile = promised(latency, objectives).map_or(Quantile::P95, |objective| objective.quantile);
        self.at(latency, quantile, now)
    }

    /// What the window says at a quantile.
    pub(super) fn at(&mut self, latency: Latency, quantile: Quantile, now: Instant) -> Observed {
        let Some(window) = self.window(latency) else { return Observed::default() };
        let Some(estimate) = window.quantile(quantile, now) else { return Observed::default() };
        let bound = window.upper_bound(quantile, CONFIDENCE, now).map(|bound| bound.value.max(estimate.value));
        Observed { samples: estimate.samples, estimate: Some(estimate.value), bound }
    }

    /// Gaps between chunks have no window here: an objective cannot be about them.
    fn window(&mut self, latency: Latency) -> Option<&mut LatencyWindow> {
        match latency {
            Latency::TimeToFirstToken => Some(&mut self.ttft),
            Latency::TimeToFirstOutputToken => Some(&mut self.ttfo),
            Latency::InterToken => Some(&mut self.itl),
            Latency::EndToEnd => Some(&mut self.e2e),
            Latency::InterChunk => None,
        }
    }
}

fn promised(latency: Latency, objectives: &Objectives) -> Option<&Objective> {
    objectives.iter().find(|objective| objective.latency == latency)
}
