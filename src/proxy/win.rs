//! Tries backends, one or two, until one has an answer that the client may be shown.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use super::Proxy;
use super::answer::Answer;
use super::attempt::{Call, Failure, attempt};
use super::exchange::Exchange;
use super::headers::{self, Added};
use super::inference::Turned;
use super::marks::Marks;
use super::place::place;
use super::refuse::{Refusal, shown};
use super::understand::Understood;
use crate::config::settings::Route;
use crate::fleet::{Dispatched, InFlight};
use crate::measure::course::TryCourse;
use crate::measure::exchange::Attempt;
use crate::measure::outcome::{Blame, Outcome};
use crate::wire::request::{Edit, splice};

/// An answer the client may be shown, and whom it comes from.
pub(super) struct Won {
    pub(super) answer: Box<Answer>,
    pub(super) in_flight: InFlight,
    pub(super) backend: Arc<str>,
    pub(super) profile: Option<Arc<str>>,
    /// When the first token is due, if the client asked for a stream.
    pub(super) first_token_deadline: Option<Instant>,
    /// The model as the client named it, and the bytes of its prompt: what usage teaches about token counts.
    pub(super) prompt: (String, u64),
    /// How the try went on, up to its answer's head.
    pub(super) course: TryCourse,
}

/// Tries backends until one may be shown to the client.
pub(super) async fn win(
    proxy: &Arc<Proxy>,
    exchange: &mut Exchange,
    request: &Understood,
    route: &Route,
    total_deadline: Instant,
) -> Result<Won, Turned> {
    let mut excluded = request.excluded.clone();
    let mut tries = 0_u32;
    let mut last: Option<Refusal> = None;
    let mut permit = None;
    loop {
        let dispatched = match place(proxy, exchange, request, (&excluded, tries == 0)).await {
            Ok(dispatched) => dispatched,
            Err(refusal) => return Err(last.unwrap_or(refusal).into()),
        };
        let index = dispatched.index;
        let failure = match try_backend(proxy, exchange, request, route, dispatched, total_deadline).await? {
            Ok(won) => return Ok(won),
            Err(failed) => failed,
        };
        tries = tries.saturating_add(1);
        let may =
            failure.cause.is_some_and(|cause| route.retry.causes.contains(&cause)) && tries < route.retry.attempts;
        let backend = exchange.fleet.backends().get(index.0).map_or("", |backend| shown(route, backend.name()));
        let refusal = if failure.tls {
            Refusal::upstream_tls(backend)
        } else {
            Refusal::upstream(failure.outcome, failure.status, backend, failure.wait)
        };
        if may && permit.is_none() {
            permit = exchange.fleet.retry_permit(request.route);
        }
        if !may || permit.is_none() {
            return Err(spent(refusal, tries).into());
        }
        last = Some(refusal);
        excluded.push(index);
    }
}

/// At most one layer tries again: a client whose request had its second try here is told not to.
fn spent(mut refusal: Refusal, tries: u32) -> Refusal {
    if tries > 1 {
        refusal.should_retry = Some(false);
    }
    refusal
}

/// One try; its end is told to the backend's guard and to the record.
async fn try_backend(
    proxy: &Arc<Proxy>,
    exchange: &mut Exchange,
    request: &Understood,
    route: &Route,
    dispatched: Dispatched,
    total_deadline: Instant,
) -> Result<Result<Won, Failure>, Turned> {
    let Dispatched { backend, endpoint, in_flight, summary, model_name, .. } = dispatched;
    let started = exchange.started;
    exchange.note(|record| record.decision = Some(summary));
    let (name, profile) = (Arc::clone(backend.name()), backend.settings().profile.clone());
    let body = outgoing_body(request, model_name.as_deref());
    let span_id = exchange.new_span();
    let added = Added {
        request_id: &exchange.request_id(),
        trace: exchange.trace_fields(span_id),
        forwarded: &request.forwarded,
    };
    let head = headers::upstream_head(&request.client, backend.settings(), body.len(), &added)
        .map_err(|_| Refusal::internal())?;
    let began = proxy.clock.now();
    let url = &backend.settings().url;
    let marks = Marks::new(started, began, span_id, (Arc::clone(&url.host), url.port));
    exchange.note(|record| {
        if record.attempts.is_empty() {
            let before = began.saturating_duration_since(started);
            record.phases.overhead = before.saturating_sub(record.phases.queue);
        }
    });
    in_flight.sent(began);
    let mut pending = PendingAttempt {
        exchange,
        backend: Arc::clone(&name),
        profile: profile.clone(),
        began,
        proxy,
        marks: &marks,
        in_flight: Some(in_flight),
    };
    let call = Call {
        proxy,
        route,
        endpoint: &endpoint,
        head,
        body,
        api: request.api,
        stream: request.reading.stream,
        asked_for_usage: request.asked_for_usage,
        started,
        progressed: &|now| pending.progressed(now),
        marks: &marks,
    };
    let result = attempt(call, total_deadline).await;
    let now = proxy.clock.now();
    match result {
        Ok(answer) => {
            let Some(mut in_flight) = pending.in_flight.take() else { return Err(Refusal::internal().into()) };
            if let Some(at) = answer.reading.first_token_at() {
                in_flight.first_token(at);
            }
            in_flight.tokens(answer.reading.tokens(), now);
            let first_token_deadline = request.reading.stream.then(|| began + route.timeouts.first_token);
            let prompt = (request.model.clone(), request.reading.prompt_bytes);
            let course = marks.course();
            Ok(Ok(Won { answer, in_flight, backend: name, profile, first_token_deadline, prompt, course }))
        }
        Err(failure) => {
            pending.ended(failure.outcome, failure.blame, now);
            Ok(Err(failure))
        }
    }
}

/// Tells the record and the backend's guard of the end of a try, even when its task is dropped in the middle: then the
/// client left, and how long it had waited may say something about the backend.
struct PendingAttempt<'a> {
    exchange: &'a mut Exchange,
    backend: Arc<str>,
    profile: Option<Arc<str>>,
    began: Instant,
    proxy: &'a Arc<Proxy>,
    marks: &'a Marks,
    /// Taken when the try is over.
    in_flight: Option<InFlight>,
}

impl PendingAttempt<'_> {
    fn progressed(&self, now: Instant) {
        if let Some(in_flight) = &self.in_flight {
            in_flight.progressed(now);
        }
    }

    fn ended(&mut self, outcome: Outcome, blame: Blame, now: Instant) {
        let Some(in_flight) = self.in_flight.take() else { return };
        in_flight.ended(blame, now);
        self.exchange.attempted(Attempt {
            backend: Arc::clone(&self.backend),
            profile: self.profile.clone(),
            reason: self.exchange.decision_reason(),
            decision: self.exchange.decision_number(),
            outcome,
            blame,
            duration: now.saturating_duration_since(self.began),
            first_token: None,
            course: TryCourse { decision: self.exchange.traced_decision(), ..self.marks.course() },
        });
    }
}

impl Drop for PendingAttempt<'_> {
    fn drop(&mut self) {
        self.ended(Outcome::ClientCancelled, Blame::Neutral, self.proxy.clock.now());
    }
}

/// The client's bytes, with the usage wish and the backend's own name for the model spliced in where needed.
fn outgoing_body(request: &Understood, model_name: Option<&str>) -> Bytes {
    let Some(rename) = model_name.and_then(|name| request.reading.rename(name)) else {
        return request.outgoing.clone();
    };
    let usage = if request.asked_for_usage { request.reading.ask_for_usage() } else { None };
    let edits: Vec<Edit> = usage.into_iter().chain([rename]).collect();
    Bytes::from(splice(&request.body, &edits))
}
