//! What was learned, kept across restarts: taken from the fleet, written now and then, and given back at the start.
//!
//! What is kept belongs to a backend by its name, URL, profile and configured models: when one of them differs, it is
//! another server, and nothing is believed of it. A file that is old, broken or of another version is reported and
//! ignored; a file that headway did not write is never written over.

mod file;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod split_part;

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::watch;
use tokio::time::timeout;

use super::split::KeptSplit;
use super::{Fleet, LiveBackend};
use crate::clock::Clock;
use crate::config::replace_file;
use crate::config::settings::{Backend, StateFile};
use crate::route::model::{BackendLearned, PairLearned, RouteLearned};

/// The largest file that is read or written.
const LARGEST: u64 = 16 << 20;
/// What is older is forgotten: engines, drivers and loads have changed since.
const OLDEST: Duration = Duration::from_secs(7 * 86_400);
/// How often the configuration is looked at while it names no file.
const IDLE: Duration = Duration::from_secs(5);

/// What the backends and routes of a fleet have learned.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Kept {
    backends: Vec<KeptBackend>,
    routes: Vec<(Arc<str>, RouteLearned)>,
    splits: Vec<(Arc<str>, KeptSplit)>,
}

#[derive(Debug, Clone, PartialEq)]
struct KeptBackend {
    key: Key,
    /// Without [`BackendLearned::pairs`], whose places are those of this process.
    learned: BackendLearned,
    /// By the route's name.
    pairs: Vec<(Arc<str>, PairLearned)>,
}

/// What makes a backend the same one.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Key {
    name: Arc<str>,
    url: String,
    profile: Option<Arc<str>>,
    /// `None` when it is asked for them.
    models: Option<Vec<Arc<str>>>,
}

impl Key {
    fn of(backend: &Backend) -> Self {
        let scheme = if backend.url.https { "https" } else { "http" };
        let models = backend.models.as_ref();
        Self {
            name: Arc::clone(&backend.name),
            url: format!("{scheme}://{}{}", backend.url.authority(), backend.url.base_path),
            profile: backend.profile.clone(),
            models: models.map(|models| models.iter().map(|model| Arc::clone(&model.0)).collect()),
        }
    }
}

/// Why nothing could be taken from a file.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// It cannot be read.
    #[error("it cannot be read: {0}")]
    Unreadable(#[from] io::Error),
    /// Headway did not write it.
    #[error("headway did not write this file; it is left alone, and nothing is kept")]
    Alien,
    /// It is of another version, or damaged.
    #[error("it is damaged or of another version, and will be replaced: {0}")]
    Broken(String),
    /// It says too little about today.
    #[error("it is {} days old, and will be replaced", .0.as_secs() / 86_400)]
    Old(Duration),
}

impl Fleet {
    /// All that backends and routes have learned.
    #[must_use]
    pub fn learned(&self) -> Kept {
        let backend = |backend: &Arc<LiveBackend>| {
            let mut learned = backend.shared.model().learned();
            let pairs = std::mem::take(&mut learned.pairs);
            let named = |route: &Arc<super::LiveRoute>| {
                let pair = pairs.get(route.counts.slot.0).copied().flatten()?;
                Some((Arc::clone(route.name()), pair))
            };
            let pairs = self.routes.iter().filter_map(named).collect();
            KeptBackend { key: Key::of(backend.settings()), learned, pairs }
        };
        let routes = self.routes.iter().map(|route| (Arc::clone(route.name()), route.counts.model().learned()));
        let splits = self.routes.iter().filter_map(|route| {
            let kept = route.split.as_ref()?.live.kept();
            (!kept.rolled_back.is_empty()).then(|| (Arc::clone(route.name()), kept))
        });
        let backends = self.backends.iter().map(backend).collect();
        Kept { backends, routes: routes.collect(), splits: splits.collect() }
    }

    /// Goes on from what was learned before; answers of how many backends something was known. Where the fleet itself
    /// has learned something already, that stays.
    pub fn resume(&self, kept: &Kept, now: Instant) -> usize {
        for route in self.routes.iter().filter(|route| route.counts.model().learned().answers == 0) {
            if let Some((_, learned)) = kept.routes.iter().find(|(name, _)| name == route.name()) {
                route.counts.model().resume(learned);
            }
        }
        for (route, split) in self.routes.iter().filter_map(|route| Some((route, route.split.as_ref()?))) {
            if let Some((_, kept)) = kept.splits.iter().find(|(name, _)| name == route.name()) {
                split.live.resume(kept);
            }
        }
        let resumed = self.backends.iter().filter(|backend| backend.shared.model().is_unused()).filter(|backend| {
            let key = Key::of(backend.settings());
            let known = kept.backends.iter().find(|one| one.key == key);
            known.is_some_and(|known| {
                backend.shared.model().resume(&self.placed(known), now);
                true
            })
        });
        resumed.count()
    }

    /// What is kept of a backend, with the routes at their places of this process.
    fn placed(&self, kept: &KeptBackend) -> BackendLearned {
        let mut learned = kept.learned.clone();
        for route in &self.routes {
            let Some((_, pair)) = kept.pairs.iter().find(|(name, _)| name == route.name()) else { continue };
            let slot = route.counts.slot.0;
            if learned.pairs.len() <= slot {
                learned.pairs.resize(slot + 1, None);
            }
            if let Some(place) = learned.pairs.get_mut(slot) {
                *place = Some(*pair);
            }
        }
        learned
    }
}

/// Reads what was kept; `None` when there is no file yet. Blocking.
///
/// # Errors
/// When there is a file from which nothing can be taken.
pub fn load(path: &Path, wall: SystemTime) -> Result<Option<Kept>, StateError> {
    let bytes = match read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    if bytes.is_empty() {
        return Ok(None);
    }
    if !file::is_ours(&bytes) {
        return Err(StateError::Alien);
    }
    let (saved, kept) = file::read(&bytes).map_err(StateError::Broken)?;
    let age = wall.duration_since(saved).unwrap_or_default();
    if age > OLDEST { Err(StateError::Old(age)) } else { Ok(Some(kept)) }
}

/// Writes what is to be kept: whole or not at all. Blocking.
///
/// # Errors
/// When the file cannot be written, and when what is there was not written by headway.
pub fn save(path: &Path, kept: &Kept, wall: SystemTime) -> Result<(), StateError> {
    let mut start = Vec::new();
    match File::open(path) {
        Ok(file) => file.take(file::MARK.len() as u64).read_to_end(&mut start).map(drop)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error.into()),
    }
    if !start.is_empty() && !file::is_ours(&start) {
        return Err(StateError::Alien);
    }
    let bytes = file::write(kept, wall).map_err(StateError::Broken)?;
    if bytes.len() as u64 > LARGEST {
        return Err(StateError::Broken("what was learned does not fit into 16 MiB".to_owned()));
    }
    Ok(replace_file(path, &bytes)?)
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    // Looking before opening: opening a pipe would wait for its writer.
    if !std::fs::metadata(path)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(LARGEST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LARGEST {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is larger than 16 MiB"));
    }
    Ok(bytes)
}

/// Gives a fleet what an earlier process kept, where a reload names another file than before. Blocking.
pub fn restore_on_reload(fleet: &Fleet, before: &Fleet, clock: &dyn Clock) {
    let path = |fleet: &Fleet| fleet.settings().state.as_ref().map(|state| state.path.clone());
    if path(fleet) != path(before) {
        restore(fleet, clock);
    }
}

/// Gives a fleet what an earlier process kept, where the configuration says that it does. Blocking.
pub fn restore(fleet: &Fleet, clock: &dyn Clock) {
    let Some(StateFile { path, .. }) = &fleet.settings().state else { return };
    let shown = path.display();
    match load(path, clock.wall()) {
        Ok(None) => tracing::info!(path = %shown, "nothing is kept yet"),
        Ok(Some(kept)) => {
            let backends = fleet.resume(&kept, clock.now());
            tracing::info!(path = %shown, backends, "goes on from what was learned");
        }
        Err(error) => tracing::warn!(path = %shown, "the state file is not used: {error}"),
    }
}

/// Keeps what this generation has learned, where the configuration says so.
pub async fn keep_now(fleet: Arc<Fleet>, clock: Arc<dyn Clock>) {
    Keeper { clock, worked: true }.save(fleet).await;
}

/// Keeps what the generation in force learns, at its interval and once more when `shutdown` turns true.
pub async fn keep(
    generations: watch::Receiver<Arc<Fleet>>,
    clock: Arc<dyn Clock>,
    mut shutdown: watch::Receiver<bool>,
) {
    let mut keeper = Keeper { clock, worked: true };
    loop {
        let interval = generations.borrow().settings().state.as_ref().map_or(IDLE, |state| state.interval);
        // A shutdown that was missed, and a channel that closed, end it as well.
        let ended = timeout(interval, shutdown.wait_for(|ends| *ends)).await.is_ok();
        let fleet = Arc::clone(&generations.borrow());
        keeper.save(fleet).await;
        if ended {
            return;
        }
    }
}

/// Says once that writing fails, and once that it works again.
struct Keeper {
    clock: Arc<dyn Clock>,
    worked: bool,
}

impl Keeper {
    async fn save(&mut self, fleet: Arc<Fleet>) {
        let Some(StateFile { path, .. }) = fleet.settings().state.clone() else { return };
        let shown = path.display().to_string();
        let wall = self.clock.wall();
        let work = tokio::task::spawn_blocking(move || save(&path, &fleet.learned(), wall));
        let Ok(result) = work.await else { return };
        match &result {
            Err(error) if self.worked => tracing::warn!(path = %shown, "what was learned is not kept: {error}"),
            Ok(()) if !self.worked => tracing::info!(path = %shown, "what was learned is kept again"),
            _ => {}
        }
        self.worked = result.is_ok();
    }
}

#[cfg(test)]
mod tests;
