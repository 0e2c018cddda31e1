//! The line that says how far a run is; only in a terminal.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

/// How often it is drawn anew.
const PERIOD: Duration = Duration::from_millis(200);
/// Characters of the bar.
const BAR: usize = 24;

/// How far it is.
pub(super) struct Progress {
    expected: Option<u64>,
    done: u64,
    errors: u64,
    start: Instant,
    drawn: Option<Instant>,
    terminal: bool,
}

impl Progress {
    pub(super) fn new(expected: Option<u64>, start: Instant) -> Self {
        Self { expected, done: 0, errors: 0, start, drawn: None, terminal: io::stderr().is_terminal() }
    }

    /// Counts one request more, and draws when it is time to.
    pub(super) fn record(&mut self, failed: bool, now: Instant) -> io::Result<()> {
        self.done += 1;
        self.errors += u64::from(failed);
        if !self.terminal || self.drawn.is_some_and(|drawn| now.saturating_duration_since(drawn) < PERIOD) {
            return Ok(());
        }
        self.drawn = Some(now);
        let mut out = io::stderr().lock();
        write!(out, "\r\x1b[K{}", self.line(now))?;
        out.flush()
    }

    #[allow(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
    fn line(&self, now: Instant) -> String {
        let elapsed = now.saturating_duration_since(self.start).as_secs_f64();
        let rate = self.done as f64 / elapsed.max(0.001);
        let bar = self.expected.map(|expected| format!("{} ", bar(self.done, expected))).unwrap_or_default();
        let of = self.expected.map(|expected| format!("/{expected}")).unwrap_or_default();
        let left = self.expected.map(|expected| expected.saturating_sub(self.done) as f64 / rate.max(0.001));
        let left = left.map(|left| format!(", about {left:.0} s left")).unwrap_or_default();
        format!("{bar}{}{of} requests, {} errors, {rate:.1} req/s, {elapsed:.0} s{left}", self.done, self.errors)
    }

    /// Clears the line.
    pub(super) fn end(&self) -> io::Result<()> {
        if self.terminal {
            write!(io::stderr().lock(), "\r\x1b[K")?;
        }
        Ok(())
    }
}

fn bar(done: u64, expected: u64) -> String {
    let filled = done.saturating_mul(BAR as u64).checked_div(expected).unwrap_or(0);
    let filled = usize::try_from(filled).unwrap_or(BAR).min(BAR);
    format!("{}{}", "█".repeat(filled), "░".repeat(BAR - filled))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock, ManualClock};

    #[test]
    fn the_line_says_how_far_it_is_and_how_long_it_will_take() {
        let start = ManualClock::new().now();
        let mut progress = Progress { terminal: false, ..Progress::new(Some(40), start) };
        for failed in [false, true, false, false, false, false, false, false, false, false] {
            progress.record(failed, start).expect("nothing is drawn");
        }
        let line = progress.line(start + Duration::from_secs(5));
        assert_eq!(line, "██████░░░░░░░░░░░░░░░░░░ 10/40 requests, 1 errors, 2.0 req/s, 5 s, about 15 s left");
        assert_eq!((bar(0, 0), bar(9, 3)), ("░".repeat(BAR), "█".repeat(BAR)));
    }
}
