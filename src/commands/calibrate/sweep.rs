//! Measures one backend: for each shape, one load after the other.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::HeaderMap;
use tokio::sync::mpsc;

use super::Run;
use super::guard::Guard;
use super::progress::Progress;
use super::target::Target;
use crate::bench::drive::{Traffic, drive};
use crate::bench::record::{Phase, RequestRecord};
use crate::bench::request::{RequestBuilder, prompts_of};
use crate::bench::schedule::{Lengths, Limit, Load, Schedule};
use crate::measure::exchange::Latencies;
use crate::planner::{Ladder, Point, Sample, Shape};

/// Records on their way.
const RECORDS_UNDER_WAY: usize = 1024;
/// Rounds of every client, at least: the first and the last do not count.
const ROUNDS: u32 = 4;
/// How much the lengths of answers differ, so that clients do not keep step: of their mean.
const SPREAD: f64 = 0.25;

/// What was measured of a backend.
pub(super) struct Swept {
    pub(super) points: Vec<Point>,
    /// Why it ended early, where it did.
    pub(super) stopped: Option<String>,
    /// Lengths that are more than it takes.
    pub(super) too_long: Vec<Shape>,
}

/// The whole sweep of one backend.
pub(super) async fn sweep(
    target: &Target,
    run: &Run<'_>,
    progress: &mut Progress,
    guard: &Guard<'_>,
) -> anyhow::Result<Swept> {
    let mut swept = Swept { points: Vec::new(), stopped: None, too_long: Vec::new() };
    let mut rungs = run.args.rungs(target.settings.max_in_flight);
    for shape in run.args.shapes() {
        if !target.takes(shape) {
            swept.too_long.push(shape);
            continue;
        }
        let mut measured: Vec<Point> = Vec::new();
        while let Some(concurrency) =
            (Ladder { rungs: &rungs, promises: &target.promises, between: run.args.between }).next(&measured)
        {
            if let Err(why) = guard.may_go_on().await {
                swept.points.append(&mut measured);
                swept.stopped = Some(format!("{why:#}"));
                return Ok(swept);
            }
            progress.at(target.name(), shape, concurrency)?;
            measured.push(point(target, run, shape, concurrency).await);
        }
        // What it failed at is not tried with other lengths either.
        let failing = measured.iter().filter(|point| point.fails()).map(|point| point.concurrency).min();
        rungs.retain(|rung| failing.is_none_or(|failing| *rung < failing));
        measured.sort_by_key(|point| point.concurrency);
        swept.points.append(&mut measured);
    }
    Ok(swept)
}

/// One load, to its end.
async fn point(target: &Target, run: &Run<'_>, shape: Shape, concurrency: u32) -> Point {
    let (clock, start) = (run.clock, run.clock.now());
    let traffic = traffic(target, run, shape, concurrency);
    let (records, mut incoming) = mpsc::channel(RECORDS_UNDER_WAY);
    let driving = drive(Arc::clone(&target.client), traffic, Arc::clone(clock), start, records);
    let taking = async {
        let mut all: Vec<RequestRecord> = Vec::new();
        while let Some(record) = incoming.recv().await {
            all.push(record);
        }
        all
    };
    let ((), mut records) = tokio::join!(driving, taking);
    records.sort_by_key(|record| record.index);
    let mut errors = BTreeMap::new();
    for class in records.iter().filter_map(failure) {
        *errors.entry(class.to_owned()).or_insert(0) += 1;
    }
    Point::new(shape, concurrency, records.iter().map(sample).collect(), errors)
}

fn traffic(target: &Target, run: &Run<'_>, shape: Shape, concurrency: u32) -> Traffic {
    let Shape { input_tokens, output_tokens } = shape;
    let args = run.args;
    // Every load of every backend has prompts of its own: none may hit a prefix cache, which replicas may share.
    let seed = prompts_of(run.seed ^ target.number(), &[input_tokens, output_tokens, concurrency].map(u64::from));
    let limit = Limit {
        count: Some(u64::from(args.requests.max(concurrency.saturating_mul(ROUNDS)))),
        duration: Some(args.point_time),
    };
    let input = Lengths { mean: input_tokens.into(), stddev: 0.0 };
    let output = Lengths { mean: output_tokens.into(), stddev: SPREAD * f64::from(output_tokens) };
    let load = Load::Closed { concurrency: concurrency as usize };
    Traffic {
        schedule: Schedule::new(load, input, Some(output), limit, seed),
        builder: RequestBuilder::new(target.shape(seed, target.scale)),
        phase: Phase::Profiling,
        label: "",
        headers: HeaderMap::new(),
        id_prefix: format!("calibrate-{}-{input_tokens}-{output_tokens}-{concurrency}", target.name()),
    }
}

/// What was wrong with a request; one without a count of its tokens says too little.
fn failure(record: &RequestRecord) -> Option<&str> {
    let unknown = record.usage.output_tokens.is_none() || record.latencies.end_to_end.is_none();
    record.error.as_deref().or(unknown.then_some("no usage in its answer"))
}

/// What the planner needs of a request.
fn sample(record: &RequestRecord) -> Sample {
    let (started, took, input_tokens) = (record.offset, record.duration, record.input_tokens());
    let output_tokens = record.usage.output_tokens.unwrap_or_default();
    let failed = failure(record).is_some();
    let latencies = if failed { Latencies::default() } else { record.latencies };
    Sample { started, latencies, took, input_tokens, output_tokens, failed, steady: true }
}
