//! What choosing and dispatching costs in the proxy's own fleet: locks, books, the record of the decision, and the guard
//! that takes it all back; alone, and with threads that contend for it.
//!
//! Beside it stands what the same threads get when each has a fleet of its own: what they share is the difference. Three
//! kinds of work: a decision that is taken back at once; one with its first token and its end, which the models learn
//! from; and the same where some requests cannot be served in time, so that scarcity turns requests away.

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::cast_precision_loss,
    reason = "a benchmark reports to whoever runs it, and may panic"
)]

use std::hint::black_box;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use headway::clock::{Clock, SystemClock};
use headway::config::{self, SystemEnvironment};
use headway::fleet::backend::CheckOutcome;
use headway::fleet::{Fleet, Request, Served};
use headway::measure::objective::Objective;
use headway::random::Random;
use headway::route::prefix::Prefix;
use headway::route::snapshot::RequestFacts;

/// Of all threads together.
const CALLS: u32 = 16_000;
const ROUNDS: usize = 15;
/// Between two requests as the fleet is told the time: busy, and far from what would be too much.
const PACE: Duration = Duration::from_millis(50);
/// Where room is scarce, one request in so many asks for more than any backend can do.
const DOOMED_EVERY: u64 = 16;
/// Blocks of the prompts: 16 KiB of text.
const BLOCKS: usize = 8;
/// Distinct prompts.
const PROMPTS: u64 = 64;

/// A fleet and its time, which only ever goes on: from the warm-up through every round, by the same pace whoever asks.
struct Staged {
    fleet: Fleet,
    start: Instant,
    turns: AtomicU32,
}

impl Staged {
    /// One request at the next moment; whether it was turned away.
    fn once(&self, work: Work) -> bool {
        let turn = self.turns.fetch_add(1, Ordering::Relaxed);
        work.once(&self.fleet, self.start + PACE * turn, turn.into())
    }
}

fn staged(backends: usize, work: Work) -> Staged {
    let on_overload = if matches!(work, Work::Scarce) { "shed" } else { "sacrifice" };
    let one = |number: usize| {
        let price = 1.0 + f64::from(u32::try_from(number % 5).unwrap());
        format!(
            "  - {{ name: b{number}, url: \"http://127.0.0.1:{}\", models: [m], price: {{ per_gpu_hour: {price}, gpus: 1 }} }}\n",
            10_000 + number
        )
    };
    let names: Vec<_> = (0..backends).map(|number| format!("b{number}")).collect();
    let (canary, names) = names.split_at(if matches!(work, Work::Split) { backends.div_ceil(8) } else { 0 });
    let split = match canary {
        [] => String::new(),
        _ => format!("split: {{ canary: {{ backends: [{}], share: 10%, rollback: never }} }}, ", canary.join(", ")),
    };
    let text = format!(
        "listeners:\n  - {{ address: \"127.0.0.1:0\" }}\nbackends:\n{}routes:\n  - {{ name: r, backends: [{}], \
         {split}on_overload: {on_overload}, slo: {{ ttft: {{ p95: 300ms }}, itl: {{ p95: 40ms }} }} }}\n",
        (0..backends).map(one).collect::<String>(),
        names.join(", ")
    );
    let loaded = config::parse("bench.yaml", &text, &SystemEnvironment).unwrap_or_else(|report| panic!("{report}"));
    let start = SystemClock.now();
    let fleet = Fleet::new(Arc::new(loaded.settings), start).unwrap();
    fleet.backends().iter().for_each(|backend| backend.checked(CheckOutcome::Passed, start));
    let staged = Staged { fleet, start, turns: AtomicU32::new(0) };
    for _ in 0..200 * backends {
        staged.once(Work::Whole);
    }
    staged
}

/// Names as the hasher makes them: every bit of them is drawn.
fn prompt(turn: u64) -> [u64; BLOCKS] {
    let mut random = Random::seeded(turn % PROMPTS);
    std::array::from_fn(|_| random.bits())
}

/// What is repeated.
#[derive(Debug, Clone, Copy)]
enum Work {
    /// Choosing, counting in, and out again.
    Decision,
    /// With a first token and an end between, which teach.
    Whole,
    /// As a decision, on a route that splits its requests: drawn for a group, and chosen within it.
    Split,
    /// As a whole one, where some requests cannot be served in time.
    Scarce,
}

impl Work {
    /// One request; whether it was turned away.
    fn once(self, fleet: &Fleet, now: Instant, turn: u64) -> bool {
        let blocks = prompt(turn);
        let mut objectives = fleet.routes()[0].settings().objectives;
        let (mut input_tokens, scarce) = (4_100, matches!(self, Self::Scarce));
        if scarce {
            input_tokens = 500 + 100 * (turn % 64);
        }
        if scarce && turn.is_multiple_of(DOOMED_EVERY) {
            objectives.ttft = objectives.ttft.map(|ttft| Objective { threshold: Duration::from_nanos(1), ..ttft });
        }
        let facts = RequestFacts { input_tokens, stream: true, objectives, ..RequestFacts::default() };
        let prefix = Prefix { blocks: &blocks, block_tokens: 512.0 };
        let group = fleet.assign(0).map(|assigned| assigned.group);
        let asked = Request { model: "m", facts, prefix, group, ..Request::default() };
        let Ok(mut given) = fleet.dispatch(0, &asked, &[], now) else { return true };
        if !matches!(self, Self::Decision | Self::Split) {
            given.in_flight.first_token(now + Duration::from_millis(120));
            let served =
                Served { output_tokens: Some(17), mean_gap: Some(Duration::from_millis(20)), held_back: false };
            given.in_flight.served(black_box(&served), now + Duration::from_millis(450));
        }
        false
    }
}

/// What one thread or several get.
#[derive(Debug, Clone, Copy)]
struct Measured {
    /// Nanoseconds of wall clock per request over all threads; the median of the rounds.
    nanos: f64,
    /// Share turned away.
    turned_away: f64,
}

fn contended(work: Work, fleets: &[Arc<Staged>], threads: usize) -> Measured {
    let calls = CALLS / u32::try_from(threads).unwrap();
    let mut turned_away = 0;
    let mut rounds: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let start = Arc::new(Barrier::new(threads + 1));
            let run = |thread: usize| {
                let (staged, start) = (Arc::clone(&fleets[thread % fleets.len()]), Arc::clone(&start));
                std::thread::spawn(move || {
                    start.wait();
                    (0..calls).filter(|_| staged.once(work)).count()
                })
            };
            let running: Vec<_> = (0..threads).map(run).collect();
            start.wait();
            let began = SystemClock.now();
            turned_away += running.into_iter().map(|thread| thread.join().unwrap()).sum::<usize>();
            SystemClock.now().saturating_duration_since(began).as_secs_f64() * 1e9 / (f64::from(calls) * threads as f64)
        })
        .collect();
    rounds.sort_by(f64::total_cmp);
    let all = f64::from(calls) * threads as f64 * ROUNDS as f64;
    Measured { nanos: rounds[ROUNDS / 2], turned_away: turned_away as f64 / all }
}

fn main() {
    if std::env::args().any(|arg| arg == "--test") {
        return;
    }
    println!("ns of wall clock per request over all threads, median of {ROUNDS} rounds; x: times one thread's\n");
    println!(
        "{:>8} {:>9} {:>8} {:>22} {:>22} {:>12}",
        "backends", "work", "threads", "one fleet", "a fleet each", "turned away"
    );
    for backends in [2, 8, 64] {
        for work in [Work::Decision, Work::Split, Work::Whole, Work::Scarce] {
            let mut alone: Option<(f64, f64)> = None;
            for threads in [1, 2, 16] {
                let shared = [Arc::new(staged(backends, work))];
                let own: Vec<_> = (0..threads).map(|_| Arc::new(staged(backends, work))).collect();
                let (one, each) = (contended(work, &shared, threads), contended(work, &own, threads));
                let (base_one, base_each) = *alone.get_or_insert((one.nanos, each.nanos));
                println!(
                    "{backends:>8} {:>9} {threads:>8} {:>12.0} {:>7.2} x {:>12.0} {:>7.2} x {:>10.1} %",
                    format!("{work:?}").to_lowercase(),
                    one.nanos,
                    one.nanos / base_one,
                    each.nanos,
                    each.nanos / base_each,
                    one.turned_away * 100.0
                );
            }
        }
    }
}
