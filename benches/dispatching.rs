//! What choosing and dispatching costs in the proxy's own fleet: locks, books, the record of the decision, and the guard
//! that takes it all back; alone, and with threads that contend for it.
//!
//! Beside it stands what the same threads get when each has a fleet of its own: what they share is the difference.

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a benchmark reports to whoever runs it, and may panic"
)]

use std::hint::black_box;
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use headway::clock::{Clock, SystemClock};
use headway::config::{self, SystemEnvironment};
use headway::fleet::backend::CheckOutcome;
use headway::fleet::{Fleet, Request, Served};
use headway::random::Random;
use headway::route::prefix::Prefix;
use headway::route::snapshot::RequestFacts;

const CALLS: u32 = 20_000;
const ROUNDS: usize = 15;
/// Blocks of the prompts: 16 KiB of text.
const BLOCKS: usize = 8;
/// Distinct prompts.
const PROMPTS: u64 = 64;

fn fleet(backends: usize) -> Fleet {
    let one = |number: usize| {
        let price = 1.0 + f64::from(u32::try_from(number % 5).unwrap());
        format!(
            "  - {{ name: b{number}, url: \"http://127.0.0.1:{}\", models: [m], price: {{ per_gpu_hour: {price}, gpus: 1 }} }}\n",
            10_000 + number
        )
    };
    let names: Vec<_> = (0..backends).map(|number| format!("b{number}")).collect();
    let text = format!(
        "listeners:\n  - {{ address: \"127.0.0.1:0\" }}\nbackends:\n{}routes:\n  - {{ name: r, backends: [{}], \
         slo: {{ ttft: {{ p95: 300ms }}, itl: {{ p95: 40ms }} }} }}\n",
        (0..backends).map(one).collect::<String>(),
        names.join(", ")
    );
    let loaded = config::parse("bench.yaml", &text, &SystemEnvironment).unwrap_or_else(|report| panic!("{report}"));
    let now = SystemClock.now();
    let fleet = Fleet::new(Arc::new(loaded.settings), now).unwrap();
    fleet.backends().iter().for_each(|backend| backend.checked(CheckOutcome::Passed, now));
    (0..200 * backends).for_each(|round| {
        serve(&fleet, now + Duration::from_millis(round as u64), round as u64);
    });
    fleet
}

/// Names as the hasher makes them: every bit of them is drawn.
fn prompt(turn: u64) -> [u64; BLOCKS] {
    let mut random = Random::seeded(turn % PROMPTS);
    std::array::from_fn(|_| random.bits())
}

/// From the choice to the guard's release, with the first token between.
fn serve(fleet: &Fleet, now: Instant, turn: u64) {
    let blocks = prompt(turn);
    let objectives = fleet.routes()[0].settings().objectives;
    let facts = RequestFacts { input_tokens: 4_100, stream: true, objectives, ..RequestFacts::default() };
    let prefix = Prefix { blocks: &blocks, block_tokens: 512.0 };
    let asked = Request { model: "m", facts, prefix, ..Request::default() };
    let mut given = fleet.dispatch(0, &asked, &[], now).unwrap();
    given.in_flight.first_token(now + Duration::from_millis(120));
    let served = Served { output_tokens: Some(17), mean_gap: Some(Duration::from_millis(20)), held_back: false };
    given.in_flight.served(black_box(&served), now + Duration::from_millis(450));
}

/// Nanoseconds of wall clock per request of one thread, while so many do the same; the median of the rounds.
fn contended(fleets: &[Arc<Fleet>], threads: usize) -> f64 {
    let mut rounds: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let start = Arc::new(Barrier::new(threads + 1));
            let work = |thread: usize| {
                let (fleet, start) = (Arc::clone(&fleets[thread % fleets.len()]), Arc::clone(&start));
                std::thread::spawn(move || {
                    start.wait();
                    let base = SystemClock.now();
                    for call in 0..CALLS {
                        serve(&fleet, base + Duration::from_micros(call.into()), u64::from(call));
                    }
                })
            };
            let running: Vec<_> = (0..threads).map(work).collect();
            start.wait();
            let began = SystemClock.now();
            for thread in running {
                thread.join().unwrap();
            }
            let took = SystemClock.now().saturating_duration_since(began).as_secs_f64();
            took * 1e9 / f64::from(CALLS) / f64::from(u32::try_from(threads).unwrap())
        })
        .collect();
    rounds.sort_by(f64::total_cmp);
    rounds[ROUNDS / 2]
}

fn main() {
    println!(
        "choose, dispatch, first token, end; ns of wall clock per request over all threads, median of {ROUNDS} rounds"
    );
    println!("{:>8} {:>8} {:>12} {:>14}", "backends", "threads", "one fleet", "a fleet each");
    for backends in [2, 8, 64] {
        for threads in [1, 2, 16] {
            let shared = [Arc::new(fleet(backends))];
            let own: Vec<_> = (0..threads).map(|_| Arc::new(fleet(backends))).collect();
            let (one, each) = (contended(&shared, threads), contended(&own, threads));
            println!("{backends:>8} {threads:>8} {one:>12.0} {each:>14.0}");
        }
    }
}
