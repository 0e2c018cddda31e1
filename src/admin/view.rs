//! What the API shows, as types of its own: nothing that is not named here can leave by it.
//!
//! Times are milliseconds (`*_ms`) or seconds (`*_s`), points in time RFC 3339. What is not known is left out.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;

use super::Services;
use super::decision_view::PredictedView;
use super::gpu_view::{self, GpusView};
use super::moment::{self, LastMinuteView, Moment};
use super::split_view::{self, SplitView};
use crate::config;
use crate::fleet::{BackendState, Fleet, LiveBackend, LiveRoute, Request, ShadowFigures};
use crate::measure::exchange::ExchangeRecord;
use crate::measure::objective::Latency;
use crate::route::decision::Assessment;
use crate::route::snapshot::Observed;
use crate::telemetry::access_log;
use crate::telemetry::live::{
    BackendFigures, EngineFigures, LiveFigures, ObjectiveFigures, PairFigure, RouteFigures, ShadowFigure,
};

/// The figures of the metrics page that only the fleet knows.
pub(super) fn live_figures(services: &Services, fleet: &Fleet) -> LiveFigures {
    let now = services.clock.now();
    let figures = |backend: &Arc<LiveBackend>| BackendFigures {
        name: Arc::clone(backend.name()),
        in_flight: backend.in_flight().into(),
        waiting_tokens: backend.waiting_tokens(),
        state: backend.state().as_str(),
        profile: backend.settings().profile.clone(),
        demand: fleet.demand(backend, now),
        slow: backend.is_slow(),
        buffering: backend.is_buffering(),
        buffered_streams: backend.buffered_streams(),
        engine: backend.engine(now).map(|engine| EngineFigures {
            running: engine.running,
            waiting: engine.waiting,
            kv_cache_ratio: engine.kv_ratio,
        }),
        gpus: backend.gpus(now).map(|report| gpu_view::figures(&report)).unwrap_or_default(),
    };
    LiveFigures {
        backends: fleet.backends().iter().map(figures).collect(),
        routes: fleet
            .routes()
            .iter()
            .map(|route| RouteFigures { name: Arc::clone(route.name()), unplaced: route.unplaced() })
            .collect(),
        objectives: services.telemetry.metrics().objectives(now),
        predicted: fleet.routes().iter().flat_map(|route| predicted(fleet, route, now)).collect(),
        missed: services.telemetry.metrics().missed(now),
        shadows: fleet.shadows().into_iter().map(shadow).collect(),
        groups: fleet.routes().iter().flat_map(|route| split_view::figures(route)).collect(),
    }
}

/// What a usual request of the route would get at each of its backends now.
fn predicted(fleet: &Fleet, route: &LiveRoute, now: Instant) -> Vec<PairFigure> {
    let usual = Request { facts: route.usual_request(), ..Request::default() };
    let Some(explanation) = fleet.explain(route.name(), &usual, now) else { return Vec::new() };
    let figures = |(backend, one): &(Arc<str>, Assessment)| {
        let bounds = [one.ttft, one.itl, Some(one.e2e)].map(|forecast| forecast.map(|forecast| forecast.bound));
        let figure = |(latency, bound): (Latency, Option<f64>)| {
            let (route, backend) = (Arc::clone(route.name()), Arc::clone(backend));
            Some(PairFigure { route, backend, latency: latency.as_str(), value: bound? })
        };
        Latency::PROMISED.into_iter().zip(bounds).filter_map(figure).collect::<Vec<_>>()
    };
    explanation.candidates.iter().flat_map(figures).collect()
}

fn shadow(figures: ShadowFigures) -> ShadowFigure {
    let ShadowFigures { route, backend, choices, cost } = figures;
    ShadowFigure { route, backend: backend.unwrap_or_else(|| "none".into()), choices, cost }
}

/// A name that is shared with the fleet rather than copied.
#[derive(Debug)]
pub(super) struct Name(Arc<str>);

impl Name {
    pub(super) fn new(name: &Arc<str>) -> Self {
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
    pub(super) resources: Vec<ResourceView>,
}

/// What is used of something.
#[derive(Debug, Serialize)]
pub(super) struct ResourceView {
    pub(super) resource: &'static str,
    pub(super) used: u64,
    pub(super) most: u64,
    /// Connections end with their answer because of it.
    pub(super) high: bool,
}

/// One of `/api/v1/backends`.
#[derive(Debug, Serialize)]
pub(super) struct BackendView {
    name: Name,
    url: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    profile: Option<Name>,
    /// The profile and the release that it says of itself, where it is a NIM.
    #[serde(skip_serializing_if = "Option::is_none")]
    running_profile: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    nim_release: Option<Name>,
    /// How the profile it runs differs from the configured one.
    #[serde(skip_serializing_if = "Option::is_none")]
    profile_mismatch: Option<String>,
    state: &'static str,
    draining: bool,
    in_flight: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_in_flight: Option<u32>,
    waiting_tokens: u64,
    output_tokens: u64,
    /// Whether it is much slower than it used to be, and the others are not.
    slow: bool,
    /// Whether something on the way holds its tokens back.
    buffering: bool,
    /// What is asked of it over what it can carry with its routes' promises kept; absent where that cannot be said.
    #[serde(skip_serializing_if = "Option::is_none")]
    demand: Option<f64>,
    buffered_streams: u64,
    consecutive_faults: u32,
    addresses: Vec<String>,
    /// As discovered.
    models: Vec<ModelView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_check: Option<CheckView>,
    /// What the engine says of itself, where it is asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    engine: Option<EngineView>,
    /// The names of the routes it serves.
    routes: Vec<Name>,
    #[serde(skip_serializing_if = "Option::is_none")]
    price: Option<serde_json::Value>,
    /// Since the start.
    requests: u64,
    cost: f64,
    /// Tries that ended, over the last ten to fifteen seconds.
    requests_per_second: f64,
    /// Its tries, each latency from the try's beginning, as predictions mean it.
    last_minute: LastMinuteView,
    #[serde(flatten)]
    gpus: GpusView,
}

#[derive(Debug, Serialize)]
struct EngineView {
    running: f64,
    waiting: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    kv_cache_ratio: Option<f64>,
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
    pub(super) fn new(backend: &LiveBackend, moment: &Moment<'_>) -> Self {
        let now = moment.now;
        let minute = moment.services.telemetry.history().backend(backend.name(), now);
        let (requests, cost) = moment.sum(|one| one.backend == *backend.name());
        let settings = backend.settings();
        let scheme = if settings.url.https { "https" } else { "http" };
        let discovered = backend.discovered();
        let models = discovered.models.iter();
        let running = backend.running();
        let state = backend.state();
        Self {
            name: Name::new(backend.name()),
            url: format!("{scheme}://{}{}", settings.url.authority(), settings.url.base_path),
            profile: settings.profile.as_ref().map(Name::new),
            running_profile: running.as_ref().and_then(|one| Some(one.profile.as_ref()?.to_string())),
            nim_release: running.as_ref().and_then(|one| one.release.as_ref()).map(Name::new),
            profile_mismatch: backend.profile_mismatch(),
            state: state.as_str(),
            draining: state == BackendState::Draining,
            in_flight: backend.in_flight(),
            max_in_flight: settings.max_in_flight,
            waiting_tokens: backend.waiting_tokens(),
            output_tokens: backend.output_tokens(),
            slow: backend.is_slow(),
            buffering: backend.is_buffering(),
            demand: moment.fleet.demand(backend, now),
            buffered_streams: backend.buffered_streams(),
            consecutive_faults: backend.ejection().1,
            addresses: backend.endpoints().iter().map(|endpoint| endpoint.address().to_string()).collect(),
            models: models
                .map(|model| ModelView {
                    id: Name::new(&model.id),
                    context_length: model.context.map(|one| one.tokens),
                })
                .collect(),
            last_check: backend.last_check().map(|check| CheckView {
                seconds_ago: now.saturating_duration_since(check.at).as_secs_f64(),
                result: check.outcome.describe(),
            }),
            engine: backend.engine(now).map(|engine| EngineView {
                running: engine.running,
                waiting: engine.waiting,
                kv_cache_ratio: engine.kv_ratio,
            }),
            routes: moment::routes_of(moment.fleet, backend.index().0).iter().map(Name::new).collect(),
            price: settings.price.map(config::price),
            requests,
            cost,
            requests_per_second: minute.per_second,
            last_minute: LastMinuteView::new(&minute),
            gpus: GpusView::new(backend, now),
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
    budget_period_s: f64,
    /// Since the start.
    requests: u64,
    cost: f64,
    /// Exchanges that ended, over the last ten to fifteen seconds.
    requests_per_second: f64,
    /// Its exchanges, as the clients felt them.
    last_minute: LastMinuteView,
    /// By latency, and `joint`.
    objectives: Vec<ObjectiveView>,
    backends: Vec<MemberView>,
    /// Where requests are split among groups of the backends.
    #[serde(skip_serializing_if = "Option::is_none")]
    split: Option<SplitView>,
}

#[derive(Debug, Serialize)]
struct ObjectiveView {
    latency: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    quantile: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    threshold_ms: Option<f64>,
    /// Exchanges in the window that it judged, and how many of them kept it.
    judged: u64,
    good: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    attainment: Option<f64>,
    /// Whether as many kept it as are promised to; absent while nothing was judged, and for `joint`.
    #[serde(skip_serializing_if = "Option::is_none")]
    met: Option<bool>,
    /// Of the budget period's; below 0 when overspent.
    #[serde(skip_serializing_if = "Option::is_none")]
    budget_left: Option<f64>,
    /// By the length of the window.
    burn_rate: serde_json::Map<String, serde_json::Value>,
}

/// A backend as a route sees it.
#[derive(Debug, Serialize)]
struct MemberView {
    backend: Name,
    /// Its group, where requests are split.
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<Name>,
    weight: u32,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    ttft: Option<ObservedView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ttfo: Option<ObservedView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    itl: Option<ObservedView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    chunk_gap: Option<ObservedView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    e2e: Option<ObservedView>,
    /// What a usual request of the route would get now; absent while it would not be considered at all.
    #[serde(skip_serializing_if = "Option::is_none")]
    predicted: Option<PredictionsView>,
    /// Shares of the requests of the last five minutes that took longer than the bound that was predicted, by latency.
    missed: serde_json::Map<String, serde_json::Value>,
    /// Since the start.
    requests: u64,
    cost: f64,
}

#[derive(Debug, Serialize)]
struct PredictionsView {
    #[serde(skip_serializing_if = "Option::is_none")]
    ttft: Option<PredictedView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    itl: Option<PredictedView>,
    e2e: PredictedView,
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
    pub(super) fn new(route: &LiveRoute, moment: &Moment<'_>) -> Self {
        let settings = route.settings();
        let minute = moment.services.telemetry.history().route(&settings.name, moment.now);
        let (requests, cost) = moment.sum(|one| one.route == settings.name);
        let own = moment.objectives.iter().filter(|figures| figures.route == settings.name);
        let members = settings.backends.iter();
        Self {
            name: Name::new(route.name()),
            policy: settings.policy.as_str(),
            active: route.active(),
            window_s: settings.window.as_secs_f64(),
            budget_period_s: settings.budget_period.as_secs_f64(),
            requests,
            cost,
            requests_per_second: minute.per_second,
            last_minute: LastMinuteView::new(&minute),
            objectives: own.map(|figures| ObjectiveView::new(figures, route)).collect(),
            backends: members.filter_map(|member| MemberView::new(route, member, moment)).collect(),
            split: SplitView::new(route, moment.fleet, moment.now),
        }
    }
}

impl MemberView {
    fn new(route: &LiveRoute, &(index, weight): &(usize, u32), moment: &Moment<'_>) -> Option<Self> {
        let backend = moment.fleet.backends().get(index)?;
        let (name, now) = (backend.name(), moment.now);
        let observed = |latency| route.observed(name, latency, now).map(ObservedView::new);
        let usual = moment.usual(route.name(), name);
        let (requests, cost) = moment.sum(|one| one.route == *route.name() && one.backend == *name);
        Some(Self {
            backend: Name::new(name),
            group: split_view::group_of(route, backend.index()),
            weight,
            state: backend.state().as_str(),
            ttft: observed(Latency::TimeToFirstToken),
            ttfo: observed(Latency::TimeToFirstOutputToken),
            itl: observed(Latency::InterToken),
            chunk_gap: observed(Latency::InterChunk),
            e2e: observed(Latency::EndToEnd),
            predicted: usual.map(|one| PredictionsView {
                ttft: one.ttft.map(PredictedView::new),
                itl: one.itl.map(PredictedView::new),
                e2e: PredictedView::new(one.e2e),
            }),
            missed: moment.missed(route.name(), name),
            requests,
            cost,
        })
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
            judged: figures.judged,
            good: figures.good,
            attainment: figures.attainment,
            met: figures.attainment.zip(figures.target).map(|(share, target)| share >= target),
            budget_left: figures.budget_left,
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
pub(super) fn millis(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1e3
}
