//! What comes out: Prometheus metrics and logs.
//!
//! An exchange leaves one [`ExchangeRecord`]; [`Telemetry::record`] hands it to everyone here, and none of them makes
//! the data path wait: counters are atomics, lines go through a bounded queue.

pub mod access_log;
mod attained;
mod export;
pub mod families;
mod histogram;
mod json_line;
pub mod live;
pub mod logs;
pub mod metrics;
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
use self::metrics::Metrics;
use self::recent::Recent;
use crate::config::settings::{self, Settings};
use crate::measure::exchange::ExchangeRecord;

/// Everything that listens to exchanges.
#[derive(Debug)]
pub struct Telemetry {
    metrics: Metrics,
    recent: Recent,
    access_log: ArcSwapOption<OpenLog>,
}

/// The access log and what the configuration calls it.
#[derive(Debug)]
struct OpenLog {
    target: settings::AccessLog,
    log: AccessLog,
}

impl Telemetry {
    /// Starts what the configuration asks for.
    ///
    /// # Errors
    /// When the access log cannot be opened.
    pub fn new(settings: &Settings) -> io::Result<Self> {
        let metrics = Metrics::new(settings);
        let telemetry = Self { metrics, recent: Recent::default(), access_log: ArcSwapOption::empty() };
        telemetry.turn_access_log(settings.telemetry.access_log.as_ref())?;
        Ok(telemetry)
    }

    /// Goes over to a new configuration.
    ///
    /// # Errors
    /// When a new access log cannot be opened; then the old one goes on.
    pub fn apply(&self, settings: &Settings) -> io::Result<()> {
        self.metrics.apply(settings);
        logs::set_level(settings.telemetry.level);
        self.turn_access_log(settings.telemetry.access_log.as_ref())
    }

    fn turn_access_log(&self, target: Option<&settings::AccessLog>) -> io::Result<()> {
        if self.access_log.load().as_ref().map(|open| &open.target) == target {
            return Ok(());
        }
        let open = |target: &settings::AccessLog| {
            let log = AccessLog::open(target, Arc::clone(self.metrics.access_log_dropped()))?;
            io::Result::Ok(Arc::new(OpenLog { target: target.clone(), log }))
        };
        // The old log's thread writes what it still has, and ends.
        self.access_log.store(target.map(open).transpose()?);
        Ok(())
    }

    /// Takes the record of an exchange that has ended. Call it once per exchange.
    pub fn record(&self, record: Arc<ExchangeRecord>, now: Instant) {
        self.metrics.record(&record, now);
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
