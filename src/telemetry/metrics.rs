//! Prometheus metrics: counted as exchanges end, rendered when asked.
//!
//! The registry is the `prometheus` crate's, with one collector of ours behind it. Recording is what the data path
//! pays for, so it takes no lock and hashes two names, whatever the number of families; the page is built when it
//! is asked for.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Registry, TextEncoder};

use super::export::Page;
use super::families::{self, FAMILIES};
use super::histogram::Grids;
use super::live::LiveFigures;
use super::process::ProcessFigures;
use super::series::Table;
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
    log_dropped: Arc<AtomicU64>,
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
            log_dropped: Arc::default(),
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
    pub fn record(&self, record: &ExchangeRecord) {
        self.counters.table.load().record(record, &self.counters.grids);
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
    pub fn parse_skipped(&self) {
        self.counters.parse_skipped.fetch_add(1, Ordering::Relaxed);
    }

    /// Where the access log counts the lines it had to drop.
    pub(super) fn access_log_dropped(&self) -> &Arc<AtomicU64> {
        &self.counters.access_log_dropped
    }

    /// Where headway's own log counts the lines it had to drop.
    #[must_use]
    pub fn log_dropped(&self) -> &Arc<AtomicU64> {
        &self.counters.log_dropped
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
        page.live(&counters.live.lock().unwrap_or_else(PoisonError::into_inner));
        page.total(&families::PANICS, &[], &counters.panics);
        page.total(&families::PARSE_SKIPPED, &[], &counters.parse_skipped);
        page.total(&families::ACCESS_LOG_DROPPED, &[], &counters.access_log_dropped);
        page.total(&families::LOG_DROPPED, &[], &counters.log_dropped);
        page.gauge(&families::BUILD_INFO, &[env!("CARGO_PKG_VERSION")], 1.0);
        let successful = u8::from(counters.reload_successful.load(Ordering::Relaxed));
        page.gauge(&families::RELOAD_SUCCESSFUL, &[], f64::from(successful));
        let reloaded_at = counters.reloaded_at.load(Ordering::Relaxed);
        if let Ok(seconds @ 1..) = u64::try_from(reloaded_at) {
            page.gauge(&families::RELOAD_TIMESTAMP, &[], super::export::float(seconds));
        }
        if let Some(process) = ProcessFigures::read() {
            page.process(&process);
        }
        page.into_families()
    }
}
