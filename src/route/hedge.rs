//! Hedging: when a first token is later than it usually is, a second backend may be asked for the same.
//!
//! Pure: what counts as late is the chosen backend's own prediction, and how often it may happen is a budget over a
//! trailing window of the route's requests, so that a slow hour cannot double the load (Dean and Barroso, "The Tail at
//! Scale", <https://research.google/pubs/the-tail-at-scale/>).

use std::time::{Duration, Instant};

use crate::units::Quantile;

/// The budget is a share of the requests of this time.
pub const WINDOW: Duration = Duration::from_secs(60);

const SLOTS: usize = 12;
const SLOT: Duration = Duration::from_secs(5);

/// How a route hedges.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Hedge {
    /// A first token that is later than this quantile of what is predicted is late.
    pub after: Quantile,
    /// Most requests that are sent twice, as a share of the requests of [`WINDOW`].
    pub budget: f64,
}

impl Hedge {
    /// Unless the configuration says otherwise: of those that are hedged at p95 one in twenty is late.
    pub const DEFAULT: Self = Self { after: Quantile::P95, budget: 0.05 };
}

#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    epoch: u64,
    requests: u32,
    hedges: u32,
}

/// How many of a route's requests were sent twice lately.
#[derive(Debug, Clone)]
pub struct HedgeBudget {
    born: Instant,
    slots: [Slot; SLOTS],
}

impl HedgeBudget {
    /// Nothing was sent yet.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self { born: now, slots: [Slot::default(); SLOTS] }
    }

    /// A request of the route is sent for the first time.
    pub fn requested(&mut self, now: Instant) {
        let slot = self.slot(now);
        slot.requests = slot.requests.saturating_add(1);
    }

    /// Takes leave to send one twice, if no more than that share of the window's requests is then.
    pub fn take(&mut self, share: f64, now: Instant) -> bool {
        let newest = self.epoch(now);
        let recent = self.slots.iter().filter(|slot| slot.epoch + SLOTS as u64 > newest);
        let (requests, hedges) = recent.fold((0.0, 0.0), |(requests, hedges), slot| {
            (requests + f64::from(slot.requests), hedges + f64::from(slot.hedges))
        });
        let may = hedges + 1.0 <= requests * share;
        if may {
            let slot = self.slot(now);
            slot.hedges = slot.hedges.saturating_add(1);
        }
        may
    }

    /// What was taken just now was of no use: no other backend had a place.
    pub fn returned(&mut self, now: Instant) {
        let slot = self.slot(now);
        slot.hedges = slot.hedges.saturating_sub(1);
    }

    fn epoch(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.born).as_secs() / SLOT.as_secs()
    }

    fn slot(&mut self, now: Instant) -> &mut Slot {
        let epoch = self.epoch(now);
        let place = usize::try_from(epoch).unwrap_or_default() % SLOTS;
        #[allow(clippy::indexing_slicing, reason = "a remainder of the length is a place")]
        let slot = &mut self.slots[place];
        if slot.epoch != epoch {
            *slot = Slot { epoch, ..Slot::default() };
        }
        slot
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::clock::{Clock, ManualClock};

    const SECOND: Duration = Duration::from_secs(1);

    fn budget() -> (HedgeBudget, Instant) {
        let now = ManualClock::new().now();
        (HedgeBudget::new(now), now)
    }

    #[test]
    fn of_twenty_requests_one_may_be_sent_twice_at_five_percent() {
        let (mut budget, now) = budget();
        for _ in 0..19 {
            budget.requested(now);
            assert!(!budget.take(0.05, now));
        }
        budget.requested(now);
        assert!(budget.take(0.05, now) && !budget.take(0.05, now));
        budget.returned(now);
        assert!(budget.take(0.05, now), "what was of no use is there again");
        assert!(!budget.take(0.0, now));
    }

    #[test]
    fn requests_of_the_minute_count_however_long_the_route_has_served() {
        let (mut budget, begin) = budget();
        let now = begin + SECOND * 3_600;
        for second in 0..20 {
            assert!(!budget.take(0.05, now + SECOND * second));
            budget.requested(now + SECOND * second);
        }
        assert!(budget.take(0.05, now + SECOND * 20) && !budget.take(0.05, now + SECOND * 20));
    }

    #[test]
    fn requests_of_a_minute_ago_are_forgotten() {
        let (mut budget, now) = budget();
        for _ in 0..100 {
            budget.requested(now);
        }
        assert!(budget.take(0.05, now + SECOND * 50));
        assert!(!budget.take(0.05, now + SECOND * 60));
    }

    proptest! {
        #[test]
        fn no_window_ever_holds_more_than_its_share(
            steps in proptest::collection::vec((0..3_000_u64, 0..4_u8), 1..400),
            percent in 1..30_u32,
        ) {
            let (mut budget, mut now) = budget();
            let share = f64::from(percent) / 100.0;
            let (mut requests, mut hedges) = (Vec::new(), Vec::new());
            for (millis, kind) in steps {
                now += Duration::from_millis(millis);
                if kind > 0 {
                    budget.requested(now);
                    requests.push(now);
                } else if budget.take(share, now) {
                    hedges.push(now);
                    // Slots end together: what counts is no older than the window.
                    let lately = |at: &&Instant| now.saturating_duration_since(**at) <= WINDOW;
                    let requested = requests.iter().filter(lately).count();
                    let fresh = |at: &&Instant| now.saturating_duration_since(**at) + SLOT <= WINDOW;
                    let hedged = hedges.iter().filter(fresh).count();
                    #[allow(clippy::cast_precision_loss, reason = "a few hundred")]
                    let within = hedged as f64 <= requested as f64 * share + 1e-9;
                    prop_assert!(within, "{hedged} of {requested} at {share}");
                }
            }
        }
    }
}
