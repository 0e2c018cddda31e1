//! When a backend that is passed over is looked at again: one request at a time, less often the more it disappoints.

use std::time::Duration;

use crate::route::moment::Moment;
use crate::route::tuning::Tuning;

/// A probe that took no longer than this beyond its prediction, in log units, has proven its backend.
const PROVEN: f64 = 0.4;

/// The probes of one backend.
#[derive(Debug, Clone, Copy)]
pub(super) struct Probing {
    gap: Duration,
    not_before: Option<Moment>,
    /// The request that probes, and until when it is waited for.
    under_way: Option<(u64, Moment)>,
}

impl Probing {
    pub(super) fn new(tuning: &Tuning) -> Self {
        Self { gap: tuning.probe_gap.0, not_before: None, under_way: None }
    }

    pub(super) fn is_under_way(&self, now: Moment) -> bool {
        self.under_way.is_some_and(|(_, until)| now < until)
    }

    /// Whether the backend has been left unobserved, and not been probed, for long enough with so many replicas.
    pub(super) fn is_due(&self, rested: f64, replicas: u32, now: Moment) -> bool {
        rested > self.gap.as_secs_f64() * f64::from(replicas) && self.not_before.is_none_or(|at| now >= at)
    }

    pub(super) fn sent(&mut self, id: u64, replicas: u32, tuning: &Tuning, now: Moment) {
        self.not_before = Some(now + self.gap.saturating_mul(replicas));
        self.under_way = Some((id, now + tuning.probe_life));
    }

    /// A probe answered, so much later than predicted (in log units). Answers whether it proved its backend.
    pub(super) fn answered(&mut self, lateness: f64, tuning: &Tuning) -> bool {
        let proven = lateness < PROVEN;
        let (least, most) = tuning.probe_gap;
        self.gap = if proven { least } else { self.gap.saturating_mul(2).min(most) };
        proven
    }

    /// The request is no probe any more: it answered, or ended.
    pub(super) fn over(&mut self, id: u64) {
        if self.under_way.is_some_and(|(probe, _)| probe == id) {
            self.under_way = None;
        }
    }

    pub(super) fn clear(&mut self) {
        self.under_way = None;
    }
}
