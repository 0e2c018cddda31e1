//! What metrics cost: one exchange recorded, alone and by threads at once, what it allocates, and a scrape.

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a benchmark reports to whoever runs it, and may panic"
)]

use std::alloc::System;
use std::hint::black_box;
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use headway::clock::{Clock, SystemClock};
use headway::config::{self, SystemEnvironment};
use headway::measure::course::TryCourse;
use headway::measure::exchange::{Attempt, ExchangeRecord, Latencies, Phases};
use headway::measure::gaps::GapHistogram;
use headway::measure::objective::Verdicts;
use headway::measure::outcome::{Blame, Outcome};
use headway::telemetry::Telemetry;
use headway::telemetry::live::LiveFigures;
use headway::wire::{Api, FinishReason, Usage};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const BACKENDS: usize = 16;
const ROUTES: usize = 4;
const CALLS: u32 = 20_000;
const ROUNDS: usize = 15;
/// Gaps of an answer.
const GAPS: u64 = 200;

fn telemetry() -> Telemetry {
    let backend = |number| format!("  - {{ name: b{number}, url: \"http://127.0.0.1:{}\" }}\n", 10_000 + number);
    let names: Vec<_> = (0..BACKENDS).map(|number| format!("b{number}")).collect();
    let slo = "slo: { ttft: { p95: 300ms }, itl: { p95: 40ms } }";
    let route = |number| {
        format!(
            "  - {{ name: r{number}, match: {{ models: [m{number}] }}, backends: [{}], {slo} }}\n",
            names.join(", ")
        )
    };
    let text = format!(
        "listeners:\n  - {{ address: \"127.0.0.1:0\" }}\nbackends:\n{}routes:\n{}",
        (0..BACKENDS).map(backend).collect::<String>(),
        (0..ROUTES).map(route).collect::<String>()
    );
    let loaded = config::parse("bench.yaml", &text, &SystemEnvironment).unwrap_or_else(|report| panic!("{report}"));
    Telemetry::new(&loaded.settings).unwrap()
}

/// A streamed answer of 201 content responses, with a trace.
fn exchange(route: usize, backend: usize, traced: bool) -> Arc<ExchangeRecord> {
    let mut gaps = GapHistogram::default();
    (0..GAPS).for_each(|gap| gaps.record(Duration::from_micros(18_000 + 37 * (gap % 64))));
    Arc::new(ExchangeRecord {
        trace_id: traced.then_some([7; 16]),
        route: Some(format!("r{route}").into()),
        api: Some(Api::Chat),
        model: Some("m".into()),
        attempts: vec![Attempt {
            backend: format!("b{backend}").into(),
            profile: None,
            reason: Some("cheapest_within_slo"),
            decision: None,
            outcome: Outcome::Complete,
            blame: Blame::Success,
            duration: Duration::from_secs(4),
            first_token: Some(Duration::from_millis(120)),
            hedge: false,
            cost: None,
            course: TryCourse::default(),
        }],
        status: 200,
        outcome: Outcome::Complete,
        stream: true,
        latencies: Latencies {
            first_byte: Some(Duration::from_millis(100)),
            first_token: Some(Duration::from_millis(120)),
            first_output: Some(Duration::from_millis(120)),
            second_token: Some(Duration::from_millis(20)),
            inter_token: Some(Duration::from_millis(20)),
            end_to_end: Some(Duration::from_secs(4)),
            longest_stall: Some(Duration::from_millis(60)),
        },
        gaps: Some(Box::new(gaps)),
        usage: Usage { input_tokens: Some(310), output_tokens: Some(201), ..Usage::default() },
        finish_reason: Some(FinishReason::Stop),
        phases: Phases { overhead: Duration::from_micros(90), ..Phases::default() },
        bytes_in: 1_200,
        bytes_out: 60_000,
        cost: Some(0.001),
        verdicts: Verdicts { ttft: Some(true), itl: Some(true), e2e: None },
        ..ExchangeRecord::begun(SystemClock.wall(), "req-1".into())
    })
}

fn median(mut of: Vec<Duration>) -> Duration {
    of.sort_unstable();
    of[of.len() / 2]
}

/// The time of one call, at the median of rounds.
fn each(mut act: impl FnMut(u32)) -> Duration {
    let round = |_| {
        let began = SystemClock.now();
        (0..CALLS).for_each(&mut act);
        SystemClock.now().saturating_duration_since(began) / CALLS
    };
    median((0..ROUNDS).map(round).collect())
}

fn recording(telemetry: &Telemetry, traced: bool) {
    let all: Vec<_> = (0..BACKENDS * ROUTES).map(|one| exchange(one % ROUTES, one / ROUTES, traced)).collect();
    let now = SystemClock.now();
    let record = |call: u32| telemetry.record(Arc::clone(black_box(&all[call as usize % all.len()])), now);
    let alone = each(record);
    let region = Region::new(ALLOCATOR);
    (0..1_000).for_each(record);
    let allocations = region.change().allocations;
    println!("record, {}: {alone:?}; {allocations} allocations in 1000", if traced { "traced" } else { "no trace" });
}

fn contended(telemetry: &Telemetry, threads: usize) {
    let (barrier, one) = (Barrier::new(threads), exchange(0, 0, false));
    let took = std::thread::scope(|scope| {
        let work = || {
            barrier.wait();
            let began = SystemClock.now();
            (0..CALLS).for_each(|_| telemetry.record(Arc::clone(&one), began));
            SystemClock.now().saturating_duration_since(began) / CALLS
        };
        let all: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        all.into_iter().map(|one| one.join().unwrap()).collect()
    });
    println!("record, {threads} threads on one route and backend: {:?} each", median(took));
}

fn scrape(what: &str, page: impl Fn() -> String) {
    let timed = |_| {
        let began: Instant = SystemClock.now();
        let length = black_box(page()).len();
        (SystemClock.now().saturating_duration_since(began), length)
    };
    let rounds: Vec<_> = (0..ROUNDS).map(timed).collect();
    let length = rounds[0].1;
    println!("scrape, {what}: {:?}, {length} bytes", median(rounds.into_iter().map(|(took, _)| took).collect()));
}

fn main() {
    let telemetry = telemetry();
    println!("{ROUTES} routes, {BACKENDS} backends, answers of {} content responses", GAPS + 1);
    recording(&telemetry, false);
    recording(&telemetry, true);
    contended(&telemetry, 2);
    let live = LiveFigures::default();
    scrape("text", || telemetry.metrics().render(&live));
    scrape("OpenMetrics", || telemetry.metrics().render_open(&live));
}
