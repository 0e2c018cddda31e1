//! A connection to a backend, that goes back to the pool or is cancelled, whichever way its exchange ends.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use pingora_core::connectors::http::Connector;
use pingora_core::protocols::http::client::HttpSession;
use pingora_core::{Error, ErrorType, OrErr, Result, RetryType};
use pingora_http::{RequestHeader, ResponseHeader};

use super::h1::{Connection, ReadError};
use super::pool::Pool;
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
    async fn connect(&self, endpoint: &Endpoint, fresh: bool) -> Result<(Session, bool)> {
        if endpoint.is_plain_h1() {
            return self.connect_plain(endpoint, fresh).await;
        }
        let alone;
        let peer = if fresh && !endpoint.is_h2() {
            // A group of its own keeps the pool out of it; it is released into the common group all the same.
            let mut peer = endpoint.peer().clone();
            peer.group_key = u64::MAX;
            alone = peer;
            &alone
        } else {
            endpoint.peer()
        };
        // pingora's connecting takes kilobytes of state: not in the middle of every exchange's.
        let (session, reused) = Box::pin(self.connector.get_http_session(peer)).await?;
        Ok((Session::Pingora(Box::new(session)), reused))
    }

    async fn connect_plain(&self, endpoint: &Endpoint, fresh: bool) -> Result<(Session, bool)> {
        let kept = if fresh { None } else { self.pool.take(endpoint.address(), self.clock.now()) };
        if let Some(tcp) = kept {
            return Ok((Session::Plain(Connection::on(tcp)), true));
        }
        let opening = Connection::open(endpoint.address(), endpoint.peer().options.tcp_keepalive.as_ref());
        Ok((Session::Plain(opening.await.or_err(ErrorType::ConnectError, "to a backend")?), false))
    }

    async fn release(&self, endpoint: &Endpoint, session: HttpSession) {
        Box::pin(self.connector.release_http_session(session, endpoint.peer(), Some(KEPT_IDLE))).await;
    }

    /// Closes connections that have been idle for too long, at `now`.
    pub(super) fn sweep(&self, now: Instant) {
        self.pool.sweep(now);
    }
}

/// What speaks to the backend.
enum Session {
    /// Plain HTTP/1.1: our own.
    Plain(Connection),
    /// TLS or HTTP/2.
    Pingora(Box<HttpSession>),
}

/// One request's use of a connection.
pub(super) struct Upstream {
    session: Option<Session>,
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

    fn session(&mut self) -> Result<&mut Session> {
        self.session.as_mut().ok_or_else(|| Error::new_str("the connection was given back"))
    }

    /// The connection, where it is our own.
    pub(super) fn plain(&mut self) -> Option<&mut Connection> {
        match &mut self.session {
            Some(Session::Plain(connection)) => Some(connection),
            _ => None,
        }
    }

    /// Sends the whole request.
    pub(super) async fn send(&mut self, head: Box<RequestHeader>, body: Bytes) -> Result<()> {
        match self.session()? {
            Session::Plain(connection) => {
                connection.send(&head, &body).await.or_err(ErrorType::WriteError, "to a backend")
            }
            Session::Pingora(session) => {
                session.write_request_header(head).await?;
                if !body.is_empty() {
                    session.write_request_body(body, true).await?;
                }
                session.finish_request_body().await
            }
        }
    }

    /// Waits for the response's head.
    pub(super) async fn read_head(&mut self) -> Result<()> {
        let session = self.session()?;
        for _ in 0..INFORMATIONAL {
            let head = match &mut *session {
                Session::Plain(connection) => Some(connection.read_head().await.map_err(broken)?),
                Session::Pingora(session) => {
                    session.read_response_header().await?;
                    session.response_header()
                }
            };
            match head {
                Some(head) if head.status.is_informational() => {}
                Some(_) => return Ok(()),
                None => return Err(Error::new_up(ErrorType::InvalidHTTPHeader)),
            }
        }
        Err(Error::new_up(ErrorType::InvalidHTTPHeader))
    }

    /// The response's head, once it was read.
    pub(super) fn head(&self) -> Option<&ResponseHeader> {
        match self.session.as_ref()? {
            Session::Plain(connection) => connection.head(),
            Session::Pingora(session) => session.response_header(),
        }
    }

    /// The next piece of the body; `None` at its end.
    pub(super) async fn read_body(&mut self) -> Result<Option<Bytes>> {
        match self.session()? {
            Session::Plain(connection) => poll_fn(|cx| connection.poll_body(cx)).await.map_err(broken),
            Session::Pingora(session) => {
                if session.response_done() {
                    return Ok(None);
                }
                session.read_response_body().await
            }
        }
    }

    /// Gives the connection back, if it can serve again.
    pub(super) async fn release(mut self) {
        match self.session.take() {
            Some(Session::Plain(connection)) => {
                if let Some(tcp) = connection.into_idle() {
                    self.backends.pool.put(self.endpoint.address(), tcp, self.backends.clock.now());
                }
            }
            Some(Session::Pingora(mut session)) => {
                let reusable = session.response_done() || matches!(*session, HttpSession::H2(_));
                if reusable {
                    self.backends.release(&self.endpoint, *session).await;
                }
            }
            None => {}
        }
    }
}

/// In pingora's words, and its box: only a connection that ended may have been dead before it was used.
#[allow(clippy::unnecessary_box_returns, reason = "pingora's results hold boxed errors")]
fn broken(error: ReadError) -> Box<Error> {
    let kind = match error {
        ReadError::Closed(_) => ErrorType::ConnectionClosed,
        ReadError::Malformed(_) => ErrorType::InvalidHTTPHeader,
    };
    let retry = if kind == ErrorType::ConnectionClosed { RetryType::ReusedOnly } else { RetryType::Decided(false) };
    let mut error = Error::because(kind, "while reading from a backend", error);
    error.retry = retry;
    error
}

impl Drop for Upstream {
    fn drop(&mut self) {
        // An h1 connection closes with its session, which is how the backend hears of the cancellation. An h2 stream
        // is reset the same way, but its connection carries others and has to go back to the pool.
        let Some(Session::Pingora(session)) = self.session.take() else { return };
        if matches!(*session, HttpSession::H2(_)) {
            let (backends, endpoint) = (Arc::clone(&self.backends), Arc::clone(&self.endpoint));
            if let Ok(runtime) = tokio::runtime::Handle::try_current() {
                runtime.spawn(async move { backends.release(&endpoint, *session).await });
            }
        }
    }
}
