//! A histogram of durations that many threads fill without a lock, and that takes a whole distribution at once.
//!
//! The `prometheus` crate's own histogram observes one value at a time; the gaps of one answer are hundreds, and arrive
//! counted already. So this is ours: one atomic addition per bucket touched, exported through the crate's types.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use prometheus::proto;

use super::exemplar::{Exemplar, Exemplars};
use crate::config::settings::Settings;

/// Bucket edges for times to a first token and for whole answers, in microseconds: 1 ms to 300 s.
const WHOLE_GRID: [u64; 28] = [
    1_000,
    2_500,
    5_000,
    10_000,
    20_000,
    40_000,
    60_000,
    80_000,
    100_000,
    150_000,
    200_000,
    250_000,
    300_000,
    400_000,
    500_000,
    600_000,
    750_000,
    1_000_000,
    1_500_000,
    2_000_000,
    2_500_000,
    5_000_000,
    7_500_000,
    10_000_000,
    20_000_000,
    40_000_000,
    80_000_000,
    300_000_000,
];

/// Bucket edges for times between tokens, in microseconds: 1 ms to 300 s, dense below 50 ms, where backends differ.
const GAP_GRID: [u64; 28] = [
    1_000,
    2_000,
    3_000,
    4_000,
    5_000,
    6_000,
    8_000,
    10_000,
    12_500,
    15_000,
    20_000,
    25_000,
    30_000,
    35_000,
    40_000,
    50_000,
    60_000,
    80_000,
    100_000,
    150_000,
    200_000,
    400_000,
    800_000,
    1_000_000,
    2_500_000,
    10_000_000,
    60_000_000,
    300_000_000,
];

/// Bucket edges for what headway itself adds, in microseconds: 1 µs to 1 s.
const OVERHEAD_GRID: [u64; 19] =
    [1, 2, 5, 10, 25, 50, 75, 100, 150, 200, 300, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 100_000, 1_000_000];

/// The bucket edges in use: the fixed grids and the objectives' thresholds, so that the share within an objective is
/// exact. Fixed at the start, so that a reload never resets a series.
#[derive(Debug, Clone)]
pub(super) struct Grids {
    pub(super) first_token: Edges,
    pub(super) between_tokens: Edges,
    pub(super) whole: Edges,
    pub(super) overhead: Edges,
}

/// Bucket edges in nanoseconds, ascending.
pub(super) type Edges = Arc<[u64]>;

impl Grids {
    pub(super) fn new(settings: &Settings) -> Self {
        let objectives = || settings.routes.iter().map(|route| &route.objectives);
        let thresholds = |ttft: bool, itl: bool, e2e: bool| {
            objectives()
                .flat_map(move |of| [of.ttft.filter(|_| ttft), of.itl.filter(|_| itl), of.e2e.filter(|_| e2e)])
                .flatten()
                .map(|objective| nanos(objective.threshold))
                .collect::<Vec<_>>()
        };
        Self {
            first_token: edges(&WHOLE_GRID, thresholds(true, false, false)),
            between_tokens: edges(&GAP_GRID, thresholds(false, true, false)),
            whole: edges(&WHOLE_GRID, thresholds(false, false, true)),
            overhead: edges(&OVERHEAD_GRID, Vec::new()),
        }
    }
}

fn edges(grid_micros: &[u64], mut more: Vec<u64>) -> Edges {
    more.extend(grid_micros.iter().map(|micros| micros * 1_000));
    more.sort_unstable();
    more.dedup();
    more.into()
}

/// A distribution of durations.
#[derive(Debug)]
pub(super) struct Histogram {
    edges: Edges,
    /// One more than there are edges: the last is what lies beyond.
    counts: Box<[AtomicU64]>,
    sum_nanos: AtomicU64,
    exemplars: Exemplars,
}

impl Histogram {
    pub(super) fn new(edges: &Edges) -> Self {
        let counts = (0..=edges.len()).map(|_| AtomicU64::new(0)).collect();
        Self { edges: Arc::clone(edges), counts, sum_nanos: AtomicU64::new(0), exemplars: Exemplars::default() }
    }

    pub(super) fn observe(&self, value: Duration) {
        let value = nanos(value);
        self.add(value, 1);
        self.sum_nanos.fetch_add(value, Ordering::Relaxed);
    }

    /// The same, of an exchange that may have a trace.
    pub(super) fn observe_traced(&self, value: Duration, trace: Option<([u8; 16], SystemTime)>) {
        self.observe(value);
        if let Some((trace_id, at)) = trace {
            let exemplar = Exemplar { trace_id, value, at };
            self.exemplars.keep(self.bucket(nanos(value)), self.counts.len(), exemplar);
        }
    }

    /// Takes a distribution: for each of its buckets the upper bound and how many lie in it, and the sum of all.
    pub(super) fn merge(&self, buckets: impl Iterator<Item = (Duration, u32)>, sum: Duration) {
        for (upper, count) in buckets {
            self.add(nanos(upper), u64::from(count));
        }
        self.sum_nanos.fetch_add(nanos(sum), Ordering::Relaxed);
    }

    fn add(&self, nanos: u64, count: u64) {
        if let Some(slot) = self.counts.get(self.bucket(nanos)) {
            slot.fetch_add(count, Ordering::Relaxed);
        }
    }

    fn bucket(&self, nanos: u64) -> usize {
        self.edges.partition_point(|&edge| edge < nanos)
    }

    /// The latest traced exchange of each bucket, the one beyond all edges last; empty when none had a trace.
    pub(super) fn exemplars(&self) -> Vec<Option<Exemplar>> {
        self.exemplars.all()
    }

    /// As the registry wants it. The count is the sum of the buckets read, so that the page never contradicts itself.
    pub(super) fn export(&self) -> proto::Histogram {
        let mut below = 0;
        let mut buckets = Vec::with_capacity(self.edges.len());
        for (edge, count) in self.edges.iter().zip(&self.counts) {
            below += count.load(Ordering::Relaxed);
            let mut bucket = proto::Bucket::default();
            bucket.set_upper_bound(seconds(*edge));
            bucket.set_cumulative_count(below);
            buckets.push(bucket);
        }
        let beyond = self.counts.last().map_or(0, |count| count.load(Ordering::Relaxed));
        let mut histogram = proto::Histogram::default();
        histogram.set_bucket(buckets);
        histogram.set_sample_count(below + beyond);
        histogram.set_sample_sum(seconds(self.sum_nanos.load(Ordering::Relaxed)));
        histogram
    }

    pub(super) fn is_empty(&self) -> bool {
        self.counts.iter().all(|count| count.load(Ordering::Relaxed) == 0)
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Whole microseconds are divided exactly, so that an edge of 300 ms is written `0.3`.
#[allow(clippy::cast_precision_loss, reason = "a float holds the microseconds of 285 years exactly")]
fn seconds(nanos: u64) -> f64 {
    if nanos.is_multiple_of(1_000) { (nanos / 1_000) as f64 / 1e6 } else { nanos as f64 / 1e9 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(histogram: &Histogram) -> Vec<u64> {
        histogram.export().get_bucket().iter().map(proto::Bucket::cumulative_count).collect()
    }

    #[test]
    fn an_edge_belongs_to_the_bucket_below() {
        let histogram = Histogram::new(&edges(&[1_000, 2_000], Vec::new()));
        histogram.observe(Duration::from_millis(1));
        histogram.observe(Duration::from_nanos(1_000_001));
        histogram.observe(Duration::from_secs(9));
        assert_eq!(counts(&histogram), [1, 2]);
        assert_eq!(histogram.export().get_sample_count(), 3);
        assert!((histogram.export().get_sample_sum() - 9.002_000_001).abs() < 1e-9);
    }

    #[test]
    fn a_distribution_is_taken_at_once() {
        let histogram = Histogram::new(&edges(&[1_000, 2_000], Vec::new()));
        let of = Duration::from_micros;
        histogram.merge([(of(900), 5), (of(1_500), 7), (of(9_000), 1)].into_iter(), of(20_000));
        assert_eq!(counts(&histogram), [5, 12]);
        assert_eq!(histogram.export().get_sample_count(), 13);
        assert!(!histogram.is_empty() && Histogram::new(&edges(&[1], Vec::new())).is_empty());
    }

    #[test]
    fn a_threshold_becomes_an_edge_once() {
        assert_eq!(*edges(&[1_000, 300_000], vec![42_000_000, 300_000_000]), [1_000_000, 42_000_000, 300_000_000]);
        assert_eq!(seconds(300_000_000).to_string(), "0.3");
    }
}
