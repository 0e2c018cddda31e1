//! What traces cost, and what a troubled collector does to requests: `cargo bench --bench telemetry`.
//!
//! The same headway with traces off, at 5 % and at 100 % before a collector that takes them, and at 100 % before one
//! that refuses, hangs, or reads a byte a second. Each runs as a process of its own on one core; rounds alternate between
//! them, so that a machine that changes its pace changes it for all. CPU is the process's, the thread that makes and
//! sends spans included. What counts are the ratios to traces off, round by round.
//!
//! `-- --rounds N --quick` change its length.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::unchecked_time_subtraction,
    reason = "a benchmark that cannot go on says where and ends; its report is what it prints"
)]

#[allow(dead_code, reason = "shared with the comparison, which needs all of it")]
#[path = "../compare/backend.rs"]
mod backend;
#[allow(dead_code, reason = "shared with the comparison, which needs all of it")]
#[path = "../compare/client.rs"]
mod client;
mod collector;
#[allow(dead_code, reason = "shared with the comparison, which needs all of it")]
#[path = "../compare/process.rs"]
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
    request_p50_us: f64,
    request_p99_us: f64,
    failed: f64,
    exported: f64,
    dropped: f64,
}

struct Plan {
    rounds: usize,
    requests: usize,
    events: usize,
    streams: usize,
}

fn plan() -> Plan {
    let args: Vec<String> = std::env::args().collect();
    let value = |name: &str| args.iter().position(|arg| arg == name).and_then(|at| args.get(at + 1)).cloned();
    let quick = args.iter().any(|arg| arg == "--quick");
    Plan {
        rounds: value("--rounds").and_then(|rounds| rounds.parse().ok()).unwrap_or(if quick { 1 } else { 5 }),
        requests: if quick { 2_000 } else { 8_000 },
        events: if quick { 100 } else { 300 },
        streams: 64,
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
    let subjects = subjects::all(folder.path(), &backends).await;
    let mut results: Vec<(&'static str, Vec<Round>)> = subjects.iter().map(|one| (one.name, Vec::new())).collect();
    for round in 0..plan.rounds {
        for at in 0..subjects.len() {
            // Every round starts with another subject.
            let at = (at + round) % subjects.len();
            let measured = measure(&subjects[at], plan).await;
            println!("round {round} {:<16} {measured:.2?}", subjects[at].name);
            results[at].1.push(measured);
        }
    }
    report(&results);
}

async fn measure(subject: &Subject, plan: &Plan) -> Round {
    let process = process::Started::start(subject).await.expect("headway starts");
    let address = subject.address;
    client::requests(address, plan.requests / 10).await;
    client::stream(address, plan.streams, 20, Duration::from_millis(5)).await;

    let before = process.cpu();
    let (mut took, failed) = client::timed_requests(address, plan.requests).await;
    let requests = process.cpu() - before;
    took.sort_unstable();

    let before = process.cpu();
    client::stream(address, plan.streams, plan.events, Duration::from_millis(5)).await;
    let events = process.cpu() - before;
    let page = client::page(subject.admin).await;
    let sum = |family: &str| -> f64 {
        let lines = page.lines().filter(|line| line.starts_with(family));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    };
    #[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
    Round {
        cpu_per_request_us: requests.as_secs_f64() * 1e6 / plan.requests as f64,
        cpu_per_event_us: events.as_secs_f64() * 1e6 / (plan.streams * plan.events) as f64,
        request_p50_us: quantile(&took, 0.50),
        request_p99_us: quantile(&took, 0.99),
        failed: failed as f64,
        exported: sum("headway_spans_exported_total"),
        dropped: sum("headway_spans_dropped_total"),
    }
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

/// Prints medians with their spread, and the ratios to traces off, round by round.
fn report(results: &[(&'static str, Vec<Round>)]) {
    type Figure = (&'static str, fn(&Round) -> f64);
    let figures: [Figure; 7] = [
        ("CPU per request, us", |round| round.cpu_per_request_us),
        ("CPU per SSE event, us", |round| round.cpu_per_event_us),
        ("request p50, us", |round| round.request_p50_us),
        ("request p99, us", |round| round.request_p99_us),
        ("requests failed", |round| round.failed),
        ("spans exported", |round| round.exported),
        ("spans dropped", |round| round.dropped),
    ];
    let off = &results[0].1;
    for (title, figure) in figures {
        println!("\n{title:<24} {:>10} {:>22}   ratio to off (min .. max)", "median", "(min .. max)");
        for (name, rounds) in results {
            let (low, middle, high) = spread(rounds.iter().map(figure));
            let (least, ratio, most) = spread(rounds.iter().zip(off).map(|(own, base)| figure(own) / figure(base)));
            let ratios =
                if ratio.is_nan() { String::new() } else { format!("{ratio:>6.2}  ({least:.2} .. {most:.2})") };
            println!("  {name:<22} {middle:>10.2} ({low:>9.2} .. {high:>9.2})   {ratios}");
        }
    }
}

fn spread(values: impl Iterator<Item = f64>) -> (f64, f64, f64) {
    let mut values: Vec<f64> = values.filter(|value| value.is_finite()).collect();
    values.sort_by(f64::total_cmp);
    let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
    (at(0), at(values.len() / 2), at(values.len().saturating_sub(1)))
}
