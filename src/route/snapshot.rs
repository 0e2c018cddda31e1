//! What a policy may know: the request's facts, and the fleet at one instant.

use std::time::Duration;

use super::admission::OnOverload;
use super::model::RouteModel;
use super::price::Price;
use super::tuning::Tuning;
use crate::measure::objective::Objectives;

/// A backend's place in `Settings::backends`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BackendIndex(pub usize);

/// A route's place in what backends have learned: the same for as long as the process lives, whatever the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct RouteSlot(pub usize);

/// What is known of a request before it is served.
#[derive(Debug, Clone, Copy, Default)]
pub struct RequestFacts {
    /// Estimated prompt tokens.
    pub input_tokens: u64,
    /// Most output tokens that were asked for.
    pub max_tokens: Option<u64>,
    /// Whether the answer is streamed.
    pub stream: bool,
    /// The route's objectives, tightened by the client where it may.
    pub objectives: Objectives,
    /// How long it has been here already: on an earlier attempt, or in a queue. Counts against its objectives.
    pub waited: Duration,
}

/// A prediction of one latency, in seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Forecast {
    /// The central prediction: half of the requests are faster.
    pub central: f64,
    /// The calibrated bound: exceeded by the share of requests that the objective's quantile allows.
    pub bound: f64,
    /// The bound as it would be without recent bad news: what a probe may hope for.
    pub hopeful: f64,
}

/// What to expect of one backend if the request were sent there now.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Outlook {
    /// To the first token, from now.
    pub ttft: Forecast,
    /// Between tokens.
    pub itl: Forecast,
    /// The whole answer, streamed or not as the request asks.
    pub e2e: Forecast,
    /// Estimated prompt tokens that the backend must compute.
    pub uncached_tokens: f64,
    /// Estimated prompt tokens that its prefix cache holds.
    pub cached_tokens: f64,
    /// Seconds of the whole backend that one uncached prompt token takes, as learned; `None` while too little is known.
    pub prefill_seconds: Option<f64>,
    /// Seconds of the whole backend that one output token takes in a batch of the present size; likewise.
    pub decode_seconds: Option<f64>,
    /// The shortest ITL that is promised to other routes' streams which it serves now, in seconds.
    pub resident_itl: Option<f64>,
    /// Requests there that await their first token.
    pub awaiting: u32,
    /// Whether a probe is under way there.
    pub probing: bool,
    /// Whether enough time has passed since it was last observed and last probed for another probe.
    pub probe_due: bool,
    /// Whether nothing of ours is in flight there and nothing was observed for long.
    pub idle: bool,
}

/// What a rolling window says about one latency at the objective's quantile.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Observed {
    /// How many samples the window holds.
    pub samples: u64,
    /// The quantile itself; `None` without samples.
    pub estimate: Option<Duration>,
    /// A bound that the true quantile keeps with 95 % confidence; `None` when the samples are too few for one.
    pub bound: Option<Duration>,
}

/// One backend that could serve the request: already filtered by health, model, context length, features and room.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Candidate {
    /// Which backend.
    pub backend: BackendIndex,
    /// Its weight on this route.
    pub weight: u32,
    /// Requests in flight there, from all routes.
    pub in_flight: u32,
    /// Its bound, if it has one.
    pub max_in_flight: Option<u32>,
    /// What it costs.
    pub price: Option<Price>,
    /// Live TTFT of this route there, from the attempt's start.
    pub ttft: Observed,
    /// Live ITL of this route there.
    pub itl: Observed,
    /// Live end-to-end time of this route there.
    pub e2e: Observed,
    /// Requests dispatched there by this route and not yet answered with a first token.
    pub awaiting_first_token: u32,
    /// Requests that were usually in flight there when the window's samples were dispatched; 0 without samples.
    pub usual_in_flight: f64,
    /// Requests of this route in flight there in order to explore it.
    pub exploring: u32,
    /// How long ago this route last learned a first token from it; `None` when never.
    pub last_observed: Option<Duration>,
    /// What its model expects.
    pub outlook: Outlook,
}

/// The candidates of one request at one instant.
#[derive(Debug, Clone, Copy)]
pub struct FleetSnapshot<'a> {
    /// In the order of the configuration.
    pub candidates: &'a [Candidate],
    /// What the route has learned.
    pub route: &'a RouteModel,
    /// What to do with a request that no backend can keep the promise for.
    pub on_overload: OnOverload,
    /// Constants and switches.
    pub tuning: &'a Tuning,
}
