//! One route, alive: what it has seen of each of its backends.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::backend::LiveBackend;
use super::windows::Windows;
use crate::config::settings::Route;
use crate::measure::exchange::{Attempt, ExchangeRecord};
use crate::measure::objective::{Latency, Objectives};
use crate::measure::outcome::Outcome;
use crate::route::policy::PolicyState;
use crate::route::snapshot::{Candidate, Observed, Outlook};
use crate::units::Quantile;

/// How long a quantile may be read again before it is computed anew.
const CACHED: Duration = Duration::from_millis(100);
/// How fast averages follow: about twenty samples.
const GAIN: f64 = 0.05;

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
    pub(super) output_tokens: Average,
    pub(super) policy: Mutex<PolicyState>,
}

impl RouteCounts {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            active: AtomicU32::new(0),
            retrying: AtomicU32::new(0),
            output_tokens: Average::default(),
            policy: Mutex::new(PolicyState::seeded(seed)),
        }
    }
}

/// One route at one backend: what routing knows of it.
#[derive(Debug)]
pub(super) struct Pair {
    /// The same in every generation that shares this pair.
    pub(super) backend: Arc<str>,
    base: Instant,
    pub(super) awaiting: AtomicU32,
    pub(super) exploring: AtomicU32,
    /// Milliseconds from `base` to the latest first token, plus one; 0 is never.
    last_observed: AtomicU64,
    usual_in_flight: Average,
    windows: Mutex<Windows>,
    cache: Mutex<Cache>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Cache {
    at: Option<Instant>,
    ttft: Observed,
    itl: Observed,
    e2e: Observed,
}

/// A moving average that many threads may feed.
#[derive(Debug)]
pub(super) struct Average(AtomicU64);

impl Default for Average {
    fn default() -> Self {
        Self(AtomicU64::new(f64::NAN.to_bits()))
    }
}

impl Average {
    /// The average; `None` before the first sample.
    pub(super) fn value(&self) -> Option<f64> {
        Some(f64::from_bits(self.0.load(Ordering::Relaxed))).filter(|value| !value.is_nan())
    }

    pub(super) fn learn(&self, sample: f64) {
        let step = |bits: u64| {
            let before = f64::from_bits(bits);
            let after = if before.is_nan() { sample } else { before + GAIN * (sample - before) };
            Some(after.to_bits())
        };
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, step);
    }
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
    pub fn expected_output(&self) -> Option<f64> {
        self.counts.output_tokens.value()
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
        if let Some(tokens) = record.usage.output_tokens {
            #[allow(clippy::cast_precision_loss, reason = "token counts are far below 2^52")]
            self.counts.output_tokens.learn(tokens as f64);
        }
    }
}

impl Pair {
    pub(super) fn new(backend: Arc<str>, now: Instant) -> Self {
        Self {
            backend,
            base: now,
            awaiting: AtomicU32::new(0),
            exploring: AtomicU32::new(0),
            last_observed: AtomicU64::new(0),
            usual_in_flight: Average::default(),
            windows: Mutex::new(Windows::new()),
            cache: Mutex::default(),
        }
    }

    pub(super) fn windows(&self) -> std::sync::MutexGuard<'_, Windows> {
        self.windows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A first token came from a request that was sent while so many others were in flight.
    pub(super) fn answered(&self, others: u32, now: Instant) {
        let since = u64::try_from(now.saturating_duration_since(self.base).as_millis()).unwrap_or(u64::MAX);
        self.last_observed.store(since.saturating_add(1), Ordering::Relaxed);
        self.usual_in_flight.learn(f64::from(others));
    }

    fn last_observed(&self, now: Instant) -> Option<Duration> {
        let since = self.last_observed.load(Ordering::Relaxed).checked_sub(1)?;
        Some(now.saturating_duration_since(self.base + Duration::from_millis(since)))
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

    /// What routing may know of this pair at this instant.
    pub(super) fn candidate(&self, backend: &LiveBackend, weight: u32, now: Instant) -> Candidate {
        let seen = *self.cache();
        let settings = backend.settings();
        Candidate {
            backend: backend.index(),
            weight,
            in_flight: backend.in_flight(),
            max_in_flight: settings.max_in_flight,
            price: settings.price,
            ttft: seen.ttft,
            itl: seen.itl,
            e2e: seen.e2e,
            awaiting_first_token: self.awaiting.load(Ordering::Relaxed),
            usual_in_flight: self.usual_in_flight.value().unwrap_or_default(),
            exploring: self.exploring.load(Ordering::Relaxed),
            last_observed: self.last_observed(now),
            outlook: Outlook::default(),
        }
    }

    /// Reads the windows anew when the quantiles have grown too old. Apart from the critical section of dispatching,
    /// which reads the cache only; whoever comes meanwhile goes on with the old ones.
    pub(super) fn refresh(&self, objectives: &Objectives, now: Instant) {
        {
            let mut cache = self.cache();
            if cache.at.is_some_and(|at| now.saturating_duration_since(at) < CACHED) {
                return;
            }
            cache.at = Some(now);
        }
        let mut windows = self.windows();
        let mut observed = |latency| windows.observed(latency, objectives, now);
        let ttft = observed(Latency::TimeToFirstToken);
        let itl = observed(Latency::InterToken);
        let e2e = observed(Latency::EndToEnd);
        drop(windows);
        *self.cache() = Cache { at: Some(now), ttft, itl, e2e };
    }

    fn cache(&self) -> std::sync::MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
