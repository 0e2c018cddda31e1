//! From counters to the page: the samples of every family, in the crate's types.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::UNIX_EPOCH;

use prometheus::proto::{Counter, Gauge, LabelPair, Metric, MetricFamily};

use super::exemplar::Exemplar;
use super::families::{self, Family};
use super::histogram::Histogram;
use super::live::{BACKEND_STATES, BackendFigures, LiveFigures};
use super::process::ProcessFigures;
use super::series::{
    Cell, JUDGED, Latencies, MOST_BACKENDS, MOST_GPUS, MOST_ROUTES, NONE, OTHER, OVERHEAD_PHASES, RouteSeries, Table,
};
use crate::config::certificates::{Expiry, Owner};
use crate::measure::group::FellOver;
use crate::measure::outcome::{Outcome, ShedReason};
use crate::route::decision::Reason;
use crate::wire::Api;

/// The samples collected so far, by family.
#[derive(Debug, Default)]
pub(super) struct Page(BTreeMap<&'static str, Samples>);

/// The samples of one family.
#[derive(Debug)]
pub(super) struct Samples {
    pub(super) family: MetricFamily,
    /// By the place of the sample: the exemplars of its buckets. Empty where there are none.
    pub(super) exemplars: Vec<Vec<Option<Exemplar>>>,
}

impl Page {
    /// The families that have samples; those without are absent from the page.
    pub(super) fn into_families(self) -> Vec<MetricFamily> {
        self.0.into_values().map(|samples| samples.family).collect()
    }

    /// The same with exemplars, by name.
    pub(super) fn samples(&self) -> impl Iterator<Item = &Samples> {
        self.0.values()
    }

    pub(super) fn counter(&mut self, family: &Family, labels: &[&str], value: f64) {
        let mut counter = Counter::default();
        counter.set_value(value);
        self.add(family, labels, |metric| metric.set_counter(counter));
    }

    pub(super) fn gauge(&mut self, family: &Family, labels: &[&str], value: f64) {
        let mut gauge = Gauge::default();
        gauge.set_value(value);
        self.add(family, labels, |metric| metric.set_gauge(gauge));
    }

    fn histogram(&mut self, family: &Family, labels: &[&str], histogram: &Histogram) {
        if !histogram.is_empty() {
            self.add(family, labels, |metric| metric.set_histogram(histogram.export()));
            if let Some(samples) = self.0.get_mut(family.name) {
                samples.exemplars.resize_with(samples.family.get_metric().len().saturating_sub(1), Vec::new);
                samples.exemplars.push(histogram.exemplars());
            }
        }
    }

    pub(super) fn total(&mut self, family: &Family, labels: &[&str], total: &AtomicU64) {
        self.counter(family, labels, float(total.load(Ordering::Relaxed)));
    }

    /// When the certificates in use stop working.
    pub(super) fn certificates(&mut self, expiries: &[Expiry]) {
        for Expiry { owner, role, at } in expiries {
            let (listener, backend) = match owner {
                Owner::Listener(address) => (&**address, ""),
                Owner::Backend(name) => ("", &**name),
            };
            let seconds = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
            self.gauge(&families::CERTIFICATE_EXPIRY, &[listener, backend, role.as_str()], float(seconds));
        }
    }

    /// A counter that may never have moved, and then is not worth a line.
    fn moved(&mut self, family: &Family, labels: &[&str], value: u64) {
        if value > 0 {
            self.counter(family, labels, float(value));
        }
    }

    fn add(&mut self, family: &Family, labels: &[&str], set: impl FnOnce(&mut Metric)) {
        debug_assert_eq!(family.labels.len(), labels.len(), "{}", family.name);
        let pair = |(name, value): (&&str, &&str)| {
            let mut pair = LabelPair::default();
            pair.set_name((*name).to_owned());
            pair.set_value((*value).to_owned());
            pair
        };
        let mut metric = Metric::from_label(family.labels.iter().zip(labels).map(pair).collect());
        set(&mut metric);
        let entry = self.0.entry(family.name).or_insert_with(|| {
            let mut entry = MetricFamily::default();
            entry.set_name(family.name.to_owned());
            entry.set_help(family.help.to_owned());
            entry.set_field_type(family.kind.field_type());
            Samples { family: entry, exemplars: Vec::new() }
        });
        entry.family.mut_metric().push(metric);
    }

    /// The counters of a configuration.
    pub(super) fn series(&mut self, table: &Table) {
        for route in &table.routes {
            self.route(route);
            let mut cells: Vec<_> = route.cells.iter().collect();
            cells.sort_unstable_by_key(|(name, _)| *name);
            for (backend, cell) in cells {
                self.cell(&route.name, backend, cell);
            }
        }
    }

    fn route(&mut self, route: &RouteSeries) {
        let name = &*route.name;
        for ((latency, row), promised) in JUDGED.iter().zip(&route.totals.judged).zip(route.promised()) {
            for (result, value) in ["bad", "good"].iter().zip(row.values()) {
                if promised || value > 0 {
                    self.counter(&families::SLO_REQUESTS, &[name, latency, result], float(value));
                }
            }
        }
        for (reason, value) in ShedReason::ALL.iter().zip(route.totals.shed.values()) {
            self.moved(&families::SHED, &[name, reason.as_str()], value);
        }
        for (phase, histogram) in OVERHEAD_PHASES.iter().zip(&route.totals.overhead) {
            self.histogram(&families::OVERHEAD, &[name, phase], histogram);
        }
        self.histogram(&families::QUEUE, &[name], &route.totals.queue);
    }

    fn cell(&mut self, route: &str, backend: &str, cell: &Cell) {
        let both = [route, backend];
        let apis = Api::ALL.iter().map(|api| api.as_str()).chain([NONE]);
        for (api, row) in apis.zip(&cell.requests) {
            for (outcome, value) in Outcome::ALL.iter().zip(row.values()) {
                self.moved(&families::REQUESTS, &[route, backend, api, outcome.as_str()], value);
            }
        }
        for (outcome, value) in Outcome::ALL.iter().zip(cell.attempts.values()) {
            self.moved(&families::ATTEMPTS, &[route, backend, outcome.as_str()], value);
        }
        for (outcome, value) in Outcome::ALL.iter().zip(cell.no_first_token.values()) {
            self.moved(&families::NO_FIRST_TOKEN, &[route, backend, outcome.as_str()], value);
        }
        let reasons = Reason::ALL.iter().map(|reason| reason.as_str()).chain([OTHER]);
        for (reason, value) in reasons.zip(cell.decisions.values()) {
            self.moved(&families::DECISIONS, &[route, backend, reason], value);
        }
        self.moved(&families::INPUT_TOKENS, &both, cell.input_tokens.load(Ordering::Relaxed));
        self.moved(&families::OUTPUT_TOKENS, &both, cell.output_tokens.load(Ordering::Relaxed));
        let cost = cell.cost.value();
        if cost > 0.0 {
            self.counter(&families::COST, &both, cost);
        }
        if let Some(latencies) = cell.latencies.get() {
            self.latencies(both, latencies);
        }
    }

    fn latencies(&mut self, labels: [&str; 2], of: &Latencies) {
        self.histogram(&families::REQUEST_DURATION, &labels, &of.duration);
        self.histogram(&families::FIRST_BYTE, &labels, &of.first_byte);
        self.histogram(&families::FIRST_TOKEN, &labels, &of.first_token);
        self.histogram(&families::FIRST_OUTPUT_TOKEN, &labels, &of.first_output);
        self.histogram(&families::INTER_TOKEN, &labels, &of.inter_token);
        self.histogram(&families::INTER_CHUNK, &labels, &of.inter_chunk);
        self.histogram(&families::LONGEST_STALL, &labels, &of.longest_stall);
    }

    /// What is true now.
    pub(super) fn live(&mut self, live: &LiveFigures) {
        for backend in live.backends.iter().take(MOST_BACKENDS) {
            self.gauge(&families::BACKEND_IN_FLIGHT, &[&backend.name], float(backend.in_flight));
            self.gauge(&families::BACKEND_WAITING_TOKENS, &[&backend.name], float(backend.waiting_tokens));
            self.gauge(&families::BACKEND_SLOW, &[&backend.name], f64::from(u8::from(backend.slow)));
            self.gauge(&families::BACKEND_BUFFERING, &[&backend.name], f64::from(u8::from(backend.buffering)));
            self.counter(&families::BUFFERED_STREAMS, &[&backend.name], float(backend.buffered_streams));
            if let Some(demand) = backend.demand {
                let profile = backend.profile.as_deref().unwrap_or(NONE);
                self.gauge(&families::BACKEND_DEMAND, &[&backend.name, profile], demand);
            }
            self.engine(backend);
            self.gpus(backend);
            for state in BACKEND_STATES {
                let is = f64::from(u8::from(state == backend.state));
                self.gauge(&families::BACKEND_STATE, &[&backend.name, state], is);
            }
        }
        for route in live.routes.iter().take(MOST_ROUTES) {
            self.counter(&families::UNPLACED, &[&route.name], float(route.unplaced));
        }
        for objective in &live.objectives {
            let (route, latency) = (&*objective.route, objective.latency);
            if let Some((share, seconds)) = objective.target.zip(objective.threshold) {
                self.gauge(&families::SLO_TARGET, &[route, latency], share);
                self.gauge(&families::SLO_THRESHOLD, &[route, latency], seconds);
            }
            if let Some(left) = objective.budget_left {
                self.gauge(&families::SLO_BUDGET_LEFT, &[route, latency], left);
            }
            if let Some(attainment) = objective.attainment {
                self.gauge(&families::SLO_ATTAINMENT, &[route, latency], attainment);
            }
            for (window, rate) in &objective.burn {
                self.gauge(&families::SLO_BURN_RATE, &[route, latency, window], *rate);
            }
        }
    }

    /// Every group of the routes that split their requests.
    pub(super) fn groups(&mut self, live: &LiveFigures) {
        for one in live.groups.iter().take(MOST_ROUTES) {
            let (route, group) = (&*one.route, &*one.group);
            self.counter(&families::SPLIT_REQUESTS, &[route, group], float(one.requests));
            for (reason, count) in FellOver::ALL.iter().zip(one.fell_over) {
                self.moved(&families::SPLIT_FELL_OVER, &[route, group, reason.as_str()], count);
            }
            for (latency, judged) in &one.judged {
                let bad = judged.total.saturating_sub(judged.good);
                for (result, count) in [("good", judged.good), ("bad", bad)] {
                    self.counter(&families::SPLIT_SLO_REQUESTS, &[route, group, latency, result], float(count));
                }
            }
            self.gauge(&families::SPLIT_SHARE, &[route, group], one.share);
            self.gauge(&families::SPLIT_ROLLED_BACK, &[route, group], f64::from(u8::from(one.rolled_back)));
        }
    }

    /// Absent where the engine is not asked.
    fn engine(&mut self, backend: &BackendFigures) {
        let Some(engine) = backend.engine else { return };
        self.gauge(&families::ENGINE_RUNNING, &[&backend.name], engine.running);
        self.gauge(&families::ENGINE_WAITING, &[&backend.name], engine.waiting);
        if let Some(ratio) = engine.kv_cache_ratio {
            self.gauge(&families::ENGINE_KV_CACHE, &[&backend.name], ratio);
        }
    }

    /// Absent where nobody tells.
    fn gpus(&mut self, backend: &BackendFigures) {
        for (gpu, reading) in backend.gpus.iter().take(MOST_GPUS) {
            let figures = [
                (&families::GPU_UTILIZATION, reading.utilization),
                (&families::GPU_MEMORY_USED, reading.memory_used.map(float)),
                (&families::GPU_MEMORY_TOTAL, reading.memory_total.map(float)),
                (&families::GPU_POWER, reading.power_watts),
                (&families::GPU_TEMPERATURE, reading.temperature_celsius),
                (&families::GPU_CLOCK, reading.clock_hertz),
                (&families::GPU_THROTTLED, reading.throttled().map(|throttled| f64::from(u8::from(throttled)))),
            ];
            for (family, value) in figures {
                if let Some(value) = value {
                    self.gauge(family, &[gpu, &backend.name], value);
                }
            }
        }
    }

    /// What routing expects, and how well it did, of what has series.
    pub(super) fn predictions(&mut self, live: &LiveFigures, table: &Table) {
        for (family, figures) in [(&families::PREDICTED, &live.predicted), (&families::PREDICTION_MISS, &live.missed)] {
            for one in figures.iter().filter(|one| table.shows(&one.route, &one.backend)) {
                self.gauge(family, &[&one.route, &one.backend, one.latency], one.value);
            }
        }
        for shadow in live.shadows.iter().filter(|one| table.shows(&one.route, &one.backend)) {
            let (route, backend) = (&*shadow.route, &*shadow.backend);
            for (agrees, row) in ["false", "true"].iter().zip(&shadow.choices) {
                for (predicted, count) in ["misses", "keeps"].iter().zip(row) {
                    self.moved(&families::SHADOW_DECISIONS, &[route, backend, agrees, predicted], *count);
                }
            }
            if shadow.cost > 0.0 {
                self.counter(&families::SHADOW_COST, &[route, backend], shadow.cost);
            }
        }
    }

    /// The process, in the names every Prometheus client uses.
    pub(super) fn process(&mut self, of: &ProcessFigures) {
        self.counter(&families::PROCESS_CPU, &[], of.cpu_seconds);
        self.gauge(&families::PROCESS_RESIDENT, &[], float(of.resident_bytes));
        self.gauge(&families::PROCESS_VIRTUAL, &[], float(of.virtual_bytes));
        self.gauge(&families::PROCESS_OPEN_FDS, &[], float(of.open_fds));
        self.gauge(&families::PROCESS_MAX_FDS, &[], float(of.max_fds));
        self.gauge(&families::PROCESS_THREADS, &[], float(of.threads));
        self.gauge(&families::PROCESS_START_TIME, &[], of.start_seconds);
    }
}

#[allow(clippy::cast_precision_loss, reason = "counters beyond 2^53 lose their last digits, as Prometheus's own do")]
pub(super) fn float(value: u64) -> f64 {
    value as f64
}
