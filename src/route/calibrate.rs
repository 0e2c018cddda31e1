//! How far from its prediction a latency falls: a fast log-bias, and quantiles that follow what was missed.
//!
//! Both are kept in log units, since latencies err by factors, and both keep their factor `exp(value)`, since a decision
//! multiplies by it and must not pay for an exponential per backend.

/// A moving log-bias: what the last few samples say about a prediction that has learned over hundreds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bias {
    value: f64,
    factor: f64,
}

/// Bad news is believed in full for this long after the last observation, in seconds.
const BELIEVED: f64 = 5.0;
/// How fast it is then forgotten, in seconds.
const FORGOTTEN: f64 = 20.0;

impl Default for Bias {
    fn default() -> Self {
        Self { value: 0.0, factor: 1.0 }
    }
}

impl Bias {
    /// Moves towards a sample, the log of actual ÷ predicted, cut to `range`.
    pub fn learn(&mut self, sample: f64, gain: f64, range: (f64, f64)) {
        if sample.is_finite() {
            self.set(self.value + gain * (sample.clamp(range.0, range.1) - self.value));
        }
    }

    /// Replaces the bias; what is not finite is ignored.
    pub fn set(&mut self, value: f64) {
        if value.is_finite() {
            *self = Self { value, factor: value.exp() };
        }
    }

    /// Goes on from what was kept, cut to `range`; what is not finite is ignored.
    pub fn resume(&mut self, value: f64, range: (f64, f64)) {
        if value.is_finite() {
            self.set(value.clamp(range.0, range.1));
        }
    }

    /// The bias, in log units.
    #[must_use]
    pub fn value(&self) -> f64 {
        self.value
    }

    /// The factor on a prediction, so many seconds after the last observation: bad news grows old, good news holds until
    /// it is refuted.
    #[must_use]
    pub fn factor(&self, age: f64) -> f64 {
        if self.value <= 0.0 || age <= BELIEVED {
            return self.factor;
        }
        (self.value * (-(age - BELIEVED) / FORGOTTEN).exp()).exp()
    }
}

/// Where a [`QuantileTracker`] starts and may go, in log units.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Span {
    /// Where the tracker of p95 starts; that of another quantile in proportion.
    pub start: f64,
    /// Least and most; the most is that of p95, too.
    pub range: (f64, f64),
}

/// The first steps of a tracker are so many times as long; after as many samples half that, and so on down to one. Whoever
/// starts far off would otherwise miss a dozen times before it is right.
const HASTE: f64 = 4.0;

/// How far a tracker moves at once.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Stride {
    /// Its step, in log units.
    pub step: f64,
    /// Whether it is longer where residuals scatter wider than is usual: to cross a wide scatter in usual steps takes
    /// dozens of misses.
    pub by_spread: bool,
}

impl Stride {
    /// The same, so many times as long.
    #[must_use]
    pub fn times(self, times: f64) -> Self {
        Self { step: self.step * times, ..self }
    }
}

/// How far residuals lie from their mean, on average, where steps are as long as they are set.
const USUAL_SPREAD: f64 = 0.17;
/// The most times that scatter makes steps longer.
const LONGEST_STRIDE: f64 = 8.0;
/// How fast mean and spread follow, once there are samples.
const SPREAD_GAIN: f64 = 0.05;
/// The spread that is assumed counts as so many samples.
const ASSUMED: f64 = 5.0;

/// The offset that a share `alpha` of residuals exceeds: the conformal quantile tracker of Gibbs and Candès (2021).
///
/// Up by `step · (1 − alpha)` on a miss, down by `step · alpha` otherwise. With steps of one length the share of misses
/// ends, for any sequence of residuals, within `(range + step) ÷ (step · samples)` of alpha, as long as the offset is not
/// cut to its range. Steps that grow with scatter, and residuals that count less, give that up for a faster start: how
/// often bounds are missed is what the policy simulator counts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct QuantileTracker {
    span: Span,
    alpha: f64,
    value: f64,
    factor: f64,
    samples: u64,
    /// Of the residuals: their mean, and how far they lie from it.
    mean: f64,
    spread: f64,
}

impl QuantileTracker {
    /// A tracker at its start. Laplace's tails say how far from that of p95 another quantile's start is.
    #[must_use]
    pub fn new(span: Span, alpha: f64) -> Self {
        let alpha = alpha.clamp(1e-6, 1.0 - 1e-6);
        let tail = (0.5 / alpha.min(0.5)).ln() / 10.0_f64.ln();
        let range = (span.range.0, span.range.1 * tail.max(1.0));
        let span = Span { range, ..span };
        let mut tracker = Self { span, alpha, value: 0.0, factor: 1.0, samples: 0, mean: 0.0, spread: USUAL_SPREAD };
        tracker.move_to(span.start * tail);
        tracker
    }

    /// Learns one residual: the log of actual ÷ predicted.
    pub fn observe(&mut self, residual: f64, stride: Stride) {
        if !residual.is_finite() {
            return;
        }
        #[allow(clippy::cast_precision_loss, reason = "exact where it matters: among the first few")]
        let samples = self.samples as f64;
        let haste = (HASTE / (1.0 + samples / HASTE)).max(1.0);
        let gain = SPREAD_GAIN.max(1.0 / (ASSUMED + samples));
        let distance = residual - self.mean;
        self.mean += gain * distance;
        self.spread += gain * (distance.abs() - self.spread);
        let wider = if stride.by_spread { (self.spread / USUAL_SPREAD).clamp(1.0, LONGEST_STRIDE) } else { 1.0 };
        let step = haste * wider * stride.step;
        let by = if residual > self.value { step * (1.0 - self.alpha) } else { -step * self.alpha };
        self.samples = self.samples.saturating_add(1);
        self.move_to(self.value + by);
    }

    /// The share of residuals that may exceed the offset.
    #[must_use]
    pub fn alpha(&self) -> f64 {
        self.alpha
    }

    /// The factor from a prediction to its bound.
    #[must_use]
    pub fn factor(&self) -> f64 {
        self.factor
    }

    /// The offset in log units.
    #[must_use]
    pub fn value(&self) -> f64 {
        self.value
    }

    /// Residuals seen.
    #[must_use]
    pub fn samples(&self) -> u64 {
        self.samples
    }

    /// Goes on from where another tracker of the same span was; what is not finite is ignored.
    pub fn resume(&mut self, value: f64, samples: u64) {
        if value.is_finite() {
            self.samples = samples;
            self.move_to(value);
        }
    }

    fn move_to(&mut self, value: f64) {
        self.value = value.clamp(self.span.range.0, self.span.range.1);
        self.factor = self.value.exp();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    const SPAN: Span = Span { start: 0.4, range: (-0.5, 1.5) };
    const EVEN: Stride = Stride { step: 0.05, by_spread: false };

    #[track_caller]
    fn check_misses(alpha: f64) {
        let (mut random, mut missed) = (Random::seeded(3), 0);
        let mut tracker = QuantileTracker::new(SPAN, alpha);
        for round in 0..20_000 {
            let residual = 0.3 * random.gauss();
            missed += u32::from(round >= 2_000 && residual > tracker.value());
            tracker.observe(residual, EVEN);
        }
        let share = f64::from(missed) / 18_000.0;
        assert!((share - alpha).abs() < 0.005, "{share} for {alpha}");
    }

    #[test]
    fn the_share_of_misses_is_the_one_that_was_asked_for() {
        check_misses(0.05);
        check_misses(0.01);
        check_misses(0.1);
        check_misses(0.5);
    }

    /// Misses among the first residuals of so wide a scatter.
    fn early_misses(spread: f64, by_spread: bool) -> usize {
        let mut random = Random::seeded(5);
        let mut tracker = QuantileTracker::new(Span { range: (-0.5, 9.0), ..SPAN }, 0.05);
        let residuals = (0..400).map(|_| spread * random.gauss());
        let missed = |residual: &f64| {
            let missed = *residual > tracker.value();
            tracker.observe(*residual, Stride { by_spread, ..EVEN });
            missed
        };
        residuals.filter(missed).count()
    }

    #[test]
    fn a_wide_scatter_is_crossed_in_longer_steps_and_a_usual_one_in_usual_steps() {
        let (slow, fast) = (early_misses(2.0, false), early_misses(2.0, true));
        assert!(fast <= 30 && slow >= fast + 15, "{slow} and {fast} of 400");
        assert!(early_misses(0.2, true).abs_diff(early_misses(0.2, false)) <= 3);
    }

    #[test]
    fn what_is_always_off_by_the_same_does_not_scatter() {
        let mut tracker = QuantileTracker::new(SPAN, 0.05);
        for round in 0..1_000 {
            tracker.observe(0.8, Stride { by_spread: true, ..EVEN });
            let off = (tracker.value() - 0.8).abs();
            assert!(round < 500 || off < 0.05, "steps no longer than usual: {off} in round {round}");
        }
    }

    #[test]
    fn rarer_misses_start_further_out_and_the_median_starts_at_the_prediction() {
        let start = |alpha| QuantileTracker::new(SPAN, alpha).value();
        assert!((start(0.05) - 0.4).abs() < 1e-12 && start(0.5).abs() < 1e-12);
        assert!(start(0.01) > start(0.05) && start(0.05) > start(0.1));
    }

    #[test]
    fn a_tracker_stays_in_its_range() {
        let mut tracker = QuantileTracker::new(SPAN, 0.05);
        (0..1_000).for_each(|_| tracker.observe(9.0, EVEN));
        assert!((tracker.value() - 1.5).abs() < 1e-12);
        (0..10_000).for_each(|_| tracker.observe(-9.0, EVEN));
        assert!((tracker.value() + 0.5).abs() < 1e-12);
    }

    #[test]
    fn bad_news_grows_old_and_good_news_does_not() {
        let (mut bad, mut good) = (Bias::default(), Bias::default());
        bad.set(1.0);
        good.set(-1.0);
        assert!((bad.factor(5.0) - 1.0_f64.exp()).abs() < 1e-12, "believed while fresh");
        assert!(bad.factor(25.0) < 1.5 && bad.factor(600.0) < 1.001);
        assert!((good.factor(600.0) - (-1.0_f64).exp()).abs() < 1e-12);
    }

    #[test]
    fn what_is_no_number_teaches_nothing() {
        let (mut bias, mut tracker) = (Bias::default(), QuantileTracker::new(SPAN, 0.05));
        let before = (bias, tracker);
        for nonsense in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            bias.learn(nonsense, 0.15, (-2.0, 3.0));
            bias.set(nonsense);
            tracker.observe(nonsense, EVEN);
            tracker.resume(nonsense, 7);
        }
        assert_eq!((bias, tracker), before);
    }
}
