//! A collector that keeps what it is sent: OTLP over HTTP/1.1 and gRPC on one port, with or without TLS.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io::Read;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicI64, AtomicU16, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::trace::v1 as proto;
use prost::Message;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tonic::codegen::{CompressionEncoding, Service};

use crate::support::until;

/// One request to the collector.
#[derive(Debug, Clone)]
pub(crate) struct Export {
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) request: ExportTraceServiceRequest,
}

#[derive(Debug, Default)]
struct Shared {
    got: Mutex<Vec<Export>>,
    /// The next HTTP answer's status; 0 is 200.
    status: AtomicU16,
    /// Spans it says it has rejected.
    rejects: AtomicI64,
    connections: AtomicU16,
}

/// A running collector; dropping it closes its port.
pub(crate) struct Collector {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One span, in words.
#[derive(Debug, Clone)]
pub(crate) struct Span {
    pub(crate) trace: String,
    pub(crate) id: String,
    pub(crate) parent: String,
    pub(crate) name: String,
    pub(crate) kind: proto::span::SpanKind,
    pub(crate) from: u64,
    pub(crate) to: u64,
    pub(crate) state: String,
    pub(crate) flags: u32,
    pub(crate) attributes: BTreeMap<String, Value>,
    /// Name, time in nanoseconds, attributes.
    pub(crate) events: Vec<(String, u64, BTreeMap<String, Value>)>,
    /// Whether it is an error, and what it says.
    pub(crate) error: Option<String>,
}

impl Collector {
    pub(crate) async fn start() -> Self {
        Self::start_with(None).await
    }

    pub(crate) async fn start_with(tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let shared = Arc::<Shared>::default();
        let task = tokio::spawn(accept(listener, Arc::clone(&shared), tls));
        Self { address, shared, task }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Answers the next HTTP request so.
    pub(crate) fn next_status(&self, status: u16) {
        self.shared.status.store(status, Ordering::SeqCst);
    }

    /// Says of each batch that it did not take so many of its spans.
    pub(crate) fn rejects(&self, spans: i64) {
        self.shared.rejects.store(spans, Ordering::SeqCst);
    }

    pub(crate) fn exports(&self) -> Vec<Export> {
        self.shared.got.lock().unwrap().clone()
    }

    pub(crate) fn connections(&self) -> u16 {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// All spans so far.
    pub(crate) fn spans(&self) -> Vec<Span> {
        let exports = self.exports();
        let resources = exports.iter().flat_map(|export| &export.request.resource_spans);
        resources.flat_map(|of| &of.scope_spans).flat_map(|of| &of.spans).map(Span::of).collect()
    }

    /// Waits until there are that many spans.
    pub(crate) async fn has(&self, count: usize) -> Vec<Span> {
        until("spans", || self.spans().len() >= count).await;
        let spans = self.spans();
        assert_eq!(spans.len(), count, "{:#?}", spans.iter().map(|span| &span.name).collect::<Vec<_>>());
        spans
    }
}

impl Span {
    fn of(span: &proto::Span) -> Self {
        let event = |event: &proto::span::Event| (event.name.clone(), event.time_unix_nano, map(&event.attributes));
        let status = span.status.clone().unwrap_or_default();
        assert_eq!((span.dropped_attributes_count, span.dropped_events_count), (0, 0));
        Self {
            trace: hex(&span.trace_id),
            id: hex(&span.span_id),
            parent: hex(&span.parent_span_id),
            name: span.name.clone(),
            kind: span.kind(),
            from: span.start_time_unix_nano,
            to: span.end_time_unix_nano,
            state: span.trace_state.clone(),
            flags: span.flags,
            attributes: map(&span.attributes),
            events: span.events.iter().map(event).collect(),
            error: (status.code() == proto::status::StatusCode::Error).then_some(status.message),
        }
    }

    /// Its length in milliseconds.
    #[allow(clippy::cast_precision_loss, reason = "a test's spans last seconds")]
    pub(crate) fn millis(&self) -> f64 {
        (self.to - self.from) as f64 / 1e6
    }

    #[track_caller]
    pub(crate) fn event(&self, name: &str) -> (u64, &BTreeMap<String, Value>) {
        let found: Vec<_> = self.events.iter().filter(|event| event.0 == name).collect();
        assert_eq!(found.len(), 1, "one {name} in {:?}", self.events);
        (found[0].1, &found[0].2)
    }
}

/// The only span of that name.
#[track_caller]
pub(crate) fn only<'a>(spans: &'a [Span], name: &str) -> &'a Span {
    let found: Vec<_> = spans.iter().filter(|span| span.name == name).collect();
    assert_eq!(found.len(), 1, "one {name} in {:?}", spans.iter().map(|span| &span.name).collect::<Vec<_>>());
    found[0]
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

pub(crate) fn map(attributes: &[KeyValue]) -> BTreeMap<String, Value> {
    let map: BTreeMap<_, _> = attributes.iter().map(|one| (one.key.clone(), value(one.value.as_ref()))).collect();
    assert_eq!(map.len(), attributes.len(), "an attribute stands twice in {attributes:?}");
    map
}

fn value(value: Option<&AnyValue>) -> Value {
    match value.and_then(|value| value.value.as_ref()) {
        Some(any_value::Value::StringValue(text)) => json!(text),
        Some(any_value::Value::IntValue(number)) => json!(number),
        Some(any_value::Value::DoubleValue(number)) => json!(number),
        Some(any_value::Value::BoolValue(flag)) => json!(flag),
        Some(any_value::Value::ArrayValue(array)) => array.values.iter().map(|one| self::value(Some(one))).collect(),
        other => panic!("{other:?}"),
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, tls: Option<TlsAcceptor>) {
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((tcp, _)) = listener.accept().await {
        shared.connections.fetch_add(1, Ordering::SeqCst);
        connections.spawn(serve(tcp, Arc::clone(&shared), tls.clone()));
    }
}

async fn serve(tcp: TcpStream, shared: Arc<Shared>, tls: Option<TlsAcceptor>) {
    let service = service_fn(move |request| answer(request, Arc::clone(&shared)));
    let builder = auto::Builder::new(TokioExecutor::new());
    match tls {
        None => drop(builder.serve_connection(TokioIo::new(tcp), service).await),
        Some(tls) => {
            if let Ok(stream) = tls.accept(tcp).await {
                drop(builder.serve_connection(TokioIo::new(stream), service).await);
            }
        }
    }
}

async fn answer(request: Request<Incoming>, shared: Arc<Shared>) -> Result<Response<tonic::body::Body>, Infallible> {
    let kind = request.headers().get("content-type").and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    if kind.starts_with("application/grpc") {
        let mut service = TraceServiceServer::new(Taker(shared)).accept_compressed(CompressionEncoding::Gzip);
        return Service::call(&mut service, request).await;
    }
    assert_eq!(kind, "application/x-protobuf");
    let (path, headers) = (request.uri().path().to_owned(), request.headers().clone());
    let mut body = request.into_body().collect().await.expect("a body").to_bytes();
    if headers.get("content-encoding").is_some_and(|encoding| encoding == "gzip") {
        body = unzipped(&body);
    }
    let status = shared.status.swap(0, Ordering::SeqCst);
    let answer = if status == 0 {
        let request = ExportTraceServiceRequest::decode(body).expect("a trace request");
        taken(&shared, Export { path, headers, request }).encode_to_vec()
    } else {
        Vec::new()
    };
    let mut response = Response::new(tonic::body::Body::new(Full::new(Bytes::from(answer))));
    *response.status_mut() = status.max(200).try_into().expect("a status");
    Ok(response)
}

fn unzipped(bytes: &[u8]) -> Bytes {
    let mut whole = Vec::new();
    flate2::read::GzDecoder::new(bytes).read_to_end(&mut whole).expect("gzip");
    whole.into()
}

fn taken(shared: &Shared, export: Export) -> ExportTraceServiceResponse {
    shared.got.lock().unwrap().push(export);
    let rejected_spans = shared.rejects.load(Ordering::SeqCst);
    let partial = ExportTracePartialSuccess { rejected_spans, error_message: String::new() };
    ExportTraceServiceResponse { partial_success: (rejected_spans > 0).then_some(partial) }
}

/// The gRPC service.
struct Taker(Arc<Shared>);

#[tonic::async_trait]
impl TraceService for Taker {
    async fn export(
        &self,
        request: tonic::Request<ExportTraceServiceRequest>,
    ) -> Result<tonic::Response<ExportTraceServiceResponse>, tonic::Status> {
        let (metadata, _, request) = request.into_parts();
        let export = Export { path: String::new(), headers: metadata.into_headers(), request };
        Ok(tonic::Response::new(taken(&self.0, export)))
    }
}
