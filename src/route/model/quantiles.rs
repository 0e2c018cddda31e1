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

#[cfg(test)]
mod tests {
    use super::*;

    const SPAN: Span = Span { start: 0.4, range: (-0.5, 1.5) };

    /// As many as there may be, of misses of one in two, four, eight …, each with an offset of its own.
    fn full() -> Quantiles {
        let learned = |place: u32| TrackerLearned {
            alpha: 0.5_f64.powi(i32::try_from(place).expect("few")),
            value: f64::from(place) / 10.0,
            samples: 100,
        };
        let mut quantiles = Quantiles::new(SPAN);
        quantiles.resume(&(1..=8).map(learned).collect::<Vec<_>>());
        quantiles
    }

    #[test]
    fn whoever_asks_for_a_quantile_too_many_gets_the_nearest_by_its_misses() {
        let mut quantiles = full();
        // One miss in 11 or 12 is nearer to one in 8 or 16 by its logarithm.
        for (misses_in, expected) in [(3.0, 0.2), (8.0, 0.3), (11.0, 0.3), (12.0, 0.4), (250.0, 0.8), (1e4, 0.8)] {
            let alpha = 1.0 / misses_in;
            quantiles.follow(alpha);
            let offset = quantiles.factor(alpha).ln();
            assert!((offset - expected).abs() < 1e-9, "one in {misses_in}: {offset}");
        }
        assert_eq!(quantiles.learned().len(), MOST);
    }

    #[test]
    fn while_there_is_place_a_quantile_nobody_followed_starts_anew() {
        let mut quantiles = Quantiles::new(SPAN);
        quantiles.resume(&[TrackerLearned { alpha: 0.05, value: 1.0, samples: 100 }]);
        let start = QuantileTracker::new(SPAN, 0.04).factor();
        assert!((quantiles.factor(0.04) - start).abs() < 1e-9);
        quantiles.follow(0.05);
        assert!((quantiles.factor(0.05).ln() - 1.0).abs() < 1e-9 && quantiles.learned().len() == 1, "known already");
    }

    #[test]
    fn what_was_cut_short_moves_only_the_bounds_it_has_passed() {
        let mut quantiles = full();
        let before = quantiles.learned();
        quantiles.observe_at_least(0.45, Stride { step: 0.01, by_spread: false });
        for (before, after) in before.iter().zip(quantiles.learned()) {
            let (rose, passed) = (after.value > before.value, before.value < 0.45);
            assert_eq!((rose, after.samples > before.samples), (passed, passed), "{before:?} {after:?}");
        }
    }
}
