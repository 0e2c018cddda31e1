//! What is measured: every server at every load, with every length that the arguments name.

use std::path::PathBuf;
use std::time::Duration;

use super::args::{BenchArgs, RateMode};
use crate::bench::request::{PromptScale, RequestShape};
use crate::bench::schedule::{Lengths, Limit, Load};
use crate::trace::read_trace;
use anyhow::{Context, bail};

/// Prompts without a length of their own: GenAI-Perf's default.
const USUAL_INPUT: f64 = 550.0;
/// Most cases of one run; a sweep of three dimensions grows quickly.
const MOST_CASES: usize = 1_000;

/// How requests come.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Pressure {
    Concurrency(u16),
    Rate(f64),
    Trace,
}

/// One point of a sweep: load and lengths.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Point {
    pub(super) pressure: Pressure,
    pub(super) input: Lengths,
    pub(super) output: Option<Lengths>,
}

/// All points, each for all servers.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) points: Vec<Point>,
    pub(super) servers: Vec<String>,
    pub(super) rounds: u32,
    /// The trace, read once.
    trace: Option<Load>,
    inputs: usize,
    outputs: usize,
    pressures: usize,
}

impl Plan {
    pub(super) fn of(args: &BenchArgs) -> anyhow::Result<Self> {
        let pressures = pressures(args);
        let (inputs, outputs) = (inputs(args), outputs(args));
        let mut points = Vec::new();
        for output in &outputs {
            for input in &inputs {
                points.extend(pressures.iter().map(|&pressure| Point { pressure, input: *input, output: *output }));
            }
        }
        let servers = args.url.clone();
        if points.len().saturating_mul(servers.len()) > MOST_CASES {
            bail!(
                "that is {} loads and lengths for {} servers; at most {MOST_CASES} are measured",
                points.len(),
                servers.len()
            );
        }
        if !args.gpus.is_empty() && args.gpus.len() != servers.len() {
            bail!("--gpus has {} numbers for {} servers; give one for each", args.gpus.len(), servers.len());
        }
        if !args.streaming && args.goodput()?.is_some_and(|goodput| goodput.needs_streams()) {
            bail!("--goodput bounds times of tokens, which only streamed answers have; add --streaming");
        }
        let rounds = args.rounds.unwrap_or(if servers.len() > 1 { 3 } else { 1 });
        let (pressures, inputs, outputs) = (pressures.len(), inputs.len(), outputs.len());
        Ok(Self { points, servers, rounds, trace: trace(args)?, inputs, outputs, pressures })
    }

    pub(super) fn load(&self, args: &BenchArgs, point: &Point) -> Load {
        match (point.pressure, args.request_rate_mode, &self.trace) {
            (Pressure::Concurrency(concurrency), ..) => Load::Closed { concurrency: concurrency.into() },
            (Pressure::Rate(per_second), RateMode::Poisson, _) => Load::Poisson { per_second },
            (Pressure::Rate(per_second), RateMode::Constant, _) => Load::Constant { per_second },
            (Pressure::Trace, _, Some(trace)) => trace.clone(),
            (Pressure::Trace, _, None) => Load::Closed { concurrency: 1 },
        }
    }

    /// Where a round of measuring ends.
    pub(super) fn limit(&self, args: &BenchArgs, point: &Point, round: u32) -> Limit {
        let duration = args.measurement_interval.map(Duration::from_millis).filter(|_| args.request_count.is_none());
        let count = request_count(args, point).map(|count| part(count, round, self.rounds));
        Limit { count, duration: duration.map(|duration| duration / self.rounds.max(1)) }
    }

    /// All requests of the run; `None` when time or a trace decides.
    pub(super) fn expected(&self, args: &BenchArgs) -> Option<u64> {
        let of = |point: &Point| Some(request_count(args, point)?.saturating_add(args.warmup_request_count));
        let each = self.points.iter().map(of).sum::<Option<u64>>()?;
        Some(each.saturating_mul(self.servers.len() as u64))
    }

    /// The name of a case, as short as it can be told apart.
    pub(super) fn name(&self, server: usize, point: &Point) -> String {
        let mut parts = vec![self.series(server, point)];
        parts.push(match point.pressure {
            Pressure::Concurrency(concurrency) => format!("{concurrency} at once"),
            Pressure::Rate(rate) => format!("{rate}/s"),
            Pressure::Trace => "trace".to_owned(),
        });
        parts.retain(|part| !part.is_empty());
        parts.join(", ")
    }

    /// What a case has in common with those that differ from it by load alone.
    pub(super) fn series(&self, server: usize, point: &Point) -> String {
        let mut parts = Vec::new();
        if self.servers.len() > 1 {
            parts.push(self.servers.get(server).cloned().unwrap_or_default());
        }
        if self.inputs > 1 {
            parts.push(format!("{} in", point.input.mean));
        }
        if let Some(output) = point.output.filter(|_| self.outputs > 1) {
            parts.push(format!("{} out", output.mean));
        }
        parts.join(", ")
    }

    /// The folder of a case, as GenAI-Perf names it; what it has no name for follows.
    pub(super) fn folder(&self, args: &BenchArgs, server: usize, point: &Point) -> PathBuf {
        let load = match point.pressure {
            Pressure::Concurrency(concurrency) => format!("concurrency{concurrency}"),
            Pressure::Rate(rate) => format!("request_rate{rate}"),
            Pressure::Trace => "trace".to_owned(),
        };
        let mut name =
            format!("{}-openai-{}-{load}", args.model.replace(['/', '\\'], "_"), args.endpoint_type.as_str());
        if self.inputs > 1 {
            name = format!("{name}-isl{}", point.input.mean);
        }
        if let Some(output) = point.output.filter(|_| self.outputs > 1) {
            name = format!("{name}-osl{}", output.mean);
        }
        if self.servers.len() > 1 {
            name = format!("{name}-server{}", server + 1);
        }
        args.artifact_dir.join(name)
    }

    /// What the load of a sweep is called.
    pub(super) fn load_name(&self) -> &'static str {
        match self.points.first().map(|point| point.pressure) {
            Some(Pressure::Rate(_)) => "requests per second",
            Some(Pressure::Trace) => "trace",
            _ => "requests under way",
        }
    }

    /// Whether there is more than one case to compare.
    pub(super) fn compares(&self) -> bool {
        self.servers.len() * self.pressures * self.inputs * self.outputs > 1
    }
}

impl Point {
    /// Its load as a number.
    pub(super) fn load(&self) -> f64 {
        match self.pressure {
            Pressure::Concurrency(concurrency) => concurrency.into(),
            Pressure::Rate(rate) => rate,
            Pressure::Trace => 1.0,
        }
    }

    /// What tells a turn of it from every other turn of the run.
    pub(super) fn part(&self, round: u32) -> [u64; 4] {
        let output = self.output.map_or(0.0, |output| output.mean);
        [self.load().to_bits(), self.input.mean.to_bits(), output.to_bits(), round.into()]
    }
}

fn pressures(args: &BenchArgs) -> Vec<Pressure> {
    if args.trace.is_some() {
        return vec![Pressure::Trace];
    }
    let rates: Vec<_> = args.request_rate.iter().map(|rate| Pressure::Rate(*rate)).collect();
    let places: Vec<_> = args.concurrency.iter().map(|places| Pressure::Concurrency(*places)).collect();
    match (rates.is_empty(), places.is_empty()) {
        (false, _) => rates,
        (true, false) => places,
        (true, true) => vec![Pressure::Concurrency(1)],
    }
}

fn inputs(args: &BenchArgs) -> Vec<Lengths> {
    let stddev = args.synthetic_input_tokens_stddev;
    match (args.synthetic_input_tokens_mean.as_slice(), args.task) {
        ([], Some(task)) => vec![Lengths { stddev: stddev.unwrap_or(task.input().stddev), ..task.input() }],
        ([], None) => vec![Lengths { mean: USUAL_INPUT, stddev: stddev.unwrap_or(0.0) }],
        (means, _) => means.iter().map(|&mean| Lengths { mean, stddev: stddev.unwrap_or(0.0) }).collect(),
    }
}

fn outputs(args: &BenchArgs) -> Vec<Option<Lengths>> {
    let stddev = args.output_tokens_stddev;
    match (args.output_tokens_mean.as_slice(), args.task) {
        ([], Some(task)) => vec![Some(Lengths { stddev: stddev.unwrap_or(task.output().stddev), ..task.output() })],
        ([], None) => vec![None],
        (means, _) => means.iter().map(|&mean| Some(Lengths { mean, stddev: stddev.unwrap_or(0.0) })).collect(),
    }
}

fn trace(args: &BenchArgs) -> anyhow::Result<Option<Load>> {
    let Some(file) = &args.trace else { return Ok(None) };
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let rows = read_trace(&text).with_context(|| format!("{} is no trace", file.display()))?;
    Ok(Some(Load::Trace { rows: rows.into(), speed: args.trace_speed, repeat: false }))
}

/// How many requests of a case are measured; `None` when time or the trace decides.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a positive number of requests")]
pub(super) fn request_count(args: &BenchArgs, point: &Point) -> Option<u64> {
    if args.request_count.is_some() || args.measurement_interval.is_some() || args.trace.is_some() {
        return args.request_count;
    }
    // GenAI-Perf measures for ten seconds; a closed loop gets at least two rounds.
    let usual = match point.pressure {
        Pressure::Rate(rate) => (rate * 10.0) as u64,
        Pressure::Concurrency(concurrency) => u64::from(concurrency) * 2,
        Pressure::Trace => 0,
    };
    Some(usual.max(10))
}

/// What tells the requests of a point from those of others, in their ids.
pub(super) fn tag(point: &Point) -> String {
    let output = point.output.map_or(0.0, |output| output.mean);
    format!("{}-{}-{output}", point.load(), point.input.mean)
}

/// The share of a round; all rounds together have all requests.
fn part(count: u64, round: u32, rounds: u32) -> u64 {
    let (round, rounds) = (u64::from(round), u64::from(rounds.max(1)));
    count.saturating_mul(round + 1) / rounds - count.saturating_mul(round) / rounds
}

/// How the bodies of requests are.
pub(super) fn shape(args: &BenchArgs, seed: u64, scale: PromptScale) -> RequestShape {
    RequestShape {
        stream: args.streaming,
        exact_length: args.output_tokens_mean_deterministic || args.trace.is_some(),
        extra: args.extra_inputs.iter().flatten().map(|(name, value)| (name.clone(), value.clone())).collect(),
        prompts: args.num_prompts,
        seed,
        scale,
        ..RequestShape::new(args.endpoint_type.api(), &args.model)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use clap::Parser;
    use serde_json::json;

    use super::*;

    #[derive(Debug, Parser)]
    struct Command {
        #[command(flatten)]
        args: BenchArgs,
    }

    #[track_caller]
    fn parse(line: &str) -> BenchArgs {
        let words = std::iter::once("bench").chain(line.split_whitespace());
        Command::try_parse_from(words).unwrap_or_else(|error| panic!("{error}")).args
    }

    #[test]
    fn the_documented_command_line_of_genai_perf_is_understood() {
        let args = parse(
            "profile -m meta/llama3-8b-instruct --endpoint-type chat --service-kind openai --streaming -u localhost:8000 \
             --synthetic-input-tokens-mean 200 --synthetic-input-tokens-stddev 0 --concurrency 10 \
             --output-tokens-mean 100 --extra-inputs max_tokens:100 --extra-inputs min_tokens:100 \
             --extra-inputs ignore_eos:true --tokenizer meta-llama/Meta-Llama-3-8B-Instruct --random-seed 123 \
             --num-prompts 100 --measurement-interval 10000 --profile-export-file 200_100.json -- -v --max-threads=256",
        );
        let plan = Plan::of(&args).expect("a plan");
        let [point] = plan.points.as_slice() else { panic!("{plan:?}") };
        assert_eq!(plan.limit(&args, point, 0).duration, Some(Duration::from_secs(10)));
        assert_eq!(shape(&args, 0, PromptScale::default()).extra.get("ignore_eos"), Some(&json!(true)));
        let folder = Path::new("artifacts/meta_llama3-8b-instruct-openai-chat-concurrency10");
        assert_eq!(plan.folder(&args, 0, point), folder);
        assert_eq!(args.ignored().len(), 2, "{:?}", args.ignored());
    }

    #[test]
    fn loads_exclude_each_other_and_bounds_come_in_one_word_or_many() {
        let words = ["bench", "-m", "m", "--concurrency", "1", "--request-rate", "2"];
        assert!(Command::try_parse_from(words).is_err());
        let words = ["bench", "-m", "m", "-g", "time_to_first_token:300 inter_token_latency:40"];
        let args = Command::try_parse_from(words).expect("bounds").args;
        assert_eq!(args.goodput().expect("bounds").expect("given").bounds().len(), 2);
        let args = parse("-m m --goodput time_to_first_token:300 inter_token_latency:40");
        assert_eq!(args.goodput().expect("bounds").expect("given").bounds().len(), 2);
    }

    #[track_caller]
    fn counts(line: &str, each: Option<u64>, expected: Option<u64>) {
        let args = parse(line);
        let plan = Plan::of(&args).expect("a plan");
        assert_eq!((request_count(&args, &plan.points[0]), plan.expected(&args)), (each, expected), "{line}");
    }

    #[test]
    fn requests_are_as_many_as_genai_perf_would_send() {
        counts("-m m --concurrency 16", Some(32), Some(32));
        counts("-m m --request-rate 20", Some(200), Some(200));
        counts("-m m -u a,b --concurrency 1,16 --warmup-request-count 3", Some(10), Some(2 * (10 + 3 + 32 + 3)));
        counts("-m m --measurement-interval 100", None, None);
    }

    #[test]
    fn a_sweep_has_every_load_with_every_length_and_names_that_tell_them_apart() {
        let args = parse("-m m -u a,b --concurrency 1,4 --isl 100,200 --osl 10,20,30");
        let plan = Plan::of(&args).expect("a plan");
        assert_eq!((plan.points.len(), plan.rounds, plan.compares()), (12, 3, true));
        let mut folders: Vec<_> =
            plan.points.iter().flat_map(|point| [0, 1].map(|server| plan.folder(&args, server, point))).collect();
        folders.sort();
        folders.dedup();
        assert_eq!(folders.len(), 24);
        let first = &plan.points[0];
        assert_eq!(plan.name(1, first), "b, 100 in, 10 out, 1 at once");
        assert_eq!(plan.series(0, first), "a, 100 in, 10 out");
        let alone = parse("-m m --concurrency 1,4");
        let plan = Plan::of(&alone).expect("a plan");
        assert_eq!(
            (plan.name(0, &plan.points[1]), plan.series(0, &plan.points[1])),
            ("4 at once".to_owned(), String::new())
        );
        assert!(Plan::of(&parse("-m m -u a,b --gpus 1")).is_err());
        for (line, good) in [("", false), (" --streaming", true)] {
            let args = parse(&format!("-m m --goodput inter_token_latency:40{line}"));
            assert_eq!(Plan::of(&args).is_ok(), good, "{line}");
        }
        assert!(Plan::of(&parse("-m m --goodput request_latency:40")).is_ok());
    }

    #[test]
    fn rounds_share_the_requests_and_a_task_brings_its_lengths() {
        let parts: Vec<_> = (0..3).map(|round| part(10, round, 3)).collect();
        assert_eq!((parts.iter().sum::<u64>(), parts.as_slice()), (10, [3, 3, 4].as_slice()));
        let args = parse("-m m --task qa");
        let [point] = Plan::of(&args).expect("a plan").points[..] else { panic!("one point") };
        assert_eq!((point.input.mean, point.output.map(|output| output.mean)), (350.0, Some(125.0)));
        let args = parse("-m m --task qa --isl 10 --output-tokens-stddev 2");
        let [point] = Plan::of(&args).expect("a plan").points[..] else { panic!("one point") };
        assert_eq!(point.input, Lengths { mean: 10.0, stddev: 0.0 });
        assert_eq!(point.output, Some(Lengths { mean: 125.0, stddev: 2.0 }));
    }

    #[test]
    fn a_header_keeps_its_secret() {
        let args = parse("-m m -H Authorization:Bearer-x");
        assert!(!format!("{args:?}").contains("Bearer-x"));
    }
}
