//! Where the time of one exchange went, stretch by stretch, in the order in which it was spent.
//!
//! The exchange's record holds how long each phase took, not when it began: phases that follow each other are laid one
//! behind the other, and what lies between the last of them and the first token is the model's.

use std::time::Duration;

use serde::Serialize;

use super::view::millis;
use crate::measure::exchange::ExchangeRecord;

/// One stretch of an exchange. Time 0 is the request being complete, where every latency starts; the upload lies before it.
#[derive(Debug, Serialize, PartialEq)]
pub(super) struct Stretch {
    /// `upload`, `headway`, `queue`, `failed_try`, `connect`, `backend_wait`, `first_token`, `decode`, `answer`, or
    /// `backpressure`, which lies somewhere within the answer.
    phase: &'static str,
    start_ms: f64,
    duration_ms: f64,
    /// Of a try that failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    backend: Option<String>,
}

pub(super) fn of(record: &ExchangeRecord) -> Vec<Stretch> {
    let (phases, felt) = (&record.phases, &record.latencies);
    let mut line = Line { stretches: Vec::new(), at: Duration::ZERO };
    line.before("upload", phases.upload);
    line.next("headway", phases.overhead);
    line.next("queue", phases.queue);
    let tried = record.attempts.split_last().map(|(_, before)| before).unwrap_or_default();
    for attempt in tried {
        line.next("failed_try", attempt.duration);
        line.of_backend(&attempt.backend);
    }
    if phases.backend_wait.is_zero() {
        return line.stretches;
    }
    line.next("connect", phases.connect);
    line.next("backend_wait", phases.backend_wait);
    let (first, end) = (felt.first_token, felt.end_to_end);
    if let Some(first) = first {
        line.until("first_token", first);
        line.until("decode", end.unwrap_or(first));
    } else if let Some(end) = end {
        line.until("answer", end);
    }
    let (at, whole) = (first.unwrap_or(line.at), phases.backpressure);
    line.add("backpressure", at, whole);
    line.stretches
}

struct Line {
    stretches: Vec<Stretch>,
    at: Duration,
}

impl Line {
    fn before(&mut self, phase: &'static str, duration: Duration) {
        if !duration.is_zero() {
            let (start_ms, duration_ms) = (-millis(duration), millis(duration));
            self.stretches.push(Stretch { phase, start_ms, duration_ms, backend: None });
        }
    }

    /// From where the last one ended, so long.
    fn next(&mut self, phase: &'static str, duration: Duration) {
        self.add(phase, self.at, duration);
        self.at = self.at.saturating_add(duration);
    }

    /// From where the last one ended to then, if that is later.
    fn until(&mut self, phase: &'static str, end: Duration) {
        self.next(phase, end.saturating_sub(self.at));
    }

    fn add(&mut self, phase: &'static str, start: Duration, duration: Duration) {
        if !duration.is_zero() {
            let (start_ms, duration_ms) = (millis(start), millis(duration));
            self.stretches.push(Stretch { phase, start_ms, duration_ms, backend: None });
        }
    }

    fn of_backend(&mut self, backend: &str) {
        if let Some(last) = self.stretches.last_mut() {
            last.backend = Some(backend.to_owned());
        }
    }
}
