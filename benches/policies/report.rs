//! The tables, and the JSON with every request.

use std::fmt::Write;
use std::time::Duration;

use headway::bench::report::console::Table;
use serde_json::{Value, json};

use crate::figures::{self, Figure, Kind};
use crate::plan::Plan;
use crate::run::{Run, Sample, percentiles};
use crate::scene::{BACKENDS, ROUTES};

/// Rounds of one policy.
pub(crate) struct Column {
    pub(crate) policy: String,
    pub(crate) runs: Vec<Run>,
}

/// Lowest, median and highest.
struct Over {
    low: f64,
    median: f64,
    high: f64,
}

impl Over {
    fn of(values: impl Iterator<Item = f64>) -> Self {
        let [low, median, high] = percentiles(values.filter(|value| value.is_finite()).collect(), [0.0, 50.0, 100.0]);
        Self { low, median, high }
    }
}

/// Everything that the terminal shows.
pub(crate) fn tables(plan: &Plan, columns: &[Column]) -> String {
    let figures = figures::all(plan.steady);
    let mut text = figures_table(columns, &figures);
    text.push_str(&ratios_table(columns, &figures));
    text.push_str(&latency_table(columns));
    text.push_str(&shares(columns));
    text
}

/// Median of the rounds, with the lowest and the highest where there are several.
fn figures_table(columns: &[Column], figures: &[Figure]) -> String {
    let heads = std::iter::once("median (min .. max) of the rounds").chain(columns.iter().map(|one| &*one.policy));
    let mut table = Table::new("Policies, live".to_owned(), heads);
    for figure in figures {
        let cell = |column: &Column| {
            let over = Over::of(column.runs.iter().map(&figure.of));
            let text = |value| figure.kind.text(value);
            match column.runs.len() {
                1 => text(over.median),
                _ => format!("{} ({} .. {})", text(over.median), text(over.low), text(over.high)),
            }
        };
        table.row(std::iter::once(figure.name.clone()).chain(columns.iter().map(cell)));
    }
    table.render()
}

/// Round by round, the first policy ÷ each rival.
fn ratios_table(columns: &[Column], figures: &[Figure]) -> String {
    let Some((ours, rivals)) = columns.split_first().filter(|(_, rivals)| !rivals.is_empty()) else {
        return String::new();
    };
    let title = format!("{} / rival, round by round: median (min .. max), rounds in which it is better", ours.policy);
    let mut table = Table::new(title, std::iter::once("").chain(rivals.iter().map(|one| &*one.policy)));
    for figure in figures {
        let Some(less_is_better) = figure.kind.less_is_better() else { continue };
        let cell = |rival: &Column| ratio(figure, less_is_better, ours, rival);
        table.row(std::iter::once(figure.name.clone()).chain(rivals.iter().map(cell)));
    }
    table.render()
}

fn ratio(figure: &Figure, less_is_better: bool, ours: &Column, rival: &Column) -> String {
    let ratios: Vec<f64> =
        ours.runs.iter().zip(&rival.runs).map(|(one, other)| (figure.of)(one) / (figure.of)(other)).collect();
    let better = ratios.iter().filter(|ratio| if less_is_better { **ratio < 1.0 } else { **ratio > 1.0 }).count();
    let over = Over::of(ratios.iter().copied());
    format!("{:.3} ({:.3} .. {:.3}) {better}/{}", over.median, over.low, over.high, ratios.len())
}

/// Latencies of all rounds together: one round is too short for its 99th percentile.
fn latency_table(columns: &[Column]) -> String {
    let heads =
        ["policy", "route", "requests", "TTFT p50", "p95", "p99", "ITL p50", "p95", "p99", "E2E p50", "p95", "p99"];
    let mut table = Table::new("Latencies of all rounds together, ms; of requests that did not fail".to_owned(), heads);
    for column in columns {
        for (route, of) in ROUTES.iter().enumerate() {
            let samples = || column.runs.iter().flat_map(|run| &run.samples).filter(move |one| one.route == route);
            let row =
                |of: fn(&Sample) -> Option<f64>| percentiles(samples().filter_map(of).collect(), [50.0, 95.0, 99.0]);
            let (ttft, itl, e2e) = (row(|one| one.ttft_ms), row(|one| one.itl_ms), row(|one| one.e2e_ms));
            let mut cells = vec![column.policy.clone(), of.name.to_owned(), samples().count().to_string()];
            cells.extend([ttft, itl, e2e].as_flattened().iter().map(|value| format!("{value:.1}")));
            table.row(cells);
        }
    }
    table.render()
}

/// Where the requests of the first round went, in windows of so long.
const WINDOW: Duration = Duration::from_secs(5);

fn shares(columns: &[Column]) -> String {
    let mut text = format!("\nShares of the first round in windows of {} s, in percent\n", WINDOW.as_secs());
    for column in columns {
        let Some(run) = column.runs.first() else { continue };
        for (backend, counts) in by_backend(run).iter().enumerate() {
            let policy = if backend == 0 { column.policy.as_str() } else { "" };
            let _ = write!(text, "{policy:<20} {:<5}", BACKENDS[backend].0);
            for share in counts {
                let _ = write!(text, "{share:>4.0}");
            }
            text.push('\n');
        }
    }
    text
}

fn by_backend(run: &Run) -> Vec<Vec<f64>> {
    let counts = run.spread(WINDOW).counts;
    let share = |bucket: &Vec<u32>, backend: usize| {
        let all = bucket.iter().sum::<u32>().max(1);
        f64::from(bucket[backend]) / f64::from(all) * 100.0
    };
    (0..BACKENDS.len()).map(|backend| counts.iter().map(|bucket| share(bucket, backend)).collect()).collect()
}

/// Everything, unrounded.
pub(crate) fn json(plan: &Plan, columns: &[Column]) -> Value {
    let figures = figures::all(plan.steady);
    let column = |column: &Column| {
        let figure = |figure: &Figure| {
            let values: Vec<Option<f64>> =
                column.runs.iter().map(&figure.of).map(|value| Some(value).filter(|value| value.is_finite())).collect();
            (figure.name.clone(), json!(values))
        };
        json!({
            "policy": column.policy,
            "figures_by_round": Value::Object(figures.iter().map(figure).collect()),
            "rounds": column.runs.iter().map(Run::json).collect::<Vec<_>>(),
        })
    };
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "seed": plan.seed,
        "rate": plan.rate,
        "counted_s": plan.counted.as_secs_f64(),
        "warm_up_s": plan.warm_up.as_secs_f64(),
        "on_overload": plan.on_overload,
        "steady": plan.steady,
        "struck": (!plan.steady).then(|| BACKENDS[plan.struck].0),
        "policies": columns.iter().map(column).collect::<Vec<_>>(),
    })
}

/// One line per run while it goes on.
pub(crate) fn line(round: u64, policy: &str, run: &Run) -> String {
    let kept = Kind::Kept.text(run.kept(None, |_| true));
    let cost = Kind::Less.text(run.cost_per_thousand_good());
    let [proxy, own, machine] = run.cpu.shares().map(|share| Kind::Share.text(share));
    format!(
        "round {round} {policy:<20} {} requests, kept {kept}, {:.2} good/s, $ {cost} per 1,000 good; CPU {proxy} proxy, {own} load and NIMs, {machine} machine",
        run.samples.len(),
        run.good_per_second()
    )
}
