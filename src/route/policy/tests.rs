//! What all rules promise, and what each promises beyond.

mod cheapest;
mod slow_start;

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::measure::objective::{Latency, Objective, Objectives};
use crate::route::admission::OnOverload;
use crate::route::decision::{Cause, Reason, TurnedAway};
use crate::route::model::RouteModel;
use crate::route::price::Price;
use crate::route::scarcity::Scarcity;
use crate::route::snapshot::{Candidate, Forecast, Outlook};
use crate::route::tuning::Tuning;
use crate::units::Quantile;

const MS: Duration = Duration::from_millis(1);

fn candidate(index: usize) -> Candidate {
    let outlook = Outlook { ttft: forecast(100.0), itl: forecast(10.0), e2e: forecast(2_000.0), ..Outlook::default() };
    Candidate {
        backend: BackendIndex(index),
        weight: 1,
        in_flight: 0,
        max_in_flight: None,
        price: None,
        outlook,
        ramp: 1.0,
        held_back: false,
    }
}

/// Bounded at so many milliseconds, half of that expected.
fn forecast(millis: f64) -> Forecast {
    let bound = millis / 1e3;
    Forecast { central: bound / 2.0, bound, hopeful: bound }
}

fn per_token(per_mtok: f64) -> Price {
    Price::PerToken { input_per_mtok: per_mtok, cached_input_per_mtok: 0.0, output_per_mtok: 3.0 * per_mtok }
}

/// A backend with bounds on TTFT and ITL, in milliseconds, and a price.
fn known(index: usize, ttft: f64, itl: f64, price: f64) -> Candidate {
    let e2e = forecast(ttft + 100.0 * itl);
    let outlook =
        Outlook { ttft: forecast(ttft), itl: forecast(itl), e2e, uncached_tokens: 500.0, ..Outlook::default() };
    Candidate { price: Some(per_token(price)), outlook, ..candidate(index) }
}

/// 300 ms to the first token, 40 ms between tokens, both p95.
fn chat() -> RequestFacts {
    let promise = |latency, millis| Some(Objective { latency, quantile: Quantile::P95, threshold: MS * millis });
    let objectives =
        Objectives { ttft: promise(Latency::TimeToFirstToken, 300), itl: promise(Latency::InterToken, 40), e2e: None };
    RequestFacts { input_tokens: 500, max_tokens: Some(200), stream: true, objectives, ..RequestFacts::default() }
}

fn snapshot<'a>(
    candidates: &'a [Candidate],
    route: &'a RouteModel,
    on_overload: OnOverload,
    tuning: &'a Tuning,
) -> FleetSnapshot<'a> {
    FleetSnapshot { candidates, route, on_overload, priority: 0, scarcity: Scarcity::default(), tuning }
}

fn decide(
    kind: PolicyKind,
    request: &RequestFacts,
    candidates: &[Candidate],
    on_overload: OnOverload,
    state: &mut PolicyState,
) -> Decision {
    let mut decision = Decision::default();
    let (route, tuning) = (RouteModel::default(), Tuning::default());
    let fleet = snapshot(candidates, &route, on_overload, &tuning);
    kind.rule().choose(request, &fleet, state, &mut decision);
    assert_eq!(decision.candidates.len(), candidates.len(), "every candidate is kept");
    decision
}

fn choose(kind: PolicyKind, candidates: &[Candidate], state: &mut PolicyState) -> Option<(usize, Reason)> {
    let decision = decide(kind, &chat(), candidates, OnOverload::Sacrifice, state);
    decision.chosen.map(|(backend, reason)| (backend.0, reason))
}

#[track_caller]
fn check(kind: PolicyKind, candidates: &[Candidate], expected: (usize, Reason)) {
    assert_eq!(choose(kind, candidates, &mut PolicyState::seeded(1)), Some(expected));
}

#[test]
fn each_of_the_simple_rules_does_what_its_name_says() {
    let loaded = |index, in_flight| Candidate { in_flight, ..known(index, 100.0, 10.0, 1.0) };
    check(PolicyKind::LeastInFlight, &[loaded(0, 3), loaded(1, 1), loaded(2, 2)], (1, Reason::LeastInFlight));
    check(PolicyKind::PowerOfTwo, &[loaded(0, 3), loaded(1, 1)], (1, Reason::PowerOfTwo));
    check(
        PolicyKind::LowestLatency,
        &[known(0, 200.0, 20.0, 1.0), known(1, 300.0, 10.0, 9.0)],
        (1, Reason::LowestLatency),
    );
}

#[test]
fn round_robin_keeps_its_turn_when_backends_come_and_go() {
    let mut state = PolicyState::seeded(1);
    let all = [candidate(0), candidate(2), candidate(5)];
    let mut next = |candidates: &[Candidate]| choose(PolicyKind::RoundRobin, candidates, &mut state).unwrap().0;
    assert_eq!([next(&all), next(&all), next(&all), next(&all)], [0, 2, 5, 0]);
    assert_eq!([next(&all[..2]), next(&all), next(&all[1..])], [2, 5, 2]);
}

#[test]
fn a_full_backend_is_never_chosen() {
    let full = |index| Candidate { in_flight: 4, max_in_flight: Some(4), ..known(index, 10.0, 1.0, 0.1) };
    for kind in PolicyKind::ALL {
        let mut state = PolicyState::seeded(1);
        assert_eq!(choose(kind, &[full(0), full(1)], &mut state), None, "{kind:?}");
        for _ in 0..20 {
            let chosen = choose(kind, &[full(0), known(1, 900.0, 90.0, 9.0), full(2)], &mut state);
            assert_eq!(chosen.map(|(index, _)| index), Some(1), "{kind:?}");
        }
    }
}

fn any_forecast() -> impl Strategy<Value = Forecast> {
    (1e-3..20.0_f64, 1.0..3.0_f64, 0.3..1.0_f64).prop_map(|(central, above, hope)| {
        let bound = central * above;
        Forecast { central, bound, hopeful: bound * hope }
    })
}

fn any_outlook() -> impl Strategy<Value = Outlook> {
    let flags = prop::array::uniform4(any::<bool>());
    let known = proptest::option::of(1e-6..1e-2_f64);
    let forecasts = (any_forecast(), any_forecast(), any_forecast());
    (forecasts, flags, known, 0_u32..3, proptest::option::of(1e-3..0.1_f64)).prop_map(
        |((ttft, itl, e2e), [probing, probe_due, idle, unproven], seconds, awaiting, resident_itl)| Outlook {
            ttft,
            itl: Forecast { central: itl.central / 50.0, bound: itl.bound / 50.0, hopeful: itl.hopeful / 50.0 },
            e2e,
            uncached_tokens: 500.0,
            cached_tokens: 0.0,
            prefill_seconds: seconds,
            decode_seconds: seconds,
            resident_itl,
            awaiting,
            queue: f64::from(awaiting),
            unproven,
            probing,
            probe_due,
            idle,
        },
    )
}

fn any_candidates() -> impl Strategy<Value = Vec<Candidate>> {
    let one = (any_outlook(), 0_u32..40, proptest::option::of(0_u32..40), 1_u32..9);
    let one = one.prop_map(|(outlook, in_flight, max_in_flight, weight)| {
        let hourly = Price::PerGpuHour { per_gpu_hour: f64::from(weight), gpus: 1 };
        let price =
            [None, Some(hourly), Some(per_token(f64::from(weight)))].get(weight as usize % 3).copied().flatten();
        Candidate { weight, in_flight, max_in_flight, price, outlook, ..candidate(0) }
    });
    proptest::collection::vec((one, 1_usize..4), 0..8).prop_map(|all| {
        let mut index = 0;
        let place = |(one, gap): (Candidate, usize)| {
            index += gap;
            Candidate { backend: BackendIndex(index), ..one }
        };
        all.into_iter().map(place).collect()
    })
}

fn any_overload() -> impl Strategy<Value = OnOverload> {
    let queue = OnOverload::Queue { depth: 4, wait: MS };
    prop_oneof![Just(OnOverload::Shed), Just(OnOverload::Sacrifice), Just(queue)]
}

proptest! {
    #[test]
    fn whoever_is_chosen_is_a_candidate_with_room_and_nobody_is_left_without_an_answer(
        seed: u64,
        on_overload in any_overload(),
        stream: bool,
        sets in proptest::collection::vec(any_candidates(), 1..20),
    ) {
        for kind in PolicyKind::ALL {
            let mut state = PolicyState::seeded(seed);
            for candidates in &sets {
                let request = RequestFacts { stream, ..chat() };
                let decision = decide(kind, &request, candidates, on_overload, &mut state);
                let room = |backend| candidates.iter().any(|one| one.backend == backend && one.has_room());
                prop_assert!(decision.chosen.is_none_or(|(backend, _)| room(backend)));
                let answered = decision.chosen.is_some() || decision.turned_away.is_some();
                prop_assert_eq!(answered, candidates.iter().any(Candidate::has_room));
                prop_assert!(decision.chosen.is_none() || decision.turned_away.is_none());
                let may_turn_away = kind == PolicyKind::CheapestWithinSlo && on_overload != OnOverload::Sacrifice;
                prop_assert!(may_turn_away || decision.turned_away.is_none());
                let (TurnedAway::Shed { retry_after, .. } | TurnedAway::Wait { retry_after, .. }) =
                    decision.turned_away.unwrap_or(TurnedAway::Shed { cause: Cause::Doomed, retry_after: MS * 1_000 });
                prop_assert!((MS * 1_000..=MS * 60_000).contains(&retry_after), "{:?}", retry_after);
            }
        }
    }

    #[test]
    fn the_same_seed_makes_the_same_choices(seed: u64, sets in proptest::collection::vec(any_candidates(), 1..20)) {
        for kind in PolicyKind::ALL {
            let run = || {
                let mut state = PolicyState::seeded(seed);
                sets.iter().map(|candidates| choose(kind, candidates, &mut state)).collect::<Vec<_>>()
            };
            prop_assert_eq!(run(), run());
        }
    }

    #[test]
    fn weights_are_kept_exactly_over_a_round(weights in proptest::collection::vec(1_u32..20, 2..6)) {
        let weigh = |(index, weight): (usize, &u32)| Candidate { weight: *weight, ..candidate(index) };
        let candidates: Vec<_> = weights.iter().enumerate().map(weigh).collect();
        let mut state = PolicyState::seeded(1);
        let mut served = vec![0; weights.len()];
        for _ in 0..weights.iter().sum::<u32>() {
            served[choose(PolicyKind::Weighted, &candidates, &mut state).unwrap().0] += 1;
        }
        prop_assert_eq!(served, weights);
    }
}
