//! Paths that a route names and headway does not understand: pingora's stock proxy carries them, headway picks the
//! backend, keeps the headers clean and writes the record.

use std::sync::Arc;
use std::time::Instant;

use pingora_core::protocols::http::server::Session as Downstream;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_core::{Error, ErrorSource, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::Session;

use super::exchange::Exchange;
use super::headers::{self, Added};
use super::inspect;
use super::refuse::{Refusal, shown};
use crate::fleet::{Dispatched, Needs, NoCandidate, Request, RouteMatchResult};
use crate::measure::exchange::Attempt;
use crate::measure::outcome::{Blame, Outcome};
use crate::route::snapshot::RequestFacts;

/// A backend that was picked for a stock exchange.
pub(super) struct Picked(Dispatched);

/// A stock exchange under way.
pub(super) struct Stock {
    exchange: Exchange,
    dispatched: Dispatched,
    began: Instant,
    failure: Option<Outcome>,
}

impl Picked {
    pub(super) fn with(self, exchange: Exchange) -> Stock {
        Stock { began: exchange.started, exchange, dispatched: self.0, failure: None }
    }
}

impl Stock {
    /// Picks a backend for a path that some route names.
    pub(super) fn dispatch(
        exchange: &mut Exchange,
        head: &RequestHeader,
        now: Instant,
    ) -> std::result::Result<Picked, Refusal> {
        let fleet = Arc::clone(&exchange.fleet);
        let field = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok());
        let RouteMatchResult::Found(route) = fleet.match_route(head.uri.path(), field, None) else {
            return Err(Refusal::not_found(false));
        };
        exchange.route = Some(route);
        let name = fleet.settings().routes.get(route).map(|route| Arc::clone(&route.name));
        exchange.note(|record| record.route = name);
        let request = Request { model: "", facts: RequestFacts::default(), needs: Needs::default() };
        fleet.dispatch(route, &request, &[], now).map(Picked).map_err(|reason| refusal(&reason))
    }

    /// The backend, which may be silent for as long as the route's requests may take in all.
    pub(super) fn peer(&self) -> HttpPeer {
        let mut peer = self.dispatched.endpoint.peer().clone();
        let settings = self.exchange.fleet.settings();
        let total = self.exchange.route.and_then(|route| settings.routes.get(route)).map(|route| route.timeouts.total);
        peer.options.read_timeout = total;
        peer.options.write_timeout = total;
        peer
    }

    /// The client may pause no longer than on the paths that headway understands.
    pub(super) fn bound(&self, session: &mut Downstream) {
        let limits = &self.exchange.fleet.settings().limits;
        session.set_read_timeout(Some(limits.body_idle));
        session.set_write_timeout(Some(limits.write_idle));
    }

    pub(super) fn request_id(&self) -> Arc<str> {
        self.exchange.request_id()
    }

    /// The head as the backend gets it: the inference path's rules, with pingora's framing.
    pub(super) fn upstream_head(&self, session: &Session, upstream: &mut RequestHeader) -> Result<()> {
        let client = session.req_header();
        let traceparent = client.headers.get("traceparent").filter(|value| headers::trace_id(value).is_some());
        let settings = self.exchange.fleet.settings();
        let forwarded = inspect::forwarded(&session.downstream_session, settings, &client.headers);
        let added = Added {
            request_id: &self.exchange.request_id(),
            traceparent,
            forwarded_for: forwarded.client.as_deref(),
            forwarded_proto: forwarded.proto,
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

    pub(super) fn downstream_head(&self, head: &mut ResponseHeader) -> Result<()> {
        head.insert_header("x-request-id", &*self.exchange.request_id())
    }

    /// The backend failed before the client was sent anything.
    pub(super) fn failed(&mut self, error: &Error) -> Refusal {
        let outcome = outcome_of(error);
        self.failure = Some(outcome);
        if outcome == Outcome::RejectedRequest {
            return Refusal::bad_request(408, "request_timeout", "the request body did not arrive in time");
        }
        let status = if outcome == Outcome::TotalTimeout { 504 } else { 502 };
        let settings = self.exchange.fleet.settings();
        let route = self.exchange.route.and_then(|route| settings.routes.get(route));
        Refusal::upstream(outcome, status, route.map_or("", |route| shown(route, self.dispatched.backend.name())), None)
    }

    /// Writes the record.
    pub(super) fn finish(self, session: &Session, error: Option<&Error>, now: Instant) {
        let Self { mut exchange, dispatched, began, failure } = self;
        let status = session.response_written().map_or(0, |head| head.status.as_u16());
        let outcome = match (failure, error, status) {
            (Some(outcome), ..) => outcome,
            (None, Some(error), _) => outcome_of(error),
            (None, None, 400..=428 | 430..=499) => Outcome::BackendRejected,
            (None, None, 429 | 500..) => Outcome::UpstreamError,
            (None, None, _) => Outcome::Complete,
        };
        let Dispatched { backend, in_flight, summary, .. } = dispatched;
        let reason = Some(summary.reason);
        // Back-pressure is no fault; a 503's body, which may say that it is one, is not read here.
        let blame = if matches!(status, 429 | 503) { Blame::Neutral } else { outcome.blame() };
        exchange.note(|record| {
            record.status = status;
            record.bytes_in = session.body_bytes_read() as u64;
            record.bytes_out = session.body_bytes_sent() as u64;
            record.decision = Some(summary);
            record.latencies.end_to_end = Some(now.saturating_duration_since(began));
            record.attempts.push(Attempt {
                backend: Arc::clone(backend.name()),
                profile: backend.settings().profile.clone(),
                reason,
                outcome,
                blame,
                duration: now.saturating_duration_since(began),
                first_token: None,
            });
        });
        in_flight.ended(blame, now);
        exchange.finish(outcome);
    }
}

fn outcome_of(error: &Error) -> Outcome {
    use pingora_core::ErrorType::{
        ConnectError, ConnectNoRoute, ConnectRefused, ConnectTimedout, ReadTimedout, TLSHandshakeFailure, WriteTimedout,
    };
    match (error.esource(), error.etype()) {
        (ErrorSource::Downstream, WriteTimedout) => Outcome::ClientStalled,
        (ErrorSource::Downstream, ReadTimedout) => Outcome::RejectedRequest,
        (ErrorSource::Upstream, ReadTimedout | WriteTimedout) => Outcome::TotalTimeout,
        (ErrorSource::Downstream, _) => Outcome::ClientCancelled,
        (_, ConnectError | ConnectNoRoute | ConnectRefused | ConnectTimedout | TLSHandshakeFailure) => {
            Outcome::ConnectFailed
        }
        (ErrorSource::Upstream, _) => Outcome::Truncated,
        _ => Outcome::InternalError,
    }
}

fn refusal(reason: &NoCandidate) -> Refusal {
    super::win::no_candidate(reason, "")
}
