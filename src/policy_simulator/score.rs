//! What a run is worth: promises kept, money spent, and how right the predictions were.
//!
//! A request that was shed, failed or never ended is a miss and stays in the denominator. Late work is paid for and
//! counts nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::fate::{End, Fate, Run};
use super::scene::{Change, Scene, Spec};
use super::workload::Arrival;
use crate::measure::objective::{Latency, Objective};
use crate::measure::spread::{Restlessness, Spread};
use crate::route::price::Price;

/// Length of the windows that shares of backends are counted in.
pub const SHARE_WINDOW: Duration = Duration::from_secs(10);
/// Length of the buckets between which shares are held against independent draws.
const RESTLESS_BUCKET: Duration = Duration::from_secs(1);
/// Length of the windows in which a route keeps its promise or not.
const PROMISE_WINDOW: Duration = Duration::from_secs(60);
/// Requests that arrive so soon after the start of an incident are looked at apart.
const AFTERMATH: Duration = Duration::from_secs(60);

/// The score of one run.
#[derive(Debug, Clone, PartialEq)]
pub struct Score {
    /// Of each route.
    pub routes: Vec<RouteScore>,
    /// Nominal length of the run, in seconds.
    pub duration: f64,
    /// What was paid, in dollars.
    pub cost: f64,
    /// How often each reason led to a choice, or to being turned away.
    pub reasons: BTreeMap<&'static str, u64>,
    /// Requests sent to each backend, per [`SHARE_WINDOW`] of arrival.
    pub shares: Vec<Vec<u32>>,
    /// How much the choices move from second to second.
    pub restlessness: Restlessness,
    /// Events that were simulated.
    pub events: u64,
}

/// The score of one route.
#[derive(Debug, Clone, PartialEq)]
pub struct RouteScore {
    /// Its name.
    pub name: Arc<str>,
    /// The share of requests that is promised.
    pub target: f64,
    /// Requests that came.
    pub arrived: u64,
    /// Requests whose every promise was kept.
    pub good: u64,
    /// Requests turned away.
    pub shed: u64,
    /// Requests that failed, or had not ended when the run was cut off.
    pub lost: u64,
    /// Time to the first token, of those served; one that never came is infinite.
    pub ttft: Quantiles,
    /// Mean gap, of completed answers of two tokens and more.
    pub itl: Quantiles,
    /// Time to the last token, of those served; one that never came is infinite.
    pub e2e: Quantiles,
    /// How the predicted bounds held, of TTFT, ITL and the whole answer, where they are promised.
    pub coverage: [Coverage; 3],
    /// Windows of a minute: in how many the promise was kept, and of how many.
    pub windows: (u64, u64),
    /// Of those that came within a minute of an incident's start: how many were good, and of how many.
    pub aftermath: (u64, u64),
}

/// Quantiles in seconds; `None` without samples, infinite where the answer never came.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Quantiles {
    /// The median.
    pub p50: Option<f64>,
    /// The 95th percentile.
    pub p95: Option<f64>,
    /// The 99th percentile.
    pub p99: Option<f64>,
}

/// How predicted bounds held for requests that were sent where every promise was expected to be kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Coverage {
    /// Requests with a bound.
    pub predicted: u64,
    /// Of these, requests that took longer.
    pub exceeded: u64,
}

impl Coverage {
    /// The share that exceeded its bound; `None` without any.
    #[must_use]
    pub fn miss(&self) -> Option<f64> {
        (self.predicted > 0).then(|| ratio(self.exceeded, self.predicted))
    }

    /// Both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self { predicted: self.predicted + other.predicted, exceeded: self.exceeded + other.exceeded }
    }

    fn count(&mut self, exceeded: bool) {
        self.predicted += 1;
        self.exceeded += u64::from(exceeded);
    }
}

impl Quantiles {
    /// By nearest rank.
    fn of(mut values: Vec<f64>) -> Self {
        values.sort_unstable_by(f64::total_cmp);
        #[allow(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a rank below the number of values"
        )]
        let at = |share: f64| values.get(((values.len() as f64 * share).ceil() as usize).max(1) - 1).copied();
        Self { p50: at(0.50), p95: at(0.95), p99: at(0.99) }
    }
}

impl RouteScore {
    /// Good ÷ arrived; 1 for a route without requests.
    #[must_use]
    pub fn attainment(&self) -> f64 {
        if self.arrived == 0 { 1.0 } else { ratio(self.good, self.arrived) }
    }

    /// Whether the promise was kept over the run.
    #[must_use]
    pub fn reached(&self) -> bool {
        self.attainment() >= self.target
    }
}

impl Score {
    /// Scores a run of a scene.
    #[must_use]
    pub fn of(scene: &Scene, run: &Run) -> Self {
        let routes = scene.routes.iter().enumerate().map(|(index, spec)| route(index, spec, scene, run)).collect();
        let mut reasons = BTreeMap::new();
        for fate in run.fates.iter().filter(|fate| !fate.reason.is_empty()) {
            *reasons.entry(fate.reason).or_default() += 1;
        }
        let cost = run.cost + hourly(scene);
        let choices = choices(scene, run);
        Self {
            routes,
            duration: scene.duration,
            cost,
            reasons,
            shares: Spread::of(&choices, scene.backends.len(), SHARE_WINDOW).counts,
            restlessness: Spread::of(&choices, scene.backends.len(), RESTLESS_BUCKET).restlessness,
            events: run.events,
        }
    }

    /// Good requests of all routes.
    #[must_use]
    pub fn good(&self) -> u64 {
        self.routes.iter().map(|route| route.good).sum()
    }

    /// Requests that came.
    #[must_use]
    pub fn arrived(&self) -> u64 {
        self.routes.iter().map(|route| route.arrived).sum()
    }

    /// Good requests per second.
    #[must_use]
    #[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
    pub fn goodput(&self) -> f64 {
        self.good() as f64 / self.duration
    }

    /// Dollars per thousand good requests; infinite when none was.
    #[must_use]
    #[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
    pub fn cost_per_kgood(&self) -> f64 {
        self.cost / self.good() as f64 * 1000.0
    }

    /// Whether every route kept its promise over the run.
    #[must_use]
    pub fn all_reached(&self) -> bool {
        self.routes.iter().all(RouteScore::reached)
    }

    /// How much the shares of the backends move from one window to the next: half the sum of the changes, on average.
    /// 0 is steady, 1 means that everything goes elsewhere every time.
    #[must_use]
    pub fn movement(&self) -> f64 {
        let shares: Vec<Vec<f64>> = self.shares.iter().filter_map(|counts| normalised(counts)).collect();
        let change = |pair: &[Vec<f64>]| match pair {
            [one, other] => one.iter().zip(other).map(|(one, other)| (one - other).abs()).sum::<f64>() / 2.0,
            _ => 0.0,
        };
        let changes: Vec<f64> = shares.windows(2).map(change).collect();
        mean(changes.into_iter())
    }
}

/// The mean; 0 of nothing.
#[must_use]
#[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
pub fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let count = values.len();
    if count == 0 { 0.0 } else { values.sum::<f64>() / count as f64 }
}

#[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
pub(super) fn ratio(part: u64, whole: u64) -> f64 {
    part as f64 / whole as f64
}

fn normalised(counts: &[u32]) -> Option<Vec<f64>> {
    let all: u32 = counts.iter().sum();
    (all > 0).then(|| counts.iter().map(|count| f64::from(*count) / f64::from(all)).collect())
}

/// GPUs that are paid by the hour cost the same whether used or not.
fn hourly(scene: &Scene) -> f64 {
    let per_hour = |price: Price| match price {
        Price::PerGpuHour { per_gpu_hour, gpus } => per_gpu_hour * f64::from(gpus),
        Price::PerToken { .. } => 0.0,
    };
    scene.backends.iter().map(|machine| per_hour(machine.price)).sum::<f64>() * scene.duration / 3600.0
}

/// When each request came, and where it went.
fn choices(scene: &Scene, run: &Run) -> Vec<(Duration, usize)> {
    let both = scene.workload.arrivals.iter().zip(&run.fates);
    both.filter_map(|(arrival, fate)| Some((arrival.at, fate.choice?.backend))).collect()
}

#[allow(clippy::cast_possible_truncation, reason = "runs are hours long at most")]
fn window_of(at: Duration, length: Duration) -> usize {
    (at.as_nanos() / length.as_nanos()) as usize
}

fn route(index: usize, spec: &Spec, scene: &Scene, run: &Run) -> RouteScore {
    let all = || scene.workload.arrivals.iter().zip(&run.fates).filter(|(arrival, _)| arrival.route == index);
    let count = |is: &dyn Fn(&Fate) -> bool| all().map(|(_, fate)| u64::from(is(fate))).sum::<u64>();
    let served = || all().filter(|(_, fate)| fate.end != End::Shed);
    let seconds = |duration: Duration| duration.as_secs_f64();
    let ttft =
        served().filter(|(arrival, _)| arrival.stream).map(|(_, fate)| fate.first.map_or(f64::INFINITY, seconds));
    let complete = |fate: &Fate| fate.end == End::Complete;
    let itl = served().filter(|(_, fate)| complete(fate) && fate.output > 1).map(|(_, fate)| seconds(fate.mean_gap()));
    let e2e = served().map(|(_, fate)| if complete(fate) { seconds(fate.last) } else { f64::INFINITY });
    let target = spec.objectives.iter().map(|objective| objective.quantile.share()).fold(1.0, f64::min);
    RouteScore {
        name: Arc::clone(&spec.name),
        target,
        arrived: count(&|_| true),
        good: count(&|fate| fate.good),
        shed: count(&|fate| fate.end == End::Shed),
        lost: count(&|fate| matches!(fate.end, End::Failed | End::Unfinished)),
        ttft: Quantiles::of(ttft.collect()),
        itl: Quantiles::of(itl.collect()),
        e2e: Quantiles::of(e2e.collect()),
        coverage: coverage(spec, all()),
        windows: windows(target, all()),
        aftermath: aftermath(scene, all()),
    }
}

fn coverage<'a>(spec: &Spec, all: impl Iterator<Item = (&'a Arrival, &'a Fate)>) -> [Coverage; 3] {
    let mut coverage = [Coverage::default(); 3];
    let [ttft, itl, e2e] = &mut coverage;
    let promised = |latency| spec.objectives.iter().any(|objective: &Objective| objective.latency == latency);
    for (arrival, fate) in all {
        let Some(choice) = fate.choice.filter(|choice| choice.feasible && fate.end != End::Shed) else { continue };
        let since_sent = |duration: Duration| duration.saturating_sub(fate.sent);
        if let Some(bound) = choice.bounds.ttft.filter(|_| arrival.stream && promised(Latency::TimeToFirstToken)) {
            ttft.count(fate.first.is_none_or(|first| since_sent(first) > bound));
        }
        let complete = fate.end == End::Complete;
        let gaps = arrival.stream && fate.output > 1 && promised(Latency::InterToken);
        if let Some(bound) = choice.bounds.itl.filter(|_| gaps && complete) {
            itl.count(fate.mean_gap() > bound);
        }
        if let Some(bound) = choice.bounds.e2e.filter(|_| promised(Latency::EndToEnd)) {
            e2e.count(!complete || since_sent(fate.last) > bound);
        }
    }
    coverage
}

fn windows<'a>(target: f64, all: impl Iterator<Item = (&'a Arrival, &'a Fate)>) -> (u64, u64) {
    let mut windows: BTreeMap<usize, (u64, u64)> = BTreeMap::new();
    for (arrival, fate) in all {
        let (good, arrived) = windows.entry(window_of(arrival.at, PROMISE_WINDOW)).or_default();
        *good += u64::from(fate.good);
        *arrived += 1;
    }
    let kept = windows.values().filter(|(good, arrived)| ratio(*good, *arrived) >= target).count();
    (kept as u64, windows.len() as u64)
}

fn aftermath<'a>(scene: &Scene, all: impl Iterator<Item = (&'a Arrival, &'a Fate)>) -> (u64, u64) {
    let starts: Vec<Duration> = scene.incidents.iter().filter(|one| starts(one.change)).map(|one| one.at).collect();
    let after = |at: Duration| starts.iter().any(|start| (*start..*start + AFTERMATH).contains(&at));
    let there = all.filter(|(arrival, _)| after(arrival.at));
    there.fold((0, 0), |(good, arrived), (_, fate)| (good + u64::from(fate.good), arrived + 1))
}

fn starts(change: Change) -> bool {
    match change {
        Change::Slow(factor) => factor > 1.0,
        Change::Dies => true,
        Change::Ejected | Change::Returns | Change::Hidden { .. } => false,
    }
}
