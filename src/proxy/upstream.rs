//! A connection to a backend, that goes back to the pool or is cancelled, whichever way its exchange ends.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use pingora_core::connectors::http::Connector;
use pingora_core::protocols::http::client::HttpSession;
use pingora_core::protocols::http::v1::client::HttpSession as SessionV1;
use pingora_core::protocols::l4::ext::set_tcp_keepalive;
use pingora_core::{Error, ErrorType, OrErr, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use tokio::net::TcpStream;

use super::pool::Pool;
use super::stream::Plain;
use crate::clock::Clock;
use crate::fleet::Endpoint;
use crate::fleet::endpoint::KEPT_IDLE;

/// Informational responses that are skipped before the real one; more are a flood.
const INFORMATIONAL: usize = 8;

/// Where connections to backends come from.
pub(super) struct Backends {
    /// Plain HTTP/1.1.
    pub(super) pool: Pool,
    /// TLS and HTTP/2.
    pub(super) connector: Arc<Connector>,
    pub(super) clock: Arc<dyn Clock>,
}

impl Backends {
    /// A connection: a kept one unless it must be `fresh`; and whether it was a kept one.
    async fn connect(&self, endpoint: &Endpoint, fresh: bool) -> Result<(HttpSession, bool)> {
        if endpoint.is_plain_h1() {
            return self.connect_plain(endpoint, fresh).await;
        }
        if fresh && !endpoint.is_h2() {
            // A group of its own keeps the pool out of it; it is released into the common group all the same.
            let mut alone = endpoint.peer().clone();
            alone.group_key = u64::MAX;
            return Box::pin(self.connector.get_http_session(&alone)).await;
        }
        // pingora's connecting takes kilobytes of state: not in the middle of every exchange's.
        Box::pin(self.connector.get_http_session(endpoint.peer())).await
    }

    async fn connect_plain(&self, endpoint: &Endpoint, fresh: bool) -> Result<(HttpSession, bool)> {
        let kept = if fresh { None } else { self.pool.take(endpoint.address(), self.clock.now()) };
        if let Some(stream) = kept {
            return Ok((HttpSession::H1(SessionV1::new(stream)), true));
        }
        let tcp = TcpStream::connect(endpoint.address()).await.or_err(ErrorType::ConnectError, "to a backend")?;
        let _ = tcp.set_nodelay(true);
        // A host that has vanished answers nothing: only probes tell it from a model that thinks.
        if let Some(keepalive) = &endpoint.peer().options.tcp_keepalive {
            let _ = set_tcp_keepalive(&tcp, keepalive);
        }
        Ok((HttpSession::H1(SessionV1::new(Box::new(Plain::new(tcp)))), false))
    }

    async fn release(&self, endpoint: &Endpoint, session: HttpSession) {
        match session {
            HttpSession::H1(mut session) if endpoint.is_plain_h1() => {
                session.respect_keepalive();
                if let Some(stream) = session.reuse().await {
                    self.pool.put(endpoint.address(), stream, self.clock.now());
                }
            }
            session => {
                Box::pin(self.connector.release_http_session(session, endpoint.peer(), Some(KEPT_IDLE))).await;
            }
        }
    }

    /// Closes connections that have been idle for too long, at `now`.
    pub(super) fn sweep(&self, now: Instant) {
        self.pool.sweep(now);
    }
}

/// One request's use of a connection.
pub(super) struct Upstream {
    session: Option<HttpSession>,
    endpoint: Arc<Endpoint>,
    backends: Arc<Backends>,
    /// Whether the connection had served another request before.
    pub(super) reused: bool,
}

impl Upstream {
    /// Takes a pooled connection, or makes one; `fresh` never takes a pooled one.
    pub(super) async fn connect(backends: &Arc<Backends>, endpoint: &Arc<Endpoint>, fresh: bool) -> Result<Self> {
        let (session, reused) = backends.connect(endpoint, fresh).await?;
        Ok(Self { session: Some(session), endpoint: Arc::clone(endpoint), backends: Arc::clone(backends), reused })
    }

    fn session(&mut self) -> Result<&mut HttpSession> {
        self.session.as_mut().ok_or_else(|| Error::new_str("the connection was given back"))
    }

    /// Sends the whole request.
    pub(super) async fn send(&mut self, head: Box<RequestHeader>, body: Bytes) -> Result<()> {
        let session = self.session()?;
        session.write_request_header(head).await?;
        if !body.is_empty() {
            session.write_request_body(body, true).await?;
        }
        session.finish_request_body().await
    }

    /// Waits for the response's head.
    pub(super) async fn read_head(&mut self) -> Result<()> {
        let session = self.session()?;
        for _ in 0..INFORMATIONAL {
            session.read_response_header().await?;
            match session.response_header() {
                Some(head) if head.status.is_informational() => {}
                Some(_) => return Ok(()),
                None => return Err(Error::new_up(ErrorType::InvalidHTTPHeader)),
            }
        }
        Err(Error::new_up(ErrorType::InvalidHTTPHeader))
    }

    /// The response's head, once it was read.
    pub(super) fn head(&self) -> Option<&ResponseHeader> {
        self.session.as_ref()?.response_header()
    }

    /// The next piece of the body; `None` at its end.
    pub(super) async fn read_body(&mut self) -> Result<Option<Bytes>> {
        let session = self.session()?;
        if session.response_done() {
            return Ok(None);
        }
        session.read_response_body().await
    }

    /// Gives the connection back, if it can serve again.
    pub(super) async fn release(mut self) {
        let Some(mut session) = self.session.take() else { return };
        if session.response_done() || matches!(session, HttpSession::H2(_)) {
            self.backends.release(&self.endpoint, session).await;
        }
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        let Some(session) = self.session.take() else { return };
        // An h1 connection closes with its session, which is how the backend hears of the cancellation. An h2 stream
        // is reset the same way, but its connection carries others and has to go back to the pool.
        if let HttpSession::H2(_) = session {
            let (backends, endpoint) = (Arc::clone(&self.backends), Arc::clone(&self.endpoint));
            if let Ok(runtime) = tokio::runtime::Handle::try_current() {
                runtime.spawn(async move { backends.release(&endpoint, session).await });
            }
        }
    }
}
