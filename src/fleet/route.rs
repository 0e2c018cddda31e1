//! One route, alive: what it has seen of each of its backends.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::windows::Windows;
use crate::config::settings::Route;
use crate::measure::exchange::{Attempt, ExchangeRecord};
use crate::measure::objective::Latency;
use crate::measure::outcome::Outcome;
use crate::route::decision::Reason;
use crate::route::model::RouteModel;
use crate::route::policy::PolicyState;
use crate::route::snapshot::{Observed, RouteSlot};
use crate::units::Quantile;

/// One route, in one configuration generation.
#[derive(Debug)]
pub struct LiveRoute {
    settings: Arc<Route>,
    pub(super) pairs: Vec<Arc<Pair>>,
    pub(super) counts: Arc<RouteCounts>,
}

/// What a route counts; shared by the generations.
#[derive(Debug)]
pub(super) struct RouteCounts {
    pub(super) active: AtomicU32,
    pub(super) retrying: AtomicU32,
    /// The route's place in what backends have learned.
    pub(super) slot: RouteSlot,
    model: Mutex<RouteModel>,
    pub(super) policy: Mutex<PolicyState>,
}

impl RouteCounts {
    pub(super) fn new(seed: u64, slot: RouteSlot) -> Self {
        Self {
            active: AtomicU32::new(0),
            retrying: AtomicU32::new(0),
            slot,
            model: Mutex::default(),
            policy: Mutex::new(PolicyState::seeded(seed)),
        }
    }

    pub(super) fn model(&self) -> MutexGuard<'_, RouteModel> {
        self.model.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One route at one backend: what routing knows of it.
#[derive(Debug)]
pub(super) struct Pair {
    /// The same in every generation that shares this pair.
    pub(super) backend: Arc<str>,
    pub(super) awaiting: AtomicU32,
    windows: Mutex<Windows>,
}

impl LiveRoute {
    pub(super) fn new(settings: Arc<Route>, pairs: Vec<Arc<Pair>>, counts: Arc<RouteCounts>) -> Self {
        Self { settings, pairs, counts }
    }

    /// Its name in metrics and logs.
    pub fn name(&self) -> &Arc<str> {
        &self.settings.name
    }

    /// Its settings in this generation.
    pub fn settings(&self) -> &Arc<Route> {
        &self.settings
    }

    /// Attempts in flight on it.
    pub fn active(&self) -> u32 {
        self.counts.active.load(Ordering::Relaxed)
    }

    /// Retries under way on it.
    pub fn retrying(&self) -> u32 {
        self.counts.retrying.load(Ordering::Relaxed)
    }

    /// What the rolling window of a backend (by its name) says about a latency now.
    pub fn observed(&self, backend: &str, latency: Latency, now: Instant) -> Option<Observed> {
        let pair = self.pair(backend)?;
        Some(pair.windows().observed(latency, &self.settings.objectives, now))
    }

    /// What the rolling window of a backend (by its name) says about a latency at a quantile now.
    pub fn observed_at(&self, backend: &str, latency: Latency, quantile: Quantile, now: Instant) -> Option<Observed> {
        Some(self.pair(backend)?.windows().at(latency, quantile, now))
    }

    /// Requests of this route at a backend (by its name) that await their first token.
    pub fn awaiting_first_token(&self, backend: &str) -> Option<u32> {
        Some(self.pair(backend)?.awaiting.load(Ordering::Relaxed))
    }

    /// Output tokens of an answer, on average.
    pub fn expected_output(&self) -> f64 {
        self.counts.model().output(None).mean
    }

    pub(super) fn pair(&self, backend: &str) -> Option<&Arc<Pair>> {
        self.pairs.iter().find(|pair| &*pair.backend == backend)
    }

    /// Learns from an exchange that ended here.
    pub(super) fn record(&self, record: &ExchangeRecord, now: Instant) {
        for attempt in &record.attempts {
            if let Some(pair) = self.pair(&attempt.backend) {
                pair.attempted(attempt, record.stream, now);
            }
        }
        if !record.measured() {
            return;
        }
        if let Some(pair) = record.backend().and_then(|name| self.pair(name)) {
            pair.completed(record, now);
        }
        self.learn(record);
    }

    fn learn(&self, record: &ExchangeRecord) {
        let mut model = self.counts.model();
        if let Some(tokens) = record.usage.output_tokens {
            model.answered(tokens);
        }
        if let Some(good) = record.verdicts.joint() {
            let feasible = record.decision.as_ref().is_some_and(|one| one.reason == Reason::CheapestWithinSlo.as_str());
            model.judged(good, feasible, &self.settings.objectives);
        }
    }
}

impl Pair {
    pub(super) fn new(backend: Arc<str>) -> Self {
        Self { backend, awaiting: AtomicU32::new(0), windows: Mutex::new(Windows::new()) }
    }

    pub(super) fn windows(&self) -> std::sync::MutexGuard<'_, Windows> {
        self.windows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The attempt's own first token; a wait that was cut short by its timer counts as at least that long.
    fn attempted(&self, attempt: &Attempt, stream: bool, now: Instant) {
        let cut = (attempt.outcome == Outcome::FirstTokenTimeout).then_some(attempt.duration);
        if let Some(value) = attempt.first_token.or(cut).filter(|_| stream) {
            self.windows().record(Latency::TimeToFirstToken, value, now);
        }
    }

    fn completed(&self, record: &ExchangeRecord, now: Instant) {
        let mut windows = self.windows();
        let latencies = &record.latencies;
        if let Some(value) = latencies.first_output.filter(|_| record.stream) {
            windows.record(Latency::TimeToFirstOutputToken, value, now);
        }
        if record.phases.backpressured {
            return;
        }
        if let Some(value) = latencies.inter_token {
            windows.record(Latency::InterToken, value, now);
        }
        let alone = record.attempts.len() == 1;
        let whole = latencies.end_to_end.filter(|_| alone).or(record.last_attempt().map(|last| last.duration));
        if let Some(value) = whole {
            windows.record(Latency::EndToEnd, value, now);
        }
    }
}
