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

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::measure::exchange::{Attempt, Latencies, Phases};
    use crate::measure::objective::Verdicts;
    use crate::measure::outcome::Outcome;
    use crate::wire::Usage;

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn attempt(backend: &str, outcome: Outcome, duration: Duration) -> Attempt {
        let (backend, blame) = (backend.into(), outcome.blame());
        Attempt { backend, profile: None, reason: None, decision: None, outcome, blame, duration, first_token: None }
    }

    fn record(attempts: Vec<Attempt>, phases: Phases, latencies: Latencies) -> ExchangeRecord {
        ExchangeRecord {
            started: SystemTime::UNIX_EPOCH,
            request_id: "id".into(),
            trace_id: None,
            route: None,
            api: None,
            model: None,
            attempts,
            status: 200,
            outcome: Outcome::Complete,
            stream: true,
            choices: 1,
            latencies,
            gaps: None,
            usage: Usage::default(),
            finish_reason: None,
            phases,
            bytes_in: 0,
            bytes_out: 0,
            decision: None,
            cost: None,
            shed: None,
            verdicts: Verdicts::default(),
        }
    }

    #[track_caller]
    fn check(record: &ExchangeRecord, expected: &[(&str, f64, f64)]) {
        let seen: Vec<_> = of(record).iter().map(|one| (one.phase, one.start_ms, one.duration_ms)).collect();
        assert_eq!(seen, expected);
    }

    #[test]
    fn stretches_follow_each_other_from_the_upload_to_the_last_token() {
        let phases = Phases {
            upload: ms(5),
            overhead: ms(1),
            queue: ms(20),
            connect: ms(2),
            backend_wait: ms(30),
            backpressure: ms(7),
            ..Phases::default()
        };
        let latencies = Latencies { first_token: Some(ms(93)), end_to_end: Some(ms(293)), ..Latencies::default() };
        let attempts = vec![attempt("a", Outcome::ConnectFailed, ms(10)), attempt("b", Outcome::Complete, ms(262))];
        let record = record(attempts, phases, latencies);
        check(
            &record,
            &[
                ("upload", -5.0, 5.0),
                ("headway", 0.0, 1.0),
                ("queue", 1.0, 20.0),
                ("failed_try", 21.0, 10.0),
                ("connect", 31.0, 2.0),
                ("backend_wait", 33.0, 30.0),
                ("first_token", 63.0, 30.0),
                ("decode", 93.0, 200.0),
                ("backpressure", 93.0, 7.0),
            ],
        );
        assert_eq!(of(&record)[3].backend.as_deref(), Some("a"));
    }

    #[test]
    fn an_answer_in_one_piece_has_no_tokens_of_its_own() {
        let phases = Phases { backend_wait: ms(40), ..Phases::default() };
        let latencies = Latencies { end_to_end: Some(ms(50)), ..Latencies::default() };
        let record = record(vec![attempt("a", Outcome::Complete, ms(50))], phases, latencies);
        check(&record, &[("backend_wait", 0.0, 40.0), ("answer", 40.0, 10.0)]);
    }

    #[test]
    fn what_reached_no_backend_ends_with_the_queue() {
        let phases = Phases { overhead: ms(1), queue: ms(50), ..Phases::default() };
        check(&record(Vec::new(), phases, Latencies::default()), &[("headway", 0.0, 1.0), ("queue", 1.0, 50.0)]);
    }
}
