//! What one backend has learned of one route: bounds at the route's own quantiles, and its unstreamed answers.

use super::learned::{PairLearned, TrackerLearned};
use super::usual::follow;
use crate::measure::objective::{Objective, Objectives};
use crate::route::calibrate::{Bias, QuantileTracker, Span};
use crate::route::load::Rate;
use crate::route::moment::Moment;
use crate::route::tuning::Tuning;
use crate::units::Quantile;

/// How a backend differs from what is usual on the route.
const OWN: Span = Span { start: 0.0, range: (-3.0, 3.0) };
/// Where nothing is known of the route: gaps of short answers vary the most.
const ITL: Span = Span { start: 0.4, range: (-0.5, 3.0) };
/// The same of whole answers, bounded from the longest of ten.
const E2E: Span = Span { start: 0.25, range: (-1.5, 1.5) };
/// An unstreamed answer starts with less known about it.
const UNSTREAMED: Span = Span { start: 0.5, range: (-1.5, 1.5) };
/// What a bias may learn from an unstreamed answer at once.
pub(super) const BIAS_RANGE: (f64, f64) = (-2.0, 3.0);

/// The shares of requests that may exceed a route's bounds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Alphas {
    pub(super) ttft: f64,
    pub(super) itl: f64,
    pub(super) e2e: f64,
}

impl Alphas {
    pub(super) fn of(objectives: &Objectives, tuning: &Tuning) -> Self {
        let share = |objective: Option<Objective>| {
            let quantile = objective.map_or(Quantile::P95, |objective| objective.quantile);
            tuning.alpha.unwrap_or(1.0 - quantile.share())
        };
        Self { ttft: share(objectives.ttft), itl: share(objectives.itl), e2e: share(objectives.e2e) }
    }
}

/// One route at one backend.
#[derive(Debug, Clone, Copy)]
pub(super) struct PairModel {
    pub(super) itl: QuantileTracker,
    pub(super) e2e: QuantileTracker,
    pub(super) unstreamed: QuantileTracker,
    /// How unstreamed answers differ from what the streams' models expect.
    pub(super) unstreamed_bias: Bias,
    /// When an unstreamed answer was last seen.
    pub(super) unstreamed_at: Moment,
    /// Unstreamed answers seen.
    pub(super) unstreamed_samples: u64,
    pub(super) arrivals: Rate,
    /// The ITL that the latest stream was promised, in seconds.
    pub(super) promised_itl: Option<f64>,
}

impl PairModel {
    pub(super) fn new(alphas: &Alphas, tuning: &Tuning, now: Moment) -> Self {
        let (itl, e2e) = spans(tuning);
        Self {
            itl: QuantileTracker::new(itl, alphas.itl),
            e2e: QuantileTracker::new(e2e, alphas.e2e),
            unstreamed: QuantileTracker::new(UNSTREAMED, alphas.e2e),
            unstreamed_bias: Bias::default(),
            unstreamed_at: now,
            unstreamed_samples: 0,
            arrivals: Rate::new(now),
            promised_itl: None,
        }
    }

    pub(super) fn learned(&self) -> PairLearned {
        PairLearned {
            itl: TrackerLearned::of(&self.itl),
            e2e: TrackerLearned::of(&self.e2e),
            unstreamed: TrackerLearned::of(&self.unstreamed),
            unstreamed_bias: self.unstreamed_bias.value(),
            unstreamed_samples: self.unstreamed_samples,
        }
    }

    /// Goes on with other quantiles, where the configuration has changed them.
    pub(super) fn follow(&mut self, alphas: &Alphas, tuning: &Tuning) {
        let (itl, e2e) = spans(tuning);
        follow(&mut self.itl, itl, alphas.itl);
        follow(&mut self.e2e, e2e, alphas.e2e);
        follow(&mut self.unstreamed, UNSTREAMED, alphas.e2e);
    }

    pub(super) fn resume(&mut self, learned: &PairLearned, tuning: &Tuning) {
        let (itl, e2e) = spans(tuning);
        self.itl = learned.itl.tracker(itl);
        self.e2e = learned.e2e.tracker(e2e);
        self.unstreamed = learned.unstreamed.tracker(UNSTREAMED);
        self.unstreamed_bias.resume(learned.unstreamed_bias, BIAS_RANGE);
        self.unstreamed_samples = learned.unstreamed_samples;
    }
}

/// Of the ITL and the end-to-end trackers.
fn spans(tuning: &Tuning) -> (Span, Span) {
    if tuning.pooling { (OWN, OWN) } else { (ITL, E2E) }
}
