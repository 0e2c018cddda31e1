//! A connection to a backend, that goes back to the pool or is cancelled, whichever way its exchange ends.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use pingora_core::connectors::http::Connector;
use pingora_core::protocols::http::client::HttpSession;
use pingora_core::{Error, ErrorType, Result};
use pingora_http::{RequestHeader, ResponseHeader};

use crate::fleet::Endpoint;

/// How long an idle connection is kept: shorter than uvicorn's own 5 s, so that the backend seldom closes it first.
const KEPT_IDLE: Duration = Duration::from_secs(4);

/// Informational responses that are skipped before the real one; more are a flood.
const INFORMATIONAL: usize = 8;

/// One request's use of a connection.
pub(super) struct Upstream {
    session: Option<HttpSession>,
    endpoint: Arc<Endpoint>,
    connector: Arc<Connector>,
    /// Whether the connection had served another request before.
    pub(super) reused: bool,
}

impl Upstream {
    /// Takes a pooled connection, or makes one; `fresh` never takes a pooled one.
    pub(super) async fn connect(connector: &Arc<Connector>, endpoint: &Arc<Endpoint>, fresh: bool) -> Result<Self> {
        let (session, reused) = if fresh {
            // A group of its own keeps the pool out of it; it is released into the common group all the same.
            let mut alone = endpoint.peer().clone();
            alone.group_key = u64::MAX;
            connector.get_http_session(&alone).await?
        } else {
            connector.get_http_session(endpoint.peer()).await?
        };
        Ok(Self { session: Some(session), endpoint: Arc::clone(endpoint), connector: Arc::clone(connector), reused })
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
    pub(super) async fn read_head(&mut self) -> Result<ResponseHeader> {
        let session = self.session()?;
        for _ in 0..INFORMATIONAL {
            session.read_response_header().await?;
            match session.response_header() {
                Some(head) if head.status.is_informational() => {}
                Some(head) => return Ok(head.clone()),
                None => return Err(Error::new_up(ErrorType::InvalidHTTPHeader)),
            }
        }
        Err(Error::new_up(ErrorType::InvalidHTTPHeader))
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
            self.connector.release_http_session(session, self.endpoint.peer(), Some(KEPT_IDLE)).await;
        }
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        let Some(session) = self.session.take() else { return };
        // An h1 connection closes with its session, which is how the backend hears of the cancellation. An h2 stream
        // is reset the same way, but its connection carries others and has to go back to the pool.
        if let HttpSession::H2(_) = session {
            let (connector, endpoint) = (Arc::clone(&self.connector), Arc::clone(&self.endpoint));
            if let Ok(runtime) = tokio::runtime::Handle::try_current() {
                runtime.spawn(async move {
                    connector.release_http_session(session, endpoint.peer(), Some(KEPT_IDLE)).await;
                });
            }
        }
    }
}
