//! The first minute: a router that starts from what was measured, against one that knows nothing.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::{Clock, ManualClock};
use crate::engine::Profile;
use crate::planner::{Point, Shape, modelled};
use crate::policy_simulator::contender::Contender;
use crate::policy_simulator::scene::{Machine, Scene, Spec};
use crate::policy_simulator::score::{Score, mean};
use crate::policy_simulator::workload::{Arrival, Workload};
use crate::random::Random;
use crate::route::model::BackendLearned;

/// Other arrivals and other engines' noise each.
const RUNS: u64 = 20;
/// The demo's profiles.
const FLEET: [&str; 3] = ["h100-latency", "a100", "l40s"];

/// What `headway calibrate` would have measured.
fn measured(profile: &Profile) -> Option<BackendLearned> {
    let shapes = [200, 1_000].map(|input_tokens| Shape { input_tokens, output_tokens: 100 });
    let points = shapes.iter().flat_map(|shape| [1, 4, 16].map(|clients| modelled(profile, clients, *shape)));
    BackendLearned::measured(&points.filter_map(|point| Point::measured(&point)).collect::<Vec<_>>())
}

fn machine(name: &str, warm: bool) -> Machine {
    let profile = Profile::named(name).expect("known");
    let baseline = warm.then(|| measured(&profile)).flatten().map(Arc::new);
    Machine { baseline, scraped: false, ..Machine::of(name.into(), profile) }
}

/// A minute of chat, six requests per second.
fn minute(seed: u64) -> Workload {
    let (mut random, mut at, mut all) = (Random::seeded(seed), 0.0, Vec::new());
    while at < 60.0 {
        let tokens = |spread: f64, mean: f64, random: &mut Random| (mean + spread * random.gauss()).max(16.0) as u32;
        let (input, output) = (tokens(150.0, 300.0, &mut random), tokens(30.0, 100.0, &mut random));
        all.push(Arrival::new(Duration::from_secs_f64(at), 0, input, output));
        at += random.exponential() / 6.0;
    }
    Workload::of(all)
}

/// A first minute under a promise that only the dearest profile keeps, which takes knowing.
fn first_minute(machines: &[Machine], seed: u64) -> Score {
    let promise = (Duration::from_millis(80), Duration::from_millis(12));
    let routes = vec![Spec::streamed("chat", promise)];
    let mut scene = Scene::new("first minute".to_owned(), 60.0, machines.to_vec(), routes, minute(seed));
    scene.state = seed;
    let run = Contender::named("cheapest_within_slo").expect("known").play(&scene, ManualClock::new().now());
    Score::of(&scene, &run)
}

/// The share kept in each run, and the cost per thousand on average.
fn kept(warm: bool) -> (Vec<f64>, f64) {
    let machines = FLEET.map(|name| machine(name, warm));
    let scores: Vec<Score> = (1..=RUNS).map(|seed| first_minute(&machines, seed)).collect();
    let cost = mean(scores.iter().map(Score::cost_per_kgood));
    (scores.iter().map(|score| score.good() as f64 / score.arrived() as f64).collect(), cost)
}

#[test]
fn a_router_that_starts_from_measurements_keeps_the_promise_from_the_first_minute() {
    let ((cold, cold_cost), (warm, warm_cost)) = (kept(false), kept(true));
    let (of_cold, of_warm) = (mean(cold.iter().copied()), mean(warm.iter().copied()));
    println!(
        "first minute: {of_warm:.3} kept at {warm_cost:.4} from measurements, {of_cold:.3} at {cold_cost:.4} from nothing"
    );
    assert!(warm.iter().all(|share| *share >= 0.95) && of_cold < 0.95, "{cold:?} {warm:?}");
    assert!(warm_cost < cold_cost, "it is not bought with money");
}
