//! What a policy may know: the request's facts, and the fleet at one instant.

use std::time::Duration;

use super::price::Price;
use crate::measure::objective::Objectives;

/// A backend's place in `Settings::backends`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BackendIndex(pub usize);

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
}

/// The candidates of one request at one instant.
#[derive(Debug, Clone, Copy)]
pub struct FleetSnapshot<'a> {
    /// In the order of the configuration.
    pub candidates: &'a [Candidate],
    /// Output tokens that an answer on this route has on average, as far as is known.
    pub expected_output: u64,
}
