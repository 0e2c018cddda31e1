//! Keeps one thread asking about the GPUs of this host, as long as the configuration names some.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use super::thread::{Asking, Orders};
use super::{OpenGpuSource, nvml};
use crate::clock::Clock;
use crate::config::settings::{NvmlLibrary, Settings};
use crate::fleet::Fleet;

/// Between two looks at whether the thread gets on.
const WATCH: Duration = Duration::from_secs(1);
/// How long a driver may take for one round before the log is told, beside the interval.
const PATIENCE: Duration = Duration::from_secs(10);
/// Threads that may be stuck in drivers, one for each library that a reload named; beyond, GPUs are not watched.
const MOST_STUCK: usize = 4;

/// Watches the GPUs of the generation in force until `shutdown` turns true or a channel closes; `instead` stands for
/// the driver, whatever the configuration says.
pub async fn run(
    mut generations: watch::Receiver<Arc<Fleet>>,
    instead: Option<OpenGpuSource>,
    clock: Arc<dyn Clock>,
    mut shutdown: watch::Receiver<bool>,
) {
    let mut watcher = Watcher { instead, clock, thread: None, alive: Arc::default() };
    watcher.reconcile(&generations.borrow_and_update().clone());
    let mut tick = interval(WATCH);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !*shutdown.borrow() {
        tokio::select! {
            _ = tick.tick() => watcher.look(),
            changed = generations.changed() => {
                if changed.is_err() {
                    return;
                }
                watcher.reconcile(&generations.borrow_and_update().clone());
            }
            changed = shutdown.changed() => {
                if changed.is_err() {
                    return;
                }
            }
        }
    }
}

struct Watcher {
    instead: Option<OpenGpuSource>,
    clock: Arc<dyn Clock>,
    thread: Option<Thread>,
    /// One more for each thread that has not ended.
    alive: Arc<()>,
}

struct Thread {
    library: NvmlLibrary,
    asking: Asking,
    interval: Duration,
    /// The rounds it had made when it was last seen to get on, and when that was.
    rounds: (u64, Instant),
    /// Whether the log was told that it does not.
    stuck: bool,
}

impl Watcher {
    /// Starts, changes or ends the thread as a generation wants it.
    fn reconcile(&mut self, fleet: &Fleet) {
        let settings = fleet.settings();
        let library = &settings.telemetry.gpu.nvml;
        let open = self.instead.clone().or_else(|| nvml::opener(library));
        let orders = orders(fleet, settings);
        let Some(open) = open.filter(|_| !orders.wanted.is_empty()) else {
            self.thread = None;
            return;
        };
        if self.thread.as_ref().is_none_or(|thread| thread.library != *library) {
            self.thread = None;
            self.thread = self.start(open, library);
        }
        if let Some(thread) = &mut self.thread {
            thread.interval = orders.interval;
            thread.asking.order(orders);
        }
    }

    fn start(&self, open: OpenGpuSource, library: &NvmlLibrary) -> Option<Thread> {
        if Arc::strong_count(&self.alive) > MOST_STUCK {
            tracing::error!("too many GPU drivers do not answer; GPUs are not watched until a restart");
            return None;
        }
        let asking = Asking::start(open, Arc::clone(&self.clock), Arc::clone(&self.alive))
            .inspect_err(|error| tracing::error!(%error, "no thread can be had; GPUs are not watched"))
            .ok()?;
        let rounds = (0, self.clock.now());
        Some(Thread { library: library.clone(), asking, interval: Duration::ZERO, rounds, stuck: false })
    }

    /// Tells the log when the driver does not return, and when it does again.
    fn look(&mut self) {
        let now = self.clock.now();
        let Some(thread) = &mut self.thread else { return };
        let rounds = thread.asking.rounds();
        if rounds != thread.rounds.0 {
            thread.rounds = (rounds, now);
            if std::mem::take(&mut thread.stuck) {
                tracing::info!("the GPU driver answers again");
            }
        } else if !thread.stuck && now.saturating_duration_since(thread.rounds.1) > PATIENCE + thread.interval {
            thread.stuck = true;
            tracing::warn!("the GPU driver does not answer; nothing else waits for it");
        }
    }
}

/// The backends whose GPUs are this host's.
fn orders(fleet: &Fleet, settings: &Settings) -> Orders {
    let here = fleet.backends().iter().filter(|backend| {
        let settings = backend.settings();
        settings.dcgm.is_none() && !settings.gpus.is_empty()
    });
    let wanted = here.map(|backend| (Arc::downgrade(&backend.shared), backend.settings().gpus.clone())).collect();
    Orders { wanted, interval: settings.telemetry.gpu.interval }
}
