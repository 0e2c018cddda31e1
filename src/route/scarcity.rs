//! Which requests to turn away when not all can be served in time: those that take the most.
//!
//! Without this, an overloaded fleet turns away whoever comes when nothing is free: the short requests with tight
//! promises, while long ones with loose promises still fit and take the room of ten. Here whoever is doomed for
//! lack of room lowers a limit on what a request may need, and every other arrival raises it again: more than about
//! five in a hundred turned away, and the limit falls until the largest are turned away instead. In calm there is none.
//!
//! One value for all routes that share backends. Need is time of the whole fastest backend, divided by two to the power
//! of the route's priority: a request of one priority more may take twice as much.

use super::decision::Decision;

/// A doomed request multiplies the limit by `exp(-FALL)`, any other arrival by `exp(RISE)`.
const FALL: f64 = 0.4;
const RISE: f64 = 0.02;
/// How fast the largest need is forgotten: over about a thousand arrivals.
const FORGET: f64 = 0.999;
/// Priorities beyond this count as this.
const MOST_PRIORITY: i32 = 32;

/// How much a request may need now.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Scarcity {
    /// `None` when there is room for all.
    limit: Option<f64>,
    /// The most that a request needed lately.
    largest: f64,
}

impl Scarcity {
    /// Whether a request that needs so much may take it.
    #[must_use]
    pub fn admits(&self, need: f64) -> bool {
        self.limit.is_none_or(|limit| need <= limit)
    }

    /// How far the limit is down: 0 when there is room for all, towards 1 when only the smallest are served.
    #[must_use]
    pub fn severity(&self) -> f64 {
        self.limit.map_or(0.0, |limit| 1.0 - limit / self.largest)
    }

    /// The limit in seconds; `None` when there is room for all.
    #[must_use]
    pub fn limit(&self) -> Option<f64> {
        self.limit
    }

    /// A request was decided on. To be told once per request, however often it is tried or waits.
    pub fn decided(&mut self, decision: &Decision) {
        if let Some(need) = decision.need {
            self.learn(need, decision.is_doomed());
        }
    }

    fn learn(&mut self, need: f64, doomed: bool) {
        if !need.is_finite() || need < 0.0 {
            return;
        }
        self.largest = (self.largest * FORGET).max(need);
        self.limit = if doomed {
            let limit = self.limit.unwrap_or(self.largest).min(self.largest);
            Some((limit * (-FALL).exp()).max(need))
        } else {
            self.limit.map(|limit| limit * RISE.exp())
        };
        self.limit = self.limit.filter(|limit| *limit < self.largest);
    }
}

/// What a request needs that takes so many seconds of a backend, by its route's priority.
#[must_use]
pub fn need(seconds: f64, priority: i32) -> f64 {
    seconds * (-f64::from(priority.clamp(-MOST_PRIORITY, MOST_PRIORITY))).exp2()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::random::Random;

    /// Small and large requests in equal numbers at a fleet with room for so much; whoever finds none is doomed. Answers
    /// the shares of small and of large ones that were served.
    fn served(room: f64, priorities: (i32, i32)) -> (f64, f64) {
        let (mut scarcity, mut random) = (Scarcity::default(), Random::seeded(1));
        let (mut free, mut counts) = (0.0, [(0.0, 0.0); 2]);
        for round in 0..20_000 {
            free = (free + room).min(10.0);
            let large = random.share() < 0.5;
            let (seconds, priority) = if large { (1.0, priorities.1) } else { (0.1, priorities.0) };
            let needs = need(seconds, priority);
            let fits = free >= seconds;
            let admitted = scarcity.admits(needs);
            if admitted && fits {
                free -= seconds;
            }
            scarcity.learn(needs, admitted && !fits);
            if round > 1_000 {
                let count = &mut counts[usize::from(large)];
                *count = (count.0 + f64::from(u8::from(admitted && fits)), count.1 + 1.0);
            }
        }
        (counts[0].0 / counts[0].1, counts[1].0 / counts[1].1)
    }

    #[test]
    fn with_room_for_all_all_are_served() {
        assert_eq!(served(0.8, (0, 0)), (1.0, 1.0));
    }

    #[test]
    fn when_room_is_scarce_the_large_make_room_for_the_small() {
        let (small, large) = served(0.3, (0, 0));
        assert!(small > 0.9, "{small} of the small");
        // What the small leave is enough for half of the large.
        assert!((0.3..0.55).contains(&large), "{large} of the large");
    }

    #[test]
    fn the_important_may_take_more() {
        let (small, large) = served(0.3, (0, 5));
        assert!(large > small + 0.1, "{large} of the large and {small} of the small");
    }

    #[test]
    fn the_limit_is_gone_when_calm_returns() {
        let mut scarcity = Scarcity::default();
        scarcity.learn(5.0, false);
        (0..50).for_each(|_| scarcity.learn(0.1, true));
        assert!(!scarcity.admits(0.2) && scarcity.admits(0.1));
        (0..500).for_each(|_| scarcity.learn(0.2, false));
        assert!(scarcity.admits(5.0) && scarcity.limit().is_none());
    }

    proptest! {
        #[test]
        fn whatever_is_needed_the_limit_stays_a_number_and_whoever_was_doomed_is_admitted_next(
            needs in proptest::collection::vec((any::<f64>(), any::<bool>()), 0..100),
        ) {
            let mut scarcity = Scarcity::default();
            for (need, doomed) in needs {
                scarcity.learn(need, doomed);
                prop_assert!(scarcity.limit().is_none_or(|limit| limit.is_finite() && limit >= 0.0));
                if doomed && need.is_finite() && need >= 0.0 {
                    prop_assert!(scarcity.admits(need));
                }
            }
        }
    }

    #[test]
    fn severity_is_how_far_the_limit_is_below_the_largest_need() {
        let mut scarcity = Scarcity::default();
        scarcity.learn(10.0, false);
        assert!(scarcity.severity().abs() < 1e-9, "there is room for all");
        (0..2).for_each(|_| scarcity.learn(1.0, true));
        let share = scarcity.limit().expect("room is scarce") / 10.0;
        assert!((scarcity.severity() - (1.0 - share)).abs() < 0.01, "{scarcity:?}");
        (0..20).for_each(|_| scarcity.learn(1.0, true));
        assert!((scarcity.severity() - 0.9).abs() < 0.01, "only a tenth of the largest: {scarcity:?}");
    }
}
