//! What all connections of one simulator share.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::clock::Clock;
use crate::engine::Profile;
use crate::nim_simulator::faults::{Armed, Faults};
use crate::nim_simulator::metrics::Metrics;
use crate::nim_simulator::pace::Engine;
use crate::nim_simulator::request::Limits;
use crate::nim_simulator::truth::TruthLog;

/// Shared by all connections; alive as long as one of them is.
pub(super) struct State {
    pub(super) clock: Arc<dyn Clock>,
    pub(super) started: Instant,
    pub(super) warmup: Duration,
    pub(super) profile: Profile,
    pub(super) limits: Limits,
    pub(super) keep_alive: Option<Duration>,
    pub(super) engine: Engine,
    pub(super) faults: Mutex<Armed>,
    pub(super) truth: TruthLog,
    pub(super) metrics: Metrics,
    pub(super) counts: Counts,
}

/// Requests by how they ended.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) requests: AtomicU64,
    pub(super) in_flight: AtomicU64,
    pub(super) completed: AtomicU64,
    pub(super) aborted: AtomicU64,
    pub(super) rejected: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) faulted: AtomicU64,
    pub(super) connections: AtomicU64,
}

/// What a simulator has done and is doing.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct SimulatorStats {
    /// Connections accepted.
    pub connections: u64,
    /// Inference requests whose body was read.
    pub requests: u64,
    /// Requests that are being answered now.
    pub in_flight: u64,
    /// Requests answered to the end.
    pub completed: u64,
    /// Requests whose client left.
    pub aborted: u64,
    /// Requests with an error of their own: unknown model, bad JSON, too long.
    pub rejected: u64,
    /// Requests that met a full queue.
    pub refused: u64,
    /// Requests that a fault ended.
    pub faulted: u64,
    /// Requests in the engine's batch.
    pub running: usize,
    /// Requests in the engine's queue.
    pub waiting: usize,
    /// The reserved share of the key/value cache.
    pub kv_ratio: f64,
    /// Sequences that lost their place for lack of memory.
    pub preemptions: u64,
    /// Time that the engine has spent in steps.
    pub busy: Duration,
    /// How many times as long every step takes as its profile says.
    pub slow: f64,
}

impl State {
    pub(super) fn is_ready(&self) -> bool {
        self.clock.now().saturating_duration_since(self.started) >= self.warmup
    }

    pub(super) fn armed(&self) -> MutexGuard<'_, Armed> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_faults(&self, faults: Faults) {
        self.engine.set_slow(faults.slow());
        self.armed().set(faults);
    }

    pub(super) fn stats(&self) -> SimulatorStats {
        let load = self.engine.load();
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        SimulatorStats {
            connections: count(&self.counts.connections),
            requests: count(&self.counts.requests),
            in_flight: count(&self.counts.in_flight),
            completed: count(&self.counts.completed),
            aborted: count(&self.counts.aborted),
            rejected: count(&self.counts.rejected),
            refused: count(&self.counts.refused),
            faulted: count(&self.counts.faulted),
            running: load.running,
            waiting: load.waiting,
            kv_ratio: load.kv_ratio,
            preemptions: load.preemptions,
            busy: load.busy,
            slow: load.slow,
        }
    }
}
