//! Measures one backend: for each shape, one load after the other.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use tokio::sync::mpsc;

use super::args::CalibrateArgs;
use super::progress::Progress;
use super::target::Target;
use crate::bench::drive::{Traffic, drive};
use crate::bench::record::{Phase, RequestRecord};
use crate::bench::request::{RequestBuilder, prompts_of};
use crate::bench::schedule::{Lengths, Limit, Load, Schedule};
use crate::clock::Clock;
use crate::planner::{Ladder, Point, Sample, Shape};

/// Records on their way.
const RECORDS_UNDER_WAY: usize = 1024;
/// Rounds of every client, at least: the first and the last do not count.
const ROUNDS: u32 = 4;
/// How much the lengths of answers differ, so that clients do not keep step: of their mean.
const SPREAD: f64 = 0.25;

/// Who asks before each load whether it may go on; an error ends the backend's sweep.
pub(super) trait Watch {
    async fn may_go_on(&self) -> anyhow::Result<()>;
}

/// What was measured of a backend, and why it ended early where it did.
pub(super) struct Swept {
    pub(super) points: Vec<Point>,
    pub(super) stopped: Option<String>,
}

/// The whole sweep of one backend.
pub(super) async fn sweep(
    target: &Target,
    args: &CalibrateArgs,
    clock: &Arc<dyn Clock>,
    progress: &mut Progress,
    watch: &impl Watch,
) -> anyhow::Result<Swept> {
    let rungs = args.rungs(target.settings.max_in_flight);
    let longest = target.settings.context_length;
    let mut points: Vec<Point> = Vec::new();
    for shape in args.shapes() {
        if longest.is_some_and(|longest| u64::from(shape.input_tokens) + u64::from(shape.output_tokens) > longest) {
            continue;
        }
        let ladder = Ladder { rungs: &rungs, promises: &target.promises, between: args.between };
        let mut measured: Vec<Point> = Vec::new();
        while let Some(concurrency) = ladder.next(&measured) {
            if let Err(why) = watch.may_go_on().await {
                points.append(&mut measured);
                return Ok(Swept { points, stopped: Some(format!("{why:#}")) });
            }
            progress.at(target.name(), shape, concurrency)?;
            measured.push(point(target, args, shape, concurrency, clock).await);
        }
        measured.sort_by_key(|point| point.concurrency);
        points.append(&mut measured);
    }
    Ok(Swept { points, stopped: None })
}

/// One load, to its end.
async fn point(target: &Target, args: &CalibrateArgs, shape: Shape, concurrency: u32, clock: &Arc<dyn Clock>) -> Point {
    let start = clock.now();
    let traffic = traffic(target, args, shape, concurrency);
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
    let failed = records.iter().filter(|record| !record.is_valid()).count() as u64;
    Point::new(shape, concurrency, records.iter().filter_map(sample).collect(), failed)
}

fn traffic(target: &Target, args: &CalibrateArgs, shape: Shape, concurrency: u32) -> Traffic {
    let Shape { input_tokens, output_tokens } = shape;
    // Every load has prompts of its own: none may hit a prefix cache.
    let seed = prompts_of(args.seed, &[input_tokens, output_tokens, concurrency].map(u64::from));
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

/// What the planner needs of a request; `None` for one that failed, or that nothing says the tokens of.
fn sample(record: &RequestRecord) -> Option<Sample> {
    let output_tokens = record.usage.output_tokens.filter(|_| record.is_valid())?;
    let started: Duration = record.offset;
    let (latencies, took, input_tokens) = (record.latencies, record.duration, record.input_tokens());
    latencies.end_to_end?;
    Some(Sample { started, latencies, took, input_tokens, output_tokens, steady: true })
}
