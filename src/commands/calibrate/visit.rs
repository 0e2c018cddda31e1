//! The backends as a fleet that nobody is served by: whether they answer, which models they list, what their engines say.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;

use crate::clock::Clock;
use crate::config::settings::{EngineMetrics, Settings};
use crate::fleet::{BackendState, Fleet, LiveBackend, probes};
use crate::proxy;
use crate::wire::engine_metrics::EngineLoad;

/// Longest wait for a backend to answer a check.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(50);
/// Longest wait for a page of engine metrics.
const PAGE: Duration = Duration::from_secs(3);
/// Where engines have that page, when the configuration does not say.
const PAGES: [&str; 2] = ["/metrics", "/v1/metrics"];

/// The fleet, and who watches it until this is dropped.
pub(super) struct Visit {
    clock: Arc<dyn Clock>,
    generations: watch::Sender<Arc<Fleet>>,
    _watching: watch::Sender<bool>,
}

impl Visit {
    /// Begins to watch the backends of a configuration.
    ///
    /// # Errors
    /// When files that it names cannot be used.
    pub(super) fn begin(settings: &Settings, clock: &Arc<dyn Clock>) -> anyhow::Result<Self> {
        let fleet = Fleet::new(Arc::new(settings.clone()), clock.now())?;
        let generations = watch::channel(Arc::new(fleet)).0;
        let watching = watch::channel(false).0;
        let run = probes::run(generations.subscribe(), proxy::connector(), Arc::clone(clock), watching.subscribe());
        tokio::spawn(run);
        Ok(Self { clock: Arc::clone(clock), generations, _watching: watching })
    }

    /// The backend of that place, once it serves; else why it does not.
    pub(super) async fn ready(&self, place: usize) -> Result<Arc<LiveBackend>, String> {
        let deadline = self.clock.now() + PATIENCE;
        loop {
            let Some(backend) = self.backend(place) else { return Err("there is no such backend".to_owned()) };
            let ready = backend.state() == BackendState::Ready;
            if ready && (backend.settings().models.is_some() || backend.discovered().known) {
                return Ok(backend);
            }
            if self.clock.now() >= deadline {
                let found = backend.last_check().map(|check| check.outcome.describe());
                return Err(match found {
                    _ if ready => "it lists no models at /v1/models; name them under `models`".to_owned(),
                    Some(found) => format!("it is not ready: {found}"),
                    None => "it is not ready: no answer to a health check".to_owned(),
                });
            }
            sleep(LOOK).await;
        }
    }

    /// Finds the page where a backend's engine says its load: where the configuration says, else where engines have it.
    pub(super) async fn has_page(&self, place: usize) -> bool {
        if self.backend(place).is_some_and(|backend| backend.settings().metrics.is_some()) {
            return self.engine(place).await.is_some();
        }
        for page in PAGES {
            if self.ask_at(place, page) && self.engine(place).await.is_some() {
                return true;
            }
        }
        false
    }

    /// What a backend's engine says of its load now; `None` where it does not.
    pub(super) async fn engine(&self, place: usize) -> Option<EngineLoad> {
        let deadline = self.clock.now() + PAGE;
        loop {
            if let Some(load) = self.backend(place)?.engine(self.clock.now()) {
                return Some(load);
            }
            if self.clock.now() >= deadline {
                return None;
            }
            sleep(LOOK).await;
        }
    }

    fn ask_at(&self, place: usize, page: &str) -> bool {
        let fleet = self.generations.borrow().clone();
        let mut settings = Settings::clone(fleet.settings());
        let Some(backend) = settings.backends.get_mut(place) else { return false };
        Arc::make_mut(backend).metrics = Some(EngineMetrics { path: page.into(), interval: EngineMetrics::INTERVAL });
        let Ok(rebuilt) = fleet.rebuilt(Arc::new(settings), self.clock.now()) else { return false };
        rebuilt.settle();
        self.generations.send_replace(Arc::new(rebuilt));
        true
    }

    fn backend(&self, place: usize) -> Option<Arc<LiveBackend>> {
        self.generations.borrow().backends().get(place).cloned()
    }
}
