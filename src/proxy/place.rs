//! A backend for a request: at once, after its turn in the route's line, or never.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Proxy;
use super::exchange::Exchange;
use super::refuse::Refusal;
use super::understand::Understood;
use crate::fleet::{Dispatched, NoCandidate, Request, Turn};
use crate::measure::outcome::{Outcome, ShedReason};
use crate::route::admission::OnOverload;
use crate::route::snapshot::{BackendIndex, RequestFacts};

/// When whoever waited in vain is told to come back, where nothing better is known.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Asks for a backend, and waits for one where the route says so. A second try does not wait.
pub(super) async fn place(
    proxy: &Arc<Proxy>,
    exchange: &mut Exchange,
    request: &Understood,
    (excluded, first): (&[BackendIndex], bool),
) -> Result<Dispatched, Refusal> {
    let now = proxy.clock.now();
    let wait = longest_wait(exchange, request).filter(|_| first);
    let deadline = wait.and_then(|wait| now.checked_add(wait));
    let jumps = deadline.is_some_and(|deadline| exchange.fleet.must_wait(request.route, deadline));
    let mut reason = NoCandidate::WouldMiss { retry_after: RETRY_AFTER, decision: None };
    if !jumps {
        match dispatch(proxy, exchange, request, (excluded, false), now) {
            Ok(dispatched) => return Ok(dispatched),
            Err(other) => reason = other,
        }
    }
    let refusal = match deadline.filter(|_| is_for_now(&reason)) {
        None => refusal(&reason, &request.model),
        Some(deadline) => match wait_for_turn(proxy, exchange, request, (now, deadline), (excluded, reason)).await {
            Ok(dispatched) => return Ok(dispatched),
            Err(refusal) => refusal,
        },
    };
    if refusal.outcome == Outcome::Shed {
        exchange.fleet.shed(request.route);
    }
    Err(refusal)
}

fn longest_wait(exchange: &Exchange, request: &Understood) -> Option<Duration> {
    match exchange.fleet.routes().get(request.route)?.on_overload() {
        OnOverload::Queue { wait, .. } => Some(wait),
        OnOverload::Shed | OnOverload::Sacrifice => None,
    }
}

/// Whether it may be otherwise in a moment.
fn is_for_now(reason: &NoCandidate) -> bool {
    matches!(reason, NoCandidate::AllFull { .. } | NoCandidate::WouldMiss { .. })
}

/// Stands in line until a backend has a place, the deadline passes, or a more important request takes the place.
async fn wait_for_turn(
    proxy: &Arc<Proxy>,
    exchange: &mut Exchange,
    request: &Understood,
    (since, deadline): (Instant, Instant),
    (excluded, mut reason): (&[BackendIndex], NoCandidate),
) -> Result<Dispatched, Refusal> {
    let Some(place) = exchange.fleet.join(request.route, deadline) else {
        return Err(queue_full(&reason));
    };
    // Noted even when the task is dropped in the middle: the client left.
    let began = since.saturating_duration_since(exchange.started);
    exchange.note(|record| record.course.queued = began);
    let waiting = Waiting { proxy, exchange, since };
    loop {
        match place.turn().await {
            Turn::Late => {
                let message = "no backend had a place in time";
                return Err(Refusal::overloaded(ShedReason::Waited, message, retry_after(&reason)));
            }
            Turn::Displaced => return Err(queue_full(&reason)),
            Turn::Try => match dispatch(proxy, waiting.exchange, request, (excluded, true), proxy.clock.now()) {
                Ok(dispatched) => return Ok(dispatched),
                Err(other) => reason = other,
            },
        }
        if !is_for_now(&reason) {
            return Err(refusal(&reason, &request.model));
        }
        place.pass();
    }
}

/// Notes how long a request waited, however that ends.
struct Waiting<'a> {
    proxy: &'a Arc<Proxy>,
    exchange: &'a mut Exchange,
    since: Instant,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let waited = self.proxy.clock.now().saturating_duration_since(self.since);
        self.exchange.note(|record| record.phases.queue = waited);
    }
}

/// Asks the fleet, and notes how long that took, and why the request goes nowhere.
fn dispatch(
    proxy: &Arc<Proxy>,
    exchange: &mut Exchange,
    request: &Understood,
    (excluded, again): (&[BackendIndex], bool),
    now: Instant,
) -> Result<Dispatched, NoCandidate> {
    let request_id = exchange.request_id();
    let waited = now.saturating_duration_since(exchange.started);
    let asked = Request {
        facts: RequestFacts { waited, ..request.facts },
        request_id: Some(&request_id),
        again,
        ..asked(request)
    };
    let decided = exchange.fleet.dispatch(request.route, &asked, excluded, now);
    let took = proxy.clock.now().saturating_duration_since(now);
    exchange.note(|record| {
        record.phases.decide += took;
        // A second try's belongs to none: the first one had its own.
        if let Err(NoCandidate::WouldMiss { decision: Some(away), .. }) = decided
            && record.attempts.is_empty()
        {
            record.decision = Some(away.summary());
        }
    });
    decided
}

/// Another backend for a request whose first token is late; it is placed as a new request would be.
pub(super) fn hedge(
    proxy: &Arc<Proxy>,
    exchange: &mut Exchange,
    request: &Understood,
    excluded: &[BackendIndex],
) -> Option<Dispatched> {
    let now = proxy.clock.now();
    let request_id = exchange.request_id();
    let asked = Request { request_id: Some(&request_id), ..asked(request) };
    exchange.fleet.hedge(request.route, &asked, excluded, now)
}

fn asked(request: &Understood) -> Request<'_> {
    Request {
        model: &request.model,
        facts: request.facts,
        needs: request.needs(),
        prefix: request.prefix(),
        group: request.group,
        ..Request::default()
    }
}

fn retry_after(reason: &NoCandidate) -> Duration {
    match reason {
        NoCandidate::AllFull { retry_after } | NoCandidate::WouldMiss { retry_after, .. } => *retry_after,
        _ => RETRY_AFTER,
    }
}

fn queue_full(reason: &NoCandidate) -> Refusal {
    let message = "every backend is busy, and as many requests wait as may";
    Refusal::overloaded(ShedReason::QueueFull, message, retry_after(reason))
}

/// What the client is told when no backend can be given.
pub(super) fn refusal(reason: &NoCandidate, model: &str) -> Refusal {
    match reason {
        NoCandidate::NoSuchModel => Refusal::unknown_model(model),
        NoCandidate::Loading { retry_after } => {
            Refusal::unavailable("model_loading", "the model is still loading", *retry_after)
        }
        NoCandidate::NoneHealthy { retry_after } => {
            Refusal::unavailable("no_healthy_backend", "no backend for this model is healthy", *retry_after)
        }
        NoCandidate::NoTls => Refusal::upstream_tls(""),
        NoCandidate::WouldMiss { retry_after, .. } => {
            let message = "no backend is expected to answer in time";
            Refusal::overloaded(ShedReason::Predicted, message, *retry_after)
        }
        NoCandidate::AllFull { retry_after } => {
            Refusal::overloaded(ShedReason::Full, "every backend for this model is full", *retry_after)
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
