//! One exchange under way: gathers what its record will say, and writes the record exactly once.
//!
//! However an exchange ends, a dropped task and a panic included, its record is written: by [`Exchange::finish`], or
//! else by `Drop`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Proxy;
use super::lifecycle::Active;
use crate::fleet::Fleet;
use crate::measure::exchange::{Attempt, ExchangeRecord, Latencies, Phases};
use crate::measure::objective::{Ended, Verdicts};
use crate::measure::outcome::Outcome;
use crate::wire::Usage;

/// The exchange and its record so far.
pub(super) struct Exchange {
    proxy: Arc<Proxy>,
    /// The configuration it began with and ends with.
    pub(super) fleet: Arc<Fleet>,
    /// The matched route's place in the settings.
    pub(super) route: Option<usize>,
    /// The head was complete.
    pub(super) arrived: Instant,
    /// The request was complete: the start of every latency.
    pub(super) started: Instant,
    /// What is known so far; `None` once written.
    record: Option<Box<ExchangeRecord>>,
    _active: Active,
}

impl Exchange {
    pub(super) fn new(proxy: &Arc<Proxy>, request_id: Arc<str>, now: Instant) -> Self {
        let record = ExchangeRecord {
            started: proxy.clock.wall(),
            request_id,
            trace_id: None,
            route: None,
            api: None,
            model: None,
            attempts: Vec::new(),
            status: 0,
            outcome: Outcome::InternalError,
            stream: false,
            choices: 1,
            latencies: Latencies::default(),
            gaps: None,
            usage: Usage::default(),
            finish_reason: None,
            phases: Phases::default(),
            bytes_in: 0,
            bytes_out: 0,
            decision: None,
            cost: None,
            shed: None,
            verdicts: Verdicts::default(),
        };
        Self {
            proxy: Arc::clone(proxy),
            fleet: proxy.fleet.load_full(),
            route: None,
            arrived: now,
            started: now,
            record: Some(Box::new(record)),
            _active: proxy.lifecycle.begin(),
        }
    }

    /// Changes what the record will say.
    pub(super) fn note(&mut self, change: impl FnOnce(&mut ExchangeRecord)) {
        if let Some(record) = &mut self.record {
            change(record);
        }
    }

    /// The request is complete: latencies count from here.
    pub(super) fn request_complete(&mut self, now: Instant) {
        self.started = now;
        let (upload, wall) = (now.saturating_duration_since(self.arrived), self.proxy.clock.wall());
        self.note(|record| {
            record.phases.upload = upload;
            record.started = wall;
        });
    }

    pub(super) fn request_id(&self) -> Arc<str> {
        self.record.as_ref().map_or_else(|| "".into(), |record| Arc::clone(&record.request_id))
    }

    /// Why the backend was chosen.
    pub(super) fn decision_reason(&self) -> Option<&'static str> {
        Some(self.record.as_ref()?.decision.as_ref()?.reason)
    }

    /// The number of the decision.
    pub(super) fn decision_number(&self) -> Option<u64> {
        Some(self.record.as_ref()?.decision.as_ref()?.number)
    }

    /// What headway itself has added so far.
    pub(super) fn overhead(&self) -> Duration {
        self.record.as_ref().map_or(Duration::ZERO, |record| record.phases.overhead)
    }

    /// Adds a try on a backend.
    pub(super) fn attempted(&mut self, attempt: Attempt) {
        self.note(|record| record.attempts.push(attempt));
    }

    /// Ends the exchange.
    pub(super) fn finish(mut self, outcome: Outcome) {
        self.write(outcome);
    }

    fn write(&mut self, outcome: Outcome) {
        // Asked first: what panics after the record is taken would lose it.
        let now = self.proxy.clock.now();
        let Some(mut record) = self.record.take() else { return };
        record.outcome = outcome;
        record.verdicts = self.verdicts(&record);
        let record = Arc::new(*record);
        self.fleet.record(&record, now);
        self.proxy.telemetry.record(record, now);
    }

    fn verdicts(&self, record: &ExchangeRecord) -> Verdicts {
        // Promises are about models; a path that is passed through has none.
        if record.api.is_none() {
            return Verdicts::default();
        }
        let settings = self.fleet.settings();
        let Some(route) = self.route.and_then(|route| settings.routes.get(route)) else { return Verdicts::default() };
        route.objectives.judge(&Ended {
            outcome: record.outcome,
            stream: record.stream,
            choices: record.choices,
            latencies: &record.latencies,
            output_tokens: record.usage.output_tokens,
        })
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // The client will be told so, unless it has been told something already.
            self.note(|record| record.status = if record.status == 0 { 500 } else { record.status });
            return self.write(Outcome::InternalError);
        }
        // A task that is dropped before its exchange ended was cancelled with its connection, or by us at the very end.
        let outcome = if self.proxy.lifecycle.is_cut() { Outcome::Drained } else { Outcome::ClientCancelled };
        self.write(outcome);
    }
}
