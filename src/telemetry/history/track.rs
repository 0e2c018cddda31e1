//! One latency over time: its distribution in each step, and its quantiles over the last minute.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::{STEPS, Steps};
use crate::measure::gaps::GapHistogram;
use crate::measure::window::LatencyWindow;
use crate::units::Quantile;

/// Over which quantiles "of now" are taken.
pub const LAST_MINUTE: Duration = Duration::from_secs(60);

/// Rows of a distribution over time, per tenfold of the latency: each is 12 % taller than the one below it.
pub const ROWS_PER_DECADE: u8 = 20;
/// Where the lowest row begins; what is shorter belongs to it too.
pub const LOWEST_ROW: Duration = Duration::from_micros(100);
/// Up to a thousand seconds; what is longer belongs to the last row.
const ROWS: u8 = 7 * ROWS_PER_DECADE;

/// What a distribution says at the three shares that are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quantiles {
    /// Of how many samples.
    pub samples: u64,
    /// The middle one.
    pub p50: Duration,
    /// All but one of twenty.
    pub p95: Duration,
    /// All but one of a hundred.
    pub p99: Duration,
}

/// One step of one latency.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Counts steps since the history began.
    pub step: u64,
    /// Of the samples of this step.
    pub quantiles: Quantiles,
    /// Samples by row, the lowest first, none of them 0. Row `r` begins at [`LOWEST_ROW`] × 10^(r ÷ [`ROWS_PER_DECADE`]).
    pub cells: Box<[(u8, u32)]>,
}

/// One latency of a route or a backend.
#[derive(Debug)]
pub(super) struct Track {
    recent: LatencyWindow,
    /// The step that is still being filled.
    current: Option<(u64, Box<GapHistogram>)>,
    past: VecDeque<Column>,
}

impl Default for Track {
    fn default() -> Self {
        Self { recent: LatencyWindow::new(LAST_MINUTE), current: None, past: VecDeque::new() }
    }
}

impl Track {
    pub(super) fn record(&mut self, value: Duration, step: u64, now: Instant) {
        self.recent.record(value, now);
        // Two threads may cross a border in the wrong order: what is late by a moment counts in the newer step.
        let is_over = self.current.as_ref().is_some_and(|(current, _)| *current < step);
        if let Some((over, histogram)) = self.current.take_if(|_| is_over) {
            self.past.extend(Column::of(over, &histogram));
            self.past.drain(..self.past.len().saturating_sub(STEPS));
        }
        self.current.get_or_insert_with(|| (step, Box::default())).1.record(value);
    }

    /// The steps that hold anything, oldest first, the current one last.
    pub(super) fn columns(&self, steps: &Steps) -> Vec<Column> {
        let past = self.past.iter().filter(|column| steps.contains(column.step)).cloned();
        let current = self.current.as_ref().filter(|(step, _)| steps.contains(*step));
        past.chain(current.and_then(|(step, histogram)| Column::of(*step, histogram))).collect()
    }

    pub(super) fn last_minute(&mut self, now: Instant) -> Option<Quantiles> {
        let mut at = |quantile| self.recent.quantile(quantile, now);
        let (p50, p95, p99) = (at(Quantile::P50)?, at(Quantile::P95)?, at(Quantile::P99)?);
        Some(Quantiles { samples: p50.samples, p50: p50.value, p95: p95.value, p99: p99.value })
    }
}

impl Column {
    fn of(step: u64, histogram: &GapHistogram) -> Option<Self> {
        let at = |quantile| histogram.quantile(quantile);
        let (p50, p95, p99) = (at(Quantile::P50)?, at(Quantile::P95)?, at(Quantile::P99)?);
        let mut cells: Vec<(u8, u32)> = Vec::new();
        for (value, count) in histogram.buckets() {
            let row = row_of(value);
            match cells.last_mut().filter(|(last, _)| *last == row) {
                Some((_, sum)) => *sum = sum.saturating_add(count),
                None => cells.push((row, count)),
            }
        }
        let quantiles = Quantiles { samples: histogram.count(), p50, p95, p99 };
        Some(Self { step, quantiles, cells: cells.into() })
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to the rows there are")]
fn row_of(value: Duration) -> u8 {
    let decades = (value.as_secs_f64() / LOWEST_ROW.as_secs_f64()).log10();
    (decades * f64::from(ROWS_PER_DECADE)).floor().clamp(0.0, f64::from(ROWS - 1)) as u8
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock, ManualClock};

    #[track_caller]
    fn row(millis: f64, expected: u8) {
        assert_eq!(row_of(Duration::from_secs_f64(millis / 1e3)), expected, "{millis} ms");
    }

    #[test]
    fn rows_are_even_on_a_logarithmic_scale() {
        row(0.0, 0);
        row(0.1001, 0);
        row(1.001, 20);
        row(10.01, 40);
        row(11.3, 41);
        row(1e12, ROWS - 1);
    }

    #[test]
    fn a_step_is_closed_by_the_next_one_and_the_last_quarter_of_an_hour_is_kept() {
        let (mut track, now) = (Track::default(), ManualClock::new().now());
        for step in 0..STEPS as u64 + 20 {
            track.record(Duration::from_millis(100), step, now);
            track.record(Duration::from_millis(300), step, now);
        }
        let all = Steps { first: 0, last: u64::MAX };
        let columns = track.columns(&all);
        assert_eq!((columns.len(), columns.last().unwrap().step), (STEPS + 1, STEPS as u64 + 19));
        assert!(columns.iter().all(|column| column.quantiles.samples == 2 && column.cells.len() == 2), "{columns:?}");
        let few = track.columns(&Steps { first: 197, last: 198 });
        assert_eq!(few.iter().map(|column| column.step).collect::<Vec<_>>(), [197, 198]);
    }

    #[test]
    fn a_latecomer_counts_in_the_newer_step() {
        let (mut track, now) = (Track::default(), ManualClock::new().now());
        for step in [5, 4, 5] {
            track.record(Duration::from_millis(10), step, now);
        }
        let columns = track.columns(&Steps { first: 0, last: 9 });
        assert_eq!(columns.iter().map(|one| (one.step, one.quantiles.samples)).collect::<Vec<_>>(), [(5, 3)]);
        assert_eq!(track.last_minute(now).map(|one| one.samples), Some(3));
    }
}
