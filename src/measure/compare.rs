//! Two groups side by side: how far apart their quantiles and their shares are, and how sure that is.
//!
//! Nothing is assumed about the distributions. A quantile's limits are the order statistics that the binomial
//! distribution names; the limits of a difference come from those of its two parts by the method of variance estimates
//! recovery (Zou and Donner, *Construction of confidence limits about effect measures*, 2008); for shares, whose limits
//! are Wilson's, that is Newcombe's method 10 (1998).

use super::attainment::Attainment;
use super::window::Limits;

/// How sure an interval is.
pub const CONFIDENCE: f64 = 0.95;
/// The deviate that leaves so much between itself and its negative.
const DEVIATE: f64 = 1.959_964;

/// How much larger one figure is than another.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Difference {
    /// As measured.
    pub value: f64,
    /// The true one is not below this, with half of what [`CONFIDENCE`] leaves as risk.
    pub low: f64,
    /// Likewise not above this.
    pub high: f64,
}

/// One figure with its limits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bounded {
    /// As measured.
    pub value: f64,
    /// Lower limit.
    pub low: f64,
    /// Upper limit.
    pub high: f64,
}

impl Difference {
    /// One less the other.
    #[must_use]
    pub fn of(one: &Bounded, other: &Bounded) -> Self {
        let value = one.value - other.value;
        let down = (one.value - one.low).hypot(other.high - other.value);
        let up = (one.high - one.value).hypot(other.value - other.low);
        Self { value, low: value - down, high: value + up }
    }

    /// Whether the interval leaves zero out: they do differ.
    #[must_use]
    pub fn is_clear(&self) -> bool {
        self.low > 0.0 || self.high < 0.0
    }
}

/// How many seconds a quantile is larger in one group; `None` while either has too few samples for a limit.
#[must_use]
pub fn of_quantiles(one: &Limits, other: &Limits) -> Option<Difference> {
    let seconds = |limits: &Limits| {
        let (low, high) = limits.between?;
        Some(Bounded { value: limits.estimate.as_secs_f64(), low: low.as_secs_f64(), high: high.as_secs_f64() })
    };
    Some(Difference::of(&seconds(one)?, &seconds(other)?))
}

/// The share that was missed, with Wilson's limits (1927); `None` while nothing was judged.
#[must_use]
#[allow(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
pub fn missed(judged: &Attainment) -> Option<Bounded> {
    let value = 1.0 - judged.share()?;
    let n = judged.total as f64;
    let square = DEVIATE * DEVIATE;
    let middle = value + square / (2.0 * n);
    let reach = DEVIATE * (value * (1.0 - value) / n + square / (4.0 * n * n)).sqrt();
    let scale = 1.0 + square / n;
    Some(Bounded { value, low: ((middle - reach) / scale).max(0.0), high: ((middle + reach) / scale).min(1.0) })
}

/// How much larger the share missed is in one group.
#[must_use]
pub fn of_misses(one: &Attainment, other: &Attainment) -> Option<Difference> {
    Some(Difference::of(&missed(one)?, &missed(other)?))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::clock::{Clock, ManualClock};
    use crate::measure::window::LatencyWindow;
    use crate::random::Random;
    use crate::units::Quantile;

    const RUNS: u32 = 400;

    /// A draw of that scale, and the quantile of a share.
    type Distribution = (fn(&mut Random, f64) -> f64, fn(f64, f64) -> f64);

    fn quantile(share: f64) -> Quantile {
        Quantile::new(share).expect("a quantile")
    }

    fn filled(count: u32, now: Instant, mut draw: impl FnMut() -> f64) -> LatencyWindow {
        let mut window = LatencyWindow::new(Duration::from_secs(60));
        (0..count).for_each(|_| window.record(Duration::from_secs_f64(draw()), now));
        window
    }

    /// In which share of the runs the interval covered the true difference of the quantiles, and how wide it was on
    /// average, in units of the baseline's quantile.
    fn covered((few, many): (u32, u32), share: f64, (draw, inverse): Distribution, scale: f64) -> (f64, f64) {
        let now = ManualClock::new().now();
        let (mut random, mut covered, mut width) = (Random::seeded(17), 0, 0.0);
        let truth = inverse(share, scale) - inverse(share, 1.0);
        for _ in 0..RUNS {
            let mut one = filled(few, now, || draw(&mut random, scale));
            let mut other = filled(many, now, || draw(&mut random, 1.0));
            let limits = |window: &mut LatencyWindow| window.limits(quantile(share), CONFIDENCE, now).expect("samples");
            let found = of_quantiles(&limits(&mut one), &limits(&mut other)).expect("enough samples");
            covered += u32::from((found.low..=found.high).contains(&truth));
            width += (found.high - found.low) / f64::from(RUNS) / inverse(share, 1.0);
        }
        (f64::from(covered) / f64::from(RUNS), width)
    }

    /// A tenth of a second on average.
    fn exponential(random: &mut Random, scale: f64) -> f64 {
        random.exponential() * scale / 10.0
    }

    fn exponential_at(share: f64, scale: f64) -> f64 {
        -(1.0 - share).ln() * scale / 10.0
    }

    /// A median of a tenth of a second, and a long tail.
    fn lognormal(random: &mut Random, scale: f64) -> f64 {
        (random.gauss() * 0.8).exp() * scale / 10.0
    }

    fn lognormal_at(share: f64, scale: f64) -> f64 {
        let deviates = [(0.5, 0.0), (0.9, 1.281_552), (0.95, 1.644_854), (0.99, 2.326_348_f64)];
        let (_, deviate) =
            deviates.into_iter().find(|(at, _): &(f64, _)| (at - share).abs() < 1e-9).expect("a known one");
        (deviate * 0.8).exp() * scale / 10.0
    }

    #[test]
    fn an_interval_covers_the_true_difference_and_is_not_absurdly_wide() {
        let exponential: Distribution = (exponential, exponential_at);
        let lognormal: Distribution = (lognormal, lognormal_at);
        for (name, distribution) in [("exponential", exponential), ("lognormal", lognormal)] {
            for scale in [1.0, 1.2, 2.0] {
                for (share, sizes, widest) in [
                    (0.5, (150, 2_000), 0.7),
                    (0.9, (150, 2_000), 1.0),
                    (0.95, (300, 3_000), 1.1),
                    (0.99, (600, 3_000), 1.6),
                ] {
                    let (coverage, width) = covered(sizes, share, distribution, scale);
                    println!("{name} x{scale} p{}: covered {coverage:.3}, width {width:.2}", share * 100.0);
                    assert!(coverage >= 0.93, "{name} {scale} {share}: {coverage}");
                    assert!(width < widest * scale, "{name} {scale} {share}: {width}");
                }
            }
        }
    }

    #[test]
    fn too_few_samples_say_nothing() {
        let now = ManualClock::new().now();
        let limits = |count, share| filled(count, now, || 0.1).limits(quantile(share), CONFIDENCE, now);
        // 0.99^n ≤ 0.025 from 368 on, 0.95^n from 72 on.
        for (count, share, enough) in [(367, 0.99, false), (368, 0.99, true), (71, 0.95, false), (72, 0.95, true)] {
            let one = limits(count, share).expect("samples");
            assert_eq!(one.between.is_some(), enough, "{count} {share}");
            assert_eq!(of_quantiles(&one, &limits(5_000, share).unwrap()).is_some(), enough);
        }
        assert_eq!(limits(0, 0.5), None);
        assert_eq!(of_misses(&Attainment::default(), &Attainment { good: 1, total: 1 }), None);
    }

    #[test]
    fn shares_differ_by_newcombes_interval() {
        // Newcombe 1998, table II, example (a), method 10: 56/70 − 48/80.
        let of = |hits, total| Attainment { good: total - hits, total };
        let found = of_misses(&of(56, 70), &of(48, 80)).unwrap();
        for (is, should) in [(found.value, 0.2), (found.low, 0.0524), (found.high, 0.3339)] {
            assert!((is - should).abs() < 1e-4, "{found:?}");
        }
        assert!(found.is_clear() && !of_misses(&of(1, 10), &of(2, 10)).unwrap().is_clear());
        // (g): 0/10 − 0/20.
        let none = of_misses(&of(0, 10), &of(0, 20)).unwrap();
        assert!((none.low + 0.1611).abs() < 1e-4 && (none.high - 0.2775).abs() < 1e-4, "{none:?}");
    }

    #[test]
    fn the_interval_of_shares_covers_too() {
        let mut random = Random::seeded(5);
        for (one, other) in [(0.05, 0.05), (0.2, 0.05), (0.01, 0.04)] {
            let mut covered = 0;
            for _ in 0..1_000 {
                let mut draw = |total: u64, share: f64| {
                    let hits = (0..total).filter(|_| random.share() < share).count() as u64;
                    Attainment { good: total - hits, total }
                };
                let found = of_misses(&draw(200, one), &draw(2_000, other)).unwrap();
                covered += u32::from((found.low..=found.high).contains(&(one - other)));
            }
            assert!(covered >= 930, "{one} {other}: {covered}");
        }
    }
}
