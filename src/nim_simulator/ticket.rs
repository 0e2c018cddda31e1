//! Accounting of one request, from its body to its end, whatever the end is.
//!
//! A ticket is dropped with the response body or the handler that owns it, and that is when hyper sees the client go:
//! so an abandoned request leaves the engine in the same instant, and the truth log says when.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, UNIX_EPOCH};

use crate::nim_simulator::faults::FaultKind;
use crate::nim_simulator::request::{Api, Job};
use crate::nim_simulator::state::State;
use crate::nim_simulator::truth::TruthRecord;

/// How a request ended; without any, its client left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Completed,
    Rejected,
    Refused,
    Fault,
}

/// One request under way.
pub(super) struct Ticket {
    state: Arc<State>,
    ids: Vec<u64>,
    received: Instant,
    first: Option<Instant>,
    last: Option<Instant>,
    longest_gap: Duration,
    end: Option<End>,
    finish_reasons: Vec<&'static str>,
    record: TruthRecord,
}

impl Ticket {
    /// Opens the account of a request whose body is complete.
    pub(super) fn new(state: Arc<State>, api: Api, x_request_id: Option<String>) -> Self {
        state.counts.requests.fetch_add(1, Ordering::Relaxed);
        state.counts.in_flight.fetch_add(1, Ordering::Relaxed);
        let wall = state.clock.wall().duration_since(UNIX_EPOCH).unwrap_or_default();
        let received = state.clock.now();
        let record = TruthRecord {
            x_request_id,
            api: api.name(),
            received_unix_ms: wall.as_secs_f64() * 1e3,
            ..TruthRecord::default()
        };
        Self {
            state,
            ids: Vec::new(),
            received,
            first: None,
            last: None,
            longest_gap: Duration::ZERO,
            end: None,
            finish_reasons: Vec::new(),
            record,
        }
    }

    pub(super) fn parsed(&mut self, job: &Job) {
        self.record.model.clone_from(&job.model);
        self.record.stream = job.stream;
        self.record.prompt_tokens = job.prompt_tokens;
        self.finish_reasons = job.choices.iter().map(super::request::Choice::finish_reason).collect();
    }

    pub(super) fn struck(&mut self, fault: FaultKind) {
        self.record.fault = Some(fault.name());
    }

    /// The engine has taken the request under these names.
    pub(super) fn submitted(&mut self, ids: Vec<u64>, cached: u32) {
        self.ids = ids;
        self.record.cached_tokens = cached;
    }

    pub(super) fn answered(&mut self, status: http::StatusCode) {
        self.record.status = status.as_u16();
    }

    /// A token goes to the connection.
    pub(super) fn token(&mut self) {
        let now = self.state.clock.now();
        self.record.tokens = self.record.tokens.saturating_add(1);
        let metrics = &self.state.metrics;
        match self.last {
            None => {
                self.first = Some(now);
                metrics.first_token(&self.record.model, now.saturating_duration_since(self.received));
            }
            Some(last) => {
                let gap = now.saturating_duration_since(last);
                self.longest_gap = self.longest_gap.max(gap);
                metrics.next_token(&self.record.model, gap);
            }
        }
        self.last = Some(now);
    }

    /// The request is over; what comes after no longer changes how it ended.
    pub(super) fn end(&mut self, end: End) {
        self.end.get_or_insert(end);
        if end != End::Completed {
            self.state.engine.abort(&std::mem::take(&mut self.ids));
        }
    }

    fn since(&self, instant: Instant) -> f64 {
        instant.saturating_duration_since(self.received).as_secs_f64() * 1e3
    }

    fn close(&mut self) {
        let now = self.state.clock.now();
        let counts = &self.state.counts;
        let (outcome, counter) = match self.end {
            None => ("aborted", &counts.aborted),
            Some(End::Completed) => ("completed", &counts.completed),
            Some(End::Rejected) => ("rejected", &counts.rejected),
            Some(End::Refused) => ("refused", &counts.refused),
            Some(End::Fault) => ("fault", &counts.faulted),
        };
        counter.fetch_add(1, Ordering::Relaxed);
        counts.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.record.outcome = outcome;
        self.record.end_ms = self.since(now);
        self.record.aborted_ms = self.end.is_none().then(|| self.since(now));
        self.record.ttft_ms = self.first.map(|first| self.since(first));
        self.record.last_ms = self.last.map(|last| self.since(last));
        if let (Some(first), Some(last), 2..) = (self.first, self.last, self.record.tokens) {
            let gaps = f64::from(self.record.tokens - 1);
            self.record.itl_ms = Some(last.saturating_duration_since(first).as_secs_f64() * 1e3 / gaps);
            self.record.longest_gap_ms = Some(self.longest_gap.as_secs_f64() * 1e3);
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.state.engine.abort(&std::mem::take(&mut self.ids));
        self.close();
        let record = std::mem::take(&mut self.record);
        self.state.metrics.ended(&record, &self.finish_reasons);
        self.state.truth.push(record);
    }
}
