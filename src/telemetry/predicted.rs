//! How often a backend took longer than the bound that was predicted of it.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::measure::exchange::ExchangeRecord;
use crate::measure::objective::Latency;

/// The share of misses is of the last five minutes: enough requests to mean something, few enough to show an incident.
const SLOT: Duration = Duration::from_secs(30);
const SLOTS: usize = 10;

/// One ring per latency that is predicted.
#[derive(Debug, Default)]
pub(super) struct Bounds(Mutex<Option<Rings>>);

#[derive(Debug)]
struct Rings {
    epoch: Instant,
    by_latency: [Ring; Latency::PROMISED.len()],
}

/// Requests by when they ended, to half a minute.
#[derive(Debug, Default)]
struct Ring([Slot; SLOTS]);

#[derive(Debug, Default, Clone, Copy)]
struct Slot {
    /// Which half minute it is about.
    number: u64,
    missed: u32,
    all: u32,
}

impl Bounds {
    /// Compares what a completed request took with what was predicted of it.
    pub(super) fn record(&self, record: &ExchangeRecord, now: Instant) {
        let Some(decision) = &record.decision else { return };
        let missed = Latency::PROMISED.map(|latency| Some(record.taken(latency)? > decision.bound(latency)?));
        if missed.iter().all(Option::is_none) {
            return;
        }
        let mut rings = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let rings = rings.get_or_insert_with(|| Rings { epoch: now, by_latency: Default::default() });
        let number = number(rings.epoch, now);
        for (ring, missed) in rings.by_latency.iter_mut().zip(missed) {
            if let Some(missed) = missed {
                ring.add(missed, number);
            }
        }
    }

    /// The share of recent requests that took longer than their bound, in the order of [`Latency::PROMISED`]; `None`
    /// where there were none.
    pub(super) fn missed(&self, now: Instant) -> [Option<f64>; Latency::PROMISED.len()] {
        let rings = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(rings) = &*rings else { return Default::default() };
        let number = number(rings.epoch, now);
        rings.by_latency.each_ref().map(|ring| ring.missed(number))
    }
}

/// From 1 on, so that a slot that was never used is about no time at all.
fn number(epoch: Instant, now: Instant) -> u64 {
    now.saturating_duration_since(epoch).as_secs() / SLOT.as_secs() + 1
}

impl Ring {
    fn add(&mut self, missed: bool, number: u64) {
        let place = usize::try_from(number % SLOTS as u64).unwrap_or_default();
        let Some(slot) = self.0.get_mut(place) else { return };
        if slot.number != number {
            *slot = Slot { number, ..Slot::default() };
        }
        slot.missed = slot.missed.saturating_add(u32::from(missed));
        slot.all = slot.all.saturating_add(1);
    }

    fn missed(&self, number: u64) -> Option<f64> {
        let recent = self.0.iter().filter(|slot| slot.number + SLOTS as u64 > number);
        let (missed, all) = recent.fold((0, 0), |(missed, all), slot| (missed + slot.missed, all + slot.all));
        (all > 0).then(|| f64::from(missed) / f64::from(all))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;
    use crate::clock::{Clock, ManualClock};

    #[test]
    fn a_request_that_took_longer_than_its_bound_is_a_miss_for_five_minutes() {
        let (start, bounds) = (ManualClock::new().now(), Bounds::default());
        assert_eq!(bounds.missed(start), [None; 3]);
        let mut late = testing::complete();
        late.attempts[1].first_token = Some(Duration::from_millis(132));
        bounds.record(&late, start);
        (0..3).for_each(|_| bounds.record(&testing::complete(), start + SLOT));
        let [ttft, itl, e2e] = bounds.missed(start + SLOT);
        assert_eq!((ttft, itl, e2e), (Some(0.25), Some(0.0), None), "no bound, no miss");
        let later = start + SLOT * 10;
        assert_eq!(bounds.missed(later)[0], Some(0.0), "the late one is forgotten");
        assert_eq!(bounds.missed(later + SLOT)[0], None);
    }
}
