//! What the metrics page shows of the present moment, filled in by whoever asks for the page.
//!
//! Counters live here in telemetry; what is true *now* lives in the fleet, which telemetry does not know.

use std::sync::Arc;

use crate::measure::attainment::Attainment;
use crate::measure::group::FellOver;
use crate::wire::gpu::GpuReading;

/// Every state a backend can be in, as the `state` label and the API write it.
pub const BACKEND_STATES: [&str; 7] = ["ready", "warming", "down", "ejected", "probing", "draining", "unknown"];

/// The figures of one moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LiveFigures {
    /// Every backend of the configuration.
    pub backends: Vec<BackendFigures>,
    /// Every route of the configuration.
    pub routes: Vec<RouteFigures>,
    /// Every objective of every route, and each route's joint one.
    pub objectives: Vec<ObjectiveFigures>,
    /// The bounds, in seconds, that a usual request of a route would get at a backend now.
    pub predicted: Vec<PairFigure>,
    /// Shares of recent requests that took longer than the bound that was predicted of them.
    pub missed: Vec<PairFigure>,
    /// What shadows would have done.
    pub shadows: Vec<ShadowFigure>,
    /// Every group of every route that splits its requests.
    pub groups: Vec<GroupFigure>,
}

/// One route so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteFigures {
    /// Its name in the configuration.
    pub name: Arc<str>,
    /// Requests for which no backend was expected to keep the promise.
    pub unplaced: u64,
}

/// A figure of one latency of one route at one backend.
#[derive(Debug, Clone, PartialEq)]
pub struct PairFigure {
    /// The route's name.
    pub route: Arc<str>,
    /// The backend's name.
    pub backend: Arc<str>,
    /// `ttft`, `itl` or `e2e`.
    pub latency: &'static str,
    /// The figure.
    pub value: f64,
}

/// What was counted of one route at one backend since the start.
#[derive(Debug, Clone, PartialEq)]
pub struct PairTotals {
    /// The route's name.
    pub route: Arc<str>,
    /// The backend's name; `none` for what reached none.
    pub backend: Arc<str>,
    /// Exchanges that ended there.
    pub requests: u64,
    /// What their answers cost, in the configuration's currency.
    pub cost: f64,
}

/// What a shadow policy would have sent to one backend of a route so far.
#[derive(Debug, Clone, PartialEq)]
pub struct ShadowFigure {
    /// The route's name.
    pub route: Arc<str>,
    /// The backend's name; `none` for what it would have turned away.
    pub backend: Arc<str>,
    /// Decisions by whether it agreed with the policy in force, then by whether its choice was expected to keep the
    /// promise.
    pub choices: [[u64; 2]; 2],
    /// What its choices were expected to cost.
    pub cost: f64,
}

/// One group of a split route so far.
#[derive(Debug, Clone, PartialEq)]
pub struct GroupFigure {
    /// The route's name.
    pub route: Arc<str>,
    /// The group's name.
    pub group: Arc<str>,
    /// Exchanges that were assigned to it and ended.
    pub requests: u64,
    /// Those of them that another group answered, each reason at the place of its number.
    pub fell_over: [u64; FellOver::ALL.len()],
    /// The share that requests are drawn by.
    pub share: f64,
    /// Whether it gets nothing more.
    pub rolled_back: bool,
    /// By the name of the latency that is promised: what was judged of the group since the comparison began.
    pub judged: Vec<(&'static str, Attainment)>,
}

/// One backend at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct BackendFigures {
    /// Its name in the configuration.
    pub name: Arc<str>,
    /// Requests in flight there.
    pub in_flight: u64,
    /// Estimated prompt tokens of requests there that await their first token.
    pub waiting_tokens: u64,
    /// One of [`BACKEND_STATES`].
    pub state: &'static str,
    /// Its profile, where the configuration names one.
    pub profile: Option<Arc<str>>,
    /// What is asked of it over what it can carry with its promises kept; `None` where that cannot be said.
    pub demand: Option<f64>,
    /// Whether it has become much slower than it used to be, while the others have not.
    pub slow: bool,
    /// Whether something on the way holds its tokens back, by its latest streams.
    pub buffering: bool,
    /// Streams whose tokens were held back.
    pub buffered_streams: u64,
    /// What its engine says, where it is asked and answers.
    pub engine: Option<EngineFigures>,
    /// Its GPUs, by the names the configuration gives them, as far as they tell something.
    pub gpus: Vec<(Arc<str>, GpuReading)>,
}

/// What an engine says of itself.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EngineFigures {
    /// Requests in its batch.
    pub running: f64,
    /// Requests in its queue.
    pub waiting: f64,
    /// Share of its key/value cache in use.
    pub kv_cache_ratio: Option<f64>,
}

/// One objective at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct ObjectiveFigures {
    /// The route's name.
    pub route: Arc<str>,
    /// `ttft`, `itl`, `e2e` or `joint`.
    pub latency: &'static str,
    /// The share of exchanges that it is promised to; the joint promise has none of its own.
    pub target: Option<f64>,
    /// The latency that is promised to them, in seconds.
    pub threshold: Option<f64>,
    /// Exchanges in the route's window that kept it.
    pub good: u64,
    /// Exchanges in the route's window that it judged.
    pub judged: u64,
    /// Share of good exchanges in the route's window; `None` while it holds none.
    pub attainment: Option<f64>,
    /// The share of the error budget that is left of the route's budget period, below 0 when overspent; `None` while
    /// nothing was judged, and where there is no target.
    pub budget_left: Option<f64>,
    /// Burn rate by the name of its window, such as `5m`.
    pub burn: Vec<(&'static str, f64)>,
}
