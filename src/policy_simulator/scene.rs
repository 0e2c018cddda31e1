//! One run's givens: the fleet, the routes and their promises, what arrives, and what goes wrong.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use super::fate::Fate;
use super::workload::{Arrival, Workload};
use crate::engine::Profile;
use crate::measure::exchange::Latencies;
use crate::measure::objective::{Ended, Latency, Objective, Objectives};
use crate::measure::outcome::Outcome;
use crate::route::admission::OnOverload;
use crate::route::model::BackendLearned;
use crate::route::policy::PolicyKind;
use crate::route::price::Price;
use crate::units::Quantile;

/// A backend: its engine and what it costs.
#[derive(Debug, Clone)]
pub struct Machine {
    /// Its name in reports.
    pub name: Arc<str>,
    /// How its engine behaves.
    pub profile: Profile,
    /// What it costs.
    pub price: Price,
    /// Most requests that the proxy sends there at once; rivals know no such bound.
    pub max_in_flight: Option<u32>,
    /// Whether its metrics are scraped, where any are.
    pub scraped: bool,
    /// What the proxy starts from; `None` knows nothing of it.
    pub baseline: Option<Arc<BackendLearned>>,
}

/// A route and what it promises.
#[derive(Debug, Clone)]
pub struct Spec {
    /// Its name in reports.
    pub name: Arc<str>,
    /// What it promises.
    pub objectives: Objectives,
    /// How important it is; a larger number is more important.
    pub priority: i32,
    /// How it chooses, where the contender is what is configured.
    pub policy: PolicyKind,
    /// What it does with requests that it cannot keep the promise for, likewise.
    pub on_overload: OnOverload,
    /// Whether what backends may have cached is looked at, likewise.
    pub prefix_affinity: bool,
    /// The backends it may use, by index.
    pub backends: Vec<usize>,
}

/// Something that happens to a backend.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Incident {
    /// When, from the start of the run.
    pub at: Duration,
    /// To which backend, by index.
    pub backend: usize,
    /// What.
    pub change: Change,
}

/// What happens to a backend.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Change {
    /// From its next step on, steps take that many times as long.
    Slow(f64),
    /// Its engine stops silently; what is sent there hangs.
    Dies,
    /// The health check notices: no more requests go there, what waits is retried elsewhere, what streams fails.
    Ejected,
    /// It is healthy, and empty.
    Returns,
    /// A request of other clients, which headway does not see.
    Hidden {
        /// Its prompt tokens.
        input: u32,
        /// Its output tokens.
        output: u32,
    },
}

/// The givens of one run.
#[derive(Debug, Clone)]
pub struct Scene {
    /// Its name in reports.
    pub name: String,
    /// Nominal length, in seconds: what goodput is divided by.
    pub duration: f64,
    /// The backends.
    pub backends: Vec<Machine>,
    /// The routes.
    pub routes: Vec<Spec>,
    /// What arrives.
    pub workload: Workload,
    /// What goes wrong, in the order of time.
    pub incidents: Vec<Incident>,
    /// Copies of the proxy; each request comes to one at random.
    pub replicas: usize,
    /// How often they tell each other what they sent; `None` is never.
    pub gossip: Option<Duration>,
    /// How often engines' metrics are scraped; `None` is never.
    pub scrape: Option<Duration>,
    /// Probability with which a step takes 0.3 s longer.
    pub stall: f64,
    /// The state of the run's generator.
    pub state: u64,
}

impl Machine {
    /// A backend of that profile at the profile's prices.
    #[must_use]
    pub fn of(name: Arc<str>, profile: Profile) -> Self {
        let price = Price::PerToken {
            input_per_mtok: profile.price_input,
            cached_input_per_mtok: 0.0,
            output_per_mtok: profile.price_output,
        };
        Self { name, profile, price, max_in_flight: None, scraped: true, baseline: None }
    }
}

impl Machine {
    /// What so many tokens cost, where tokens are what is paid for.
    #[must_use]
    pub fn tokens_cost(&self, uncached_input: u32, output: u32) -> f64 {
        match self.price {
            Price::PerToken { input_per_mtok, output_per_mtok, .. } => {
                (f64::from(uncached_input) * input_per_mtok + f64::from(output) * output_per_mtok) / 1e6
            }
            Price::PerGpuHour { .. } => 0.0,
        }
    }
}

impl Machine {
    /// What a rule of thumb ranks by: the price of a million input tokens, or of an hour.
    #[must_use]
    pub fn input_price(&self) -> f64 {
        match self.price {
            Price::PerToken { input_per_mtok, .. } => input_per_mtok,
            Price::PerGpuHour { per_gpu_hour, gpus } => per_gpu_hour * f64::from(gpus),
        }
    }
}

impl Spec {
    /// Whether a completed request kept every promise.
    #[must_use]
    pub fn kept_by(&self, arrival: &Arrival, fate: &Fate) -> bool {
        let latencies = Latencies {
            first_token: fate.first,
            inter_token: (fate.output > 1).then(|| fate.mean_gap()),
            end_to_end: Some(fate.last),
            ..Latencies::default()
        };
        let ended = Ended {
            outcome: Outcome::Complete,
            stream: arrival.stream,
            choices: 1,
            latencies: &latencies,
            output_tokens: Some(u64::from(fate.output)),
        };
        self.objectives.judge(&ended).joint() != Some(false)
    }

    /// Chat and code with TTFT and ITL, batch with an end-to-end time; batch matters less.
    #[must_use]
    pub fn three(chat: (Duration, Duration), code: (Duration, Duration), batch: Duration) -> Vec<Self> {
        vec![Self::streamed("chat", chat), Self::streamed("code", code), Self::whole("batch", batch)]
    }

    /// A route that promises TTFT and ITL at p95.
    #[must_use]
    pub fn streamed(name: &str, (ttft, itl): (Duration, Duration)) -> Self {
        let ttft = Some(p95(Latency::TimeToFirstToken, ttft));
        let objectives = Objectives { ttft, itl: Some(p95(Latency::InterToken, itl)), e2e: None };
        Self { priority: 1, ..Self::new(name.into(), objectives) }
    }

    /// A route that promises an end-to-end time at p95, and matters less.
    #[must_use]
    pub fn whole(name: &str, e2e: Duration) -> Self {
        Self::new(name.into(), Objectives { e2e: Some(p95(Latency::EndToEnd, e2e)), ..Objectives::default() })
    }

    /// A route that may use every backend.
    #[must_use]
    pub fn new(name: Arc<str>, objectives: Objectives) -> Self {
        let (policy, on_overload) = (PolicyKind::default(), OnOverload::default());
        Self { name, objectives, priority: 0, policy, on_overload, prefix_affinity: true, backends: Vec::new() }
    }
}

fn p95(latency: Latency, threshold: Duration) -> Objective {
    Objective { latency, quantile: Quantile::P95, threshold }
}

impl Incident {
    /// Slower from one second to another.
    #[must_use]
    pub fn slow(backend: usize, factor: f64, during: Range<f64>) -> [Self; 2] {
        [
            Self { at: Duration::from_secs_f64(during.start), backend, change: Change::Slow(factor) },
            Self { at: Duration::from_secs_f64(during.end), backend, change: Change::Slow(1.0) },
        ]
    }
}

impl Scene {
    /// A quiet run: one replica, nothing goes wrong, every route may use every backend.
    #[must_use]
    pub fn new(name: String, duration: f64, backends: Vec<Machine>, mut routes: Vec<Spec>, workload: Workload) -> Self {
        for route in routes.iter_mut().filter(|route| route.backends.is_empty()) {
            route.backends = (0..backends.len()).collect();
        }
        Self {
            name,
            duration,
            backends,
            routes,
            workload,
            incidents: Vec::new(),
            replicas: 1,
            gossip: None,
            scrape: None,
            stall: 0.0,
            state: 1,
        }
    }
}
