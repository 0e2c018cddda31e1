//! Guards over what is counted while alive: a request at a backend, and a retry.
//!
//! Each is released by `Drop`, exactly once, whatever becomes of the exchange.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Instant;

use super::backend::LiveBackend;
use super::route::{Pair, RouteCounts};
use crate::measure::outcome::Blame;
use crate::route::model::{How, Ticket};

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
    /// Whether the first token has not come yet.
    pub(super) awaiting: bool,
    /// What the backend's model knows of it; taken when it ends.
    pub(super) ticket: Option<Ticket>,
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

    /// The first token came.
    pub fn first_token(&mut self, now: Instant) {
        if self.awaiting {
            self.answered();
        }
        if let Some(ticket) = &mut self.ticket {
            self.backend.shared.model().first_token(ticket, now);
        }
    }

    /// So many output tokens came.
    pub fn tokens(&self, count: u64) {
        self.backend.shared.output_tokens.fetch_add(count, Ordering::Relaxed);
    }

    /// The attempt is over, and this is what its end says about the backend. Dropping the guard instead says nothing.
    pub fn ended(mut self, blame: Blame, now: Instant) {
        let how = match blame {
            Blame::Success => How::Completed { output_tokens: None, mean_gap: None, paced_by_client: false },
            Blame::Neutral => How::Cancelled,
            Blame::Fault => How::Failed,
        };
        if let Some(ticket) = self.ticket.take() {
            self.backend.shared.model().ended(ticket, how, now);
        }
        let probe = std::mem::take(&mut self.probe);
        self.backend.shared.ended(blame, probe, now);
    }

    fn answered(&mut self) {
        self.awaiting = false;
        lower(&self.pair.awaiting);
        lower_by(&self.backend.shared.waiting_tokens, self.input_tokens);
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if self.awaiting {
            self.answered();
        }
        if let Some(ticket) = self.ticket.take() {
            self.backend.shared.model().dropped(ticket);
        }
        if self.probe {
            self.backend.shared.probe_lost();
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
