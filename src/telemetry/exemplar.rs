//! One exchange per bucket that has a trace: from a slow bucket on a dashboard to what made it slow.
//!
//! Kept beside a histogram, one slot per bucket, so that their number is as bounded as the buckets'. Only OpenMetrics
//! can write them.

use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

/// What points from a bucket to a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Exemplar {
    /// The W3C trace id.
    pub(super) trace_id: [u8; 16],
    /// What was observed.
    pub(super) value: Duration,
    /// When.
    pub(super) at: SystemTime,
}

impl Exemplar {
    /// The trace id in the 32 digits of a `traceparent`.
    pub(super) fn trace(&self) -> String {
        format!("{:032x}", u128::from_be_bytes(self.trace_id))
    }
}

/// The latest exemplar of each bucket. Nothing is allocated before the first.
#[derive(Debug, Default)]
pub(super) struct Exemplars(OnceLock<Mutex<Box<[Option<Exemplar>]>>>);

impl Exemplars {
    /// Keeps one for a bucket. Where another thread is about to, that one may stay: whichever it is, it is an example.
    pub(super) fn keep(&self, bucket: usize, buckets: usize, exemplar: Exemplar) {
        let slots = self.0.get_or_init(|| Mutex::new(vec![None; buckets].into()));
        if let Ok(mut slots) = slots.try_lock()
            && let Some(slot) = slots.get_mut(bucket)
        {
            *slot = Some(exemplar);
        }
    }

    /// All of them, by bucket; empty when there never was one.
    pub(super) fn all(&self) -> Vec<Option<Exemplar>> {
        self.0.get().map_or_else(Vec::new, |slots| slots.lock().unwrap_or_else(PoisonError::into_inner).to_vec())
    }
}
