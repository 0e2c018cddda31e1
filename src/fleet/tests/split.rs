//! Split routes: who is assigned where, what falls over, and what becomes of a group that breaks the promise.

use super::learning::completed;
use super::*;
use crate::measure::exchange::ExchangeRecord;
use crate::measure::group::{Assignment, FellOver, GroupIndex};
use crate::measure::objective::{Latency, Objective, Verdicts};
use crate::measure::outcome::Outcome;
use crate::route::split::Rollback;
use crate::units::Quantile;

const CANARY: GroupIndex = GroupIndex(1);
const DRAWS: u32 = 20_000;

fn promise(threshold: Duration) -> Objectives {
    let ttft = Objective { latency: Latency::TimeToFirstToken, quantile: Quantile::P95, threshold };
    Objectives { ttft: Some(ttft), ..Objectives::default() }
}

/// `a` is the baseline, `b` the canary.
fn split_route(share: f64) -> Route {
    let canary = SplitGroup { name: "canary".into(), backends: vec![1], share, rollback: Rollback::Auto };
    Route { split: Some(Split { groups: vec![canary] }), objectives: promise(SECOND), ..route("r", &[0, 1]) }
}

fn built(backends: Vec<Backend>, route: Route, now: Instant) -> Fleet {
    let fleet = Fleet::new(settings(backends, vec![route]), now).unwrap();
    fleet.backends().iter().for_each(|one| one.shared.checked(CheckOutcome::Passed, now));
    fleet
}

fn split_fleet(share: f64, now: Instant) -> Fleet {
    built(vec![backend("a"), backend("b")], split_route(share), now)
}

fn asked(group: GroupIndex) -> Request<'static> {
    Request { group: Some(group), ..request("m") }
}

#[track_caller]
fn check(
    fleet: &Fleet,
    asked: &Request<'_>,
    exclude: &[BackendIndex],
    expected: (&str, Option<FellOver>),
    now: Instant,
) {
    let given = fleet.dispatch(0, asked, exclude, now).unwrap();
    assert_eq!((&**given.backend.name(), given.fell_over), expected);
    let shown = fleet.decisions(1, |_| true).pop().unwrap();
    assert_eq!(shown.group.as_ref().and_then(|(_, why)| *why), expected.1);
}

fn ended(group: GroupIndex, good: bool) -> ExchangeRecord {
    ExchangeRecord {
        route: Some("r".into()),
        group: Some(Assignment { group, name: "g".into(), fell_over: None, epoch: 0 }),
        outcome: Outcome::Complete,
        stream: true,
        verdicts: Verdicts { ttft: Some(good), ..Verdicts::default() },
        ..ExchangeRecord::begun(std::time::UNIX_EPOCH + SECOND * 1_000, "id".into())
    }
}

/// So many that are drawn now, and end.
fn end(fleet: &Fleet, count: u32, (group, good): (GroupIndex, bool), now: Instant) {
    let epoch = fleet.assign(0).map_or(0, |drawn| drawn.epoch);
    let mut record = ended(group, good);
    record.group.iter_mut().for_each(|assigned| assigned.epoch = epoch);
    (0..count).for_each(|_| fleet.record(&record, now));
}

/// What breaks the promise: the baseline keeps it, and the canary does not.
fn break_promise(fleet: &Fleet, now: Instant) {
    end(fleet, 100, (GroupIndex::BASELINE, true), now);
    end(fleet, 40, (CANARY, false), now);
}

fn state(fleet: &Fleet) -> (f64, f64, bool, u64) {
    let canary = fleet.routes()[0].groups().remove(1);
    (canary.share, canary.drawn, canary.rolled_back.is_some(), canary.requests)
}

#[test]
fn requests_are_drawn_by_share_and_go_to_their_group_alone() {
    let now = now();
    let fleet = split_fleet(0.2, now);
    let mut canary = 0;
    for _ in 0..DRAWS {
        let assigned = fleet.assign(0).unwrap();
        let (name, backend) = if assigned.group == CANARY { ("canary", "b") } else { ("baseline", "a") };
        assert_eq!((&*assigned.name, assigned.fell_over), (name, None));
        let given = fleet.dispatch(0, &asked(assigned.group), &[], now).unwrap();
        assert_eq!((&**given.backend.name(), given.fell_over), (backend, None));
        canary += u32::from(assigned.group == CANARY);
    }
    let deviation = (f64::from(DRAWS) * 0.2 * 0.8).sqrt();
    assert!((f64::from(canary) - f64::from(DRAWS) * 0.2).abs() < 5.0 * deviation, "{canary} of {DRAWS}");
    assert_eq!(super::fleet(vec![backend("a")], now).assign(0), None, "nothing is split");
}

#[test]
fn a_group_without_a_usable_backend_loses_nothing() {
    let now = now();
    for (down, group, backend) in [(1, CANARY, "a"), (0, GroupIndex::BASELINE, "b")] {
        let fleet = split_fleet(0.2, now);
        (0..3).for_each(|_| fleet.backends()[down].shared.checked(CheckOutcome::Unreachable, now));
        check(&fleet, &asked(group), &[], (backend, Some(FellOver::Unusable)), now);
    }
    // An ejected one is asked only where nobody else is left.
    let fleet = split_fleet(0.2, now);
    for _ in 0..20 {
        fleet.dispatch(0, &asked(CANARY), &[BackendIndex(0)], now).unwrap().in_flight.ended(Blame::Fault, now);
        if fleet.backends()[1].state() == BackendState::Ejected {
            break;
        }
    }
    assert_eq!(fleet.backends()[1].state(), BackendState::Ejected);
    check(&fleet, &asked(CANARY), &[], ("a", Some(FellOver::Unusable)), now);
}

#[test]
fn a_retry_a_hedge_and_a_full_group_go_elsewhere_and_say_why() {
    let now = now();
    let fleet = split_fleet(0.2, now);
    check(&fleet, &asked(CANARY), &[BackendIndex(1)], ("a", Some(FellOver::Failed)), now);
    let late = Request { hedge: true, again: true, ..asked(CANARY) };
    check(&fleet, &late, &[BackendIndex(1)], ("a", Some(FellOver::Hedged)), now);

    let limited = Backend { max_in_flight: Some(1), ..backend("b") };
    let fleet = built(vec![backend("a"), limited], split_route(0.2), now);
    let first = fleet.dispatch(0, &asked(CANARY), &[], now).unwrap();
    check(&fleet, &asked(CANARY), &[], ("a", Some(FellOver::Refused)), now);
    drop(first);
    check(&fleet, &asked(CANARY), &[], ("b", None), now);
}

#[test]
fn a_retry_stays_in_its_group_while_that_has_another_backend() {
    let now = now();
    let mut route = split_route(0.2);
    route.backends.push((2, 1));
    route.split.as_mut().unwrap().groups[0].backends.push(2);
    let fleet = built(vec![backend("a"), backend("b"), backend("c")], route, now);
    check(&fleet, &asked(CANARY), &[BackendIndex(1)], ("c", None), now);
}

#[test]
fn what_the_canary_would_shed_the_baseline_serves() {
    let now = now();
    let mut route = split_route(0.2);
    (route.policy, route.on_overload) = (PolicyKind::CheapestWithinSlo, OnOverload::Shed);
    let fleet = built(vec![backend("a"), backend("b")], route, now);
    // Both are known, the canary as much too slow.
    for (group, ttft) in [(GroupIndex::BASELINE, SECOND / 10), (CANARY, SECOND * 20)] {
        for _ in 0..40 {
            let mut given = fleet.dispatch(0, &asked(group), &[], now).unwrap();
            given.in_flight.first_token(now + ttft);
            given.in_flight.served(&Served { output_tokens: Some(1), ..Served::default() }, now + ttft);
        }
    }
    let mut promised = asked(CANARY);
    promised.facts.objectives = promise(SECOND);
    check(&fleet, &promised, &[], ("a", Some(FellOver::Refused)), now);
    // Whole, the route would have shed nothing either; alone, the canary would.
    promised.group = Some(GroupIndex::BASELINE);
    check(&fleet, &promised, &[], ("a", None), now);
}

#[test]
fn a_group_that_breaks_the_promise_gets_nothing_more() {
    let now = now();
    let fleet = split_fleet(0.5, now);
    break_promise(&fleet, now);
    let (share, drawn, rolled_back, requests) = state(&fleet);
    assert!(rolled_back && requests == 40, "{requests}");
    assert_eq!((share, drawn), (0.5, 0.0));
    assert!((0..1_000).all(|_| fleet.assign(0).unwrap().group == GroupIndex::BASELINE));
    // Whoever was assigned before goes elsewhere, and nobody falls over to it.
    check(&fleet, &asked(CANARY), &[], ("a", Some(FellOver::Unusable)), now);
    (0..3).for_each(|_| fleet.backends()[0].shared.checked(CheckOutcome::Unreachable, now));
    fleet.dispatch(0, &asked(GroupIndex::BASELINE), &[], now).unwrap_err();

    let why = fleet.routes()[0].groups().remove(1).rolled_back.unwrap();
    let broken = why.why.unwrap();
    assert_eq!((broken.group, broken.latency, broken.own.good), (CANARY, Latency::TimeToFirstToken, 0));
    assert_eq!((broken.baseline.good, broken.baseline.total), (100, 100));
    assert_eq!(why.at, std::time::UNIX_EPOCH + SECOND * 1_000);
}

#[test]
fn whoever_looks_after_a_group_keeps_it() {
    let now = now();
    let mut route = split_route(0.5);
    route.split.as_mut().unwrap().groups[0].rollback = Rollback::Never;
    let fleet = built(vec![backend("a"), backend("b")], route, now);
    break_promise(&fleet, now);
    assert!(!state(&fleet).2);
}

#[test]
fn a_misbehaving_canary_does_not_make_the_route_careful() {
    let now = now();
    let fleet = split_fleet(0.5, now);
    let attempts = completed("b", SECOND).attempts;
    let decision = crate::measure::exchange::DecisionSummary { feasible: true, ..Default::default() };
    let late =
        |group| ExchangeRecord { attempts: attempts.clone(), decision: Some(decision.clone()), ..ended(group, false) };
    let margin = || fleet.routes()[0].counts.model().margin();
    let before = margin();
    (0..20).for_each(|_| fleet.record(&late(CANARY), now));
    assert!((margin() - before).abs() < f64::EPSILON);
    (0..20).for_each(|_| fleet.record(&late(GroupIndex::BASELINE), now));
    assert!(margin() > before);
}

#[test]
fn a_rollback_stays_until_the_split_is_changed_or_it_is_resumed() {
    let now = now();
    let fleet = split_fleet(0.5, now);
    break_promise(&fleet, now);
    let with = |fleet: &Fleet, route: Route| {
        fleet.rebuilt(settings(vec![backend("a"), backend("b")], vec![route]), now).unwrap()
    };
    // Something else changes: it stays.
    let other = with(&fleet, Route { priority: 7, ..split_route(0.5) });
    assert_eq!(state(&other), (0.5, 0.0, true, 40));
    // So it does when another promise makes what was measured worthless.
    let promised = with(&other, Route { objectives: promise(SECOND * 9), ..split_route(0.5) });
    assert_eq!(state(&promised), (0.5, 0.0, true, 40));
    let judged = promised.routes()[0].trial().unwrap().judged(CANARY, Latency::TimeToFirstToken);
    assert_eq!(judged.map(|judged| judged.total), Some(0));
    // The split itself changes: it ends.
    assert_eq!(state(&with(&promised, split_route(0.4))), (0.4, 0.4, false, 0));

    assert_eq!(promised.resume_group("r", "canary"), Ok(()));
    assert_eq!(state(&promised), (0.5, 0.5, false, 40));
    assert_eq!(promised.roll_back("r", "canary", std::time::UNIX_EPOCH), Ok(()));
    assert!(state(&promised).2);
    assert_eq!(promised.roll_back("r", "baseline", std::time::UNIX_EPOCH), Err(NoGroup::Group));
    assert_eq!(promised.resume_group("s", "canary"), Err(NoGroup::Route));
}

#[test]
fn resuming_begins_the_comparison_anew() {
    let now = now();
    let fleet = split_fleet(0.5, now);
    break_promise(&fleet, now);
    fleet.resume_group("r", "canary").unwrap();
    (0..40).for_each(|_| fleet.record(&ended(CANARY, false), now));
    assert!(!state(&fleet).2, "what was drawn before says nothing");
    end(&fleet, 20, (CANARY, false), now);
    assert!(!state(&fleet).2, "what it did before is forgotten");
    break_promise(&fleet, now);
    assert!(state(&fleet).2);
}
