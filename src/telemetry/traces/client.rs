//! HTTP/1.1 towards a collector, for OpenTelemetry's exporter: one kept connection, TLS by ring.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use http::header::HOST;
use http::{HeaderMap, HeaderValue, Request, Response, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use prost::Message;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::exporter::{fields, read};
use super::queue::{DropReason, SpanCounts};
use crate::config::otlp::{Otlp, OtlpTls};

/// Most of an answer that is read: it says little.
const ANSWER: usize = 64 << 10;

const HTTP: [(&str, &str); 1] = [("content-type", "application/x-protobuf")];
/// The same where bodies are compressed.
const HTTP_GZIP: [(&str, &str); 2] = [HTTP[0], ("content-encoding", "gzip")];

/// The connection to one collector.
pub(super) struct Client {
    host: Arc<str>,
    port: u16,
    authority: HeaderValue,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    of_protocol: &'static [(&'static str, &'static str)],
    headers: HeaderMap,
    timeout: Duration,
    kept: Mutex<Option<SendRequest<Full<Bytes>>>>,
    counts: Arc<SpanCounts>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Client({:?})", self.authority)
    }
}

impl Client {
    pub(super) fn new(settings: &Otlp, headers: HeaderMap, counts: Arc<SpanCounts>) -> io::Result<Self> {
        let endpoint = &settings.endpoint;
        let tls = if endpoint.https {
            let name = ServerName::try_from(endpoint.host.to_string()).map_err(io::Error::other)?;
            Some((TlsConnector::from(Arc::new(client_config(&settings.tls)?)), name))
        } else {
            None
        };
        Ok(Self {
            host: Arc::clone(&endpoint.host),
            port: endpoint.port,
            authority: HeaderValue::try_from(endpoint.authority()).map_err(io::Error::other)?,
            tls,
            of_protocol: if settings.gzip { &HTTP_GZIP } else { &HTTP },
            headers,
            timeout: settings.timeout,
            kept: Mutex::new(None),
            counts,
        })
    }

    /// One request and its whole answer, once more on a new connection where the kept one was dead.
    async fn exchange(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (parts, body) = request.into_parts();
        let fresh = || {
            let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
            let mut request = Request::new(Full::new(body.clone()));
            *request.method_mut() = parts.method.clone();
            *request.uri_mut() = path.parse::<Uri>()?;
            *request.headers_mut() = fields(self.of_protocol, &self.headers);
            request.headers_mut().insert(HOST, self.authority.clone());
            Ok::<_, HttpError>(request)
        };
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(mut kept) = kept.filter(|kept| !kept.is_closed())
            && let Ok(answer) = kept.send_request(fresh()?).await
        {
            return self.finish(kept, answer).await;
        }
        let mut connection = self.connect().await?;
        let answer = connection.send_request(fresh()?).await?;
        self.finish(connection, answer).await
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, HttpError> {
        let tcp = TcpStream::connect((&*self.host, self.port)).await?;
        tcp.set_nodelay(true)?;
        match &self.tls {
            Some((connector, name)) => spoken_to(connector.connect(name.clone(), tcp).await?).await,
            None => spoken_to(tcp).await,
        }
    }

    /// Reads the answer to its end, and keeps the connection.
    async fn finish(
        &self,
        connection: SendRequest<Full<Bytes>>,
        answer: Response<Incoming>,
    ) -> Result<Response<Bytes>, HttpError> {
        let (parts, mut body) = answer.into_parts();
        let mut read = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let frame = frame?;
            let Some(data) = frame.data_ref() else { continue };
            if read.len() + data.len() > ANSWER {
                return Err("the collector's answer is too long".into());
            }
            read.extend_from_slice(data);
        }
        *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = Some(connection);
        if parts.status.is_success() {
            self.count_rejected(&read);
        }
        Ok(Response::from_parts(parts, read.freeze()))
    }

    /// A collector may take a batch and leave out some of it.
    fn count_rejected(&self, answer: &[u8]) {
        let partial = ExportTraceServiceResponse::decode(answer).ok().and_then(|answer| answer.partial_success);
        let rejected = partial.and_then(|partial| usize::try_from(partial.rejected_spans).ok()).unwrap_or(0);
        self.counts.count_dropped(DropReason::Rejected, rejected);
    }
}

#[async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        tokio::time::timeout(self.timeout, self.exchange(request)).await?
    }
}

/// HTTP/1.1 over a connection, which a task of its own moves along.
async fn spoken_to<S>(stream: S) -> Result<SendRequest<Full<Bytes>>, HttpError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = handshake(TokioIo::new(stream)).await?;
    tokio::spawn(async move {
        let _ = connection.await;
    });
    Ok(sender)
}

fn client_config(files: &OtlpTls) -> io::Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    match &files.ca {
        Some(ca) => {
            for certificate in CertificateDer::pem_slice_iter(&read(ca)?) {
                roots.add(certificate.map_err(io::Error::other)?).map_err(io::Error::other)?;
            }
        }
        None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.map_err(io::Error::other)?.with_root_certificates(roots);
    let Some((certificate, key)) = &files.identity else { return Ok(config.with_no_client_auth()) };
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(certificate)?).collect();
    let key = PrivateKeyDer::from_pem_slice(&read(key)?).map_err(io::Error::other)?;
    config.with_client_auth_cert(chain.map_err(io::Error::other)?, key).map_err(io::Error::other)
}
