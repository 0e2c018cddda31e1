//! What a request is, from its head, before anything of it is believed: allow-lists, bounds, identity.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::{HeaderMap, Method, Version};
use pingora_core::protocols::http::server::Session;
use pingora_http::RequestHeader;

use super::cors::is_preflight;
use super::refuse::Refusal;
use crate::config::access::Cors;
use crate::config::settings::{ClientSlo, Limits, Route};
use crate::measure::objective::{Latency, Objective, Objectives};
use crate::units::{Quantile, format_size};
use crate::wire::Api;

/// The methods that any path may have.
pub(super) const METHODS: &str = "GET, HEAD, POST, OPTIONS, DELETE";

/// What is to be done with a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Plan {
    /// Measured and routed by our own loop.
    Inference {
        /// Which API is spoken.
        api: Api,
        /// The model, where the path names it.
        model: Option<String>,
    },
    /// `GET /v1/models`: answered by headway.
    Models,
    /// A browser's question about a request to come: answered by headway.
    Preflight,
    /// Anything else: a route must name the path.
    Other,
}

/// Checks a request's head and says what it asks for.
pub(super) fn plan(head: &RequestHeader, limits: &Limits, cors: Option<&Cors>) -> Result<Plan, Refusal> {
    bounded(head, limits)?;
    one_host(head)?;
    if is_preflight(cors, head) {
        framed(&head.headers)?;
        return Ok(Plan::Preflight);
    }
    let path = head.uri.path();
    if let Some((api, model)) = Api::from_path(path) {
        if head.method != Method::POST {
            return Err(Refusal::method("POST"));
        }
        framed(&head.headers)?;
        return Ok(Plan::Inference { api, model: model.map(str::to_owned) });
    }
    match head.method {
        Method::GET | Method::HEAD if path == "/v1/models" => Ok(Plan::Models),
        Method::GET | Method::HEAD | Method::POST | Method::OPTIONS | Method::DELETE => {
            framed(&head.headers)?;
            Ok(Plan::Other)
        }
        _ => Err(Refusal::method(METHODS)),
    }
}

/// A length beside a transfer coding is how requests are smuggled, <https://www.rfc-editor.org/rfc/rfc9112#section-6.1>.
/// pingora takes the length away, so it is looked for in the bytes of the head.
pub(super) fn one_framing(session: &Session) -> Result<(), Refusal> {
    let coded = session.req_header().headers.contains_key("transfer-encoding");
    let Some(h1) = session.as_http1().filter(|_| coded) else { return Ok(()) };
    let head = h1.get_headers_raw_bytes().to_ascii_lowercase();
    let field = |line: &[u8]| {
        line.strip_prefix(b"content-length").is_some_and(|rest| rest.trim_ascii_start().starts_with(b":"))
    };
    if head.split(|byte| *byte == b'\n').any(field) {
        let message = "a request has Content-Length or Transfer-Encoding, not both";
        return Err(Refusal::bad_request(400, "malformed_body", message));
    }
    Ok(())
}

/// pingora itself allows 256 fields and 1 MiB.
fn bounded(head: &RequestHeader, limits: &Limits) -> Result<(), Refusal> {
    let too_large = |message: String| Err(Refusal::bad_request(431, "headers_too_large", message));
    if head.headers.len() > limits.headers {
        return too_large(format!("more than {} header fields", limits.headers));
    }
    // Each line has `: ` and a line end besides name and value.
    let fields: usize = head.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    let line = head.uri.path_and_query().map_or(0, |path| path.as_str().len());
    if (fields + line) as u64 > limits.header {
        return too_large(format!("the request head is larger than {}", format_size(limits.header)));
    }
    Ok(())
}

/// <https://www.rfc-editor.org/rfc/rfc9112#section-3.2>: exactly one `Host`; h2 has `:authority` instead.
fn one_host(head: &RequestHeader) -> Result<(), Refusal> {
    let hosts = head.headers.get_all("host").iter().count();
    let named = hosts == 1 || (hosts == 0 && (head.uri.authority().is_some() || head.version == Version::HTTP_10));
    if named { Ok(()) } else { Err(Refusal::bad_request(400, "bad_host", "exactly one Host field is needed")) }
}

/// What would let two servers read one request differently is refused.
fn framed(headers: &HeaderMap) -> Result<(), Refusal> {
    let coding = headers.get("content-encoding").map(|value| value.as_bytes().to_ascii_lowercase());
    if coding.is_some_and(|coding| coding != b"identity" && !coding.is_empty()) {
        let message = "send the body without content-encoding";
        return Err(Refusal::bad_request(415, "unsupported_content_encoding", message));
    }
    if headers.get_all("transfer-encoding").iter().any(|value| !value.as_bytes().eq_ignore_ascii_case(b"chunked")) {
        return Err(Refusal::bad_request(400, "bad_transfer_encoding", "the only transfer coding taken is chunked"));
    }
    // pingora takes `4, 4` for 4 and sends it on as it was, where another server may take it for something else.
    if headers.get_all("content-length").iter().any(|value| !value.as_bytes().iter().all(u8::is_ascii_digit)) {
        return Err(Refusal::bad_request(400, "malformed_body", "Content-Length is one number"));
    }
    if headers.get("expect").is_some_and(|value| !value.as_bytes().eq_ignore_ascii_case(b"100-continue")) {
        return Err(Refusal::bad_request(417, "bad_expectation", "the only expectation taken is 100-continue"));
    }
    if headers.contains_key("upgrade") {
        return Err(Refusal::bad_request(400, "no_upgrade", "this endpoint has no other protocol to change to"));
    }
    if headers.keys().any(|name| name.as_str().contains('_')) {
        return Err(Refusal::bad_request(400, "bad_header_name", "header names with an underscore are refused"));
    }
    Ok(())
}

/// Whether the client waits for `100 Continue` before it sends its body.
pub(super) fn expects_continue(headers: &HeaderMap) -> bool {
    headers.get("expect").is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

/// Makes request ids that no two exchanges of this process share, nor of two processes in practice.
#[derive(Debug)]
pub(super) struct RequestIds {
    process: u64,
    next: AtomicU64,
}

impl RequestIds {
    /// Ids of a process that started at `wall_nanos`.
    pub(super) fn new(wall_nanos: u64) -> Self {
        let mut mixed = crate::random::Random::seeded(wall_nanos ^ u64::from(std::process::id()).rotate_left(40));
        mixed.bits();
        Self { process: mixed.bits(), next: AtomicU64::new(1) }
    }

    /// The client's id, if it is a harmless one; else a new one.
    pub(super) fn of(&self, headers: &HeaderMap) -> Arc<str> {
        let given = headers.get("x-request-id").and_then(|value| value.to_str().ok()).filter(|id| harmless(id));
        match given {
            Some(id) => id.into(),
            None => self.fresh(),
        }
    }

    /// A new one.
    pub(super) fn fresh(&self) -> Arc<str> {
        format!("{:016x}{:012x}", self.process, self.next.fetch_add(1, Ordering::Relaxed)).into()
    }
}

fn harmless(id: &str) -> bool {
    (1..=128).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

/// Whether the client came over TLS.
pub(super) fn is_secure(session: &Session) -> bool {
    session.digest().is_some_and(|digest| digest.ssl_digest.is_some())
}

/// The route's objectives, tightened by `x-slo-*` as far as the route lets a client.
pub(super) fn effective_objectives(route: &Route, headers: &HeaderMap) -> Objectives {
    let mut objectives = route.objectives;
    let ClientSlo::Tighten { ttft_floor, itl_floor } = route.client_slo else { return objectives };
    tighten(&mut objectives.ttft, Latency::TimeToFirstToken, headers, "x-slo-ttft-ms", ttft_floor);
    tighten(&mut objectives.itl, Latency::InterToken, headers, "x-slo-itl-ms", itl_floor);
    objectives
}

fn tighten(objective: &mut Option<Objective>, latency: Latency, headers: &HeaderMap, name: &str, floor: Duration) {
    let asked = headers
        .get(name)
        .and_then(|value| value.to_str().ok()?.parse::<f64>().ok())
        .filter(|ms| *ms > 0.0)
        .and_then(|ms| Duration::try_from_secs_f64(ms / 1000.0).ok());
    let Some(asked) = asked.map(|asked| asked.max(floor)) else { return };
    match objective {
        Some(own) => own.threshold = own.threshold.min(asked),
        None => *objective = Some(Objective { latency, quantile: Quantile::P95, threshold: asked }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(method: &str, path: &str, fields: &[(&'static str, &str)]) -> RequestHeader {
        let mut head = RequestHeader::build(method, path.as_bytes(), None).unwrap();
        head.append_header("host", "h").unwrap();
        for (name, value) in fields {
            head.append_header(*name, *value).unwrap();
        }
        head
    }

    #[track_caller]
    fn refused(head: &RequestHeader, status: u16, code: &str) {
        let refusal = plan(head, &Limits::default(), None).expect_err("refused");
        assert_eq!((refusal.status, refusal.code), (status, code));
    }

    #[test]
    fn inference_is_posted() {
        let chat = head("POST", "/v1/chat/completions", &[]);
        let expected = Plan::Inference { api: Api::Chat, model: None };
        assert_eq!(plan(&chat, &Limits::default(), None).unwrap(), expected);
        refused(&head("GET", "/v1/chat/completions", &[]), 405, "method_not_allowed");
        refused(&head("TRACE", "/", &[]), 405, "method_not_allowed");
        assert_eq!(plan(&head("GET", "/v1/models", &[]), &Limits::default(), None).unwrap(), Plan::Models);
    }

    #[test]
    fn ambiguous_framing_is_refused() {
        let post = |name, value: &str| head("POST", "/v1/completions", &[(name, value)]);
        refused(&post("content-encoding", "gzip"), 415, "unsupported_content_encoding");
        refused(&post("transfer-encoding", "gzip, chunked"), 400, "bad_transfer_encoding");
        refused(&post("expect", "a-miracle"), 417, "bad_expectation");
        refused(&post("upgrade", "h2c"), 400, "no_upgrade");
        refused(&post("content-length", "4, 4"), 400, "malformed_body");
        refused(&post("content_length", "7"), 400, "bad_header_name");
        refused(&post("host", "other"), 400, "bad_host");
        refused(&head("POST", "/v1/files", &[("transfer-encoding", "gzip")]), 400, "bad_transfer_encoding");
        let mut without = head("POST", "/v1/completions", &[]);
        without.remove_header("host");
        refused(&without, 400, "bad_host");
    }

    #[test]
    fn a_large_head_is_refused() {
        refused(&head("POST", "/v1/completions", &[("x-large", &"a".repeat(70_000))]), 431, "headers_too_large");
        let mut many = head("POST", "/v1/completions", &[]);
        for _ in 0..100 {
            many.append_header("x-many", "1").unwrap();
        }
        refused(&many, 431, "headers_too_large");
    }

    #[test]
    fn a_harmless_request_id_is_kept() {
        let ids = RequestIds::new(1);
        assert_eq!(&*ids.of(&head("GET", "/", &[("x-request-id", "abc-1.2_3")]).headers), "abc-1.2_3");
        let made = ids.of(&head("GET", "/", &[("x-request-id", "a b")]).headers);
        assert_ne!(&*made, "a b");
        assert_ne!(made, ids.of(&head("GET", "/", &[]).headers));
        assert!(harmless(&made));
    }
}
