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
use super::live::{LiveFigures, ObjectiveFigures, PairFigure, PairTotals};
use super::logs;
use super::openmetrics;
use super::process::ProcessFigures;
use super::series::Table;
use super::traces::{DropReason, SpanCounts};
use crate::config::certificates::Expiry;
use crate::config::settings::Settings;
use crate::measure::exchange::ExchangeRecord;
use crate::measure::outcome::ShedReason;

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
    certificates: ArcSwap<Vec<Expiry>>,
    handshakes_failed: AtomicU64,
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
            certificates: ArcSwap::default(),
            handshakes_failed: AtomicU64::new(0),
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

    /// What was counted of every route at every backend since the start.
    #[must_use]
    pub fn totals(&self) -> Vec<PairTotals> {
        self.counters.table.load().totals()
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

    /// Somebody was turned away before there was a request.
    pub fn turned_away(&self, reason: ShedReason) {
        self.counters.table.load().turned_away(reason);
    }

    /// When the certificates in use stop working.
    pub fn certificates(&self, expiries: Vec<Expiry>) {
        self.counters.certificates.store(Arc::new(expiries));
    }

    /// A client's connection came to no TLS.
    pub fn handshake_failed(&self) {
        self.counters.handshakes_failed.fetch_add(1, Ordering::Relaxed);
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

    /// The page in OpenMetrics, with exemplars.
    #[must_use]
    pub fn render_open(&self, live: &LiveFigures) -> String {
        openmetrics::encode(&self.counters.page(live))
    }

    /// The page in Prometheus's text format 0.0.4.
    #[must_use]
    pub fn render(&self, live: &LiveFigures) -> String {
        self.counters.live.lock().unwrap_or_else(PoisonError::into_inner).clone_from(live);
        TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap_or_default()
    }
}

impl Counters {
    /// Every sample there is.
    fn page(&self, live: &LiveFigures) -> Page {
        let mut page = Page::default();
        let table = self.table.load();
        page.series(&table);
        page.live(live);
        page.groups(live);
        page.predictions(live, &table);
        page.counter(&families::SERIES_DROPPED, &[], float(table.dropped()));
        page.certificates(&self.certificates.load());
        page.total(&families::HANDSHAKES_FAILED, &[], &self.handshakes_failed);
        page.total(&families::PANICS, &[], &self.panics);
        page.total(&families::PARSE_SKIPPED, &[], &self.parse_skipped);
        page.total(&families::ACCESS_LOG_DROPPED, &[], &self.access_log_dropped);
        page.counter(&families::LOG_DROPPED, &[], float(logs::dropped()));
        page.counter(&families::SPANS_EXPORTED, &[], float(self.spans.exported()));
        for reason in DropReason::ALL {
            page.counter(&families::SPANS_DROPPED, &[reason.as_str()], float(self.spans.dropped(reason)));
        }
        page.gauge(&families::BUILD_INFO, &[env!("CARGO_PKG_VERSION")], 1.0);
        let successful = u8::from(self.reload_successful.load(Ordering::Relaxed));
        page.gauge(&families::RELOAD_SUCCESSFUL, &[], f64::from(successful));
        let reloaded_at = self.reloaded_at.load(Ordering::Relaxed);
        if let Ok(seconds @ 1..) = u64::try_from(reloaded_at) {
            page.gauge(&families::RELOAD_TIMESTAMP, &[], float(seconds));
        }
        if let Some(process) = ProcessFigures::read() {
            page.process(&process);
        }
        page
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
        let live = self.of.live.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.of.page(&live).into_families()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::live::{BackendFigures, EngineFigures, GroupFigure, RouteFigures, ShadowFigure};
    use super::super::testing;
    use super::*;
    use crate::clock::{Clock, SystemClock};
    use crate::config::certificates::{Owner, Role};
    use crate::measure::attainment::Attainment;
    use crate::measure::outcome::{Outcome, ShedReason};
    use crate::wire::gpu::{GpuReading, Slowdowns};

    fn now() -> Instant {
        SystemClock.now()
    }

    fn pair(latency: &'static str, value: f64) -> PairFigure {
        PairFigure { route: "chat".into(), backend: "cheap".into(), latency, value }
    }

    fn gpu() -> GpuReading {
        GpuReading {
            utilization: Some(0.875),
            memory_used: Some(70 << 30),
            memory_total: Some(80 << 30),
            power_watts: Some(512.5),
            temperature_celsius: Some(61.0),
            clock_hertz: Some(1.98e9),
            slowdowns: Some(Slowdowns(0x40)),
        }
    }

    fn live() -> LiveFigures {
        LiveFigures {
            backends: vec![BackendFigures {
                name: "cheap".into(),
                in_flight: 3,
                waiting_tokens: 930,
                state: "ready",
                profile: Some("vllm-a100-bf16-tp1-throughput".into()),
                demand: Some(0.625),
                slow: false,
                buffering: false,
                buffered_streams: 4,
                engine: Some(EngineFigures { running: 7.0, waiting: 2.0, kv_cache_ratio: Some(0.25) }),
                gpus: vec![("GPU-1".into(), gpu()), ("1".into(), GpuReading::default())],
            }],
            routes: vec![RouteFigures { name: "chat".into(), unplaced: 6 }],
            objectives: vec![ObjectiveFigures {
                route: "chat".into(),
                latency: "ttft",
                target: Some(0.95),
                threshold: Some(0.137),
                good: 39,
                judged: 40,
                attainment: Some(0.975),
                budget_left: Some(0.5),
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
            groups: vec![GroupFigure {
                route: "chat".into(),
                group: "canary".into(),
                requests: 9,
                fell_over: [0, 0, 2, 0],
                share: 0.05,
                rolled_back: false,
                judged: vec![("ttft", Attainment { good: 6, total: 8 })],
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
        let started = SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_225_600);
        metrics.reload_succeeded(started);
        let at = started + Duration::from_secs(86_400);
        metrics.certificates(vec![
            Expiry { owner: Owner::Listener("0.0.0.0:8443".into()), role: Role::Own, at },
            Expiry { owner: Owner::Backend("cheap".into()), role: Role::Authority, at },
        ]);
        metrics.handshake_failed();
        metrics
    }

    /// Written anew with `HEADWAY_UPDATE_GOLDEN=1 cargo test the_page_is_as_documented`.
    #[test]
    fn the_page_is_as_documented() {
        let page = page(&busy(), &live());
        if std::env::var_os("HEADWAY_UPDATE_GOLDEN").is_some() {
            let file = concat!(env!("CARGO_MANIFEST_DIR"), "/src/telemetry/testdata/metrics.txt");
            std::fs::write(file, page).unwrap();
        } else {
            assert_eq!(page, include_str!("testdata/metrics.txt"), "the page is now:\n{page}");
        }
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
    fn what_is_true_now_has_a_bounded_number_of_series_too() {
        let series = |live: &LiveFigures| {
            let (kept, page) = (families::PREDICTED.name, busy().render(live));
            (page.lines().count(), page.lines().filter(|line| line.starts_with(kept)).count())
        };
        let (one, mut many) = (live(), live());
        many.backends = vec![one.backends[0].clone(); 30_000];
        many.backends[0].gpus = vec![one.backends[0].gpus[0].clone(); 300];
        many.routes = vec![one.routes[0].clone(); 30_000];
        many.groups = vec![one.groups[0].clone(); 30_000];
        let stranger = |figure: &PairFigure| PairFigure { backend: "strange".into(), ..figure.clone() };
        many.predicted = one.predicted.iter().chain(&vec![stranger(&one.predicted[0]); 300]).cloned().collect();
        let ((lines, predicted), (few, expected)) = (series(&many), series(&one));
        assert_eq!(predicted, expected);
        assert!(lines < few + 60 * 1_000, "{lines}");
    }

    #[test]
    fn a_million_names_that_clients_make_up_add_no_series() {
        let metrics = busy();
        let mut record = testing::complete();
        record.attempts.truncate(1);
        record.gaps = None;
        let start = now();
        let mut junk = |name: String| {
            let name = Arc::<str>::from(name);
            (record.route, record.model) = (Some(Arc::clone(&name)), Some(Arc::clone(&name)));
            record.attempts[0].backend = name;
            metrics.record(&record, start);
        };
        junk("first".to_owned());
        let lines = || (page(&metrics, &live()).lines().count(), metrics.render_open(&live()).lines().count());
        let before = lines();
        let mut random = crate::random::Random::seeded(1);
        (0..1_000_000).for_each(|_| junk(format!("model-{:x}", random.bits())));
        assert_eq!(lines(), before);
        let text = metrics.render(&live());
        assert!(text.len() < 2 << 20 && metrics.render_open(&live()).len() < 2 << 20, "{} bytes", text.len());
        // One for each route and two for each backend that is unknown: what ended the exchange, and the try.
        assert!(text.contains("headway_series_dropped_total 3000003\n"), "{text}");
    }

    #[test]
    fn a_configuration_that_names_too_much_is_counted_in_less_detail() {
        let mut settings = testing::settings();
        settings.backends = (0..60).map(|number| testing::backend(&format!("backend-{number}"))).collect();
        let all: Vec<_> = (0..60).collect();
        let route = |number: usize| testing::route(&format!("route-{number}"), &all, <_>::default());
        settings.routes = (0..1_000).map(route).collect();
        let (metrics, mut record) = (Metrics::new(&settings), testing::complete());
        record.attempts.truncate(1);
        record.stream = false;
        for route in &settings.routes {
            record.route = Some(Arc::clone(&route.name));
            for backend in &settings.backends {
                record.attempts[0].backend = Arc::clone(&backend.name);
                metrics.record(&record, now());
            }
        }
        let text = metrics.render(&LiveFigures::default());
        let pairs = text.lines().filter(|line| line.starts_with("headway_input_tokens_total")).count();
        assert!((2_000..3_500).contains(&pairs), "{pairs} pairs");
        assert!(text.contains("route=\"other\",backend=\"other\""), "what has no series of its own is counted");
        let dropped = text.lines().find_map(|line| line.strip_prefix("headway_series_dropped_total ")).unwrap();
        assert!(dropped.parse::<u64>().unwrap() > 50_000, "{dropped}");
    }

    /// Lines of the page in OpenMetrics that start so.
    fn open_lines(metrics: &Metrics, start: &str) -> Vec<String> {
        let page = metrics.render_open(&LiveFigures::default());
        page.lines().filter(|line| line.starts_with(start)).map(ToOwned::to_owned).collect()
    }

    #[test]
    fn a_bucket_points_to_the_trace_of_the_latest_exchange_in_it() {
        let metrics = Metrics::new(&testing::settings());
        metrics.record(&testing::complete(), now());
        let with_exemplar = |family: &str, le: &str| {
            let start = format!("headway_{family}_bucket{{route=\"chat\",backend=\"cheap\",le=\"{le}\"}} 1 # ");
            let lines = open_lines(&metrics, &start);
            assert_eq!(lines.len(), 1, "{family}");
            lines[0][start.len()..].to_owned()
        };
        let trace = "{trace_id=\"0af7651916cd43dd8448eb211c80319c\"}";
        assert_eq!(with_exemplar("time_to_first_token_seconds", "0.137"), format!("{trace} 0.123457 1767225602.125"));
        assert_eq!(with_exemplar("inter_token_latency_seconds", "0.025"), format!("{trace} 0.02025 1767225602.125"));
        assert_eq!(with_exemplar("request_duration_seconds", "2.5"), format!("{trace} 2.002 1767225602.125"));
        let without = Metrics::new(&testing::settings());
        without.record(&ExchangeRecord { trace_id: None, ..testing::complete() }, now());
        assert!(!without.render_open(&live()).contains(" # {") && !metrics.render(&live()).contains(" # {"));
    }

    #[test]
    fn the_page_in_openmetrics_says_the_same_in_its_own_words() {
        let metrics = busy();
        let page = metrics.render_open(&live());
        assert!(page.ends_with("\n# EOF\n") && page.matches("# EOF").count() == 1);
        for line in [
            "# TYPE headway_requests counter",
            "headway_requests_total{route=\"unmatched\",backend=\"none\",api=\"none\",outcome=\"rejected_request\"} 1.0",
            "# TYPE headway_time_to_first_token_seconds histogram",
            "# UNIT headway_time_to_first_token_seconds seconds",
            "# UNIT process_cpu_seconds seconds",
            "# TYPE headway_build info",
            "headway_panics_total 0.0",
            "headway_overhead_seconds_bucket{route=\"chat\",phase=\"hash\",le=\"1e-06\"} 0",
        ] {
            assert!(page.lines().any(|one| one == line), "{line}: {page}");
        }
        let samples = |page: &str| page.lines().filter(|line| !line.starts_with('#')).count();
        assert_eq!(samples(&page), samples(&metrics.render(&live())));
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
        let ttft = of("ttft");
        assert_eq!((ttft.good, ttft.judged, ttft.target, of("joint").budget_left), (3, 4, Some(0.95), None));
        // Two of five missed, of a twentieth that may.
        assert_eq!(ttft.budget_left.map(f64::round), Some(-7.0));
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
