//! Runs the virtual-time engine in real time.
//!
//! A step that ends while the task sleeps ends at its own virtual time, not when the task wakes: timer lateness makes
//! a token late by up to a millisecond, but never the next step.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc};

use crate::clock::Clock;
use crate::engine::{Event, Model, Refused, Request};
use crate::nim_simulator::request::Job;

/// The engine of one simulator, shared by its requests.
pub(super) struct Engine {
    inner: Mutex<Inner>,
    changed: Notify,
    clock: Arc<dyn Clock>,
    start: Instant,
    speed: f64,
}

struct Inner {
    model: Model,
    /// Who waits for tokens: bounded by the model's queue and batch.
    listeners: HashMap<u64, Listener>,
    events: Vec<Event>,
    next_id: u64,
}

struct Listener {
    choice: usize,
    tokens: mpsc::Sender<usize>,
}

/// A request that the engine took.
pub(super) struct Submitted {
    /// Names in the engine, one for each choice.
    pub(super) ids: Vec<u64>,
    /// The choice of each token, as it is made.
    pub(super) tokens: mpsc::Receiver<usize>,
    /// Prompt tokens that were cached.
    pub(super) cached: u32,
}

/// How full the engine is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Load {
    pub(super) running: usize,
    pub(super) waiting: usize,
    pub(super) kv_ratio: f64,
    pub(super) preemptions: u64,
    /// Real time spent in steps since the start.
    pub(super) busy: Duration,
    pub(super) slow: f64,
}

impl Engine {
    pub(super) fn new(model: Model, clock: Arc<dyn Clock>, speed: f64) -> Self {
        let inner = Inner { model, listeners: HashMap::new(), events: Vec::new(), next_id: 0 };
        Self { inner: Mutex::new(inner), changed: Notify::new(), start: clock.now(), clock, speed }
    }

    /// Hands every choice of a job to the engine, or none.
    pub(super) fn submit(&self, job: &Job) -> Result<Submitted, Refused> {
        // One place for each token of the plan: sending never waits, and never finds the channel full.
        let (sender, tokens) = mpsc::channel(job.total_tokens().max(1) as usize);
        let now = self.now();
        let mut inner = self.lock();
        inner.advance(now);
        let mut submitted = Submitted { ids: Vec::with_capacity(job.choices.len()), tokens, cached: 0 };
        for (choice, plan) in job.choices.iter().enumerate() {
            let id = inner.next_id;
            inner.next_id += 1;
            let blocks = job.blocks.clone();
            let request = Request { id, input_tokens: job.prompt_tokens, output_tokens: plan.tokens, blocks };
            match inner.model.arrive(now, &request) {
                Ok(cached) if choice == 0 => submitted.cached = cached,
                Ok(_) => {}
                Err(refused) => {
                    inner.abort(&submitted.ids);
                    return Err(refused);
                }
            }
            submitted.ids.push(id);
            inner.listeners.insert(id, Listener { choice, tokens: sender.clone() });
        }
        drop(inner);
        self.changed.notify_one();
        Ok(submitted)
    }

    /// Forgets requests; those that are done already do not matter.
    pub(super) fn abort(&self, ids: &[u64]) {
        if !ids.is_empty() {
            self.lock().abort(ids);
        }
    }

    pub(super) fn set_slow(&self, factor: f64) {
        self.lock().model.set_slow(factor);
    }

    pub(super) fn load(&self) -> Load {
        let inner = self.lock();
        Load {
            running: inner.model.running(),
            waiting: inner.model.waiting(),
            kv_ratio: inner.model.kv_ratio(),
            preemptions: inner.model.preemptions(),
            busy: inner.model.busy(self.now()).div_f64(self.speed),
            slow: inner.model.slow(),
        }
    }

    /// Wakes at the end of every step; never returns.
    pub(super) async fn run(&self) {
        loop {
            let next = {
                let mut inner = self.lock();
                inner.advance(self.now());
                inner.model.next_event_at()
            };
            match next {
                None => self.changed.notified().await,
                Some(at) => tokio::time::sleep_until(self.real(at).into()).await,
            }
        }
    }

    fn now(&self) -> Duration {
        self.clock.now().saturating_duration_since(self.start).mul_f64(self.speed)
    }

    fn real(&self, at: Duration) -> Instant {
        self.start + at.div_f64(self.speed)
    }

    /// A panic elsewhere leaves the engine as it was after a whole change.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn advance(&mut self, now: Duration) {
        let mut events = std::mem::take(&mut self.events);
        self.model.advance(now, &mut events);
        for event in events.drain(..) {
            match event {
                // A listener that is gone is about to abort.
                Event::Token { id, .. } => {
                    let _ = self.listeners.get(&id).map(|listener| listener.tokens.try_send(listener.choice));
                }
                Event::Done { id, .. } => {
                    self.listeners.remove(&id);
                }
            }
        }
        self.events = events;
    }

    fn abort(&mut self, ids: &[u64]) {
        for id in ids {
            self.model.abort(*id);
            self.listeners.remove(id);
        }
    }
}
