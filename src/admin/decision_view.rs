//! How the API shows a decision: what was expected of whom, why one was chosen, and what happened then.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde_json::value::RawValue;

use super::Services;
use super::view::{self, Name, millis};
use super::waterfall::{self, Stretch};
use crate::fleet::{Decided, DecisionRecord, Explanation, Happened};
use crate::measure::exchange::{BackendLoad, ExchangeRecord};
use crate::route::decision::{Assessment, TurnedAway};
use crate::route::snapshot::{BackendIndex, Forecast};
use crate::telemetry::time::rfc3339;

/// One of `/api/v1/decisions`.
#[derive(Debug, Serialize)]
pub(super) struct DecisionView {
    number: u64,
    at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<Name>,
    route: Name,
    /// The group that the request was assigned to, and why another one was chosen.
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<Name>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fell_over: Option<&'static str>,
    input_tokens: u64,
    #[serde(flatten)]
    decided: DecidedView,
    /// Left out where decisions are only listed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    candidates: Vec<CandidateView>,
    /// How busy the chosen backend was; absent where nobody tells.
    #[serde(skip_serializing_if = "Option::is_none")]
    load: Option<LoadView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    shadow: Option<DecidedView>,
    /// Absent while the request is under way.
    #[serde(skip_serializing_if = "Option::is_none")]
    happened: Option<HappenedView>,
    /// The exchange in the access log's words, where it was asked for by its request id and is still remembered.
    #[serde(skip_serializing_if = "Option::is_none")]
    exchange: Option<Box<RawValue>>,
    /// Where that exchange's time went, in order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    waterfall: Vec<Stretch>,
}

/// `/api/v1/explain`
#[derive(Debug, Serialize)]
pub(super) struct ExplanationView {
    route: Name,
    input_tokens: u64,
    #[serde(flatten)]
    decided: DecidedView,
    /// Why there is nothing to choose from.
    #[serde(skip_serializing_if = "Option::is_none")]
    refused: Option<String>,
    candidates: Vec<CandidateView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    shadow: Option<DecidedView>,
}

#[derive(Debug, Serialize)]
struct DecidedView {
    #[serde(skip_serializing_if = "Option::is_none")]
    backend: Option<Name>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    /// `shed`, or `wait` where the route has a queue.
    #[serde(skip_serializing_if = "Option::is_none")]
    turned_away: Option<&'static str>,
    /// `doomed`, or `makes_room` for others where room is scarce.
    #[serde(skip_serializing_if = "Option::is_none")]
    cause: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_ms: Option<f64>,
}

#[derive(Debug, Serialize)]
struct CandidateView {
    backend: Name,
    /// `keeps`, `may_keep` or `misses` the objectives; `full`.
    verdict: &'static str,
    in_flight: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    ttft: Option<PredictedView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    itl: Option<PredictedView>,
    e2e: PredictedView,
    /// The share of the tightest objective that its bound leaves; below 0 when it is missed.
    headroom: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    price: Option<f64>,
    /// Estimated prompt tokens in its prefix cache.
    prefix_tokens: f64,
}

#[derive(Debug, Serialize)]
pub(super) struct PredictedView {
    expected_ms: f64,
    bound_ms: f64,
}

#[derive(Debug, Serialize)]
struct LoadView {
    #[serde(skip_serializing_if = "Option::is_none")]
    gpu_utilization: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kv_cache_ratio: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    running: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    waiting: Option<f64>,
}

#[derive(Debug, Serialize)]
struct HappenedView {
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    ttft_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    itl_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    e2e_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kept: Option<bool>,
}

type Candidates = [(Arc<str>, Assessment)];

impl DecisionView {
    /// With everything that is known of it.
    pub(super) fn new(decision: &DecisionRecord, services: &Services, exchange: Option<&ExchangeRecord>) -> Self {
        Self {
            candidates: decision.candidates.iter().map(CandidateView::new).collect(),
            exchange: exchange.and_then(view::request),
            waterfall: exchange.map(waterfall::of).unwrap_or_default(),
            ..Self::row(decision, services)
        }
    }

    /// As one row of a list.
    pub(super) fn row(decision: &DecisionRecord, services: &Services) -> Self {
        let ago = services.clock.now().saturating_duration_since(decision.at);
        let candidates = &*decision.candidates;
        Self {
            number: decision.number,
            at: services.clock.wall().checked_sub(ago).map(rfc3339).unwrap_or_default(),
            request_id: decision.request_id.as_ref().map(Name::new),
            route: Name::new(&decision.route),
            group: decision.group.as_ref().map(|(group, _)| Name::new(group)),
            fell_over: decision.group.as_ref().and_then(|(_, why)| Some((*why)?.as_str())),
            input_tokens: decision.input_tokens,
            decided: DecidedView::new(&decision.verdict, candidates),
            candidates: Vec::new(),
            load: LoadView::new(decision.load),
            shadow: decision.shadow.map(|shadow| DecidedView::new(&shadow, candidates)),
            happened: decision.happened.as_ref().map(HappenedView::new),
            exchange: None,
            waterfall: Vec::new(),
        }
    }
}

impl ExplanationView {
    pub(super) fn new(explanation: &Explanation, input_tokens: u64) -> Self {
        let candidates = &*explanation.candidates;
        Self {
            route: Name::new(&explanation.route),
            input_tokens,
            decided: DecidedView::new(&explanation.verdict, candidates),
            refused: explanation.refused.map(|reason| reason.to_string()),
            candidates: candidates.iter().map(CandidateView::new).collect(),
            shadow: explanation.shadow.map(|shadow| DecidedView::new(&shadow, candidates)),
        }
    }
}

impl DecidedView {
    fn new(decided: &Decided, candidates: &Candidates) -> Self {
        let named = |backend: BackendIndex| candidates.iter().find(|(_, one)| one.backend == backend);
        let (turned_away, cause, retry_after) = match decided.turned_away {
            None => (None, None, None),
            Some(TurnedAway::Shed { retry_after, cause }) => (Some("shed"), Some(cause.as_str()), Some(retry_after)),
            Some(TurnedAway::Wait { retry_after, cause }) => (Some("wait"), Some(cause.as_str()), Some(retry_after)),
        };
        Self {
            backend: decided.chosen.and_then(|(backend, _)| named(backend)).map(|(name, _)| Name::new(name)),
            reason: decided.chosen.map(|(_, reason)| reason.as_str()),
            turned_away,
            cause,
            retry_after_ms: retry_after.map(millis),
        }
    }
}

impl CandidateView {
    fn new((name, one): &(Arc<str>, Assessment)) -> Self {
        Self {
            backend: Name::new(name),
            verdict: one.verdict.as_str(),
            in_flight: one.in_flight,
            ttft: one.ttft.map(PredictedView::new),
            itl: one.itl.map(PredictedView::new),
            e2e: PredictedView::new(one.e2e),
            headroom: rounded(one.headroom()),
            price: one.price,
            prefix_tokens: one.prefix_tokens.round(),
        }
    }
}

impl PredictedView {
    pub(super) fn new(forecast: Forecast) -> Self {
        Self { expected_ms: millis(forecast.expected()), bound_ms: millis(forecast.bound()) }
    }
}

impl LoadView {
    fn new(load: BackendLoad) -> Option<Self> {
        let BackendLoad { gpu_utilization, kv_cache_ratio, running, waiting } = load;
        let share = |share: Option<f64>| share.map(rounded);
        let (gpu_utilization, kv_cache_ratio) = (share(gpu_utilization), share(kv_cache_ratio));
        (!load.is_unknown()).then_some(Self { gpu_utilization, kv_cache_ratio, running, waiting })
    }
}

impl HappenedView {
    fn new(happened: &Happened) -> Self {
        let millis = |value: Option<Duration>| value.map(millis);
        Self {
            outcome: happened.outcome.as_str(),
            ttft_ms: millis(happened.ttft),
            itl_ms: millis(happened.itl),
            e2e_ms: millis(happened.e2e),
            kept: happened.kept,
        }
    }
}

/// To a tenth of a thousandth.
fn rounded(share: f64) -> f64 {
    (share * 1e4).round() / 1e4
}
