//! The rolling windows of one route at one backend, and what routing reads from them.

use std::time::{Duration, Instant};

use crate::measure::gaps::GapHistogram;
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
    gaps: LatencyWindow,
    e2e: LatencyWindow,
}

impl Windows {
    pub(super) fn new() -> Self {
        let window = || LatencyWindow::new(MEMORY);
        Self { ttft: window(), ttfo: window(), itl: window(), gaps: window(), e2e: window() }
    }

    pub(super) fn record(&mut self, latency: Latency, value: Duration, now: Instant) {
        self.window(latency).record(value, now);
    }

    /// Adds every gap of an answer.
    pub(super) fn record_gaps(&mut self, gaps: &GapHistogram, now: Instant) {
        for (gap, count) in gaps.buckets() {
            self.gaps.record_many(gap, count, now);
        }
    }

    /// What the window says at the objective's quantile, or at p95 where nothing is promised.
    pub(super) fn observed(&mut self, latency: Latency, objectives: &Objectives, now: Instant) -> Observed {
        let quantile = promised(latency, objectives).map_or(Quantile::P95, |objective| objective.quantile);
        self.at(latency, quantile, now)
    }

    /// What the window says at a quantile.
    pub(super) fn at(&mut self, latency: Latency, quantile: Quantile, now: Instant) -> Observed {
        let window = self.window(latency);
        let Some(estimate) = window.quantile(quantile, now) else { return Observed::default() };
        let bound = window.upper_bound(quantile, CONFIDENCE, now).map(|bound| bound.value.max(estimate.value));
        Observed { samples: estimate.samples, estimate: Some(estimate.value), bound }
    }

    fn window(&mut self, latency: Latency) -> &mut LatencyWindow {
        match latency {
            Latency::TimeToFirstToken => &mut self.ttft,
            Latency::TimeToFirstOutputToken => &mut self.ttfo,
            Latency::InterToken => &mut self.itl,
            Latency::InterChunk => &mut self.gaps,
            Latency::EndToEnd => &mut self.e2e,
        }
    }
}

fn promised(latency: Latency, objectives: &Objectives) -> Option<&Objective> {
    objectives.iter().find(|objective| objective.latency == latency)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock, ManualClock};

    #[test]
    fn every_gap_of_an_answer_counts() {
        let (mut windows, now) = (Windows::new(), ManualClock::new().now());
        let mut gaps = GapHistogram::default();
        for millis in [10; 99].into_iter().chain([500]) {
            gaps.record(Duration::from_millis(millis));
        }
        windows.record_gaps(&gaps, now);
        let seen = windows.at(Latency::InterChunk, Quantile::P50, now);
        let within = |value: Duration| (9_900..=10_400).contains(&value.as_micros());
        assert!(seen.samples == 100 && seen.estimate.is_some_and(within), "{seen:?}");
        let longest = windows.at(Latency::InterChunk, Quantile::new(0.999).unwrap(), now).estimate.unwrap();
        assert!(longest >= Duration::from_millis(500), "{longest:?}");
    }
}
