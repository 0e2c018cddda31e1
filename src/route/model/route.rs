//! What one route has learned, whatever the backend: how long its answers are, and how well it keeps its promise.

use super::learned::RouteLearned;
use super::usual::{Fall, Offsets, Usual};
use crate::measure::objective::Objectives;

/// Gain of the mean output.
const MEAN_GAIN: f64 = 0.02;
/// The first answers count for more: the prior is forgotten after about so many.
const PRIOR_ANSWERS: f64 = 5.0;
/// Steps of the 90th percentile of outputs, up and down: nine to one, so that one answer in ten exceeds it.
const UPPER_STEPS: (f64, f64) = (0.027, 0.003);
/// Steps are so many times as long while a route is young.
const YOUNG: (u64, f64) = (100, 4.0);
/// Gains of the averages of misses.
const FAST: f64 = 0.05;
const SLOW: f64 = 0.01;
/// How fast the margin moves.
const MARGIN_STEP: f64 = 0.02;
/// The most the margin may be, in log units.
const MARGIN_MOST: f64 = 0.5;
/// The longest answer that is learned.
const LONGEST: f64 = 1e7;

/// Output tokens to expect.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Output {
    /// On average.
    pub mean: f64,
    /// Exceeded by one answer in ten.
    pub upper: f64,
}

impl Output {
    /// No more than were asked for.
    #[must_use]
    pub fn at_most(self, max_tokens: Option<u64>) -> Self {
        #[allow(clippy::cast_precision_loss, reason = "token counts are far below 2^52")]
        let most = max_tokens.map_or(f64::INFINITY, |most| most.max(1) as f64);
        Self { mean: self.mean.min(most), upper: self.upper.min(most) }
    }
}

impl Default for Output {
    fn default() -> Self {
        Self { mean: 200.0, upper: 500.0 }
    }
}

/// What one route has learned.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct RouteModel {
    output: Output,
    answers: u64,
    margin: f64,
    fast_misses: f64,
    slow_misses: f64,
    usual: Usual,
}

impl RouteModel {
    /// Output tokens to expect of a request.
    #[must_use]
    pub fn output(&self, max_tokens: Option<u64>) -> Output {
        self.output.at_most(max_tokens)
    }

    /// How far its answers usually fall from what models expect.
    #[must_use]
    pub fn offsets(&self) -> Offsets {
        self.usual.offsets()
    }

    /// An answer fell so far from what was expected of it.
    pub fn fell(&mut self, fall: &Fall) {
        self.usual.fell(fall);
    }

    /// How much more distance than calibrated the route keeps from its objectives, in log units.
    #[must_use]
    pub fn margin(&self) -> f64 {
        self.margin
    }

    /// Share of misses over about the last 20 requests.
    #[must_use]
    pub fn fast_misses(&self) -> f64 {
        self.fast_misses
    }

    /// Share of misses over about the last 100 requests.
    #[must_use]
    pub fn slow_misses(&self) -> f64 {
        self.slow_misses
    }

    /// An answer was whole, and this long.
    #[allow(clippy::cast_precision_loss, reason = "token counts are far below 2^52")]
    pub fn answered(&mut self, output_tokens: u64) {
        let tokens = (output_tokens as f64).min(LONGEST);
        let gain = MEAN_GAIN.max(1.0 / (self.answers as f64 + PRIOR_ANSWERS));
        self.output.mean += gain * (tokens - self.output.mean);
        let faster = if self.answers < YOUNG.0 { YOUNG.1 } else { 1.0 };
        let upper = self.output.upper;
        let step = if tokens > upper { UPPER_STEPS.0 * upper.max(10.0) } else { -UPPER_STEPS.1 * upper };
        self.output.upper = (upper + faster * step).clamp(1.0, LONGEST);
        self.answers = self.answers.saturating_add(1);
    }

    /// A request was judged by the objectives (not: cancelled, refused). `feasible` says whether it was sent where it
    /// was predicted to keep them: only such requests move the margin, or overload would wind it up.
    pub fn judged(&mut self, good: bool, feasible: bool, objectives: &Objectives) {
        let Some(allowed) = allowed_misses(objectives) else { return };
        let missed = f64::from(u8::from(!good));
        self.slow_misses += SLOW * (missed - self.slow_misses);
        self.fast_misses += FAST * (missed - self.fast_misses);
        if feasible {
            // Aims halfway between the promise and perfection: what is not routed as feasible misses more.
            self.margin = (self.margin + MARGIN_STEP * (missed - allowed / 2.0)).clamp(0.0, MARGIN_MOST);
        }
    }

    /// A request was turned away.
    pub fn shed(&mut self) {
        self.fast_misses += FAST * (1.0 - self.fast_misses);
    }

    /// All it has learned that is worth keeping.
    #[must_use]
    pub fn learned(&self) -> RouteLearned {
        let (itl, e2e) = self.usual.learned();
        let Output { mean, upper } = self.output;
        RouteLearned { output_mean: mean, output_upper: upper, answers: self.answers, itl, e2e }
    }

    /// Goes on from what was learned; what is not finite is ignored.
    pub fn resume(&mut self, learned: &RouteLearned) {
        let sane = |tokens: f64| tokens.is_finite() && tokens > 0.0;
        if sane(learned.output_mean) && sane(learned.output_upper) {
            self.output = Output { mean: learned.output_mean, upper: learned.output_upper };
            self.answers = learned.answers;
        }
        self.usual.resume((learned.itl, learned.e2e));
    }
}

/// The share of requests that may miss the joint promise: that of the laxest objective, since no tighter joint one can
/// be hoped for; `None` when nothing is promised.
pub fn allowed_misses(objectives: &Objectives) -> Option<f64> {
    objectives.iter().map(|objective| 1.0 - objective.quantile.share()).reduce(f64::max)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::measure::objective::{Latency, Objective};
    use crate::random::Random;
    use crate::units::Quantile;

    fn p95() -> Objectives {
        let threshold = Duration::from_millis(300);
        let ttft = Objective { latency: Latency::TimeToFirstToken, quantile: Quantile::P95, threshold };
        Objectives { ttft: Some(ttft), ..Objectives::default() }
    }

    #[test]
    fn the_mean_and_the_longest_of_ten_answers_are_learned() {
        let (mut route, mut random) = (RouteModel::default(), Random::seeded(1));
        for _ in 0..5_000 {
            route.answered(random.below(1_000) as u64);
        }
        let Output { mean, upper } = route.output(None);
        assert!((mean - 500.0).abs() < 100.0 && (upper - 900.0).abs() < 60.0, "{mean} {upper}");
        assert_eq!(route.output(Some(64)), Output { mean: 64.0, upper: 64.0 });
    }

    #[test]
    fn one_long_answer_moves_a_known_mean_by_a_fiftieth() {
        let mut route = RouteModel::default();
        (0..1_000).for_each(|_| route.answered(100));
        route.answered(1_100);
        assert!((route.output(None).mean - 120.0).abs() < 0.1, "{route:?}");
    }

    #[test]
    fn a_route_of_long_answers_is_known_after_a_few() {
        let mut route = RouteModel::default();
        (0..30).for_each(|_| route.answered(2_000));
        assert!(route.output(None).mean > 1_500.0 && route.output(None).upper > 1_000.0, "{route:?}");
    }

    #[test]
    fn only_misses_of_requests_that_should_have_kept_the_promise_widen_the_margin() {
        let mut route = RouteModel::default();
        (0..100).for_each(|_| route.judged(false, false, &p95()));
        assert!(route.margin() == 0.0 && route.slow_misses() > 0.6 && route.fast_misses() > 0.99);
        (0..100).for_each(|_| route.judged(false, true, &p95()));
        assert!((route.margin() - 0.5).abs() < 1e-9);
        (0..1_000).for_each(|_| route.judged(true, true, &p95()));
        assert!(route.margin() < 0.01);
    }

    #[test]
    fn where_nothing_is_promised_nothing_is_missed() {
        let mut route = RouteModel::default();
        route.judged(false, true, &Objectives::default());
        assert_eq!(route, RouteModel::default());
    }

    #[test]
    fn what_was_learned_goes_on_and_nonsense_is_ignored() {
        let mut route = RouteModel::default();
        (0..30).for_each(|_| route.answered(2_000));
        let learned = route.learned();
        let resumed = |learned| {
            let mut route = RouteModel::default();
            route.resume(&learned);
            (route.output(None), route.learned().answers)
        };
        assert_eq!(resumed(learned), (route.output(None), 30));
        let fresh = (Output::default(), 0);
        for nonsense in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert_eq!(resumed(RouteLearned { output_mean: nonsense, ..learned }), fresh, "{nonsense}");
            assert_eq!(resumed(RouteLearned { output_upper: nonsense, ..learned }), fresh, "{nonsense}");
        }
    }

    #[test]
    fn of_those_turned_away_only_the_fast_average_hears() {
        let mut route = RouteModel::default();
        route.shed();
        assert_eq!((route.fast_misses(), route.slow_misses(), route.margin()), (FAST, 0.0, 0.0));
    }
}
