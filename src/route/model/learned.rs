//! What was learned, in plain numbers: to be kept across restarts, and to start from what a benchmark measured.
//!
//! Load and probes are not part of it: they are about now. Biases are, for where requests are few they carry most of
//! what is known.

use crate::route::calibrate::{QuantileTracker, Span};
use crate::route::predict::RlsLearned;
use crate::units::Quantile;

/// Where a quantile tracker was.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TrackerLearned {
    /// The share of residuals that may exceed the offset.
    pub alpha: f64,
    /// The offset in log units.
    pub value: f64,
    /// Residuals seen.
    pub samples: u64,
}

/// What a backend has learned.
#[derive(Debug, Clone, PartialEq)]
pub struct BackendLearned {
    /// The TTFT model, of samples in seconds.
    pub ttft: RlsLearned,
    /// The ITL model, of samples in seconds.
    pub itl: RlsLearned,
    /// Log of how much longer first tokens take lately than their model expects.
    pub ttft_bias: f64,
    /// The same of gaps.
    pub itl_bias: f64,
    /// TTFT trackers, one per quantile that is promised somewhere.
    pub ttft_bounds: Vec<TrackerLearned>,
    /// The usual gap between tokens, in seconds.
    pub gap: f64,
    /// By the route's slot; `None` for a route that never came here.
    pub pairs: Vec<Option<PairLearned>>,
}

/// What a backend has learned of one route.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PairLearned {
    /// ITL tracker: by how much it differs from the route's.
    pub itl: TrackerLearned,
    /// End-to-end tracker of streamed answers: by how much it differs from the route's.
    pub e2e: TrackerLearned,
    /// End-to-end tracker of unstreamed answers.
    pub unstreamed: TrackerLearned,
    /// Log of how much longer unstreamed answers take than the streams' models expect.
    pub unstreamed_bias: f64,
    /// Unstreamed answers seen.
    pub unstreamed_samples: u64,
}

/// What a route has learned.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RouteLearned {
    /// Output tokens on average.
    pub output_mean: f64,
    /// Output tokens exceeded by one answer in ten.
    pub output_upper: f64,
    /// Answers seen.
    pub answers: u64,
    /// ITL tracker of all backends.
    pub itl: TrackerLearned,
    /// End-to-end tracker of all backends.
    pub e2e: TrackerLearned,
}

impl TrackerLearned {
    pub(super) fn of(tracker: &QuantileTracker) -> Self {
        Self { alpha: tracker.alpha(), value: tracker.value(), samples: tracker.samples() }
    }

    /// A tracker that goes on from there; at its start where the numbers are none.
    pub(super) fn tracker(self, span: Span) -> QuantileTracker {
        let alpha = if self.alpha.is_finite() { self.alpha } else { 1.0 - Quantile::P95.share() };
        let mut tracker = QuantileTracker::new(span, alpha);
        tracker.resume(self.value, self.samples);
        tracker
    }
}
