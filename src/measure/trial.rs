//! The groups of a split route, measured side by side, and whether one has broken the route's promise.
//!
//! An exchange counts for the group that it was *assigned* to, whoever answered it (in trials of medicines this is called
//! intention to treat): the draw is what makes groups alike, and an exchange that changed groups did not do so at random.
//! What a group only kept because another one answered after its own failure counts as missed, and so does what its
//! backend refused. What it was never asked, for it was down or full, does not count.
//!
//! A group has broken an objective when two things are certain at once. It misses more than the objective allows; and it
//! is worse than the baseline: of the exchanges that missed, in either, more were its own than the draw gave it. The
//! second needs no estimate of how bad the baseline is at the moment, and the first allows what the baseline misses lately
//! where that is more, so an outage of everything, or a busy hour, blames nobody. Both are [`Evidence`] that may be looked at after every exchange. They take it that one exchange's fate does not
//! depend on another's: a hiccup that is over in a second is one event that makes many late, so evidence of fewer than
//! [`FEWEST`] exchanges of a group is not acted upon.

use std::time::{Duration, Instant};

use super::attainment::Attainment;
use super::compare::{CONFIDENCE, Difference, of_misses, of_quantiles};
use super::evidence::Evidence;
use super::exchange::{Attempt, ExchangeRecord};
use super::group::{Assignment, FellOver, GroupIndex};
use super::objective::{Latency, Objective, Objectives};
use super::outcome::{Blame, Outcome};
use super::window::{LatencyWindow, Limits};
use crate::units::Quantile;

/// How long a latency is remembered: what is compared is the last day.
pub const MEMORY: Duration = Duration::from_secs(86_400);
/// The probability that a group is ever accused although it keeps the promise, or is no worse than the baseline.
pub const FALSE_ALARMS: f64 = 0.01;
/// Exchanges of a group that must have been judged before anything is said of it.
pub const FEWEST: u64 = 30;
/// How fast what the baseline misses lately is followed: about twenty exchanges.
const LATELY: f64 = 0.05;
/// Of what nearly all miss nothing can be said.
const HOPELESS: f64 = 0.999;

/// Every group, the baseline first.
#[derive(Debug, Clone)]
pub struct Trial {
    objectives: Objectives,
    arms: Vec<Arm>,
    /// The share that the baseline missed lately, by latency.
    lately: [f64; 3],
}

/// What was measured of one group.
#[derive(Debug, Clone)]
struct Arm {
    /// As clients felt them, in the order of [`Latency::PROMISED`].
    windows: [LatencyWindow; 3],
    /// Likewise what was judged, failures that another group made good counted as missed.
    judged: [Attainment; 3],
    /// That the objective is missed more often than it may be; none for the baseline.
    breaks: [Evidence; 3],
    /// That it is missed more often than by the baseline.
    worse: [Evidence; 3],
}

/// A group has broken the promise.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Broken {
    /// Which group.
    pub group: GroupIndex,
    /// Of which latency the promise was.
    pub latency: Latency,
    /// The share that may be missed.
    pub allowed: f64,
    /// What was judged of the group.
    pub own: Attainment,
    /// What was judged of the baseline.
    pub baseline: Attainment,
}

/// How sure it is that a group has broken an objective.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Certainty {
    /// That it is missed more often than it may be.
    pub breaks: f64,
    /// That it is missed more often than by the baseline.
    pub worse: f64,
    /// What both must reach.
    pub needed: f64,
}

impl Arm {
    fn new() -> Self {
        Self {
            windows: [(); 3].map(|()| LatencyWindow::new(MEMORY)),
            judged: Default::default(),
            breaks: Default::default(),
            worse: Default::default(),
        }
    }

    fn felt(&mut self, record: &ExchangeRecord, now: Instant) {
        if !record.measured() {
            return;
        }
        let felt = &record.latencies;
        let own_pace = !record.phases.backpressured;
        let streamed = |value: Option<Duration>| value.filter(|_| record.stream);
        let values = [
            streamed(felt.first_token),
            streamed(felt.inter_token).filter(|_| own_pace),
            felt.end_to_end.filter(|_| own_pace),
        ];
        for (window, value) in self.windows.iter_mut().zip(values) {
            if let Some(value) = value {
                window.record(value, now);
            }
        }
    }
}

impl Trial {
    /// A trial of so many groups besides the baseline.
    #[must_use]
    pub fn new(groups: usize, objectives: Objectives) -> Self {
        Self { objectives, arms: (0..=groups).map(|_| Arm::new()).collect(), lately: [0.0; 3] }
    }

    /// Forgets what was measured of a group, and begins anew with it.
    pub fn restart(&mut self, group: GroupIndex) {
        if let Some(arm) = self.arms.get_mut(group.place()) {
            *arm = Arm::new();
        }
    }

    /// Adds an exchange that has ended; answers which group has broken the promise by now, if one has. `shares` are those
    /// that requests are drawn by, the baseline's first; of a group whose share is 0 nothing more is said.
    pub fn record(
        &mut self,
        record: &ExchangeRecord,
        assignment: &Assignment,
        shares: &[f64],
        now: Instant,
    ) -> Option<Broken> {
        let place = assignment.group.place();
        // Whom another group answered without its own having been asked says nothing of its own.
        if matches!(assignment.fell_over, Some(FellOver::Unusable | FellOver::Refused)) || record.choices > 1 {
            return None;
        }
        self.arms.get_mut(place)?.felt(record, now);
        let mut judged = false;
        for (at, latency) in Latency::PROMISED.into_iter().enumerate() {
            let Some(objective) = self.objective(latency) else { continue };
            let Some(missed) = missed(&objective, record, assignment) else { continue };
            self.judge((place, at), (1.0 - objective.quantile.share(), missed), shares);
            judged = true;
        }
        if judged { self.broken(shares) } else { None }
    }

    fn judge(&mut self, (place, at): (usize, usize), (allowed, missed): (f64, bool), shares: &[f64]) {
        let Some(arm) = self.arms.get_mut(place) else { return };
        if let Some(judged) = arm.judged.get_mut(at) {
            judged.add(!missed);
        }
        let baseline = place == GroupIndex::BASELINE.place();
        let Some(lately) = self.lately.get_mut(at) else { return };
        if baseline {
            *lately += LATELY * (f64::from(u8::from(missed)) - *lately);
        } else if let Some(breaks) = arm.breaks.get_mut(at) {
            // No group is asked for more than the baseline can do at the moment.
            breaks.observe(allowed.max(*lately).min(HOPELESS), missed);
        }
        if !missed {
            return;
        }
        // A miss of the baseline speaks for every other group.
        let whole = shares.first().copied().unwrap_or_default();
        for (other, (arm, share)) in self.arms.iter_mut().zip(shares).enumerate().skip(1) {
            let concerned = baseline || other == place;
            if let Some(worse) = arm.worse.get_mut(at).filter(|_| concerned && *share > 0.0) {
                worse.observe(share / (share + whole), !baseline);
            }
        }
    }

    fn broken(&self, shares: &[f64]) -> Option<Broken> {
        let baseline = self.arms.first()?;
        for (place, (arm, share)) in self.arms.iter().zip(shares).enumerate().skip(1) {
            let group = GroupIndex(u8::try_from(place).ok()?);
            for (at, latency) in Latency::PROMISED.into_iter().enumerate().filter(|_| *share > 0.0) {
                let (Some(&own), Some(&others)) = (arm.judged.get(at), baseline.judged.get(at)) else { continue };
                let Some(certainty) = self.certainty(group, latency) else { continue };
                if own.total.min(others.total) >= FEWEST && certainty.is_enough() {
                    let allowed = self.allowed(latency)?;
                    return Some(Broken { group, latency, allowed, own, baseline: others });
                }
            }
        }
        None
    }

    fn allowed(&self, latency: Latency) -> Option<f64> {
        Some(1.0 - self.objective(latency)?.quantile.share())
    }

    fn objective(&self, latency: Latency) -> Option<Objective> {
        self.objectives.iter().find(|objective| objective.latency == latency).copied()
    }

    /// How sure it is that a group has broken an objective; `None` for the baseline, and where nothing is promised.
    #[must_use]
    #[allow(clippy::cast_precision_loss, reason = "three objectives at most")]
    pub fn certainty(&self, group: GroupIndex, latency: Latency) -> Option<Certainty> {
        self.allowed(latency)?;
        let at = place_of(latency)?;
        let arm = self.arms.get(group.place()).filter(|_| group != GroupIndex::BASELINE)?;
        // Each objective is another chance to be wrong.
        let needed = self.objectives.iter().count() as f64 / FALSE_ALARMS;
        Some(Certainty { breaks: arm.breaks.get(at)?.wealth(), worse: arm.worse.get(at)?.wealth(), needed })
    }

    /// A quantile of what a group's clients felt, with its limits; `None` without samples.
    pub fn limits(&mut self, group: GroupIndex, latency: Latency, quantile: Quantile, now: Instant) -> Option<Limits> {
        let arm = self.arms.get_mut(group.place())?;
        arm.windows.get_mut(place_of(latency)?)?.limits(quantile, CONFIDENCE, now)
    }

    /// By how many seconds a group's quantile is above the baseline's; `None` while either has too few samples.
    pub fn difference(
        &mut self,
        group: GroupIndex,
        latency: Latency,
        quantile: Quantile,
        now: Instant,
    ) -> Option<Difference> {
        let baseline = self.limits(GroupIndex::BASELINE, latency, quantile, now)?;
        of_quantiles(&self.limits(group, latency, quantile, now)?, &baseline)
    }

    /// What was judged of a group since the trial began; failures that another group made good count as missed.
    #[must_use]
    pub fn judged(&self, group: GroupIndex, latency: Latency) -> Option<Attainment> {
        self.allowed(latency)?;
        self.arms.get(group.place())?.judged.get(place_of(latency)?).copied()
    }

    /// How much larger the share that a group misses is than the baseline's.
    #[must_use]
    pub fn miss_difference(&self, group: GroupIndex, latency: Latency) -> Option<Difference> {
        of_misses(&self.judged(group, latency)?, &self.judged(GroupIndex::BASELINE, latency)?)
    }
}

impl Certainty {
    /// Whether both are as sure as they must be.
    #[must_use]
    pub fn is_enough(&self) -> bool {
        self.breaks.min(self.worse) >= self.needed
    }
}

/// Whether an exchange missed an objective, as far as its group is concerned; `None` where nothing says. Beyond what the
/// objectives judge, a backend's own refusal is a miss (a client's mistake is refused by every group alike), and so is a
/// client that leaves when the time was up.
fn missed(objective: &Objective, record: &ExchangeRecord, assignment: &Assignment) -> Option<bool> {
    let left = |waits: bool| waits && record.course.ended > objective.threshold;
    let given_up = match (record.outcome, objective.latency) {
        (Outcome::ClientCancelled, Latency::TimeToFirstToken) => left(record.latencies.first_token.is_none()),
        (Outcome::ClientCancelled, Latency::EndToEnd) => left(true),
        _ => false,
    };
    let refused = record.outcome == Outcome::BackendRejected;
    if refused || given_up || made_good(objective, record, assignment) {
        return Some(true);
    }
    record.verdicts.of(objective.latency).map(|good| !good)
}

/// Whether the exchange's group failed it, and another one made that good. Of a first token that another group was asked
/// for beside it, only that it was not there when it was due.
fn made_good(objective: &Objective, record: &ExchangeRecord, assignment: &Assignment) -> bool {
    let own = || record.attempts.iter().filter(|attempt| !attempt.hedge);
    let overdue = |attempt: &Attempt| {
        let first = objective.latency == Latency::TimeToFirstToken && attempt.outcome == Outcome::HedgeLost;
        first && attempt.duration > objective.threshold
    };
    match assignment.fell_over {
        Some(FellOver::Failed) => true,
        Some(FellOver::Hedged) => own().any(|attempt| overdue(attempt) || attempt.blame == Blame::Fault),
        Some(FellOver::Unusable | FellOver::Refused) | None => false,
    }
}

fn place_of(latency: Latency) -> Option<usize> {
    Latency::PROMISED.into_iter().position(|one| one == latency)
}

#[cfg(test)]
mod tests;
