//! headway beside nginx and haproxy, in one run: `cargo bench --bench compare`.
//!
//! Each proxy runs as its own process, bound to one core, before the same backend; the backend and the clients run in
//! this process, bound to the other cores. Rounds alternate between the proxies, so that a machine that changes its
//! pace changes it for all of them; what counts are the ratios to nginx. A proxy that is not installed is left out.
//!
//! `-- --rounds N --quick` change its length; `-- --only headway,nginx` its subjects.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::unchecked_time_subtraction,
    reason = "a benchmark that cannot go on says where and ends; its report is what it prints"
)]

mod backend;
mod client;
mod process;
#[path = "../support/process.rs"]
mod running;
mod subjects;

use std::time::Duration;

use subjects::Subject;

/// What one round of one subject measured.
#[derive(Debug, Clone, Copy, Default)]
struct Round {
    cpu_per_request_us: f64,
    cpu_per_event_us: f64,
    added_p50_us: f64,
    added_p99_us: f64,
    memory_per_stream_kib: f64,
}

struct Plan {
    rounds: usize,
    requests: usize,
    events: usize,
    streams: usize,
    idle_streams: usize,
    only: Option<Vec<String>>,
}

fn plan() -> Plan {
    let args: Vec<String> = std::env::args().collect();
    let value = |name: &str| args.iter().position(|arg| arg == name).and_then(|at| args.get(at + 1)).cloned();
    let quick = args.iter().any(|arg| arg == "--quick");
    Plan {
        rounds: value("--rounds").and_then(|rounds| rounds.parse().ok()).unwrap_or(if quick { 1 } else { 5 }),
        requests: if quick { 4_000 } else { 20_000 },
        events: if quick { 200 } else { 600 },
        streams: 64,
        idle_streams: if quick { 200 } else { 1_000 },
        only: value("--only").map(|only| only.split(',').map(str::to_owned).collect()),
    }
}

fn main() {
    if std::env::args().any(|arg| arg == "--test") {
        return;
    }
    let plan = plan();
    process::bind_this_process_to_other_cores();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(run(&plan));
}

async fn run(plan: &Plan) {
    let backends = [backend::start().await, backend::start().await];
    let folder = tempfile::tempdir().expect("a folder");
    let all = subjects::all(folder.path(), &backends);
    let wanted = |subject: &Subject| plan.only.as_ref().is_none_or(|only| only.iter().any(|one| one == subject.name));
    let subjects: Vec<Subject> = all.into_iter().filter(wanted).collect();
    let mut results: Vec<(&'static str, Vec<Round>)> = subjects.iter().map(|one| (one.name, Vec::new())).collect();
    for round in 0..plan.rounds {
        for at in 0..subjects.len() {
            // Every round starts with another subject.
            let at = (at + round) % subjects.len();
            let Some(measured) = measure(&subjects[at], plan).await else { continue };
            println!("round {round} {:<8} {measured:.2?}", subjects[at].name);
            results[at].1.push(measured);
        }
    }
    report(&results);
}

async fn measure(subject: &Subject, plan: &Plan) -> Option<Round> {
    let Some(process) = process::Started::start(subject).await else {
        println!("{} is not installed or does not start: left out", subject.name);
        return None;
    };
    client::requests(subject.address, plan.requests / 10).await;
    client::stream(subject.address, plan.streams, 20, Duration::from_millis(5)).await;

    let before = process.cpu();
    client::requests(subject.address, plan.requests).await;
    let requests = process.cpu() - before;

    let before = process.cpu();
    let mut delays = client::stream(subject.address, plan.streams, plan.events, Duration::from_millis(5)).await;
    let events = process.cpu() - before;
    delays.sort_unstable();

    tokio::time::sleep(Duration::from_millis(300)).await;
    let idle = process.resident_kib();
    let held = client::hold(subject.address, plan.idle_streams).await;
    let full = process.resident_kib();
    drop(held);
    #[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
    Some(Round {
        cpu_per_request_us: requests.as_secs_f64() * 1e6 / plan.requests as f64,
        cpu_per_event_us: events.as_secs_f64() * 1e6 / (plan.streams * plan.events) as f64,
        added_p50_us: quantile(&delays, 0.50),
        added_p99_us: quantile(&delays, 0.99),
        memory_per_stream_kib: full.saturating_sub(idle) as f64 / plan.idle_streams as f64,
    })
}

#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "an index into a sample"
)]
fn quantile(sorted: &[u64], share: f64) -> f64 {
    sorted.get(((sorted.len() as f64 - 1.0) * share).round() as usize).map_or(f64::NAN, |nanos| *nanos as f64 / 1e3)
}

/// Prints medians with their spread, and the ratios to nginx, round by round.
fn report(results: &[(&'static str, Vec<Round>)]) {
    type Figure = (&'static str, fn(&Round) -> f64);
    let figures: [Figure; 5] = [
        ("CPU per request, us", |round| round.cpu_per_request_us),
        ("CPU per SSE event, us", |round| round.cpu_per_event_us),
        ("send to receive p50, us", |round| round.added_p50_us),
        ("send to receive p99, us", |round| round.added_p99_us),
        ("memory per stream, KiB", |round| round.memory_per_stream_kib),
    ];
    let nginx = results.iter().find(|(name, _)| *name == "nginx").map(|(_, rounds)| rounds);
    for (title, figure) in figures {
        println!("\n{title:<26} {:>9} {:>19}   ratio to nginx (min .. max)", "median", "(min .. max)");
        for (name, rounds) in results {
            let (low, middle, high) = spread(rounds.iter().map(figure));
            let ratios =
                nginx.map(|nginx| spread(rounds.iter().zip(nginx).map(|(own, base)| figure(own) / figure(base))));
            let ratios = ratios
                .map_or_else(String::new, |(low, middle, high)| format!("{middle:>6.2}  ({low:.2} .. {high:.2})"));
            println!("  {name:<24} {middle:>9.2} ({low:>8.2} .. {high:>7.2})   {ratios}");
        }
    }
}

fn spread(values: impl Iterator<Item = f64>) -> (f64, f64, f64) {
    let mut values: Vec<f64> = values.filter(|value| value.is_finite()).collect();
    values.sort_by(f64::total_cmp);
    let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
    (at(0), at(values.len() / 2), at(values.len().saturating_sub(1)))
}
