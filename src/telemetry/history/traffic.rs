//! How many exchanges ended how, and where they had been sent for which reason, step by step.

use std::collections::VecDeque;
use std::sync::Arc;

use super::{STEPS, Steps};
use crate::measure::outcome::Outcome;

/// One step.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// Counts steps since the history began.
    pub step: u64,
    /// What ended, by outcome; none of them 0.
    pub ended: Vec<(Outcome, u32)>,
    /// The tries of what ended, by backend and reason. Both are of closed sets, so this is short.
    pub sent: Vec<Sent>,
}

/// Tries that went to one backend for one reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    /// The backend's name.
    pub backend: Arc<str>,
    /// The reason's name; empty for none.
    pub reason: &'static str,
    /// How many.
    pub tries: u32,
}

impl Tally {
    /// Everything that ended.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.ended.iter().map(|(_, count)| u64::from(*count)).sum()
    }

    fn end(&mut self, outcome: Outcome, count: u32) {
        match self.ended.iter_mut().find(|(one, _)| *one == outcome) {
            Some((_, sum)) => *sum = sum.saturating_add(count),
            None => self.ended.push((outcome, count)),
        }
    }

    fn send(&mut self, backend: &Arc<str>, reason: &'static str, tries: u32) {
        match self.sent.iter_mut().find(|one| one.reason == reason && one.backend == *backend) {
            Some(one) => one.tries = one.tries.saturating_add(tries),
            None => self.sent.push(Sent { backend: Arc::clone(backend), reason, tries }),
        }
    }
}

/// A ring of steps; the last is the one being filled.
#[derive(Debug, Default)]
pub(super) struct Traffic(VecDeque<Tally>);

impl Traffic {
    pub(super) fn ended(&mut self, outcome: Outcome, step: u64) {
        self.change(step, |tally| tally.end(outcome, 1));
    }

    pub(super) fn sent(&mut self, backend: &Arc<str>, reason: &'static str, step: u64) {
        self.change(step, |tally| tally.send(backend, reason, 1));
    }

    /// The steps in which anything ended, oldest first.
    pub(super) fn tallies(&self, steps: &Steps) -> Vec<Tally> {
        self.0.iter().filter(|tally| steps.contains(tally.step)).cloned().collect()
    }

    /// All of these steps together.
    pub(super) fn sum(&self, steps: &Steps) -> Tally {
        let mut sum = Tally { step: steps.first, ..Tally::default() };
        for tally in self.0.iter().filter(|tally| steps.contains(tally.step)) {
            tally.ended.iter().for_each(|&(outcome, count)| sum.end(outcome, count));
            tally.sent.iter().for_each(|one| sum.send(&one.backend, one.reason, one.tries));
        }
        sum
    }

    /// Changes the tally of a step, or the newest one if that is newer: two threads may cross a border in the wrong order.
    fn change(&mut self, step: u64, change: impl FnOnce(&mut Tally)) {
        if self.0.back().is_none_or(|newest| newest.step < step) {
            self.0.push_back(Tally { step, ..Tally::default() });
            self.0.drain(..self.0.len().saturating_sub(STEPS + 1));
        }
        if let Some(newest) = self.0.back_mut() {
            change(newest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_of_the_steps_asked_for_and_old_steps_are_let_go() {
        let (mut traffic, backend) = (Traffic::default(), Arc::from("a"));
        for step in 0..STEPS as u64 * 2 {
            traffic.ended(Outcome::Complete, step);
            traffic.ended(if step % 2 == 0 { Outcome::Complete } else { Outcome::Shed }, step);
            traffic.sent(&backend, "probe", step);
        }
        let end = STEPS as u64 * 2;
        assert_eq!(traffic.tallies(&Steps { first: 0, last: end }).len(), STEPS + 1);
        let sum = traffic.sum(&Steps { first: end - 4, last: end });
        assert_eq!((sum.requests(), sum.ended), (8, vec![(Outcome::Complete, 6), (Outcome::Shed, 2)]));
        assert_eq!(sum.sent, [Sent { backend, reason: "probe", tries: 4 }]);
    }
}
