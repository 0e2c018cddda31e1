//! Outlier ejection: a backend that keeps failing is left alone for a while, and comes back by proving itself.
//!
//! A pure state machine; time is an argument, and whether the pool can spare the backend is the caller's to say. The
//! trigger is a run of faults or a fault ratio, not Envoy's success-rate statistics: those need five hosts and more,
//! and pools of model servers have two to eight.

use std::time::{Duration, Instant};

use crate::measure::outcome::Blame;
use crate::random::Random;

/// Faults in a row that eject.
pub const CONSECUTIVE_FAULTS: u32 = 5;
/// Fewest ends within [`RATIO_WINDOW`] for the fault ratio to count.
pub const RATIO_ENDS: u32 = 20;
/// Over which time the fault ratio is taken.
pub const RATIO_WINDOW: Duration = Duration::from_secs(30);
/// First ejection; doubled by every further one.
pub const SHORTEST: Duration = Duration::from_secs(5);
/// Longest ejection, before the jitter.
pub const LONGEST: Duration = Duration::from_secs(300);
/// Active checks that must pass before the probe request.
pub const PASSES: u32 = 2;

const SLOTS: usize = 6;
const SLOT: Duration = Duration::from_secs(5);

/// Where the breaker stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// In use.
    Closed,
    /// Left alone at least until then, and until enough active checks have passed.
    Ejected {
        /// Earliest return.
        until: Instant,
    },
    /// One request at a time finds out whether it works again.
    Probing {
        /// Whether that request is under way.
        in_flight: bool,
    },
}

#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    epoch: u64,
    faults: u32,
    ends: u32,
}

/// The breaker of one backend.
#[derive(Debug, Clone)]
pub struct Ejection {
    born: Instant,
    standing: Standing,
    consecutive: u32,
    /// Ejections since the last long time of good service; the exponent of the next one.
    ejections: u32,
    passes: u32,
    /// When the latest ejection was over; long ago forgives.
    closed_at: Instant,
    slots: [Slot; SLOTS],
}

impl Ejection {
    /// A breaker that trusts.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self {
            born: now,
            standing: Standing::Closed,
            consecutive: 0,
            ejections: 0,
            passes: 0,
            closed_at: now,
            slots: [Slot::default(); SLOTS],
        }
    }

    /// Where it stands.
    #[must_use]
    pub fn standing(&self) -> Standing {
        self.standing
    }

    /// Faults in a row, so far.
    #[must_use]
    pub fn consecutive_faults(&self) -> u32 {
        self.consecutive
    }

    /// Learns how an ordinary request ended. Answers whether this made the backend leave the pool, which happens only
    /// when `spare` says that the pool can do without it; asked only when it matters.
    pub fn ended(&mut self, blame: Blame, now: Instant, random: &mut Random, spare: impl FnOnce() -> bool) -> bool {
        match blame {
            Blame::Neutral => return false,
            Blame::Success => {
                self.consecutive = 0;
                self.count(now, 0);
                return false;
            }
            Blame::Fault => {
                self.consecutive = self.consecutive.saturating_add(1);
                self.count(now, 1);
            }
        }
        let due = self.consecutive >= CONSECUTIVE_FAULTS || self.mostly_faults(now);
        due && self.trip(now, random, spare)
    }

    /// Ejects at once, as the progress watchdog does; answers whether it did. `spare` as in [`Self::ended`].
    pub fn trip(&mut self, now: Instant, random: &mut Random, spare: impl FnOnce() -> bool) -> bool {
        if self.standing != Standing::Closed || !spare() {
            return false;
        }
        if now.saturating_duration_since(self.closed_at) >= LONGEST {
            self.ejections = 0;
        }
        self.eject(now, random);
        true
    }

    /// An active check passed. Answers whether the backend may now be probed.
    pub fn check_passed(&mut self, now: Instant) -> bool {
        let Standing::Ejected { until } = self.standing else { return false };
        self.passes = self.passes.saturating_add(1);
        if self.passes < PASSES || now < until {
            return false;
        }
        self.standing = Standing::Probing { in_flight: false };
        true
    }

    /// An active check failed: the passes are counted anew.
    pub fn check_failed(&mut self) {
        self.passes = 0;
    }

    /// Whether a request may be sent: always when closed, one at a time when probing, never when ejected.
    #[must_use]
    pub fn admits(&self) -> bool {
        matches!(self.standing, Standing::Closed | Standing::Probing { in_flight: false })
    }

    /// A request is sent. Answers whether it is the probe, whose end [`Self::probe_ended`] must learn.
    pub fn sent(&mut self) -> bool {
        let probe = self.standing == Standing::Probing { in_flight: false };
        if probe {
            self.standing = Standing::Probing { in_flight: true };
        }
        probe
    }

    /// The probe ended: a success closes the breaker, a fault ejects for longer, anything else lets another try.
    pub fn probe_ended(&mut self, blame: Blame, now: Instant, random: &mut Random) {
        if self.standing != (Standing::Probing { in_flight: true }) {
            return;
        }
        match blame {
            Blame::Success => {
                self.standing = Standing::Closed;
                self.consecutive = 0;
                self.closed_at = now;
                self.slots = [Slot::default(); SLOTS];
            }
            Blame::Fault => self.eject(now, random),
            Blame::Neutral => self.standing = Standing::Probing { in_flight: false },
        }
    }

    fn eject(&mut self, now: Instant, random: &mut Random) {
        let doubled = SHORTEST.saturating_mul(1_u32.checked_shl(self.ejections).unwrap_or(u32::MAX)).min(LONGEST);
        let jitter = 0.8 + 0.4 * random.share();
        self.ejections = self.ejections.saturating_add(1).min(16);
        self.passes = 0;
        self.standing = Standing::Ejected { until: now + doubled.mul_f64(jitter) };
    }

    fn epoch(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.born).as_secs() / SLOT.as_secs()
    }

    fn count(&mut self, now: Instant, faults: u32) {
        let epoch = self.epoch(now);
        let place = usize::try_from(epoch).unwrap_or_default() % SLOTS;
        let Some(slot) = self.slots.get_mut(place) else { return };
        if slot.epoch != epoch {
            *slot = Slot { epoch, ..Slot::default() };
        }
        slot.ends = slot.ends.saturating_add(1);
        slot.faults = slot.faults.saturating_add(faults);
    }

    fn mostly_faults(&self, now: Instant) -> bool {
        let newest = self.epoch(now);
        let live = |slot: &&Slot| slot.epoch + SLOTS as u64 > newest;
        let (ends, faults) = self
            .slots
            .iter()
            .filter(live)
            .fold((0_u32, 0_u32), |(ends, faults), slot| (ends + slot.ends, faults + slot.faults));
        ends >= RATIO_ENDS && faults.saturating_mul(2) >= ends
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::clock::{Clock, ManualClock};

    const SECOND: Duration = Duration::from_secs(1);

    struct Bench {
        now: Instant,
        random: Random,
        ejection: Ejection,
    }

    impl Bench {
        fn new() -> Self {
            let now = ManualClock::new().now();
            Self { now, random: Random::seeded(1), ejection: Ejection::new(now) }
        }

        fn end(&mut self, blame: Blame) -> bool {
            self.ejection.ended(blame, self.now, &mut self.random, || true)
        }

        fn eject(&mut self) -> Duration {
            while !self.end(Blame::Fault) {}
            self.left()
        }

        fn left(&self) -> Duration {
            let Standing::Ejected { until } = self.ejection.standing() else { panic!("ejected") };
            until - self.now
        }

        /// Time passes and checks pass until a request may try.
        fn until_probing(&mut self) {
            self.now += self.left();
            assert!(!self.ejection.check_passed(self.now));
            assert!(self.ejection.check_passed(self.now));
            assert!(self.ejection.sent());
        }
    }

    #[test]
    fn five_faults_in_a_row_eject() {
        let mut bench = Bench::new();
        for round in 0..3 {
            for _ in 0..4 {
                assert!(!bench.end(Blame::Fault), "round {round}");
            }
            assert!(!bench.end(Blame::Neutral), "neutral ends neither add nor forgive");
            bench.end(Blame::Success);
            bench.now += SECOND * 60;
        }
        for _ in 0..4 {
            bench.end(Blame::Fault);
        }
        assert!(bench.end(Blame::Fault));
        assert!(!bench.ejection.admits());
    }

    #[test]
    fn half_of_twenty_ends_within_the_window_eject() {
        let mut bench = Bench::new();
        for _ in 0..9 {
            assert!(!bench.end(Blame::Success) && !bench.end(Blame::Fault));
        }
        assert!(!bench.end(Blame::Success), "the twentieth end is missing");
        assert!(bench.end(Blame::Fault));
        let mut slow = Bench::new();
        for _ in 0..40 {
            assert!(!slow.end(Blame::Success) && !slow.end(Blame::Fault));
            slow.now += SECOND * 4;
        }
    }

    #[test]
    fn faults_of_the_whole_window_count_however_long_the_backend_has_served() {
        let mut bench = Bench::new();
        bench.now += SECOND * 3_600;
        for _ in 0..9 {
            assert!(!bench.end(Blame::Success) && !bench.end(Blame::Fault));
            bench.now += SECOND * 2;
        }
        assert!(!bench.end(Blame::Success) && bench.end(Blame::Fault), "ten of twenty within 18 seconds");
    }

    #[test]
    fn each_ejection_lasts_twice_as_long_up_to_five_minutes() {
        let mut bench = Bench::new();
        let mut expected = SHORTEST;
        bench.eject();
        for _ in 0..10 {
            let ratio = bench.left().as_secs_f64() / expected.as_secs_f64();
            assert!((0.799..1.201).contains(&ratio), "{ratio} of {expected:?}");
            bench.until_probing();
            bench.ejection.probe_ended(Blame::Fault, bench.now, &mut bench.random);
            expected = (expected * 2).min(LONGEST);
        }
    }

    #[test]
    fn the_way_back_is_time_then_two_checks_then_one_request() {
        let mut bench = Bench::new();
        let left = bench.eject();
        assert!(!bench.ejection.check_passed(bench.now) && !bench.ejection.check_passed(bench.now), "too early");
        bench.now += left;
        bench.ejection.check_failed();
        assert!(!bench.ejection.check_passed(bench.now), "a failed check starts the count anew");
        assert!(bench.ejection.check_passed(bench.now));
        assert!(bench.ejection.admits() && bench.ejection.sent());
        assert!(!bench.ejection.admits() && !bench.ejection.sent(), "one at a time");
        bench.ejection.probe_ended(Blame::Neutral, bench.now, &mut bench.random);
        assert!(bench.ejection.sent(), "a client that left says nothing: the next tries");
        bench.ejection.probe_ended(Blame::Success, bench.now, &mut bench.random);
        assert_eq!(bench.ejection.standing(), Standing::Closed);
        assert!(!bench.end(Blame::Fault), "what was before is forgiven");
    }

    #[test]
    fn long_good_service_shortens_the_next_ejection() {
        let mut bench = Bench::new();
        bench.eject();
        bench.until_probing();
        bench.ejection.probe_ended(Blame::Success, bench.now, &mut bench.random);
        assert!(bench.eject() > SHORTEST.mul_f64(1.5));
        bench.until_probing();
        bench.ejection.probe_ended(Blame::Success, bench.now, &mut bench.random);
        bench.now += LONGEST;
        assert!(bench.eject() <= SHORTEST.mul_f64(1.2));
    }

    #[test]
    fn a_pool_that_cannot_spare_it_keeps_it() {
        let mut bench = Bench::new();
        for _ in 0..50 {
            assert!(!bench.ejection.ended(Blame::Fault, bench.now, &mut bench.random, || false));
        }
        assert!(!bench.ejection.trip(bench.now, &mut bench.random, || false));
        assert!(bench.ejection.admits());
        assert!(bench.end(Blame::Fault), "as soon as it can be spared, it goes");
    }

    #[derive(Debug, Clone)]
    enum Step {
        Wait(u64),
        End(u8),
        Check(bool),
        Send,
        Probe(u8),
        Trip,
    }

    fn blame(of: u8) -> Blame {
        [Blame::Success, Blame::Neutral, Blame::Fault][usize::from(of % 3)]
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0..40_u64).prop_map(Step::Wait),
            any::<u8>().prop_map(Step::End),
            any::<bool>().prop_map(Step::Check),
            Just(Step::Send),
            any::<u8>().prop_map(Step::Probe),
            Just(Step::Trip),
        ]
    }

    proptest! {
        #[test]
        fn whatever_happens_it_keeps_its_rules(seed: u64, steps in proptest::collection::vec(step(), 1..300)) {
            let mut bench = Bench::new();
            bench.random = Random::seeded(seed);
            let mut probes = 0_i32;
            for step in steps {
                let before = bench.ejection.standing();
                match step {
                    Step::Wait(seconds) => bench.now += SECOND * u32::try_from(seconds).unwrap_or_default(),
                    Step::End(of) => { bench.end(blame(of)); }
                    Step::Check(true) => { bench.ejection.check_passed(bench.now); }
                    Step::Check(false) => bench.ejection.check_failed(),
                    Step::Send => probes += i32::from(bench.ejection.admits() && bench.ejection.sent()),
                    Step::Probe(of) if probes > 0 => {
                        bench.ejection.probe_ended(blame(of), bench.now, &mut bench.random);
                        probes -= 1;
                    }
                    Step::Probe(_) => {}
                    Step::Trip => { bench.ejection.trip(bench.now, &mut bench.random, || true); }
                }
                let after = bench.ejection.standing();
                prop_assert!((0..=1).contains(&probes), "one probe at a time");
                if let Standing::Ejected { until } = after
                    && !matches!(before, Standing::Ejected { .. }) {
                        let length = until - bench.now;
                        prop_assert!(length >= SHORTEST.mul_f64(0.8) && length <= LONGEST.mul_f64(1.2));
                }
                match (before, after) {
                    (Standing::Ejected { until }, Standing::Probing { .. }) => prop_assert!(bench.now >= until),
                    (Standing::Ejected { .. }, Standing::Closed) => prop_assert!(false, "never without a probe"),
                    _ => {}
                }
            }
        }
    }
}
