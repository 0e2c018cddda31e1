//! The routing rules against each other, live: `cargo bench --bench policies`.
//!
//! Every policy has a real `headway serve` and four simulated NIMs of its own, on real sockets; they live as long as the
//! benchmark, so what a proxy learned in one round it knows in the next. Before the first round each gets traffic that
//! is not counted. Then rounds: each policy in turn gets the same seeded requests, sent at their times whether or not
//! answers came, while one backend runs three times slower for the middle third. Every round begins with another policy.
//!
//! Latencies, verdicts and costs are the client's: the load generator's records, judged by the objectives of the
//! configuration, priced by the backend that the proxy names in its answer. What is refused or fails is a miss.
//!
//! Flags after `--`: `--rounds 3 --seconds 30 --warm-up 20 --seed 1 --rate 10 --policies a,b --on-overload sacrifice`,
//! `--struck a100`, `--steady` for no incident, `--json FILE` for everything unrounded.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::panic,
    clippy::cast_precision_loss,
    reason = "a benchmark that cannot go on says where and ends; its report is what it prints; its counts are small"
)]

mod figures;
mod plan;
mod report;
mod run;
#[path = "../support/process.rs"]
mod running;
mod scene;
mod stage;

use plan::{LEAD_IN, Plan};
use report::Column;
use scene::{BACKENDS, SLOWNESS};
use stage::{Sent, Stage};

fn main() {
    if std::env::args().any(|arg| arg == "--test") {
        return;
    }
    let plan = Plan::read().unwrap_or_else(|wrong| panic!("not understood: {wrong}"));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let columns = runtime.block_on(compare(&plan));
    print!("\n{}", report::tables(&plan, &columns));
    if let Some(path) = &plan.json {
        std::fs::write(path, report::json(&plan, &columns).to_string()).expect("the report can be written");
    }
}

async fn compare(plan: &Plan) -> Vec<Column> {
    introduce(plan);
    let folder = tempfile::tempdir().expect("a folder");
    let mut stages = Vec::new();
    for policy in &plan.policies {
        stages.push(Stage::set(plan, policy, folder.path()).await);
    }
    // At the same time, which is four times the load of a run: nothing is measured yet.
    let warming: Vec<_> = stages.iter().map(|stage| stage.warm_up(plan)).collect();
    for one in warming {
        one.await.expect("no request panics");
    }
    let mut columns: Vec<Column> =
        stages.iter().map(|stage| Column { policy: stage.policy.clone(), runs: Vec::new() }).collect();
    let mut last: Option<(usize, Sent)> = None;
    for round in 0..plan.rounds {
        for turn in 0..stages.len() {
            // Every round begins with another policy.
            let at = (turn + usize::try_from(round).unwrap_or(0)) % stages.len();
            // The last answers of a run come while the next one begins, unless both are of the same proxy.
            if let Some((at, sent)) = last.take_if(|(last, _)| *last == at) {
                take(plan, &stages[at], sent, &mut columns[at]).await;
            }
            let sent = stages[at].run(plan, round).await;
            if let Some((at, sent)) = last.replace((at, sent)) {
                take(plan, &stages[at], sent, &mut columns[at]).await;
            }
        }
    }
    if let Some((at, sent)) = last {
        take(plan, &stages[at], sent, &mut columns[at]).await;
    }
    columns
}

async fn take(plan: &Plan, stage: &Stage, sent: Sent, column: &mut Column) {
    let round = sent.round;
    let run = stage.answered(plan, sent).await;
    println!("{}", report::line(round, &stage.policy, &run));
    column.runs.push(run);
}

fn introduce(plan: &Plan) {
    let fleet = BACKENDS.map(|(name, _)| name).join(", ");
    println!("{} policies before simulated NIMs {fleet}; {} requests per second", plan.policies.len(), plan.rate);
    println!(
        "{} rounds of {} s counted, {} s before them; each proxy is warmed up for {} s, then learns on; seed {}",
        plan.rounds,
        plan.counted.as_secs_f64(),
        LEAD_IN.as_secs(),
        plan.warm_up.as_secs_f64(),
        plan.seed
    );
    match plan.incident() {
        Some(_) => println!("{} runs {SLOWNESS} times slower in the middle third", BACKENDS[plan.struck].0),
        None => println!("no incident"),
    }
}
