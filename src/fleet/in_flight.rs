//! Guards over what is counted while alive: a request at a backend, and a retry.
//!
//! Each is released by `Drop`, exactly once, whatever becomes of the exchange.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Instant;

use super::backend::LiveBackend;
use super::route::{Pair, RouteCounts};
use crate::measure::outcome::Blame;

/// One attempt in flight at a backend.
#[derive(Debug)]
#[allow(clippy::struct_excessive_bools, reason = "each says which counter this one still holds")]
pub struct InFlight {
    pub(super) backend: Arc<LiveBackend>,
    pub(super) pair: Arc<Pair>,
    pub(super) counts: Arc<RouteCounts>,
    /// Estimated prompt tokens.
    pub(super) input_tokens: u64,
    pub(super) stream: bool,
    /// Whether the breaker waits for this one's end.
    pub(super) probe: bool,
    pub(super) exploring: bool,
    /// Whether the backend owes it nothing now.
    pub(super) excused: bool,
    /// Whether the first token has not come yet.
    pub(super) awaiting: bool,
    /// How many others were in flight there when it was sent.
    pub(super) others: u32,
}

impl InFlight {
    /// The request has been sent to the backend: from now on it owes an answer.
    pub fn sent(&self, now: Instant) {
        self.backend.shared.owes(self.stream, now);
    }

    /// Bytes came from the backend, of whatever kind. One relaxed store.
    pub fn progressed(&self, now: Instant) {
        self.backend.shared.progressed(now);
    }

    /// The backend owes nothing now: its answer is over, or it is not listened to because the client is slow. Its
    /// silence is not its fault.
    pub fn excuse(&mut self) {
        if !std::mem::replace(&mut self.excused, true) {
            self.backend.shared.excused.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// The backend is listened to again.
    pub fn listen(&mut self, now: Instant) {
        if std::mem::take(&mut self.excused) {
            self.progressed(now);
            lower(&self.backend.shared.excused);
        }
    }

    /// The first token came.
    pub fn first_token(&mut self, now: Instant) {
        if self.awaiting {
            self.answered();
            self.pair.answered(self.others, now);
        }
    }

    /// So many output tokens came.
    pub fn tokens(&self, count: u64) {
        self.backend.shared.output_tokens.fetch_add(count, Ordering::Relaxed);
    }

    /// The attempt is over, and this is what its end says about the backend. Dropping the guard instead says nothing.
    pub fn ended(mut self, blame: Blame, now: Instant) {
        if blame == Blame::Success && self.awaiting {
            self.pair.answered(self.others, now);
        }
        let probe = std::mem::take(&mut self.probe);
        self.backend.shared.ended(blame, probe, now);
    }

    fn answered(&mut self) {
        self.awaiting = false;
        lower(&self.pair.awaiting);
        lower_by(&self.backend.shared.waiting_tokens, self.input_tokens);
        if self.exploring {
            lower(&self.pair.exploring);
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if self.awaiting {
            self.answered();
        }
        if self.probe {
            self.backend.shared.probe_lost();
        }
        if self.excused {
            lower(&self.backend.shared.excused);
        }
        if self.stream {
            lower(&self.backend.shared.streaming);
        }
        lower(&self.counts.active);
        lower(&self.backend.shared.in_flight);
    }
}

/// Leave to try a second backend; counts against the route's budget until dropped.
#[derive(Debug)]
pub struct RetryPermit {
    counts: Arc<RouteCounts>,
}

impl RetryPermit {
    pub(super) fn take(counts: &Arc<RouteCounts>, share: f64) -> Option<Self> {
        let most = most_retries(counts.active.load(Ordering::Relaxed), share);
        let step = |count: u32| (count < most).then(|| count + 1);
        counts.retrying.fetch_update(Ordering::AcqRel, Ordering::Acquire, step).ok()?;
        Some(Self { counts: Arc::clone(counts) })
    }
}

impl Drop for RetryPermit {
    fn drop(&mut self) {
        lower(&self.counts.retrying);
    }
}

/// A share of the active requests, and a few in any case, so that a quiet route can retry at all.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of a count, not negative")]
fn most_retries(active: u32, share: f64) -> u32 {
    const FEW: u32 = 3;
    if share <= 0.0 { 0 } else { ((f64::from(active) * share) as u32).max(FEW) }
}

/// Every decrement has had its increment; should one not, a stuck gauge is better than a wrapped one.
fn lower(counter: &AtomicU32) {
    let before = counter.fetch_update(Ordering::AcqRel, Ordering::Acquire, |count| count.checked_sub(1));
    debug_assert!(before.is_ok(), "a guard was released twice");
}

fn lower_by(counter: &AtomicU64, by: u64) {
    let before = counter.fetch_update(Ordering::AcqRel, Ordering::Acquire, |count| count.checked_sub(by));
    debug_assert!(before.is_ok(), "a guard was released twice");
}
