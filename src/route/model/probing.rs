//! When a backend that is passed over is looked at again: one request at a time, less often the more it disappoints.

use std::time::{Duration, Instant};

use crate::route::tuning::Tuning;

/// A probe that took no longer than this beyond its prediction, in log units, has proven its backend.
const PROVEN: f64 = 0.4;

/// The probes of one backend.
#[derive(Debug, Clone, Copy)]
pub(super) struct Probing {
    gap: Duration,
    not_before: Option<Instant>,
    /// The request that probes, and until when it is waited for.
    under_way: Option<(u64, Instant)>,
}

impl Probing {
    pub(super) fn new(tuning: &Tuning) -> Self {
        Self { gap: tuning.probe_gap.0, not_before: None, under_way: None }
    }

    pub(super) fn is_under_way(&self, now: Instant) -> bool {
        self.under_way.is_some_and(|(_, until)| now < until)
    }

    /// Whether enough time has passed since the backend was observed, and since it was last probed, for so many replicas
    /// to probe it.
    pub(super) fn is_due(&self, observed: Instant, replicas: u32, now: Instant) -> bool {
        let rested = now.saturating_duration_since(observed) > self.gap.saturating_mul(replicas);
        rested && self.not_before.is_none_or(|at| now >= at)
    }

    pub(super) fn sent(&mut self, id: u64, replicas: u32, tuning: &Tuning, now: Instant) {
        self.not_before = now.checked_add(self.gap.saturating_mul(replicas));
        self.under_way = now.checked_add(tuning.probe_life).map(|until| (id, until));
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
