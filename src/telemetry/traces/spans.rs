//! From an exchange's record to its spans: the exchange, its tries, and where their time went.
//!
//! Nothing of a prompt, an answer or a key can get in here, for the record holds none of it; names that clients make up
//! are in the record only where the configuration knows them.

use std::borrow::Cow;
use std::str::FromStr;
use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use opentelemetry::trace::{Event, SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};

use super::attributes::{self, Attributes};
use super::ids::Ids;
use super::is_error;
use super::names;
use super::phases::{self, Phase, Within};
use crate::measure::exchange::{Attempt, ExchangeRecord};
use crate::measure::outcome::Outcome;
use crate::units::Quantile;
use crate::wire::Api;
use crate::wire::trace_context::SpanId as SpanName;

/// Shorter silences are nothing that anyone notices.
const STALL_FROM: Duration = Duration::from_millis(100);
/// A silence is a stall when it is that many times as long as is usual in the same answer.
const STALL_TIMES: u32 = 4;

static SCOPE: LazyLock<InstrumentationScope> =
    LazyLock::new(|| InstrumentationScope::builder("headway").with_version(env!("CARGO_PKG_VERSION")).build());

/// How many spans [`of`] makes of a record.
pub(super) fn count(record: &ExchangeRecord) -> usize {
    let upload = usize::from(!record.phases.upload.is_zero());
    1 + record.attempts.len() + upload + phases::count(record)
}

/// Adds the spans of a record that has a place in a trace.
pub(super) fn of(record: &ExchangeRecord, ids: &Ids, made: &mut Vec<SpanData>) {
    let Some(trace) = &record.trace else { return };
    let state = trace.state.as_deref().and_then(|state| TraceState::from_str(state).ok()).unwrap_or_default();
    let tree = Tree { record, start: record.started, trace_id: TraceId::from_bytes(trace.trace_id), state };
    made.push(tree.exchange(trace.span_id, trace.parent));
    let tries: Vec<_> = record.attempts.iter().map(|one| one.course.span_id.unwrap_or_else(|| ids.span())).collect();
    for (place, (attempt, span_id)) in record.attempts.iter().zip(&tries).enumerate() {
        made.push(tree.attempt(place, attempt, *span_id, trace.span_id));
    }
    if !record.phases.upload.is_zero() {
        made.push(tree.upload(ids.span(), trace.span_id));
    }
    let mut previous = trace.span_id;
    for phase in phases::phases(record) {
        let span_id = ids.span();
        let parent = match phase.within {
            Within::Exchange => trace.span_id,
            Within::Try(place) => tries.get(place).copied().unwrap_or(trace.span_id),
            Within::Previous => previous,
        };
        made.push(tree.phase(&phase, span_id, parent));
        if phase.within != Within::Previous {
            previous = span_id;
        }
    }
}

/// What all spans of one exchange share.
struct Tree<'a> {
    record: &'a ExchangeRecord,
    /// Where offsets count from.
    start: SystemTime,
    trace_id: TraceId,
    state: TraceState,
}

/// Where a span stands.
struct Place {
    span_id: SpanName,
    parent: Option<SpanName>,
    /// Whether the parent is the caller's.
    remote: bool,
    from: SystemTime,
    to: SystemTime,
}

impl Tree<'_> {
    fn at(&self, offset: Duration) -> SystemTime {
        self.start + offset
    }

    fn span(&self, place: &Place, kind: SpanKind, name: impl Into<Cow<'static, str>>) -> SpanData {
        let span_id = SpanId::from_bytes(place.span_id);
        let flags = TraceFlags::SAMPLED;
        SpanData {
            span_context: SpanContext::new(self.trace_id, span_id, flags, false, self.state.clone()),
            parent_span_id: place.parent.map_or(SpanId::INVALID, SpanId::from_bytes),
            parent_span_is_remote: place.remote,
            span_kind: kind,
            name: name.into(),
            start_time: place.from,
            end_time: place.to,
            attributes: Vec::new(),
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: Status::Unset,
            instrumentation_scope: SCOPE.clone(),
        }
    }

    fn event(&self, name: &'static str, offset: Duration, attributes: Vec<KeyValue>) -> Event {
        Event::new(name, self.at(offset), attributes, 0)
    }

    /// From the request's head to the end of the answer.
    fn exchange(&self, span_id: SpanName, parent: Option<SpanName>) -> SpanData {
        let record = self.record;
        let from = self.start.checked_sub(record.phases.upload).unwrap_or(self.start);
        let place = Place { span_id, parent, remote: parent.is_some(), from, to: self.at(record.course.ended) };
        let method = record.course.method;
        let name = match record.api {
            Some(api) => Cow::from(format!("{method} {}", api.path())),
            None => method.into(),
        };
        let mut span = self.span(&place, SpanKind::Server, name);
        span.attributes = attributes::of_exchange(record);
        let chosen = record.attempts.iter().filter_map(|attempt| self.decision(attempt));
        span.events.events = chosen.chain(self.turned_away()).collect();
        if is_error(record) {
            span.status = Status::error(record.outcome.as_str());
        }
        span
    }

    /// That a backend was chosen.
    fn decision(&self, attempt: &Attempt) -> Option<Event> {
        let mut attributes = Attributes::default();
        attributes.text(names::BACKEND, attempt.backend.to_string());
        attributes.text(names::DECISION_REASON, attempt.reason?);
        attributes.maybe_number(names::DECISION_NUMBER, attempt.decision);
        Some(self.event(names::EVENT_DECISION, attempt.course.began, attributes.done()))
    }

    /// That no backend was chosen: what would be told of a try is told of the exchange.
    fn turned_away(&self) -> Option<Event> {
        let (record, decision) = (self.record, attributes::undone(self.record)?);
        let at = if record.phases.queue.is_zero() { record.course.ended } else { record.course.queued };
        let mut attributes = Attributes::default();
        attributes.text(names::DECISION_REASON, decision.reason);
        attributes.maybe_number(names::DECISION_NUMBER, Some(decision.number));
        Some(self.event(names::EVENT_DECISION, at, attributes.done()))
    }

    /// One try, as its backend's caller.
    fn attempt(&self, place: usize, attempt: &Attempt, span_id: SpanName, parent: SpanName) -> SpanData {
        let record = self.record;
        let (from, to) = (attempt.course.began, attempt.course.began + attempt.duration);
        let stands = Place { span_id, parent: Some(parent), remote: false, from: self.at(from), to: self.at(to) };
        let name = match (record.api, record.model.as_deref()) {
            (Some(api), Some(model)) => Cow::from(format!("{} {model}", operation(api))),
            (Some(api), None) => operation(api).into(),
            (None, _) => record.course.method.into(),
        };
        let mut span = self.span(&stands, SpanKind::Client, name);
        let last = place + 1 == record.attempts.len();
        span.attributes = attributes::of_try(record, attempt, place, last);
        span.events.events = self.answered(attempt, last);
        if failed(attempt) {
            span.status = Status::error(attempt.outcome.as_str());
        }
        span
    }

    /// What came when. Only the try that answered has more than its head.
    fn answered(&self, attempt: &Attempt, last: bool) -> Vec<Event> {
        let (record, course) = (self.record, &attempt.course);
        let first_byte = record.latencies.first_byte.filter(|_| last);
        let told = [
            first_byte.map(|at| self.event(names::EVENT_FIRST_BYTE, at, Vec::new())),
            course.first_token.map(|at| self.event(names::EVENT_FIRST_TOKEN, at, Vec::new())),
            self.stall().filter(|_| last),
            course
                .last_token
                .filter(|_| course.first_token.is_some())
                .map(|at| self.event(names::EVENT_LAST_TOKEN, at, Vec::new())),
        ];
        told.into_iter().flatten().collect()
    }

    /// The longest silence within the answer, at its end, if it was out of the ordinary. Shorter ones are not told.
    fn stall(&self) -> Option<Event> {
        let (ended, longest) = self.record.course.stall_ended.zip(self.record.latencies.longest_stall)?;
        let usual = self.record.gaps.as_ref()?.quantile(Quantile::P50)?;
        if longest < STALL_FROM || longest < usual * STALL_TIMES {
            return None;
        }
        let mut attributes = Attributes::default();
        attributes.seconds(names::STALL, longest);
        Some(self.event(names::EVENT_STALL, ended, attributes.done()))
    }

    /// The client's own pace, before the request was complete.
    fn upload(&self, span_id: SpanName, parent: SpanName) -> SpanData {
        let from = self.start.checked_sub(self.record.phases.upload).unwrap_or(self.start);
        let place = Place { span_id, parent: Some(parent), remote: false, from, to: self.start };
        self.span(&place, SpanKind::Internal, names::UPLOAD)
    }

    fn phase(&self, phase: &Phase, span_id: SpanName, parent: SpanName) -> SpanData {
        let (from, to) = (self.at(phase.from), self.at(phase.to));
        let place = Place { span_id, parent: Some(parent), remote: false, from, to };
        let mut span = self.span(&place, SpanKind::Internal, phase.name);
        span.attributes = attributes::of_phase(self.record, phase);
        span.events.events =
            phase.head.map(|head| self.event(names::EVENT_HEAD, head, Vec::new())).into_iter().collect();
        span
    }
}

/// The operation in the words of the `GenAI` conventions; the last two are not among theirs.
pub(super) fn operation(api: Api) -> &'static str {
    match api {
        Api::Chat | Api::Responses | Api::Messages => "chat",
        Api::Completions | Api::GenerateStream => "text_completion",
        Api::Embeddings => "embeddings",
        Api::Ranking => "rank",
        Api::Infer => "infer",
    }
}

/// Whether a try ended in an error, as a caller sees it: a backend's 4xx included, a client that left not.
pub(super) fn failed(attempt: &Attempt) -> bool {
    let status = attempt.course.status.unwrap_or(0);
    match attempt.outcome {
        Outcome::Complete => status >= 400,
        Outcome::ClientCancelled | Outcome::ClientStalled | Outcome::Drained | Outcome::HedgeLost => false,
        _ => true,
    }
}
