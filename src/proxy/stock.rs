//! Paths that a route names and headway does not understand: pingora's stock proxy carries them, headway picks the
//! backend, keeps the headers clean and writes the record.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::Method;
use pingora_core::protocols::http::server::Session as Downstream;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_core::{Error, ErrorSource, ErrorType, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::Session;

use super::Proxy;
use super::exchange::Exchange;
use super::forwarded::Forwarded;
use super::headers::{self, Added};
use super::refuse::{Refusal, shown};
use super::stamp::Stamp;
use super::{body, bounded};
use crate::config::settings::Timeouts;
use crate::fleet::{Caller, Dispatched, Fleet, NoCandidate, Request, RouteMatchResult, is_tls_failure};
use crate::measure::course::TryCourse;
use crate::measure::exchange::Attempt;
use crate::measure::outcome::{Blame, Outcome, refuses};
use crate::route::snapshot::BackendIndex;
use crate::wire::StoredId;
use crate::wire::trace_context::SpanId;

/// A backend that was picked for a stock exchange.
pub(super) struct Picked(Dispatched);

/// A stock exchange under way.
pub(super) struct Stock {
    proxy: Arc<Proxy>,
    exchange: Exchange,
    dispatched: Dispatched,
    /// The try's span, where traces are made.
    span_id: Option<SpanId>,
    began: Instant,
    /// When the whole exchange must be over.
    deadline: Instant,
    /// Body bytes from the client, and from the backend.
    sent: u64,
    received: u64,
    failure: Option<Outcome>,
}

/// The client sends more than it may.
const TOO_LARGE: ErrorType = ErrorType::new("the request body is too large");

/// The exchange took longer than it may in all.
const OVERDUE: ErrorType = ErrorType::new("the exchange takes too long");

impl Picked {
    pub(super) fn with(self, exchange: Exchange, proxy: &Arc<Proxy>) -> Stock {
        let route = exchange.route.and_then(|route| exchange.fleet.settings().routes.get(route));
        let total = route.map_or(Timeouts::default().total, |route| route.timeouts.total);
        let began = exchange.started;
        let (proxy, deadline) = (Arc::clone(proxy), began + total);
        bounded::end_by(deadline);
        let span_id = exchange.new_span();
        Stock { proxy, exchange, dispatched: self.0, span_id, began, deadline, sent: 0, received: 0, failure: None }
    }
}

impl Stock {
    /// Picks a backend for a path that some route names.
    pub(super) fn dispatch(
        exchange: &mut Exchange,
        session: &Downstream,
        now: Instant,
    ) -> std::result::Result<Picked, Refusal> {
        let fleet = Arc::clone(&exchange.fleet);
        let (route, excluded) = find_route(&fleet, session.req_header(), exchange.caller.as_deref())?;
        exchange.route = Some(route);
        let name = fleet.settings().routes.get(route).map(|route| Arc::clone(&route.name));
        exchange.note(|record| record.route = name);
        let limits = &fleet.settings().limits;
        if body::declared_too_large(session, limits) {
            return Err(body::too_large(limits));
        }
        let id = exchange.request_id();
        let group = exchange.assign(route, &excluded);
        let request = Request { request_id: Some(&id), group, ..Request::default() };
        let dispatched = fleet.dispatch(route, &request, &excluded, now).map_err(|reason| refusal(&reason))?;
        if !exchange.reach() {
            return Err(Refusal::out_of_reach());
        }
        exchange.fell_over(dispatched.fell_over);
        dispatched.in_flight.sent(now);
        Ok(Picked(dispatched))
    }

    /// The backend, which may be silent until the exchange must be over.
    pub(super) fn peer(&self, now: Instant) -> HttpPeer {
        let mut peer = self.dispatched.endpoint.peer().clone();
        // pingora takes no time at all for no bound.
        let left = self.deadline.saturating_duration_since(now).max(Duration::from_millis(1));
        peer.options.read_timeout = Some(left);
        peer.options.write_timeout = Some(left);
        peer
    }

    /// The client sends so many bytes of its body.
    pub(super) fn sends(&mut self, bytes: usize, now: Instant) -> Result<()> {
        self.sent += bytes as u64;
        if self.sent > self.exchange.fleet.settings().limits.body {
            return Error::err(TOO_LARGE);
        }
        self.progressed(now)
    }

    /// The backend sends so many bytes of its body.
    pub(super) fn receives(&mut self, bytes: usize, now: Instant) -> Result<()> {
        self.received += bytes as u64;
        self.progressed(now)
    }

    /// Bytes moved: no reason to think that the backend hangs.
    fn progressed(&self, now: Instant) -> Result<()> {
        self.dispatched.in_flight.progressed(now);
        if now < self.deadline { Ok(()) } else { Error::err(OVERDUE) }
    }

    /// The client may pause no longer than on the paths that headway understands.
    pub(super) fn bound(&self, session: &mut Downstream) {
        let limits = &self.exchange.fleet.settings().limits;
        session.set_read_timeout(Some(limits.body_idle));
        session.set_write_timeout(Some(limits.write_idle));
    }

    pub(super) fn stamp(&self) -> Stamp {
        self.exchange.stamp()
    }

    /// The head as the backend gets it: the inference path's rules, with pingora's framing.
    pub(super) fn upstream_head(&self, session: &Session, upstream: &mut RequestHeader) -> Result<()> {
        let client = session.req_header();
        let settings = self.exchange.fleet.settings();
        let forwarded = Forwarded::of(&session.downstream_session, settings, client);
        let added = Added {
            request_id: &self.exchange.request_id(),
            trace: self.exchange.trace_fields(self.span_id),
            forwarded: &forwarded,
        };
        let clean = headers::upstream_head(client, self.dispatched.backend.settings(), 0, &added)?;
        let framing: Vec<_> = ["content-length", "transfer-encoding"]
            .into_iter()
            .filter_map(|name| Some((name, upstream.headers.get(name)?.clone())))
            .collect();
        let version = upstream.version;
        *upstream = *clean;
        upstream.remove_header("content-length");
        for (name, value) in framing {
            upstream.insert_header(name, value)?;
        }
        upstream.set_version(version);
        Ok(())
    }

    pub(super) fn downstream_head(&mut self, head: &mut ResponseHeader, now: Instant) -> Result<()> {
        self.progressed(now)?;
        let status = head.status.as_u16();
        self.exchange.note(|record| record.status = status);
        self.exchange.stamp().put(head)
    }

    /// The backend or the client failed before the client was sent anything.
    pub(super) fn failed(&mut self, error: &Error) -> Refusal {
        let outcome = outcome_of(error);
        self.failure = Some(outcome);
        if error.etype() == &TOO_LARGE {
            return body::too_large(&self.exchange.fleet.settings().limits);
        }
        if outcome == Outcome::RejectedRequest {
            return Refusal::bad_request(408, "request_timeout", "the request body did not arrive in time");
        }
        let status = if outcome == Outcome::TotalTimeout { 504 } else { 502 };
        let settings = self.exchange.fleet.settings();
        let route = self.exchange.route.and_then(|route| settings.routes.get(route));
        let backend = route.map_or("", |route| shown(route, self.dispatched.backend.name()));
        if is_tls_failure(error) {
            return Refusal::upstream_tls(backend);
        }
        Refusal::upstream(outcome, status, backend, None)
    }

    /// Writes the record of an exchange that pingora brought to its end.
    pub(super) fn finish(mut self, session: &Session, error: Option<&Error>, now: Instant) {
        let status = session.response_written().map_or(0, |head| head.status.as_u16());
        let outcome = match (self.failure, error, status) {
            (Some(outcome), ..) => outcome,
            (None, Some(error), _) => outcome_of(error),
            (None, None, status) if refuses(status) => Outcome::BackendRejected,
            (None, None, 429 | 500..) => Outcome::UpstreamError,
            (None, None, _) => Outcome::Complete,
        };
        (self.sent, self.received) = (session.body_bytes_read() as u64, session.body_bytes_sent() as u64);
        self.exchange.note(|record| record.status = status);
        self.write(outcome, now);
    }

    /// Writes the record of an exchange that was stopped.
    pub(super) fn abandoned(self) {
        if std::thread::panicking() {
            // The exchange's own end knows what to write then.
            return;
        }
        let now = self.proxy.clock.now();
        let outcome = match (self.failure, self.proxy.lifecycle.is_cut()) {
            (Some(outcome), _) => outcome,
            (None, true) => Outcome::Drained,
            (None, false) if now >= self.deadline => Outcome::TotalTimeout,
            (None, false) => Outcome::ClientCancelled,
        };
        self.write(outcome, now);
    }

    fn write(self, outcome: Outcome, now: Instant) {
        let Self { mut exchange, dispatched, span_id, began, sent, received, .. } = self;
        let Dispatched { backend, in_flight, summary, .. } = dispatched;
        let (reason, decision) = (Some(summary.reason), Some(summary.number));
        let mut blame = outcome.blame();
        let url = &backend.settings().url;
        let server = Some((Arc::clone(&url.host), url.port));
        exchange.note(|record| {
            // Back-pressure is no fault; a 503's body, which may say that it is one, is not read here.
            if matches!(record.status, 429 | 503) {
                blame = Blame::Neutral;
            }
            (record.bytes_in, record.bytes_out) = (sent, received);
            record.decision = Some(summary);
            record.latencies.end_to_end = Some(now.saturating_duration_since(began));
            record.attempts.push(Attempt {
                backend: Arc::clone(backend.name()),
                profile: backend.settings().profile.clone(),
                reason,
                decision,
                outcome,
                blame,
                duration: now.saturating_duration_since(began),
                first_token: None,
                hedge: false,
                cost: None,
                course: TryCourse { span_id, server, ..TryCourse::default() },
            });
        });
        in_flight.ended(blame, now);
        exchange.finish(outcome);
    }
}

/// The route that names the path, or that leads to a stored response; and which of its backends do not hold that.
fn find_route(
    fleet: &Fleet,
    head: &RequestHeader,
    caller: Option<&Caller>,
) -> std::result::Result<(usize, Vec<BackendIndex>), Refusal> {
    let field = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok());
    let named = match fleet.match_route(head.uri.path(), field, None, caller) {
        RouteMatchResult::Found(route) => Some(route),
        RouteMatchResult::NotAllowed => return Err(Refusal::forbidden()),
        RouteMatchResult::NoRoute | RouteMatchResult::NoSuchModel => None,
    };
    let Some(id) = stored_response(head) else {
        return named.map(|route| (route, Vec::new())).ok_or_else(|| Refusal::not_found(false));
    };
    let routes = named.map_or_else(|| fleet.routes_for("/v1/responses", field, caller), |route| vec![route]);
    let holding = routes.iter().find_map(|&route| Some((route, fleet.not_holding(route, id)?)));
    holding.or_else(|| named.map(|route| (route, Vec::new()))).ok_or_else(|| {
        if routes.is_empty() {
            return Refusal::not_found(true);
        }
        let message = "it is not known here which backend made this response; keep what the answer to the POST said";
        Refusal::bad_request(400, "previous_response_unknown", message)
    })
}

/// Which one `GET` or `DELETE /v1/responses/ID` asks for.
fn stored_response(head: &RequestHeader) -> Option<StoredId> {
    let id = head.uri.path().strip_prefix("/v1/responses/")?;
    let harmless = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    let asks = matches!(head.method, Method::GET | Method::DELETE) && !id.is_empty() && id.bytes().all(harmless);
    asks.then(|| StoredId::of(id.as_bytes()))
}

fn outcome_of(error: &Error) -> Outcome {
    use pingora_core::ErrorType::{
        ConnectError, ConnectNoRoute, ConnectRefused, ConnectTimedout, ReadTimedout, WriteTimedout,
    };
    match (error.esource(), error.etype()) {
        (_, kind) if *kind == TOO_LARGE => Outcome::RejectedRequest,
        (_, kind) if *kind == OVERDUE => Outcome::TotalTimeout,
        (ErrorSource::Downstream, WriteTimedout) => Outcome::ClientStalled,
        (ErrorSource::Downstream, ReadTimedout) => Outcome::RejectedRequest,
        (ErrorSource::Upstream, ReadTimedout | WriteTimedout) => Outcome::TotalTimeout,
        (ErrorSource::Downstream, _) => Outcome::ClientCancelled,
        (_, ConnectError | ConnectNoRoute | ConnectRefused | ConnectTimedout) => Outcome::ConnectFailed,
        _ if is_tls_failure(error) => Outcome::ConnectFailed,
        (ErrorSource::Upstream, _) => Outcome::Truncated,
        _ => Outcome::InternalError,
    }
}

fn refusal(reason: &NoCandidate) -> Refusal {
    super::place::refusal(reason, "")
}
