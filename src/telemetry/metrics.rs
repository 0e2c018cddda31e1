//! Prometheus metrics: counted as exchanges end, rendered when asked.
//!
//! The registry is the `prometheus` crate's, with one collector of ours behind it. Recording is what the data path
//! pays for, so it takes no lock and hashes two names, whatever the number of families; the page is built when it
//! is asked for.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime};

use arc_swap::ArcSwap;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Registry, TextEncoder};

use super::export::{Page, float};
use super::families::{self, FAMILIES};
use super::histogram::Grids;
use super::live::{LiveFigures, ObjectiveFigures, PairFigure};
use super::logs;
use super::process::ProcessFigures;
use super::series::Table;
use super::traces::{DropReason, SpanCounts};
use crate::config::settings::Settings;
use crate::measure::exchange::ExchangeRecord;

/// All metrics of this process.
#[derive(Debug)]
pub struct Metrics {
    counters: Arc<Counters>,
    registry: Registry,
}

/// What is counted; shared with the collector in the registry.
#[derive(Debug)]
struct Counters {
    grids: Grids,
    table: ArcSwap<Table>,
    /// Handed over by [`Metrics::render`] for the collection it starts.
    live: Mutex<LiveFigures>,
    reload_successful: AtomicBool,
    /// Unix seconds; 0 until known.
    reloaded_at: AtomicI64,
    panics: AtomicU64,
    parse_skipped: AtomicU64,
    access_log_dropped: Arc<AtomicU64>,
    spans: Arc<SpanCounts>,
}

impl Metrics {
    /// The metrics of a configuration. Its objectives' thresholds become bucket edges, for good.
    #[must_use]
    pub fn new(settings: &Settings) -> Self {
        let grids = Grids::new(settings);
        let table = ArcSwap::from_pointee(Table::new(settings, None, &grids));
        let counters = Arc::new(Counters {
            grids,
            table,
            live: Mutex::default(),
            reload_successful: AtomicBool::new(true),
            reloaded_at: AtomicI64::new(0),
            panics: AtomicU64::new(0),
            parse_skipped: AtomicU64::new(0),
            access_log_dropped: Arc::default(),
            spans: Arc::default(),
        });
        let registry = Registry::new();
        let exporter =
            Exporter { descs: FAMILIES.iter().filter_map(families::Family::desc).collect(), of: Arc::clone(&counters) };
        // It can only fail for families that clash, and a test renders them all.
        let registered = registry.register(Box::new(exporter));
        debug_assert!(registered.is_ok(), "{registered:?}");
        Self { counters, registry }
    }

    /// A new configuration: its new names get series, those it no longer has lose theirs, the others go on counting.
    pub fn apply(&self, settings: &Settings) {
        let old = self.counters.table.load();
        self.counters.table.store(Arc::new(Table::new(settings, Some(&old), &self.counters.grids)));
    }

    /// Counts one exchange.
    pub fn record(&self, record: &ExchangeRecord, now: Instant) {
        self.counters.table.load().record(record, &self.counters.grids, now);
    }

    /// How well every objective is kept, for [`LiveFigures`].
    #[must_use]
    pub fn objectives(&self, now: Instant) -> Vec<ObjectiveFigures> {
        self.counters.table.load().objectives(now)
    }

    /// How often bounds were missed lately, for [`LiveFigures`].
    #[must_use]
    pub fn missed(&self, now: Instant) -> Vec<PairFigure> {
        self.counters.table.load().missed(now)
    }

    /// The configuration was read with success, at first or again.
    pub fn reload_succeeded(&self, at: SystemTime) {
        let since_epoch = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        self.counters.reloaded_at.store(i64::try_from(since_epoch).unwrap_or(i64::MAX), Ordering::Relaxed);
        self.counters.reload_successful.store(true, Ordering::Relaxed);
    }

    /// The configuration was read in vain; the old one goes on.
    pub fn reload_failed(&self) {
        self.counters.reload_successful.store(false, Ordering::Relaxed);
    }

    /// A panic was caught.
    pub fn panicked(&self) {
        self.counters.panics.fetch_add(1, Ordering::Relaxed);
    }

    /// A part of an answer was forwarded without being read.
    pub fn parse_skipped(&self, events: u64) {
        self.counters.parse_skipped.fetch_add(events, Ordering::Relaxed);
    }

    /// Where the access log counts the lines it had to drop.
    pub(super) fn access_log_dropped(&self) -> &Arc<AtomicU64> {
        &self.counters.access_log_dropped
    }

    /// Where traces count what became of their spans.
    pub(super) fn spans(&self) -> &Arc<SpanCounts> {
        &self.counters.spans
    }

    /// The page in Prometheus's text format 0.0.4.
    #[must_use]
    pub fn render(&self, live: &LiveFigures) -> String {
        self.counters.live.lock().unwrap_or_else(PoisonError::into_inner).clone_from(live);
        TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap_or_default()
    }
}

/// The one collector in the registry.
#[derive(Debug)]
struct Exporter {
    descs: Vec<Desc>,
    of: Arc<Counters>,
}

impl Collector for Exporter {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let counters = &self.of;
        let mut page = Page::default();
        page.series(&counters.table.load());
        {
            let live = counters.live.lock().unwrap_or_else(PoisonError::into_inner);
            page.live(&live);
            page.predictions(&live);
        }
        page.total(&families::PANICS, &[], &counters.panics);
        page.total(&families::PARSE_SKIPPED, &[], &counters.parse_skipped);
        page.total(&families::ACCESS_LOG_DROPPED, &[], &counters.access_log_dropped);
        page.counter(&families::LOG_DROPPED, &[], float(logs::dropped()));
        page.counter(&families::SPANS_EXPORTED, &[], float(counters.spans.exported()));
        for reason in DropReason::ALL {
            page.counter(&families::SPANS_DROPPED, &[reason.as_str()], float(counters.spans.dropped(reason)));
        }
        page.gauge(&families::BUILD_INFO, &[env!("CARGO_PKG_VERSION")], 1.0);
        let successful = u8::from(counters.reload_successful.load(Ordering::Relaxed));
        page.gauge(&families::RELOAD_SUCCESSFUL, &[], f64::from(successful));
        let reloaded_at = counters.reloaded_at.load(Ordering::Relaxed);
        if let Ok(seconds @ 1..) = u64::try_from(reloaded_at) {
            page.gauge(&families::RELOAD_TIMESTAMP, &[], float(seconds));
        }
        if let Some(process) = ProcessFigures::read() {
            page.process(&process);
        }
        page.into_families()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::live::{BackendFigures, EngineFigures, ShadowFigure};
    use super::super::testing;
    use super::*;
    use crate::clock::{Clock, SystemClock};
    use crate::measure::exchange::Attempt;
    use crate::measure::outcome::{Outcome, ShedReason};

    fn now() -> Instant {
        SystemClock.now()
    }

    fn pair(latency: &'static str, value: f64) -> PairFigure {
        PairFigure { route: "chat".into(), backend: "cheap".into(), latency, value }
    }

    fn live() -> LiveFigures {
        LiveFigures {
            backends: vec![BackendFigures {
                name: "cheap".into(),
                in_flight: 3,
                waiting_tokens: 930,
                state: "ready",
                engine: Some(EngineFigures { running: 7.0, waiting: 2.0, kv_cache_ratio: Some(0.25) }),
            }],
            objectives: vec![ObjectiveFigures {
                route: "chat".into(),
                latency: "ttft",
                attainment: Some(0.975),
                burn: vec![("5m", 0.5)],
            }],
            predicted: vec![pair("ttft", 0.125), pair("itl", 0.02)],
            missed: vec![pair("ttft", 0.05)],
            shadows: vec![ShadowFigure {
                route: "chat".into(),
                backend: "cheap".into(),
                choices: [[1, 2], [0, 5]],
                cost: 0.5,
            }],
        }
    }

    /// The page without what differs from run to run.
    fn page(metrics: &Metrics, live: &LiveFigures) -> String {
        let own = |line: &&str| !line.contains("process_") && !line.contains("build_info{");
        metrics.render(live).lines().filter(own).flat_map(|line| [line, "\n"]).collect()
    }

    /// Everything that can happen, once.
    fn busy() -> Metrics {
        let metrics = Metrics::new(&testing::settings());
        metrics.record(&testing::complete(), now());
        metrics.record(&testing::refused(), now());
        let mut shed = ExchangeRecord { route: Some("chat".into()), outcome: Outcome::Shed, ..testing::refused() };
        shed.verdicts.ttft = Some(false);
        shed.shed = Some(ShedReason::Predicted);
        shed.phases.queue = Duration::from_millis(40);
        metrics.record(&shed, now());
        let mut silent = ExchangeRecord { outcome: Outcome::FirstTokenTimeout, ..testing::complete() };
        silent.latencies = crate::measure::exchange::Latencies::default();
        metrics.record(&silent, now());
        metrics.reload_succeeded(SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_225_600));
        metrics
    }

    #[test]
    fn the_page_is_as_documented() {
        let page = page(&busy(), &live());
        assert_eq!(page, include_str!("testdata/metrics.txt"), "the page is now:\n{page}");
    }

    #[test]
    fn every_documented_family_is_exported_and_no_other() {
        let page = busy().render(&live());
        let mut exported: Vec<_> = page
            .lines()
            .filter_map(|line| line.strip_prefix("# TYPE "))
            .map(|rest| rest.split_once(' ').unwrap())
            .map(|(name, kind)| (name.to_owned(), kind.to_owned()))
            .collect();
        let kind = |family: &families::Family| format!("{:?}", family.kind).to_lowercase();
        let mut documented: Vec<_> = FAMILIES.iter().map(|family| (family.name.to_owned(), kind(family))).collect();
        exported.sort();
        documented.sort();
        assert_eq!(exported, documented);
    }

    #[test]
    fn names_that_clients_make_up_add_no_series() {
        let metrics = busy();
        let record = |name: String| {
            let (name, mut record) = (Some(Arc::<str>::from(name)), testing::complete());
            (record.route, record.model) = (name.clone(), name.clone());
            record.attempts = vec![Attempt { backend: name.unwrap(), ..record.attempts[1].clone() }];
            metrics.record(&record, now());
        };
        record("first".to_owned());
        let before = page(&metrics, &live()).lines().count();
        let mut random = crate::random::Random::seeded(1);
        for _ in 0..100_000 {
            record(format!("model-{:x}", random.bits()));
        }
        assert_eq!(page(&metrics, &live()).lines().count(), before);
    }

    #[test]
    fn a_reload_keeps_counting_what_stays_and_drops_what_goes() {
        let metrics = Metrics::new(&testing::settings());
        metrics.record(&testing::complete(), now());
        let mut changed = testing::settings();
        changed.routes.retain(|route| &*route.name == "chat");
        metrics.apply(&changed);
        metrics.record(&testing::complete(), now());
        metrics.record(&ExchangeRecord { route: Some("batch".into()), ..testing::complete() }, now());
        let page = metrics.render(&LiveFigures::default());
        let counted = "headway_requests_total{route=\"chat\",backend=\"cheap\",api=\"chat\",outcome=\"complete\"} 2\n";
        assert!(page.contains(counted), "{page}");
        assert!(!page.contains("batch") && page.contains("{route=\"other\",backend=\"cheap\""), "{page}");
    }

    #[test]
    fn every_try_counts_the_decision_that_led_to_it() {
        let metrics = Metrics::new(&testing::settings());
        metrics.record(&testing::complete(), now());
        let page = metrics.render(&LiveFigures::default());
        for (backend, reason) in [("fast", "probe"), ("cheap", "cheapest_within_slo")] {
            let line =
                format!("headway_decisions_total{{route=\"chat\",backend=\"{backend}\",reason=\"{reason}\"}} 1\n");
            assert!(page.contains(&line), "{line}{page}");
        }
    }

    #[test]
    fn thresholds_are_bucket_edges() {
        let page = busy().render(&LiveFigures::default());
        let edge = |family: &str, le: &str| {
            let line = format!("headway_{family}_bucket{{route=\"chat\",backend=\"cheap\",le=\"{le}\"}} ");
            assert!(page.contains(&line), "{line}");
        };
        edge("time_to_first_token_seconds", "0.137");
        edge("inter_token_latency_seconds", "0.041");
    }

    #[test]
    fn unstreamed_and_several_choices_stay_out_of_token_latencies() {
        let metrics = Metrics::new(&testing::settings());
        metrics.record(&ExchangeRecord { stream: false, ..testing::complete() }, now());
        metrics.record(&ExchangeRecord { choices: 2, ..testing::complete() }, now());
        let page = metrics.render(&LiveFigures::default());
        assert!(
            page.contains("headway_request_duration_seconds_count{route=\"chat\",backend=\"cheap\"} 2\n"),
            "{page}"
        );
        assert!(!page.contains("time_to_first_token") && !page.contains("inter_token"), "{page}");
    }

    #[test]
    fn attainment_is_of_the_window_and_burn_of_the_budget() {
        let metrics = Metrics::new(&testing::settings());
        let (start, later) = (now(), now() + Duration::from_secs(1_000));
        let mut bad = testing::complete();
        bad.verdicts.ttft = Some(false);
        metrics.record(&bad, start);
        metrics.record(&bad, later);
        (0..3).for_each(|_| metrics.record(&testing::complete(), later));
        let figures = metrics.objectives(later);
        let of = |latency| figures.iter().find(|of| &*of.route == "chat" && of.latency == latency).unwrap();
        assert_eq!((of("ttft").attainment, of("itl").attainment), (Some(0.75), Some(1.0)));
        assert_eq!(of("joint").attainment, Some(0.75));
        // One of four missed of a twentieth that may: five times too fast; two of five in the hour: eight times.
        let rounded: Vec<_> = of("ttft").burn.iter().map(|(name, rate)| (*name, rate.round())).collect();
        assert_eq!(rounded, [("5m", 5.0), ("1h", 8.0), ("6h", 8.0), ("3d", 8.0)]);
        assert!(of("joint").burn.is_empty() && figures.len() == 3, "{figures:?}");
    }

    #[test]
    fn a_failed_reload_shows_until_one_succeeds() {
        let metrics = Metrics::new(&testing::settings());
        let successful = || metrics.render(&LiveFigures::default()).contains("last_reload_successful 1\n");
        assert!(successful());
        metrics.reload_failed();
        assert!(!successful());
        metrics.reload_succeeded(SystemTime::UNIX_EPOCH);
        assert!(successful());
    }
}
