//! Gaps between content responses, in a histogram of fixed size.
//!
//! Log-linear: 32 buckets per doubling from 32 µs to 537 s, so a bucket is at most 3.2 % wide; what is shorter or longer
//! falls into the first or the last. Three kilobytes, allocated at the first gap.

use std::fmt;
use std::time::Duration;

use crate::units::Quantile;

/// Buckets per doubling, and at the same time the shortest gap told apart, in microseconds.
const PER_OCTAVE: u64 = 32;
const OCTAVES: usize = 24;
/// One bucket for everything below 32 µs, then the octaves.
const BUCKETS: usize = 1 + OCTAVES * 32;

/// Every gap of one answer.
#[derive(Clone)]
pub struct GapHistogram {
    counts: [u32; BUCKETS],
    count: u64,
    sum: Duration,
    min: Duration,
    max: Duration,
}

impl Default for GapHistogram {
    fn default() -> Self {
        Self { counts: [0; BUCKETS], count: 0, sum: Duration::ZERO, min: Duration::MAX, max: Duration::ZERO }
    }
}

impl fmt::Debug for GapHistogram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { count, sum, min, max, .. } = self;
        write!(f, "GapHistogram {{ count: {count}, sum: {sum:?}, min: {min:?}, max: {max:?} }}")
    }
}

impl GapHistogram {
    /// Adds one gap.
    pub fn record(&mut self, gap: Duration) {
        if let Some(count) = self.counts.get_mut(bucket_of(gap)) {
            *count = count.saturating_add(1);
        }
        self.count += 1;
        self.sum = self.sum.saturating_add(gap);
        self.min = self.min.min(gap);
        self.max = self.max.max(gap);
    }

    /// Adds every gap of another answer.
    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *mine = mine.saturating_add(*theirs);
        }
        self.count += other.count;
        self.sum = self.sum.saturating_add(other.sum);
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
    }

    /// How many gaps.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// All gaps together.
    #[must_use]
    pub fn sum(&self) -> Duration {
        self.sum
    }

    /// The shortest gap.
    #[must_use]
    pub fn min(&self) -> Option<Duration> {
        (self.count > 0).then_some(self.min)
    }

    /// The longest gap.
    #[must_use]
    pub fn max(&self) -> Option<Duration> {
        (self.count > 0).then_some(self.max)
    }

    /// The gap that this share of gaps does not exceed: exact to a bucket's width, and never beyond the longest.
    #[must_use]
    pub fn quantile(&self, quantile: Quantile) -> Option<Duration> {
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a rank within the count"
        )]
        let rank = ((quantile.share() * self.count as f64).ceil() as u64).clamp(1, self.count.max(1));
        let mut seen = 0;
        self.buckets().find_map(|(bound, count)| {
            seen += u64::from(count);
            (seen >= rank).then(|| bound.clamp(self.min, self.max))
        })
    }

    /// How many gaps are within `bound`; a gap in the bucket that `bound` lies in counts when the whole bucket does.
    #[must_use]
    pub fn count_at_most(&self, bound: Duration) -> u64 {
        self.buckets().take_while(|(upper, _)| *upper <= bound).map(|(_, count)| u64::from(count)).sum()
    }

    /// The buckets with gaps in them: inclusive upper bound, to the microsecond, and count, ascending.
    pub fn buckets(&self) -> impl Iterator<Item = (Duration, u32)> {
        self.counts
            .iter()
            .enumerate()
            .filter(|(_, count)| **count > 0)
            .map(|(bucket, count)| (Duration::from_micros(upper_bound(bucket)), *count))
    }
}

/// The bucket of a gap, in whole microseconds rounded up, so that a bucket's upper bound is inclusive.
fn bucket_of(gap: Duration) -> usize {
    let micros = u64::try_from(gap.as_nanos().div_ceil(1000)).unwrap_or(u64::MAX);
    if micros < PER_OCTAVE {
        return 0;
    }
    let octave = u64::from(micros.ilog2()) - 5;
    let bucket = 1 + PER_OCTAVE * octave + ((micros >> octave) & (PER_OCTAVE - 1));
    usize::try_from(bucket).unwrap_or(usize::MAX).min(BUCKETS - 1)
}

/// The largest whole number of microseconds in a bucket.
fn upper_bound(bucket: usize) -> u64 {
    let Some(index) = bucket.checked_sub(1) else {
        return PER_OCTAVE - 1;
    };
    let (octave, step) = (index / 32, index % 32);
    ((PER_OCTAVE + step as u64 + 1) << octave) - 1
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_gap_lies_in_its_bucket() {
        for micros in (0..200_000).chain((1..500).map(|n| n * 999_983)) {
            let bucket = bucket_of(Duration::from_micros(micros));
            assert!(micros <= upper_bound(bucket), "{micros} in {bucket}");
            assert!(bucket == 0 || micros > upper_bound(bucket - 1), "{micros} in {bucket}");
        }
        assert_eq!(bucket_of(Duration::from_secs(3600)), BUCKETS - 1);
        assert!(upper_bound(BUCKETS - 1) > 300_000_000);
        assert!(size_of::<GapHistogram>() <= 3200);
    }

    #[test]
    fn an_empty_histogram_has_no_quantile() {
        let gaps = GapHistogram::default();
        assert_eq!((gaps.quantile(Quantile::P50), gaps.min(), gaps.count()), (None, None, 0));
    }

    proptest! {
        #[test]
        fn quantiles_are_within_a_bucket_of_the_truth(mut gaps in prop::collection::vec(0_u64..100_000_000, 1..200)) {
            let mut histogram = GapHistogram::default();
            for &micros in &gaps {
                histogram.record(Duration::from_micros(micros));
            }
            gaps.sort_unstable();
            let total: u64 = gaps.iter().sum();
            prop_assert_eq!(histogram.sum(), Duration::from_micros(total));
            for share in [0.01, 0.5, 0.95, 0.99] {
                let within = |micros: u64| gaps.iter().filter(|gap| **gap <= micros).count();
                let enough = |micros: &&u64| f64::from(u32::try_from(within(**micros)).unwrap()) >= share * f64::from(u32::try_from(gaps.len()).unwrap());
                let truth = *gaps.iter().find(enough).unwrap();
                let seen = histogram.quantile(Quantile::new(share).unwrap()).unwrap();
                let seen = u64::try_from(seen.as_micros()).unwrap();
                prop_assert!(seen >= truth && seen <= truth + truth / 32 + 32, "{} for {}", seen, truth);
                prop_assert!(histogram.count_at_most(Duration::from_micros(seen)) <= gaps.len() as u64);
            }
            prop_assert_eq!(histogram.count_at_most(Duration::MAX), gaps.len() as u64);
        }
    }
}
