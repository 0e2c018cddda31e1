//! What a policy may know: the request's facts, and the fleet at one instant.

use std::time::Duration;

use super::admission::OnOverload;
use super::model::RouteModel;
use super::price::Price;
use super::scarcity::Scarcity;
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

impl Forecast {
    /// The central prediction.
    #[must_use]
    pub fn expected(&self) -> Duration {
        duration(self.central)
    }

    /// The calibrated bound.
    #[must_use]
    pub fn bound(&self) -> Duration {
        duration(self.bound)
    }
}

fn duration(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX)
}

/// What to expect of one backend if the request were sent there now.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
#[allow(clippy::struct_excessive_bools, reason = "each notes one fact, and all of them may hold")]
pub struct Outlook {
    /// To the first token of a stream, from now.
    pub ttft: Forecast,
    /// Between tokens of a stream.
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
    /// The shortest ITL that is promised to other routes' streams which arrive there lately, in seconds.
    pub resident_itl: Option<f64>,
    /// Streams of this replica there that await their first token.
    pub awaiting: u32,
    /// Requests there that await their first token, whoever sent them: ours, other replicas', and those that only its
    /// engine tells of.
    pub queue: f64,
    /// Whether so little was observed there that its model is still its prior.
    pub unproven: bool,
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
    /// What its model expects.
    pub outlook: Outlook,
    /// How far it has come since it began to serve, or came back: see [`slow_start`](super::slow_start); 1 is all.
    pub ramp: f64,
    /// Whether this request does not look at it, since it has not come far.
    pub held_back: bool,
}

impl Candidate {
    /// Requests in flight there, as if it had come all the way: one that began not long ago counts as fuller than it is.
    #[must_use]
    pub fn weighed_in_flight(&self) -> f64 {
        (f64::from(self.in_flight) + 1.0) / self.ramp.max(f64::MIN_POSITIVE)
    }

    /// Whether it has a place left for this request. The caller has filtered already; a policy does not rely on it.
    #[must_use]
    pub fn has_room(&self) -> bool {
        !self.held_back && self.max_in_flight.is_none_or(|most| self.in_flight < most)
    }
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
    /// The route's priority: the higher, the more important.
    pub priority: i32,
    /// How much a request may need now.
    pub scarcity: Scarcity,
    /// Constants and switches.
    pub tuning: &'a Tuning,
}

impl FleetSnapshot<'_> {
    /// The candidates that have a place left.
    pub fn open(&self) -> impl Iterator<Item = &Candidate> + Clone {
        self.candidates.iter().filter(|one| one.has_room())
    }
}
