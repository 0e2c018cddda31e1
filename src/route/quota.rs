//! How much of something was used in the last minute, held against how much may be.
//!
//! The last minute is a sum over slots of a quarter of a second, of which only those with something in them are kept. A
//! slot counts until its latest part is a minute old.
//! A limit so holds in *every* minute, not only on average, and what was taken in advance can be given back
//! (`docs/decisions/0025-every-minute.md`).

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// What limits count over.
pub const MINUTE: Duration = Duration::from_secs(60);
/// How exactly the last minute is told.
const SLOT: Duration = Duration::from_millis(250);

/// What was used, and when.
#[derive(Debug, Clone)]
pub struct Quota {
    /// Slots are numbered from here.
    began: Instant,
    /// Those with something in them, oldest first; at most 241, those of a minute and the one that has just begun.
    slots: VecDeque<Slot>,
    /// The sum of them.
    used: u64,
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    number: u64,
    used: u64,
    /// When something was last put into it.
    last: Instant,
}

/// When something was taken, to give it back there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken(u64);

/// Why something cannot be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Short {
    /// There will be enough left then, if nobody else takes it.
    For(Duration),
    /// It is more than the whole limit.
    Always,
}

/// What is left of a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Left {
    /// The limit itself.
    pub limit: u64,
    /// What may still be taken now.
    pub remaining: u64,
    /// When all of the limit is there again, if nothing more is taken.
    pub reset: Duration,
}

impl Quota {
    /// Nothing was used yet.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self { began: now, slots: VecDeque::new(), used: 0 }
    }

    /// Takes so much, unless more than `limit` would then have been used in a minute.
    ///
    /// # Errors
    /// Says when there will be enough; nothing is taken then.
    pub fn take(&mut self, amount: u64, limit: u64, now: Instant) -> Result<Taken, Short> {
        if amount > limit {
            return Err(Short::Always);
        }
        self.forget(now);
        let over = self.used.saturating_add(amount).saturating_sub(limit);
        if over > 0 {
            return Err(Short::For(self.freed(over, now)));
        }
        Ok(self.add(amount, now))
    }

    /// Counts what was used, whatever the limit.
    pub fn add(&mut self, amount: u64, now: Instant) -> Taken {
        // Two threads may come in another order than they asked the clock.
        let newest = self.slots.back().map_or(0, |slot| slot.number);
        let number = self.number(now).max(newest);
        match self.slots.back_mut().filter(|slot| slot.number == number) {
            Some(slot) => (slot.used, slot.last) = (slot.used.saturating_add(amount), slot.last.max(now)),
            None => self.slots.push_back(Slot { number, used: amount, last: now }),
        }
        self.used = self.used.saturating_add(amount);
        Taken(number)
    }

    /// Gives back what was taken then and not used.
    pub fn give_back(&mut self, taken: Taken, amount: u64) {
        let Ok(place) = self.slots.binary_search_by_key(&taken.0, |slot| slot.number) else { return };
        let Some(slot) = self.slots.get_mut(place) else { return };
        let back = amount.min(slot.used);
        slot.used -= back;
        self.used -= back;
    }

    /// What is left of a limit.
    pub fn left(&mut self, limit: u64, now: Instant) -> Left {
        self.forget(now);
        let last = self.slots.iter().rev().find(|slot| slot.used > 0);
        let reset = last.map_or(Duration::ZERO, |slot| slot.leaves(now));
        Left { limit, remaining: limit.saturating_sub(self.used), reset }
    }

    fn number(&self, now: Instant) -> u64 {
        let slots = now.saturating_duration_since(self.began).as_millis() / SLOT.as_millis();
        u64::try_from(slots).unwrap_or(u64::MAX)
    }

    /// Drops what is older than a minute.
    fn forget(&mut self, now: Instant) {
        while let Some(slot) = self.slots.front().filter(|slot| slot.leaves(now).is_zero()) {
            self.used = self.used.saturating_sub(slot.used);
            self.slots.pop_front();
        }
    }

    /// How long until so much has left.
    fn freed(&self, amount: u64, now: Instant) -> Duration {
        let mut freed = 0_u64;
        let enough = self.slots.iter().find(|slot| {
            freed = freed.saturating_add(slot.used);
            freed >= amount
        });
        enough.map_or(MINUTE, |slot| slot.leaves(now))
    }
}

impl Slot {
    /// How long until all of it is a minute old: never more than a minute, which is as long as clients let themselves be
    /// told to wait.
    fn leaves(&self, now: Instant) -> Duration {
        MINUTE.saturating_sub(now.saturating_duration_since(self.last))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::clock::{Clock, ManualClock};

    const MS: Duration = Duration::from_millis(1);
    /// Whole slots of a minute.
    const SLOTS: u64 = 240;

    #[test]
    fn a_limit_is_given_out_once_a_minute() {
        let now = ManualClock::new().now();
        let mut quota = Quota::new(now);
        for _ in 0..3 {
            quota.take(1, 3, now).expect("there is some left");
        }
        assert_eq!(quota.take(1, 3, now + MINUTE / 2), Err(Short::For(MINUTE / 2)));
        assert_eq!(quota.take(1, 3, now + MINUTE.saturating_sub(MS)), Err(Short::For(MS)));
        assert!(quota.take(3, 3, now + MINUTE).is_ok());
        assert_eq!(quota.take(4, 3, now + MINUTE * 9), Err(Short::Always));
    }

    #[test]
    fn what_is_told_of_it_adds_up() {
        let now = ManualClock::new().now();
        let mut quota = Quota::new(now);
        assert_eq!(quota.left(9, now), Left { limit: 9, remaining: 9, reset: Duration::ZERO });
        quota.take(5, 9, now).unwrap();
        let later = now + MINUTE / 4;
        let taken = quota.take(3, 9, later).unwrap();
        assert_eq!(quota.left(9, later), Left { limit: 9, remaining: 1, reset: MINUTE });
        assert_eq!(quota.take(4, 9, later), Err(Short::For(MINUTE * 3 / 4)), "the oldest leave first");
        quota.give_back(taken, 2);
        assert_eq!(quota.left(9, later).remaining, 3);
        quota.give_back(taken, 99);
        assert_eq!(quota.left(9, later), Left { limit: 9, remaining: 4, reset: MINUTE * 3 / 4 });
        quota.add(20, later);
        assert_eq!(quota.left(9, later).remaining, 0, "what was used counts, however much it was");
        let over = quota.left(9, later + MINUTE * 2);
        assert_eq!((over.remaining, quota.slots.len()), (9, 0));
        quota.give_back(taken, 1);
        assert_eq!(quota.used, 0, "what has left is not given back");
    }

    #[test]
    fn whoever_waits_as_long_as_told_and_no_longer_is_let_in() {
        let began = ManualClock::new().now();
        for late in [0, 1, 249, 250, 251, 10_125] {
            let (mut quota, now) = (Quota::new(began), began + MS * late);
            quota.take(2, 2, now).unwrap();
            for asked in [now, now + MS, now + MINUTE / 2] {
                let Err(Short::For(wait)) = quota.take(1, 2, asked) else { panic!("it is used up") };
                assert!(wait <= MINUTE && quota.clone().take(1, 2, asked + wait).is_ok(), "{late}: {wait:?}");
                assert!(
                    quota.clone().take(1, 2, asked + wait.saturating_sub(MS)).is_err(),
                    "{late}: {wait:?} is too long"
                );
            }
        }
    }

    /// Asks as often as that for ten minutes, and answers how many were let in.
    fn let_in(limit: u64, every: Duration) -> f64 {
        let now = ManualClock::new().now();
        let mut quota = Quota::new(now);
        let mut passed = Duration::ZERO;
        let mut taken = 0.0;
        while passed < MINUTE * 10 {
            taken += f64::from(u8::from(quota.take(1, limit, now + passed).is_ok()));
            passed += every;
        }
        taken
    }

    #[test]
    fn a_rate_is_kept_to_a_hundredth_or_to_one_request() {
        for (limit, every) in [(1, MS * 500), (7, MS * 100), (60, MS * 70), (600, MS * 33), (6_000, MS * 3)] {
            #[allow(clippy::cast_precision_loss, reason = "a few thousand")]
            let meant = limit as f64 * 10.0;
            let error = meant - let_in(limit, every);
            assert!((0.0..=(meant * 0.01).max(1.0)).contains(&error), "{limit} per minute: {error} too few");
        }
    }

    proptest! {
        /// Against a list of everything that was ever taken.
        #[test]
        fn no_minute_has_more_than_the_limit(
            limit in 1_u64..50,
            asked in proptest::collection::vec((0_u32..20_000, 1_u64..20, 0_u64..20), 1..200),
        ) {
            let began = ManualClock::new().now();
            let (mut quota, mut now, mut list) = (Quota::new(began), began, Vec::<(Instant, u64)>::new());
            for (wait, amount, back) in asked {
                now += MS * wait;
                if let Ok(taken) = quota.take(amount, limit, now) {
                    let back = back.min(amount);
                    quota.give_back(taken, back);
                    list.push((now, amount - back));
                }
                let minute = list.iter().filter(|(at, _)| now - *at < MINUTE).map(|(_, used)| used).sum::<u64>();
                prop_assert!(minute <= limit);
                let longer = list.iter().filter(|(at, _)| now - *at < MINUTE + SLOT).map(|(_, used)| used).sum::<u64>();
                let left = quota.left(limit, now).remaining;
                prop_assert!((limit.saturating_sub(longer)..=limit - minute).contains(&left));
                prop_assert!(quota.slots.len() as u64 <= SLOTS + 1);
            }
        }
    }
}
