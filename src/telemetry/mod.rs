//! What comes out: Prometheus metrics, traces and logs.
//!
//! An exchange leaves one [`ExchangeRecord`]; [`Telemetry::record`] hands it to everyone here, and none of them makes
//! the data path wait: counters are atomics, lines go through a bounded queue.

pub mod access_log;
mod attained;
mod exemplar;
mod export;
pub mod families;
mod histogram;
pub mod history;
mod json_line;
pub mod live;
pub mod logs;
pub mod metrics;
pub mod openmetrics;
mod predicted;
mod process;
pub mod recent;
mod series;
mod spool;
#[cfg(test)]
mod testing;
pub mod time;
pub mod traces;

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;

use self::access_log::AccessLog;
use self::history::History;
use self::metrics::Metrics;
use self::recent::Recent;
use self::traces::Tracer;
use crate::config::settings::{self, Settings};
use crate::measure::course::TraceContext;
use crate::measure::exchange::ExchangeRecord;
use crate::wire::trace_context::{SpanId, TraceParent};

/// Everything that listens to exchanges.
#[derive(Debug)]
pub struct Telemetry {
    metrics: Metrics,
    recent: Recent,
    history: History,
    access_log: ArcSwapOption<OpenLog>,
    tracer: ArcSwapOption<Tracer>,
}

/// The access log and what the configuration calls it.
#[derive(Debug)]
struct OpenLog {
    target: settings::AccessLog,
    log: AccessLog,
}

/// What a new configuration needs and what may fail, done beforehand; dropping it undoes it.
#[derive(Debug)]
#[must_use]
pub struct Prepared {
    access_log: Option<Arc<OpenLog>>,
    tracer: Option<Arc<Tracer>>,
}

/// What could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The access log.
    #[error("the access log cannot be opened: {0}")]
    AccessLog(io::Error),
    /// Traces.
    #[error("traces cannot be sent: {0}")]
    Traces(io::Error),
}

impl Telemetry {
    /// Starts what the configuration asks for.
    ///
    /// # Errors
    /// When the access log cannot be opened, or a certificate for the collector cannot be used.
    pub fn new(settings: &Settings) -> Result<Self, StartError> {
        let metrics = Metrics::new(settings);
        let (recent, history) = (Recent::default(), History::new(settings));
        let (access_log, tracer) = (ArcSwapOption::empty(), ArcSwapOption::empty());
        let telemetry = Self { metrics, recent, history, access_log, tracer };
        let prepared = telemetry.prepare(settings)?;
        telemetry.access_log.store(prepared.access_log);
        telemetry.tracer.store(prepared.tracer);
        Ok(telemetry)
    }

    /// Does of going over to a new configuration what can fail; nothing that is in force changes.
    ///
    /// # Errors
    /// When a new access log cannot be opened, or a certificate for the collector cannot be used.
    pub fn prepare(&self, settings: &Settings) -> Result<Prepared, StartError> {
        let access_log = self.prepare_access_log(settings).map_err(StartError::AccessLog)?;
        let tracer = self.prepare_tracer(settings).map_err(StartError::Traces)?;
        Ok(Prepared { access_log, tracer })
    }

    fn prepare_access_log(&self, settings: &Settings) -> io::Result<Option<Arc<OpenLog>>> {
        let target = settings.telemetry.access_log.as_ref();
        let current = self.access_log.load_full();
        if current.as_ref().map(|open| &open.target) == target {
            return Ok(current);
        }
        let open = |target: &settings::AccessLog| {
            let log = AccessLog::open(target, Arc::clone(self.metrics.access_log_dropped()))?;
            io::Result::Ok(Arc::new(OpenLog { target: target.clone(), log }))
        };
        target.map(open).transpose()
    }

    fn prepare_tracer(&self, settings: &Settings) -> io::Result<Option<Arc<Tracer>>> {
        let Some(wanted) = &settings.telemetry.otlp else { return Ok(None) };
        let current = self.tracer.load_full().filter(|current| current.serves(wanted));
        let start = || Tracer::start(wanted, Arc::clone(self.metrics.spans())).map(Arc::new);
        current.map_or_else(start, Ok).map(Some)
    }

    /// Goes over to the configuration that was prepared.
    pub fn apply(&self, settings: &Settings, prepared: Prepared) {
        self.metrics.apply(settings);
        self.history.apply(settings);
        logs::set_level(settings.telemetry.level);
        // The old ones' threads write and send what they still have, and end.
        self.access_log.store(prepared.access_log);
        self.tracer.store(prepared.tracer);
    }

    /// The place of a new exchange in a trace: its caller's, or one of its own; `None` where no traces are made.
    pub fn begin_trace(
        &self,
        caller: Option<TraceParent>,
        state: impl FnOnce() -> Option<Arc<str>>,
    ) -> Option<TraceContext> {
        self.tracer.load().as_ref().map(|tracer| tracer.begin(caller, state))
    }

    /// Whether backends are told of our traces.
    pub fn propagates_traces(&self) -> bool {
        self.tracer.load().as_ref().is_some_and(|tracer| tracer.propagates())
    }

    /// A name for a span; `None` where no traces are made.
    pub fn new_span(&self) -> Option<SpanId> {
        self.tracer.load().as_ref().map(|tracer| tracer.new_span())
    }

    /// Decides, at the end of an exchange, whether its trace is exported.
    pub fn judge_trace(&self, record: &mut ExchangeRecord) {
        let kept = self.tracer.load().as_ref().and_then(|tracer| tracer.judge(record));
        if let Some(trace) = &mut record.trace {
            trace.kept = kept;
        }
    }

    /// Takes the record of an exchange that has ended. Call it once per exchange.
    pub fn record(&self, record: Arc<ExchangeRecord>, now: Instant) {
        self.metrics.record(&record, now);
        self.history.record(&record, now);
        if let Some(open) = self.access_log.load().as_ref() {
            open.log.record(Arc::clone(&record));
        }
        if record.exported_trace().is_some()
            && let Some(tracer) = self.tracer.load().as_ref()
        {
            tracer.record(&record);
        }
        self.recent.push(record);
    }

    /// The metrics.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// The last exchanges.
    #[must_use]
    pub fn recent(&self) -> &Recent {
        &self.recent
    }

    /// The last quarter of an hour.
    #[must_use]
    pub fn history(&self) -> &History {
        &self.history
    }

    /// Opens log files anew, after their rotation.
    pub fn reopen(&self) {
        if let Some(open) = self.access_log.load().as_ref() {
            open.log.reopen();
        }
    }

    /// Writes and sends what is queued, waiting at most `patience` for the traces and for each log; whether all was
    /// written.
    pub fn close(&self, patience: Duration) -> bool {
        let tracer = self.tracer.load_full();
        if let Some(tracer) = &tracer {
            tracer.start_closing(patience);
        }
        let written = self.access_log.load().as_ref().is_none_or(|open| open.log.close(patience));
        // A little more than it was given, so that what it could not send is counted.
        let closed = tracer.is_none_or(|tracer| tracer.closed(patience + LAST_COUNTS));
        logs::close(patience) && written && closed
    }
}

/// How long counting what was lost may take.
const LAST_COUNTS: Duration = Duration::from_millis(200);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock, SystemClock};

    #[test]
    fn a_reload_turns_the_access_log_without_losing_a_line() {
        let folder = tempfile::tempdir().unwrap();
        let (one, two) = (folder.path().join("one"), folder.path().join("two"));
        let logging_to = |path: Option<&std::path::Path>| {
            let mut settings = testing::settings();
            settings.telemetry.access_log = path.map(|path| settings::AccessLog::File(path.to_owned()));
            settings
        };
        let telemetry = Telemetry::new(&logging_to(Some(&one))).unwrap();
        let record = || telemetry.record(Arc::new(testing::complete()), SystemClock.now());
        let turn =
            |settings: &Settings| telemetry.prepare(settings).map(|prepared| telemetry.apply(settings, prepared));
        record();
        turn(&logging_to(Some(&two))).unwrap();
        record();
        assert!(turn(&logging_to(Some(folder.path()))).is_err(), "a folder is no file");
        record();
        assert!(telemetry.close(Duration::from_secs(10)));
        let lines = |path| std::fs::read_to_string(path).unwrap_or_default().lines().count();
        assert_eq!(lines(&two), 2);
        while lines(&one) < 1 {
            std::thread::yield_now();
        }
        turn(&logging_to(None)).unwrap();
        record();
        assert_eq!(telemetry.recent().newest(10).len(), 4);
    }

    #[test]
    fn the_ring_keeps_the_newest() {
        let recent = Recent::default();
        for number in 0..recent::KEPT + 5 {
            let mut record = testing::refused();
            record.request_id = number.to_string().into();
            recent.push(Arc::new(record));
        }
        assert_eq!(recent.newest(usize::MAX).len(), recent::KEPT);
        assert_eq!(&*recent.newest(1)[0].request_id, "1004");
        assert!(recent.find("4").is_none() && recent.find("5").is_some());
    }
}
