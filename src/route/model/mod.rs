//! What this replica knows of one backend: its load, and what was learned of its latencies.
//!
//! One value per backend, driven by four calls: [`BackendModel::outlook`] before a decision, then
//! [`BackendModel::dispatched`], [`BackendModel::first_token`], [`BackendModel::tokens`] and [`BackendModel::ended`].
//! The proxy keeps it under a short lock, the policy simulator owns it.

mod route;
mod ticket;

use std::time::{Duration, Instant};

pub use route::{Output, RouteModel};
pub use ticket::{How, Ticket};

use super::decision::Reason;
use super::load::{EngineReport, OtherLoad};
use super::prefix::Prefix;
use super::snapshot::{Outlook, RequestFacts, RouteSlot};
use super::tuning::Tuning;

/// A request that asks what a backend would make of it.
#[derive(Debug, Clone, Copy)]
pub struct Asking<'a> {
    /// Sizes and objectives.
    pub facts: &'a RequestFacts,
    /// Its route.
    pub route: RouteSlot,
    /// Its prompt's blocks; empty when there are none.
    pub prefix: Prefix<'a>,
    /// Output tokens to expect: [`RouteModel::output`].
    pub output: Output,
}

/// What this replica knows of one backend.
#[derive(Debug, Clone)]
pub struct BackendModel {
    tuning: Tuning,
    requests: u64,
    books: u64,
}

impl BackendModel {
    /// Nothing is known yet: starts from priors that fit models of about eight billion parameters.
    #[must_use]
    pub fn new(tuning: Tuning, now: Instant) -> Self {
        let _ = now;
        Self { tuning, requests: 0, books: 0 }
    }

    /// What to expect of the backend if this request were sent there now. Allocates nothing.
    #[must_use]
    pub fn outlook(&self, asking: &Asking<'_>, now: Instant) -> Outlook {
        let _ = (asking, now, &self.tuning);
        Outlook::default()
    }

    /// The request is sent: its load counts from here on. `reason` says whether it is a probe.
    pub fn dispatched(&mut self, asking: &Asking<'_>, reason: Reason, now: Instant) -> Ticket {
        self.requests += 1;
        Ticket {
            id: self.requests,
            books: self.books,
            route: asking.route,
            stream: asking.facts.stream,
            sent: now,
            first_token: false,
            ttft_features: [0.0; 4],
            uncached_tokens: 0.0,
            kv_tokens: 0.0,
            probe: reason == Reason::Probe,
        }
    }

    /// The first token of a stream came. Later calls, and calls for what is not streamed, change nothing.
    pub fn first_token(&mut self, ticket: &mut Ticket, now: Instant) {
        let _ = (self, now);
        ticket.first_token = true;
    }

    /// Bytes of any stream came. One store; lets standing streams be told from slow ones between two calls of
    /// [`Self::tokens`].
    pub fn progressed(&mut self, now: Instant) {
        let _ = (self, now);
    }

    /// So many more tokens of a stream came, at this mean gap: to be called every 16 gaps.
    pub fn tokens(&mut self, ticket: &mut Ticket, count: u32, mean_gap: Duration, now: Instant) {
        let _ = (self, ticket, count, mean_gap, now);
    }

    /// The request is over; its load is taken off the books.
    pub fn ended(&mut self, ticket: Ticket, how: How, now: Instant) {
        let _ = (self, ticket, how, now);
    }

    /// The backend was taken out of service: its books and its prefix index are void, what was learned stays.
    pub fn ejected(&mut self) {
        self.books += 1;
    }

    /// What other replicas have in flight there.
    pub fn others(&mut self, others: OtherLoad) {
        let _ = (self, others);
    }

    /// What the engine says is in it: what is more than our own and the other replicas' load is someone else's.
    pub fn engine_reported(&mut self, report: EngineReport, now: Instant) {
        let _ = (self, report, now);
    }
}
