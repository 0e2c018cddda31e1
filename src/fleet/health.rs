//! Asking a backend whether it is ready, and which models it serves.
//!
//! Only the status decides: bodies differ between servers, and `/v1/models` is answered by servers that cannot serve
//! anything, so it is discovery and never health.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use pingora_core::connectors::http::Connector;
use pingora_core::protocols::http::client::HttpSession;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_http::RequestHeader;
use secrecy::ExposeSecret;
use tokio::time::timeout;

use super::backend::{CheckOutcome, Shared};
use super::endpoint::Endpoint;
use super::models::Discovered;
use super::running::Running;
use super::tls::TlsProblem;
use crate::config::settings::{Backend, BackendUrl, Credential};

/// Longest wait for a whole answer, connecting included.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Most bytes of an answer that are read.
const MOST_BYTES: usize = 1 << 20;
/// What is asked where the configuration names no path: NIM first, then vLLM and most others.
const PATHS: [&str; 2] = ["/v1/health/ready", "/health"];
const MODELS: &str = "/v1/models";
const METADATA: &str = "/v1/metadata";

/// The answer to one question.
struct Answer {
    status: u16,
    body: Vec<u8>,
}

/// Checks one address once.
pub(super) async fn check(connector: &Connector, shared: &Shared, endpoint: &Endpoint) -> CheckOutcome {
    let settings = shared.latest.load_full();
    if let Some(path) = &settings.health.path {
        return outcome(ask(connector, endpoint, &settings, path).await.map(|answer| answer.status));
    }
    let start = shared.health_path.load(Ordering::Relaxed);
    let mut last = CheckOutcome::NotReady(404);
    for step in 0..PATHS.len() {
        let place = (start + step) % PATHS.len();
        let Some(path) = PATHS.get(place) else { continue };
        let status = ask(connector, endpoint, &settings, path).await.map(|answer| answer.status);
        if !matches!(status, Ok(404 | 405 | 501)) {
            shared.health_path.store(place, Ordering::Relaxed);
            return outcome(status);
        }
        last = outcome(status);
    }
    last
}

/// Asks for the list of models; `None` when there is no such answer.
pub(super) async fn discover(connector: &Connector, shared: &Shared, endpoint: &Endpoint) -> Option<Discovered> {
    let settings = shared.latest.load_full();
    let answer = ask(connector, endpoint, &settings, MODELS).await.ok()?;
    Discovered::parse(&answer.body).filter(|_| (200..300).contains(&answer.status))
}

/// Asks which profile it runs; `None` when it does not say: it is no NIM.
pub(super) async fn running(connector: &Connector, shared: &Shared, endpoint: &Endpoint) -> Option<Running> {
    let settings = shared.latest.load_full();
    Running::parse(&page(connector, endpoint, &settings, METADATA).await?)
}

/// The page that a URL names; nothing of a backend's credential goes there.
pub(super) async fn page_of(connector: &Connector, peer: &HttpPeer, url: &BackendUrl) -> Option<Vec<u8>> {
    let question = question(&url.authority(), &url.base_path).ok()?;
    let answer = timeout(TIMEOUT, Box::pin(exchange(connector, peer, &question))).await.ok()?.ok()?;
    ((200..300).contains(&answer.status) && answer.body.len() < MOST_BYTES).then_some(answer.body)
}

/// A whole page that is no answer about health; `None` when there is none, or it is too long to be one.
pub(super) async fn page(
    connector: &Connector,
    endpoint: &Endpoint,
    settings: &Arc<Backend>,
    path: &str,
) -> Option<Vec<u8>> {
    let answer = ask(connector, endpoint, settings, path).await.ok()?;
    ((200..300).contains(&answer.status) && answer.body.len() < MOST_BYTES).then_some(answer.body)
}

fn outcome(status: Result<u16, CheckOutcome>) -> CheckOutcome {
    match status {
        Ok(200..=299) => CheckOutcome::Passed,
        Ok(status) => CheckOutcome::NotReady(status),
        Err(outcome) => outcome,
    }
}

async fn ask(
    connector: &Connector,
    endpoint: &Endpoint,
    settings: &Arc<Backend>,
    path: &str,
) -> Result<Answer, CheckOutcome> {
    let question = backend_question(settings, path).map_err(|_| CheckOutcome::Unreachable)?;
    let whole = Box::pin(exchange(connector, endpoint.peer(), &question));
    timeout(TIMEOUT, whole).await.unwrap_or(Err(CheckOutcome::TimedOut))
}

/// A pooled connection may have been closed by the server a moment ago: then a fresh one is tried.
async fn exchange(connector: &Connector, peer: &HttpPeer, question: &RequestHeader) -> Result<Answer, CheckOutcome> {
    loop {
        let connected = connector.get_http_session(peer).await;
        let (mut session, reused) =
            connected.map_err(|error| TlsProblem::of(&error).map_or(CheckOutcome::Unreachable, CheckOutcome::NoTls))?;
        let answer = converse(&mut session, question).await;
        match answer {
            Some(answer) => {
                if session.response_done() {
                    connector.release_http_session(session, peer, peer.options.idle_timeout).await;
                }
                return Ok(answer);
            }
            None if reused => session.shutdown().await,
            None => return Err(CheckOutcome::Unreachable),
        }
    }
}

async fn converse(session: &mut HttpSession, question: &RequestHeader) -> Option<Answer> {
    session.write_request_header(Box::new(question.clone())).await.ok()?;
    session.finish_request_body().await.ok()?;
    let mut status = 100;
    while (100..200).contains(&status) {
        session.read_response_header().await.ok()?;
        status = session.response_header()?.status.as_u16();
    }
    let mut body = Vec::new();
    while body.len() < MOST_BYTES {
        let Some(part): Option<Bytes> = session.read_response_body().await.ok()? else { break };
        body.extend_from_slice(part.get(..part.len().min(MOST_BYTES - body.len())).unwrap_or_default());
    }
    Some(Answer { status, body })
}

fn backend_question(settings: &Backend, path: &str) -> pingora_core::Result<RequestHeader> {
    let mut question = question(&settings.url.authority(), &format!("{}{path}", settings.url.base_path))?;
    if let Credential::ApiKey(key) = &settings.credential {
        question.insert_header("authorization", format!("Bearer {}", key.expose_secret()))?;
    }
    Ok(question)
}

fn question(authority: &str, path: &str) -> pingora_core::Result<RequestHeader> {
    let mut question = RequestHeader::build(Method::GET, path.as_bytes(), None)?;
    question.insert_header("host", authority)?;
    question.insert_header("user-agent", concat!("headway/", env!("CARGO_PKG_VERSION")))?;
    question.insert_header("accept", "application/json, text/plain;q=0.5")?;
    Ok(question)
}
