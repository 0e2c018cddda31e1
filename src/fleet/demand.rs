//! What a fleet would have to carry beside what it can: the signal to scale by.
//!
//! A backend's demand is the load it carries over the most it could carry with its routes' promises kept, as its model
//! reckons. What routing kept away from it is asked for all the same: where a share of a route's latest requests found no
//! place, turned away or served in vain, each backend of the route is asked for that much more.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::Fleet;
use super::backend::LiveBackend;
use super::choosing::asking;
use super::dispatch::Request;
use super::route::LiveRoute;
use crate::route::model::Arriving;

/// Requests are remembered for a minute, to five seconds.
const SLOT: Duration = Duration::from_secs(5);
const SLOTS: usize = 12;
/// However many found no place, a backend is asked for no more than so many times what it carries: a signal that
/// explodes makes whoever scales by it overshoot.
const MOST: f64 = 4.0;
/// From this share of requests without a place on, what is carried says too little: there is too much, whatever it says.
const TURNED_AWAY: f64 = 0.5;

/// A route's latest requests, and how many of them found no place: no backend was expected to keep the promise, or room
/// was made for others.
#[derive(Debug, Default)]
pub(super) struct Placing {
    unplaced: AtomicU64,
    latest: Mutex<Latest>,
}

#[derive(Debug, Default)]
struct Latest {
    epoch: Option<Instant>,
    slots: [Slot; SLOTS],
}

#[derive(Debug, Default, Clone, Copy)]
struct Slot {
    /// Which five seconds it is about, from 1 on.
    number: u64,
    unplaced: u32,
    all: u32,
}

impl Placing {
    /// A request was decided on, once.
    pub(super) fn decided(&self, unplaced: bool, now: Instant) {
        self.unplaced.fetch_add(u64::from(unplaced), Ordering::Relaxed);
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        let number = latest.number(now);
        let Some(slot) = usize::try_from(number).ok().and_then(|number| latest.slots.get_mut(number % SLOTS)) else {
            return;
        };
        if slot.number != number {
            *slot = Slot { number, ..Slot::default() };
        }
        slot.all = slot.all.saturating_add(1);
        slot.unplaced = slot.unplaced.saturating_add(u32::from(unplaced));
    }

    /// Requests that found no place, ever.
    pub(super) fn unplaced(&self) -> u64 {
        self.unplaced.load(Ordering::Relaxed)
    }

    /// The share of them among the requests of the last minute; `None` without any.
    fn share(&self, now: Instant) -> Option<f64> {
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        let number = latest.number(now);
        let recent = latest.slots.iter().filter(|slot| slot.number > 0 && slot.number + SLOTS as u64 > number);
        let (unplaced, all) = recent
            .fold((0, 0), |(unplaced, all), slot| (unplaced + u64::from(slot.unplaced), all + u64::from(slot.all)));
        #[allow(clippy::cast_precision_loss, reason = "a minute's requests are far below 2^52")]
        (all > 0).then(|| unplaced as f64 / all as f64)
    }
}

impl Latest {
    fn number(&mut self, now: Instant) -> u64 {
        let epoch = *self.epoch.get_or_insert(now);
        now.saturating_duration_since(epoch).as_secs() / SLOT.as_secs() + 1
    }
}

impl Fleet {
    /// What is asked of a backend, over what it can carry; `None` where that cannot be said: it is not in service, or it
    /// could not even keep its routes' promises when idle.
    #[must_use]
    pub fn demand(&self, backend: &LiveBackend, now: Instant) -> Option<f64> {
        if !backend.usable() {
            return None;
        }
        let of = |route: &&Arc<LiveRoute>| route.pairs.iter().any(|pair| pair.backend == *backend.name());
        let routes = || self.routes().iter().filter(of);
        let arriving = arriving(routes(), backend, now);
        let lately = || routes().filter_map(|route| Some((route, route.counts.placing.share(now)?)));
        let asked = lately().filter_map(|(route, share)| {
            let usual = Request { facts: route.usual_request(), ..Request::default() };
            let margin = route.counts.model().margin();
            let asking = asking(route, &usual);
            let carried = backend.shared.model().demand(&asking, margin, &arriving, now)?;
            let least = if share > TURNED_AWAY { 1.0 + share } else { 0.0 };
            Some((carried * (1.0 / (1.0 - share)).min(MOST)).max(least).min(MOST))
        });
        let none = lately().next().is_none().then_some(0.0);
        asked.reduce(f64::max).or(none)
    }
}

/// What arrives at a backend from these routes.
fn arriving<'a>(routes: impl Iterator<Item = &'a Arc<LiveRoute>>, backend: &LiveBackend, now: Instant) -> Arriving {
    let room = backend.settings().max_in_flight;
    routes.fold(Arriving { room, ..Arriving::default() }, |sum, route| {
        let requests = backend.shared.model().arrivals(route.counts.slot, now);
        let output_tokens = sum.output_tokens + requests * route.expected_output();
        Arriving { requests: sum.requests + requests, output_tokens, ..sum }
    })
}

impl LiveRoute {
    /// Requests that found no place when they were first decided on, since the start.
    pub fn unplaced(&self) -> u64 {
        self.counts.placing.unplaced()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock, ManualClock};

    #[test]
    fn a_minute_of_requests_is_remembered() {
        let (start, placing) = (ManualClock::new().now(), Placing::default());
        assert_eq!(placing.share(start), None);
        (0..3).for_each(|_| placing.decided(false, start));
        placing.decided(true, start + SLOT);
        assert_eq!((placing.share(start + SLOT), placing.unplaced()), (Some(0.25), 1));
        assert_eq!(placing.share(start + SLOT * 12), Some(1.0), "the first are forgotten");
        assert_eq!(placing.share(start + SLOT * 13), None);
    }
}
