//! Three times more than the fleet can carry, live: `cargo bench --bench overload`.
//!
//! Two simulated NIMs, a real `headway serve` before them, and a load generator on real sockets. First closed loops of
//! several sizes: the most good answers per second that any of them gets is the capacity. Then independent arrivals at a
//! multiple of that, sent at their times whether or not answers came; then half of the capacity. Good is what keeps
//! every objective of the route, as the client sees it.
//!
//! Flags after `--`: `--times 3 --seconds 30 --on-overload shed|queue --max-in-flight 16 --seed 1`; `--max-in-flight 0`
//! leaves it to the router to find out how many requests an engine runs at once.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::panic,
    clippy::cast_precision_loss,
    reason = "a benchmark that cannot go on says where and ends; its report is what it prints; its counts are small"
)]

#[path = "../support/process.rs"]
#[allow(dead_code, reason = "this benchmark looks at no processor time")]
mod running;
mod stage;

use std::time::Duration;

use headway::bench::record::RequestRecord;
use headway::bench::schedule::Load;
use headway::measure::objective::Objectives;
use headway::measure::percentile::percentile;
use stage::Stage;

/// What is sent before a figure counts: the engines are to be as busy as they get.
const LEAD_IN: Duration = Duration::from_secs(5);

/// For the router to learn what its backends can do.
const WARM_UP: Duration = Duration::from_secs(15);

/// Requests under way in the closed loops that look for the capacity; the engines hold 32 together.
const LOOPS: [usize; 3] = [24, 28, 32];

struct Plan {
    times: f64,
    counted: Duration,
    on_overload: String,
    max_in_flight: u32,
    seed: u64,
}

impl Plan {
    fn read() -> Self {
        let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
        let value = |name: &str| words.iter().position(|word| word == name).map(|at| words[at + 1].as_str());
        let number = |name: &str, default| value(name).map_or(default, |text| text.parse().expect("a number"));
        let known = ["--times", "--seconds", "--on-overload", "--max-in-flight", "--seed"];
        if let Some(unknown) = words.iter().step_by(2).find(|word| !known.contains(&word.as_str())) {
            panic!("{unknown}: there are {}", known.join(", "));
        }
        let on_overload = match value("--on-overload") {
            None | Some("shed") => "shed".to_owned(),
            Some("queue") => "{ queue: { depth: 64, wait: 400ms } }".to_owned(),
            Some(other) => panic!("--on-overload {other}: there are shed, queue"),
        };
        let counted = Duration::from_secs_f64(number("--seconds", 30.0));
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small numbers")]
        let (max_in_flight, seed) = (number("--max-in-flight", 16.0) as u32, number("--seed", 1.0) as u64);
        Self { times: number("--times", 3.0), counted, on_overload, max_in_flight, seed }
    }
}

fn main() {
    if std::env::args().any(|arg| arg == "--test") {
        return;
    }
    let plan = Plan::read();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(measure(&plan));
}

async fn measure(plan: &Plan) {
    let folder = tempfile::tempdir().expect("a folder");
    let stage = Stage::set(&plan.on_overload, plan.max_in_flight, plan.seed, folder.path()).await;
    stage.send("warm", Load::Closed { concurrency: 16 }, WARM_UP).await;
    let mut capacity = 0.0_f64;
    for concurrency in LOOPS {
        let records = stage.send(&format!("c{concurrency}"), Load::Closed { concurrency }, LEAD_IN * 3).await;
        let figures = Figures::of(&records, &stage.objectives, LEAD_IN, LEAD_IN * 3);
        println!("closed loop of {concurrency:>2}: {}", figures.line());
        capacity = capacity.max(figures.goodput);
    }
    println!("capacity: {capacity:.2} good answers per second");
    let rate = capacity * plan.times;
    let all = LEAD_IN + plan.counted;
    let records = stage.send("over", Load::Poisson { per_second: rate }, all).await;
    let figures = Figures::of(&records, &stage.objectives, LEAD_IN, all);
    println!("{} × capacity, {rate:.1} per second: {}", plan.times, figures.line());
    println!("goodput ÷ capacity: {:.1} %", 100.0 * figures.goodput / capacity);
    println!("of those admitted, good: {:.2} %", 100.0 * figures.kept());
    let shed = |percent| percentile(&figures.shed_ms, percent).unwrap_or(f64::NAN);
    println!("time to shed: p50 {:.2} ms, p99 {:.2} ms", shed(50.0), shed(99.0));
    let records = stage.send("calm", Load::Poisson { per_second: capacity / 2.0 }, Duration::from_secs(20)).await;
    let calm = Figures::of(&records, &stage.objectives, Duration::ZERO, Duration::from_secs(20));
    println!("then half of the capacity: {}", calm.line());
    println!("recovered after: {:.1} s", calm.last_bad.as_secs_f64());
    println!("sent late by at most: {} ms", figures.latest.max(calm.latest).as_millis());
}

/// What a load came to.
struct Figures {
    /// Good answers per second, by when they ended.
    goodput: f64,
    admitted: usize,
    good: usize,
    /// How long refusals took, sorted.
    shed_ms: Vec<f64>,
    failed: usize,
    ttft_ms: Vec<f64>,
    /// When the last request was sent that was refused, failed or bad.
    last_bad: Duration,
    latest: Duration,
}

impl Figures {
    fn of(records: &[RequestRecord], objectives: &Objectives, from: Duration, to: Duration) -> Self {
        let good = |one: &RequestRecord| one.is_valid() && one.verdicts(objectives).joint() == Some(true);
        let ended = |one: &&RequestRecord| (from..to).contains(&(one.offset + one.duration));
        let sent: Vec<_> = records.iter().filter(|one| (from..to).contains(&one.offset)).collect();
        let millis = |time: Duration| time.as_secs_f64() * 1e3;
        let sorted = |mut values: Vec<f64>| {
            values.sort_by(f64::total_cmp);
            values
        };
        let admitted: Vec<_> = sent.iter().filter(|one| one.status == 200).collect();
        let bad = records.iter().filter(|one| !good(one)).map(|one| one.offset);
        Self {
            goodput: records.iter().filter(ended).filter(|one| good(one)).count() as f64
                / to.saturating_sub(from).as_secs_f64(),
            admitted: admitted.len(),
            good: admitted.iter().filter(|one| good(one)).count(),
            shed_ms: sorted(sent.iter().filter(|one| one.status == 429).map(|one| millis(one.duration)).collect()),
            failed: sent.iter().filter(|one| !matches!(one.status, 200 | 429)).count(),
            ttft_ms: sorted(admitted.iter().filter_map(|one| one.latencies.first_token.map(millis)).collect()),
            last_bad: bad.max().unwrap_or_default(),
            latest: records.iter().map(|one| one.lag).max().unwrap_or_default(),
        }
    }

    /// Share of the admitted that are good.
    fn kept(&self) -> f64 {
        self.good as f64 / self.admitted as f64
    }

    fn line(&self) -> String {
        let ttft = |percent| percentile(&self.ttft_ms, percent).unwrap_or(f64::NAN);
        let Self { goodput, admitted, good, shed_ms, failed, .. } = self;
        let (shed, p50, p95, p99) = (shed_ms.len(), ttft(50.0), ttft(95.0), ttft(99.0));
        format!(
            "{goodput:.2} good/s; {admitted} admitted, {good} good, {shed} shed, {failed} failed; \
             TTFT p50 {p50:.0}, p95 {p95:.0}, p99 {p99:.0} ms"
        )
    }
}
