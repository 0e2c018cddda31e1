//! One measured request.
//!
//! The clock starts just before the connection is taken, so a new connection counts in the time to first token, as in
//! AIPerf; its share is in [`RequestRecord::transfer`]. Every later stamp is that of a socket read, and what it means is
//! decided by [`StreamReader`] alone.

use std::borrow::Cow;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use tokio_rustls::TlsConnector;

use super::connection::{ConnectError, Connection};
use super::record::{Phase, RequestRecord};
use super::target::Target;
use super::tls::{ClientError, TlsOptions};
use super::transfer::{GapList, Transfer};
use crate::clock::Clock;
use crate::measure::exchange::Latencies;
use crate::measure::outcome::Outcome;
use crate::measure::reader::StreamReader;
use crate::wire::answer::read_answer;
use crate::wire::{Api, FinishReason, Usage};

/// Idle connections that are kept.
const MOST_IDLE: usize = 4096;
/// The longest answer that is read when it is not streamed.
const LONGEST_ANSWER: usize = 64 << 20;
/// The name of the backend, where the proxy under test tells it.
const BACKEND_HEADER: &str = "x-headway-backend";

/// How a client is to be.
#[derive(Debug, Clone)]
pub struct ClientOptions {
    /// Where requests go.
    pub target: Target,
    /// Headers on every request.
    pub headers: HeaderMap,
    /// How long connecting may take, TLS included.
    pub connect_timeout: Duration,
    /// How long a whole request may take.
    pub request_timeout: Duration,
    /// What is trusted and shown, where TLS is spoken.
    pub tls: TlsOptions,
}

impl ClientOptions {
    /// A client of that server with no headers of its own and generous timeouts.
    #[must_use]
    pub fn new(target: Target) -> Self {
        Self {
            target,
            headers: HeaderMap::new(),
            connect_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(600),
            tls: TlsOptions::default(),
        }
    }
}

/// One request to be sent.
#[derive(Debug, Clone)]
pub struct Call {
    /// Its place in the schedule.
    pub index: u64,
    /// The `x-request-id` to send: unique, so that records can be joined with the server's.
    pub request_id: String,
    /// Which part of the run it belongs to.
    pub phase: Phase,
    /// What kind of traffic it is.
    pub label: &'static str,
    /// The API it speaks.
    pub api: Api,
    /// Whether a streamed answer is asked for.
    pub stream: bool,
    /// Its body.
    pub body: Bytes,
    /// Prompt tokens that are meant.
    pub input_tokens: u32,
    /// The answer's length that it asks for.
    pub output_tokens: Option<u32>,
    /// Headers of its own.
    pub headers: HeaderMap,
}

/// Sends requests and measures their answers; keeps connections open between them.
pub struct Client {
    options: ClientOptions,
    tls: Option<TlsConnector>,
    clock: Arc<dyn Clock>,
    idle: Mutex<Vec<Connection>>,
}

/// Why a request failed, as the reports name it.
type ErrorClass = Cow<'static, str>;

/// What is learned while a request is under way.
#[derive(Default)]
struct Progress {
    status: u16,
    transfer: Transfer,
    gaps: GapList,
    backend: Option<String>,
    reader: Option<StreamReader>,
    unary: Option<(Latencies, Usage, Option<FinishReason>)>,
}

impl Client {
    /// A client without open connections.
    ///
    /// # Errors
    /// When the certificates cannot be used.
    pub fn new(options: ClientOptions, clock: Arc<dyn Clock>) -> Result<Self, ClientError> {
        let tls = if options.target.tls { Some(options.tls.connector()?) } else { None };
        Ok(Self { options, tls, clock, idle: Mutex::new(Vec::new()) })
    }

    /// Sends one request and reads its answer to the end. `run_start` is what the record's offset counts from.
    pub async fn measure(&self, call: Call, run_start: Instant) -> RequestRecord {
        let (started, start) = (self.clock.wall(), self.clock.now());
        let mut progress = Progress::default();
        progress.transfer.bytes_sent = call.body.len() as u64;
        let done = tokio::time::timeout(self.options.request_timeout, self.exchange(&call, start, &mut progress)).await;
        let error = done.unwrap_or(Err(Cow::Borrowed("timeout"))).err();
        let end = self.clock.now();
        let mut record = RequestRecord {
            index: call.index,
            request_id: call.request_id,
            phase: call.phase,
            label: call.label,
            started,
            offset: start.saturating_duration_since(run_start),
            lag: Duration::ZERO,
            transfer: progress.transfer,
            duration: end.saturating_duration_since(start),
            status: progress.status,
            error,
            latencies: Latencies::default(),
            gaps: None,
            gap_list: progress.gaps,
            usage: Usage::default(),
            finish_reason: None,
            planned_input: call.input_tokens,
            planned_output: call.output_tokens,
            content_responses: 0,
            backend: progress.backend,
        };
        if let Some(reader) = progress.reader {
            record.latencies = reader.latencies();
            record.usage = reader.usage();
            record.finish_reason = reader.finish_reason();
            record.content_responses = reader.content_responses();
            record.gaps = reader.into_gaps();
        } else if let Some((latencies, usage, finish_reason)) = progress.unary {
            (record.latencies, record.usage, record.finish_reason) = (latencies, usage, finish_reason);
        }
        record
    }

    async fn exchange(&self, call: &Call, start: Instant, progress: &mut Progress) -> Result<(), ErrorClass> {
        let (mut connection, response) = self.answered(call, progress).await?;
        let (sent, head) = connection.stamps();
        progress.transfer.sent = Some(sent.saturating_duration_since(start));
        progress.transfer.head = Some(head.saturating_duration_since(start));
        progress.status = response.status().as_u16();
        progress.backend =
            response.headers().get(BACKEND_HEADER).and_then(|name| name.to_str().ok()).map(str::to_owned);
        if !response.status().is_success() {
            let class = http_class(response.status());
            // The rest of an error's body only matters for keeping the connection.
            if read_whole(&mut connection, response.into_body(), start, &mut progress.transfer).await.is_ok() {
                self.put_back(connection).await;
            }
            return Err(class);
        }
        let event_stream = response
            .headers()
            .get(header::CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .is_some_and(|value| value.starts_with("text/event-stream"));
        if call.stream && event_stream {
            progress.reader = Some(StreamReader::new(call.api, start));
            let clean = self.read_stream(&mut connection, response, start, progress).await;
            if clean {
                self.put_back(connection).await;
            }
            return stream_end(progress.reader.as_ref());
        }
        let body = read_whole(&mut connection, response.into_body(), start, &mut progress.transfer).await?;
        self.put_back(connection).await;
        let latency = progress.transfer.last_byte.unwrap_or_else(|| self.clock.now().saturating_duration_since(start));
        progress.unary = Some(read_unary(call.api, &body, latency)?);
        // An answer that was to be streamed and was not has no token times: it cannot count as measured.
        if call.stream { Err(Cow::Borrowed("not_streamed")) } else { Ok(()) }
    }

    /// The head of the answer; a connection that was kept open and turns out to be closed is replaced once.
    async fn answered(
        &self,
        call: &Call,
        progress: &mut Progress,
    ) -> Result<(Connection, Response<Incoming>), ErrorClass> {
        let class = Cow::Borrowed("connect");
        if let Some(mut connection) = self.take().await {
            match connection.send(self.request(call)).await {
                Ok(response) => {
                    progress.transfer.reused = true;
                    return Ok((connection, response));
                }
                Err(error) if error.is_timeout() || error.is_parse() => return Err(class),
                Err(_) => {}
            }
        }
        let began = self.clock.now();
        let opening = Connection::open(
            &self.options.target,
            self.tls.as_ref(),
            self.options.tls.server_name.as_deref(),
            &self.clock,
        );
        let opened = tokio::time::timeout(self.options.connect_timeout, opening).await;
        let took = self.clock.now().saturating_duration_since(began);
        let mut connection = match opened {
            Ok(Ok(connection)) => connection,
            Ok(Err(error)) => return Err(connect_class(&error)),
            Err(_) => return Err(class),
        };
        progress.transfer.lookup = connection.lookup();
        progress.transfer.connecting = took.saturating_sub(connection.lookup());
        match connection.send(self.request(call)).await {
            Ok(response) => Ok((connection, response)),
            Err(_) => Err(class),
        }
    }

    fn request(&self, call: &Call) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(call.body.clone()));
        *request.method_mut() = Method::POST;
        if let Ok(path) = self.options.target.path.parse() {
            *request.uri_mut() = path;
        }
        let headers = request.headers_mut();
        let mut set = |name: HeaderName, value: &str| {
            if let Ok(value) = HeaderValue::from_str(value) {
                headers.insert(name, value);
            }
        };
        set(header::HOST, &self.options.target.authority());
        set(header::CONTENT_TYPE, "application/json");
        set(header::ACCEPT, if call.stream { "text/event-stream" } else { "application/json" });
        set(header::USER_AGENT, concat!("headway-bench/", env!("CARGO_PKG_VERSION")));
        set(HeaderName::from_static("x-request-id"), &call.request_id);
        for (name, value) in self.options.headers.iter().chain(&call.headers) {
            headers.insert(name, value.clone());
        }
        request
    }

    /// Reads a stream to its end; whether the body ended cleanly.
    async fn read_stream(
        &self,
        connection: &mut Connection,
        response: Response<Incoming>,
        start: Instant,
        progress: &mut Progress,
    ) -> bool {
        let Progress { reader: Some(reader), transfer, gaps, .. } = progress else { return false };
        let mut body = response.into_body();
        loop {
            match connection.frame(&mut body).await {
                Some((Ok(frame), at)) => {
                    let Some(bytes) = frame.data_ref() else { continue };
                    let (before, since) = (reader.content_responses(), at.saturating_duration_since(start));
                    reader.observe(bytes, at);
                    transfer.received(bytes.len(), since);
                    gaps.responses(reader.content_responses() - before, since);
                }
                ended => {
                    let clean = ended.is_none();
                    reader.finish(clean, self.clock.now());
                    return clean;
                }
            }
        }
    }

    /// An open connection that can take a request.
    async fn take(&self) -> Option<Connection> {
        loop {
            let mut connection = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop()?;
            if connection.reusable().await {
                return Some(connection);
            }
        }
    }

    async fn put_back(&self, mut connection: Connection) {
        if connection.reusable().await {
            let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
            if idle.len() < MOST_IDLE {
                idle.push(connection);
            }
        }
    }
}

/// A whole body.
async fn read_whole(
    connection: &mut Connection,
    mut body: Incoming,
    start: Instant,
    transfer: &mut Transfer,
) -> Result<Vec<u8>, ErrorClass> {
    let mut whole = Vec::new();
    while let Some((frame, at)) = connection.frame(&mut body).await {
        let frame = frame.map_err(|_| Cow::Borrowed("truncated"))?;
        let Some(bytes) = frame.data_ref() else { continue };
        if whole.len() + bytes.len() > LONGEST_ANSWER {
            return Err(Cow::Borrowed("too_large"));
        }
        whole.extend_from_slice(bytes);
        transfer.received(bytes.len(), at.saturating_duration_since(start));
    }
    Ok(whole)
}

fn read_unary(
    api: Api,
    body: &[u8],
    latency: Duration,
) -> Result<(Latencies, Usage, Option<FinishReason>), ErrorClass> {
    let answer = read_answer(api, body).map_err(|_| Cow::Borrowed("malformed"))?;
    if answer.error.is_some() {
        return Err(Cow::Borrowed("error_in_body"));
    }
    if !answer.content && answer.finish_reason.is_none() {
        return Err(Cow::Borrowed("empty"));
    }
    let latencies = Latencies { end_to_end: Some(latency), ..Latencies::default() };
    Ok((latencies, answer.usage, answer.finish_reason))
}

/// The classes of the measurement reference, section 3.
fn stream_end(reader: Option<&StreamReader>) -> Result<(), ErrorClass> {
    match reader.and_then(StreamReader::ended) {
        // An immediate end of text is an answer, but not one that can be timed.
        Some(Outcome::Complete) => Ok(()),
        Some(Outcome::UpstreamError) => Err(Cow::Borrowed("stream_error")),
        Some(Outcome::Empty) => Err(Cow::Borrowed("empty")),
        _ => Err(Cow::Borrowed("truncated")),
    }
}

fn http_class(status: StatusCode) -> ErrorClass {
    Cow::Owned(format!("http_{}", status.as_u16()))
}

fn connect_class(error: &ConnectError) -> ErrorClass {
    tracing::debug!(%error, "cannot connect");
    Cow::Borrowed("connect")
}
