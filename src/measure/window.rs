//! Latency distribution over a trailing window of time.
//!
//! A ring of ten histograms and their sum: a sample leaves at most a tenth of the window late, recording is two bucket
//! increments, and a quantile reads one histogram. Nothing is allocated before the first sample.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::order;
use crate::units::Quantile;

/// Histograms in the ring.
const SLOTS: u8 = 10;
/// Width of the finest bucket, in microseconds.
const UNIT_MICROS: u64 = 10;
/// One hour; what is longer counts as one hour.
const MAX_UNITS: u64 = 3_600_000_000 / UNIT_MICROS;
/// Significant decimal digits.
const DIGITS: u8 = 2;

/// A number drawn from samples, with its weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Estimate {
    /// What the samples say.
    pub value: Duration,
    /// How many there were.
    pub samples: u64,
}

/// A quantile drawn from samples, and between which values the true one lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// What the samples say.
    pub estimate: Duration,
    /// The limits; `None` while there are too few samples for both.
    pub between: Option<(Duration, Duration)>,
    /// How many samples there were.
    pub samples: u64,
}

/// A rolling distribution.
#[derive(Debug, Clone)]
pub struct LatencyWindow {
    slot_length: Duration,
    ring: Option<Box<Ring>>,
}

#[derive(Debug, Clone)]
struct Ring {
    /// When slot 0 of turn 0 began.
    epoch: Instant,
    /// Slots begun since the epoch, less one: the number of the current slot.
    turn: u64,
    slots: [Option<Histogram<u32>>; SLOTS as usize],
    total: Histogram<u32>,
}

impl LatencyWindow {
    /// A window over the last `length` of time.
    #[must_use]
    pub fn new(length: Duration) -> Self {
        let slot_length = (length / u32::from(SLOTS)).max(Duration::from_millis(1));
        Self { slot_length, ring: None }
    }

    /// Adds a sample.
    pub fn record(&mut self, value: Duration, now: Instant) {
        self.record_many(value, 1, now);
    }

    /// Adds so many samples of the same value.
    pub fn record_many(&mut self, value: Duration, count: u32, now: Instant) {
        self.advance(now);
        if self.ring.is_none() {
            let Some(total) = empty() else { return };
            let slots = [const { None }; SLOTS as usize];
            self.ring = Some(Box::new(Ring { epoch: now, turn: 0, slots, total }));
        }
        if let Some(ring) = &mut self.ring {
            ring.record(value, count);
        }
    }

    /// What `quantile` of the window's samples do not exceed; `None` without samples.
    pub fn quantile(&mut self, quantile: Quantile, now: Instant) -> Option<Estimate> {
        self.advance(now);
        let total = &self.ring.as_ref()?.total;
        let samples = Some(total.len()).filter(|samples| *samples > 0)?;
        Some(Estimate { value: duration_of(total.value_at_quantile(quantile.share())), samples })
    }

    /// A bound that the true quantile exceeds with a probability of at most 1 - `confidence`, whatever the
    /// distribution: the order statistic that leaves so much. `None` while there are too few samples for any
    /// (59 for p95 at 0.95).
    pub fn upper_bound(&mut self, quantile: Quantile, confidence: f64, now: Instant) -> Option<Estimate> {
        self.advance(now);
        let total = &self.ring.as_ref()?.total;
        let samples = total.len();
        let from_top = order::beyond(samples, 1.0 - quantile.share(), 1.0 - confidence)?;
        #[allow(clippy::cast_precision_loss, reason = "sample counts are far below 2^53")]
        let share = ((samples - from_top) as f64 - 0.5) / samples as f64;
        Some(Estimate { value: duration_of(total.value_at_quantile(share)), samples })
    }

    /// A quantile, and two values between which the true one lies with that confidence, whatever the distribution: the
    /// order statistics that leave half of the risk on either side, a bucket's width added. `None` without samples.
    pub fn limits(&mut self, quantile: Quantile, confidence: f64, now: Instant) -> Option<Limits> {
        self.advance(now);
        let total = &self.ring.as_ref()?.total;
        let samples = Some(total.len()).filter(|samples| *samples > 0)?;
        let (below, risk) = (quantile.share(), (1.0 - confidence) / 2.0);
        // The sample of that rank, counted from 0, is in this bucket: from the end of the one before to its own.
        #[allow(clippy::cast_precision_loss, reason = "sample counts are far below 2^53")]
        let bucket = |rank: u64| {
            let value = total.value_at_quantile((rank as f64 + 0.5) / samples as f64);
            (
                duration_of(total.lowest_equivalent(value).saturating_sub(1)),
                duration_of(total.highest_equivalent(value)),
            )
        };
        let low = order::beyond(samples, below, risk).map(|rank| bucket(rank).0);
        let high = order::beyond(samples, 1.0 - below, risk).map(|rank| bucket(samples - 1 - rank).1);
        let value = total.value_at_quantile(below);
        let middle = duration_of(total.lowest_equivalent(value).saturating_sub(1))
            + duration_of(total.highest_equivalent(value));
        Some(Limits { estimate: middle / 2, between: low.zip(high), samples })
    }

    /// Samples in the window.
    pub fn samples(&mut self, now: Instant) -> u64 {
        self.advance(now);
        self.ring.as_ref().map_or(0, |ring| ring.total.len())
    }

    /// Forgets what is older than the window.
    fn advance(&mut self, now: Instant) {
        let Some(ring) = &mut self.ring else { return };
        let elapsed = now.saturating_duration_since(ring.epoch);
        let turn = u64::try_from(elapsed.as_nanos() / self.slot_length.as_nanos().max(1)).unwrap_or(u64::MAX);
        // A clock read by another thread a moment earlier still belongs to the current slot.
        let steps = turn.saturating_sub(ring.turn).min(u64::from(SLOTS));
        for step in 1..=steps {
            ring.expire(ring.turn.saturating_add(step));
        }
        ring.turn = ring.turn.max(turn);
        if ring.total.is_empty() && steps == u64::from(SLOTS) {
            self.ring = None;
        }
    }
}

impl Ring {
    fn record(&mut self, value: Duration, count: u32) {
        let units = u64::try_from(value.as_micros()).unwrap_or(u64::MAX).div_ceil(UNIT_MICROS).clamp(1, MAX_UNITS);
        let slot = slot_of(self.turn);
        let Some(place) = self.slots.get_mut(slot) else { return };
        if place.is_none() {
            *place = empty();
        }
        let Some(histogram) = place else { return };
        // Slot and sum change together, or what is subtracted later would not have been added.
        if histogram.record_n(units, count).is_ok() {
            self.total.saturating_record_n(units, count);
        }
    }

    /// Empties the slot that `turn` will fill.
    fn expire(&mut self, turn: u64) {
        let Some(place) = self.slots.get_mut(slot_of(turn)) else { return };
        if let Some(old) = place
            && !old.is_empty()
        {
            if self.total.subtract(&*old).is_err() {
                debug_assert!(false, "the sum holds every slot");
                self.total.reset();
            }
            old.reset();
        }
    }
}

fn slot_of(turn: u64) -> usize {
    usize::try_from(turn % u64::from(SLOTS)).unwrap_or(0)
}

fn empty() -> Option<Histogram<u32>> {
    Histogram::new_with_bounds(1, MAX_UNITS, DIGITS).ok()
}

fn duration_of(units: u64) -> Duration {
    Duration::from_micros(units.saturating_mul(UNIT_MICROS))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock, ManualClock};

    fn start() -> Instant {
        ManualClock::new().now()
    }

    #[track_caller]
    fn near(seen: Option<Estimate>, value: Duration, samples: u64) {
        let seen = seen.expect("an estimate");
        let error = seen.value.as_secs_f64() / value.as_secs_f64() - 1.0;
        assert!((-0.001..0.011).contains(&error), "{seen:?} for {value:?}");
        assert_eq!(seen.samples, samples);
    }

    #[test]
    fn a_quantile_is_within_a_hundredth() {
        let now = start();
        let mut window = LatencyWindow::new(Duration::from_secs(300));
        assert_eq!(window.quantile(Quantile::P95, now), None);
        for millis in 1..=1000 {
            window.record(Duration::from_millis(millis), now);
        }
        near(window.quantile(Quantile::P50, now), Duration::from_millis(500), 1000);
        near(window.quantile(Quantile::P95, now), Duration::from_millis(950), 1000);
        window.record(Duration::from_secs(100_000), now);
        near(window.quantile(Quantile::new(0.9999).unwrap(), now), Duration::from_secs(3600), 1001);
    }

    #[test]
    fn a_sample_leaves_with_the_window() {
        let begin = start();
        let mut window = LatencyWindow::new(Duration::from_secs(100));
        for second in 0..100 {
            window.record(Duration::from_millis(10), begin + Duration::from_secs(second));
        }
        assert_eq!(window.samples(begin + Duration::from_secs(99)), 100);
        assert_eq!(window.samples(begin + Duration::from_secs(150)), 40);
        // An earlier instant, from another thread, changes nothing.
        assert_eq!(window.samples(begin), 40);
        window.record(Duration::from_millis(20), begin + Duration::from_secs(185));
        assert_eq!(window.samples(begin + Duration::from_secs(185)), 11);
        assert_eq!(window.samples(begin + Duration::from_secs(100_000)), 0);
        assert_eq!(window.quantile(Quantile::P50, begin + Duration::from_secs(100_001)), None);
        window.record(Duration::from_millis(30), begin + Duration::from_secs(100_002));
        near(window.quantile(Quantile::P50, begin + Duration::from_secs(100_002)), Duration::from_millis(30), 1);
    }

    #[test]
    fn a_bound_needs_enough_samples_and_lies_above_the_quantile() {
        let now = start();
        let mut window = LatencyWindow::new(Duration::from_secs(300));
        for millis in 1..=58 {
            window.record(Duration::from_millis(millis), now);
        }
        assert_eq!(window.upper_bound(Quantile::P95, 0.95, now), None);
        window.record(Duration::from_millis(59), now);
        near(window.upper_bound(Quantile::P95, 0.95, now), Duration::from_millis(59), 59);
        for millis in 60..=1000 {
            window.record(Duration::from_millis(millis), now);
        }
        near(window.upper_bound(Quantile::P95, 0.95, now), Duration::from_millis(962), 1000);
    }
}
