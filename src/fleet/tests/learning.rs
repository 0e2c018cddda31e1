//! What the fleet remembers of ended exchanges, and what routing makes of it.

use super::*;
use crate::measure::course::TryCourse;
use crate::measure::exchange::{Attempt, DecisionSummary, Latencies};
use crate::measure::objective::{Latency, Objective, Verdicts};
use crate::measure::outcome::Outcome;
use crate::route::decision::Reason;
use crate::route::price::Price;
use crate::units::Quantile;
use crate::wire::Usage;

/// A streamed exchange that one backend completed.
pub(super) fn completed(backend: &str, ttft: Duration) -> ExchangeRecord {
    let attempt = Attempt {
        backend: backend.into(),
        profile: None,
        reason: None,
        decision: None,
        outcome: Outcome::Complete,
        blame: Blame::Success,
        duration: SECOND,
        first_token: Some(ttft),
        hedge: false,
        cost: None,
        course: TryCourse::default(),
    };
    let latencies = Latencies {
        first_token: Some(ttft),
        inter_token: Some(Duration::from_millis(10)),
        end_to_end: Some(SECOND),
        ..Latencies::default()
    };
    ExchangeRecord {
        route: Some("r".into()),
        api: Some(crate::wire::Api::Chat),
        attempts: vec![attempt],
        status: 200,
        outcome: Outcome::Complete,
        stream: true,
        latencies,
        usage: Usage { output_tokens: Some(77), ..Usage::default() },
        decision: Some(DecisionSummary::default()),
        verdicts: Verdicts { ttft: Some(ttft < SECOND), itl: Some(true), e2e: None },
        ..ExchangeRecord::begun(ManualClock::new().wall(), "1".into())
    }
}

#[test]
fn what_exchanges_say_is_remembered_by_backend() {
    let now = now();
    let fleet = fleet(vec![backend("a"), backend("b")], now);
    let route = &fleet.routes()[0];
    for round in 0..100 {
        let ttft = if round % 4 == 0 { SECOND * 2 } else { SECOND / 2 };
        fleet.record(&completed("a", ttft), now);
    }
    let seen = |backend, latency| route.observed(backend, latency, now).unwrap();
    assert_eq!(seen("a", Latency::TimeToFirstToken).samples, 100);
    assert_eq!(seen("b", Latency::TimeToFirstToken).samples, 0);
    assert!(seen("a", Latency::TimeToFirstToken).bound.is_some_and(|bound| bound >= SECOND * 2));
    assert!(seen("a", Latency::EndToEnd).estimate.is_some_and(|e2e| e2e.abs_diff(SECOND) < SECOND / 50));
    assert_eq!(route.observed("none", Latency::EndToEnd, now), None);
    assert!((route.expected_output() - 77.0).abs() < 5.0);
}

#[test]
fn failures_cancellations_and_slow_clients_are_not_learned_as_latencies() {
    let now = now();
    let fleet = fleet(vec![backend("a")], now);
    let samples = |latency| fleet.routes()[0].observed("a", latency, now).unwrap().samples;
    let mut cancelled = completed("a", SECOND);
    cancelled.outcome = Outcome::ClientCancelled;
    let mut slow = completed("a", SECOND);
    slow.phases.backpressured = true;
    let mut late = completed("a", SECOND);
    late.outcome = Outcome::FirstTokenTimeout;
    late.attempts[0].outcome = Outcome::FirstTokenTimeout;
    late.attempts[0].first_token = None;
    for record in [cancelled, slow, late] {
        fleet.record(&record, now);
    }
    assert_eq!((samples(Latency::InterToken), samples(Latency::EndToEnd)), (0, 0));
    assert_eq!(samples(Latency::TimeToFirstToken), 3, "a first token that came is one; a timeout counts as so long");
}

#[test]
fn learning_moves_the_choice_to_the_cheapest_that_keeps_the_promise_and_away_when_it_slows() {
    let mut clock = now();
    let priced =
        |name, per_gpu_hour| Backend { price: Some(Price::PerGpuHour { per_gpu_hour, gpus: 1 }), ..backend(name) };
    let mut chat = route("r", &[0, 1]);
    chat.policy = PolicyKind::CheapestWithinSlo;
    let promise = Objective { latency: Latency::TimeToFirstToken, quantile: Quantile::P95, threshold: SECOND / 2 };
    chat.objectives.ttft = Some(promise);
    let fleet = Fleet::new(settings(vec![priced("a", 8.0), priced("b", 2.0)], vec![chat]), clock).unwrap();
    fleet.backends().iter().for_each(|one| one.shared.checked(CheckOutcome::Passed, clock));
    let mut facts = request("m");
    facts.facts.objectives = fleet.routes()[0].settings().objectives;
    let mut serve = |slow: Duration| {
        let mut served = [0; 2];
        for _ in 0..200 {
            clock += Duration::from_millis(50);
            let mut given = fleet.dispatch(0, &facts, &[], clock).unwrap();
            served[given.index.0] += 1;
            let ttft = if given.index.0 == 0 { SECOND / 10 } else { slow };
            given.in_flight.first_token(clock + ttft);
            given.in_flight.served(&Served::default(), clock + ttft);
            let mut record = completed(given.backend.name(), ttft);
            record.decision = Some(given.summary);
            fleet.record(&record, clock);
        }
        served
    };
    serve(SECOND / 5);
    let calm = serve(SECOND / 5);
    assert!(calm[1] >= 175, "{calm:?}");
    serve(SECOND);
    let incident = serve(SECOND);
    assert!(incident[0] >= 175, "{incident:?}");
    for _ in 0..8 {
        serve(SECOND / 5);
    }
    let healed = serve(SECOND / 5);
    assert!(healed[1] >= 175, "{healed:?}");
    let last = fleet.decisions(1, |_| true).pop().unwrap();
    assert_eq!((last.candidates.len(), last.number), (2, 2600));
    assert!(matches!(last.verdict.chosen, Some((_, Reason::CheapestWithinSlo | Reason::Probe))));
}
