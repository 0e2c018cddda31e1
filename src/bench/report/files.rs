//! Reports for programs: GenAI-Perf's JSON and CSV.

use std::fmt::Write as _;

use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};
use serde_json::Value;

use super::{Report, number};
use crate::bench::record::Metric;
use crate::bench::statistics::{PERCENTILES, Summary};

/// `profile_export_genai_perf.json`: GenAI-Perf's keys in its order, then headway's own.
///
/// # Errors
/// None that a report can cause.
pub fn json(report: &Report, input_config: &Value) -> serde_json::Result<String> {
    let mut text = serde_json::to_string_pretty(&Export { report, input_config })?;
    text.push('\n');
    Ok(text)
}

struct Export<'a> {
    report: &'a Report,
    input_config: &'a Value,
}

impl Serialize for Export<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let report = self.report;
        let mut map = serializer.serialize_map(None)?;
        let metric = |map: &mut S::SerializeMap, metric: Metric| match report.summary(metric) {
            Some(summary) => map.serialize_entry(metric.tag(), &Statistics { unit: metric.unit(), summary }),
            None => Ok(()),
        };
        map.serialize_entry("request_throughput", &aggregate("requests/sec", report.request_throughput()))?;
        metric(&mut map, Metric::RequestLatency)?;
        if let Some(goodput) = report.goodput() {
            map.serialize_entry("request_goodput", &aggregate("requests/sec", goodput))?;
        }
        map.serialize_entry("request_count", &aggregate("count", to_float(report.valid())))?;
        metric(&mut map, Metric::TimeToFirstToken)?;
        metric(&mut map, Metric::TimeToSecondToken)?;
        metric(&mut map, Metric::InterTokenLatency)?;
        map.serialize_entry("output_token_throughput", &aggregate("tokens/sec", report.output_token_throughput()))?;
        metric(&mut map, Metric::OutputTokenThroughputPerUser)?;
        metric(&mut map, Metric::OutputSequenceLength)?;
        metric(&mut map, Metric::InputSequenceLength)?;
        metric(&mut map, Metric::TimeToFirstOutputToken)?;
        if let Some(good) = report.good() {
            map.serialize_entry("good_request_count", &aggregate("requests", to_float(good)))?;
        }
        if let Some(fraction) = report.good_fraction() {
            map.serialize_entry("good_request_fraction", &aggregate("ratio", fraction))?;
        }
        map.serialize_entry("error_request_count", &aggregate("requests", to_float(report.error_count())))?;
        map.serialize_entry("errors", report.errors())?;
        map.serialize_entry("benchmark_duration", &aggregate("sec", report.duration()))?;
        map.serialize_entry("total_osl", &aggregate("tokens", to_float(report.output_tokens())))?;
        map.serialize_entry("total_isl", &aggregate("tokens", to_float(report.input_tokens())))?;
        map.serialize_entry("longest_send_lag", &aggregate("ms", report.longest_lag().as_secs_f64() * 1e3))?;
        map.serialize_entry("input_config", self.input_config)?;
        map.end()
    }
}

#[derive(Serialize)]
struct Aggregate {
    unit: &'static str,
    avg: f64,
}

fn aggregate(unit: &'static str, avg: f64) -> Aggregate {
    Aggregate { unit, avg }
}

struct Statistics<'a> {
    unit: &'static str,
    summary: &'a Summary,
}

impl Serialize for Statistics<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        statistics(&mut map, self.unit, self.summary)?;
        map.end()
    }
}

/// What both tools' files say of one metric, in their order.
pub(super) fn statistics<M: SerializeMap>(map: &mut M, unit: &str, summary: &Summary) -> Result<(), M::Error> {
    map.serialize_entry("unit", unit)?;
    map.serialize_entry("avg", &summary.avg)?;
    for (percent, value) in PERCENTILES.iter().zip(summary.percentiles) {
        map.serialize_entry(&format!("p{percent}"), &value)?;
    }
    map.serialize_entry("min", &summary.min)?;
    map.serialize_entry("max", &summary.max)?;
    map.serialize_entry("std", &summary.std)
}

/// `profile_export_genai_perf.csv`, lines ended as Python's writer ends them.
#[must_use]
pub fn csv(report: &Report) -> String {
    let mut text = String::from("Metric,avg,min,max,p99,p95,p90,p75,p50,p25,p10,p5,p1\r\n");
    for metric in Metric::GENAI_PERF {
        let Some(summary) = report.summary(metric) else { continue };
        let ends = [summary.avg, summary.min, summary.max];
        let values = ends.into_iter().chain(summary.percentiles.into_iter().rev()).map(cell);
        let cells = values.collect::<Vec<_>>().join(",");
        let _ = write!(text, "{} ({}),{cells}\r\n", metric.title(), metric.unit());
    }
    text.push_str("\r\nMetric,Value\r\n");
    for (name, unit, value) in report.aggregates() {
        let _ = write!(text, "{name} ({unit}),{}\r\n", cell(value));
    }
    text
}

/// A number with commas is quoted.
fn cell(value: f64) -> String {
    let text = number(value);
    if text.contains(',') { format!("\"{text}\"") } else { text }
}

#[allow(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
fn to_float(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::Collector;
    use super::*;
    use crate::bench::record::testing::record;

    fn report() -> Report {
        let mut collector = Collector::new(None);
        collector.add(&record(200, 20, 101));
        collector.add(&record(300, 20, 101));
        collector.report()
    }

    #[test]
    fn the_json_has_genai_perfs_keys_in_its_order() {
        let text = json(&report(), &json!({"model": "m"})).expect("a report");
        let keys = ["request_throughput", "request_latency", "request_count", "time_to_first_token"];
        let places: Vec<_> = keys.iter().map(|key| text.find(&format!("\"{key}\"")).expect(key)).collect();
        assert!(places.is_sorted(), "{text}");
        let value: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(value["time_to_first_token"]["unit"], "ms");
        assert_eq!(value["time_to_first_token"]["avg"], 250.0);
        assert_eq!(value["time_to_first_token"]["p50"], 250.0);
        assert_eq!(value["time_to_first_token"]["std"], 50.0);
        assert_eq!(value["request_count"], json!({"unit": "count", "avg": 2.0}));
        assert_eq!(value["input_config"]["model"], "m");
    }

    #[test]
    fn the_csv_has_two_blocks_and_quotes_thousands() {
        let text = csv(&report());
        let mut lines = text.lines();
        assert_eq!(lines.next(), Some("Metric,avg,min,max,p99,p95,p90,p75,p50,p25,p10,p5,p1"));
        let ttft = "Time To First Token (ms),250.00,200.00,300.00,299.00,295.00,290.00,275.00,250.00,225.00,210.00,205.00,201.00";
        assert_eq!(lines.next(), Some(ttft));
        assert!(text.contains("Request Latency (ms),\"2,250.00\",\"2,200.00\""), "{text}");
        assert!(text.contains("\r\n\r\nMetric,Value\r\nOutput Token Throughput (tokens/sec),87.83\r\n"), "{text}");
    }
}
