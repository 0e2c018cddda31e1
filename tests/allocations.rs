//! A warm decision allocates nothing: asking the models, choosing, and naming the prompt's blocks.
//!
//! One test alone in its process, since the allocator counts what every thread does.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::alloc::System;
use std::sync::Arc;
use std::time::{Duration, Instant};

use headway::clock::{Clock, ManualClock};
use headway::config::{NoEnvironment, parse};
use headway::fleet::backend::CheckOutcome;
use headway::fleet::{Fleet, Request};
use headway::measure::objective::{Latency, Objective, Objectives};
use headway::route::admission::OnOverload;
use headway::route::decision::{Decision, Reason};
use headway::route::model::{Asking, BackendModel, How, RouteModel};
use headway::route::policy::{PolicyKind, PolicyState};
use headway::route::prefix::{BlockHasher, Prefix};
use headway::route::scarcity::Scarcity;
use headway::route::snapshot::{BackendIndex, Candidate, FleetSnapshot, RequestFacts, RouteSlot};
use headway::route::tuning::Tuning;
use headway::units::Quantile;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

fn facts() -> RequestFacts {
    let threshold = Duration::from_millis(300);
    let ttft = Some(Objective { latency: Latency::TimeToFirstToken, quantile: Quantile::P95, threshold });
    let objectives = Objectives { ttft, ..Objectives::default() };
    RequestFacts { input_tokens: 2_000, stream: true, objectives, ..RequestFacts::default() }
}

/// How often something allocates, at best: the test's own machinery may allocate meanwhile.
fn allocations(mut act: impl FnMut()) -> usize {
    let once = |_| {
        let region = Region::new(ALLOCATOR);
        act();
        region.change().allocations
    };
    (0..20).map(once).min().unwrap()
}

/// A fleet of two, with more keys of its route.
fn fleet(route: &str) -> Fleet {
    let members = if route.is_empty() { "a, b" } else { "a" };
    let text = format!(
        "listeners: [{{ address: 127.0.0.1:1 }}]\nbackends:\n  - {{ name: a, url: http://127.0.0.1:2, models: [m] }}\n  - {{ \
         name: b, url: http://127.0.0.1:3, models: [m] }}\nroutes:\n  - name: r\n    backends: [{members}]\n    {route}\n"
    );
    let loaded = parse("test.yaml", &text, &NoEnvironment).unwrap();
    let now = ManualClock::new().now();
    let fleet = Fleet::new(Arc::new(loaded.settings), now).unwrap();
    fleet.backends().iter().for_each(|backend| backend.checked(CheckOutcome::Passed, now));
    // The log of decisions allocates until it has been round.
    for _ in 0..2_000 {
        let group = fleet.assign(0).map(|assigned| assigned.group);
        let asked = Request { model: "m", facts: facts(), group, ..Request::default() };
        drop(fleet.dispatch(0, &asked, &[], now).unwrap());
    }
    fleet
}

fn a_group_costs_nothing(now: Instant) {
    let (plain, split) = (fleet(""), fleet("split: { canary: { backends: [b], share: 30% } }"));
    assert_eq!(allocations(|| _ = split.assign(0)), 0, "drawing a group");
    let dispatched = |fleet: &Fleet| {
        allocations(|| {
            let group = fleet.assign(0).map(|assigned| assigned.group);
            let asked = Request { model: "m", facts: facts(), group, ..Request::default() };
            drop(fleet.dispatch(0, &asked, &[], now).unwrap());
        })
    };
    assert_eq!(dispatched(&split), dispatched(&plain), "a group costs a dispatch nothing");
}

#[test]
fn a_warm_decision_allocates_nothing() {
    let now = ManualClock::new().now();
    let (tuning, route, facts) = (Tuning::default(), RouteModel::default(), facts());
    let text = "All work and no play makes a dull prompt. ".repeat(400);
    let mut blocks = Vec::new();
    let name = |blocks: &mut Vec<u64>| {
        blocks.clear();
        BlockHasher::new(1, "m").write(text.as_bytes(), blocks);
    };
    name(&mut blocks);
    let mut models: Vec<_> = (0..8).map(|_| BackendModel::new(tuning, now)).collect();
    let mut candidates = Vec::new();
    let mut decision = Decision::default();
    let mut state = PolicyState::seeded(1);
    let mut decide = |models: &[BackendModel], blocks: &[u64], kind: PolicyKind| {
        let prefix = Prefix { blocks, block_tokens: 512.0 };
        let asking =
            Asking { facts: &facts, route: RouteSlot(0), prefix, output: route.output(None), offsets: route.offsets() };
        candidates.clear();
        candidates.extend(models.iter().enumerate().map(|(index, model)| Candidate {
            backend: BackendIndex(index),
            weight: 1,
            in_flight: model.load().in_flight(),
            max_in_flight: None,
            price: None,
            outlook: model.outlook(&asking, now),
            ramp: 1.0,
            held_back: false,
        }));
        let on_overload = OnOverload::Sacrifice;
        let fleet = FleetSnapshot {
            candidates: &candidates,
            route: &route,
            on_overload,
            priority: 0,
            scarcity: Scarcity::default(),
            tuning: &tuning,
        };
        kind.rule().choose(&facts, &fleet, &mut state, &mut decision);
        decision.chosen.unwrap().0.0
    };
    for kind in PolicyKind::ALL {
        decide(&models, &blocks, kind);
    }
    for kind in PolicyKind::ALL {
        assert_eq!(allocations(|| _ = decide(&models, &blocks, kind)), 0, "{kind:?}");
    }
    assert_eq!(allocations(|| name(&mut blocks)), 0, "naming blocks");

    // Books and predictors too, once queues and trackers have their room.
    let mut serve = |models: &mut [BackendModel]| {
        let place = decide(models, &blocks, PolicyKind::CheapestWithinSlo);
        let prefix = Prefix { blocks: &blocks, block_tokens: 512.0 };
        let asking =
            Asking { facts: &facts, route: RouteSlot(0), prefix, output: route.output(None), offsets: route.offsets() };
        let model = &mut models[place];
        let mut ticket = model.dispatched(&asking, Reason::CheapestWithinSlo, now);
        model.first_token(&mut ticket, now + Duration::from_millis(100));
        model.tokens(&mut ticket, 16, Duration::from_millis(20), now + Duration::from_millis(420));
        let completed = How::Completed { output_tokens: Some(17), mean_gap: None, paced_by_client: false };
        model.ended(ticket, completed, now + Duration::from_millis(440));
    };
    (0..1_000).for_each(|_| serve(&mut models));
    assert_eq!(allocations(|| serve(&mut models)), 0, "a whole request");

    a_group_costs_nothing(now);

    // The check can fail.
    assert_eq!(allocations(|| drop(vec![0_u8; 64])), 1);
}
