//! TTFT bounds of one backend at every quantile that a route asks for: a p95 and a p99 route can share it.

use super::learned::TrackerLearned;
use crate::route::calibrate::{QuantileTracker, Span, Stride};

/// The most distinct quantiles; whoever asks for one more gets the nearest.
const MOST: usize = 8;
/// Shares this close are one quantile.
const SAME: f64 = 1e-9;

/// Trackers, each of another share that may exceed it.
#[derive(Debug, Clone)]
pub(super) struct Quantiles {
    span: Span,
    trackers: Vec<QuantileTracker>,
}

impl Quantiles {
    pub(super) fn new(span: Span) -> Self {
        Self { span, trackers: Vec::new() }
    }

    /// The factor from a prediction to its bound.
    pub(super) fn factor(&self, alpha: f64) -> f64 {
        self.nearest(alpha).map_or_else(|| QuantileTracker::new(self.span, alpha).factor(), QuantileTracker::factor)
    }

    /// Follows this quantile from now on.
    pub(super) fn follow(&mut self, alpha: f64) {
        let known = self.trackers.iter().any(|one| is_same(one, alpha));
        if !known && self.trackers.len() < MOST {
            self.trackers.push(QuantileTracker::new(self.span, alpha));
        }
    }

    /// Every tracker learns from every sample, each its own quantile.
    pub(super) fn observe(&mut self, residual: f64, stride: Stride) {
        self.trackers.iter_mut().for_each(|tracker| tracker.observe(residual, stride));
    }

    /// What was cut short took at least that long: those whose bound it has passed have missed it, the others know
    /// nothing.
    pub(super) fn observe_at_least(&mut self, residual: f64, stride: Stride) {
        let passed = self.trackers.iter_mut().filter(|tracker| residual > tracker.factor().ln());
        passed.for_each(|tracker| tracker.observe(residual, stride));
    }

    pub(super) fn learned(&self) -> Vec<TrackerLearned> {
        self.trackers.iter().map(TrackerLearned::of).collect()
    }

    pub(super) fn resume(&mut self, learned: &[TrackerLearned]) {
        for one in learned {
            self.follow(one.alpha);
            if let Some(tracker) = self.trackers.iter_mut().find(|tracker| is_same(tracker, one.alpha)) {
                *tracker = one.tracker(self.span);
            }
        }
    }

    fn nearest(&self, alpha: f64) -> Option<&QuantileTracker> {
        let exact = self.trackers.iter().find(|one| is_same(one, alpha));
        let full = self.trackers.len() >= MOST;
        let distance = |one: &&QuantileTracker| (one.alpha().ln() - alpha.ln()).abs();
        let near = || self.trackers.iter().min_by(|one, other| distance(one).total_cmp(&distance(other)));
        exact.or_else(|| near().filter(|_| full))
    }
}

fn is_same(tracker: &QuantileTracker, alpha: f64) -> bool {
    (tracker.alpha() - alpha).abs() < SAME
}
