//! What comes out: Prometheus metrics and logs.
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

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;

use self::access_log::AccessLog;
use self::history::History;
use self::metrics::Metrics;
use self::recent::Recent;
use crate::config::settings::{self, Settings};
use crate::measure::exchange::ExchangeRecord;

/// Everything that listens to exchanges.
#[derive(Debug)]
pub struct Telemetry {
    metrics: Metrics,
    recent: Recent,
    history: History,
    access_log: ArcSwapOption<OpenLog>,
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
}

impl Telemetry {
    /// Starts what the configuration asks for.
    ///
    /// # Errors
    /// When the access log cannot be opened.
    pub fn new(settings: &Settings) -> io::Result<Self> {
        let metrics = Metrics::new(settings);
        let (recent, history) = (Recent::default(), History::new(settings));
        let telemetry = Self { metrics, recent, history, access_log: ArcSwapOption::empty() };
        let prepared = telemetry.prepare(settings)?;
        telemetry.access_log.store(prepared.access_log);
        Ok(telemetry)
    }

    /// Does of going over to a new configuration what can fail; nothing that is in force changes.
    ///
    /// # Errors
    /// When a new access log cannot be opened.
    pub fn prepare(&self, settings: &Settings) -> io::Result<Prepared> {
        let target = settings.telemetry.access_log.as_ref();
        let current = self.access_log.load_full();
        if current.as_ref().map(|open| &open.target) == target {
            return Ok(Prepared { access_log: current });
        }
        let open = |target: &settings::AccessLog| {
            let log = AccessLog::open(target, Arc::clone(self.metrics.access_log_dropped()))?;
            io::Result::Ok(Arc::new(OpenLog { target: target.clone(), log }))
        };
        Ok(Prepared { access_log: target.map(open).transpose()? })
    }

    /// Goes over to the configuration that was prepared.
    pub fn apply(&self, settings: &Settings, prepared: Prepared) {
        self.metrics.apply(settings);
        self.history.apply(settings);
        logs::set_level(settings.telemetry.level);
        // The old log's thread writes what it still has, and ends.
        self.access_log.store(prepared.access_log);
    }

    /// Takes the record of an exchange that has ended. Call it once per exchange.
    pub fn record(&self, record: Arc<ExchangeRecord>, now: Instant) {
        self.metrics.record(&record, now);
        self.history.record(&record, now);
        if let Some(open) = self.access_log.load().as_ref() {
            open.log.record(Arc::clone(&record));
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

    /// Writes what is queued, waiting at most `patience` for each log; whether all was written.
    pub fn close(&self, patience: Duration) -> bool {
        let written = self.access_log.load().as_ref().is_none_or(|open| open.log.close(patience));
        logs::close(patience) && written
    }
}

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
