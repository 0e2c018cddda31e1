//! What the fleet does with decisions: sheds, shadows, explains, remembers.

use super::*;
use crate::measure::exchange::Attempt;
use crate::measure::objective::{Latency, Objective, Verdicts};
use crate::measure::outcome::Outcome;
use crate::route::admission::OnOverload;
use crate::route::decision::{Cause, Reason, TurnedAway};
use crate::route::hedge::Hedge;
use crate::route::prefix::Prefix;
use crate::route::price::Price;
use crate::units::Quantile;

/// A promise that no model keeps.
fn hopeless() -> Objectives {
    let threshold = Duration::from_millis(1);
    let ttft = Objective { latency: Latency::TimeToFirstToken, quantile: Quantile::P95, threshold };
    Objectives { ttft: Some(ttft), ..Objectives::default() }
}

/// One route over `a` and `b`, both proven.
fn routed(change: impl Fn(&mut Route), now: Instant) -> Fleet {
    let mut one = route("r", &[0, 1]);
    one.policy = PolicyKind::CheapestWithinSlo;
    change(&mut one);
    let priced =
        |name, per_gpu_hour| Backend { price: Some(Price::PerGpuHour { per_gpu_hour, gpus: 1 }), ..backend(name) };
    let fleet = Fleet::new(settings(vec![priced("a", 4.0), priced("b", 2.0)], vec![one]), now).unwrap();
    fleet.backends().iter().for_each(|one| one.shared.checked(CheckOutcome::Passed, now));
    for other in [1, 0] {
        for _ in 0..20 {
            let mut given = fleet.dispatch(0, &request("m"), &[BackendIndex(other)], now).unwrap();
            given.in_flight.first_token(now + SECOND / 5);
            (1..40).for_each(|token| given.in_flight.tokens(1, now + SECOND / 5 + SECOND / 50 * token));
            let served = Served { output_tokens: Some(40), mean_gap: Some(SECOND / 50), held_back: false };
            given.in_flight.served(&served, now + SECOND);
        }
    }
    fleet
}

fn promising(objectives: Objectives) -> Request<'static> {
    let mut asked = request("m");
    asked.facts.objectives = objectives;
    asked
}

#[test]
fn a_route_that_sheds_says_when_to_come_back_and_counts_nothing_in() {
    let now = now();
    let fleet = routed(|route| route.on_overload = OnOverload::Shed, now);
    let refused = fleet.dispatch(0, &promising(hopeless()), &[], now).unwrap_err();
    let NoCandidate::WouldMiss { retry_after, .. } = refused else { panic!("{refused:?}") };
    assert!((SECOND..=SECOND * 60).contains(&retry_after));
    let last = fleet.decisions(1, |_| true).pop().unwrap();
    assert!(matches!(last.verdict.turned_away, Some(TurnedAway::Shed { .. })) && last.verdict.chosen.is_none());
    assert_eq!(last.candidates.len(), 2);
    check_idle(&fleet);
    fleet.dispatch(0, &promising(Objectives::default()), &[], now).unwrap();
}

#[test]
fn who_is_doomed_makes_the_largest_give_way_once_however_often_it_asks() {
    let now = now();
    let fleet = routed(|route| route.on_overload = OnOverload::Shed, now);
    let limit = || fleet.desk().scarcity.limit();
    let mut large = promising(Objectives::default());
    large.facts.input_tokens = 50_000;
    drop(fleet.dispatch(0, &large, &[], now).unwrap());
    assert_eq!(limit(), None, "there is room for all");
    let doomed = promising(hopeless());
    for again in [true, false, true] {
        let before = limit();
        fleet.dispatch(0, &Request { again, ..doomed }, &[], now).unwrap_err();
        assert_eq!(limit() == before, again, "{before:?}, then {:?}", limit());
    }
}

#[test]
fn a_route_that_sacrifices_serves_what_is_doomed_and_says_so() {
    let now = now();
    let fleet = routed(|route| route.on_overload = OnOverload::Sacrifice, now);
    let given = fleet.dispatch(0, &promising(hopeless()), &[], now).unwrap();
    assert_eq!((given.summary.reason, given.summary.feasible), ("sacrifice", false));
}

#[test]
fn a_hedge_neither_jumps_the_line_nor_doubles_the_work_of_what_is_late_anyway() {
    let now = now();
    let hedging = |on_overload| {
        let hedge = Some(Hedge { after: Quantile::P95, budget: 0.5 });
        let fleet = routed(|route| (route.hedge, route.on_overload) = (hedge, on_overload), now);
        (0..2).for_each(|_| drop(fleet.dispatch(0, &promising(Objectives::default()), &[], now).unwrap()));
        fleet
    };
    let hedge = |fleet: &Fleet, objectives| fleet.hedge(0, &promising(objectives), &[BackendIndex(0)], now).is_some();
    // Of the one hedge that the budget has room for, nothing was used up in vain.
    let fleet = hedging(OnOverload::Queue { depth: 1, wait: SECOND });
    let place = fleet.join(0, now + SECOND).unwrap();
    assert!(!hedge(&fleet, Objectives::default()), "somebody waits");
    drop(place);
    assert!(hedge(&fleet, Objectives::default()));
    assert!(!hedge(&fleet, Objectives::default()), "the budget is used up");
    let fleet = hedging(OnOverload::Sacrifice);
    assert!(!hedge(&fleet, hopeless()), "nobody is expected to keep the promise");
    check_idle(&fleet);
    assert!(hedge(&fleet, Objectives::default()));
}

#[test]
fn a_decision_is_remembered_with_what_happened_then() {
    let now = now();
    let fleet = routed(|_| {}, now);
    let id: Arc<str> = "req-7".into();
    let asked = Request { request_id: Some(&id), ..promising(Objectives::default()) };
    let given = fleet.dispatch(0, &asked, &[], now).unwrap();
    let of_request = || fleet.decisions(9, |one| one.request_id.as_deref() == Some("req-7"));
    assert_eq!((of_request().len(), of_request()[0].happened), (1, None));
    let mut record = learning::completed(given.backend.name(), SECOND / 4);
    record.attempts[0].decision = Some(given.summary.number);
    record.verdicts = Verdicts { ttft: Some(false), itl: None, e2e: None };
    let failed = Attempt { outcome: Outcome::ConnectFailed, decision: Some(1), ..record.attempts[0].clone() };
    record.attempts.insert(0, failed);
    fleet.record(&record, now);
    let happened = of_request()[0].happened.unwrap();
    assert_eq!((happened.outcome, happened.ttft, happened.kept), (Outcome::Complete, Some(SECOND / 4), Some(false)));
    let first = fleet.decisions(usize::MAX, |one| one.number == 1).pop().unwrap();
    assert_eq!(first.happened.unwrap().outcome, Outcome::ConnectFailed, "each try has its own decision");
    let numbers: Vec<_> = fleet.decisions(3, |_| true).iter().map(|one| one.number).collect();
    assert_eq!(numbers, [41, 40, 39], "newest first");
}

#[test]
fn a_decision_that_was_forgotten_is_not_taken_for_another() {
    let now = now();
    let fleet = routed(|_| {}, now);
    (0..decisions::REMEMBERED).for_each(|_| drop(send(&fleet, now)));
    let mut record = learning::completed("a", SECOND);
    record.attempts[0].decision = Some(5);
    fleet.record(&record, now);
    assert!(fleet.decisions(usize::MAX, |one| one.happened.is_some()).is_empty());
    assert_eq!(fleet.decisions(usize::MAX, |_| true).len(), decisions::REMEMBERED);
}

#[test]
fn who_looks_at_decisions_keeps_what_they_were_while_they_end_and_are_forgotten() {
    let now = now();
    let fleet = routed(|_| {}, now);
    let given = fleet.dispatch(0, &promising(Objectives::default()), &[], now).unwrap();
    let number = given.summary.number;
    let of_number = || fleet.decisions(1, |one| one.number == number).pop();
    let looked_at = of_number().unwrap();
    assert!(Arc::ptr_eq(&looked_at, &of_number().unwrap()), "pointers are handed out, not copies");
    let mut record = learning::completed(given.backend.name(), SECOND);
    record.attempts[0].decision = Some(number);
    fleet.record(&record, now);
    assert_eq!(of_number().unwrap().happened.map(|happened| happened.outcome), Some(Outcome::Complete));
    (0..decisions::REMEMBERED).for_each(|_| drop(send(&fleet, now)));
    assert!(of_number().is_none());
    assert_eq!((looked_at.number, looked_at.happened, looked_at.candidates.len()), (number, None, 2));
    assert_eq!(fleet.decisions(usize::MAX, |_| true).len(), decisions::REMEMBERED);
}

#[test]
fn an_explanation_is_what_would_be_decided_and_changes_nothing() {
    let now = now();
    let fleet = routed(|route| route.shadow_policy = Some(PolicyKind::LeastInFlight), now);
    let asked = promising(Objectives::default());
    let before = fleet.decisions(usize::MAX, |_| true).len();
    let explained = fleet.explain("r", &asked, now).unwrap();
    assert_eq!((explained.candidates.len(), explained.refused), (2, None));
    assert!(explained.shadow.is_some_and(|shadow| matches!(shadow.chosen, Some((_, Reason::LeastInFlight)))));
    check_idle(&fleet);
    assert_eq!(fleet.decisions(usize::MAX, |_| true).len(), before);
    let given = fleet.dispatch(0, &asked, &[], now).unwrap();
    assert_eq!(Some(given.index), explained.verdict.chosen.map(|(index, _)| index));
    assert_eq!(fleet.explain("r", &request("other"), now).unwrap().refused, Some(NoCandidate::NoSuchModel));
    assert!(fleet.explain("none", &asked, now).is_none());
}

#[test]
fn a_shadow_decides_on_the_same_snapshot_serves_nothing_and_is_counted() {
    let now = now();
    let fleet = routed(
        |route| {
            route.policy = PolicyKind::LeastInFlight;
            route.shadow_policy = Some(PolicyKind::CheapestWithinSlo);
        },
        now,
    );
    let before = fleet.shadows().iter().flat_map(|one| one.choices.iter().flatten()).sum::<u64>();
    let held: Vec<_> = (0..10).map(|_| send(&fleet, now)).collect();
    assert_eq!(fleet.backends().iter().map(|one| one.in_flight()).collect::<Vec<_>>(), [5, 5]);
    let figures = fleet.shadows();
    assert_eq!(figures.iter().flat_map(|one| one.choices.iter().flatten()).sum::<u64>() - before, 10);
    let cheap = figures.iter().find(|one| one.backend.as_deref() == Some("b")).unwrap();
    let [differs, agrees] = cheap.choices.map(|row| row.iter().sum::<u64>());
    assert!(differs >= 4 && agrees >= 4 && cheap.cost > 0.0, "{figures:?}");
    assert!(fleet.decisions(1, |_| true)[0].shadow.is_some());
    drop(held);
    check_idle(&fleet);
}

#[test]
fn a_prompt_whose_beginning_was_sent_somewhere_is_shorter_there() {
    let now = now();
    let fleet = routed(|_| {}, now);
    let blocks = [1, 2, 3];
    let prefix = Prefix { blocks: &blocks, block_tokens: 500.0 };
    let mut asked = Request { prefix, ..promising(Objectives::default()) };
    asked.facts.input_tokens = 1_600;
    drop(fleet.dispatch(0, &asked, &[BackendIndex(1)], now).unwrap());
    let cached = |fleet: &Fleet| {
        let explained = fleet.explain("r", &asked, now).unwrap();
        explained.candidates.iter().map(|(_, one)| one.prefix_tokens).collect::<Vec<_>>()
    };
    assert_eq!(cached(&fleet), [1_500.0, 0.0]);
    let off = |mut settings: Settings| {
        settings.routes =
            vec![Arc::new(Route { prefix_affinity: PrefixAffinity::Off, ..(*settings.routes[0]).clone() })];
        Arc::new(settings)
    };
    let without = fleet.rebuilt(off((**fleet.settings()).clone()), now).unwrap();
    assert_eq!(cached(&without), [0.0, 0.0]);
}

#[test]
fn a_backend_that_is_ejected_or_fails_opens_new_books_and_keeps_what_was_learned() {
    let now = now();
    let fleet = routed(|_| {}, now);
    let shared = &fleet.backends()[0].shared;
    let samples = || shared.model().learned().ttft.samples;
    let held = fleet.dispatch(0, &request("m"), &[BackendIndex(1)], now).unwrap();
    let learned = samples();
    assert!(learned >= 20 && shared.model().load().in_flight() == 1);
    shared.checked(CheckOutcome::Unreachable, now);
    assert_eq!((shared.model().load().own(), fleet.backends()[0].in_flight()), (Load::default(), 1));
    shared.checked(CheckOutcome::Passed, now);
    drop(held);
    assert_eq!(samples(), learned);
    check_idle(&fleet);
}

#[test]
fn what_was_learned_survives_a_reload_and_goes_with_a_backend_that_is_another() {
    let now = now();
    let fleet = routed(|_| {}, now);
    let mut changed = (**fleet.settings()).clone();
    let mut moved = backend("b");
    moved.url.port = 1;
    changed.backends[1] = Arc::new(moved);
    let new = fleet.rebuilt(Arc::new(changed), now).unwrap();
    let samples = |fleet: &Fleet| {
        fleet.backends().iter().map(|one| one.shared.model().learned().ttft.samples).collect::<Vec<_>>()
    };
    let (old, new_samples) = (samples(&fleet), samples(&new));
    assert_eq!((new_samples[0], new_samples[1]), (old[0], 0));
    assert!(old[0] >= 20);
}

#[test]
fn what_found_no_place_is_asked_of_every_backend() {
    let promise = |millis| {
        let threshold = Duration::from_millis(millis);
        let ttft = Objective { latency: Latency::TimeToFirstToken, quantile: Quantile::P95, threshold };
        Objectives { ttft: Some(ttft), ..Objectives::default() }
    };
    let start = now();
    let fleet = routed(|route| (route.objectives, route.on_overload) = (promise(2_000), OnOverload::Shed), start);
    let (mut at, mut busy) = (start + SECOND * 100, Vec::new());
    let demand = |at| fleet.demand(&fleet.backends()[1], at).unwrap();
    assert!(demand(at).abs() < 1e-9, "nothing arrived for a minute");
    for _ in 0..40 {
        at += SECOND / 4;
        let mut given = fleet.dispatch(0, &promising(promise(2_000)), &[], at).unwrap();
        given.in_flight.first_token(at + SECOND / 5);
        busy.push(given);
        if busy.len() > 4 {
            busy.remove(0);
        }
    }
    let (placed, before) = (demand(at), fleet.routes()[0].unplaced());
    assert!(placed > 0.0 && placed < 1.0, "{placed}");
    // About as many as were placed find no place (one may be a probe): about twice as much is asked for.
    let refused = (0..40).filter(|_| fleet.dispatch(0, &promising(hopeless()), &[], at).is_err()).count();
    assert!(refused >= 36 && fleet.routes()[0].unplaced() - before == refused as u64, "{refused}");
    let asked = demand(at) / placed;
    assert!((1.7..2.2).contains(&asked), "{asked}");
    (0..60).for_each(|_| drop(fleet.dispatch(0, &promising(hopeless()), &[], at + SECOND * 40)));
    assert!(demand(at + SECOND * 50) > 1.0, "hardly anything is carried, and most is turned away");
    assert!(demand(at + SECOND * 150).abs() < 1e-9, "nothing has come since");
    fleet.backends()[1].drain();
    assert_eq!(fleet.demand(&fleet.backends()[1], at), None, "it is out of service");
}

#[test]
fn more_backends_do_not_help_where_even_an_idle_one_is_too_slow() {
    let start = now();
    let fleet = routed(|route| route.objectives = hopeless(), start);
    fleet.dispatch(0, &promising(hopeless()), &[], start).unwrap();
    assert_eq!(fleet.demand(&fleet.backends()[0], start), None);
}

#[test]
fn streams_that_were_held_back_teach_no_latency() {
    use crate::measure::bursts::Delivery;
    let (at, fleet) = (now(), routed(|_| {}, now()));
    let held = |fleet: &Fleet, times| {
        for _ in 0..times {
            let given = fleet.dispatch(0, &request("m"), &[BackendIndex(1)], at).unwrap();
            assert!(given.in_flight.held_back(Some(Delivery::HeldBack)));
        }
    };
    held(&fleet, 5);
    assert!(!fleet.backends()[0].is_buffering());
    held(&fleet, 1);
    assert!(fleet.backends()[0].is_buffering() && !fleet.backends()[1].is_buffering());
    let expected = || {
        let explanation = fleet.explain("r", &request("m"), at + SECOND * 20).unwrap();
        let (_, of_a) = explanation.candidates.into_iter().find(|(name, _)| &**name == "a").unwrap();
        (of_a.ttft.unwrap().central, of_a.itl.unwrap().central)
    };
    let before = expected();
    for _ in 0..20 {
        let mut given = fleet.dispatch(0, &request("m"), &[BackendIndex(1)], at).unwrap();
        given.in_flight.first_token(at + SECOND * 9);
        given.in_flight.tokens(200, at + SECOND * 19);
        let held_back = given.in_flight.held_back(None);
        assert!(held_back, "too short to tell, from a backend that is known to be held back");
        let served = Served { output_tokens: Some(200), mean_gap: Some(SECOND / 20), held_back };
        given.in_flight.served(&served, at + SECOND * 19);
    }
    let after = expected();
    // What is left of the prompts' own load apart.
    let same = |before: f64, after: f64| (after / before - 1.0).abs() < 0.01;
    assert!(same(before.0, after.0) && same(before.1, after.1), "{before:?} {after:?}");
    check_idle(&fleet);
}

#[test]
fn who_makes_room_has_found_no_place() {
    let now = now();
    let fleet = routed(|route| route.on_overload = OnOverload::Shed, now);
    let mut large = promising(Objectives::default());
    large.facts.input_tokens = 50_000;
    drop(fleet.dispatch(0, &large, &[], now).expect("there is room for all"));
    (0..10).for_each(|_| drop(fleet.dispatch(0, &promising(hopeless()), &[], now)));
    let before = fleet.routes()[0].unplaced();
    fleet.dispatch(0, &large, &[], now).unwrap_err();
    let verdict = fleet.decisions(1, |_| true).pop().unwrap().verdict;
    assert!(matches!(verdict.turned_away, Some(TurnedAway::Shed { cause: Cause::MakesRoom, .. })), "{verdict:?}");
    assert_eq!(fleet.routes()[0].unplaced() - before, 1);
}
