//! What spans say: attributes by the HTTP and `GenAI` conventions, and `headway.*`.

use std::time::Duration;

use opentelemetry::{Array, KeyValue, StringValue, Value};

use super::is_error;
use super::names::{self, PROVIDER_NAME};
use super::phases::Phase;
use super::spans::{failed, operation};
use crate::measure::course::Kept;
use crate::measure::exchange::{Attempt, DecisionSummary, ExchangeRecord};
use crate::measure::objective::{Latency, Objective};
use crate::measure::outcome::ShedReason;
use crate::wire::Api;

/// Attributes being put together; what is absent is left out.
#[derive(Debug, Default)]
pub(super) struct Attributes(Vec<KeyValue>);

impl Attributes {
    pub(super) fn done(self) -> Vec<KeyValue> {
        self.0
    }

    fn add(&mut self, name: &'static str, value: impl Into<Value>) {
        self.0.push(KeyValue::new(name, value));
    }

    pub(super) fn text(&mut self, name: &'static str, value: impl Into<StringValue>) {
        self.add(name, value.into());
    }

    fn maybe_text(&mut self, name: &'static str, value: Option<&str>) {
        if let Some(value) = value {
            self.text(name, value.to_owned());
        }
    }

    fn number(&mut self, name: &'static str, value: u64) {
        self.add(name, i64::try_from(value).unwrap_or(i64::MAX));
    }

    pub(super) fn maybe_number(&mut self, name: &'static str, value: Option<u64>) {
        if let Some(value) = value {
            self.number(name, value);
        }
    }

    fn maybe_float(&mut self, name: &'static str, value: Option<f64>) {
        if let Some(value) = value {
            self.add(name, value);
        }
    }

    pub(super) fn seconds(&mut self, name: &'static str, value: Duration) {
        self.add(name, value.as_secs_f64());
    }

    fn maybe_seconds(&mut self, name: &'static str, value: Option<Duration>) {
        if let Some(value) = value {
            self.seconds(name, value);
        }
    }
}

/// Of the span of the exchange: what the client asked and felt.
pub(super) fn of_exchange(record: &ExchangeRecord) -> Vec<KeyValue> {
    let mut of = Attributes(Vec::with_capacity(32));
    let (course, last) = (&record.course, record.last_attempt());
    of.text(names::METHOD, course.method);
    of.text(names::SCHEME, if course.https { "https" } else { "http" });
    of.maybe_text(names::ROUTE_PATH, record.api.map(Api::path));
    of.maybe_number(names::STATUS, Some(u64::from(record.status)).filter(|status| *status != 0));
    of.text(names::PROTOCOL_NAME, "http");
    of.text(names::PROTOCOL_VERSION, if course.http2 { "2" } else { "1.1" });
    of.number(names::BYTES_IN, record.bytes_in);
    of.number(names::BYTES_OUT, record.bytes_out);
    if is_error(record) {
        of.text(names::ERROR, record.outcome.as_str());
    }
    of.text(names::REQUEST_ID, record.request_id.to_string());
    of.maybe_text(names::ROUTE, record.route.as_deref());
    of.maybe_text(names::GROUP, record.group.as_ref().map(|assigned| &*assigned.name));
    of.maybe_text(names::MODEL, record.model.as_deref());
    of.maybe_text(names::BACKEND, record.backend().map(|name| &**name));
    of.maybe_text(names::PROFILE, last.and_then(|last| last.profile.as_deref()));
    of.text(names::OUTCOME, record.outcome.as_str());
    of.maybe_text(names::KEPT, record.trace.as_ref().and_then(|trace| trace.kept).map(Kept::as_str));
    of.number(names::TRIES, record.attempts.len() as u64);
    of.maybe_text(names::SHED, record.shed.map(ShedReason::as_str));
    of.maybe_seconds(names::TTFT, record.latencies.first_token);
    of.maybe_seconds(names::ITL, record.latencies.inter_token);
    of.maybe_seconds(names::E2E, record.latencies.end_to_end);
    of.seconds(names::OVERHEAD, record.phases.overhead);
    slo(record, &mut of);
    of.maybe_float(names::COST, record.cost);
    if let Some(decision) = undone(record) {
        decided(record, decision, &mut of);
    }
    of.done()
}

/// The decision that no try came of.
pub(super) fn undone(record: &ExchangeRecord) -> Option<&DecisionSummary> {
    record.decision.as_ref().filter(|_| record.attempts.is_empty())
}

/// Whether the route's promises were kept.
fn slo(record: &ExchangeRecord, of: &mut Attributes) {
    let verdicts = &record.verdicts;
    let named = [(verdicts.ttft, names::SLO_TTFT), (verdicts.itl, names::SLO_ITL), (verdicts.e2e, names::SLO_E2E)];
    for (verdict, name) in named {
        of.maybe_text(name, verdict.map(|good| if good { "good" } else { "bad" }));
    }
}

/// Of the span of a try: what was asked of the backend, why of this one, and what it said. Only the last try answered.
pub(super) fn of_try(record: &ExchangeRecord, attempt: &Attempt, place: usize, last: bool) -> Vec<KeyValue> {
    let mut of = Attributes(Vec::with_capacity(40));
    let course = &attempt.course;
    match record.api {
        Some(api) => asked(record, api, &mut of),
        None => of.text(names::METHOD, record.course.method),
    }
    if let Some((host, port)) = &course.server {
        of.text(names::SERVER_ADDRESS, host.to_string());
        of.number(names::SERVER_PORT, u64::from(*port));
    }
    of.maybe_number(names::STATUS, course.status.map(u64::from));
    of.maybe_number(names::RESEND, Some(place as u64).filter(|place| *place > 0));
    if failed(attempt) {
        let status = course.status.filter(|status| *status >= 400).map(|status| status.to_string());
        of.maybe_text(names::ERROR, Some(status.as_deref().unwrap_or(attempt.outcome.as_str())));
    }
    of.text(names::BACKEND, attempt.backend.to_string());
    of.maybe_text(names::PROFILE, attempt.profile.as_deref());
    of.text(names::OUTCOME, attempt.outcome.as_str());
    if attempt.hedge {
        of.add(names::HEDGE, true);
    }
    if course.connected.is_some() {
        of.add(names::REUSED, course.reused);
    }
    let since = |at: Option<Duration>| at.map(|at| at.saturating_sub(course.began));
    of.maybe_seconds(names::FIRST_CHUNK, since(course.first_event).filter(|_| record.stream));
    of.maybe_seconds(names::TTFT, attempt.first_token);
    if last {
        answered(record, &mut of);
    }
    let decision = course.decision.as_deref().or(record.decision.as_ref().filter(|_| last));
    if let Some(decision) = decision {
        decided(record, decision, &mut of);
    }
    of.done()
}

fn asked(record: &ExchangeRecord, api: Api, of: &mut Attributes) {
    of.text(names::OPERATION, operation(api));
    of.text(names::PROVIDER, PROVIDER_NAME);
    of.maybe_text(names::MODEL, record.model.as_deref());
    if record.stream {
        of.add(names::STREAM, true);
    }
    of.maybe_number(names::CHOICES, Some(u64::from(record.choices)).filter(|choices| *choices != 1));
    of.maybe_number(names::MAX_TOKENS, record.course.max_tokens);
}

fn answered(record: &ExchangeRecord, of: &mut Attributes) {
    let usage = &record.usage;
    of.maybe_number(names::INPUT_TOKENS, usage.input_tokens);
    of.maybe_number(names::CACHED_TOKENS, usage.cached_tokens);
    of.maybe_number(names::OUTPUT_TOKENS, usage.output_tokens);
    of.maybe_number(names::REASONING_TOKENS, usage.reasoning_tokens);
    if let Some(reason) = record.finish_reason {
        of.add(names::FINISH, Value::Array(Array::String(vec![reason.as_str().into()])));
    }
}

/// Why this backend: what was expected of it, and how far that was from the promise.
fn decided(record: &ExchangeRecord, decision: &DecisionSummary, of: &mut Attributes) {
    of.number(names::DECISION_NUMBER, decision.number);
    of.text(names::DECISION_REASON, decision.reason);
    of.number(names::DECISION_CANDIDATES, decision.candidates as u64);
    of.add(names::DECISION_FEASIBLE, decision.feasible);
    of.maybe_seconds(names::PREDICTED_TTFT, decision.predicted_ttft);
    of.maybe_seconds(names::PREDICTED_ITL, decision.predicted_itl);
    of.maybe_seconds(names::PREDICTED_E2E, decision.predicted_e2e);
    let aims = &record.course.objectives;
    for (latency, objective, aim, bound, headroom) in [
        (Latency::TimeToFirstToken, aims.ttft, names::OBJECTIVE_TTFT, names::BOUND_TTFT, names::HEADROOM_TTFT),
        (Latency::InterToken, aims.itl, names::OBJECTIVE_ITL, names::BOUND_ITL, names::HEADROOM_ITL),
        (Latency::EndToEnd, aims.e2e, names::OBJECTIVE_E2E, names::BOUND_E2E, names::HEADROOM_E2E),
    ] {
        let reckoned = decision.bound(latency);
        of.maybe_seconds(aim, objective.map(|objective| objective.threshold));
        of.maybe_seconds(bound, reckoned);
        if let Some((objective, reckoned)) = objective.zip(reckoned) {
            of.add(headroom, left(&objective, reckoned));
        }
    }
    of.maybe_float(names::DECISION_PRICE, decision.price);
    of.maybe_float(names::DECISION_PREFIX_TOKENS, Some(decision.prefix_tokens).filter(|tokens| *tokens > 0.0));
    let load = &decision.load;
    of.maybe_float(names::GPU_UTILIZATION, load.gpu_utilization);
    of.maybe_float(names::KV_CACHE, load.kv_cache_ratio);
    of.maybe_float(names::RUNNING, load.running);
    of.maybe_float(names::WAITING, load.waiting);
}

/// Seconds between a bound and the promise; negative where it was expected to be missed.
fn left(objective: &Objective, bound: Duration) -> f64 {
    objective.threshold.as_secs_f64() - bound.as_secs_f64()
}

/// Of a stretch: what its two ends do not tell.
pub(super) fn of_phase(record: &ExchangeRecord, phase: &Phase) -> Vec<KeyValue> {
    let mut of = Attributes::default();
    of.maybe_seconds(names::PENDING, phase.pending);
    if phase.name == names::WAIT
        && let Some(engine) = record.engine.filter(|_| phase.told)
    {
        of.maybe_seconds(names::ENGINE_TIME_IN_QUEUE, engine.queue);
        of.maybe_seconds(names::ENGINE_FIRST_TOKEN, engine.first_token());
        of.seconds(names::OUTSIDE_ENGINE, phase.to.saturating_sub(phase.from).saturating_sub(engine.told()));
    }
    of.done()
}
