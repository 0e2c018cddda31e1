//! Which order statistics bound a quantile, whatever the distribution: the binomial's arithmetic.

/// Terms that are summed one by one; where a sum has more, the normal approximation errs by less than a rank in a
/// thousand.
const EXACT: f64 = 5_000.0;

/// How many of `samples` may lie beyond a bound of a quantile that each exceeds with probability `tail`: the largest k with
/// P(at most k of them exceed it) ≤ `risk`. `None` when there is no such k.
pub(super) fn beyond(samples: u64, tail: f64, risk: f64) -> Option<u64> {
    if samples == 0 || tail <= 0.0 || tail >= 1.0 {
        return None;
    }
    #[allow(clippy::cast_precision_loss, reason = "sample counts are far below 2^53")]
    let n = samples as f64;
    if n * tail.min(1.0 - tail) > EXACT {
        return near(n, tail, risk);
    }
    if tail <= 0.5 {
        return below(samples, tail, |sum| sum <= risk);
    }
    // The sum from the other end is the shorter one: P(X ≤ k) ≤ risk just where P(n − X ≤ n − k − 1) ≥ 1 − risk.
    let short = below(samples, 1.0 - tail, |sum| sum < 1.0 - risk).map_or(0, |last| last + 1);
    samples.checked_sub(short + 1)
}

/// The largest k for which `holds` of P(X ≤ k), where X counts successes of probability `share`.
fn below(samples: u64, share: f64, holds: impl Fn(f64) -> bool) -> Option<u64> {
    #[allow(clippy::cast_precision_loss, reason = "sample counts are far below 2^53")]
    let n = samples as f64;
    // In logarithms: the first term alone underflows for a few thousand samples.
    let odds = (share / (1.0 - share)).ln();
    let mut ln_term = n * (1.0 - share).ln();
    let (mut sum, mut k, mut found) = (0.0, 0.0, None);
    for count in 0..samples {
        sum += ln_term.exp();
        if !holds(sum) {
            return found;
        }
        found = Some(count);
        ln_term += ((n - k) / (k + 1.0)).ln() + odds;
        k += 1.0;
    }
    found
}

/// The same by the normal distribution, a rank on the safe side.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count, not negative")]
fn near(n: f64, tail: f64, risk: f64) -> Option<u64> {
    let rank = n * tail - deviate(risk) * (n * tail * (1.0 - tail)).sqrt() - 1.5;
    (rank >= 0.0).then_some(rank as u64)
}

/// How many standard deviations a normal draw lies above its mean with that probability, within 5e-4
/// (Abramowitz and Stegun, 26.2.23).
fn deviate(risk: f64) -> f64 {
    let risk = risk.clamp(1e-12, 0.5);
    let t = (-2.0 * risk.ln()).sqrt();
    let above = 2.515_517 + t * (0.802_853 + t * 0.010_328);
    t - above / (1.0 + t * (1.432_788 + t * (0.189_269 + t * 0.001_308)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sample_counts_of_the_order_statistic_are_the_exact_ones() {
        for (samples, from_top) in
            [(58, None), (59, Some(0)), (92, Some(0)), (93, Some(1)), (124, Some(2)), (153, Some(3)), (181, Some(4))]
        {
            assert_eq!(beyond(samples, 0.05, 0.05), from_top, "{samples}");
        }
        assert_eq!(beyond(200, 0.05, 0.05), Some(4));
        assert_eq!(beyond(500, 0.05, 0.05), Some(16));
        assert_eq!(beyond(1000, 0.05, 0.05), Some(38));
        assert!(beyond(1_000_000, 0.05, 0.05).is_some_and(|k| (49_600..49_700).contains(&k)));
    }

    #[test]
    fn the_longer_end_is_bounded_as_the_shorter_one() {
        // P(X ≤ k) for X ~ Bin(n, 0.95), summed directly.
        for samples in [1, 5, 20, 72, 73, 100, 400] {
            for risk in [0.024, 0.06, 0.2] {
                let direct = below(samples, 0.95, |sum| sum <= risk);
                assert_eq!(beyond(samples, 0.95, risk), direct, "{samples} {risk}");
            }
        }
    }

    #[test]
    fn the_approximation_is_a_rank_or_two_on_the_safe_side() {
        for (samples, tail) in [(9_000, 0.5), (9_900, 0.5), (90_000, 0.05), (450_000, 0.01), (90_000, 0.95)] {
            let exact = beyond(samples, tail, 0.025).unwrap();
            let near = near(f64::from(u32::try_from(samples).unwrap()), tail, 0.025).unwrap();
            assert!((exact.saturating_sub(4)..=exact).contains(&near), "{samples} {tail}: {near} for {exact}");
        }
    }
}
