//! Where the time of one exchange went: the bars of its trace, for whoever looks at the API instead.

use std::time::Duration;

use serde::Serialize;

use super::view::{Name, millis};
use crate::measure::exchange::ExchangeRecord;
use crate::telemetry::traces::phases::{Phase, Within, phases};

/// One stretch of an exchange. Time 0 is the request being complete, where every latency starts; the upload lies before
/// it, and the engine's own stretches lie within the wait before them.
#[derive(Debug, Serialize)]
pub(super) struct Stretch {
    /// The name of the trace's span, its words joined by underscores: `upload`, `headway`, `queue`, `connect`, `send`,
    /// `backend_wait`, `engine_queue`, `engine_prefill`, `decode`, `body`, `client_back_pressure`.
    phase: String,
    start_ms: f64,
    duration_ms: f64,
    /// How much of it counts, where that is not all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pending_ms: Option<f64>,
    /// When the head of the answer came, where that lies within.
    #[serde(skip_serializing_if = "Option::is_none")]
    head_ms: Option<f64>,
    /// Whose try it is a part of.
    #[serde(skip_serializing_if = "Option::is_none")]
    backend: Option<Name>,
}

/// In the order of the trace; what took no time is left out.
pub(super) fn of(record: &ExchangeRecord) -> Vec<Stretch> {
    let mut backend = None;
    let of_trace = phases(record).into_iter().map(|phase| {
        backend = match phase.within {
            Within::Exchange => None,
            Within::Try(place) => record.attempts.get(place).map(|attempt| &attempt.backend),
            Within::Previous => backend,
        };
        Stretch { backend: backend.map(Name::new), ..stretch(&phase) }
    });
    let of_trace = of_trace.filter(|stretch| stretch.duration_ms > 0.0);
    upload(record.phases.upload).into_iter().chain(of_trace).collect()
}

fn stretch(phase: &Phase) -> Stretch {
    Stretch {
        phase: phase.name.replace([' ', '-'], "_"),
        start_ms: millis(phase.from),
        duration_ms: millis(phase.to.saturating_sub(phase.from)),
        pending_ms: phase.pending.map(millis),
        head_ms: phase.head.map(millis),
        backend: None,
    }
}

fn upload(took: Duration) -> Option<Stretch> {
    let (start_ms, duration_ms) = (-millis(took), millis(took));
    let stretch = || Stretch {
        phase: "upload".to_owned(),
        start_ms,
        duration_ms,
        pending_ms: None,
        head_ms: None,
        backend: None,
    };
    (!took.is_zero()).then(stretch)
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use serde_json::Value;

    use super::*;
    use crate::measure::course::{Course, TryCourse};
    use crate::measure::exchange::{Attempt, Phases};

    use crate::measure::outcome::Outcome;
    use crate::wire::EngineTimings;

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    /// One that began then and took so long.
    fn attempt(backend: &str, outcome: Outcome, began: u64, took: u64, course: TryCourse) -> Attempt {
        let (backend, blame) = (backend.into(), outcome.blame());
        Attempt {
            backend,
            profile: None,
            reason: None,
            decision: None,
            outcome,
            blame,
            duration: ms(took),
            first_token: None,
            hedge: false,
            cost: None,
            course: TryCourse { began: ms(began), ..course },
        }
    }

    fn record(attempts: Vec<Attempt>, phases: Phases, course: Course) -> ExchangeRecord {
        let begun = ExchangeRecord::begun(SystemTime::UNIX_EPOCH, "id".into());
        ExchangeRecord { attempts, phases, course, status: 200, outcome: Outcome::Complete, stream: true, ..begun }
    }

    type Row<'a> = (&'a str, &'a str, f64, f64);

    #[track_caller]
    fn check(record: &ExchangeRecord, expected: &[Row<'_>]) {
        let stretches = serde_json::to_value(of(record)).expect("JSON");
        let text = |one: &Value, field: &str| one[field].as_str().unwrap_or("-").to_owned();
        let row = |one: &Value| {
            let times = [&one["start_ms"], &one["duration_ms"]].map(|time| time.as_f64().expect("a time"));
            (text(one, "phase"), text(one, "backend"), times[0], times[1])
        };
        let seen: Vec<_> = stretches.as_array().expect("a list").iter().map(row).collect();
        let seen: Vec<_> =
            seen.iter().map(|(phase, on, from, took)| (phase.as_str(), on.as_str(), *from, *took)).collect();
        assert_eq!(seen, expected);
    }

    fn connected(connecting: u64, connected: u64, sent: u64) -> TryCourse {
        let [connecting, connected, sent] = [connecting, connected, sent].map(|at| Some(ms(at)));
        TryCourse { connecting, connected, sent, ..TryCourse::default() }
    }

    /// 20 ms in the queue, a try that cannot connect in 10 ms, and one whose head comes after 30 ms and whose first token
    /// after 60.
    fn answered() -> ExchangeRecord {
        let phases = Phases { upload: ms(5), queue: ms(20), backpressure: ms(7), ..Phases::default() };
        let course = Course { queued: ms(1), blocked: Some((ms(100), ms(150))), ended: ms(300), ..Course::default() };
        let refused = TryCourse { connecting: Some(ms(22)), ..TryCourse::default() };
        let (head, first_token, last_token) = (Some(ms(65)), Some(ms(95)), Some(ms(295)));
        let streamed = TryCourse { head, first_token, last_token, ..connected(32, 34, 35) };
        let attempts = vec![
            attempt("a", Outcome::ConnectFailed, 22, 10, refused),
            attempt("b", Outcome::Complete, 32, 266, streamed),
        ];
        record(attempts, phases, course)
    }

    const BEGINNING: [Row<'_>; 6] = [
        ("upload", "-", -5.0, 5.0),
        ("headway", "-", 0.0, 1.0),
        ("queue", "-", 1.0, 20.0),
        ("headway", "-", 21.0, 1.0),
        ("connect", "a", 22.0, 10.0),
        ("connect", "b", 32.0, 2.0),
    ];

    #[test]
    fn stretches_lie_where_the_trace_has_them_from_the_upload_to_the_last_token() {
        let answer = [
            ("send", "b", 34.0, 1.0),
            ("backend_wait", "b", 35.0, 60.0),
            ("decode", "b", 95.0, 200.0),
            ("client_back_pressure", "-", 100.0, 50.0),
        ];
        check(&answered(), &[&BEGINNING[..], &answer].concat());
        let stretches = of(&answered());
        let (wait, pressed) = (&stretches[7], &stretches[9]);
        assert_eq!((wait.head_ms, pressed.pending_ms), (Some(65.0), Some(7.0)));
    }

    #[test]
    fn what_the_engine_tells_lies_within_the_wait() {
        let engine = EngineTimings { queue: Some(ms(10)), prefill: ms(40), inter_token: None };
        let answer = [
            ("send", "b", 34.0, 1.0),
            ("backend_wait", "b", 35.0, 60.0),
            ("engine_queue", "b", 45.0, 10.0),
            ("engine_prefill", "b", 55.0, 40.0),
            ("decode", "b", 95.0, 200.0),
            ("client_back_pressure", "-", 100.0, 50.0),
        ];
        let told = |engine| ExchangeRecord { engine: Some(engine), ..answered() };
        check(&told(engine), &[&BEGINNING[..], &answer].concat());
        let without_queue: Vec<_> = answer.into_iter().filter(|row| row.0 != "engine_queue").collect();
        check(&told(EngineTimings { queue: None, ..engine }), &[&BEGINNING[..], &without_queue].concat());
    }

    #[test]
    fn a_last_try_that_came_to_no_head_is_shown_as_far_as_it_came() {
        let course = Course { ended: ms(101), ..Course::default() };
        let last = |outcome, course: TryCourse| attempt("a", outcome, 1, 100, course);
        let shown = |last| record(vec![last], Phases::default(), course.clone());
        let unreachable = TryCourse { connecting: Some(ms(1)), ..TryCourse::default() };
        let own = ("headway", "-", 0.0, 1.0);
        check(&shown(last(Outcome::ConnectFailed, unreachable)), &[own, ("connect", "a", 1.0, 100.0)]);
        let rest = [own, ("connect", "a", 1.0, 2.0), ("send", "a", 3.0, 1.0), ("backend_wait", "a", 4.0, 97.0)];
        check(&shown(last(Outcome::FirstTokenTimeout, connected(1, 3, 4))), &rest);
    }

    #[test]
    fn an_answer_in_one_piece_has_no_tokens_of_its_own() {
        let answer = TryCourse { head: Some(ms(41)), last_token: Some(ms(50)), ..connected(0, 0, 1) };
        let attempts = vec![attempt("a", Outcome::Complete, 0, 50, answer)];
        let course = Course { ended: ms(50), ..Course::default() };
        let whole = ExchangeRecord { stream: false, ..record(attempts, Phases::default(), course) };
        check(&whole, &[("send", "a", 0.0, 1.0), ("backend_wait", "a", 1.0, 40.0), ("body", "a", 41.0, 9.0)]);
    }

    #[test]
    fn what_reached_no_backend_ends_with_the_queue() {
        let phases = Phases { queue: ms(50), ..Phases::default() };
        let course = Course { queued: ms(1), ended: ms(51), ..Course::default() };
        check(&record(Vec::new(), phases, course), &[("headway", "-", 0.0, 1.0), ("queue", "-", 1.0, 50.0)]);
    }
}
