//! Keeps the settings current: a new file is judged whole, then swapped in at once, or refused and reported.
//!
//! SIGHUP, `POST /-/reload` and the file watch all end in [`Reloader::reload`], one at a time. A bad file changes
//! nothing. What cannot change while sockets are bound keeps its value and is named, so that nobody believes it applied.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::SystemTime;

use arc_swap::ArcSwap;

use super::fingerprint::Fingerprint;
use super::settings::{self, Settings};
use super::{Code, Diagnostic, Loaded, Report, attempt};

/// Why a reload was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trigger {
    /// The process started.
    Start,
    /// SIGHUP.
    Signal,
    /// `POST /-/reload`.
    Request,
    /// A file changed.
    Watch,
}

impl Trigger {
    /// The name in logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Signal => "signal",
            Self::Request => "request",
            Self::Watch => "watch",
        }
    }
}

/// What an applied reload has to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReloadReport {
    /// What looks like a mistake nevertheless.
    pub warnings: Vec<Diagnostic>,
    /// Fields that differ in the file but keep their value until restart.
    pub needs_restart: Vec<&'static str>,
}

/// The latest reload.
#[derive(Debug, Clone)]
pub struct LastReload {
    /// When it ended.
    pub at: SystemTime,
    /// When one was last applied.
    pub applied_at: SystemTime,
    /// What asked for it.
    pub trigger: Trigger,
    /// What became of it.
    pub result: Result<ReloadReport, Report>,
}

impl LastReload {
    /// Whether it was applied.
    #[must_use]
    pub fn ok(&self) -> bool {
        self.result.is_ok()
    }
}

/// Called with every new settings, inside the reload's lock; may still refuse them.
type Apply = Box<dyn Fn(&Arc<Settings>) -> Result<(), String> + Send + Sync>;
/// Hears what became of every reload.
type Listener = Box<dyn Fn(&LastReload) + Send + Sync>;
/// Tells the time of day.
type Wall = Box<dyn Fn() -> SystemTime + Send + Sync>;

/// Owner of the current settings.
pub struct Reloader {
    path: PathBuf,
    wall: Wall,
    apply: Apply,
    current: ArcSwap<Settings>,
    last: ArcSwap<LastReload>,
    listener: OnceLock<Listener>,
    /// What the latest attempt read; holding it is what makes reloads follow each other.
    attempted: Mutex<Fingerprint>,
}

impl fmt::Debug for Reloader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reloader").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Reloader {
    /// Starts from what [`super::load`] read from `path`; `wall` tells the time of day, `apply` gets every later settings.
    ///
    /// `apply` runs on the thread that reloads, never two at once, and should only swap pointers.
    pub fn new(
        path: impl Into<PathBuf>,
        loaded: Loaded,
        wall: impl Fn() -> SystemTime + Send + Sync + 'static,
        apply: impl Fn(&Arc<Settings>) -> Result<(), String> + Send + Sync + 'static,
    ) -> Self {
        let Loaded { settings, warnings, fingerprint } = loaded;
        let path = path.into();
        let now = wall();
        let fingerprint = fingerprint.unwrap_or_else(|| Fingerprint::empty(&path));
        Self {
            path,
            wall: Box::new(wall),
            apply: Box::new(apply),
            current: ArcSwap::from_pointee(settings),
            last: ArcSwap::from_pointee(LastReload {
                at: now,
                applied_at: now,
                trigger: Trigger::Start,
                result: Ok(ReloadReport { warnings, needs_restart: Vec::new() }),
            }),
            listener: OnceLock::new(),
            attempted: Mutex::new(fingerprint),
        }
    }

    /// Has `listener` told of every later reload; the first listener stays.
    pub fn on_result(&self, listener: impl Fn(&LastReload) + Send + Sync + 'static) {
        let _ = self.listener.set(Box::new(listener));
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The settings in force.
    #[must_use]
    pub fn current(&self) -> Arc<Settings> {
        self.current.load_full()
    }

    /// What became of the latest reload.
    #[must_use]
    pub fn last(&self) -> Arc<LastReload> {
        self.last.load_full()
    }

    /// Reads the file and puts it in force; returns when it is applied or refused. Blocking: it reads files.
    ///
    /// # Errors
    /// Every mistake in the file; the old settings stay.
    pub fn reload(&self, trigger: Trigger) -> Result<ReloadReport, Report> {
        let mut attempted = self.attempted.lock().unwrap_or_else(PoisonError::into_inner);
        self.reload_locked(trigger, &mut attempted)
    }

    /// As [`Self::reload`], from async code: the work is done on a thread for blocking work.
    ///
    /// # Errors
    /// As [`Self::reload`].
    pub async fn reload_in_background(self: Arc<Self>, trigger: Trigger) -> Result<ReloadReport, Report> {
        let path = self.path.to_string_lossy().into_owned();
        let work = tokio::task::spawn_blocking(move || self.reload(trigger));
        work.await.unwrap_or_else(|error| {
            let message = format!("the reload was given up: {error}");
            Err(Report(vec![Diagnostic::of_file(&path, Code::Unreadable, message, "try again")]))
        })
    }

    /// Reloads when a file differs from what the latest attempt read, good or bad. Blocking.
    pub(super) fn reload_if_changed(&self) -> Option<Result<ReloadReport, Report>> {
        let mut attempted = self.attempted.lock().unwrap_or_else(PoisonError::into_inner);
        if attempted.is_current() {
            return None;
        }
        Some(self.reload_locked(Trigger::Watch, &mut attempted))
    }

    fn reload_locked(&self, trigger: Trigger, attempted: &mut Fingerprint) -> Result<ReloadReport, Report> {
        let (loaded, fingerprint) = attempt(&self.path);
        *attempted = fingerprint;
        let result = loaded.and_then(|Loaded { mut settings, warnings, .. }| {
            let needs_restart = keep_fixed(&self.current(), &mut settings);
            let settings = Arc::new(settings);
            (self.apply)(&settings).map_err(|problem| {
                let path = self.path.to_string_lossy();
                Report(vec![Diagnostic::of_file(&path, Code::Unreadable, problem, "mend it and reload")])
            })?;
            self.current.store(settings);
            Ok(ReloadReport { warnings, needs_restart })
        });
        report(trigger, &result);
        let at = (self.wall)();
        let applied_at = if result.is_ok() { at } else { self.last().applied_at };
        let last = LastReload { at, applied_at, trigger, result: result.clone() };
        if let Some(listener) = self.listener.get() {
            listener(&last);
        }
        self.last.store(Arc::new(last));
        result
    }
}

/// Puts back what is fixed until restart, and names it.
fn keep_fixed(old: &Settings, new: &mut Settings) -> Vec<&'static str> {
    let mut kept = Vec::new();
    if keep_listeners(&old.listeners, &mut new.listeners) {
        kept.push("listeners");
    }
    if new.threads != old.threads {
        new.threads = old.threads;
        kept.push("threads");
    }
    if new.admin.address != old.admin.address {
        new.admin.address = old.admin.address;
        kept.push("admin.address");
        // The token may have been dropped because the new address is loopback; the old one still needs it.
        if new.admin.token.is_none() && old.admin.token.is_some() {
            new.admin.token.clone_from(&old.admin.token);
            kept.push("admin.token");
        }
    }
    kept
}

/// Listeners stay as they were bound; the files of their TLS may be others. Whether more was wanted.
fn keep_listeners(bound: &[settings::Listener], new: &mut Vec<settings::Listener>) -> bool {
    let same = |one: &settings::Listener, other: &settings::Listener| {
        one.address == other.address && one.h2c == other.h2c && one.tls.is_some() == other.tls.is_some()
    };
    if bound.len() == new.len() && bound.iter().zip(&*new).all(|(one, other)| same(one, other)) {
        return false;
    }
    *new = bound.iter().map(|one| new.iter().find(|other| same(one, other)).unwrap_or(one).clone()).collect();
    true
}

fn report(trigger: Trigger, result: &Result<ReloadReport, Report>) {
    let trigger = trigger.as_str();
    match result {
        Ok(ReloadReport { warnings, needs_restart }) => {
            tracing::info!(trigger, warnings = warnings.len(), ?needs_restart, "configuration reloaded");
        }
        Err(report) => {
            let errors = report.0.iter().filter(|diagnostic| diagnostic.is_error()).count();
            tracing::error!(trigger, errors, "configuration refused, the old one stays in force\n{report}");
        }
    }
}
