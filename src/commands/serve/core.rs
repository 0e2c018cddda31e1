//! What reloads, the admin listener and the data path share, and how a configuration is put in force.

use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use tokio::sync::{Notify, watch};

use super::server::LAST_WORDS;
use super::{LOG_PATIENCE, ServeArgs};
use crate::admin::{ConfigStatus, ReloadOutcome, ResourceUse, Services};
use crate::clock::Clock;
use crate::config::settings::Settings;
use crate::config::{self, LastReload, Loaded, ReloadReport, Reloader, Trigger};
use crate::fleet::{Fleet, state};
use crate::proxy::{Certificates, Ladder, Lifecycle, Pressure};
use crate::telemetry::Telemetry;

/// What reloads, the admin listener and the data path share.
pub(super) struct Core {
    pub(super) fleet: Arc<ArcSwap<Fleet>>,
    pub(super) generations: watch::Sender<Arc<Fleet>>,
    pub(super) telemetry: Arc<Telemetry>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) lifecycle: Arc<Lifecycle>,
    /// What is used of what there is only so much of.
    pub(super) ladder: Arc<Ladder>,
    /// What TLS listeners show and trust.
    pub(super) certificates: Arc<Certificates>,
    /// Which configuration is in force.
    pub(super) configuration: ArcSwap<ConfigStatus>,
    /// How to read the configuration again, where there is a file.
    pub(super) reload: Mutex<Option<Arc<dyn Fn() -> ReloadOutcome + Send + Sync>>>,
    /// Asked to drain through the admin listener.
    pub(super) drain: Notify,
}

impl Core {
    /// Puts a new configuration in force, keeping the state of what has not changed; all of it or nothing.
    pub(super) fn apply(&self, settings: &Arc<Settings>) -> Result<(), String> {
        let prepared = self.telemetry.prepare(settings).map_err(|error| error.to_string())?;
        let certificates = self.certificates.prepare(settings).map_err(|error| error.to_string())?;
        let old = self.fleet.load_full();
        let fleet = old.rebuilt(Arc::clone(settings), self.clock.now()).map_err(|error| error.to_string())?;
        // Nothing fails from here on.
        state::restore_on_reload(&fleet, &old, &*self.clock);
        let fleet = Arc::new(fleet);
        fleet.settle();
        self.telemetry.apply(settings, prepared);
        self.certificates.apply(certificates);
        self.tell_expiries(&fleet);
        self.configuration.store(Arc::new(in_force(settings, &*self.clock)));
        self.fleet.store(Arc::clone(&fleet));
        self.generations.send_replace(fleet);
        Ok(())
    }

    /// Shows when the certificates in force stop working.
    pub(super) fn tell_expiries(&self, fleet: &Fleet) {
        let listeners = self.certificates.expiries(fleet.settings());
        self.telemetry.metrics().certificates(listeners.into_iter().chain(fleet.expiries()).collect());
    }

    /// Shows what became of reading the configuration again.
    pub(super) fn read_again(&self, last: &LastReload) {
        let (errors, notes) = match &last.result {
            Ok(report) => (Vec::new(), notes(report)),
            Err(report) => (report.0.iter().map(ToString::to_string).collect(), Vec::new()),
        };
        let (read_at, applied_at, trigger) = (last.at, last.applied_at, last.trigger.as_str());
        let hash = self.configuration.load().hash.clone();
        self.configuration.store(Arc::new(ConfigStatus { hash, applied_at, read_at, trigger, errors, notes }));
    }

    pub(super) fn reload(&self) -> ReloadOutcome {
        let reload = self.reload.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match reload {
            Some(reload) => reload(),
            None => ReloadOutcome::Refused { errors: vec!["this headway was started without a file".to_owned()] },
        }
    }
}

/// What is known of settings that were just put in force.
pub(super) fn in_force(settings: &Settings, clock: &dyn Clock) -> ConfigStatus {
    let (hash, now) = (config::hash(settings), clock.wall());
    let trigger = Trigger::Start.as_str();
    ConfigStatus { hash, applied_at: now, read_at: now, trigger, errors: Vec::new(), notes: Vec::new() }
}

/// What a person should know about an applied reload.
fn notes(report: &ReloadReport) -> Vec<String> {
    let restart = report.needs_restart.iter().map(|key| format!("`{key}` needs a restart"));
    report.warnings.iter().map(ToString::to_string).chain(restart).collect()
}

impl Core {
    /// Ends what still runs, with a last word to each client and a record of each exchange.
    pub(super) async fn end_now(&self) {
        self.lifecycle.cut();
        let _ = tokio::time::timeout(LAST_WORDS, self.lifecycle.idle()).await;
        self.close().await;
    }

    /// Whether requests can be served, and if not why, in one line.
    pub(super) fn status(&self) -> String {
        let readiness = self.fleet.load().readiness();
        match readiness.reasons.first() {
            _ if self.lifecycle.is_draining() => format!("draining, {} exchanges under way", self.lifecycle.active()),
            Some(why) if !readiness.ready => format!("not ready: {why}"),
            Some(why) => format!("ready, but {why}"),
            None => "ready".to_owned(),
        }
    }

    /// Writes what the logs still hold.
    pub(super) async fn close(&self) {
        tracing::info!(cut_off = self.lifecycle.active(), "ended");
        let telemetry = Arc::clone(&self.telemetry);
        let _ = tokio::task::spawn_blocking(move || telemetry.close(LOG_PATIENCE)).await;
    }
}

pub(super) fn services(core: &Arc<Core>) -> Services {
    let (fleet, reload, drain) = (Arc::clone(&core.fleet), Arc::clone(core), Arc::clone(core));
    let (configuration, used) = (Arc::clone(core), Arc::clone(core));
    Services {
        fleet: Arc::new(move || fleet.load_full()),
        telemetry: Arc::clone(&core.telemetry),
        clock: Arc::clone(&core.clock),
        configuration: Arc::new(move || configuration.configuration.load_full()),
        reload: Arc::new(move || reload.reload()),
        drain: Arc::new(move || {
            drain.lifecycle.start_draining();
            drain.drain.notify_one();
        }),
        resources: Arc::new(move || resources(&used)),
        draining: core.lifecycle.draining(),
    }
}

pub(super) fn reloader(args: &ServeArgs, loaded: Loaded, core: &Arc<Core>) -> Arc<Reloader> {
    let (wall, applying) = (Arc::clone(&core.clock), Arc::clone(core));
    let reloader =
        Arc::new(Reloader::new(&args.config, loaded, move || wall.wall(), move |settings| applying.apply(settings)));
    let (weak, core_of) = (Arc::downgrade(&reloader), Arc::downgrade(core));
    reloader.on_result(move |last| {
        let Some(core) = core_of.upgrade() else { return };
        core.read_again(last);
        if last.ok() {
            core.telemetry.metrics().reload_succeeded(last.at);
        } else {
            core.telemetry.metrics().reload_failed();
        }
    });
    let reload = move || match weak.upgrade().map(|reloader| reloader.reload(Trigger::Request)) {
        Some(Ok(report)) => ReloadOutcome::Applied { notes: notes(&report) },
        Some(Err(report)) => ReloadOutcome::Refused { errors: report.0.iter().map(ToString::to_string).collect() },
        None => ReloadOutcome::Refused { errors: vec!["headway is ending".to_owned()] },
    };
    core.read_again(&reloader.last());
    *core.reload.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(reload));
    reloader
}

fn resources(core: &Core) -> Vec<ResourceUse> {
    let pressures = core.ladder.pressures(&core.fleet.load().settings().limits);
    let shown =
        |one: Pressure| ResourceUse { resource: one.resource, used: one.used, most: one.most, high: one.is_high() };
    pressures.into_iter().map(shown).collect()
}
