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
        let fleet = Fleet::new(Arc::new(asking(settings, PAGES[0])), clock.now())?;
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
            if backend.state() == BackendState::Ready
                && (backend.settings().models.is_some() || backend.discovered().known)
            {
                return Ok(backend);
            }
            if self.clock.now() >= deadline {
                let found = backend.last_check().map(|check| check.outcome.describe());
                return Err(found.unwrap_or_else(|| "no answer to a health check".to_owned()));
            }
            sleep(LOOK).await;
        }
    }

    /// What its engine says of its load; `None` where it does not.
    pub(super) async fn engine(&self, place: usize) -> Option<EngineLoad> {
        for page in PAGES {
            let deadline = self.clock.now() + PAGE;
            while self.clock.now() < deadline {
                if let Some(load) = self.backend(place)?.engine(self.clock.now()) {
                    return Some(load);
                }
                sleep(LOOK).await;
            }
            // Not there: all that name none are asked at the other place.
            let fleet = self.generations.borrow().clone();
            let (settings, next) = (fleet.settings(), PAGES.iter().find(|other| **other != page)?);
            let asked = settings.backends.get(place)?.metrics.as_ref().map(|metrics| &*metrics.path == page);
            if asked != Some(true) {
                return None;
            }
            let rebuilt = fleet.rebuilt(Arc::new(moved(settings, place, next)), self.clock.now()).ok()?;
            self.generations.send_replace(Arc::new(rebuilt));
        }
        None
    }

    fn backend(&self, place: usize) -> Option<Arc<LiveBackend>> {
        self.generations.borrow().backends().get(place).cloned()
    }
}

/// The configuration, where every engine is asked for its load.
fn asking(settings: &Settings, page: &str) -> Settings {
    let mut settings = settings.clone();
    for backend in &mut settings.backends {
        if backend.metrics.is_none() {
            Arc::make_mut(backend).metrics = Some(at(page));
        }
    }
    settings
}

fn moved(settings: &Settings, place: usize, page: &str) -> Settings {
    let mut settings = settings.clone();
    if let Some(backend) = settings.backends.get_mut(place) {
        Arc::make_mut(backend).metrics = Some(at(page));
    }
    settings
}

fn at(page: &str) -> EngineMetrics {
    EngineMetrics { path: page.into(), interval: EngineMetrics::INTERVAL }
}
