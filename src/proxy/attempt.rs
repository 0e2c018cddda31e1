//! One try on one backend: connect, send, and read until the client may be shown something.
//!
//! Until then everything is still open: a failure here can go to another backend without the client noticing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use pingora_http::{RequestHeader, ResponseHeader};

use super::Proxy;
use super::answer::{Answer, Reading, WholeReading};
use super::headers::{self, BodyKind};
use super::marks::{Marks, Step};
use super::upstream::Upstream;
use crate::config::settings::{Commit, RetryCause, Route};
use crate::fleet::{Endpoint, Progress, is_tls_failure};
use crate::measure::outcome::{Blame, Outcome, refuses};
use crate::measure::reader::StreamReader;
use crate::measure::sieve::UsageSieve;
use crate::wire::Api;
use crate::wire::error::{StreamError, read_error};

/// Most that is held back before the first token; beyond it the answer is shown.
const HELD: usize = 64 * 1024;

/// A kept connection that had died in silence says so within so long of being used.
const STALE_WITHIN: Duration = Duration::from_secs(1);

/// How long the body of a refusal is waited for: it may say that a queue is full, but nobody should wait for it.
const REFUSAL_BODY: Duration = Duration::from_secs(1);

/// What is sent, and how the answer is to be read. Needs nothing of the exchange, so that two may be under way.
pub(super) struct Call<'a> {
    pub(super) proxy: &'a Arc<Proxy>,
    pub(super) route: &'a Route,
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) head: Box<RequestHeader>,
    pub(super) body: Bytes,
    pub(super) api: Api,
    /// Whether the client asked for a stream.
    pub(super) stream: bool,
    /// Whether the usage event was headway's wish, not the client's.
    pub(super) asked_for_usage: bool,
    /// When the request was complete.
    pub(super) started: Instant,
    /// Hears of every byte: the backend's progress watchdog.
    pub(super) progress: Progress,
    /// Notes how far it comes.
    pub(super) marks: Arc<Marks>,
}

/// Why a try came to nothing.
#[derive(Debug, Clone, Copy)]
pub(super) struct Failure {
    pub(super) outcome: Outcome,
    pub(super) blame: Blame,
    /// What it is among the causes that may be retried, if it is any.
    pub(super) cause: Option<RetryCause>,
    /// The status that tells the client.
    pub(super) status: u16,
    /// The backend's own `Retry-After`.
    pub(super) wait: Option<Duration>,
    /// There was a connection, and no TLS on it.
    pub(super) tls: bool,
}

impl Failure {
    fn new(outcome: Outcome, cause: impl Into<Option<RetryCause>>, status: u16) -> Self {
        let cause = cause.into();
        Self { outcome, blame: outcome.blame(), cause, status, wait: None, tls: false }
    }

    fn reset() -> Self {
        Self::new(Outcome::Truncated, RetryCause::Reset, 502)
    }

    /// A try that nobody knows of; cannot be.
    pub(super) fn lost() -> Self {
        Self::new(Outcome::InternalError, None, 500)
    }

    fn total() -> Self {
        Self::new(Outcome::TotalTimeout, None, 504)
    }

    /// The backend's own refusal, of a try that is not to be shown.
    pub(super) fn rejected(status: u16) -> Self {
        Self::new(Outcome::BackendRejected, None, status)
    }

    fn connect() -> Self {
        Self::new(Outcome::ConnectFailed, RetryCause::Connect, 502)
    }

    /// What is no answer and names no status.
    fn no_answer() -> Self {
        Self::new(Outcome::UpstreamError, RetryCause::ErrorEvent, 502)
    }

    /// A status that is a failure, wherever it stood; `error` is what came with it. "Busy" is not held against a
    /// backend.
    fn status(status: u16, error: Option<&StreamError>) -> Self {
        let (cause, told) = match status {
            429 => (RetryCause::Status429, 429),
            503 => (RetryCause::Status503, 503),
            500..=599 => (RetryCause::Status5xx, status),
            _ => (RetryCause::Status5xx, 502),
        };
        let mut failure = Self::new(Outcome::UpstreamError, cause, told);
        if status == 429 || (matches!(status, 503 | 529) && error.is_some_and(StreamError::is_backpressure)) {
            failure.blame = Blame::Neutral;
        }
        failure
    }

    /// An error object in place of an answer counts as the status its `code` names; of mere names, only those count
    /// that say "busy".
    fn error_object(error: &StreamError) -> Self {
        let busy = error.status().filter(|_| error.is_backpressure());
        let named = error.code().filter(|code| (500..600).contains(code)).or(busy);
        named.map_or_else(Self::no_answer, |status| Self::status(status, Some(error)))
    }
}

/// Where a try broke, before anything is decided about it.
enum Broken {
    /// The pooled connection was dead: nobody's fault, a fresh one may do.
    Stale,
    /// The try failed.
    Failed(Failure),
}

impl From<Failure> for Broken {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// Tries the backend until `total_deadline`, and within the first-token timer when the answer is streamed.
pub(super) async fn attempt(call: Call<'_>, total_deadline: Instant) -> Result<Box<Answer>, Failure> {
    let tried = tokio::time::timeout_at(total_deadline.into(), before_first_token(call)).await;
    tried.unwrap_or_else(|_| Err(Failure::total()))
}

async fn before_first_token(call: Call<'_>) -> Result<Box<Answer>, Failure> {
    if !call.stream {
        return with_fresh_connection(&call).await;
    }
    match tokio::time::timeout(call.route.timeouts.first_token, with_fresh_connection(&call)).await {
        Ok(result) => result,
        Err(_) => Err(Failure::new(Outcome::FirstTokenTimeout, RetryCause::FirstTokenTimeout, 504)),
    }
}

/// Tries, and once more on a fresh connection when a kept one was dead.
async fn with_fresh_connection(call: &Call<'_>) -> Result<Box<Answer>, Failure> {
    match once(call, false).await {
        Ok(answer) => return Ok(answer),
        Err(Broken::Failed(failure)) => return Err(failure),
        Err(Broken::Stale) => {}
    }
    match once(call, true).await {
        Ok(answer) => Ok(answer),
        Err(Broken::Failed(failure)) => Err(failure),
        // Only an h2 connection is shared even then: one more that had died in silence says nothing about the backend.
        Err(Broken::Stale) => Err(Failure { blame: Blame::Neutral, ..Failure::reset() }),
    }
}

async fn once(call: &Call<'_>, fresh: bool) -> Result<Box<Answer>, Broken> {
    let clock = &call.proxy.clock;
    let began = clock.now();
    call.marks.reached(Step::Connecting, began);
    let connecting = Upstream::connect(&call.proxy.backends, &call.endpoint, fresh);
    let mut upstream = match tokio::time::timeout(call.route.timeouts.connect, connecting).await {
        Ok(Ok(upstream)) => upstream,
        Ok(Err(error)) => return Err(Failure { tls: is_tls_failure(&error), ..Failure::connect() }.into()),
        Err(_) => return Err(Failure::connect().into()),
    };
    let connected = clock.now();
    call.marks.reached(Step::Connected, connected);
    call.marks.reused(upstream.reused);
    let broken = |upstream: &Upstream| if upstream.reused { Broken::Stale } else { Failure::reset().into() };
    if upstream.send(&call.head, &call.body).await.is_err() {
        return Err(broken(&upstream));
    }
    let sent = clock.now();
    call.marks.reached(Step::Sent, sent);
    if let Err(mut error) = upstream.read_head().await {
        // Only a connection that died in silence had been dead before; nonsense is an answer.
        error.retry.decide_reuse(upstream.reused);
        // One that worked on the request for a while and then died had not been dead before.
        let at_once = clock.now().saturating_duration_since(sent) < STALE_WITHIN;
        return Err(if error.retry() && at_once { broken(&upstream) } else { Failure::reset().into() });
    }
    let now = clock.now();
    call.progress.at(now);
    let Some(head) = upstream.head() else { return Err(Failure::reset().into()) };
    let (kind, status) = (headers::body_kind(head), head.status.as_u16());
    call.marks.reached(Step::Head, now);
    call.marks.status(status);
    let answer = Answer {
        kind,
        reading: reading(call, head, kind),
        status,
        upstream,
        held: Vec::new(),
        ended: None,
        rejected: false,
        began,
        connect: connected.saturating_duration_since(began),
        backend_wait: now.saturating_duration_since(sent),
    };
    Ok(until_shown(call, Box::new(answer)).await?)
}

fn reading(call: &Call<'_>, head: &ResponseHeader, kind: BodyKind) -> Reading {
    if headers::is_encoded(head) || is_binary(call.api, head) {
        Reading::Opaque { first_byte: None, last_byte: None }
    } else if kind == BodyKind::EventStream {
        let reader = Box::new(StreamReader::new(call.api, call.started));
        Reading::Stream { api: call.api, reader, sieve: call.asked_for_usage.then(UsageSieve::new) }
    } else {
        Reading::Whole(WholeReading::new(call.api, call.stream))
    }
}

/// Tensors and embeddings may come as bytes, where the client asked for it.
fn is_binary(api: Api, head: &ResponseHeader) -> bool {
    let kind = head.headers.get("content-type").map(http::HeaderValue::as_bytes).unwrap_or_default();
    !api.generates() && (kind.starts_with(b"application/octet-stream") || kind.starts_with(b"multipart/"))
}

/// Reads until the answer may be shown, or fails.
async fn until_shown(call: &Call<'_>, mut answer: Box<Answer>) -> Result<Box<Answer>, Failure> {
    match answer.status {
        200..=299 => {}
        status if refuses(status) => {
            answer.rejected = true;
            tracing::debug!(status, "a backend refused a request");
        }
        status => return Err(refused(call, answer, status).await),
    }
    if call.route.commit == Commit::Headers && answer.kind == BodyKind::EventStream {
        return Ok(answer);
    }
    let mut held = 0;
    loop {
        match read_held(call, &mut answer).await {
            Some(more) => held += more,
            None => return concluded(answer),
        }
        if let (false, false, Some(error)) =
            (answer.rejected, answer.reading.has_token(), stream_error(&answer.reading))
        {
            if rejects(&error).is_none() {
                return Err(Failure::error_object(&error));
            }
            answer.rejected = true;
            return Ok(answer);
        }
        if answer.reading.has_token() || held > HELD {
            return Ok(answer);
        }
    }
}

/// A whole answer's error is known only at its end.
fn stream_error(reading: &Reading) -> Option<StreamError> {
    if matches!(reading, Reading::Stream { .. }) { reading.error() } else { None }
}

/// Reads one piece into what is held; `None` when the body has ended.
async fn read_held(call: &Call<'_>, answer: &mut Answer) -> Option<usize> {
    let read = answer.upstream.read_body().await;
    let now = call.proxy.clock.now();
    let Answer { reading, held, .. } = answer;
    match read {
        Ok(Some(bytes)) => {
            call.progress.at(now);
            let length = bytes.len();
            reading.take(bytes, now, |bytes| held.push(bytes));
            Some(length)
        }
        Ok(None) => {
            reading.finish(true, now, |bytes| held.push(bytes));
            answer.ended = Some(true);
            None
        }
        Err(_) => {
            reading.finish(false, now, |bytes| held.push(bytes));
            answer.ended = Some(false);
            None
        }
    }
}

/// The status of an error inside a 200 that says that the request itself is wrong: another backend would say the same,
/// and the client should read why.
fn rejects(error: &StreamError) -> Option<u16> {
    error.status().filter(|status| refuses(*status))
}

/// The body ended before anything was shown: a short answer, or a failure that nobody saw.
fn concluded(mut answer: Box<Answer>) -> Result<Box<Answer>, Failure> {
    let clean = answer.ended == Some(true);
    if let Some(error) = answer.reading.error().filter(|_| !answer.rejected) {
        let status = rejects(&error).filter(|_| clean);
        let Some(status) = status else { return Err(Failure::error_object(&error)) };
        answer.rejected = true;
        if answer.kind == BodyKind::Whole {
            answer.status = status;
        }
    }
    if answer.rejected && clean {
        return Ok(answer);
    }
    match answer.reading.outcome(clean) {
        Outcome::Complete => Ok(answer),
        Outcome::Empty => Err(Failure::new(Outcome::Empty, RetryCause::Empty, 502)),
        Outcome::UpstreamError => Err(Failure::no_answer()),
        _ => Err(Failure::reset()),
    }
}

/// The backend answered with a status that is a failure: 429, a 5xx but 501, a redirect.
async fn refused(call: &Call<'_>, mut answer: Box<Answer>, status: u16) -> Failure {
    let wait = answer.upstream.head().and_then(retry_after);
    let mut body = Vec::new();
    // The body may say that a queue is full, and reading it lets the connection serve again.
    let reading = async {
        while let Ok(Some(bytes)) = answer.upstream.read_body().await {
            call.progress.at(call.proxy.clock.now());
            if body.len() + bytes.len() > HELD {
                break;
            }
            body.extend_from_slice(&bytes);
        }
    };
    let _ = tokio::time::timeout(REFUSAL_BODY, reading).await;
    // A connection whose body was not read to its end is closed by this.
    answer.upstream.release().await;
    let error = read_error(&body).ok().flatten();
    Failure { wait, ..Failure::status(status, error.as_ref()) }
}

fn retry_after(head: &ResponseHeader) -> Option<Duration> {
    let seconds = head.headers.get("retry-after")?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}
