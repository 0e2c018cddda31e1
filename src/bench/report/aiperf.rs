//! Reports for programs that read AIPerf's: `profile_export_aiperf.json` and `.csv`, as version 0.13.0 writes them.
//!
//! What AIPerf derives from its own machinery (requests under way over time, its workers) is left out; every key that is
//! there has AIPerf's name, unit, shape and place. The percentiles of gaps come from a histogram, as AIPerf's come from a
//! sketch.

use std::fmt::Write as _;

use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};
use serde_json::Value;

use super::{Report, files};
use crate::bench::record::Metric;
use crate::bench::statistics::{PERCENTILES, Summary};
use crate::units::Quantile;

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

/// `profile_export_aiperf.json`.
///
/// # Errors
/// None that a report can cause.
pub fn json(report: &Report, run: &RunInfo) -> serde_json::Result<String> {
    let mut text = serde_json::to_string_pretty(&Export { report, run })?;
    text.push('\n');
    Ok(text)
}

struct Export<'a> {
    report: &'a Report,
    run: &'a RunInfo,
}

/// The metrics of the keys in written order, before those of no fixed order.
const FIRST: [Metric; 3] = [Metric::TimeToFirstToken, Metric::TimeToSecondToken, Metric::InterTokenLatency];
const LAST: [Metric; 6] = [
    Metric::TimeToFirstOutputToken,
    Metric::DecodeDuration,
    Metric::EndToEndThroughput,
    Metric::PrefillThroughput,
    Metric::ReasoningTokenCount,
    Metric::TimeToFirstByte,
];

#[allow(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
impl Serialize for Export<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (report, run) = (self.report, self.run);
        let mut map = serializer.serialize_map(None)?;
        let one = |map: &mut S::SerializeMap, metric: Metric| match report.summary(metric) {
            Some(summary) => map.serialize_entry(metric.tag(), &Statistics { unit: metric.unit(), summary: *summary }),
            None => Ok(()),
        };
        map.serialize_entry("schema_version", SCHEMA)?;
        map.serialize_entry("aiperf_version", LIKE)?;
        map.serialize_entry("benchmark_id", &run.id)?;
        aggregate::<S>(&mut map, "request_throughput", "requests/sec", report.request_throughput())?;
        one(&mut map, Metric::RequestLatency)?;
        aggregate::<S>(&mut map, "request_count", "requests", report.valid() as f64)?;
        FIRST.into_iter().try_for_each(|metric| one(&mut map, metric))?;
        aggregate::<S>(&mut map, "output_token_throughput", "tokens/sec", report.output_token_throughput())?;
        one(&mut map, Metric::OutputTokenThroughputPerUser)?;
        one(&mut map, Metric::OutputSequenceLength)?;
        one(&mut map, Metric::InputSequenceLength)?;
        if let (Some(goodput), Some(good)) = (report.goodput(), report.good()) {
            aggregate::<S>(&mut map, "goodput", "requests/sec", goodput)?;
            aggregate::<S>(&mut map, "good_request_count", "requests", good as f64)?;
        }
        one(&mut map, Metric::OutputTokenCount)?;
        if let Some(summary) = gaps(report) {
            map.serialize_entry("inter_chunk_latency", &Statistics { unit: "ms", summary })?;
        }
        aggregate::<S>(&mut map, "total_output_tokens", "tokens", report.output_tokens() as f64)?;
        aggregate::<S>(&mut map, "benchmark_duration", "sec", report.duration())?;
        aggregate::<S>(&mut map, "total_isl", "tokens", report.input_tokens() as f64)?;
        aggregate::<S>(&mut map, "total_osl", "tokens", report.output_tokens() as f64)?;
        map.serialize_entry("input_config", &run.input_config)?;
        map.serialize_entry("run_info", &Info::of(run))?;
        map.serialize_entry("was_cancelled", &run.cancelled)?;
        map.serialize_entry("is_complete", &!run.cancelled)?;
        map.serialize_entry("error_summary", &errors(report))?;
        map.serialize_entry("start_time", &run.times.0)?;
        map.serialize_entry("end_time", &run.times.1)?;
        LAST.into_iter().try_for_each(|metric| one(&mut map, metric))?;
        for (key, _, unit, value) in totals(report) {
            aggregate::<S>(&mut map, key, unit, value)?;
        }
        map.end()
    }
}

fn aggregate<S: Serializer>(map: &mut S::SerializeMap, key: &str, unit: &str, avg: f64) -> Result<(), S::Error> {
    map.serialize_entry(key, &Aggregate { unit, avg })
}

#[derive(Serialize)]
struct Aggregate<'a> {
    unit: &'a str,
    avg: f64,
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

struct Statistics {
    unit: &'static str,
    summary: Summary,
}

#[allow(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
impl Serialize for Statistics {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        files::statistics(&mut map, self.unit, &self.summary)?;
        map.serialize_entry("count", &self.summary.count)?;
        map.serialize_entry("sum", &self.summary.sum)?;
        map.end()
    }
}

/// Every gap of all answers; the spread is that of the buckets.
#[allow(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
fn gaps(report: &Report) -> Option<Summary> {
    let gaps = report.gaps();
    let ms = |time: std::time::Duration| time.as_secs_f64() * 1e3;
    let (min, max) = (ms(gaps.min()?), ms(gaps.max()?));
    let count = gaps.count() as f64;
    let avg = ms(gaps.sum()) / count;
    let variance: f64 = gaps.buckets().map(|(bound, many)| f64::from(many) * (ms(bound) - avg).powi(2)).sum();
    let quantile = |percent: u8| Quantile::new(f64::from(percent) / 100.0).and_then(|quantile| gaps.quantile(quantile));
    Some(Summary {
        count: usize::try_from(gaps.count()).unwrap_or(usize::MAX),
        sum: ms(gaps.sum()),
        avg,
        std: (variance / count).sqrt(),
        min,
        max,
        percentiles: PERCENTILES.map(|percent| quantile(percent).map_or(avg, ms)),
    })
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

/// What the whole run comes to: key, name in the CSV, unit, value.
#[allow(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
fn totals(report: &Report) -> Vec<(&'static str, &'static str, &'static str, f64)> {
    let (input, output) = (report.input_token_throughput(), report.output_token_throughput());
    let errors = report.error_count() as f64;
    let all = report.valid() as f64 + errors;
    let mut totals = vec![
        ("completed_request_count", "Completed Requests (Success + Error)", "requests", all),
        ("request_error_rate", "Request Error Rate", "%", if all > 0.0 { 100.0 * errors / all } else { 0.0 }),
        ("input_token_throughput", "Input Token Throughput", "tokens/sec", input),
        ("total_token_throughput", "Total Token Throughput", "tokens/sec", input + output),
    ];
    if errors > 0.0 {
        totals.push(("error_request_count", "Error Request Count", "requests", errors));
    }
    if let Some(fraction) = report.good_fraction() {
        totals.push(("good_request_fraction", "GoodRequestFraction", "ratio", fraction));
    }
    totals
}

/// The name of a metric in AIPerf's tables, which write articles small.
fn title(metric: Metric) -> String {
    metric.title().replace(" To ", " to ")
}

/// `profile_export_aiperf.csv`: two blocks, rows by name.
#[must_use]
#[allow(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
pub fn csv(report: &Report) -> String {
    let mut rows: Vec<(String, Summary)> = Metric::ALL
        .into_iter()
        .filter_map(|metric| Some((format!("{} ({})", title(metric), metric.unit()), *report.summary(metric)?)))
        .collect();
    rows.extend(gaps(report).map(|summary| ("Inter Chunk Latency (ms)".to_owned(), summary)));
    rows.sort_by(|one, other| one.0.cmp(&other.0));
    let mut text = String::from("Metric,avg,min,max,sum,p1,p5,p10,p25,p50,p75,p90,p95,p99,std\n");
    for (name, summary) in rows {
        let ends = [summary.avg, summary.min, summary.max, summary.sum];
        let values = ends.into_iter().chain(summary.percentiles).chain([summary.std]);
        let cells: Vec<String> = values.map(|value| format!("{value:.2}")).collect();
        let _ = writeln!(text, "{name},{}", cells.join(","));
    }
    text.push_str("\nMetric,Value\n");
    let mut rows: Vec<(String, f64)> = vec![
        ("Benchmark Duration (sec)".to_owned(), report.duration()),
        ("Output Token Throughput (tokens/sec)".to_owned(), report.output_token_throughput()),
        ("Request Count".to_owned(), report.valid() as f64),
        ("Request Throughput (requests/sec)".to_owned(), report.request_throughput()),
        ("Total Input Sequence Length (tokens)".to_owned(), report.input_tokens() as f64),
        ("Total Output Sequence Length (tokens)".to_owned(), report.output_tokens() as f64),
        ("Total Output Tokens (tokens)".to_owned(), report.output_tokens() as f64),
    ];
    if let (Some(goodput), Some(good)) = (report.goodput(), report.good()) {
        rows.push(("Goodput (requests/sec)".to_owned(), goodput));
        rows.push(("Good Request Count".to_owned(), good as f64));
    }
    // Counts have no unit in their name.
    let named = |name: &str, unit: &str| if unit == "requests" { name.to_owned() } else { format!("{name} ({unit})") };
    rows.extend(totals(report).into_iter().map(|(_, name, unit, value)| (named(name, unit), value)));
    rows.sort_by(|one, other| one.0.cmp(&other.0));
    for (name, value) in rows {
        let _ = writeln!(text, "{name},{value:.2}");
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json as value_of;

    use super::super::Collector;
    use super::*;
    use crate::bench::record::RequestRecord;
    use crate::bench::record::testing::record;

    fn report() -> Report {
        let mut collector = Collector::new(Some("time_to_first_token:250".parse().expect("bounds")));
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
        let text = super::json(&report(), &run()).expect("a report");
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
    }

    #[test]
    fn the_csv_has_two_blocks_of_plain_numbers_by_name() {
        let text = csv(&report());
        let mut lines = text.lines();
        let header = "Metric,avg,min,max,sum,p1,p5,p10,p25,p50,p75,p90,p95,p99,std";
        assert_eq!(lines.next(), Some(header));
        let first: Vec<_> = lines.clone().take_while(|line| !line.is_empty()).collect();
        assert!(first.is_sorted(), "{text}");
        let ttft = "Time to First Token (ms),250.00,200.00,300.00,500.00,201.00,205.00,210.00,225.00,250.00,275.00,290.00,295.00,299.00,50.00";
        assert!(first.contains(&ttft), "{text}");
        let second: Vec<_> = lines.skip_while(|line| !line.is_empty()).skip(2).collect();
        assert!(second.is_sorted() && second.contains(&"Request Count,2.00"), "{text}");
        assert!(second.contains(&"Request Error Rate (%),33.33"), "{text}");
    }
}
