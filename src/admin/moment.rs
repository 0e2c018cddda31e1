//! The figures of one instant that views of routes and backends share, gathered once.

use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::Services;
use super::view::{BackendView, RouteView, millis};
use crate::fleet::{Explanation, Fleet, Request};
use crate::measure::objective::Latency;
use crate::route::decision::Assessment;
use crate::telemetry::history::{LastMinute, Quantiles, Tally};
use crate::telemetry::live::{ObjectiveFigures, PairFigure, PairTotals};

/// What is true now.
pub(super) struct Moment<'a> {
    pub(super) services: &'a Services,
    pub(super) fleet: &'a Fleet,
    pub(super) now: Instant,
    pub(super) objectives: Vec<ObjectiveFigures>,
    pub(super) missed: Vec<PairFigure>,
    pub(super) totals: Vec<PairTotals>,
    /// What a usual request of each route would get.
    pub(super) usual: Vec<Explanation>,
}

impl<'a> Moment<'a> {
    pub(super) fn new(services: &'a Services, fleet: &'a Fleet, now: Instant) -> Self {
        let metrics = services.telemetry.metrics();
        let usual = fleet.routes().iter().filter_map(|route| {
            let request = Request { facts: route.usual_request(), ..Request::default() };
            fleet.explain(route.name(), &request, now)
        });
        let usual = usual.collect();
        let (objectives, missed, totals) = (metrics.objectives(now), metrics.missed(now), metrics.totals());
        Self { services, fleet, now, objectives, missed, totals, usual }
    }

    /// `/api/v1/routes`, in the order of the configuration.
    pub(super) fn routes(&self) -> Vec<RouteView> {
        self.fleet.routes().iter().map(|route| RouteView::new(route, self)).collect()
    }

    /// `/api/v1/backends`, in the order of the configuration.
    pub(super) fn backends(&self) -> Vec<BackendView> {
        self.fleet.backends().iter().map(|backend| BackendView::new(backend, self)).collect()
    }

    /// What a usual request of a route would get at a backend.
    pub(super) fn usual(&self, route: &str, backend: &str) -> Option<&Assessment> {
        let usual = self.usual.iter().find(|usual| &*usual.route == route)?;
        usual.candidates.iter().find(|(name, _)| &**name == backend).map(|(_, one)| one)
    }

    /// Shares of requests that took longer than was predicted of them, by latency.
    pub(super) fn missed(&self, route: &str, backend: &str) -> Map<String, Value> {
        let of_pair = self.missed.iter().filter(|figure| &*figure.route == route && &*figure.backend == backend);
        of_pair.map(|figure| (figure.latency.to_owned(), figure.value.into())).collect()
    }

    /// Requests and cost since the start of what `wanted` picks.
    pub(super) fn sum(&self, wanted: impl Fn(&PairTotals) -> bool) -> (u64, f64) {
        let of = self.totals.iter().filter(|one| wanted(one));
        of.fold((0, 0.0), |(requests, cost), one| (requests + one.requests, cost + one.cost))
    }
}

/// The last minute of a route or a backend.
#[derive(Debug, Serialize)]
pub(super) struct LastMinuteView {
    requests: u64,
    /// Of them, by how they ended.
    outcomes: Map<String, Value>,
    /// Of a route: where its tries went, and why.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    sent: Vec<Value>,
    /// Left out without samples.
    #[serde(flatten)]
    latencies: Map<String, Value>,
}

impl LastMinuteView {
    pub(super) fn new(minute: &LastMinute) -> Self {
        let latencies = Latency::PROMISED.into_iter().zip(&minute.latencies);
        let latencies = latencies.filter_map(|(latency, seen)| {
            let seen = QuantilesView::new((*seen)?);
            Some((latency.as_str().to_owned(), serde_json::to_value(seen).ok()?))
        });
        Self {
            requests: minute.tally.requests(),
            outcomes: outcomes(&minute.tally),
            sent: sent(&minute.tally),
            latencies: latencies.collect(),
        }
    }
}

/// How many ended how.
pub(super) fn outcomes(tally: &Tally) -> Map<String, Value> {
    tally.ended.iter().map(|&(outcome, count)| (outcome.as_str().to_owned(), count.into())).collect()
}

/// How many tries went where, and why.
pub(super) fn sent(tally: &Tally) -> Vec<Value> {
    let one = |sent: &crate::telemetry::history::Sent| {
        let reason = Some(sent.reason).filter(|reason| !reason.is_empty());
        json!({ "backend": &*sent.backend, "reason": reason, "tries": sent.tries })
    };
    tally.sent.iter().map(one).collect()
}

/// What a distribution says.
#[derive(Debug, Serialize)]
pub(super) struct QuantilesView {
    samples: u64,
    p50_ms: f64,
    p95_ms: f64,
    p99_ms: f64,
}

impl QuantilesView {
    pub(super) fn new(quantiles: Quantiles) -> Self {
        let Quantiles { samples, p50, p95, p99 } = quantiles;
        Self { samples, p50_ms: millis(p50), p95_ms: millis(p95), p99_ms: millis(p99) }
    }
}

/// The names of the routes that a backend serves.
pub(super) fn routes_of(fleet: &Fleet, backend: usize) -> Vec<Arc<str>> {
    let serving =
        fleet.routes().iter().filter(|route| route.settings().backends.iter().any(|&(one, _)| one == backend));
    serving.map(|route| Arc::clone(route.name())).collect()
}
