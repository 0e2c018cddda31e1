//! What every run promises, whatever the rule and whatever goes wrong.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::clock::{Clock, ManualClock};
use crate::policy_simulator::contender::Contender;
use crate::policy_simulator::scenario::fleet;
use crate::policy_simulator::scene::{Change, Incident, Spec};
use crate::policy_simulator::workload::{Arrival, Workload};

const SECOND: Duration = Duration::from_secs(1);

fn arrivals(count: u64, per_second: f64, seed: u64) -> Workload {
    let mut random = Random::seeded(seed);
    let mut at = 0.0;
    let mut next = |index: u64| {
        at += random.exponential() / per_second;
        let mut tokens = |bound| u32::try_from(random.below(bound)).expect("small");
        Arrival::new(Duration::from_secs_f64(at), usize::from(index % 3 == 2), 16 + tokens(3000), 1 + tokens(120))
    };
    let mut next_length = |index| if index % 7 == 0 { next(index).unstreamed() } else { next(index) };
    Workload::of((0..count).map(&mut next_length).collect())
}

fn scene(workload: Workload) -> Scene {
    let promise = (Duration::from_millis(300), Duration::from_millis(40));
    let routes = vec![Spec::streamed("chat", promise), Spec::whole("batch", 20 * SECOND)];
    Scene::new("test".to_owned(), 60.0, fleet().split_off(3), routes, workload)
}

fn play(name: &str, scene: &Scene) -> Run {
    Contender::named(name).expect("known").play(scene, ManualClock::new().now())
}

/// Every arrival ends once; what is complete has all its tokens; what was paid is what was served.
#[track_caller]
fn check(name: &str, scene: &Scene) -> Run {
    let run = play(name, scene);
    assert_eq!(run.fates.len(), scene.workload.arrivals.len(), "{name}");
    let mut cost = 0.0;
    for (index, (arrival, fate)) in scene.workload.arrivals.iter().zip(&run.fates).enumerate() {
        let what = format!("{name}: request {index}, {arrival:?}, {fate:?}");
        match fate.end {
            End::Complete => assert_eq!(fate.output, arrival.output, "{what}"),
            End::Failed => assert!(fate.first.is_some() && fate.output < arrival.output, "{what}"),
            End::Shed => assert!(fate.output == 0 && !fate.good, "{what}"),
            End::Unfinished => panic!("{what}"),
        }
        assert!(!fate.good || fate.end == End::Complete, "{what}");
        assert!(fate.first.is_none_or(|first| fate.sent <= first && first <= fate.last), "{what}");
        assert!(fate.end == End::Shed || fate.attempts > 0, "{what}");
        if let (Some(choice), 1, End::Complete) = (fate.choice, fate.attempts, fate.end) {
            cost += scene.backends[choice.backend].tokens_cost(arrival.input, fate.output);
        }
    }
    let retried = run.fates.iter().any(|fate| fate.attempts > u32::from(fate.end == End::Complete));
    assert!(retried || (cost - run.cost).abs() < 1e-9 * cost.max(1e-9), "{name}: {cost} was served, {} paid", run.cost);
    run
}

const ALL: [&str; 18] = [
    "cheapest_within_slo",
    "cheapest_within_slo+shed",
    "cheapest_within_slo+queue",
    "least_in_flight",
    "rr",
    "lr",
    "p2c",
    "prequal",
    "pqrs",
    "lmetric",
    "dynamo",
    "sglang",
    "llmd",
    "llmds",
    "cheapq",
    "greedy",
    "polyq",
    "spill4",
];

#[test]
fn every_arrival_ends_exactly_once_under_every_rule() {
    let scene = scene(arrivals(200, 6.0, 1));
    for name in ALL {
        check(name, &scene);
    }
}

#[test]
fn a_dead_backend_loses_what_streams_and_hands_over_what_waits() {
    let at = |seconds, change| Incident { at: SECOND * seconds, backend: 0, change };
    let incidents = vec![at(10, Change::Dies), at(20, Change::Ejected), at(30, Change::Returns)];
    let scene = Scene { incidents, ..scene(arrivals(300, 8.0, 2)) };
    for name in ALL {
        let run = check(name, &scene);
        let while_away = scene.workload.arrivals.iter().zip(&run.fates);
        let while_away = while_away.filter(|(arrival, _)| (20..30).contains(&arrival.at.as_secs()));
        for (arrival, fate) in while_away {
            // One that waited may have been sent when it was back.
            let back = arrival.at + fate.sent >= 30 * SECOND;
            assert!(back || fate.choice.is_none_or(|choice| choice.backend != 0), "{name}: {fate:?}");
        }
    }
    let run = check("lr", &scene);
    assert!(run.fates.iter().any(|fate| fate.attempts == 2 && fate.end == End::Complete), "something was retried");
    assert!(run.fates.iter().any(|fate| fate.end == End::Failed), "something was lost");
    let hung = run.fates.iter().filter(|fate| fate.attempts == 2).filter_map(|fate| fate.first);
    assert!(hung.min().expect("some") < 11 * SECOND && run.fates.iter().all(|fate| fate.sent <= 10 * SECOND));
}

#[test]
fn the_same_scene_gives_the_same_run() {
    let scene = Scene { replicas: 4, gossip: Some(SECOND / 4), ..scene(arrivals(150, 8.0, 3)) };
    for name in ALL {
        assert_eq!(check(name, &scene), play(name, &scene), "{name}");
    }
    let other = Scene { state: 77, ..scene.clone() };
    assert_ne!(play("lr", &scene), play("lr", &other));
}

#[test]
fn queued_requests_are_served_late_or_turned_away_in_time() {
    let crowd = Workload::of((0..120).map(|index| Arrival::new(SECOND / 40 * index, 0, 2000, 40)).collect());
    let run = check("cheapest_within_slo+queue", &scene(crowd));
    let sent_late = run.fates.iter().filter(|fate| fate.end == End::Complete && fate.sent > Duration::ZERO);
    assert!(sent_late.clone().count() > 0, "some waited and went");
    assert!(sent_late.clone().all(|fate| fate.sent <= 2 * SECOND), "nobody waits for longer than two seconds");
    assert!(run.fates.iter().any(|fate| fate.reason == "queue_expired"), "some waited for nothing");
}

#[test]
fn load_of_other_clients_slows_ours_and_is_not_counted() {
    let quiet = scene(arrivals(100, 2.0, 4));
    let hidden = |index: u32| {
        let (backend, change) = (index as usize % 4, Change::Hidden { input: 4000, output: 100 });
        Incident { at: SECOND / 10 * index, backend, change }
    };
    let busy = Scene { incidents: (0..500).map(hidden).collect(), ..quiet.clone() };
    let (quiet, busy) = (check("rr", &quiet), check("rr", &busy));
    let sum = |run: &Run| run.fates.iter().filter_map(|fate| fate.first).sum::<Duration>();
    assert!(sum(&busy) > 2 * sum(&quiet));
    assert!((quiet.cost - busy.cost).abs() < 1e-12);
}

#[test]
fn a_slow_backend_takes_that_many_times_as_long() {
    let one = |slow| {
        let workload = Workload::of(vec![Arrival::new(SECOND, 0, 1000, 50)]);
        let mut scene = scene(workload);
        scene.incidents = slow;
        scene.backends.truncate(1);
        scene.routes[0].backends = vec![0];
        check("rr", &scene).fates[0].last.as_secs_f64()
    };
    let ratio = one(Incident::slow(0, 3.0, 0.5..30.0).to_vec()) / one(Vec::new());
    assert!((ratio - 3.0).abs() < 0.1, "{ratio}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn any_incidents_leave_every_arrival_with_one_end(
        seed in 0_u64..1000,
        place in 0..ALL.len(),
        replicas in 1_usize..4,
        struck in proptest::collection::vec((0_u32..20, 0_usize..4, 0_u8..4), 0..6),
    ) {
        let mut incidents = Vec::new();
        for (second, backend, kind) in struck {
            let at = |after: u32, change| Incident { at: SECOND * (second + after), backend, change };
            match kind {
                0 => incidents.extend([at(0, Change::Dies), at(3, Change::Ejected), at(9, Change::Returns)]),
                1 => incidents.extend([at(0, Change::Slow(5.0)), at(5, Change::Slow(1.0))]),
                2 => incidents.extend([at(0, Change::Ejected), at(4, Change::Returns)]),
                _ => incidents.extend((0..9).map(|after| at(after, Change::Hidden { input: 900, output: 60 }))),
            }
        }
        incidents.sort_by_key(|incident| incident.at);
        let scene = Scene { incidents, replicas, scrape: Some(SECOND), ..scene(arrivals(60, 4.0, seed)) };
        check(ALL[place], &scene);
    }
}
