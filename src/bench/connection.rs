//! Connections of the load generator: HTTP/1.1 over TCP or TLS, driven by the request that uses them.
//!
//! A connection has no task of its own: whoever waits for an answer polls it. So nothing stands between the return of a
//! socket read and its stamp but this thread, and no other read can come between a frame and the stamp it is given.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body, Frame, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::target::Target;
use crate::clock::Clock;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("TLS cannot verify the name: {0}")]
    Name(String),
    #[error("{0}")]
    Http(#[from] hyper::Error),
}

/// When the last read, or the last write, of a socket returned: nanoseconds after a base.
#[derive(Debug)]
struct Last {
    base: Instant,
    nanos: AtomicU64,
}

impl Last {
    fn new(base: Instant) -> Arc<Self> {
        Arc::new(Self { base, nanos: AtomicU64::new(0) })
    }

    fn stamp(&self, now: Instant) {
        let since = u64::try_from(now.saturating_duration_since(self.base).as_nanos()).unwrap_or(u64::MAX);
        self.nanos.store(since, Ordering::Relaxed);
    }

    fn at(&self) -> Instant {
        self.base + Duration::from_nanos(self.nanos.load(Ordering::Relaxed))
    }
}

enum Socket {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// A socket that stamps every read that returned bytes, before anyone looks at them, and every write that took some.
struct Stamped {
    socket: Socket,
    clock: Arc<dyn Clock>,
    last_read: Arc<Last>,
    last_write: Arc<Last>,
}

impl AsyncRead for Stamped {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let read = match &mut this.socket {
            Socket::Plain(socket) => Pin::new(socket).poll_read(cx, buf),
            Socket::Tls(socket) => Pin::new(socket).poll_read(cx, buf),
        };
        if read.is_ready() && buf.filled().len() > before {
            this.last_read.stamp(this.clock.now());
        }
        read
    }
}

impl AsyncWrite for Stamped {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = match &mut this.socket {
            Socket::Plain(socket) => Pin::new(socket).poll_write(cx, bytes),
            Socket::Tls(socket) => Pin::new(socket).poll_write(cx, bytes),
        };
        if written.is_ready() {
            this.last_write.stamp(this.clock.now());
        }
        written
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().socket {
            Socket::Plain(socket) => Pin::new(socket).poll_flush(cx),
            Socket::Tls(socket) => Pin::new(socket).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().socket {
            Socket::Plain(socket) => Pin::new(socket).poll_shutdown(cx),
            Socket::Tls(socket) => Pin::new(socket).poll_shutdown(cx),
        }
    }
}

/// One open connection.
pub(super) struct Connection {
    sender: http1::SendRequest<Full<Bytes>>,
    /// `None` once it has ended: a future must not be polled again.
    driver: Option<http1::Connection<TokioIo<Stamped>, Full<Bytes>>>,
    last_read: Arc<Last>,
    last_write: Arc<Last>,
    /// How long it took to look the name up.
    lookup: Duration,
}

impl Connection {
    /// Connects, and speaks TLS where there is a connector; the certificate is to be for that name, else for the host.
    pub(super) async fn open(
        target: &Target,
        tls: Option<&TlsConnector>,
        server_name: Option<&str>,
        clock: &Arc<dyn Clock>,
    ) -> Result<Self, ConnectError> {
        let began = clock.now();
        let addresses: Vec<_> = tokio::net::lookup_host((target.host.as_str(), target.port)).await?.collect();
        let lookup = clock.now().saturating_duration_since(began);
        let tcp = TcpStream::connect(addresses.as_slice()).await?;
        tcp.set_nodelay(true)?;
        let socket = match tls {
            None => Socket::Plain(tcp),
            Some(connector) => {
                let name = server_name.unwrap_or(&target.host).to_owned();
                let name = ServerName::try_from(name).map_err(|error| ConnectError::Name(error.to_string()))?;
                Socket::Tls(Box::new(connector.connect(name, tcp).await?))
            }
        };
        let (last_read, last_write) = (Last::new(began), Last::new(began));
        let stamped = Stamped {
            socket,
            clock: Arc::clone(clock),
            last_read: Arc::clone(&last_read),
            last_write: Arc::clone(&last_write),
        };
        let (sender, driver) = http1::handshake(TokioIo::new(stamped)).await?;
        Ok(Self { sender, driver: Some(driver), last_read, last_write, lookup })
    }

    /// How long looking its name up took.
    pub(super) fn lookup(&self) -> Duration {
        self.lookup
    }

    /// When the last write and the last read returned.
    pub(super) fn stamps(&self) -> (Instant, Instant) {
        (self.last_write.at(), self.last_read.at())
    }

    /// Sends a request and waits for the head of its answer.
    pub(super) async fn send(
        &mut self,
        request: http::Request<Full<Bytes>>,
    ) -> Result<http::Response<Incoming>, hyper::Error> {
        let mut answer = std::pin::pin!(self.sender.send_request(request));
        let driver = &mut self.driver;
        std::future::poll_fn(move |cx| drive(driver, cx, |cx| answer.as_mut().poll(cx))).await
    }

    /// The next frame of a body, with the time of the read that completed it; `None` at the end.
    pub(super) async fn frame(&mut self, body: &mut Incoming) -> Option<(Result<Frame<Bytes>, hyper::Error>, Instant)> {
        let driver = &mut self.driver;
        let frame = std::future::poll_fn(|cx| drive(driver, cx, |cx| Pin::new(&mut *body).poll_frame(cx))).await;
        frame.map(|frame| (frame, self.last_read.at()))
    }

    /// Whether it can take another request: polls it once, so that a close that arrived meanwhile is seen.
    pub(super) async fn reusable(&mut self) -> bool {
        std::future::poll_fn(|cx| {
            let _ = drive(&mut self.driver, cx, |_| Poll::<()>::Pending);
            Poll::Ready(self.driver.is_some() && matches!(self.sender.poll_ready(cx), Poll::Ready(Ok(()))))
        })
        .await
    }
}

/// Polls what is waited for, then the connection that feeds it, then again what is waited for.
fn drive<T>(
    driver: &mut Option<http1::Connection<TokioIo<Stamped>, Full<Bytes>>>,
    cx: &mut Context<'_>,
    mut wanted: impl FnMut(&mut Context<'_>) -> Poll<T>,
) -> Poll<T> {
    if let Poll::Ready(value) = wanted(cx) {
        return Poll::Ready(value);
    }
    if driver.as_mut().is_some_and(|driver| Pin::new(driver).poll(cx).is_ready()) {
        // Its error, if any, also reaches whoever waits for the answer or the body.
        *driver = None;
    }
    wanted(cx)
}
