//! What a run was asked for, as each of the two programs writes it down: scripts that plot sweeps look for the load there.
//!
//! What has no meaning here (images, audio, pools of adapters) is left out; what only headway knows stands under `headway`.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::args::{BenchArgs, RateMode};
use super::plan::{Point, Pressure, request_count};
use crate::bench::goodput::Goodput;

/// GenAI-Perf's `input_config`.
pub(super) fn genai_perf(args: &BenchArgs, server: &str, point: &Point) -> Value {
    let endpoint = json!({
        "custom": args.endpoint.as_deref().unwrap_or(args.endpoint_type.api().path()).trim_start_matches('/'),
        "type": args.endpoint_type.as_str(),
        "streaming": args.streaming,
        "url": server,
        "service_kind": "openai",
    });
    let measurement = match args.measurement_interval.filter(|_| args.request_count.is_none()) {
        Some(interval) => json!({ "mode": "time_windows", "num": interval }),
        None => json!({ "mode": "request_count", "num": request_count(args, point) }),
    };
    json!({
        "model_names": [args.model],
        "subcommand": "profile",
        "verbose": args.verbose,
        "endpoint": endpoint,
        "perf_analyzer": {
            "stimulus": stimulus(point),
            "measurement": measurement,
            "warmup_request_count": args.warmup_request_count,
        },
        "input": {
            "extra": or_text(extra(args)),
            "goodput": or_text(bounds(args)),
            "num_dataset_entries": args.num_prompts,
            "random_seed": args.random_seed,
            "output_tokens": {
                "mean": point.output.map(|output| output.mean),
                "deterministic": args.output_tokens_mean_deterministic,
                "stddev": point.output.map(|output| output.stddev),
            },
            "synthetic_tokens": { "mean": point.input.mean, "stddev": point.input.stddev },
        },
        "output": {
            "artifact_directory": args.artifact_dir,
            "profile_export_file": args.profile_export_file,
        },
        "headway": own(args),
    })
}

/// GenAI-Perf has an empty text where nothing was asked for.
fn or_text(map: Map<String, Value>) -> Value {
    if map.is_empty() { Value::String(String::new()) } else { Value::Object(map) }
}

fn stimulus(point: &Point) -> Value {
    match point.pressure {
        Pressure::Concurrency(concurrency) => json!({ "concurrency": concurrency }),
        Pressure::Rate(rate) => json!({ "request_rate": rate }),
        Pressure::Trace => json!({}),
    }
}

/// AIPerf's `input_config`.
pub(super) fn aiperf(args: &BenchArgs, server: &str, point: &Point) -> Value {
    let mut prompts = Map::new();
    prompts.insert("isl".to_owned(), lengths(point.input.mean, point.input.stddev));
    if let Some(output) = point.output {
        prompts.insert("osl".to_owned(), lengths(output.mean, output.stddev));
    }
    let mut endpoint = json!({
        "urls": [server],
        "type": args.endpoint_type.as_str(),
        "streaming": args.streaming,
        "use_server_token_count": true,
    });
    let mut config = json!({
        "models": { "items": [{ "name": args.model }] },
        "datasets": [{
            "name": "main",
            "type": "synthetic",
            "entries": args.num_prompts,
            "random_seed": args.random_seed,
            "prompts": prompts,
        }],
        "phases": phases(args, point),
        "artifacts": { "dir": args.artifact_dir },
        "headway": own(args),
    });
    // What was not asked for is not there.
    set_unless_empty(&mut endpoint, "extra", extra(args));
    set_unless_empty(&mut config, "slos", bounds(args));
    if let Some(config) = config.as_object_mut() {
        config.insert("endpoint".to_owned(), endpoint);
    }
    config
}

fn set_unless_empty(of: &mut Value, key: &str, map: Map<String, Value>) {
    if let Some(of) = of.as_object_mut().filter(|_| !map.is_empty()) {
        of.insert(key.to_owned(), Value::Object(map));
    }
}

/// A spread that is zero is left out.
fn lengths(mean: f64, stddev: f64) -> Value {
    if stddev > 0.0 { json!({ "mean": mean, "stddev": stddev }) } else { json!({ "mean": mean }) }
}

fn phases(args: &BenchArgs, point: &Point) -> Vec<Value> {
    let phase = |name: &str, requests: Option<u64>| {
        let mut phase = Map::new();
        let mut set = |key: &str, value: Value| phase.insert(key.to_owned(), value);
        set("name", json!(name));
        set("kind", json!(name));
        match (point.pressure, args.request_rate_mode) {
            (Pressure::Concurrency(concurrency), _) => {
                set("type", json!("concurrency"));
                set("concurrency", json!(concurrency));
            }
            (Pressure::Rate(rate), mode) => {
                set("type", json!(if mode == RateMode::Poisson { "poisson" } else { "constant" }));
                set("rate", json!(rate));
            }
            (Pressure::Trace, _) => {
                set("type", json!("fixed_schedule"));
            }
        }
        if name == "warmup" {
            set("exclude_from_results", json!(true));
        }
        if let Some(requests) = requests {
            set("requests", json!(requests));
        } else if let Some(interval) = args.measurement_interval {
            set("duration", json!(Duration::from_millis(interval).as_secs_f64()));
        }
        Value::Object(phase)
    };
    let warmup = (args.warmup_request_count > 0).then(|| phase("warmup", Some(args.warmup_request_count)));
    warmup.into_iter().chain([phase("profiling", request_count(args, point))]).collect()
}

fn extra(args: &BenchArgs) -> Map<String, Value> {
    args.extra_inputs.iter().flatten().map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// The bounds of a good request by metric; they were read before, and so can be read.
fn bounds(args: &BenchArgs) -> Map<String, Value> {
    let goodput = args.goodput().ok().flatten();
    let bounds = goodput.iter().flat_map(Goodput::bounds);
    bounds.map(|(metric, bound)| (metric.tag().to_owned(), json!(bound))).collect()
}

fn own(args: &BenchArgs) -> Value {
    json!({
        "trace": args.trace,
        "trace_speed": args.trace.is_some().then_some(args.trace_speed),
        "rounds": args.rounds,
        "task": args.task.map(|task| format!("{task:?}").to_lowercase()),
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::plan::Plan;
    use super::*;

    #[derive(Debug, Parser)]
    struct Command {
        #[command(flatten)]
        args: BenchArgs,
    }

    fn asked(line: &str, of: fn(&BenchArgs, &str, &Point) -> Value) -> Value {
        let words = std::iter::once("bench").chain(line.split_whitespace());
        let args = Command::try_parse_from(words).expect("arguments").args;
        let plan = Plan::of(&args).expect("a plan");
        of(&args, "http://s", &plan.points[0])
    }

    #[test]
    fn the_load_stands_where_each_program_has_it() {
        let line = "-m m --streaming --concurrency 7 --warmup-request-count 2 --request-count 9 --isl 50 \
                    --goodput time_to_first_token:300";
        let value = asked(line, genai_perf);
        assert_eq!(value["perf_analyzer"]["stimulus"], json!({ "concurrency": 7 }));
        assert_eq!(value["input"]["goodput"], json!({ "time_to_first_token": 300.0 }));
        let value = asked(line, aiperf);
        let phase =
            json!({ "name": "profiling", "kind": "profiling", "type": "concurrency", "concurrency": 7, "requests": 9 });
        assert_eq!((&value["phases"][1], &value["phases"][0]["requests"]), (&phase, &json!(2)));
        assert_eq!(value["datasets"][0]["prompts"], json!({ "isl": { "mean": 50.0 } }));
        assert_eq!(value["endpoint"]["urls"], json!(["http://s"]));
    }

    #[test]
    fn what_was_not_asked_for_looks_as_in_each_program() {
        let line = "-m m --request-rate 2.5 --measurement-interval 1500";
        let value = asked(line, genai_perf);
        assert_eq!((&value["input"]["goodput"], &value["input"]["extra"]), (&json!(""), &json!("")));
        assert_eq!(value["perf_analyzer"]["measurement"], json!({ "mode": "time_windows", "num": 1500 }));
        let value = asked(line, aiperf);
        assert!(value.get("slos").is_none() && value["endpoint"].get("extra").is_none(), "{value}");
        let phase =
            json!({ "name": "profiling", "kind": "profiling", "type": "poisson", "rate": 2.5, "duration": 1.5 });
        assert_eq!(value["phases"], json!([phase]));
    }
}
