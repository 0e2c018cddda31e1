//! An inference request, from its body to its record: read, understand, route, try, forward.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::HeaderValue;
use pingora_core::protocols::http::server::Session;
use pingora_http::RequestHeader;

use super::Proxy;
use super::answer::Answer;
use super::attempt::{Call, Failure, attempt};
use super::body::{self, BodyError, Held};
use super::exchange::Exchange;
use super::forward::{Forwarded, Terms, forward};
use super::headers::{self, Added};
use super::inspect;
use super::lifecycle::turned;
use super::refuse::{Refusal, upstream_code};
use crate::config::settings::{Route, Settings};
use crate::fleet::{Dispatched, InFlight, Needs, NoCandidate, Request, RouteMatchResult};
use crate::measure::exchange::Attempt;
use crate::measure::outcome::{Blame, Outcome};
use crate::route::snapshot::{BackendIndex, RequestFacts};
use crate::wire::Api;
use crate::wire::error::error_event;
use crate::wire::request::{Edit, RequestReading, splice};

/// What the client's connection is good for afterwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Downstream {
    /// It may carry another request.
    Reusable,
    /// It must be closed: what was sent on it is not whole, or nobody is there.
    Close,
}

/// Why the client gets an answer of headway's own, or none.
enum Turned {
    Refused(Box<Refusal>),
    Gone,
    Drained,
}

impl From<Refusal> for Turned {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(Box::new(refusal))
    }
}

/// A request that is understood.
struct Understood {
    api: Api,
    reading: RequestReading,
    model: String,
    body: Bytes,
    _held: Held,
    route: usize,
    facts: RequestFacts,
    /// The body as it goes to a backend that knows the model by the client's name for it.
    outgoing: Bytes,
    asked_for_usage: bool,
    client: RequestHeader,
    traceparent: Option<HeaderValue>,
    forwarded_for: Option<String>,
    secure: bool,
}

impl Understood {
    fn needs(&self) -> Needs {
        let features = self.reading.features;
        Needs { tools: features.tools, vision: features.vision, structured_output: features.structured_output }
    }
}

/// An answer the client may be shown, and whom it comes from.
struct Won {
    answer: Box<Answer>,
    in_flight: InFlight,
    backend: Arc<str>,
    profile: Option<Arc<str>>,
}

/// Serves one inference request; writes its record.
pub(super) async fn serve(
    proxy: &Arc<Proxy>,
    session: &mut Session,
    mut exchange: Exchange,
    api: Api,
    path_model: Option<String>,
) -> Downstream {
    let mut understood = match understand(proxy, session, &mut exchange, api, path_model).await {
        Ok(understood) => understood,
        Err(turned) => return turn_away(session, exchange, turned).await,
    };
    let settings = Arc::clone(exchange.fleet.settings());
    let Some(route) = settings.routes.get(understood.route) else {
        return turn_away(session, exchange, Refusal::internal().into()).await;
    };
    let total_deadline = exchange.started + route.timeouts.total;
    let mut cut = proxy.lifecycle.cutting();
    let won = {
        // On the heap, so that a stream does not carry the room for its tries to its end.
        let tries = Box::pin(win(proxy, &mut exchange, &understood, route, total_deadline));
        tokio::select! {
            biased;
            won = tries => won,
            _ = session.read_body_or_idle(true) => Err(Turned::Gone),
            () = turned(&mut cut) => Err(Turned::Drained),
        }
    };
    match won {
        Ok(won) => {
            let prompt = (std::mem::take(&mut understood.model), understood.reading.prompt_bytes);
            // No second try is left: the request's bytes are not needed any more.
            drop(understood);
            deliver(proxy, session, exchange, won, route, &settings, total_deadline, prompt).await
        }
        Err(turned) => turn_away(session, exchange, turned).await,
    }
}

/// Reads the body and finds out what is asked, of which route.
async fn understand(
    proxy: &Arc<Proxy>,
    session: &mut Session,
    exchange: &mut Exchange,
    api: Api,
    path_model: Option<String>,
) -> Result<Understood, Turned> {
    let settings = Arc::clone(exchange.fleet.settings());
    exchange.note(|record| record.api = Some(api));
    if inspect::expects_continue(&session.req_header().headers) && !session.is_http2() {
        session.write_continue_response().await.map_err(|_| Turned::Gone)?;
    }
    let whole =
        body::read(session, &settings.limits, &proxy.memory, &*proxy.clock).await.map_err(|error| match error {
            BodyError::Refused(refusal) => refusal.into(),
            BodyError::ClientGone => Turned::Gone,
        })?;
    exchange.request_complete(proxy.clock.now());
    exchange.note(|record| record.bytes_in = whole.bytes.len() as u64);

    let reading = RequestReading::read(api, &whole.bytes)
        .map_err(|error| Refusal::bad_request(400, "invalid_body", error.to_string()).about(error.param()))?;
    exchange.note(|record| (record.stream, record.choices) = (reading.stream, reading.choices));
    let Some(model) = path_model.or_else(|| reading.model.clone()) else {
        let message = "the request names no model";
        return Err(Refusal::bad_request(400, "model_missing", message).about(Some("model")).into());
    };
    let client = session.req_header().clone();
    let route = find_route(exchange, &client, &model)?;
    continuable(&settings, route, &reading)?;
    let facts = facts(exchange, &settings, route, &client, &reading, &model);
    let usage = if reading.stream { reading.ask_for_usage() } else { None };
    let outgoing = match &usage {
        Some(edit) => Bytes::from(splice(&whole.bytes, std::slice::from_ref(edit))),
        None => whole.bytes.clone(),
    };
    let traceparent = client.headers.get("traceparent").filter(|value| headers::trace_id(value).is_some()).cloned();
    exchange.note(|record| record.trace_id = traceparent.as_ref().and_then(headers::trace_id));
    Ok(Understood {
        api,
        model,
        route,
        facts,
        outgoing,
        asked_for_usage: usage.is_some(),
        forwarded_for: forwarded_for(session, &settings, &client),
        secure: session.digest().is_some_and(|digest| digest.ssl_digest.is_some()),
        traceparent,
        client,
        reading,
        body: whole.bytes,
        _held: whole.held,
    })
}

fn find_route(exchange: &mut Exchange, client: &RequestHeader, model: &str) -> Result<usize, Refusal> {
    let fleet = Arc::clone(&exchange.fleet);
    let known = fleet.serves_model(model);
    exchange.note(|record| record.model = known);
    let field = |name: &str| client.headers.get(name).and_then(|value| value.to_str().ok());
    let route = match fleet.match_route(client.uri.path(), field, Some(model)) {
        RouteMatchResult::Found(route) => route,
        RouteMatchResult::NoSuchModel => return Err(Refusal::unknown_model(model)),
        RouteMatchResult::NoRoute => return Err(Refusal::not_found(true)),
    };
    exchange.route = Some(route);
    let name = fleet.settings().routes.get(route).map(|route| Arc::clone(&route.name));
    exchange.note(|record| record.route = name);
    Ok(route)
}

/// A stored response is known to the backend that made it alone, and nothing says which one that was.
fn continuable(settings: &Settings, route: usize, reading: &RequestReading) -> Result<(), Refusal> {
    let several = settings.routes.get(route).is_some_and(|route| route.backends.len() > 1);
    if reading.previous_response_id.is_none() || !several {
        return Ok(());
    }
    let message = "this route has several backends, and only the one that made the response knows it; \
                   send the whole conversation instead";
    Err(Refusal::bad_request(400, "previous_response_unknown", message).about(Some("previous_response_id")))
}

fn facts(
    exchange: &Exchange,
    settings: &Settings,
    route: usize,
    client: &RequestHeader,
    reading: &RequestReading,
    model: &str,
) -> RequestFacts {
    let objectives = settings
        .routes
        .get(route)
        .map(|route| inspect::effective_objectives(route, &client.headers))
        .unwrap_or_default();
    RequestFacts {
        input_tokens: exchange.fleet.estimate_tokens(model, reading.prompt_bytes),
        max_tokens: reading.max_tokens,
        stream: reading.stream,
        objectives,
    }
}

/// `X-Forwarded-For` is rebuilt; what the client sent of it counts only when it is a trusted proxy.
fn forwarded_for(session: &Session, settings: &Settings, client: &RequestHeader) -> Option<String> {
    let address = inspect::client_address(session)?;
    let trusted = settings.trusted_proxies.iter().any(|network| network.contains(address));
    let before = client.headers.get("x-forwarded-for").and_then(|value| value.to_str().ok()).filter(|_| trusted);
    Some(before.map_or_else(|| address.to_string(), |before| format!("{before}, {address}")))
}

/// Tries backends until one may be shown to the client.
async fn win(
    proxy: &Arc<Proxy>,
    exchange: &mut Exchange,
    request: &Understood,
    route: &Route,
    total_deadline: Instant,
) -> Result<Won, Turned> {
    let mut excluded: Vec<BackendIndex> = Vec::new();
    let mut last: Option<Refusal> = None;
    let mut permit = None;
    loop {
        let now = proxy.clock.now();
        let asked = Request { model: &request.model, facts: request.facts, needs: request.needs() };
        let dispatched = match exchange.fleet.dispatch(request.route, &asked, &excluded, now) {
            Ok(dispatched) => dispatched,
            Err(reason) => return Err(last.unwrap_or_else(|| no_candidate(&reason, &request.model)).into()),
        };
        let index = dispatched.index;
        let failure = match try_backend(proxy, exchange, request, route, dispatched, total_deadline).await? {
            Ok(won) => return Ok(won),
            Err(failed) => failed,
        };
        let tries = u32::try_from(excluded.len()).unwrap_or(u32::MAX).saturating_add(1);
        let may =
            failure.cause.is_some_and(|cause| route.retry.causes.contains(&cause)) && tries < route.retry.attempts;
        let backend = exchange.fleet.backends().get(index.0).map(|backend| Arc::clone(backend.name()));
        let refusal =
            Refusal::upstream(failure.outcome, failure.status, backend.as_deref().unwrap_or(""), failure.wait);
        if may && permit.is_none() {
            permit = exchange.fleet.retry_permit(request.route);
        }
        if !may || permit.is_none() {
            return Err(refusal.into());
        }
        last = Some(refusal);
        excluded.push(index);
    }
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
    let Dispatched { backend, endpoint, mut in_flight, summary, model_name, .. } = dispatched;
    let began = proxy.clock.now();
    let started = exchange.started;
    exchange.note(|record| {
        record.decision = Some(summary);
        if record.attempts.is_empty() {
            record.phases.overhead = began.saturating_duration_since(started);
        }
    });
    let (name, profile) = (Arc::clone(backend.name()), backend.settings().profile.clone());
    let body = outgoing_body(request, model_name.as_deref());
    let added = Added {
        request_id: &exchange.request_id(),
        traceparent: request.traceparent.as_ref(),
        forwarded_for: request.forwarded_for.as_deref(),
        forwarded_proto: if request.secure { "https" } else { "http" },
    };
    let head = headers::upstream_head(&request.client, backend.settings(), body.len(), &added)
        .map_err(|_| Refusal::internal())?;
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
        progressed: &|now| in_flight.progressed(now),
    };
    in_flight.sent(began);
    let mut pending =
        PendingAttempt { exchange, backend: Arc::clone(&name), profile: profile.clone(), began, proxy, done: false };
    let result = attempt(call, total_deadline).await;
    let now = proxy.clock.now();
    match result {
        Ok(answer) => {
            pending.done = true;
            if let Some(at) = answer.reading.first_token_at() {
                in_flight.first_token(at);
            }
            Ok(Ok(Won { answer, in_flight, backend: name, profile }))
        }
        Err(failure) => {
            pending.ended(failure.outcome, failure.blame, now);
            in_flight.ended(failure.blame, now);
            Ok(Err(failure))
        }
    }
}

/// Notes a try in the record even when its task is dropped in the middle: the client left.
struct PendingAttempt<'a> {
    exchange: &'a mut Exchange,
    backend: Arc<str>,
    profile: Option<Arc<str>>,
    began: Instant,
    proxy: &'a Arc<Proxy>,
    done: bool,
}

impl PendingAttempt<'_> {
    fn ended(&mut self, outcome: Outcome, blame: Blame, now: Instant) {
        self.done = true;
        self.exchange.attempted(Attempt {
            backend: Arc::clone(&self.backend),
            profile: self.profile.clone(),
            outcome,
            blame,
            duration: now.saturating_duration_since(self.began),
            first_token: None,
        });
    }
}

impl Drop for PendingAttempt<'_> {
    fn drop(&mut self) {
        if !self.done {
            self.ended(Outcome::ClientCancelled, Blame::Neutral, self.proxy.clock.now());
        }
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

pub(super) fn no_candidate(reason: &NoCandidate, model: &str) -> Refusal {
    match reason {
        NoCandidate::NoSuchModel => Refusal::unknown_model(model),
        NoCandidate::Loading { retry_after } => {
            Refusal::unavailable("model_loading", "the model is still loading", *retry_after)
        }
        NoCandidate::NoneHealthy { retry_after } => {
            Refusal::unavailable("no_healthy_backend", "no backend for this model is healthy", *retry_after)
        }
        NoCandidate::AllFull { retry_after } => {
            Refusal::overloaded("every backend for this model is full", *retry_after)
        }
        NoCandidate::Excluded => {
            let message = "no other backend for this model is healthy";
            Refusal::unavailable("no_healthy_backend", message, Duration::from_secs(1))
        }
        NoCandidate::TooLong { limit } => Refusal::bad_request(
            400,
            "context_length_exceeded",
            format!("prompt and max_tokens together exceed the {limit} tokens that any backend takes"),
        )
        .about(Some("max_tokens")),
        NoCandidate::MissingFeature(feature) => {
            Refusal::bad_request(400, "unsupported_feature", format!("no backend for this model supports {feature}"))
        }
    }
}

/// Sends the answer to its end, and what the end calls for.
async fn deliver(
    proxy: &Arc<Proxy>,
    session: &mut Session,
    mut exchange: Exchange,
    mut won: Won,
    route: &Route,
    settings: &Settings,
    total_deadline: Instant,
    prompt: (String, u64),
) -> Downstream {
    let id = exchange.request_id();
    let status = won.answer.head.status.as_u16();
    let head =
        headers::downstream_head(&won.answer.head, won.answer.kind, session.is_http2(), &id).and_then(|mut head| {
            if route.expose {
                expose(&mut head, &exchange, &won)?;
            }
            Ok(head)
        });
    let Ok(head) = head else {
        return turn_away(session, exchange, Refusal::internal().into()).await;
    };
    exchange.note(|record| record.status = status);
    let mut forwarded = if session.write_response_header(head).await.is_ok() {
        let terms = Terms {
            clock: &*proxy.clock,
            timeouts: route.timeouts,
            total_deadline,
            write_idle: settings.limits.write_idle,
            cut: proxy.lifecycle.cutting(),
        };
        let had_token = won.answer.reading.first_token_at().is_some();
        let forwarded = forward(session, &mut won.answer, &mut won.in_flight, &terms).await;
        if let (false, Some(at)) = (had_token, won.answer.reading.first_token_at()) {
            won.in_flight.first_token(at);
        }
        forwarded
    } else {
        Forwarded {
            outcome: Outcome::ClientCancelled,
            bytes_out: 0,
            backpressure: Duration::ZERO,
            backpressured: false,
            client_there: false,
            clean: false,
            at_event_boundary: false,
        }
    };
    // The last bytes, too, wait for a client that does not read, but no longer than any others.
    let ending = end_downstream(session, &forwarded, &won.backend);
    let downstream = tokio::time::timeout(settings.limits.write_idle, ending).await.unwrap_or_else(|_| {
        if forwarded.outcome == Outcome::Complete {
            forwarded.outcome = Outcome::ClientStalled;
        }
        Downstream::Close
    });
    settle(proxy, exchange, won, forwarded, prompt).await;
    downstream
}

fn expose(head: &mut pingora_http::ResponseHeader, exchange: &Exchange, won: &Won) -> pingora_core::Result<()> {
    head.insert_header("x-headway-backend", &*won.backend)?;
    if let Some(reason) = exchange.decision_reason() {
        head.insert_header("x-headway-decision", reason)?;
    }
    let ms = |duration: Duration| duration.as_secs_f64() * 1e3;
    let timing = format!(
        "connect;dur={:.3}, ttfb;dur={:.3}, proxy;dur={:.3}",
        ms(won.answer.connect),
        ms(won.answer.backend_wait),
        ms(exchange.overhead()),
    );
    head.insert_header("server-timing", timing)
}

/// Ends the response the way it deserves: cleanly, with an error event, or broken off.
async fn end_downstream(session: &mut Session, forwarded: &Forwarded, backend: &str) -> Downstream {
    if !forwarded.client_there {
        return Downstream::Close;
    }
    let told = matches!(forwarded.outcome, Outcome::UpstreamError) && forwarded.clean;
    if told || matches!(forwarded.outcome, Outcome::Complete | Outcome::BackendRejected) {
        // An error event of the backend's own has told the client already.
        let clean = session.finish_body().await.is_ok();
        return if clean { Downstream::Reusable } else { Downstream::Close };
    }
    if forwarded.at_event_boundary && forwarded.outcome != Outcome::UpstreamError {
        let refusal = Refusal::upstream(forwarded.outcome, 502, backend, None);
        let code = match forwarded.outcome {
            Outcome::Drained => "drained",
            outcome => upstream_code(outcome),
        };
        let event = error_event(&refusal.message, refusal.kind, None, Some(code));
        let _ = session.write_response_body(Bytes::from(event), false).await;
        if session.is_http2() {
            // A reset overtakes data that its connection has not sent yet.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    session.shutdown().await;
    Downstream::Close
}

/// Tells everyone how it ended, and gives the connection back.
async fn settle(proxy: &Arc<Proxy>, mut exchange: Exchange, won: Won, forwarded: Forwarded, prompt: (String, u64)) {
    let Won { answer, in_flight, backend, profile } = won;
    let now = proxy.clock.now();
    let blame = forwarded.outcome.blame();
    let started = exchange.started;
    let mut input_tokens = None;
    exchange.note(|record| {
        answer.reading.report(record, started);
        input_tokens = record.usage.input_tokens;
        record.bytes_out = forwarded.bytes_out;
        record.phases.connect = answer.connect;
        record.phases.backend_wait = answer.backend_wait;
        record.phases.backpressure = forwarded.backpressure;
        record.phases.backpressured = forwarded.backpressured;
        record.attempts.push(Attempt {
            backend,
            profile,
            outcome: forwarded.outcome,
            blame,
            duration: now.saturating_duration_since(answer.began),
            first_token: answer.reading.first_token_at().map(|at| at.saturating_duration_since(answer.began)),
        });
    });
    in_flight.ended(blame, now);
    if let Some(tokens) = input_tokens {
        exchange.fleet.learn_prompt_size(&prompt.0, prompt.1, tokens);
    }
    exchange.finish(forwarded.outcome);
    answer.upstream.release().await;
}

/// Answers in headway's own name, or not at all.
async fn turn_away(session: &mut Session, mut exchange: Exchange, turned: Turned) -> Downstream {
    let refusal = match turned {
        Turned::Gone => {
            exchange.finish(Outcome::ClientCancelled);
            return Downstream::Close;
        }
        Turned::Drained => {
            let mut refusal = Refusal::unavailable("draining", "headway is shutting down", Duration::from_secs(1));
            refusal.outcome = Outcome::Drained;
            Box::new(refusal)
        }
        Turned::Refused(refusal) => refusal,
    };
    exchange.note(|record| record.status = refusal.status);
    // What is left of a body would be taken for the next request.
    let body_read = session.is_body_done();
    let sent = respond(session, &exchange.request_id(), &refusal, body_read).await;
    let length = sent.as_ref().copied().unwrap_or(0);
    exchange.note(|record| record.bytes_out = length);
    exchange.finish(refusal.outcome);
    if sent.is_ok() && body_read { Downstream::Reusable } else { Downstream::Close }
}

/// Writes a refusal; says how long its body is.
pub(super) async fn respond(
    session: &mut Session,
    request_id: &str,
    refusal: &Refusal,
    keep_alive: bool,
) -> pingora_core::Result<u64> {
    if !keep_alive {
        session.set_keepalive(None);
    }
    let body = Bytes::from(refusal.body());
    let length = body.len() as u64;
    session.write_response_header(refusal.head(request_id, body.len())?).await?;
    session.write_response_body(body, true).await?;
    session.finish_body().await?;
    Ok(length)
}
