//! Guards over what is counted while alive: a request at a backend, and a retry.
//!
//! Each is released by `Drop`, exactly once, whatever becomes of the exchange.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::backend::LiveBackend;
use super::line::Line;
use super::pace::Pace;
use super::route::RouteCounts;
use crate::measure::bursts::Delivery;
use crate::measure::outcome::Blame;
use crate::route::model::{How, Ticket};
use crate::route::price::{Price, Work};

/// One attempt in flight at a backend.
#[derive(Debug)]
pub struct InFlight {
    pub(super) backend: Arc<LiveBackend>,
    pub(super) counts: Arc<RouteCounts>,
    /// Those that wait for a place; told when there may be one.
    pub(super) line: Arc<Line>,
    pub(super) stream: bool,
    /// Whether the breaker waits for this one's end.
    pub(super) probe: bool,
    /// Whether the backend owes it nothing now.
    pub(super) excused: bool,
    /// What the backend's model knows of it; taken when it ends.
    pub(super) ticket: Option<Ticket>,
    pub(super) pace: Pace,
    /// What it makes the backend do, as far as expected, and what that costs.
    pub(super) work: Work,
    pub(super) price: Option<Price>,
}

/// An answer that is whole.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Served {
    /// Output tokens, as far as stated or counted.
    pub output_tokens: Option<u64>,
    /// Mean gap between the tokens of a stream.
    pub mean_gap: Option<Duration>,
    /// Whether its tokens were held back on their way: then it teaches nothing about latency.
    pub held_back: bool,
}

/// Tells a backend's watchdog of bytes, for as long as somebody listens.
#[derive(Debug, Clone)]
pub struct Progress(Arc<LiveBackend>);

impl Progress {
    /// Bytes came from the backend, of whatever kind. One relaxed store.
    pub fn at(&self, now: Instant) {
        self.0.shared.progressed(now);
    }
}

impl InFlight {
    /// For whoever reads from the backend while the guard is kept elsewhere.
    #[must_use]
    pub fn progress(&self) -> Progress {
        Progress(Arc::clone(&self.backend))
    }

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

    /// The first token of a stream came.
    pub fn first_token(&mut self, now: Instant) {
        if let Some(ticket) = &mut self.ticket {
            let shared = &self.backend.shared;
            if shared.buffering.is_confirmed() {
                shared.model().first_token_held_back(ticket, now);
            } else {
                shared.model().first_token(ticket, now);
            }
        }
        self.pace.begin(now);
        self.line.call();
    }

    /// So many tokens of a stream came with one read. The model hears of them every sixteen.
    pub fn tokens(&mut self, count: u64, now: Instant) {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        if count == 0 {
            return;
        }
        let shared = &self.backend.shared;
        shared.token_seen(now);
        let (Some(sample), Some(ticket)) = (self.pace.add(count, now), &mut self.ticket) else { return };
        shared.output_tokens.fetch_add(sample.tokens.into(), Ordering::Relaxed);
        match sample.mean_gap.filter(|_| !shared.buffering.is_confirmed()) {
            Some(gap) => shared.model().tokens(ticket, sample.tokens, gap, now),
            None => shared.model().counted(ticket, sample.tokens, now),
        }
    }

    /// The client does not keep up: from now on its reading sets the pace, which says nothing about the backend.
    pub fn paced_by_client(&mut self) {
        self.pace.set_by_client();
    }

    /// What the answer cost, by the tokens that the backend states; what it does not state is taken as expected.
    #[must_use]
    #[allow(clippy::cast_precision_loss, reason = "token counts are far below 2^52")]
    pub fn cost(&self, input: Option<u64>, cached: Option<u64>, output: Option<u64>) -> Option<f64> {
        let cached = cached.map_or(self.work.cached_tokens, |tokens| tokens as f64);
        let input = input.map_or(self.work.uncached_tokens + self.work.cached_tokens, |tokens| tokens as f64);
        let output_tokens = output.map_or(self.work.output_tokens, |tokens| tokens as f64);
        let cached_tokens = cached.min(input);
        let uncached_tokens = input - cached_tokens;
        self.price.map(|price| price.of(&Work { uncached_tokens, cached_tokens, output_tokens, ..self.work }))
    }

    /// Whether its tokens were held back on their way, by how they came; to be asked once, at the end.
    #[must_use]
    pub fn held_back(&self, delivery: Option<Delivery>) -> bool {
        self.stream && self.backend.shared.buffering.judge(self.backend.name(), delivery)
    }

    /// The answer is whole, and everything about it is learned.
    pub fn served(mut self, served: &Served, now: Instant) {
        let Served { output_tokens, mean_gap, held_back } = *served;
        let paced_by_client = self.pace.is_set_by_client() || held_back;
        self.end(How::Completed { output_tokens, mean_gap, paced_by_client }, now);
        self.judge(Blame::Success, now);
    }

    /// The attempt is over without an answer to learn from, and this is what its end says about the backend. Dropping
    /// the guard instead says nothing.
    pub fn ended(mut self, blame: Blame, now: Instant) {
        self.end(if blame == Blame::Fault { How::Failed } else { How::Cancelled }, now);
        self.judge(blame, now);
    }

    /// Another backend was asked for the same when this one was late, and was faster: it took at least so long.
    pub fn outrun(mut self, now: Instant) {
        self.end(How::Outrun, now);
        self.judge(Blame::Neutral, now);
    }

    fn end(&mut self, how: How, now: Instant) {
        if let Some(ticket) = self.ticket.take() {
            let fall = self.backend.shared.model().ended(ticket, how, now);
            if let Some(fall) = fall {
                self.counts.model().fell(&fall);
            }
        }
    }

    fn judge(&mut self, blame: Blame, now: Instant) {
        let probe = std::mem::take(&mut self.probe);
        self.backend.shared.ended(blame, probe, now);
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let shared = &self.backend.shared;
        if let Some(ticket) = self.ticket.take() {
            shared.model().dropped(ticket);
        }
        shared.output_tokens.fetch_add(self.pace.rest().into(), Ordering::Relaxed);
        if self.probe {
            shared.probe_lost();
        }
        if self.excused {
            lower(&shared.excused);
        }
        if self.stream {
            lower(&shared.streaming);
        }
        lower(&self.counts.active);
        lower(&shared.in_flight);
        self.line.call();
    }
}

/// Leave to try a second backend; counts against the route's budget until dropped.
#[derive(Debug)]
pub struct RetryPermit {
    counts: Arc<RouteCounts>,
}

impl RetryPermit {
    pub(super) fn take(counts: &Arc<RouteCounts>, share: f64) -> Option<Self> {
        let active = counts.active.load(Ordering::Relaxed);
        // Retries are no reason for more of them.
        let most = |retrying| most_retries(active.saturating_sub(retrying), share);
        let step = |count: u32| (count < most(count)).then(|| count + 1);
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
