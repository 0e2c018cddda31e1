//! The data path: pingora's HTTP service before our own forwarding loop.
//!
//! Inference requests are read whole, routed, tried and forwarded by [`inference`]; `GET /v1/models` is answered here;
//! any other path that a route names takes pingora's stock proxy; the rest is refused. Connections come from our own
//! accept loop ([`listener`]), since a deadline on whole heads, HTTP/2 with prior knowledge per listener and ports
//! chosen by the system need one (`docs/decisions/0002-own-accept-loop.md`).

mod answer;
mod attempt;
mod body;
mod bounded;
mod caller;
mod certificates;
mod client;
mod cors;
mod deliver;
mod direct;
mod door;
mod exchange;
mod flow;
mod forward;
mod forwarded;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod h1;
mod headers;
mod heads;
mod heartbeat;
mod inference;
mod inspect;
mod ladder;
mod lifecycle;
mod listener;
mod marks;
mod models;
mod panics;
mod place;
mod pool;
mod refuse;
mod service;
mod stamp;
mod stock;
mod stream;
mod tries;
mod understand;
mod upstream;
mod win;

use std::sync::Arc;
use std::time::UNIX_EPOCH;

use arc_swap::ArcSwap;
use pingora_core::connectors::ConnectorOptions;
use pingora_core::connectors::http::Connector;

pub use self::certificates::{Certificates, PreparedCertificates};
use self::inspect::RequestIds;
use self::ladder::Reach;
pub use self::ladder::{Ladder, Pressure, raise_descriptor_limit};
pub use self::lifecycle::Lifecycle;
pub use self::listener::{BindError, Connections, Listeners};
use self::pool::Pool;
use self::upstream::Backends;
use crate::clock::Clock;
use crate::fleet::Fleet;
use crate::telemetry::Telemetry;

/// Idle connections kept per data path, over all backends: the pool evicts the oldest beyond it.
const IDLE_CONNECTIONS: usize = 4096;

/// What every connection of the data path shares.
pub struct Proxy {
    fleet: Arc<ArcSwap<Fleet>>,
    telemetry: Arc<Telemetry>,
    clock: Arc<dyn Clock>,
    backends: Arc<Backends>,
    lifecycle: Arc<Lifecycle>,
    ladder: Arc<Ladder>,
    ids: RequestIds,
}

impl Proxy {
    /// A data path that serves whatever generation `fleet` holds.
    #[must_use]
    pub fn new(
        fleet: Arc<ArcSwap<Fleet>>,
        telemetry: Arc<Telemetry>,
        clock: Arc<dyn Clock>,
        connector: Arc<Connector>,
        lifecycle: Arc<Lifecycle>,
        ladder: Arc<Ladder>,
    ) -> Arc<Self> {
        let since_epoch = clock.wall().duration_since(UNIX_EPOCH).unwrap_or_default();
        #[allow(clippy::cast_possible_truncation, reason = "only the low bits vary between two starts")]
        let ids = RequestIds::new(since_epoch.as_nanos() as u64);
        let backends = Arc::new(Backends { pool: Pool::default(), connector, clock: Arc::clone(&clock) });
        Arc::new(Self { fleet, telemetry, clock, backends, lifecycle, ladder, ids })
    }
}

impl Proxy {
    /// A descriptor for one more connection to a backend, if there is one left.
    fn reach(&self) -> Option<Reach> {
        let pool = &self.backends.pool;
        self.ladder.reach(|| pool.len(), || pool.close_oldest())
    }

    /// Whether connections may outlive their answer.
    fn keeps_alive(&self) -> bool {
        self.ladder.keeps_alive(&self.fleet.load().settings().limits)
    }
}

/// The connector towards backends; health checks and the data path share its pool.
#[must_use]
pub fn connector() -> Arc<Connector> {
    Arc::new(Connector::new(Some(ConnectorOptions::new(IDLE_CONNECTIONS))))
}
