//! How far answers of one route fall from what models expect, whatever the backend.
//!
//! A backend's own tracker of a route sees the few of its requests that go there, and would miss a dozen times before
//! it is right; what is usual on the route every backend shows. So an offset has two parts: what is usual, learned from
//! all, and how one backend differs, which is little and learned slowly.

use super::learned::TrackerLearned;
use super::pair::Alphas;
use crate::route::calibrate::{QuantileTracker, Span, Stride};
use crate::units::Quantile;

/// Gaps of short answers vary the most: one long prompt next door is a large share of them.
const ITL: Span = Span { start: 0.6, range: (-0.5, 3.0) };
/// Whole answers are bounded from the longest of ten, so their offset starts small, and may well be negative.
const E2E: Span = Span { start: 0.4, range: (-1.5, 1.5) };

/// What is usual on a route.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Usual {
    itl: QuantileTracker,
    e2e: QuantileTracker,
}

/// What is usual on a route, to start a request's bounds from.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Offsets {
    pub(super) itl: Offset,
    pub(super) e2e: Offset,
}

/// An offset, and the factor that it makes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Offset {
    pub(super) value: f64,
    pub(super) factor: f64,
}

/// How far one whole answer fell from what was expected: the logs of actual ÷ predicted. To be handed to
/// [`RouteModel::fell`](super::RouteModel::fell).
#[derive(Debug, Clone, Copy, PartialEq)]
#[must_use = "its route learns from it"]
pub struct Fall {
    pub(super) itl: Option<f64>,
    pub(super) e2e: Option<f64>,
    pub(super) alphas: Alphas,
    pub(super) stride: Stride,
}

impl Default for Usual {
    fn default() -> Self {
        let alpha = 1.0 - Quantile::P95.share();
        Self { itl: QuantileTracker::new(ITL, alpha), e2e: QuantileTracker::new(E2E, alpha) }
    }
}

impl Usual {
    pub(super) fn offsets(&self) -> Offsets {
        Offsets { itl: Offset::of(&self.itl), e2e: Offset::of(&self.e2e) }
    }

    pub(super) fn fell(&mut self, fall: &Fall) {
        follow(&mut self.itl, ITL, fall.alphas.itl);
        follow(&mut self.e2e, E2E, fall.alphas.e2e);
        if let Some(residual) = fall.itl {
            self.itl.observe(residual, fall.stride);
        }
        if let Some(residual) = fall.e2e {
            self.e2e.observe(residual, fall.stride);
        }
    }

    pub(super) fn learned(&self) -> (TrackerLearned, TrackerLearned) {
        (TrackerLearned::of(&self.itl), TrackerLearned::of(&self.e2e))
    }

    pub(super) fn resume(&mut self, (itl, e2e): (TrackerLearned, TrackerLearned)) {
        (self.itl, self.e2e) = (itl.tracker(ITL), e2e.tracker(E2E));
    }
}

impl Offset {
    fn of(tracker: &QuantileTracker) -> Self {
        Self { value: tracker.value(), factor: tracker.factor() }
    }
}

impl Default for Offset {
    fn default() -> Self {
        Self { value: 0.0, factor: 1.0 }
    }
}

/// Goes on at another quantile, where the configuration has changed it.
pub(super) fn follow(tracker: &mut QuantileTracker, span: Span, alpha: f64) {
    let wanted = QuantileTracker::new(span, alpha);
    if (wanted.alpha() - tracker.alpha()).abs() > 1e-9 {
        *tracker = wanted;
    }
}
