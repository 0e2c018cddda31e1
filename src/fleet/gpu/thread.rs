//! The thread that asks a GPU source, and whom nobody waits for.
//!
//! It ends when its orders do. Should a driver never return, the thread stays behind and everything else goes on: the
//! backends' reports grow too old, and neither a reload nor the end of the process waits for it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::super::backend::Shared;
use super::{Gpu, GpuReport, GpuSource, NamedReading, OpenGpuSource};
use crate::clock::Clock;
use crate::config::settings::GpuId;

/// Between two tries to open a source, and before one is given up that tells nothing any more: a driver may be
/// installed, or loaded anew, while headway runs.
const AGAIN: Duration = Duration::from_secs(30);
/// What was heard is believed for three intervals, and at least this long.
const BELIEVED: Duration = Duration::from_secs(5);

/// Whom to ask about, and how often.
#[derive(Debug, Clone, Default)]
pub(super) struct Orders {
    pub(super) wanted: Vec<(Weak<Shared>, Vec<GpuId>)>,
    pub(super) interval: Duration,
}

impl Orders {
    fn believed(&self) -> Duration {
        (self.interval * 3).max(BELIEVED)
    }
}

/// A thread at work. Dropping it tells the thread to end, and does not wait for that.
#[derive(Debug)]
pub(super) struct Asking {
    orders: Sender<Orders>,
    rounds: Arc<AtomicU64>,
}

impl Asking {
    /// Starts a thread; `alive` is held until it ends.
    pub(super) fn start(open: OpenGpuSource, clock: Arc<dyn Clock>, alive: Arc<()>) -> std::io::Result<Self> {
        let (orders, incoming) = channel();
        let rounds = Arc::<AtomicU64>::default();
        let counted = Arc::clone(&rounds);
        std::thread::Builder::new().name("gpu".to_owned()).spawn(move || {
            let mut asker =
                Asker { open, clock, source: None, failed: None, silent: None, told: None, problems: Vec::new() };
            asker.obey(&incoming, &counted);
            drop(alive);
        })?;
        Ok(Self { orders, rounds })
    }

    /// Changes whom the thread asks about, from its next round on.
    pub(super) fn order(&self, orders: Orders) {
        let _ = self.orders.send(orders);
    }

    /// How often it has asked about all.
    pub(super) fn rounds(&self) -> u64 {
        self.rounds.load(Ordering::Relaxed)
    }
}

/// What the thread holds.
struct Asker {
    open: OpenGpuSource,
    clock: Arc<dyn Clock>,
    source: Option<Box<dyn GpuSource>>,
    /// When opening it failed, and why.
    failed: Option<(Instant, Arc<str>)>,
    /// Since when no GPU has answered.
    silent: Option<Instant>,
    /// What the log was last told of the source: whether it can be asked.
    told: Option<bool>,
    /// GPUs that the log was told to be a problem.
    problems: Vec<GpuId>,
}

impl Asker {
    fn obey(&mut self, incoming: &Receiver<Orders>, rounds: &AtomicU64) {
        let Ok(mut orders) = incoming.recv() else { return };
        loop {
            self.ensure_open();
            self.round(&orders);
            rounds.fetch_add(1, Ordering::Relaxed);
            match incoming.recv_timeout(orders.interval) {
                Ok(latest) => orders = latest,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn ensure_open(&mut self) {
        let now = self.clock.now();
        let wait = self.failed.as_ref().is_some_and(|(at, _)| now.saturating_duration_since(*at) < AGAIN);
        if self.source.is_some() || wait {
            return;
        }
        match (self.open)() {
            Ok(source) => {
                if self.told != Some(true) {
                    tracing::info!(source = source.name(), "GPUs are watched");
                }
                (self.source, self.told) = (Some(source), Some(true));
            }
            Err(why) => {
                if self.told != Some(false) {
                    tracing::warn!(%why, "no GPU of this host can be watched");
                }
                (self.failed, self.told) = (Some((now, why.into())), Some(false));
            }
        }
    }

    /// Asks about every backend once.
    fn round(&mut self, orders: &Orders) {
        let Some(source) = &mut self.source else {
            let why = self.failed.as_ref().map(|(_, why)| Arc::clone(why)).unwrap_or_default();
            for backend in orders.wanted.iter().filter_map(|(backend, _)| backend.upgrade()) {
                backend.heard(GpuReport::silent(Arc::clone(&why), self.clock.now(), orders.believed()));
            }
            return;
        };
        self.problems.retain(|id| orders.wanted.iter().any(|(_, gpus)| gpus.contains(id)));
        let mut answered = false;
        for (backend, gpus) in &orders.wanted {
            let Some(backend) = backend.upgrade() else { continue };
            let gpus: Vec<_> = gpus.iter().map(|id| ask(&mut **source, id, &mut self.problems)).collect();
            answered |= gpus.iter().any(|gpu| gpu.problem.is_none());
            backend.heard(GpuReport::new(source.name(), gpus, self.clock.now(), orders.believed()));
        }
        self.judge(answered);
    }

    /// A driver that was loaded anew answers only those who open its library anew.
    fn judge(&mut self, answered: bool) {
        let now = self.clock.now();
        let since = *self.silent.get_or_insert(now);
        if answered {
            self.silent = None;
        } else if now.saturating_duration_since(since) >= AGAIN {
            (self.source, self.silent, self.failed) = (None, None, None);
        }
    }
}

/// Asks about one GPU, and tells the log when it ceases to answer or answers again.
fn ask(source: &mut dyn GpuSource, id: &GpuId, problems: &mut Vec<GpuId>) -> Gpu {
    let known = problems.iter().position(|one| one == id);
    let (NamedReading { model, reading }, problem) = match source.read(id) {
        Ok(read) => (read, None),
        Err(why) => (NamedReading::default(), Some(why)),
    };
    match (&problem, known) {
        (Some(why), None) => {
            tracing::warn!(gpu = %id.0, %why, "a GPU does not answer");
            problems.push(id.clone());
        }
        (None, Some(place)) => {
            tracing::info!(gpu = %id.0, "a GPU answers again");
            problems.swap_remove(place);
        }
        _ => {}
    }
    Gpu { id: Arc::clone(&id.0), model, reading, problem: problem.map(Arc::from) }
}
