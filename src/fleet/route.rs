//! One route, alive: what it has seen of each of its backends.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::demand::Placing;
use super::shadow::ShadowCounts;
use super::split::RouteSplit;
use super::windows::Windows;
use crate::config::settings::{PrefixAffinity, Route};
use crate::measure::exchange::{Attempt, ExchangeRecord};
use crate::measure::group::GroupIndex;
use crate::measure::objective::Latency;
use crate::measure::outcome::Outcome;
use crate::route::admission::OnOverload;
use crate::route::hedge::HedgeBudget;
use crate::route::model::RouteModel;
use crate::route::policy::{PolicyKind, PolicyState};
use crate::route::snapshot::{Observed, RequestFacts, RouteSlot};

/// Prompt tokens of a usual request, before any was seen.
const USUAL_INPUT: f64 = 500.0;
/// How fast that follows: about twenty requests.
const INPUT_GAIN: f64 = 0.05;

/// One route, in one configuration generation.
#[derive(Debug)]
pub struct LiveRoute {
    settings: Arc<Route>,
    pub(super) pairs: Vec<Arc<Pair>>,
    pub(super) counts: Arc<RouteCounts>,
    pub(super) split: Option<RouteSplit>,
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
    pub(super) shadow_policy: Mutex<PolicyState>,
    /// What a shadow would have turned away.
    pub(super) shadow: ShadowCounts,
    /// Whether requests find a place.
    pub(super) placing: Placing,
    /// How many requests were sent twice lately, on a route that hedges.
    hedges: Mutex<Option<HedgeBudget>>,
    /// Prompt tokens of a usual request, as bits; written under the desk's lock only.
    usual_input: AtomicU64,
}

impl RouteCounts {
    pub(super) fn new(seed: u64, slot: RouteSlot) -> Self {
        Self {
            active: AtomicU32::new(0),
            retrying: AtomicU32::new(0),
            slot,
            model: Mutex::default(),
            policy: Mutex::new(PolicyState::seeded(seed)),
            shadow_policy: Mutex::new(PolicyState::seeded(!seed)),
            shadow: ShadowCounts::default(),
            placing: Placing::default(),
            hedges: Mutex::new(None),
            usual_input: AtomicU64::new(USUAL_INPUT.to_bits()),
        }
    }

    /// A request was dispatched.
    #[allow(clippy::cast_precision_loss, reason = "token counts are far below 2^52")]
    pub(super) fn saw(&self, facts: &RequestFacts) {
        let usual = f64::from_bits(self.usual_input.load(Ordering::Relaxed));
        let usual = usual + INPUT_GAIN * (facts.input_tokens as f64 - usual);
        self.usual_input.store(usual.to_bits(), Ordering::Relaxed);
    }

    /// A request of a route that hedges is sent for the first time.
    pub(super) fn may_hedge_later(&self, now: Instant) {
        self.hedges().get_or_insert_with(|| HedgeBudget::new(now)).requested(now);
    }

    pub(super) fn hedges(&self) -> MutexGuard<'_, Option<HedgeBudget>> {
        self.hedges.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn model(&self) -> MutexGuard<'_, RouteModel> {
        self.model.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One route at one backend: what was measured there, and what a shadow would have sent there.
#[derive(Debug)]
pub(super) struct Pair {
    /// The same in every generation that shares this pair.
    pub(super) backend: Arc<str>,
    pub(super) shadow: ShadowCounts,
    windows: Mutex<Windows>,
}

impl LiveRoute {
    pub(super) fn new(
        settings: Arc<Route>,
        pairs: Vec<Arc<Pair>>,
        counts: Arc<RouteCounts>,
        split: Option<RouteSplit>,
    ) -> Self {
        Self { settings, pairs, counts, split }
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

    /// Output tokens of an answer, on average.
    pub fn expected_output(&self) -> f64 {
        self.counts.model().output(None).mean
    }

    /// A request as this route usually has them.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "not negative, and far below 2^52")]
    pub fn usual_request(&self) -> RequestFacts {
        let input_tokens = f64::from_bits(self.counts.usual_input.load(Ordering::Relaxed)) as u64;
        RequestFacts { input_tokens, stream: true, objectives: self.settings.objectives, ..RequestFacts::default() }
    }

    /// What the route does with requests that no backend is expected to keep the promise for.
    pub fn on_overload(&self) -> OnOverload {
        self.settings.on_overload
    }

    pub(super) fn shadow_policy(&self) -> Option<PolicyKind> {
        self.settings.shadow_policy
    }

    /// Whether what backends have cached is looked at.
    pub fn follows_prefixes(&self) -> bool {
        self.settings.prefix_affinity == PrefixAffinity::Auto
    }

    pub(super) fn pair(&self, backend: &str) -> Option<&Arc<Pair>> {
        self.pairs.iter().find(|pair| &*pair.backend == backend)
    }

    /// Learns from an exchange that ended here.
    pub(super) fn record(&self, record: &ExchangeRecord, now: Instant) {
        for attempt in &record.attempts {
            if let Some(pair) = self.pair(&attempt.backend) {
                pair.attempted(attempt, record.stream && !record.phases.held_back, now);
            }
        }
        self.learn(record);
        if let Some(split) = &self.split {
            split.live.record(self.name(), record, now);
        }
        if !record.measured() || record.phases.held_back {
            return;
        }
        if let Some(pair) = record.backend().and_then(|name| self.pair(name)) {
            pair.completed(record, now);
        }
    }

    /// The route's own: how long answers are, and whether the promise is kept. What reached no backend says nothing of
    /// either.
    fn learn(&self, record: &ExchangeRecord) {
        let Some(decision) = record.decision.as_ref().filter(|_| !record.attempts.is_empty()) else { return };
        let mut model = self.counts.model();
        if let Some(tokens) = record.usage.output_tokens.filter(|_| record.measured()) {
            model.answered(tokens);
        }
        // What is held back on its way is late for reasons that no distance from the objectives helps against.
        // Nor does it help against a group that is tried out: its misses must not make the route careful with the others.
        let own = record.group.as_ref().is_none_or(|assigned| assigned.group == GroupIndex::BASELINE);
        let said = own && record.outcome != Outcome::Shed && !record.phases.held_back;
        if let Some(good) = record.verdicts.joint().filter(|_| said) {
            model.judged(good, decision.feasible, &self.settings.objectives);
        }
    }
}

impl Pair {
    pub(super) fn new(backend: Arc<str>) -> Self {
        Self { backend, shadow: ShadowCounts::default(), windows: Mutex::new(Windows::new()) }
    }

    pub(super) fn windows(&self) -> std::sync::MutexGuard<'_, Windows> {
        self.windows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The attempt's own first token; a wait that was cut short by its timer, or for another one's sake when it was
    /// late, counts as at least that long.
    fn attempted(&self, attempt: &Attempt, stream: bool, now: Instant) {
        let late = match attempt.outcome {
            Outcome::FirstTokenTimeout => true,
            Outcome::HedgeLost => !attempt.hedge,
            _ => false,
        };
        let cut = late.then_some(attempt.duration);
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
        if let Some(gaps) = record.gaps.as_deref().filter(|_| record.stream) {
            windows.record_gaps(gaps, now);
        }
        let alone = record.attempts.len() == 1;
        let whole = latencies.end_to_end.filter(|_| alone).or(record.last_attempt().map(|last| last.duration));
        if let Some(value) = whole {
            windows.record(Latency::EndToEnd, value, now);
        }
    }
}
