//! The counters of one configuration, laid out so that recording an exchange is two look-ups and a few additions.
//!
//! Routes and backends are known by name before the first request comes; whatever else an exchange names is counted
//! as `other`. So the number of series depends on the configuration alone.

use std::array;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use super::attained::{Attained, BURN_WINDOWS};
use super::histogram::{Grids, Histogram};
use super::live::{ObjectiveFigures, PairFigure, PairTotals};
use super::predicted::Bounds;
use crate::config::settings::{Route, Settings};
use crate::measure::exchange::ExchangeRecord;
use crate::measure::objective::{Latency, Objective, Objectives};
use crate::measure::outcome::{Outcome, ShedReason};
use crate::route::decision::Reason;
use crate::wire::Api;

/// The label of exchanges that matched no route.
pub(super) const UNMATCHED: &str = "unmatched";
/// The label of what the configuration does not name (any more).
pub(super) const OTHER: &str = "other";
/// The label of what there was none of.
pub(super) const NONE: &str = "none";
/// What the `latency` label of an objective can be.
pub(super) const JUDGED: [&str; 4] = ["ttft", "itl", "e2e", "joint"];

/// The most pairs of route and backend that have series of their own: some 200 each, most of them buckets. A
/// configuration that names more is counted, but not in such detail.
const MOST_CELLS: usize = 2_000;
/// The most routes that have series of their own.
pub(super) const MOST_ROUTES: usize = 500;
/// The most backends that have series of their own, beside those of its pairs with routes; some 30 each.
pub(super) const MOST_BACKENDS: usize = 1_000;
/// The most GPUs of one backend that do.
pub(super) const MOST_GPUS: usize = 16;

const APIS: usize = Api::ALL.len() + 1;
const OUTCOMES: usize = Outcome::ALL.len();
const REASONS: usize = Reason::ALL.len() + 1;
const SHED_REASONS: usize = ShedReason::ALL.len();
/// What the `phase` label of the overhead can be.
pub(super) const OVERHEAD_PHASES: [&str; 5] = ["request", "hash", "decide", "first_token", "token"];

/// A fixed row of counters, one per value of a closed set.
#[derive(Debug)]
pub(super) struct Row<const N: usize>([AtomicU64; N]);

impl<const N: usize> Row<N> {
    fn new() -> Self {
        Self(array::from_fn(|_| AtomicU64::new(0)))
    }

    fn count(&self, index: usize) {
        if let Some(counter) = self.0.get(index) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The counters, by index.
    pub(super) fn values(&self) -> impl Iterator<Item = u64> {
        self.0.iter().map(|counter| counter.load(Ordering::Relaxed))
    }
}

/// A sum of amounts that are no whole numbers.
#[derive(Debug, Default)]
pub(super) struct Sum(AtomicU64);

impl Sum {
    fn add(&self, amount: f64) {
        if amount > 0.0 {
            let more = |sum: u64| Some((f64::from_bits(sum) + amount).to_bits());
            let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        }
    }

    pub(super) fn value(&self) -> f64 {
        f64::from_bits(self.0.load(Ordering::Relaxed))
    }
}

/// What is counted per route and backend.
#[derive(Debug)]
pub(super) struct Cell {
    /// By API (in the order of [`Api::ALL`], then none), then outcome.
    pub(super) requests: [Row<OUTCOMES>; APIS],
    pub(super) attempts: Row<OUTCOMES>,
    pub(super) no_first_token: Row<OUTCOMES>,
    pub(super) decisions: Row<REASONS>,
    pub(super) input_tokens: AtomicU64,
    pub(super) output_tokens: AtomicU64,
    pub(super) cost: Sum,
    /// How often a bound was kept, by latency.
    pub(super) bounds: Bounds,
    /// There once an exchange completed; most cells of `other` and `none` never need them.
    pub(super) latencies: OnceLock<Box<Latencies>>,
}

/// The distributions of one route and backend.
#[derive(Debug)]
pub(super) struct Latencies {
    pub(super) duration: Histogram,
    pub(super) first_byte: Histogram,
    pub(super) first_token: Histogram,
    pub(super) first_output: Histogram,
    pub(super) inter_token: Histogram,
    pub(super) inter_chunk: Histogram,
    pub(super) longest_stall: Histogram,
}

impl Latencies {
    fn new(grids: &Grids) -> Self {
        Self {
            duration: Histogram::new(&grids.whole),
            first_byte: Histogram::new(&grids.first_token),
            first_token: Histogram::new(&grids.first_token),
            first_output: Histogram::new(&grids.first_token),
            inter_token: Histogram::new(&grids.between_tokens),
            inter_chunk: Histogram::new(&grids.between_tokens),
            longest_stall: Histogram::new(&grids.between_tokens),
        }
    }

    /// The token latencies only of streamed answers with one choice.
    fn record(&self, record: &ExchangeRecord) {
        let felt = &record.latencies;
        let observe = |histogram: &Histogram, value: Option<_>| {
            if let Some(value) = value {
                histogram.observe(value);
            }
        };
        // The exchange ended about now: a wall clock is not asked for that.
        let ended = record.started + felt.end_to_end.unwrap_or_default();
        let trace = record.shown_trace().map(|id| (id, ended));
        let traced = |histogram: &Histogram, value: Option<_>| {
            if let Some(value) = value {
                histogram.observe_traced(value, trace);
            }
        };
        traced(&self.duration, felt.end_to_end);
        observe(&self.first_byte, felt.first_byte);
        if !(record.stream && record.measured()) {
            return;
        }
        traced(&self.first_token, felt.first_token);
        observe(&self.first_output, felt.first_output);
        traced(&self.inter_token, felt.inter_token);
        observe(&self.longest_stall, felt.longest_stall);
        if let Some(gaps) = &record.gaps {
            self.inter_chunk.merge(gaps.buckets(), gaps.sum());
        }
    }
}

impl Cell {
    fn new() -> Self {
        Self {
            requests: array::from_fn(|_| Row::new()),
            attempts: Row::new(),
            no_first_token: Row::new(),
            decisions: Row::new(),
            input_tokens: AtomicU64::new(0),
            output_tokens: AtomicU64::new(0),
            cost: Sum::default(),
            bounds: Bounds::default(),
            latencies: OnceLock::new(),
        }
    }

    fn record(&self, record: &ExchangeRecord, grids: &Grids, now: Instant) {
        let outcome = record.outcome as usize;
        if let Some(row) = self.requests.get(api_index(record.api)) {
            row.count(outcome);
        }
        if record.stream && !record.attempts.is_empty() && record.latencies.first_token.is_none() {
            self.no_first_token.count(outcome);
        }
        self.input_tokens.fetch_add(record.usage.input_tokens.unwrap_or(0), Ordering::Relaxed);
        self.output_tokens.fetch_add(record.usage.output_tokens.unwrap_or(0), Ordering::Relaxed);
        self.bounds.record(record, now);
        if record.outcome == Outcome::Complete && record.api.is_some() {
            self.latencies.get_or_init(|| Box::new(Latencies::new(grids))).record(record);
        }
    }
}

/// What is counted per route alone; it outlives reloads that keep the route.
#[derive(Debug)]
pub(super) struct RouteTotals {
    /// By [`JUDGED`]: bad, good.
    pub(super) judged: [Row<2>; JUDGED.len()],
    /// By reason.
    pub(super) shed: Row<SHED_REASONS>,
    /// By [`OVERHEAD_PHASES`].
    pub(super) overhead: [Histogram; OVERHEAD_PHASES.len()],
    pub(super) queue: Histogram,
    attained: Attained,
}

/// One route's series.
#[derive(Debug)]
pub(super) struct RouteSeries {
    pub(super) name: Arc<str>,
    objectives: Objectives,
    /// Over which attainment is shown.
    window: Duration,
    /// Over which the error budget is spent.
    budget_period: Duration,
    pub(super) totals: Arc<RouteTotals>,
    /// The route's backends, and [`NONE`] and [`OTHER`].
    pub(super) cells: HashMap<Arc<str>, Arc<Cell>>,
    none: Arc<Cell>,
    other: Arc<Cell>,
    dropped: Arc<AtomicU64>,
}

impl RouteSeries {
    fn new<'a>(
        name: Arc<str>,
        promise: (Objectives, Duration, Duration),
        backends: impl Iterator<Item = &'a Arc<str>>,
        old: Option<&Self>,
        (grids, room, dropped): (&Grids, &mut usize, &Arc<AtomicU64>),
    ) -> Self {
        let kept = |name: &Arc<str>| {
            let old = old.and_then(|old| old.cells.get(name)).map(Arc::clone);
            old.unwrap_or_else(|| Arc::new(Cell::new()))
        };
        let (none, other) = (NONE.into(), OTHER.into());
        let (none_cell, other_cell) = (kept(&none), kept(&other));
        let backends = backends.take(*room);
        let mut cells: HashMap<_, _> = backends.map(|name| (Arc::clone(name), kept(name))).collect();
        *room = room.saturating_sub(cells.len());
        cells.insert(none, Arc::clone(&none_cell));
        cells.insert(other, Arc::clone(&other_cell));
        let new_totals = || {
            Arc::new(RouteTotals {
                judged: array::from_fn(|_| Row::new()),
                shed: Row::new(),
                overhead: array::from_fn(|_| Histogram::new(&grids.overhead)),
                queue: Histogram::new(&grids.first_token),
                attained: Attained::default(),
            })
        };
        Self {
            name,
            objectives: promise.0,
            window: promise.1,
            budget_period: promise.2,
            totals: old.map_or_else(new_totals, |old| Arc::clone(&old.totals)),
            cells,
            none: none_cell,
            other: other_cell,
            dropped: Arc::clone(dropped),
        }
    }

    fn cell(&self, backend: Option<&Arc<str>>) -> &Cell {
        let Some(name) = backend else { return &self.none };
        self.cells.get(name).unwrap_or_else(|| {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            &self.other
        })
    }

    /// Which of [`JUDGED`] the route promises: those series are there from the start.
    pub(super) fn promised(&self) -> [bool; JUDGED.len()] {
        let Objectives { ttft, itl, e2e } = &self.objectives;
        [ttft.is_some(), itl.is_some(), e2e.is_some(), !self.objectives.is_empty()]
    }

    /// What each of [`JUDGED`] promises; the joint promise is none of its own.
    fn targets(&self) -> [Option<Objective>; JUDGED.len()] {
        let Objectives { ttft, itl, e2e } = self.objectives;
        [ttft, itl, e2e, None]
    }

    /// How well each promise is kept.
    fn objectives(&self, now: Instant) -> impl Iterator<Item = ObjectiveFigures> {
        let attained = &self.totals.attained;
        let judged = JUDGED.into_iter().zip(self.targets()).enumerate();
        let promised = judged.zip(self.promised()).filter_map(|(judged, promised)| promised.then_some(judged));
        promised.map(move |(place, (latency, target))| {
            let burn = |target: Objective| {
                let target = target.quantile;
                let rate = |(name, window)| Some((name, attained.over(place, window, now).burn_rate(target)?));
                BURN_WINDOWS.into_iter().filter_map(rate).collect()
            };
            let lately = attained.over(place, self.window, now);
            let budget = |target: Objective| attained.over(place, self.budget_period, now).budget_left(target.quantile);
            ObjectiveFigures {
                route: Arc::clone(&self.name),
                latency,
                target: target.map(|target| target.quantile.share()),
                threshold: target.map(|target| target.threshold.as_secs_f64()),
                good: lately.good,
                judged: lately.total,
                attainment: lately.share(),
                budget_left: target.and_then(budget),
                burn: target.map(burn).unwrap_or_default(),
            }
        })
    }

    /// What was counted, by backend.
    fn totals(&self) -> Vec<PairTotals> {
        let mut cells: Vec<_> = self.cells.iter().collect();
        cells.sort_unstable_by_key(|(name, _)| *name);
        let totals = |(backend, cell): (&Arc<str>, &Arc<Cell>)| PairTotals {
            route: Arc::clone(&self.name),
            backend: Arc::clone(backend),
            requests: cell.requests.iter().flat_map(Row::values).sum(),
            cost: cell.cost.value(),
        };
        cells.into_iter().map(totals).collect()
    }

    /// How often bounds were missed lately, by backend.
    fn missed(&self, now: Instant) -> Vec<PairFigure> {
        let mut cells: Vec<_> = self.cells.iter().collect();
        cells.sort_unstable_by_key(|(name, _)| *name);
        let of_cell = |(backend, cell): (&Arc<str>, &Arc<Cell>)| {
            let (route, backend) = (Arc::clone(&self.name), Arc::clone(backend));
            let shares = Latency::PROMISED.into_iter().zip(cell.bounds.missed(now));
            shares.filter_map(move |(latency, share)| {
                let (route, backend) = (Arc::clone(&route), Arc::clone(&backend));
                Some(PairFigure { route, backend, latency: latency.as_str(), value: share? })
            })
        };
        cells.into_iter().flat_map(of_cell).collect()
    }

    fn record(&self, record: &ExchangeRecord, grids: &Grids, now: Instant) {
        self.cell(record.backend()).record(record, grids, now);
        for attempt in &record.attempts {
            let cell = self.cell(Some(&attempt.backend));
            cell.attempts.count(attempt.outcome as usize);
            cell.cost.add(attempt.cost.unwrap_or(0.0));
            if let Some(reason) = attempt.reason {
                cell.decisions.count(reason_index(reason));
            }
        }
        self.totals.attained.record(verdicts(record), now);
        for (row, verdict) in self.totals.judged.iter().zip(verdicts(record)) {
            if let Some(good) = verdict {
                row.count(usize::from(good));
            }
        }
        if let Some(reason) = record.shed {
            self.totals.shed.count(reason as usize);
        }
        let phases = &record.phases;
        if !phases.queue.is_zero() {
            self.totals.queue.observe(phases.queue);
        }
        if record.outcome == Outcome::Complete {
            let spent = |phase: Duration| Some(phase).filter(|phase| !phase.is_zero());
            // A prompt without a whole block, and a path that is passed through, have no hash and no decision.
            let taken =
                [Some(phases.overhead), spent(phases.hash), spent(phases.decide), phases.relay_first, phases.relay];
            for (histogram, value) in self.totals.overhead.iter().zip(taken) {
                if let Some(value) = value {
                    histogram.observe(value);
                }
            }
        }
    }
}

/// Every series of one configuration.
#[derive(Debug)]
pub(super) struct Table {
    /// In the order of the page.
    pub(super) routes: Vec<Arc<RouteSeries>>,
    by_name: HashMap<Arc<str>, Arc<RouteSeries>>,
    unmatched: Arc<RouteSeries>,
    other: Arc<RouteSeries>,
    /// Observations that had no series of their own.
    dropped: Arc<AtomicU64>,
}

impl Table {
    /// The series of a configuration; those of names that `old` has too go on counting.
    pub(super) fn new(settings: &Settings, old: Option<&Self>, grids: &Grids) -> Self {
        let kept = |name: &str| old.and_then(|old| old.by_name.get(name)).map(|series| &**series);
        let dropped = old.map_or_else(Arc::default, |old| Arc::clone(&old.dropped));
        let mut room = MOST_CELLS;
        let of_route = |route: &Arc<Route>| {
            let names = route.backends.iter().filter_map(|&(index, _)| settings.backends.get(index));
            let names = names.map(|backend| &backend.name);
            let old = kept(&route.name);
            let promise = (route.objectives, route.window, route.budget_period);
            Arc::new(RouteSeries::new(Arc::clone(&route.name), promise, names, old, (grids, &mut room, &dropped)))
        };
        let mut routes: Vec<_> = settings.routes.iter().take(MOST_ROUTES).map(of_route).collect();
        let mut special = |name: &str, backends: &[Arc<str>]| {
            let (promise, old) = (<_>::default(), kept(name));
            Arc::new(RouteSeries::new(name.into(), promise, backends.iter(), old, (grids, &mut room, &dropped)))
        };
        let all: Vec<_> = settings.backends.iter().map(|backend| Arc::clone(&backend.name)).collect();
        let (unmatched, other) = (special(UNMATCHED, &[]), special(OTHER, &all));
        routes.extend([Arc::clone(&unmatched), Arc::clone(&other)]);
        let by_name = routes.iter().map(|series| (Arc::clone(&series.name), Arc::clone(series))).collect();
        Self { routes, by_name, unmatched, other, dropped }
    }

    /// Observations that had no series of their own, ever.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Whether what is known of them may have series.
    pub(super) fn shows(&self, route: &str, backend: &str) -> bool {
        self.by_name.get(route).is_some_and(|route| route.cells.contains_key(backend))
    }

    /// How often bounds were missed lately.
    pub(super) fn missed(&self, now: Instant) -> Vec<PairFigure> {
        self.routes.iter().flat_map(|route| route.missed(now)).collect()
    }

    /// What was counted by route and backend.
    pub(super) fn totals(&self) -> Vec<PairTotals> {
        self.routes.iter().flat_map(|route| route.totals()).collect()
    }

    /// How well every promise is kept.
    pub(super) fn objectives(&self, now: Instant) -> Vec<ObjectiveFigures> {
        self.routes.iter().flat_map(|route| route.objectives(now)).collect()
    }

    /// Whoever was turned away before there was a request belongs to no route.
    pub(super) fn turned_away(&self, reason: ShedReason) {
        self.unmatched.totals.shed.count(reason as usize);
    }

    pub(super) fn record(&self, record: &ExchangeRecord, grids: &Grids, now: Instant) {
        let series = match &record.route {
            Some(name) => self.by_name.get(name).unwrap_or_else(|| {
                self.dropped.fetch_add(1, Ordering::Relaxed);
                &self.other
            }),
            None => &self.unmatched,
        };
        series.record(record, grids, now);
    }
}

/// The verdicts in the order of [`JUDGED`].
pub(super) fn verdicts(record: &ExchangeRecord) -> [Option<bool>; JUDGED.len()] {
    let of = &record.verdicts;
    let [ttft, itl, e2e] = Latency::PROMISED.map(|latency| of.of(latency));
    [ttft, itl, e2e, of.joint()]
}

fn api_index(api: Option<Api>) -> usize {
    api.and_then(|api| Api::ALL.iter().position(|&one| one == api)).unwrap_or(Api::ALL.len())
}

fn reason_index(name: &str) -> usize {
    Reason::ALL.iter().position(|reason| reason.as_str() == name).unwrap_or(Reason::ALL.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outcome_counts_at_its_own_place() {
        for (place, outcome) in Outcome::ALL.into_iter().enumerate() {
            assert_eq!(outcome as usize, place, "{}", outcome.as_str());
        }
    }

    #[test]
    fn an_unknown_reason_is_other() {
        assert_eq!(reason_index("sacrifice"), 3);
        assert_eq!(reason_index("because"), REASONS - 1);
    }
}
