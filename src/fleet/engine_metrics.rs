//! Asking engines how busy they are, where the configuration says so.
//!
//! The router keeps its own books and needs no scrape for what it sends itself. This is for what it does not send: other
//! clients' load, and other replicas'. Reports that stop coming are forgotten by the model within seconds.

use std::sync::Arc;
use std::time::{Duration, Instant};

use pingora_core::connectors::http::Connector;
use tokio::time::{sleep, timeout};

use super::LiveBackend;
use super::backend::Shared;
use super::endpoint::Endpoint;
use super::health;
use crate::clock::Clock;
use crate::config::settings::EngineMetrics;
use crate::route::load::EngineReport;
use crate::wire::engine_metrics::EngineLoad;

/// Longest wait for a page, connecting included.
const PATIENCE: Duration = Duration::from_secs(2);
/// Between two looks at whether the configuration has come to name a page.
const IDLE: Duration = Duration::from_secs(1);
/// After so long without a page, its figures are no longer shown.
const FRESH: Duration = Duration::from_secs(5);

/// What a backend's engines last said.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reported {
    load: EngineLoad,
    at: Instant,
}

impl LiveBackend {
    /// What its engine says of its load; `None` where it is not asked, and when it has not answered lately.
    pub fn engine(&self, now: Instant) -> Option<EngineLoad> {
        self.shared.engine_load(now)
    }
}

/// Asks a backend's engines at the interval, as long as the configuration names a page.
pub(super) async fn keep_asking(shared: &Arc<Shared>, connector: &Arc<Connector>, clock: &dyn Clock) {
    let mut answered = true;
    loop {
        let metrics = shared.latest.load().metrics.clone();
        let Some(EngineMetrics { path, interval }) = metrics else {
            sleep(IDLE).await;
            continue;
        };
        // A backend that is down is asked about its health, and nothing else.
        if shared.is_ready() {
            let load = timeout(PATIENCE, ask_all(shared, connector, &path)).await.ok().flatten();
            if load.is_some() != answered {
                answered = load.is_some();
                tell(&shared.latest.load().name, &path, answered);
            }
            if let Some(load) = load {
                shared.reported(load, clock.now());
            }
        }
        sleep(interval).await;
    }
}

fn tell(backend: &str, path: &str, answered: bool) {
    if answered {
        tracing::info!(backend, path, "the engine tells its load again");
    } else {
        tracing::warn!(backend, path, "no page of engine metrics there; other clients' load is not seen");
    }
}

/// The load of all of a backend's addresses; `None` unless every one that is healthy answers, for half of it would
/// pass for little.
async fn ask_all(shared: &Shared, connector: &Connector, path: &str) -> Option<EngineLoad> {
    let mut all: Option<EngineLoad> = None;
    for endpoint in shared.endpoints().iter().filter(|endpoint| endpoint.healthy()) {
        let one = ask(shared, connector, endpoint, path).await?;
        all = Some(all.map_or(one, |all| all.beside(one)));
    }
    all
}

async fn ask(shared: &Shared, connector: &Connector, endpoint: &Endpoint, path: &str) -> Option<EngineLoad> {
    let settings = shared.latest.load_full();
    let page = health::page(connector, endpoint, &settings, path).await?;
    EngineLoad::parse(&String::from_utf8_lossy(&page))
}

impl Shared {
    /// What its engines said, as long as that is news.
    pub(super) fn engine_load(&self, now: Instant) -> Option<EngineLoad> {
        let reported = (*self.engine())?;
        (now.saturating_duration_since(reported.at) <= FRESH).then_some(reported.load)
    }

    /// Learns what its engines say.
    fn reported(&self, load: EngineLoad, now: Instant) {
        *self.engine() = Some(Reported { load, at: now });
        let kv_tokens = load.kv_ratio.zip(load.kv_capacity).map(|(ratio, capacity)| ratio * capacity);
        let report = EngineReport { running: count(load.running), waiting: count(load.waiting), kv_tokens };
        let mut model = self.model();
        model.engine_reported(report, now);
        // What several engines hold together is not what any of them can find again.
        if let Some(capacity) = load.kv_capacity.filter(|_| self.endpoints().len() == 1) {
            model.kv_capacity(capacity);
        }
    }
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the conversion saturates, and is not negative"
)]
fn count(number: f64) -> u32 {
    number.round() as u32
}
