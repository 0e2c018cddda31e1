//! What a client is told when headway, not a backend, answers: one place maps every cause to status, body and hints.

use std::time::Duration;

use pingora_http::ResponseHeader;

use super::stamp::Stamp;
use crate::config::settings::Route;
use crate::fleet::{Limit, Limited};
use crate::measure::outcome::{Outcome, ShedReason};
use crate::wire::error::error_body;

/// Longest `Retry-After` that is ever sent: some SDKs obey any value, others give up above 120 s.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// An answer of headway's own.
#[derive(Debug, Clone)]
pub(super) struct Refusal {
    /// HTTP status.
    pub(super) status: u16,
    /// `error.type`.
    pub(super) kind: &'static str,
    /// `error.code`.
    pub(super) code: &'static str,
    /// `error.param`.
    pub(super) param: Option<&'static str>,
    /// `error.message`; names no prompt, no key, no text of a backend's.
    pub(super) message: String,
    /// How long to wait before asking again.
    pub(super) retry_after: Option<Duration>,
    /// Whether an SDK should ask again by itself; `None` leaves it to the SDK.
    pub(super) should_retry: Option<bool>,
    /// How the exchange is recorded.
    pub(super) outcome: Outcome,
    /// Why it is refused for the load, if it is.
    pub(super) shed: Option<ShedReason>,
    /// Header fields of the status itself (`Allow`).
    pub(super) allow: Option<&'static str>,
}

impl Refusal {
    fn new(status: u16, kind: &'static str, code: &'static str, outcome: Outcome, message: impl Into<String>) -> Self {
        Self {
            status,
            kind,
            code,
            param: None,
            message: message.into(),
            retry_after: None,
            should_retry: None,
            outcome,
            shed: None,
            allow: None,
        }
    }

    /// The client's request is wrong; asking again will not help.
    pub(super) fn bad_request(status: u16, code: &'static str, message: impl Into<String>) -> Self {
        let mut refusal = Self::new(status, "invalid_request_error", code, Outcome::RejectedRequest, message);
        refusal.should_retry = Some(false);
        refusal
    }

    /// Names the field that is wrong.
    pub(super) fn about(mut self, param: Option<&'static str>) -> Self {
        self.param = param;
        self
    }

    /// Callers need a key, and this request brought none that is known.
    pub(super) fn unauthorized() -> Self {
        let message = "send a valid API key: `Authorization: Bearer KEY`";
        let mut refusal = Self::bad_request(401, "invalid_api_key", message);
        refusal.kind = "authentication_error";
        refusal
    }

    /// Some route serves it, but not this caller.
    pub(super) fn forbidden() -> Self {
        let message = "this API key may not use what serves this request";
        let mut refusal = Self::bad_request(403, "route_not_allowed", message);
        refusal.kind = "permission_error";
        refusal
    }

    /// The caller has had enough for now.
    pub(super) fn rate_limited(limited: Limited) -> Self {
        let Limited { what, retry_after } = limited;
        let message = match (what, retry_after) {
            (Limit::Requests, _) => "this API key's requests per minute are used up",
            (Limit::Concurrency, _) => "this API key has as many requests under way as it may",
            (Limit::Tokens, Some(_)) => {
                "this API key's tokens per minute do not suffice for prompt and `max_tokens` now"
            }
            (Limit::Tokens, None) => "prompt and `max_tokens` are more than this API key's tokens per minute",
        };
        let mut refusal = Self::new(429, "rate_limit_error", "rate_limit_exceeded", Outcome::RateLimited, message);
        refusal.retry_after = retry_after;
        refusal.should_retry = Some(retry_after.is_some());
        refusal
    }

    /// No such path.
    pub(super) fn not_found(path_known: bool) -> Self {
        let message = if path_known { "no route serves this request" } else { "no such endpoint here" };
        let mut refusal = Self::new(404, "not_found_error", "not_found", Outcome::RejectedRequest, message);
        refusal.should_retry = Some(false);
        refusal
    }

    /// No route serves the model.
    pub(super) fn unknown_model(model: &str) -> Self {
        // A model's name is the client's own text: shown back to it, cut, never logged.
        let shown: String = model.chars().take(128).collect();
        let mut refusal = Self::new(
            404,
            "not_found_error",
            "model_not_found",
            Outcome::RejectedRequest,
            format!("the model `{shown}` is not served here; GET /v1/models lists those that are"),
        );
        refusal.param = Some("model");
        refusal.should_retry = Some(false);
        refusal
    }

    /// A method that is not allowed here.
    pub(super) fn method(allow: &'static str) -> Self {
        let mut refusal = Self::bad_request(405, "method_not_allowed", format!("use {allow} here"));
        refusal.allow = Some(allow);
        refusal
    }

    /// No backend can take it now.
    pub(super) fn unavailable(code: &'static str, message: impl Into<String>, wait: Duration) -> Self {
        let mut refusal = Self::new(503, "server_error", code, Outcome::NoBackend, message);
        refusal.retry_after = Some(wait);
        refusal.should_retry = Some(true);
        refusal
    }

    /// Too much is asked of headway itself or of its backends.
    pub(super) fn overloaded(reason: ShedReason, message: impl Into<String>, wait: Duration) -> Self {
        let mut refusal = Self::new(429, "rate_limit_error", "overloaded", Outcome::Shed, message);
        refusal.shed = Some(reason);
        refusal.retry_after = Some(wait);
        refusal.should_retry = Some(true);
        refusal
    }

    /// headway has as many connections to backends as it has descriptors for.
    pub(super) fn out_of_reach() -> Self {
        let message = "headway has as many connections to backends as it may";
        Self::overloaded(ShedReason::Descriptors, message, Duration::from_secs(1))
    }

    /// A backend failed, before the client was sent anything or later; of no `backend` the client hears the name.
    pub(super) fn upstream(outcome: Outcome, status: u16, backend: &str, wait: Option<Duration>) -> Self {
        let backend = if backend.is_empty() { "the backend".to_owned() } else { format!("backend {backend}") };
        let (kind, message) = match outcome {
            Outcome::ConnectFailed => ("upstream_error", format!("no connection to {backend}")),
            Outcome::FirstTokenTimeout => ("timeout_error", format!("{backend} sent no token in time")),
            Outcome::IdleTimeout => ("timeout_error", format!("{backend} went silent")),
            Outcome::TotalTimeout => ("timeout_error", "the request took longer than it may in all".to_owned()),
            Outcome::Truncated => ("upstream_error", format!("{backend} closed the connection early")),
            Outcome::Empty => ("upstream_error", format!("{backend} sent an empty answer")),
            Outcome::Drained => ("server_error", "headway is shutting down".to_owned()),
            _ => ("upstream_error", format!("{backend} answered with an error")),
        };
        let mut refusal = Self::new(status, kind, upstream_code(outcome), outcome, message);
        // Of a wait that is too long to be told, the client hears that it should not ask again.
        refusal.retry_after = wait.filter(|wait| *wait <= LONGEST_WAIT);
        // headway's own second try is spent: at most one layer retries.
        refusal.should_retry = Some(refusal.retry_after.is_some());
        refusal
    }

    /// A backend and headway do not trust each other, or speak no common TLS: that heals with a certificate, not with time.
    pub(super) fn upstream_tls(backend: &str) -> Self {
        let backend = if backend.is_empty() { "the backend".to_owned() } else { format!("backend {backend}") };
        let message = format!("no TLS connection to {backend}");
        let mut refusal = Self::new(502, "upstream_error", "upstream_tls", Outcome::ConnectFailed, message);
        refusal.should_retry = Some(false);
        refusal
    }

    /// headway's own fault.
    pub(super) fn internal() -> Self {
        Self::new(500, "server_error", "internal_error", Outcome::InternalError, "headway failed; its log says more")
    }

    /// The JSON body.
    pub(super) fn body(&self) -> Vec<u8> {
        error_body(&self.message, self.kind, self.param, Some(self.code))
    }

    /// The response head for a body of `length` bytes.
    pub(super) fn head(&self, stamp: &Stamp, length: usize) -> pingora_core::Result<Box<ResponseHeader>> {
        let mut head = ResponseHeader::build(self.status, Some(8))?;
        head.insert_header("content-type", "application/json")?;
        head.insert_header("content-length", length.to_string())?;
        stamp.put(&mut head)?;
        if self.status == 401 {
            // <https://www.rfc-editor.org/rfc/rfc6750#section-3>
            head.insert_header("www-authenticate", "Bearer")?;
        }
        if let Some(allow) = self.allow {
            head.insert_header("allow", allow)?;
        }
        if let Some(wait) = self.retry_after.map(|wait| wait.min(LONGEST_WAIT)) {
            let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            head.insert_header("retry-after", seconds.max(1).to_string())?;
            head.insert_header("retry-after-ms", wait.as_millis().max(1).to_string())?;
        }
        if let Some(retry) = self.should_retry {
            head.insert_header("x-should-retry", if retry { "true" } else { "false" })?;
        }
        Ok(Box::new(head))
    }
}

/// The backend's name where clients may know it, else nothing: names are topology.
pub(super) fn shown<'a>(route: &Route, backend: &'a str) -> &'a str {
    if route.expose { backend } else { "" }
}

/// The `code` of an error body or event for a failure towards a backend.
fn upstream_code(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::ConnectFailed => "upstream_connect_failed",
        Outcome::Truncated => "upstream_disconnected",
        Outcome::Empty => "upstream_empty",
        Outcome::UpstreamError => "upstream_error",
        other => other.as_str(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(outcome: Outcome, backend: &str, expected: (&str, &str, &str)) {
        let refusal = Refusal::upstream(outcome, 502, backend, None);
        assert_eq!((refusal.kind, refusal.code, refusal.message.as_str()), expected);
    }

    #[test]
    fn a_failure_is_told_without_the_name_that_clients_may_not_know() {
        let silent = |who: &str| format!("{who} went silent");
        check(Outcome::IdleTimeout, "a", ("timeout_error", "idle_timeout", &silent("backend a")));
        check(Outcome::IdleTimeout, "", ("timeout_error", "idle_timeout", &silent("the backend")));
        check(Outcome::Drained, "a", ("server_error", "drained", "headway is shutting down"));
    }
}
