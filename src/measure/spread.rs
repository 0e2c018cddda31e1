//! How requests spread over backends in time: steadily, to and fro, or in herds.
//!
//! Every figure is held against draws that know nothing of each other, with the same share for each backend: such draws
//! vary too, and a rule is only restless where it varies more than they do.

use std::time::Duration;

/// Buckets at most; what comes later counts in the last one.
const MOST_BUCKETS: usize = 100_000;

/// Euler's constant, in the mean of a longest run.
const EULER: f64 = 0.577_215_664_901_532_9;

/// Where a sequence of requests went.
#[derive(Debug, Clone, PartialEq)]
pub struct Spread {
    /// Requests to each backend, bucket by bucket.
    pub counts: Vec<Vec<u32>>,
    /// How restless that is.
    pub restlessness: Restlessness,
}

/// How much more a sequence moves than independent draws do.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Restlessness {
    /// How much shares vary between buckets ÷ how much independent draws would: Pearson's chi-square over its degrees of
    /// freedom. About 1 is what draws do, below it is steadier; `None` where nothing can vary.
    pub dispersion: Option<f64>,
    /// Correlation of a backend's share with its share one bucket later: positive when shares drift, negative when they
    /// swing to and fro. `None` where nothing varies.
    pub autocorrelation: Option<f64>,
    /// The longest run of requests to the same backend.
    pub longest_run: u32,
    /// The longest run that independent draws have on average.
    pub expected_run: f64,
}

impl Spread {
    /// The spread of choices (when, which backend), in the order of their times, over buckets of that length.
    #[must_use]
    pub fn of(choices: &[(Duration, usize)], backends: usize, bucket: Duration) -> Self {
        let counts = counts(choices, backends, bucket);
        let totals = totals(&counts, backends);
        let all: f64 = totals.iter().sum();
        let shares: Vec<f64> = totals.iter().map(|total| total / all.max(1.0)).collect();
        let restlessness = Restlessness {
            dispersion: dispersion(&counts, &shares),
            autocorrelation: autocorrelation(&counts, &shares),
            longest_run: longest_run(choices),
            expected_run: shares.iter().map(|share| expected_run(*share, all)).fold(0.0, f64::max),
        };
        Self { counts, restlessness }
    }
}

impl Restlessness {
    /// The longest run ÷ that of independent draws; `None` without requests.
    #[must_use]
    pub fn run_ratio(&self) -> Option<f64> {
        (self.longest_run > 0 && self.expected_run > 0.0).then(|| f64::from(self.longest_run) / self.expected_run)
    }
}

fn counts(choices: &[(Duration, usize)], backends: usize, bucket: Duration) -> Vec<Vec<u32>> {
    let mut counts: Vec<Vec<u32>> = Vec::new();
    for (at, backend) in choices {
        let place = at.as_nanos() / bucket.as_nanos().max(1);
        let place = usize::try_from(place).unwrap_or(usize::MAX).min(MOST_BUCKETS - 1);
        if counts.len() <= place {
            counts.resize(place + 1, vec![0; backends]);
        }
        if let Some(count) = counts.get_mut(place).and_then(|bucket| bucket.get_mut(*backend)) {
            *count += 1;
        }
    }
    counts
}

fn totals(counts: &[Vec<u32>], backends: usize) -> Vec<f64> {
    let total =
        |backend: usize| counts.iter().filter_map(move |bucket| bucket.get(backend)).map(|count| f64::from(*count));
    (0..backends).map(|backend| total(backend).sum()).collect()
}

/// The buckets that hold requests: how many, and how far each backend's count is from its share of them.
fn deviations<'a>(counts: &'a [Vec<u32>], shares: &'a [f64]) -> impl Iterator<Item = (f64, Vec<f64>)> + 'a {
    counts.iter().filter_map(move |bucket| {
        let all: f64 = bucket.iter().map(|count| f64::from(*count)).sum();
        let apart = bucket.iter().zip(shares).map(|(count, share)| f64::from(*count) - all * share);
        (all > 0.0).then(|| (all, apart.collect()))
    })
}

#[allow(clippy::cast_precision_loss, reason = "buckets and backends are few")]
fn dispersion(counts: &[Vec<u32>], shares: &[f64]) -> Option<f64> {
    let (mut square, mut buckets) = (0.0, 0_usize);
    for (all, apart) in deviations(counts, shares) {
        buckets += 1;
        let of = |(apart, share): (&f64, &f64)| if *share > 0.0 { apart * apart / (all * share) } else { 0.0 };
        square += apart.iter().zip(shares).map(of).sum::<f64>();
    }
    let used = shares.iter().filter(|share| **share > 0.0).count();
    let freedom = buckets.saturating_sub(1) * used.saturating_sub(1);
    (freedom > 0).then(|| square / freedom as f64)
}

/// Counts are scaled by the root of their bucket's size, so that a busy bucket weighs no more than a quiet one.
fn autocorrelation(counts: &[Vec<u32>], shares: &[f64]) -> Option<f64> {
    let scaled = |(all, apart): (f64, Vec<f64>)| apart.iter().map(|apart| apart / all.sqrt()).collect::<Vec<_>>();
    let scaled: Vec<Vec<f64>> = deviations(counts, shares).map(scaled).collect();
    let product = |one: &[f64], other: &[f64]| one.iter().zip(other).map(|(one, other)| one * other).sum::<f64>();
    let whole: f64 = scaled.iter().map(|one| product(one, one)).sum();
    let lagged: f64 = scaled.iter().zip(scaled.iter().skip(1)).map(|(one, next)| product(one, next)).sum();
    (whole > 0.0).then(|| lagged / whole)
}

fn longest_run(choices: &[(Duration, usize)]) -> u32 {
    let (mut longest, mut run, mut last) = (0_u32, 0_u32, None);
    for (_, backend) in choices {
        run = if last == Some(*backend) { run.saturating_add(1) } else { 1 };
        last = Some(*backend);
        longest = longest.max(run);
    }
    longest
}

/// The mean of the longest run of successes of that share among so many draws (Schilling, *The Longest Run of Heads*,
/// 1990): `ln(n (1 − p)) / ln(1 / p) + γ / ln(1 / p) − 1/2`.
fn expected_run(share: f64, draws: f64) -> f64 {
    if share >= 1.0 {
        return draws;
    }
    if share <= 0.0 || draws * (1.0 - share) < 1.0 {
        return 0.0;
    }
    let scale = share.recip().ln();
    (((draws * (1.0 - share)).ln() + EULER) / scale - 0.5).clamp(1.0, draws)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    const BUCKET: Duration = Duration::from_secs(1);
    const PER_BUCKET: usize = 20;

    /// So many requests, 20 in each second, each to the backend that the rule names.
    fn spread(requests: usize, backends: usize, mut rule: impl FnMut(usize) -> usize) -> Spread {
        let at = |place: usize| BUCKET.mul_f64(f64::from(u32::try_from(place).expect("few")) / 20.0);
        let choices: Vec<_> = (0..requests).map(|place| (at(place), rule(place))).collect();
        Spread::of(&choices, backends, BUCKET)
    }

    fn near(found: Option<f64>, expected: f64, tolerance: f64) {
        let found = found.expect("defined");
        assert!((found - expected).abs() <= tolerance, "{found} is not {expected}");
    }

    #[test]
    fn independent_draws_have_a_dispersion_of_one_and_no_memory() {
        let mut random = Random::seeded(3);
        let spread = spread(40_000, 4, |_| [0, 0, 0, 1, 1, 2, 3, 0][random.below(8)]);
        near(spread.restlessness.dispersion, 1.0, 0.05);
        near(spread.restlessness.autocorrelation, 0.0, 0.05);
        let run = f64::from(spread.restlessness.longest_run);
        assert!((run - spread.restlessness.expected_run).abs() < 5.0, "{run} and {}", spread.restlessness.expected_run);
    }

    #[test]
    fn taking_turns_is_steadier_than_drawing() {
        let spread = spread(4_000, 4, |place| place % 4);
        near(spread.restlessness.dispersion, 0.0, 1e-9);
        assert_eq!((spread.restlessness.autocorrelation, spread.restlessness.longest_run), (None, 1));
        assert_eq!(spread.counts.len(), 4_000 / PER_BUCKET);
        assert!(spread.counts.iter().all(|bucket| bucket == &[5, 5, 5, 5]));
    }

    #[test]
    fn a_herd_that_swings_every_second_is_seen_in_every_figure() {
        let spread = spread(4_000, 2, |place| (place / PER_BUCKET) % 2);
        near(spread.restlessness.dispersion, 20.0 * 200.0 / 199.0, 1e-6);
        near(spread.restlessness.autocorrelation, -1.0, 0.01);
        assert_eq!(spread.restlessness.longest_run, 20);
        assert!(spread.restlessness.expected_run < 12.0, "{}", spread.restlessness.expected_run);
    }

    #[test]
    fn a_slow_drift_has_memory() {
        let spread = spread(4_000, 2, |place| usize::from(place >= 2_000));
        near(spread.restlessness.autocorrelation, 1.0, 0.02);
    }

    #[test]
    fn one_backend_cannot_vary_and_nothing_is_no_error() {
        let alone = spread(100, 3, |_| 2).restlessness;
        assert_eq!((alone.dispersion, alone.autocorrelation, alone.longest_run), (None, None, 100));
        near(alone.run_ratio(), 1.0, 0.0);
        let none = Spread::of(&[], 3, BUCKET);
        assert_eq!((none.counts.len(), none.restlessness), (0, Restlessness::default()));
    }

    #[test]
    fn a_bucket_without_requests_says_nothing_of_the_others() {
        let at = |second: u32, backend| (BUCKET * second, backend);
        let busy = [at(0, 0), at(0, 0), at(0, 1), at(1, 1), at(1, 1), at(1, 0)];
        let later = busy.map(|(when, backend)| (when * 5, backend));
        let (close, apart) = (Spread::of(&busy, 2, BUCKET), Spread::of(&later, 2, BUCKET));
        assert_eq!((close.counts.len(), apart.counts.len()), (2, 6));
        assert_eq!(close.restlessness, apart.restlessness);
        assert!(close.restlessness.dispersion.is_some() && close.restlessness.autocorrelation.is_some());
        let idle = Spread::of(&busy, 3, BUCKET).restlessness;
        assert_eq!(idle, close.restlessness, "nor does a backend without any");
    }
}
