//! Which header fields cross the proxy, in which direction.
//!
//! Towards a backend an allow-list rules: what is not named here does not go, credentials least of all. Towards the
//! client everything end-to-end goes, less what belongs to the other connection.

use std::sync::Arc;

use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Uri, Version, uri::PathAndQuery};
use pingora_http::{RequestHeader, ResponseHeader};
use secrecy::ExposeSecret;

use super::forwarded::Forwarded;
use crate::config::settings::{Backend, Credential};
use crate::wire::trace_context::TraceParent;

/// Fields of a client's request that backends get to see.
const FORWARDED: [&str; 14] = [
    "accept",
    "content-type",
    "user-agent",
    "x-correlation-id",
    "x-session-affinity",
    "x-session-id",
    "tracestate",
    "openai-organization",
    "openai-project",
    "openai-beta",
    "anthropic-version",
    "anthropic-beta",
    "x-nvidia-request-id",
    "accept-language",
];

/// The client's own credentials, forwarded only to backends configured so.
const CREDENTIALS: [&str; 3] = ["authorization", "x-api-key", "api-key"];

/// Fields that belong to one connection, <https://www.rfc-editor.org/rfc/rfc9110#section-7.6.1>.
const HOP_BY_HOP: [&str; 9] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Most bytes of `tracestate` that are kept: as many as must be, <https://www.w3.org/TR/trace-context/#tracestate-limits>.
const STATE: usize = 512;

/// What the proxy itself adds to every request it sends on.
pub(super) struct Added<'a> {
    /// The exchange's request id.
    pub(super) request_id: &'a str,
    /// The trace it belongs to.
    pub(super) trace: TraceFields,
    /// Who asked.
    pub(super) forwarded: &'a Forwarded,
}

/// What a backend is told of the trace.
#[derive(Debug, Clone, Default)]
pub(super) struct TraceFields {
    /// Its caller.
    pub(super) traceparent: Option<HeaderValue>,
    /// Whether the client's `tracestate` belongs to it: a state without its parent means nothing.
    pub(super) with_state: bool,
}

/// The head of an inference request as one backend gets it.
///
/// # Errors
/// When the backend's path cannot be a URI, which validated settings rule out.
pub(super) fn upstream_head(
    client: &RequestHeader,
    backend: &Backend,
    body_length: usize,
    added: &Added<'_>,
) -> pingora_core::Result<Box<RequestHeader>> {
    let authority = backend.url.authority();
    let path = upstream_path(client.uri.path_and_query(), &backend.url.base_path);
    let mut head = RequestHeader::build(client.method.clone(), path.as_bytes(), Some(24))?;
    if backend.http2 {
        let scheme = if backend.url.https { "https" } else { "http" };
        let uri = Uri::builder().scheme(scheme).authority(authority.as_str()).path_and_query(path.as_str()).build();
        head.set_uri(uri.map_err(|_| pingora_core::Error::new_str("a backend's address makes no URI"))?);
        head.set_version(Version::HTTP_2);
    } else {
        head.insert_header("host", authority)?;
    }
    for (name, value) in &client.headers {
        if FORWARDED.contains(&name.as_str()) {
            head.append_header(name.clone(), value)?;
        }
    }
    head.insert_header("content-length", body_length.to_string())?;
    head.insert_header("accept-encoding", "identity")?;
    head.insert_header("x-request-id", added.request_id)?;
    if let Some(traceparent) = &added.trace.traceparent {
        head.insert_header("traceparent", traceparent)?;
    }
    if !added.trace.with_state {
        head.remove_header("tracestate");
    }
    for (name, value) in added.forwarded.fields() {
        head.insert_header(name, value)?;
    }
    add_credential(&client.headers, &mut head, &backend.credential)?;
    Ok(Box::new(head))
}

fn copy(from: &HeaderMap, to: &mut RequestHeader, name: &'static str) -> pingora_core::Result<()> {
    for value in from.get_all(name) {
        to.append_header(name, value)?;
    }
    Ok(())
}

/// Credentials come last: nothing the client nominates can strip or replace them.
fn add_credential(client: &HeaderMap, head: &mut RequestHeader, credential: &Credential) -> pingora_core::Result<()> {
    match credential {
        Credential::None => {}
        Credential::ApiKey(key) => {
            let mut value = HeaderValue::try_from(format!("Bearer {}", key.expose_secret()))
                .map_err(|_| pingora_core::Error::new_str("a backend's key makes no header"))?;
            value.set_sensitive(true);
            head.insert_header("authorization", value)?;
        }
        Credential::ForwardClient => {
            for name in CREDENTIALS {
                copy(client, head, name)?;
            }
        }
    }
    Ok(())
}

fn upstream_path(path: Option<&PathAndQuery>, base: &str) -> String {
    format!("{base}{}", path.map_or("/", PathAndQuery::as_str))
}

/// What a response head says about its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BodyKind {
    /// `text/event-stream`: forwarded as it comes, never with a length.
    EventStream,
    /// Anything else.
    Whole,
}

/// Whether a response is an event stream.
pub(super) fn body_kind(head: &ResponseHeader) -> BodyKind {
    let is_event_stream = head
        .headers
        .get("content-type")
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| value.trim_start().to_ascii_lowercase().starts_with("text/event-stream"));
    if is_event_stream { BodyKind::EventStream } else { BodyKind::Whole }
}

/// Whether the body is in a coding that cannot be read, although `identity` was asked for.
pub(super) fn is_encoded(head: &ResponseHeader) -> bool {
    head.headers.get("content-encoding").is_some_and(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity"))
}

/// The response head as the client gets it.
pub(super) fn downstream_head(
    upstream: &ResponseHeader,
    kind: BodyKind,
    client_is_h2: bool,
    request_id: &str,
) -> pingora_core::Result<Box<ResponseHeader>> {
    let mut head = ResponseHeader::build(upstream.status, Some(upstream.headers.len() + 4))?;
    let nominated = nominated(&upstream.headers);
    for (name, value) in &upstream.headers {
        if !HOP_BY_HOP.contains(&name.as_str()) && !nominated.iter().any(|other| other == name) {
            head.append_header(name.clone(), value)?;
        }
    }
    head.insert_header("x-request-id", request_id)?;
    if kind == BodyKind::EventStream {
        // A body with a length would be flushed only at its end.
        head.remove_header("content-length");
        head.insert_header("cache-control", "no-cache")?;
        head.insert_header("x-accel-buffering", "no")?;
    }
    if !client_is_h2 {
        head.set_version(Version::HTTP_11);
        if !head.headers.contains_key("content-length") {
            head.insert_header("transfer-encoding", "chunked")?;
        }
    }
    Ok(Box::new(head))
}

/// The fields that `Connection` declares to be of one connection only.
fn nominated(headers: &HeaderMap) -> Vec<HeaderName> {
    headers
        .get_all("connection")
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect()
}

/// The client's `traceparent`, if there is exactly one and it is valid.
pub(super) fn traceparent(headers: &HeaderMap) -> Option<(TraceParent, &HeaderValue)> {
    let mut fields = headers.get_all("traceparent").iter();
    let field = fields.next().filter(|_| fields.next().is_none())?;
    Some((TraceParent::read(field.to_str().ok()?)?, field))
}

/// The client's `tracestate` as one list; nothing of one that is longer than needs to be kept.
pub(super) fn tracestate(headers: &HeaderMap) -> Option<Arc<str>> {
    let mut fields = headers.get_all("tracestate").iter();
    let first = fields.next()?.to_str().ok()?;
    let Some(second) = fields.next() else { return Some(first.into()).filter(|_| first.len() <= STATE) };
    let mut list = first.to_owned();
    for field in std::iter::once(second).chain(fields) {
        list.push(',');
        list.push_str(field.to_str().ok()?);
    }
    (list.len() <= STATE).then(|| list.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::settings::{BackendTls, BackendUrl, Features, Health};

    fn backend(credential: Credential, http2: bool) -> Backend {
        Backend {
            name: "b".into(),
            url: BackendUrl { https: false, host: "10.0.0.1".into(), port: 8000, base_path: "/nim".into() },
            allow_link_local: false,
            tls: BackendTls::default(),
            http2,
            profile: None,
            profile_id: None,
            models: None,
            rename: Vec::new(),
            price: None,
            max_in_flight: None,
            context_length: None,
            features: Features::default(),
            credential,
            health: Health::default(),
            metrics: None,
            gpus: Vec::new(),
            dcgm: None,
        }
    }

    fn client() -> RequestHeader {
        let mut head = RequestHeader::build("POST", b"/v1/chat/completions?a=1", None).unwrap();
        for (name, value) in [
            ("host", "public.example"),
            ("authorization", "Bearer client-key"),
            ("x-api-key", "client-key"),
            ("cookie", "secret"),
            ("connection", "x-session-id, keep-alive"),
            ("te", "trailers"),
            ("expect", "100-continue"),
            ("accept-encoding", "gzip"),
            ("x-forwarded-for", "6.6.6.6"),
            ("x-slo-ttft-ms", "100"),
            ("content-type", "application/json"),
            ("tracestate", "a=b"),
        ] {
            head.append_header(name, value).unwrap();
        }
        head
    }

    fn added() -> Added<'static> {
        static NOBODY: Forwarded = Forwarded::nobody();
        Added { request_id: "r-1", trace: TraceFields::default(), forwarded: &NOBODY }
    }

    fn names(head: &RequestHeader) -> Vec<&str> {
        let mut names: Vec<_> = head.headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn only_the_allowed_fields_go_to_a_backend() {
        let head = upstream_head(&client(), &backend(Credential::None, false), 7, &added()).unwrap();
        let expected = ["accept-encoding", "content-length", "content-type", "host", "x-request-id"];
        assert_eq!(names(&head), expected);
        assert_eq!(head.headers["host"], "10.0.0.1:8000");
        assert_eq!(head.uri, "/nim/v1/chat/completions?a=1");
    }

    #[test]
    fn a_backends_key_replaces_the_clients() {
        let head = upstream_head(&client(), &backend(Credential::ApiKey("k".into()), false), 7, &added()).unwrap();
        assert_eq!(head.headers["authorization"], "Bearer k");
        assert!(head.headers["authorization"].is_sensitive());
        assert!(!head.headers.contains_key("x-api-key"));
        let head = upstream_head(&client(), &backend(Credential::ForwardClient, false), 7, &added()).unwrap();
        assert_eq!(head.headers["authorization"], "Bearer client-key");
        assert_eq!(head.headers["x-api-key"], "client-key");
    }

    #[test]
    fn h2_has_an_authority_and_no_host() {
        let head = upstream_head(&client(), &backend(Credential::None, true), 7, &added()).unwrap();
        assert!(!head.headers.contains_key("host"));
        assert_eq!(head.uri, "http://10.0.0.1:8000/nim/v1/chat/completions?a=1");
    }

    #[test]
    fn a_second_traceparent_spoils_the_first() {
        let field = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let mut head = client();
        assert!(traceparent(&head.headers).is_none());
        head.append_header("traceparent", field).unwrap();
        assert_eq!(traceparent(&head.headers).map(|(parent, _)| parent.field()).as_deref(), Some(field));
        head.append_header("traceparent", field).unwrap();
        assert!(traceparent(&head.headers).is_none());
    }

    #[test]
    fn states_are_one_list_and_a_boundless_one_is_none() {
        let mut head = client();
        assert_eq!(tracestate(&head.headers).as_deref(), Some("a=b"));
        head.append_header("tracestate", "c=d,e=f").unwrap();
        assert_eq!(tracestate(&head.headers).as_deref(), Some("a=b,c=d,e=f"));
        head.append_header("tracestate", format!("g={}", "x".repeat(STATE))).unwrap();
        assert_eq!(tracestate(&head.headers), None);
    }

    #[test]
    fn a_state_goes_with_its_parent_only() {
        let sent = |with_state| {
            let trace = TraceFields { traceparent: Some(HeaderValue::from_static("t")), with_state };
            let added = Added { trace, ..added() };
            let head = upstream_head(&client(), &backend(Credential::None, false), 7, &added).unwrap();
            (head.headers.contains_key("traceparent"), head.headers.contains_key("tracestate"))
        };
        assert_eq!((sent(true), sent(false)), ((true, true), (true, false)));
    }

    #[test]
    fn what_belongs_to_the_backends_connection_stays_there() {
        let mut upstream = ResponseHeader::build(200, None).unwrap();
        for (name, value) in [
            ("content-type", "text/event-stream; charset=utf-8"),
            ("transfer-encoding", "chunked"),
            ("connection", "keep-alive, x-hop"),
            ("x-hop", "1"),
            ("content-length", "12"),
            ("server", "uvicorn"),
        ] {
            upstream.append_header(name, value).unwrap();
        }
        let head = downstream_head(&upstream, body_kind(&upstream), true, "r-1").unwrap();
        for gone in ["transfer-encoding", "connection", "x-hop", "content-length"] {
            assert!(!head.headers.contains_key(gone), "{gone}");
        }
        assert_eq!(head.headers["server"], "uvicorn");
        assert_eq!(head.headers["x-accel-buffering"], "no");
        let head = downstream_head(&upstream, body_kind(&upstream), false, "r-1").unwrap();
        assert_eq!(head.headers["transfer-encoding"], "chunked");
    }
}
