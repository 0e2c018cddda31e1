//! What a routing decision costs: asking every backend's model, choosing, and keeping the books; and, apart from it, what
//! naming the blocks of a prompt costs.
//!
//! Every figure is the median of many batches on one thread, without locks: those are the fleet's, and measured there.

#![allow(
    clippy::print_stdout,
    clippy::indexing_slicing,
    reason = "a benchmark reports to whoever runs it, and may panic"
)]

use std::hint::black_box;
use std::time::{Duration, Instant};

use headway::clock::{Clock, SystemClock};
use headway::measure::objective::{Latency, Objective, Objectives};
use headway::random::Random;
use headway::route::admission::OnOverload;
use headway::route::decision::{Decision, Reason};
use headway::route::model::{Asking, BackendModel, How, RouteModel};
use headway::route::policy::{PolicyKind, PolicyState};
use headway::route::prefix::{BLOCK_BYTES, BlockHasher, Prefix};
use headway::route::price::Price;
use headway::route::scarcity::Scarcity;
use headway::route::snapshot::{BackendIndex, Candidate, FleetSnapshot, RequestFacts, RouteSlot};
use headway::route::tuning::Tuning;
use headway::units::Quantile;

const BATCHES: usize = 2_000;
/// Blocks of the prompts: 16 KiB of text, about 4,000 tokens.
const BLOCKS: usize = 8;
/// Distinct prompts, most of them known to some backend.
const PROMPTS: usize = 64;
const ROUTE: RouteSlot = RouteSlot(0);
const OTHER_ROUTE: RouteSlot = RouteSlot(1);

/// Backends that have served for a while.
struct Fleet {
    models: Vec<BackendModel>,
    route: RouteModel,
    tuning: Tuning,
    prompts: Vec<Vec<u64>>,
    facts: RequestFacts,
    now: Instant,
    candidates: Vec<Candidate>,
    decision: Decision,
    state: PolicyState,
    turn: usize,
}

fn facts() -> RequestFacts {
    let promise = |latency, millis| {
        let threshold = Duration::from_millis(millis);
        Some(Objective { latency, quantile: Quantile::P95, threshold })
    };
    let objectives = Objectives {
        ttft: promise(Latency::TimeToFirstToken, 300),
        itl: promise(Latency::InterToken, 40),
        e2e: promise(Latency::EndToEnd, 30_000),
    };
    RequestFacts { input_tokens: 4_100, stream: true, objectives, ..RequestFacts::default() }
}

impl Fleet {
    fn new(backends: usize) -> Self {
        let mut random = Random::seeded(7);
        let (now, tuning) = (SystemClock.now(), Tuning::default());
        let prompts = (0..PROMPTS).map(|_| (0..BLOCKS).map(|_| random.bits()).collect()).collect();
        let mut fleet = Self {
            models: (0..backends).map(|_| BackendModel::new(tuning, now)).collect(),
            route: RouteModel::default(),
            tuning,
            prompts,
            facts: facts(),
            now,
            candidates: Vec::new(),
            decision: Decision::default(),
            state: PolicyState::seeded(1),
            turn: 0,
        };
        for round in 0..100 * backends {
            fleet.serve(round, &mut random);
        }
        // What is still in flight when the decisions are measured.
        for place in 0..backends {
            for _ in 0..4 {
                fleet.send(place);
            }
        }
        fleet
    }

    fn asking(&self) -> Asking<'_> {
        let blocks = &self.prompts[self.turn % PROMPTS];
        let prefix = Prefix { blocks, block_tokens: 512.0 };
        Asking {
            facts: &self.facts,
            route: ROUTE,
            prefix,
            output: self.route.output(None),
            offsets: self.route.offsets(),
        }
    }

    fn serve(&mut self, round: usize, random: &mut Random) {
        self.turn = random.below(PROMPTS);
        let place = round % self.models.len();
        let route = if round.is_multiple_of(3) { OTHER_ROUTE } else { ROUTE };
        let facts = self.facts;
        let asking = Asking { facts: &facts, route, ..self.asking() };
        let mut model = self.models[place].clone();
        let mut ticket = model.dispatched(&asking, Reason::CheapestWithinSlo, self.now);
        // A busy fleet: the next request comes long before this one has ended.
        let first = self.now + Duration::from_secs_f64(0.05 + 0.1 * random.share());
        model.first_token(&mut ticket, first);
        let gap = Duration::from_millis(20);
        model.tokens(&mut ticket, 16, gap, first + gap * 16);
        let how = How::Completed { output_tokens: Some(17), mean_gap: Some(gap), paced_by_client: false };
        model.ended(ticket, how, first + gap * 16);
        self.models[place] = model;
        self.now += Duration::from_millis(2);
    }

    fn send(&mut self, place: usize) {
        let mut model = self.models[place].clone();
        let mut ticket = model.dispatched(&self.asking(), Reason::CheapestWithinSlo, self.now);
        model.first_token(&mut ticket, self.now);
        self.models[place] = model;
    }

    /// One decision: every model asked, one backend chosen.
    fn decide(&mut self) -> Option<BackendIndex> {
        self.turn = self.turn.wrapping_add(1);
        let mut candidates = std::mem::take(&mut self.candidates);
        candidates.clear();
        let asking = self.asking();
        candidates.extend(self.models.iter().enumerate().map(|(index, model)| {
            let per_mtok = 0.1 + f64::from(u32::try_from(index % 5).unwrap_or_default());
            let price = Price::PerToken {
                input_per_mtok: per_mtok,
                cached_input_per_mtok: per_mtok / 2.0,
                output_per_mtok: 3.0 * per_mtok,
            };
            Candidate {
                backend: BackendIndex(index),
                weight: 1,
                in_flight: model.load().in_flight(),
                max_in_flight: Some(256),
                price: Some(price),
                outlook: model.outlook(&asking, self.now),
                ramp: 1.0,
                held_back: false,
            }
        }));
        let on_overload = OnOverload::Shed;
        let (route, tuning, scarcity) = (&self.route, &self.tuning, Scarcity::default());
        let snapshot = FleetSnapshot { candidates: &candidates, route, on_overload, priority: 0, scarcity, tuning };
        let rule = PolicyKind::CheapestWithinSlo.rule();
        rule.choose(&self.facts, &snapshot, &mut self.state, &mut self.decision);
        self.candidates = candidates;
        self.decision.chosen.map(|(backend, _)| backend)
    }

    /// One decision and all its book-keeping until the request's end.
    fn live(&mut self) {
        let Some(BackendIndex(place)) = self.decide() else { return };
        self.now += Duration::from_micros(100);
        let (facts, now) = (self.facts, self.now);
        let prefix = Prefix { blocks: &self.prompts[self.turn % PROMPTS], block_tokens: 512.0 };
        let asking = Asking {
            facts: &facts,
            route: ROUTE,
            prefix,
            output: self.route.output(None),
            offsets: self.route.offsets(),
        };
        let model = &mut self.models[place];
        let mut ticket = model.dispatched(&asking, Reason::CheapestWithinSlo, now);
        model.first_token(&mut ticket, now + Duration::from_millis(120));
        let gap = Duration::from_millis(20);
        model.tokens(&mut ticket, 16, gap, now + gap * 16);
        let how = How::Completed { output_tokens: Some(17), mean_gap: Some(gap), paced_by_client: false };
        model.ended(ticket, how, now + gap * 17);
    }
}

/// Median and fastest batch, in nanoseconds per call.
fn time(calls: u32, mut call: impl FnMut()) -> (f64, f64) {
    let clock = SystemClock;
    let mut batches: Vec<f64> = (0..BATCHES)
        .map(|_| {
            let began = clock.now();
            (0..calls).for_each(|_| call());
            clock.now().saturating_duration_since(began).as_secs_f64() * 1e9 / f64::from(calls)
        })
        .collect();
    batches.sort_by(f64::total_cmp);
    (batches[BATCHES / 2], batches[0])
}

fn report(name: &str, (median, fastest): (f64, f64), per: &str) {
    println!("{name:<44} {median:>9.1} ns {fastest:>9.1} ns  {per}");
}

fn main() {
    println!("{:<44} {:>12} {:>12}", "", "median", "fastest");
    for backends in [2, 8, 64] {
        let calls = 1_600 / u32::try_from(backends).unwrap_or(64);
        let mut fleet = Fleet::new(backends);
        let decide = time(calls, || {
            black_box(fleet.decide());
        });
        report(&format!("ask {backends} models and choose"), decide, "per decision");
        report(&format!("the same, and all book-keeping, of {backends}"), time(calls, || fleet.live()), "per request");
    }
    let text: Vec<u8> = "All work and no play makes a dull prompt. ".bytes().cycle().take(32 * BLOCK_BYTES).collect();
    let mut blocks = Vec::with_capacity(32);
    let (median, fastest) = time(200, || {
        blocks.clear();
        BlockHasher::new(1, "m").write(black_box(&text), &mut blocks);
        black_box(&blocks);
    });
    report("name the blocks of a prompt", (median / 64.0, fastest / 64.0), "per KiB");
}
