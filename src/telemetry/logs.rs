//! headway's own log: lines on standard error that nobody waits for.
//!
//! `tracing` is the front, and what pingora and others say through `log` comes in too, but only as warnings: below
//! that they print requests, and a request holds credentials.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, OnceLock};
use std::time::Duration;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::prelude::*;
use tracing_subscriber::{Registry, fmt, reload};

use super::spool::{Sink, Spool};
use crate::config::settings::Level;

/// Longest line; what is beyond is cut.
const LINE_BYTES: usize = 8 << 10;

/// What pingora says here is the doing of clients: anybody who connects and says half a head, or nonsense after HTTP/2's
/// preface, would write a line at the level of an error.
const CLIENTS_DOING: [&str; 4] = [
    "pingora_proxy",
    "pingora_core::apps",
    "pingora_core::protocols::http::v1::server",
    "pingora_core::protocols::http::v2::server",
];

static LOG: OnceLock<Log> = OnceLock::new();
static DROPPED: LazyLock<Arc<AtomicU64>> = LazyLock::new(Arc::default);

/// The process's one log.
struct Log {
    filter: reload::Handle<Targets, Registry>,
    lines: Arc<Spool<Vec<u8>>>,
}

/// Why the log could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The process has a logger already.
    #[error("a logger is already set up")]
    AlreadySet,
    /// The writing thread could not be started.
    #[error("cannot start the log's thread: {0}")]
    Thread(#[from] io::Error),
}

/// Sets up the process's log, once; colours where standard error is a terminal and `NO_COLOR` is not set.
///
/// # Errors
/// When it is set up already, or no thread can be had.
pub fn init(level: Level) -> Result<(), LogError> {
    let append = |line: &Vec<u8>, text: &mut Vec<u8>| text.extend_from_slice(line);
    let lines = Arc::new(Spool::start("log", Sink::Stderr, Arc::clone(&DROPPED), append)?);
    let (filter, handle) = reload::Layer::new(targets(level));
    let layer = fmt::layer().with_ansi(colours()).with_writer(Lines(Arc::clone(&lines)));
    let subscriber = Registry::default().with(filter).with(layer);
    tracing::subscriber::set_global_default(subscriber).map_err(|_| LogError::AlreadySet)?;
    // The bridge for `log`; whoever set a logger before us keeps it.
    let _kept = tracing_log::LogTracer::builder().with_max_level(bridged(level)).init();
    LOG.set(Log { filter: handle, lines }).map_err(|_| LogError::AlreadySet)
}

/// Changes the level; without a log set up, nothing happens.
pub fn set_level(level: Level) {
    if let Some(log) = LOG.get() {
        // The subscriber lives as long as the process, so its filter can always be exchanged.
        let _infallible = log.filter.reload(targets(level));
        log::set_max_level(bridged(level));
    }
}

/// Writes what is queued, waiting at most `patience`; whether all was written.
pub fn close(patience: Duration) -> bool {
    LOG.get().is_none_or(|log| log.lines.close(patience))
}

/// How many lines were dropped.
pub(super) fn dropped() -> u64 {
    DROPPED.load(Ordering::Relaxed)
}

/// headway at its level, everyone else at most as warnings.
fn targets(level: Level) -> Targets {
    let own = match level {
        Level::Error => LevelFilter::ERROR,
        Level::Warn => LevelFilter::WARN,
        Level::Info => LevelFilter::INFO,
        Level::Debug => LevelFilter::DEBUG,
        Level::Trace => LevelFilter::TRACE,
    };
    let hushed = CLIENTS_DOING.map(|target| (target, LevelFilter::OFF));
    Targets::new().with_target("headway", own).with_targets(hushed).with_default(own.min(LevelFilter::WARN))
}

fn bridged(level: Level) -> log::LevelFilter {
    if level == Level::Error { log::LevelFilter::Error } else { log::LevelFilter::Warn }
}

fn colours() -> bool {
    let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    !refused && io::IsTerminal::is_terminal(&io::stderr())
}

/// Makes a writer per event.
struct Lines(Arc<Spool<Vec<u8>>>);

/// Collects one event's text, and hands it over when it is whole.
struct Line<'a> {
    lines: &'a Spool<Vec<u8>>,
    text: Vec<u8>,
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line { lines: &self.0, text: Vec::new() }
    }
}

impl io::Write for Line<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = LINE_BYTES.saturating_sub(self.text.len()).min(bytes.len());
        self.text.extend_from_slice(bytes.get(..room).unwrap_or_default());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line<'_> {
    fn drop(&mut self) {
        if self.text.last().is_some_and(|&last| last != b'\n') {
            self.text.push(b'\n');
        }
        if !self.text.is_empty() {
            self.lines.push(std::mem::take(&mut self.text));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::spool::tests::Shared;

    #[test]
    fn an_event_is_one_line_and_others_are_heard_only_as_warnings() {
        let shared = Shared::default();
        let append = |line: &Vec<u8>, text: &mut Vec<u8>| text.extend_from_slice(line);
        let lines = Arc::new(Spool::start("test", shared.sink(), Arc::default(), append).unwrap());
        let layer = fmt::layer().with_ansi(false).with_writer(Lines(Arc::clone(&lines)));
        let subscriber = Registry::default().with(targets(Level::Debug)).with(layer);
        tracing::subscriber::with_default(subscriber, || {
            tracing::debug!(target: "headway::fleet", backend = "a\nb", "ejected");
            tracing::trace!(target: "headway::fleet", "too much");
            tracing::debug!(target: "pingora_core", "Authorization: Bearer canary");
            tracing::warn!(target: "pingora_core", "broken pipe");
            tracing::error!(target: "pingora_core::apps", "H2 handshake error");
        });
        assert!(lines.close(Duration::from_secs(10)));
        let text = shared.text();
        assert_eq!(text.lines().count(), 2, "{text}");
        assert!(text.contains("ejected") && text.contains("broken pipe") && !text.contains("canary"), "{text}");
    }

    #[test]
    fn a_long_line_is_cut() {
        use std::io::Write;
        let shared = Shared::default();
        let append = |line: &Vec<u8>, text: &mut Vec<u8>| text.extend_from_slice(line);
        let spool = Spool::start("test", shared.sink(), Arc::default(), append).unwrap();
        let mut line = Line { lines: &spool, text: Vec::new() };
        line.write_all(&vec![b'a'; 3 * LINE_BYTES]).unwrap();
        drop(line);
        assert!(spool.close(Duration::from_secs(10)));
        assert_eq!(shared.text().len(), LINE_BYTES + 1);
    }
}
