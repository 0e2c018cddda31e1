//! What bounds an exchange that pingora's stock proxy carries: one deadline for all of it, and the end of the drain.
//!
//! pingora bounds single reads and writes and knows neither of the two; whoever calls it can only drop it. It is
//! dropped per request, not per connection, so that the other streams of an HTTP/2 connection go on.

use std::cell::Cell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use pingora_core::apps::{HttpServerApp, HttpServerOptions, ReusedHttpStream};
use pingora_core::protocols::http::ServerSession;
use pingora_core::protocols::http::v2::server::H2Options;
use pingora_core::server::ShutdownWatch;
use pingora_proxy::HttpProxy;
use tokio::sync::oneshot;

use super::lifecycle::{Lifecycle, turned};
use super::service::Service;

/// How much later than the deadline the exchange is dropped: pingora's own timeout, which can tell the client why, is
/// to come first.
const GRACE: Duration = Duration::from_millis(500);

tokio::task_local! {
    /// Takes the deadline of the exchange that the current task serves.
    static DEADLINE: Cell<Option<oneshot::Sender<Instant>>>;
}

/// Ends the exchange that the current task serves soon after that time, and when the drain ends.
pub(super) fn end_by(deadline: Instant) {
    // Outside an exchange there is nothing to end.
    let _ = DEADLINE.try_with(|asked| asked.take().map(|asked| asked.send(deadline)));
}

/// The service, with its bounds.
pub(super) struct Bounded {
    inner: Arc<HttpProxy<Service>>,
    lifecycle: Arc<Lifecycle>,
}

impl Bounded {
    pub(super) fn new(inner: Arc<HttpProxy<Service>>, lifecycle: Arc<Lifecycle>) -> Self {
        Self { inner, lifecycle }
    }

    /// Waits for the bound that was asked for, if one ever is.
    async fn passed(&self, deadline: oneshot::Receiver<Instant>) {
        let Ok(deadline) = deadline.await else { return std::future::pending().await };
        let mut cut = self.lifecycle.cutting();
        tokio::select! {
            () = tokio::time::sleep_until((deadline + GRACE).into()) => {}
            () = turned(&mut cut) => {}
        }
    }
}

#[async_trait]
impl HttpServerApp for Bounded {
    async fn process_new_http(
        self: &Arc<Self>,
        session: ServerSession,
        shutdown: &ShutdownWatch,
    ) -> Option<ReusedHttpStream> {
        let (asked, deadline) = oneshot::channel();
        let serving = DEADLINE.scope(Cell::new(Some(asked)), self.inner.process_new_http(session, shutdown));
        tokio::select! {
            biased;
            served = serving => served,
            () = self.passed(deadline) => None,
        }
    }

    fn h2_options(&self) -> Option<H2Options> {
        self.inner.h2_options()
    }

    fn server_options(&self) -> Option<&HttpServerOptions> {
        self.inner.server_options()
    }

    async fn http_cleanup(&self) {
        self.inner.http_cleanup().await;
    }
}
