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

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;
    use crate::clock::ManualClock;

    /// Answers for the GPUs it has.
    struct Having(&'static [&'static str]);

    impl GpuSource for Having {
        fn name(&self) -> &'static str {
            "test"
        }

        fn read(&mut self, gpu: &GpuId) -> Result<NamedReading, String> {
            if self.0.contains(&&*gpu.0) { Ok(NamedReading::default()) } else { Err("gone".to_owned()) }
        }
    }

    /// An asker whose source can be opened or not, and how often that was tried.
    fn asker(clock: &Arc<ManualClock>, opens: bool) -> (Asker, Arc<AtomicUsize>) {
        let tries = Arc::<AtomicUsize>::default();
        let counted = Arc::clone(&tries);
        let open: OpenGpuSource = Arc::new(move || {
            counted.fetch_add(1, Ordering::Relaxed);
            let source: Box<dyn GpuSource> = Box::new(Having(&["0"]));
            if opens { Ok(source) } else { Err("no driver".to_owned()) }
        });
        let clock: Arc<dyn Clock> = Arc::<ManualClock>::clone(clock);
        let (told, problems) = (None, Vec::new());
        (Asker { open, clock, source: None, failed: None, silent: None, told, problems }, tries)
    }

    #[test]
    fn a_driver_that_is_not_there_is_looked_for_again_now_and_then() {
        let clock = Arc::new(ManualClock::new());
        let (mut asker, tries) = asker(&clock, false);
        for (seconds, expected) in [(0, 1), (1, 1), (28, 1), (1, 2), (29, 2), (1, 3)] {
            clock.advance(Duration::from_secs(seconds));
            asker.ensure_open();
            assert_eq!(tries.load(Ordering::Relaxed), expected, "{seconds}");
            assert!(asker.source.is_none() && asker.failed.as_ref().is_some_and(|(_, why)| &**why == "no driver"));
        }
    }

    #[test]
    fn a_source_whose_gpus_are_all_silent_for_long_is_opened_anew() {
        let clock = Arc::new(ManualClock::new());
        let (mut asker, tries) = asker(&clock, true);
        asker.ensure_open();
        for (seconds, answered, open) in
            [(0, false, true), (29, false, true), (1, true, true), (1, false, true), (30, false, false)]
        {
            clock.advance(Duration::from_secs(seconds));
            asker.judge(answered);
            assert_eq!(asker.source.is_some(), open, "{seconds} {answered}");
        }
        asker.ensure_open();
        assert!(asker.source.is_some() && tries.load(Ordering::Relaxed) == 2);
    }

    #[test]
    fn each_gpu_has_its_own_problem_and_loses_it() {
        let (mut problems, gpu) = (Vec::new(), GpuId("1".into()));
        let asked = ask(&mut Having(&["0"]), &gpu, &mut problems);
        assert_eq!((asked.problem.as_deref(), &*problems), (Some("gone"), std::slice::from_ref(&gpu)));
        ask(&mut Having(&["0"]), &gpu, &mut problems);
        assert_eq!(problems.len(), 1);
        let asked = ask(&mut Having(&["0", "1"]), &gpu, &mut problems);
        assert_eq!((asked.problem, problems.len()), (None, 0));
    }
}
