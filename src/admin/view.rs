//! What the API shows, as types of its own: nothing that is not named here can leave by it.
//!
//! Times are milliseconds (`*_ms`) or seconds (`*_s`), points in time RFC 3339. What is not known is left out.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;

use super::Services;
use crate::fleet::{BackendState, DecisionRecord, Fleet, LiveBackend, LiveRoute};
use crate::measure::exchange::ExchangeRecord;
use crate::measure::objective::Latency;
use crate::route::decision::Assessment;
use crate::route::snapshot::{Forecast, Observed};
use crate::telemetry::access_log;
use crate::telemetry::live::{BackendFigures, LiveFigures, ObjectiveFigures};
use crate::telemetry::time::rfc3339;

/// The figures of the metrics page that only the fleet knows.
pub(super) fn live_figures(services: &Services, fleet: &Fleet) -> LiveFigures {
    let figures = |backend: &Arc<LiveBackend>| BackendFigures {
        name: Arc::clone(backend.name()),
        in_flight: backend.in_flight().into(),
        waiting_tokens: backend.waiting_tokens(),
        state: backend.state().as_str(),
    };
    LiveFigures {
        backends: fleet.backends().iter().map(figures).collect(),
        objectives: services.telemetry.metrics().objectives(services.clock.now()),
    }
}

/// A name that is shared with the fleet rather than copied.
#[derive(Debug)]
struct Name(Arc<str>);

impl Name {
    fn new(name: &Arc<str>) -> Self {
        Self(Arc::clone(name))
    }
}

impl Serialize for Name {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

/// `/readyz?verbose`
#[derive(Debug, Serialize)]
pub(super) struct Probe {
    pub(super) ready: bool,
    pub(super) draining: bool,
    pub(super) reasons: Vec<String>,
}

/// One of `/api/v1/backends`.
#[derive(Debug, Serialize)]
pub(super) struct BackendView {
    name: Name,
    url: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    profile: Option<Name>,
    state: &'static str,
    draining: bool,
    in_flight: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_in_flight: Option<u32>,
    waiting_tokens: u64,
    output_tokens: u64,
    consecutive_faults: u32,
    addresses: Vec<String>,
    /// As discovered.
    models: Vec<ModelView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_check: Option<CheckView>,
}

#[derive(Debug, Serialize)]
struct ModelView {
    id: Name,
    #[serde(skip_serializing_if = "Option::is_none")]
    context_length: Option<u64>,
}

#[derive(Debug, Serialize)]
struct CheckView {
    seconds_ago: f64,
    result: String,
}

impl BackendView {
    pub(super) fn new(backend: &LiveBackend, now: Instant) -> Self {
        let settings = backend.settings();
        let scheme = if settings.url.https { "https" } else { "http" };
        let discovered = backend.discovered();
        let models = discovered.models.iter();
        let state = backend.state();
        Self {
            name: Name::new(backend.name()),
            url: format!("{scheme}://{}{}", settings.url.authority(), settings.url.base_path),
            profile: settings.profile.as_ref().map(Name::new),
            state: state.as_str(),
            draining: state == BackendState::Draining,
            in_flight: backend.in_flight(),
            max_in_flight: settings.max_in_flight,
            waiting_tokens: backend.waiting_tokens(),
            output_tokens: backend.output_tokens(),
            consecutive_faults: backend.ejection().1,
            addresses: backend.endpoints().iter().map(|endpoint| endpoint.address().to_string()).collect(),
            models: models
                .map(|model| ModelView { id: Name::new(&model.id), context_length: model.context_length })
                .collect(),
            last_check: backend.last_check().map(|check| CheckView {
                seconds_ago: now.saturating_duration_since(check.at).as_secs_f64(),
                result: check.outcome.describe(),
            }),
        }
    }
}

/// One of `/api/v1/routes`.
#[derive(Debug, Serialize)]
pub(super) struct RouteView {
    name: Name,
    policy: &'static str,
    active: u32,
    window_s: f64,
    /// By latency, and `joint`.
    objectives: Vec<ObjectiveView>,
    backends: Vec<MemberView>,
}

#[derive(Debug, Serialize)]
struct ObjectiveView {
    latency: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    quantile: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    threshold_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    attainment: Option<f64>,
    /// By the length of the window.
    burn_rate: serde_json::Map<String, serde_json::Value>,
}

/// A backend as a route sees it.
#[derive(Debug, Serialize)]
struct MemberView {
    backend: Name,
    weight: u32,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    ttft: Option<ObservedView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    itl: Option<ObservedView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    e2e: Option<ObservedView>,
}

/// What a rolling window says at the objective's quantile.
#[derive(Debug, Serialize)]
struct ObservedView {
    samples: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    estimate_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bound_ms: Option<f64>,
}

impl RouteView {
    pub(super) fn new(route: &LiveRoute, fleet: &Fleet, figures: &[ObjectiveFigures], now: Instant) -> Self {
        let settings = route.settings();
        let own = figures.iter().filter(|figures| figures.route == settings.name);
        let member = |&(index, weight): &(usize, u32)| {
            let backend = fleet.backends().get(index)?;
            let observed = |latency| route.observed(backend.name(), latency, now).map(ObservedView::new);
            Some(MemberView {
                backend: Name::new(backend.name()),
                weight,
                state: backend.state().as_str(),
                ttft: observed(Latency::TimeToFirstToken),
                itl: observed(Latency::InterToken),
                e2e: observed(Latency::EndToEnd),
            })
        };
        Self {
            name: Name::new(route.name()),
            policy: settings.policy.as_str(),
            active: route.active(),
            window_s: settings.window.as_secs_f64(),
            objectives: own.map(|figures| ObjectiveView::new(figures, route)).collect(),
            backends: settings.backends.iter().filter_map(member).collect(),
        }
    }
}

impl ObjectiveView {
    fn new(figures: &ObjectiveFigures, route: &LiveRoute) -> Self {
        let mut promised = route.settings().objectives.iter();
        let objective = promised.find(|objective| objective.latency.as_str() == figures.latency);
        Self {
            latency: figures.latency,
            quantile: objective.map(|objective| objective.quantile.share()),
            threshold_ms: objective.map(|objective| millis(objective.threshold)),
            attainment: figures.attainment,
            burn_rate: figures.burn.iter().map(|(window, rate)| ((*window).to_owned(), (*rate).into())).collect(),
        }
    }
}

impl ObservedView {
    fn new(observed: Observed) -> Self {
        Self {
            samples: observed.samples,
            estimate_ms: observed.estimate.map(millis),
            bound_ms: observed.bound.map(millis),
        }
    }
}

/// One of `/api/v1/decisions`.
#[derive(Debug, Serialize)]
pub(super) struct DecisionView {
    number: u64,
    at: String,
    route: Name,
    #[serde(skip_serializing_if = "Option::is_none")]
    backend: Option<Name>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    input_tokens: u64,
    candidates: Vec<CandidateView>,
}

#[derive(Debug, Serialize)]
struct CandidateView {
    backend: Name,
    in_flight: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    ttft: Option<PredictedView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    itl: Option<PredictedView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    e2e: Option<PredictedView>,
    /// Largest ratio of bound to objective.
    #[serde(skip_serializing_if = "Option::is_none")]
    load: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    price: Option<f64>,
}

#[derive(Debug, Serialize)]
struct PredictedView {
    expected_ms: f64,
    bound_ms: f64,
}

impl DecisionView {
    pub(super) fn new(decision: &DecisionRecord, services: &Services) -> Self {
        let ago = services.clock.now().saturating_duration_since(decision.at);
        let named = |(backend, _)| decision.candidates.iter().find(|(_, one)| one.backend == backend);
        let chosen = decision.chosen.and_then(named);
        Self {
            number: decision.number,
            at: services.clock.wall().checked_sub(ago).map(rfc3339).unwrap_or_default(),
            route: Name::new(&decision.route),
            backend: chosen.map(|(name, _)| Name::new(name)),
            reason: decision.chosen.map(|(_, reason)| reason.as_str()),
            input_tokens: decision.input_tokens,
            candidates: decision.candidates.iter().map(|(name, one)| CandidateView::new(name, one)).collect(),
        }
    }
}

impl CandidateView {
    fn new(name: &Arc<str>, one: &Assessment) -> Self {
        let predicted = |one: Option<Forecast>| {
            one.map(|one| PredictedView { expected_ms: millis(one.expected()), bound_ms: millis(one.bound()) })
        };
        Self {
            backend: Name::new(name),
            in_flight: one.in_flight,
            ttft: predicted(one.ttft),
            itl: predicted(one.itl),
            e2e: predicted(Some(one.e2e)),
            load: Some(one.pressure),
            price: one.price,
        }
    }
}

/// `/api/v1/requests`
#[derive(Debug, Serialize)]
pub(super) struct Requests {
    pub(super) requests: Vec<Box<RawValue>>,
}

/// The body of `PUT /api/v1/log-level`.
#[derive(Debug, Deserialize)]
pub(super) struct WantedLevel {
    pub(super) level: String,
}

/// An exchange in the very words of the access log.
pub(super) fn request(record: &ExchangeRecord) -> Option<Box<RawValue>> {
    RawValue::from_string(access_log::json(record)).ok()
}

/// To the microsecond.
#[allow(clippy::cast_precision_loss, reason = "a float holds the microseconds of 285 years exactly")]
fn millis(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1e3
}
