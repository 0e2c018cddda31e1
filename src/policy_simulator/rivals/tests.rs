//! Each rival picks what its rule says, on fleets small enough to reckon by hand.

use std::time::Duration;

use super::*;
use crate::policy_simulator::rule::How;
use crate::policy_simulator::scenario::fleet;
use crate::policy_simulator::scene::Spec;
use crate::policy_simulator::workload::{Arrival, Workload};

const MS: Duration = Duration::from_millis(1);

/// Three backends: the dearest first, the cheapest last.
struct Table {
    scene: Scene,
    rival: Rival,
    healthy: Vec<bool>,
    random: Random,
    now: Duration,
}

impl Table {
    fn new(kind: RivalKind) -> Self {
        let backends = fleet().into_iter().step_by(3).collect();
        let routes = vec![Spec::streamed("chat", (300 * MS, 40 * MS))];
        let scene = Scene::new("table".to_owned(), 60.0, backends, routes, Workload::default());
        let rival = Rival::new(kind, &scene);
        Self { scene, rival, healthy: vec![true; 3], random: Random::seeded(1), now: Duration::ZERO }
    }

    fn ask<T>(&mut self, input: u32, blocks: &[u64], then: impl FnOnce(&mut Self, &Asked<'_>) -> T) -> T {
        let arrival = Arrival::new(self.now, 0, input, 10);
        let route = self.scene.routes[0].clone();
        then(self, &Asked { arrival: &arrival, blocks, route: &route })
    }

    fn pick_of(&mut self, input: u32, blocks: &[u64]) -> usize {
        self.ask(input, blocks, |table, asked| {
            let view = View { now: table.now, healthy: &table.healthy, engines: &[] };
            match table.rival.choose(asked, &view, &mut table.random) {
                Verdict::Serve(choice) => choice.backend,
                other => panic!("{other:?}"),
            }
        })
    }

    fn pick(&mut self) -> usize {
        self.pick_of(1000, &[])
    }

    fn send(&mut self, backend: usize, input: u32, blocks: &[u64]) -> Option<Entry> {
        self.ask(input, blocks, |table, asked| {
            table.rival.dispatched(asked, &Choice::plain(backend, "test"), table.now)
        })
    }

    /// One answer whose first token took so long, and that is over.
    fn answered(&mut self, backend: usize, ttft: Duration) {
        let mut ticket = self.send(backend, 1000, &[]);
        self.now += ttft;
        self.rival.first_token(&mut ticket, self.now);
        self.rival.ended(ticket, &ending(1), self.now);
    }
}

fn ending(output: u32) -> Ending {
    Ending { how: How::Complete, output, mean_gap: MS, end_to_end: MS, kept: true }
}

#[test]
fn round_robin_takes_turns_and_skips_the_unhealthy() {
    let mut table = Table::new(RivalKind::RoundRobin);
    assert_eq!([table.pick(), table.pick(), table.pick(), table.pick()], [0, 1, 2, 0]);
    table.healthy[1] = false;
    assert_eq!([table.pick(), table.pick()], [2, 0]);
}

#[test]
fn least_request_takes_the_one_with_the_fewest_and_draws_among_equals() {
    let mut table = Table::new(RivalKind::LeastRequest);
    let drawn: Vec<usize> = (0..60).map(|_| table.pick()).collect();
    assert!((0..3).all(|backend| drawn.iter().filter(|one| **one == backend).count() > 10), "{drawn:?}");
    let _ = (table.send(0, 100, &[]), table.send(2, 100, &[]));
    assert_eq!(table.pick(), 1);
    let told = Shared { in_flight: 3.0, ..Shared::default() };
    table.rival.hear(1, told, table.now);
    assert_ne!(table.pick(), 1, "what the others sent counts");
}

#[test]
fn peak_ewma_shuns_who_was_slow_until_that_is_forgotten() {
    let mut table = Table::new(RivalKind::PeakEwma);
    table.healthy[2] = false;
    table.answered(0, 900 * MS);
    table.answered(1, 100 * MS);
    assert!((0..20).all(|_| table.pick() == 1));
    let waiting = (0..9).map(|_| table.send(1, 100, &[])).collect::<Vec<_>>();
    assert_eq!(table.pick(), 0, "ten times as many in flight at a ninth of the latency");
    drop(waiting);
}

#[test]
fn prequal_takes_the_fastest_of_those_that_are_not_hot() {
    let mut table = Table::new(RivalKind::Prequal(0.6));
    for _ in 0..5 {
        table.answered(0, 100 * MS);
        table.answered(1, 300 * MS);
        table.answered(2, 200 * MS);
    }
    assert_eq!(table.pick(), 0);
    let _hot: Vec<_> = (0..5).map(|_| table.send(0, 100, &[])).collect();
    for _ in 0..50 {
        assert_eq!(table.pick(), 2, "the fastest is hot, the next is taken");
    }
}

#[test]
fn prequal_rs_weighs_the_prefix_against_the_queue() {
    let mut table = Table::new(RivalKind::PrequalRs);
    let blocks: Vec<u64> = (0..8).collect();
    let ticket = table.send(1, 4096, &blocks);
    table.rival.ended(ticket, &ending(1), table.now);
    assert_eq!(table.pick_of(4096, &blocks), 1, "the prefix is there");
    let _waiting: Vec<_> = (0..40).map(|_| table.send(1, 4096, &[])).collect();
    table.now += Duration::from_secs(30);
    assert_ne!(table.pick_of(4096, &blocks), 1, "but it runs hot");
}

#[test]
fn lmetric_multiplies_uncached_tokens_by_requests() {
    let mut table = Table::new(RivalKind::Lmetric);
    let blocks: Vec<u64> = (0..6).collect();
    let _a = (table.send(0, 3584, &blocks), table.send(1, 3584, &[]), table.send(2, 3584, &[]));
    // 512 × 2 at the first, 3584 × 2 at the others.
    assert_eq!(table.pick_of(3584, &blocks), 0);
    let _more: Vec<_> = (0..14).map(|_| table.send(0, 100, &[])).collect();
    assert_ne!(table.pick_of(3584, &blocks), 0, "512 × 16 is more than 3584 × 2");
}

#[test]
fn dynamo_adds_blocks_to_prefill_and_blocks_held() {
    let mut table = Table::new(RivalKind::Dynamo);
    let mut first = table.send(0, 1000, &[]);
    let _others = (table.send(1, 1800, &[]), table.send(2, 2500, &[]));
    table.rival.first_token(&mut first, table.now);
    assert_eq!(table.pick(), 0, "its prompt is computed: 1000 held and not 2 × 1800");
    (0..3000).for_each(|_| table.rival.token(0, table.now));
    assert_eq!(table.pick(), 1, "it holds 4000 by now");
    table.rival.ended(first, &ending(3001), table.now);
    assert_eq!(table.pick(), 0);
}

#[test]
fn sglang_follows_the_prefix_unless_the_fleet_is_unbalanced() {
    let mut table = Table::new(RivalKind::Sglang);
    let blocks: Vec<u64> = (0..4).collect();
    let _warm = table.send(2, 2048, &blocks);
    assert_eq!(table.pick_of(2048, &blocks), 2);
    assert_ne!(table.pick_of(2048, &[99]), 2, "nothing matches: the idlest");
    let _load: Vec<_> = (0..65).map(|_| table.send(2, 100, &[])).collect();
    assert_ne!(table.pick_of(2048, &blocks), 2, "66 against 0");
}

#[test]
fn spill_fills_the_cheapest_first() {
    let mut table = Table::new(RivalKind::Spill(2));
    let mut filled = Vec::new();
    for _ in 0..6 {
        let backend = table.pick();
        table.send(backend, 100, &[]);
        filled.push(backend);
    }
    assert_eq!(filled, [2, 2, 1, 1, 0, 0]);
}

#[test]
fn books_are_empty_when_all_is_over_or_the_backend_is_gone() {
    let mut table = Table::new(RivalKind::LeastRequest);
    let mut tickets: Vec<_> = (0..5).map(|_| table.send(0, 700, &[1, 2])).collect();
    table.rival.first_token(&mut tickets[0], table.now);
    table.rival.token(0, table.now);
    for (index, ticket) in tickets.into_iter().enumerate() {
        table.rival.ended(ticket, &ending(if index == 0 { 2 } else { 0 }), table.now);
    }
    assert_eq!(table.rival.shared(0), Shared::default());
    let _lost = table.send(0, 700, &[1, 2]);
    table.rival.ejected(0);
    assert_eq!(table.rival.shared(0), Shared::default());
}
