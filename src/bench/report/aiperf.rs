//! Reports for programs that read AIPerf's: `profile_export_aiperf.json` and `.csv`, as version 0.13.0 writes them.
//!
//! Every key has AIPerf's name, unit, shape and place; what AIPerf knows of its own machinery alone is left out.

use std::fmt::Write as _;

use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};
use serde_json::Value;

use super::Report;
use super::entries::{Entry, Value as Metric, entries};
use super::over_time::SHARES;
use crate::bench::statistics::PERCENTILES;

/// The schema that the JSON follows.
const SCHEMA: &str = "1.4";
/// The version of AIPerf whose files these are like.
const LIKE: &str = "0.13.0";

/// What a run is, besides what it measured.
#[derive(Debug, Clone)]
pub struct RunInfo {
    /// Its id.
    pub id: String,
    /// The seed of everything that was drawn.
    pub seed: u64,
    /// The command line that made it, without credentials.
    pub command: String,
    /// Start and end, ISO 8601 without a zone.
    pub times: (String, String),
    /// Whether it was interrupted.
    pub cancelled: bool,
    /// What was asked for.
    pub input_config: Value,
}

/// `profile_export_aiperf.json`; what the warm-up measured is a part of its own.
///
/// # Errors
/// None that a report can cause.
pub fn json(report: &Report, warmup: Option<&Report>, run: &RunInfo) -> serde_json::Result<String> {
    let mut text = serde_json::to_string_pretty(&Export { report, warmup, run })?;
    text.push('\n');
    Ok(text)
}

struct Export<'a> {
    report: &'a Report,
    warmup: Option<&'a Report>,
    run: &'a RunInfo,
}

/// The metrics that AIPerf's schema names, in its order; the others follow at the end.
const NAMED: [&str; 21] = [
    "request_throughput",
    "request_latency",
    "request_count",
    "time_to_first_token",
    "time_to_second_token",
    "inter_token_latency",
    "output_token_throughput",
    "output_token_throughput_per_user",
    "output_sequence_length",
    "input_sequence_length",
    "goodput",
    "good_request_count",
    "output_token_count",
    "reasoning_token_count",
    "inter_chunk_latency",
    "total_output_tokens",
    "total_reasoning_tokens",
    "benchmark_duration",
    "total_isl",
    "total_osl",
    "error_request_count",
];

impl Serialize for Export<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let run = self.run;
        let metrics = entries(self.report);
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("schema_version", SCHEMA)?;
        map.serialize_entry("aiperf_version", LIKE)?;
        map.serialize_entry("benchmark_id", &run.id)?;
        for named in NAMED {
            if let Some(entry) = metrics.iter().find(|entry| entry.tag == named) {
                map.serialize_entry(entry.tag, entry)?;
            }
        }
        map.serialize_entry("input_config", &run.input_config)?;
        map.serialize_entry("run_info", &Info::of(run))?;
        map.serialize_entry("was_cancelled", &run.cancelled)?;
        map.serialize_entry("is_complete", &!run.cancelled)?;
        map.serialize_entry("error_summary", &errors(self.report))?;
        map.serialize_entry("start_time", &run.times.0)?;
        map.serialize_entry("end_time", &run.times.1)?;
        if let Some(warmup) = self.warmup {
            map.serialize_entry("warmup_metrics", &Metrics(&entries(warmup)))?;
        }
        for entry in metrics.iter().filter(|entry| !NAMED.contains(&entry.tag)) {
            map.serialize_entry(entry.tag, entry)?;
        }
        map.end()
    }
}

/// Metrics by key.
struct Metrics<'a>(&'a [Entry]);

impl Serialize for Metrics<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|entry| (entry.tag, entry)))
    }
}

#[derive(Serialize)]
struct Info<'a> {
    benchmark_id: &'a str,
    random_seed: u64,
    trial: u32,
    cli_command: &'a str,
    /// Ours: whose files these are.
    generator: &'static str,
}

impl<'a> Info<'a> {
    fn of(run: &'a RunInfo) -> Self {
        let generator = concat!("headway bench ", env!("CARGO_PKG_VERSION"));
        Self { benchmark_id: &run.id, random_seed: run.seed, trial: 0, cli_command: &run.command, generator }
    }
}

#[derive(Serialize)]
struct ErrorCount<'a> {
    error_details: ErrorDetails<'a>,
    count: u64,
}

#[derive(Serialize)]
struct ErrorDetails<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<u16>,
    #[serde(rename = "type")]
    class: &'a str,
    message: &'a str,
}

fn details(class: &str) -> ErrorDetails<'_> {
    let code = class.strip_prefix("http_").and_then(|code| code.parse().ok());
    ErrorDetails { code, class, message: class }
}

fn errors(report: &Report) -> Vec<ErrorCount<'_>> {
    report.errors().iter().map(|(class, count)| ErrorCount { error_details: details(class), count: *count }).collect()
}

/// `profile_export_aiperf.csv`: two blocks, rows by key, lines ended as Python's writer ends them.
#[must_use]
pub fn csv(report: &Report) -> String {
    let mut entries = entries(report);
    entries.sort_by_key(|entry| entry.tag);
    let (mut requests, mut system) = (String::from(HEAD), String::from("Metric,Value\r\n"));
    for entry in &entries {
        // Counts have no unit in their name.
        let unit = Some(entry.unit).filter(|unit| !matches!(*unit, "requests" | "count"));
        let name = unit.map_or_else(|| entry.title.clone(), |unit| format!("{} ({unit})", entry.title));
        let _ = match cells(&entry.value) {
            Ok(cells) => write!(requests, "{name},{}\r\n", cells.join(",")),
            Err(value) => write!(system, "{name},{value:.2}\r\n"),
        };
    }
    format!("{requests}\r\n{system}")
}

const HEAD: &str = "Metric,avg,min,max,sum,p1,p5,p10,p25,p50,p75,p90,p95,p99,std\r\n";

/// The cells of a row of the first block; a value that makes a row of the second.
fn cells(value: &Metric) -> Result<Vec<String>, f64> {
    let cell = |value: f64| format!("{value:.2}");
    match value {
        Metric::Statistics(of) => {
            let ends = [of.avg, of.min, of.max, of.sum];
            Ok(ends.into_iter().chain(of.percentiles).chain([of.std]).map(cell).collect())
        }
        Metric::OverTime(of) => {
            let known = SHARES.iter().zip(of.percentiles);
            let percentile = |percent: &u8| known.clone().find(|(share, _)| *share == percent);
            let percentiles =
                PERCENTILES.iter().map(|percent| percentile(percent).map_or_else(String::new, |of| cell(of.1)));
            let ends = [cell(of.avg), cell(of.min), cell(of.max), String::new()];
            Ok(ends.into_iter().chain(percentiles).chain([cell(of.std)]).collect())
        }
        Metric::Adjusted(of) => {
            let percentiles = of.percentiles.map(|value| value.map_or_else(String::new, cell));
            let empty = String::new;
            let ends = [empty(), cell(of.min), empty(), empty()];
            Ok(ends.into_iter().chain(percentiles).chain([empty()]).collect())
        }
        Metric::Aggregate(value) => Err(*value),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json as value_of;

    use super::super::Collector;
    use super::*;
    use crate::bench::record::testing::record;
    use crate::bench::record::{Phase, RequestRecord};

    fn report() -> Report {
        let mut collector = Collector::detailed(Some("time_to_first_token:250".parse().expect("bounds")));
        collector.add(&record(200, 20, 101));
        collector.add(&record(300, 20, 101));
        collector.add(&RequestRecord { error: Some("http_503".into()), ..record(1, 1, 1) });
        collector.report()
    }

    fn run() -> RunInfo {
        RunInfo {
            id: "bench-1".to_owned(),
            seed: 7,
            command: "headway bench -m m".to_owned(),
            times: ("2026-01-01T00:00:00.000000".to_owned(), "2026-01-01T00:00:10.000000".to_owned()),
            cancelled: false,
            input_config: value_of!({ "model_names": ["m"] }),
        }
    }

    #[test]
    fn the_json_has_aiperfs_keys_in_its_order_and_its_shapes() {
        let mut warmup = Collector::of_warmup(None);
        warmup.add(&RequestRecord { phase: Phase::Warmup, ..record(900, 20, 101) });
        let text = super::json(&report(), Some(&warmup.report()), &run()).expect("a report");
        let value: Value = serde_json::from_str(&text).expect("JSON");
        let written = [
            "schema_version",
            "aiperf_version",
            "benchmark_id",
            "request_throughput",
            "request_latency",
            "request_count",
            "time_to_first_token",
            "time_to_second_token",
            "inter_token_latency",
            "output_token_throughput",
            "output_token_throughput_per_user",
            "output_sequence_length",
            "input_sequence_length",
            "goodput",
            "good_request_count",
            "output_token_count",
            "total_output_tokens",
            "benchmark_duration",
            "total_isl",
            "total_osl",
            "input_config",
            "run_info",
            "was_cancelled",
            "is_complete",
            "error_summary",
            "start_time",
            "end_time",
            "warmup_metrics",
            "time_to_first_output_token",
            "usage_prompt_tokens",
            "http_req_duration",
            "completed_request_count",
            "effective_concurrency",
            "active_total_throughput",
        ];
        let places: Vec<_> = written.iter().map(|key| text.find(&format!("\n  \"{key}\":")).expect(key)).collect();
        assert!(places.is_sorted(), "{text}");
        assert!(text.starts_with("{\n  \"schema_version\": \"1.4\""), "{text}");
        let ttft = value["time_to_first_token"].as_object().expect("statistics");
        let shape = "\"time_to_first_token\": {\n    \"unit\": \"ms\",\n    \"avg\": 250.0,\n    \"p1\": 201.0,";
        assert!(text.contains(shape) && ttft["count"] == 2 && ttft["sum"] == 500.0, "{text}");
        assert_eq!(value["request_count"], value_of!({"unit": "requests", "avg": 2.0}));
        let error =
            value_of!([{"error_details": {"code": 503, "type": "http_503", "message": "http_503"}, "count": 1}]);
        assert_eq!(value["error_summary"], error);
        assert_eq!(value["warmup_metrics"]["time_to_first_token"]["avg"], 900.0);
        assert!(value["warmup_metrics"].get("goodput").is_none(), "{text}");
        let held: Vec<_> = value["tokens_in_flight"].as_object().expect("weighted").keys().collect();
        assert_eq!(held, ["avg", "max", "min", "p50", "p90", "p95", "p99", "std", "unit"]);
    }

    #[test]
    fn reasoning_is_told_apart_from_what_is_shown() {
        let mut collector = Collector::detailed(None);
        let mut one = record(200, 20, 101);
        one.usage.reasoning_tokens = Some(31);
        collector.add(&one);
        let text = super::json(&collector.report(), None, &run()).expect("a report");
        let value: Value = serde_json::from_str(&text).expect("JSON");
        let of = |key: &str| value[key]["avg"].as_f64();
        assert_eq!(
            [of("total_osl"), of("total_output_tokens"), of("total_reasoning_tokens")],
            [101.0, 70.0, 31.0].map(Some)
        );
    }

    #[test]
    fn the_csv_has_two_blocks_of_plain_numbers_by_name() {
        let text = csv(&report());
        assert_eq!(text.matches("\r\n").count(), text.matches('\n').count());
        let mut lines = text.lines();
        let header = "Metric,avg,min,max,sum,p1,p5,p10,p25,p50,p75,p90,p95,p99,std";
        assert_eq!(lines.next(), Some(header));
        let first: Vec<_> = lines.clone().take_while(|line| !line.is_empty()).collect();
        let weighted = "Effective Concurrency,";
        let row = first.iter().find(|row| row.starts_with(weighted)).expect("a row");
        assert!(row.split(',').collect::<Vec<_>>()[4..9].iter().all(|cell| cell.is_empty()), "{row}");
        let ttft = "Time to First Token (ms),250.00,200.00,300.00,500.00,201.00,205.00,210.00,225.00,250.00,275.00,290.00,295.00,299.00,50.00";
        assert!(first.contains(&ttft), "{text}");
        let second: Vec<_> = lines.skip_while(|line| !line.is_empty()).skip(2).collect();
        assert!(second.contains(&"Request Count,2.00"), "{text}");
        let adjusted = "Time to First Token (error-adjusted) (ms),,200.00,,,200.00,200.00,200.00,200.00,300.00,,,,,";
        assert!(first.contains(&adjusted), "{text}");
        assert!(second.contains(&"Request Error Rate (%),33.33"), "{text}");
    }
}
