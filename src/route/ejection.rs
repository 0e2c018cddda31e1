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
