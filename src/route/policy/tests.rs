//! What all rules promise, and what each promises beyond.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::measure::objective::{Latency, Objective, Objectives};
use crate::route::admission::OnOverload;
use crate::route::decision::Reason;
use crate::route::model::RouteModel;
use crate::route::price::Price;
use crate::route::snapshot::{Candidate, Observed, Outlook};
use crate::route::tuning::Tuning;
use crate::units::Quantile;

const MS: Duration = Duration::from_millis(1);

fn candidate(index: usize) -> Candidate {
    Candidate {
        backend: BackendIndex(index),
        weight: 1,
        in_flight: 0,
        max_in_flight: None,
        price: None,
        ttft: Observed::default(),
        itl: Observed::default(),
        e2e: Observed::default(),
        awaiting_first_token: 0,
        usual_in_flight: 0.0,
        exploring: 0,
        last_observed: None,
        outlook: Outlook::default(),
    }
}

fn seen(millis: u32) -> Observed {
    Observed { samples: 500, estimate: Some(MS * millis), bound: Some(MS * millis) }
}

/// A backend whose TTFT and ITL are known, at an hourly price.
fn known(index: usize, ttft: u32, itl: u32, hourly: f64) -> Candidate {
    let price = Some(Price::PerGpuHour { per_gpu_hour: hourly, gpus: 1 });
    let last_observed = Some(MS * 100);
    Candidate { ttft: seen(ttft), itl: seen(itl), price, last_observed, ..candidate(index) }
}

/// 300 ms to the first token, 40 ms between tokens, both p95.
fn chat() -> RequestFacts {
    let promise = |latency, millis| Some(Objective { latency, quantile: Quantile::P95, threshold: MS * millis });
    let objectives =
        Objectives { ttft: promise(Latency::TimeToFirstToken, 300), itl: promise(Latency::InterToken, 40), e2e: None };
    RequestFacts { input_tokens: 500, max_tokens: Some(200), stream: true, objectives, ..RequestFacts::default() }
}

fn choose(kind: PolicyKind, candidates: &[Candidate], state: &mut PolicyState) -> Option<(usize, Reason)> {
    let mut decision = Decision::default();
    let (route, tuning) = (RouteModel::default(), Tuning::default());
    let fleet = FleetSnapshot { candidates, route: &route, on_overload: OnOverload::Sacrifice, tuning: &tuning };
    kind.rule().choose(&chat(), &fleet, state, &mut decision);
    assert_eq!(decision.candidates.len(), candidates.len(), "every candidate is kept");
    decision.chosen.map(|(backend, reason)| (backend.0, reason))
}

/// The most frequent choice of a hundred, so that exploring does not blur it.
#[track_caller]
fn check(kind: PolicyKind, candidates: &[Candidate], expected: (usize, Reason)) {
    let mut state = PolicyState::seeded(1);
    let choices: Vec<_> = (0..100).filter_map(|_| choose(kind, candidates, &mut state)).collect();
    let count = choices.iter().filter(|one| **one == expected).count();
    assert!(count >= 85, "{expected:?} {count} times of 100 among {choices:?}");
}

#[test]
fn the_cheapest_that_keeps_the_promise_serves() {
    let fast = known(0, 100, 10, 8.0);
    let slow = known(1, 250, 30, 2.0);
    let late = known(2, 400, 30, 1.0);
    check(PolicyKind::CheapestWithinSlo, &[fast, slow, late], (1, Reason::CheapestWithinSlo));
}

#[test]
fn load_moves_the_choice_to_the_next_cheapest() {
    let fast = known(0, 100, 10, 8.0);
    let busy = Candidate { in_flight: 30, usual_in_flight: 10.0, ..known(1, 250, 30, 2.0) };
    check(PolicyKind::CheapestWithinSlo, &[fast, busy], (0, Reason::CheapestWithinSlo));
}

#[test]
fn nearly_the_same_price_goes_to_the_most_headroom() {
    let (tight, roomy) = (known(0, 290, 30, 2.0), known(1, 100, 10, 2.05));
    check(PolicyKind::CheapestWithinSlo, &[tight, roomy], (1, Reason::CheapestWithinSlo));
}

#[test]
fn when_none_keeps_the_promise_the_one_that_misses_least_serves() {
    let (worse, bad) = (known(0, 900, 50, 1.0), known(1, 600, 50, 8.0));
    check(PolicyKind::CheapestWithinSlo, &[worse, bad], (1, Reason::BestEffort));
}

#[test]
fn where_none_is_known_to_keep_the_promise_an_unknown_one_is_tried_one_request_at_a_time() {
    let late = known(0, 900, 50, 1.0);
    check(PolicyKind::CheapestWithinSlo, &[late, candidate(1)], (1, Reason::Explore));
    check(PolicyKind::CheapestWithinSlo, &[late, Candidate { exploring: 1, ..candidate(1) }], (0, Reason::BestEffort));
}

#[test]
fn few_samples_are_read_with_caution() {
    let few = |millis| Observed { samples: 30, estimate: Some(MS * millis), bound: None };
    let unsure = Candidate { ttft: few(250), ..known(0, 250, 10, 1.0) };
    check(PolicyKind::CheapestWithinSlo, &[unsure, known(1, 250, 10, 2.0)], (1, Reason::CheapestWithinSlo));
}

#[test]
fn nothing_promised_means_the_cheapest() {
    let mut decision = Decision::default();
    let candidates = [known(0, 100, 10, 8.0), known(1, 9000, 900, 2.0)];
    let (route, tuning) = (RouteModel::default(), Tuning::default());
    let on_overload = OnOverload::Sacrifice;
    let fleet = FleetSnapshot { candidates: &candidates, route: &route, on_overload, tuning: &tuning };
    CheapestWithinSlo.choose(&RequestFacts::default(), &fleet, &mut PolicyState::seeded(1), &mut decision);
    assert_eq!(decision.chosen, Some((BackendIndex(1), Reason::CheapestWithinSlo)));
}

#[test]
fn each_of_the_simple_rules_does_what_its_name_says() {
    let loaded = |index, in_flight| Candidate { in_flight, ..known(index, 100, 10, 1.0) };
    check(PolicyKind::LeastInFlight, &[loaded(0, 3), loaded(1, 1), loaded(2, 2)], (1, Reason::LeastInFlight));
    check(PolicyKind::PowerOfTwo, &[loaded(0, 3), loaded(1, 1)], (1, Reason::PowerOfTwo));
    check(PolicyKind::LowestLatency, &[known(0, 200, 20, 1.0), known(1, 300, 10, 9.0)], (1, Reason::LowestLatency));
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
fn one_exploring_request_at_a_time_and_one_in_ten() {
    let mut state = PolicyState::seeded(1);
    let unknown = candidate(1);
    let count_of = |state: &mut PolicyState, unknown| {
        let one = || choose(PolicyKind::CheapestWithinSlo, &[known(0, 100, 10, 1.0), unknown], state);
        std::iter::repeat_with(one).take(1000).filter(|one| *one == Some((1, Reason::Explore))).count()
    };
    assert_eq!(count_of(&mut state, Candidate { exploring: 1, ..unknown }), 0);
    let count = count_of(&mut state, unknown);
    assert!((90..=110).contains(&count), "{count}");
}

#[test]
fn a_cheaper_backend_that_missed_long_ago_gets_another_look() {
    let missed = Candidate { last_observed: Some(MS * 11_000), ..known(1, 900, 10, 0.5) };
    let mut state = PolicyState::seeded(1);
    let pick = choose(PolicyKind::CheapestWithinSlo, &[known(0, 100, 10, 1.0), missed], &mut state);
    assert_eq!(pick, Some((1, Reason::Explore)));
    let recent = Candidate { last_observed: Some(MS * 9_000), ..missed };
    check(PolicyKind::CheapestWithinSlo, &[known(0, 100, 10, 1.0), recent], (0, Reason::CheapestWithinSlo));
}

#[test]
fn exploring_starves_nobody() {
    let mut state = PolicyState::seeded(1);
    let mut candidates = [known(0, 100, 10, 1.0), candidate(1), candidate(2), candidate(3)];
    let mut explored = [0; 4];
    for step in 0..400_u32 {
        let Some((index, _)) = choose(PolicyKind::CheapestWithinSlo, &candidates, &mut state) else { continue };
        explored[index] += 1;
        // The window never gets enough samples; only the time of the last look moves.
        for one in &mut candidates {
            one.last_observed = one.last_observed.map(|ago| ago + MS);
        }
        candidates[index].last_observed = Some(MS);
        assert!(step < 60 || explored[1..].iter().all(|count| *count > 0), "{explored:?}");
    }
    assert!(explored[1..].iter().all(|count| (8..=20).contains(count)), "{explored:?}");
}

fn any_candidates() -> impl Strategy<Value = Vec<Candidate>> {
    let observed = (0_u64..200, 1_u32..2_000).prop_map(|(samples, millis)| Observed {
        samples,
        estimate: (samples > 0).then_some(MS * millis),
        bound: (samples >= 59).then_some(MS * (millis + 5)),
    });
    let one = (observed.clone(), observed, 0_u32..40, 1_u32..9, proptest::option::of(0_u32..40_000), 0_u32..2);
    let one = one.prop_map(|(ttft, itl, in_flight, weight, last, exploring)| Candidate {
        ttft,
        itl,
        in_flight,
        weight,
        exploring,
        last_observed: last.map(|millis| MS * millis),
        price: (weight % 2 == 0).then_some(Price::PerGpuHour { per_gpu_hour: f64::from(weight), gpus: 1 }),
        ..candidate(0)
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

proptest! {
    #[test]
    fn every_rule_chooses_a_candidate_when_there_is_one(seed: u64, sets in proptest::collection::vec(any_candidates(), 1..20)) {
        for kind in PolicyKind::ALL {
            let mut state = PolicyState::seeded(seed);
            for candidates in &sets {
                let chosen = choose(kind, candidates, &mut state);
                prop_assert_eq!(chosen.is_some(), !candidates.is_empty());
                prop_assert!(chosen.is_none_or(|(index, _)| candidates.iter().any(|one| one.backend.0 == index)));
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
