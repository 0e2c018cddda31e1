//! What the cheapest backend within the promise is, and what happens when there is none.

use super::*;
use crate::route::decision::Verdict;

const RULE: PolicyKind = PolicyKind::CheapestWithinSlo;

fn expecting(index: usize, price: f64, change: impl FnOnce(&mut Outlook)) -> Candidate {
    let mut one = known(index, 900.0, 50.0, price);
    change(&mut one.outlook);
    one
}

fn decided(candidates: &[Candidate], on_overload: OnOverload) -> Decision {
    decide(RULE, &chat(), candidates, on_overload, &mut PolicyState::seeded(1))
}

#[test]
fn the_cheapest_that_keeps_the_promise_serves() {
    let fast = known(0, 100.0, 10.0, 8.0);
    let slow = known(1, 250.0, 30.0, 2.0);
    let late = known(2, 400.0, 30.0, 1.0);
    check(RULE, &[fast, slow, late], (1, Reason::CheapestWithinSlo));
}

#[test]
fn nearly_the_same_price_goes_to_the_most_headroom() {
    let (tight, roomy) = (known(0, 290.0, 30.0, 2.0), known(1, 100.0, 10.0, 2.05));
    check(RULE, &[tight, roomy], (1, Reason::CheapestWithinSlo));
}

#[test]
fn what_has_no_price_comes_last_and_is_equal_among_its_like() {
    let free = |index, ttft| Candidate { price: None, ..known(index, ttft, 10.0, 0.0) };
    check(RULE, &[free(0, 50.0), known(1, 200.0, 10.0, 9.0)], (1, Reason::CheapestWithinSlo));
    check(RULE, &[free(0, 200.0), free(1, 50.0)], (1, Reason::CheapestWithinSlo));
}

#[test]
fn a_cached_prompt_costs_less() {
    let cached = expecting(1, 2.0, |one| {
        (one.ttft, one.itl) = (forecast(100.0), forecast(10.0));
        (one.uncached_tokens, one.cached_tokens) = (100.0, 400.0);
    });
    check(RULE, &[known(0, 100.0, 10.0, 1.8), cached], (1, Reason::CheapestWithinSlo));
}

#[test]
fn when_no_bound_keeps_the_promise_the_best_central_prediction_does() {
    let (worse, better) = (known(0, 590.0, 30.0, 1.0), known(1, 400.0, 30.0, 8.0));
    check(RULE, &[worse, better], (1, Reason::MedianWithinSlo));
}

#[test]
fn a_doomed_request_goes_where_it_is_cheapest_but_not_to_the_hopeless() {
    let (best, cheap, hopeless) =
        (known(0, 900.0, 30.0, 8.0), known(1, 5_000.0, 50.0, 1.0), known(2, 60_000.0, 50.0, 0.1));
    check(RULE, &[best, cheap, hopeless], (1, Reason::Sacrifice));
}

#[test]
fn a_doomed_request_is_shed_where_the_route_says_so() {
    let decision = decided(&[known(0, 20_000.0, 30.0, 8.0)], OnOverload::Shed);
    let Some(TurnedAway::Shed { cause: Cause::Doomed, retry_after }) = decision.turned_away else {
        panic!("{decision:?}")
    };
    // 10 s expected, 300 ms promised; up to a quarter more is drawn.
    assert!((MS * 9_700..MS * 12_126).contains(&retry_after), "{retry_after:?}");
    assert_eq!((decision.chosen, decision.candidates[0].verdict), (None, Verdict::Misses));
}

#[test]
fn how_long_to_wait_is_how_long_what_is_too_slow_takes_to_drain() {
    let e2e = Some(Objective { latency: Latency::EndToEnd, quantile: Quantile::P95, threshold: MS * 2_000 });
    let whole = RequestFacts { objectives: Objectives { e2e, ..Objectives::default() }, ..chat() };
    for (request, candidate, seconds) in [
        // 10 s expected to the first token, 300 ms promised.
        (chat(), known(0, 20_000.0, 30.0, 8.0), 9.7),
        // 80 ms expected between tokens, 40 ms promised: half of the streams must end, on average half of 200 tokens on.
        (chat(), known(0, 100.0, 160.0, 8.0), 100.0 * 0.080 * 0.5),
        // 10 s expected in all, 2 s promised.
        (whole, known(0, 100.0, 199.0, 8.0), 8.0),
    ] {
        let decision = decide(RULE, &request, &[candidate], OnOverload::Shed, &mut PolicyState::seeded(1));
        let Some(TurnedAway::Shed { retry_after, .. }) = decision.turned_away else { panic!("{decision:?}") };
        // Up to a quarter more is drawn.
        let share = retry_after.as_secs_f64() / seconds;
        assert!((1.0..1.251).contains(&share), "{retry_after:?} for {seconds}");
    }
}

#[test]
fn a_doomed_request_waits_where_the_route_says_so() {
    let decision = decided(&[known(0, 900.0, 30.0, 8.0)], OnOverload::Queue { depth: 1, wait: MS });
    assert_eq!(decision.turned_away, Some(TurnedAway::Wait { cause: Cause::Doomed, retry_after: MS * 1_000 }));
}

#[test]
fn where_room_is_scarce_the_large_make_room_and_priority_is_room() {
    let fits = Candidate {
        outlook: Outlook {
            prefill_seconds: Some(1e-4),
            decode_seconds: Some(1e-3),
            ..known(0, 100.0, 10.0, 1.0).outlook
        },
        ..known(0, 100.0, 10.0, 1.0)
    };
    let (route, tuning) = (RouteModel::default(), Tuning::default());
    let candidates = [fits];
    let decide = |scarcity, priority, on_overload| {
        let mut decision = Decision::default();
        let fleet = FleetSnapshot { priority, scarcity, ..snapshot(&candidates, &route, on_overload, &tuning) };
        RULE.rule().choose(&chat(), &fleet, &mut PolicyState::seeded(1), &mut decision);
        decision
    };
    // 500 prompt tokens and 200 of output: 0.25 s of this backend.
    let calm = decide(Scarcity::default(), 0, OnOverload::Shed);
    assert!(calm.chosen.is_some() && calm.need.is_some_and(|need| (need - 0.25).abs() < 1e-9));
    let mut scarcity = Scarcity::default();
    let mut doomed = Decision { need: Some(0.08), ..Decision::default() };
    scarcity.decided(&calm);
    (0..5).for_each(|_| scarcity.decided(&doomed));
    doomed.need = None;
    scarcity.decided(&doomed);
    let large = decide(scarcity, 0, OnOverload::Shed);
    let Some(TurnedAway::Shed { cause, retry_after }) = large.turned_away else { panic!("{large:?}") };
    assert_eq!((cause, large.is_doomed()), (Cause::MakesRoom, false));
    assert!(retry_after >= MS * 10_000);
    assert!(decide(scarcity, 2, OnOverload::Shed).chosen.is_some(), "two priorities more, four times the room");
    assert!(decide(scarcity, 0, OnOverload::Sacrifice).chosen.is_some(), "a route that turns nobody away");
}

#[test]
fn time_already_spent_counts() {
    let candidates = [known(0, 250.0, 10.0, 1.0), known(1, 100.0, 10.0, 9.0)];
    let late = RequestFacts { waited: MS * 100, ..chat() };
    let decision = decide(RULE, &late, &candidates, OnOverload::Shed, &mut PolicyState::seeded(1));
    assert_eq!(decision.chosen, Some((BackendIndex(1), Reason::CheapestWithinSlo)));
}

#[test]
fn nothing_promised_means_the_cheapest_and_of_equals_the_least_loaded() {
    let busy = Candidate { in_flight: 5, ..known(1, 9_000.0, 900.0, 2.0) };
    let candidates = [known(0, 100.0, 10.0, 8.0), busy, known(2, 9_000.0, 900.0, 2.0)];
    let nothing = RequestFacts { stream: true, ..RequestFacts::default() };
    let decision = decide(RULE, &nothing, &candidates, OnOverload::Shed, &mut PolicyState::seeded(1));
    assert_eq!(decision.chosen, Some((BackendIndex(2), Reason::CheapestWithinSlo)));
}

#[test]
fn an_unstreamed_answer_is_judged_by_its_end_alone() {
    let candidates = [known(0, 5_000.0, 500.0, 1.0), known(1, 100.0, 10.0, 2.0)];
    let unstreamed = RequestFacts { stream: false, ..chat() };
    let decision = decide(RULE, &unstreamed, &candidates, OnOverload::Shed, &mut PolicyState::seeded(1));
    assert_eq!(decision.chosen.map(|(one, _)| one.0), Some(0));
    assert!(decision.candidates.iter().all(|one| one.ttft.is_none() && one.itl.is_none()));
    let e2e = Some(Objective { latency: Latency::EndToEnd, quantile: Quantile::P95, threshold: MS * 2_000 });
    let objectives = Objectives { e2e, ..chat().objectives };
    let promised = RequestFacts { objectives, ..unstreamed };
    let decision = decide(RULE, &promised, &candidates, OnOverload::Shed, &mut PolicyState::seeded(1));
    assert_eq!(decision.chosen.map(|(one, _)| one.0), Some(1));
}

#[test]
fn residents_with_a_shorter_promise_are_left_in_peace() {
    let host = |resident| {
        expecting(0, 1.0, |one| {
            (one.ttft, one.itl) = (forecast(100.0), forecast(30.0));
            one.resident_itl = Some(resident);
        })
    };
    let other = known(1, 100.0, 30.0, 2.0);
    check(RULE, &[host(0.020), other], (1, Reason::CheapestWithinSlo));
    check(RULE, &[host(0.035), other], (0, Reason::CheapestWithinSlo));
    check(RULE, &[host(0.045), other], (0, Reason::CheapestWithinSlo));
}

#[test]
fn a_cheaper_backend_that_is_only_believed_to_be_slow_is_probed() {
    let pick = known(0, 100.0, 10.0, 2.0);
    let hopeful = |price, change: fn(&mut Outlook)| {
        expecting(1, price, |one| {
            (one.ttft.hopeful, one.itl.hopeful, one.probe_due) = (0.2, 0.02, true);
            change(one);
        })
    };
    check(RULE, &[pick, hopeful(1.0, |_| ())], (1, Reason::Probe));
    let kept = (0, Reason::CheapestWithinSlo);
    check(RULE, &[pick, hopeful(3.0, |_| ())], kept);
    check(RULE, &[pick, hopeful(1.0, |one| one.probe_due = false)], kept);
    check(RULE, &[pick, hopeful(1.0, |one| one.probing = true)], kept);
    check(RULE, &[pick, hopeful(1.0, |one| one.awaiting = 1)], kept);
    check(RULE, &[pick, hopeful(1.0, |one| one.ttft.hopeful = 0.4)], kept);
    check(RULE, &[pick, hopeful(1.0, |one| (one.ttft.hopeful, one.idle) = (0.4, true))], (1, Reason::Probe));
    check(RULE, &[pick, hopeful(1.0, |one| (one.ttft.hopeful, one.unproven) = (0.4, true))], (1, Reason::Probe));
    let queued = |one: &mut Outlook| (one.ttft.hopeful, one.unproven, one.queue) = (0.4, true, 3.0);
    check(RULE, &[pick, hopeful(1.0, queued)], kept);
}

#[test]
fn where_all_seem_to_miss_an_unknown_backend_is_tried_before_anybody_is_turned_away() {
    let late = known(0, 900.0, 50.0, 1.0);
    let unknown = |change: fn(&mut Outlook)| {
        expecting(1, 9.0, |one| {
            one.unproven = true;
            change(one);
        })
    };
    let chosen = |one| decided(&[late, one], OnOverload::Shed).chosen;
    assert_eq!(chosen(unknown(|_| ())), Some((BackendIndex(1), Reason::Probe)));
    assert_eq!(chosen(unknown(|one| one.awaiting = 1)), None, "one request at a time");
    assert_eq!(chosen(unknown(|one| one.queue = 3.0)), None, "others wait there already");
    assert_eq!(chosen(unknown(|one| one.probing = true)), None, "one probe at a time");
}

#[test]
fn a_route_that_misses_too_much_keeps_more_distance_and_does_not_probe() {
    let candidates = [
        known(0, 290.0, 10.0, 1.0),
        known(1, 100.0, 10.0, 2.0),
        expecting(2, 0.5, |one| (one.ttft.hopeful, one.itl.hopeful, one.probe_due) = (0.1, 0.01, true)),
    ];
    let mut route = RouteModel::default();
    let decide = |route: &RouteModel| {
        let (mut decision, tuning) = (Decision::default(), Tuning::default());
        let on_overload = OnOverload::Shed;
        let fleet = snapshot(&candidates, route, on_overload, &tuning);
        RULE.rule().choose(&chat(), &fleet, &mut PolicyState::seeded(1), &mut decision);
        decision
    };
    let calm = decide(&route);
    assert_eq!(calm.chosen, Some((BackendIndex(2), Reason::Probe)));
    assert!(!calm.is_feasible(), "a probe moves no margin");
    (0..10).for_each(|_| route.judged(false, true, &chat().objectives));
    let strained = decide(&route);
    assert_eq!(strained.chosen, Some((BackendIndex(1), Reason::CheapestWithinSlo)));
    assert!(strained.is_feasible() && strained.of_chosen().unwrap().headroom() > 0.5);
}

#[test]
fn the_margin_is_kept_from_every_promise() {
    let promise = |latency, millis| Some(Objective { latency, quantile: Quantile::P95, threshold: MS * millis });
    let (ttft, itl) = (promise(Latency::TimeToFirstToken, 300), promise(Latency::InterToken, 40));
    let e2e = promise(Latency::EndToEnd, 2_000);
    let mut strained = RouteModel::default();
    (0..100).for_each(|_| strained.judged(false, true, &chat().objectives));
    let tuning = Tuning::default();
    for objectives in [
        Objectives { ttft, ..Objectives::default() },
        Objectives { itl, ..Objectives::default() },
        Objectives { e2e, ..Objectives::default() },
    ] {
        // 290 of 300 ms, 39 of 40, and 1.95 s of 2; the dear one has far to go.
        let mut near = known(0, 290.0, 39.0, 1.0);
        near.outlook.e2e = forecast(1_950.0);
        let candidates = [near, known(1, 30.0, 4.0, 2.0)];
        let request = RequestFacts { objectives, ..chat() };
        let chosen = |route| {
            let mut decision = Decision::default();
            let fleet = snapshot(&candidates, route, OnOverload::Shed, &tuning);
            RULE.rule().choose(&request, &fleet, &mut PolicyState::seeded(1), &mut decision);
            decision.chosen.map(|(backend, _)| backend.0)
        };
        let both = (chosen(&RouteModel::default()), chosen(&strained));
        assert_eq!(both, (Some(0), Some(1)), "{objectives:?}");
    }
}

#[test]
fn the_only_candidate_serves_unless_it_is_to_be_turned_away() {
    check(RULE, &[known(0, 100.0, 10.0, 1.0)], (0, Reason::OnlyCandidate));
    assert_eq!(decided(&[known(0, 900.0, 90.0, 1.0)], OnOverload::Shed).chosen, None);
    assert_eq!(decided(&[], OnOverload::Shed).turned_away, None);
}

#[test]
fn in_scarcity_what_may_just_keep_its_promise_makes_room() {
    let near = Candidate {
        outlook: Outlook {
            ttft: Forecast { central: 0.28, bound: 0.4, hopeful: 0.4 },
            ..known(0, 100.0, 10.0, 1.0).outlook
        },
        ..known(0, 100.0, 10.0, 1.0)
    };
    let (route, tuning, candidates) = (RouteModel::default(), Tuning::default(), [near]);
    let decide = |scarcity, on_overload| {
        let mut decision = Decision::default();
        let fleet = FleetSnapshot { scarcity, ..snapshot(&candidates, &route, on_overload, &tuning) };
        RULE.rule().choose(&chat(), &fleet, &mut PolicyState::seeded(1), &mut decision);
        decision
    };
    let mut scarce = Scarcity::default();
    let told = |need, doomed: bool| Decision {
        need: Some(need),
        chosen: (!doomed).then_some((BackendIndex(0), Reason::CheapestWithinSlo)),
        ..Decision::default()
    };
    scarce.decided(&told(10.0, false));
    (0..5).for_each(|_| scarce.decided(&told(0.1, true)));
    assert!(scarce.severity() > 0.8);
    assert_eq!(decide(Scarcity::default(), OnOverload::Shed).chosen, Some((BackendIndex(0), Reason::MedianWithinSlo)));
    let turned_away = decide(scarce, OnOverload::Shed).turned_away;
    assert!(matches!(turned_away, Some(TurnedAway::Shed { cause: Cause::MakesRoom, .. })), "{turned_away:?}");
    let sacrificing = decide(scarce, OnOverload::Sacrifice).chosen;
    assert_eq!(sacrificing, Some((BackendIndex(0), Reason::MedianWithinSlo)), "a route that turns nobody away");
}
