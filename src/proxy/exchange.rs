//! One exchange under way: gathers what its record will say, and writes the record exactly once.
//!
//! However an exchange ends, a dropped task and a panic included, its record is written: by [`Exchange::finish`], or
//! else by `Drop`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderValue, Method, Version};
use pingora_core::protocols::http::server::Session;

use super::Proxy;
use super::cors::Reader;
use super::headers::{self, TraceFields};
use super::inspect;
use super::ladder::Reach;
use super::lifecycle::Active;
use super::stamp::Stamp;
use crate::fleet::{Admission, Caller, Fleet};
use crate::measure::course::TraceContext;
use crate::measure::exchange::{Attempt, DecisionSummary, ExchangeRecord};
use crate::measure::group::{FellOver, GroupIndex};
use crate::measure::objective::{Ended, Verdicts};
use crate::measure::outcome::Outcome;
use crate::route::snapshot::BackendIndex;
use crate::wire::trace_context::{SpanId, TraceParent};

/// The exchange and its record so far.
pub(super) struct Exchange {
    proxy: Arc<Proxy>,
    /// The configuration it began with and ends with.
    pub(super) fleet: Arc<Fleet>,
    /// The matched route's place in the settings.
    pub(super) route: Option<usize>,
    /// Who asks, where callers need a key.
    pub(super) caller: Option<Arc<Caller>>,
    /// Counts the request among its caller's.
    pub(super) admission: Option<Admission>,
    /// Tokens of the prompt that were set aside, as estimated.
    pub(super) reserved_input: u64,
    /// Tokens of the answer, as far as they were seen.
    pub(super) seen_output: u64,
    /// Its connection to a backend, counted.
    reach: Option<Reach>,
    /// The web page that asks.
    reader: Reader,
    /// The head was complete.
    pub(super) arrived: Instant,
    /// The request was complete: the start of every latency.
    pub(super) started: Instant,
    /// What is known so far; `None` once written.
    record: Option<Box<ExchangeRecord>>,
    /// The client's `traceparent`, if it sent a valid one.
    traceparent: Option<HeaderValue>,
    _active: Active,
}

impl Exchange {
    pub(super) fn new(proxy: &Arc<Proxy>, request_id: Arc<str>, now: Instant) -> Self {
        let record = ExchangeRecord::begun(proxy.clock.wall(), request_id);
        Self {
            proxy: Arc::clone(proxy),
            fleet: proxy.fleet.load_full(),
            route: None,
            caller: None,
            admission: None,
            reserved_input: 0,
            seen_output: 0,
            reach: None,
            reader: Reader::default(),
            arrived: now,
            started: now,
            record: Some(Box::new(record)),
            traceparent: None,
            _active: proxy.lifecycle.begin(),
        }
    }

    /// Notes how the request came, and whose trace it belongs to.
    pub(super) fn received(&mut self, session: &Session) {
        let head = session.req_header();
        let caller = headers::traceparent(&head.headers);
        let parent = caller.as_ref().map(|(parent, _)| *parent);
        let state = || headers::tracestate(&head.headers);
        let trace = self.proxy.telemetry.begin_trace(parent, state);
        let (secure, is_h2) = (inspect::is_secure(session), head.version == Version::HTTP_2);
        let method = method(&head.method);
        self.traceparent = caller.map(|(_, field)| field.clone());
        self.reader = Reader::of(self.fleet.settings().access.cors.as_ref(), &head.headers);
        self.note(|record| {
            record.trace_id = trace.as_ref().map(|trace| trace.trace_id).or(parent.map(|parent| parent.trace_id));
            record.trace = trace;
            (record.course.method, record.course.https, record.course.http2) = (method, secure, is_h2);
        });
    }

    fn trace(&self) -> Option<&TraceContext> {
        self.record.as_ref()?.trace.as_ref()
    }

    /// A name for the span of a try, where traces are made.
    pub(super) fn new_span(&self) -> Option<SpanId> {
        self.trace().and_then(|_| self.proxy.telemetry.new_span())
    }

    /// What a backend is told of the trace: that the try called it; without traces of our own, what the client said.
    pub(super) fn trace_fields(&self, span_id: Option<SpanId>) -> TraceFields {
        let told = span_id.filter(|_| self.proxy.telemetry.propagates_traces());
        let own = self.trace().zip(told).map(|(trace, span_id)| {
            let field = TraceParent { trace_id: trace.trace_id, span_id, sampled: trace.sampled }.field();
            HeaderValue::try_from(field).ok()
        });
        TraceFields {
            traceparent: own.flatten().or_else(|| self.traceparent.clone()),
            with_state: self.traceparent.is_some(),
        }
    }

    /// A decision for the trace of a try that another one may follow, or had stood beside.
    pub(super) fn traced(&self, decision: DecisionSummary) -> Option<Box<DecisionSummary>> {
        self.trace().map(|_| Box::new(decision))
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

    /// What is put on the answer, whoever gives it.
    pub(super) fn stamp(&self) -> Stamp {
        let now = self.proxy.clock.now();
        let allowance = self.caller.as_ref().map(|caller| caller.allowance(now)).unwrap_or_default();
        let asks_for_keys = self.fleet.asks_for_keys();
        Stamp { request_id: self.request_id(), allowance, asks_for_keys, reader: self.reader.clone() }
    }

    /// Takes a descriptor for a connection to a backend, once; whether it has one.
    pub(super) fn reach(&mut self) -> bool {
        if self.reach.is_none() {
            self.reach = self.proxy.reach();
        }
        self.reach.is_some()
    }

    /// Draws the group that it belongs to, where its route has several. What only one backend can serve belongs to none:
    /// it goes there whatever is drawn.
    pub(super) fn assign(&mut self, route: usize, excluded: &[BackendIndex]) -> Option<GroupIndex> {
        let assigned = excluded.is_empty().then(|| self.fleet.assign(route)).flatten()?;
        let group = assigned.group;
        self.note(|record| record.group = Some(assigned));
        Some(group)
    }

    /// Another group than its own was asked, or not.
    pub(super) fn fell_over(&mut self, why: Option<FellOver>) {
        self.note(|record| {
            if let Some(assigned) = &mut record.group {
                assigned.fell_over = why;
            }
        });
    }

    /// Why the backend was chosen.
    pub(super) fn decision_reason(&self) -> Option<&'static str> {
        Some(self.record.as_ref()?.decision.as_ref()?.reason)
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
        record.course.ended = now.saturating_duration_since(self.started);
        self.settle(&record, now);
        self.proxy.telemetry.judge_trace(&mut record);
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

/// The methods that are told apart; clients can make up others,
/// <https://opentelemetry.io/docs/specs/semconv/http/http-spans/>.
fn method(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        Method::PATCH => "PATCH",
        Method::CONNECT => "CONNECT",
        Method::TRACE => "TRACE",
        _ => "_OTHER",
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
