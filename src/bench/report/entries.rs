//! Everything that AIPerf reports of a run, as one list: key, name in tables, unit, value. JSON and CSV are written from it.

use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

use super::columns::COLUMNS;
use super::over_time::{SHARES, Weighted};
use super::{ADJUSTED, Report, files};
use crate::bench::record::Metric;
use crate::bench::statistics::{Adjusted, PERCENTILES, Summary};
use crate::measure::gaps::GapHistogram;
use crate::units::Quantile;

/// One metric of a run.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) tag: &'static str,
    pub(super) title: String,
    pub(super) unit: &'static str,
    pub(super) value: Value,
}

/// The shapes of AIPerf's metrics.
#[derive(Debug, Clone, Copy)]
pub(super) enum Value {
    /// Of every request.
    Statistics(Summary),
    /// Of the whole run.
    Aggregate(f64),
    /// Of every request, failed ones counted as endless.
    Adjusted(Adjusted),
    /// Weighted by time.
    OverTime(Weighted),
}

#[allow(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
impl Serialize for Entry {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        match &self.value {
            Value::Statistics(summary) => {
                files::statistics(&mut map, self.unit, summary)?;
                map.serialize_entry("count", &summary.count)?;
                map.serialize_entry("sum", &summary.sum)?;
            }
            Value::Aggregate(value) => {
                map.serialize_entry("unit", self.unit)?;
                map.serialize_entry("avg", value)?;
            }
            Value::Adjusted(adjusted) => {
                map.serialize_entry("unit", self.unit)?;
                for (percent, value) in PERCENTILES.iter().zip(adjusted.percentiles) {
                    if let Some(value) = value {
                        map.serialize_entry(&format!("p{percent}"), &value)?;
                    }
                }
                map.serialize_entry("min", &adjusted.min)?;
                map.serialize_entry("count", &adjusted.count)?;
            }
            Value::OverTime(weighted) => {
                map.serialize_entry("unit", self.unit)?;
                map.serialize_entry("avg", &weighted.avg)?;
                for (percent, value) in SHARES.iter().zip(weighted.percentiles) {
                    map.serialize_entry(&format!("p{percent}"), &value)?;
                }
                map.serialize_entry("min", &weighted.min)?;
                map.serialize_entry("max", &weighted.max)?;
                map.serialize_entry("std", &weighted.std)?;
            }
        }
        map.end()
    }
}

/// All metrics of a report that are defined.
pub(super) fn entries(report: &Report) -> Vec<Entry> {
    let mut entries = Vec::new();
    for metric in Metric::ALL {
        let title = metric.title().replace(" To ", " to ");
        entries.extend(statistics(metric.tag(), title, metric.unit(), report.summary(metric).copied()));
    }
    for (column, summary) in COLUMNS.iter().zip(&report.columns) {
        entries.extend(statistics(column.tag, column.title.to_owned(), column.unit, *summary));
    }
    let title = "Inter Chunk Latency".to_owned();
    entries.extend(statistics("inter_chunk_latency", title, "ms", report.exact_gaps.or_else(|| gaps(report.gaps()))));
    entries.extend(totals(report).into_iter().map(|(tag, title, unit, value)| {
        let value = Value::Aggregate(value);
        Entry { tag, title: title.to_owned(), unit, value }
    }));
    entries.extend(ADJUSTED.iter().zip(&report.adjusted).filter_map(|(metric, adjusted)| {
        let title = format!("{} (error-adjusted)", metric.title().replace(" To ", " to "));
        Some(Entry { tag: adjusted_tag(*metric), title, unit: metric.unit(), value: Value::Adjusted((*adjusted)?) })
    }));
    entries.extend(report.series.iter().map(|series| {
        let value = Value::OverTime(series.weighted);
        Entry { tag: series.tag, title: series.title.to_owned(), unit: series.unit, value }
    }));
    entries
}

/// The keys of [`ADJUSTED`].
fn adjusted_tag(metric: Metric) -> &'static str {
    match metric {
        Metric::TimeToFirstToken => "adj_time_to_first_token",
        Metric::DecodeDuration => "adj_decode_duration",
        Metric::InterTokenLatency => "adj_inter_token_latency",
        _ => "adj_request_latency",
    }
}

fn statistics(tag: &'static str, title: String, unit: &'static str, summary: Option<Summary>) -> Option<Entry> {
    Some(Entry { tag, title, unit, value: Value::Statistics(summary?) })
}

/// Every gap of all answers, where they are too many to be kept: the percentiles are as fine as the histogram.
#[allow(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
fn gaps(gaps: &GapHistogram) -> Option<Summary> {
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

/// What the whole run comes to: key, name in tables, unit, value.
#[allow(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
fn totals(report: &Report) -> Vec<(&'static str, &'static str, &'static str, f64)> {
    let (input, output) = (report.input_token_throughput(), report.output_token_throughput());
    let (valid, errors) = (report.valid() as f64, report.error_count() as f64);
    let all = valid + errors;
    let sum =
        |tag: &str| COLUMNS.iter().position(|column| column.tag == tag).and_then(|place| report.columns.get(place));
    let sum = |tag: &str| sum(tag).copied().flatten().map(|summary| summary.sum);
    let mut totals = vec![
        ("request_throughput", "Request Throughput", "requests/sec", report.request_throughput()),
        ("request_count", "Request Count", "requests", valid),
        ("output_token_throughput", "Output Token Throughput", "tokens/sec", output),
        ("total_output_tokens", "Total Output Tokens", "tokens", report.visible_tokens() as f64),
        ("benchmark_duration", "Benchmark Duration", "sec", report.duration()),
        ("total_isl", "Total Input Sequence Length", "tokens", report.input_tokens() as f64),
        ("total_osl", "Total Output Sequence Length", "tokens", report.output_tokens() as f64),
        ("completed_request_count", "Completed Requests (Success + Error)", "requests", all),
        ("request_error_rate", "Request Error Rate", "%", if all > 0.0 { 100.0 * errors / all } else { 0.0 }),
        ("input_token_throughput", "Input Token Throughput", "tokens/sec", input),
        ("total_token_throughput", "Total Token Throughput", "tokens/sec", input + output),
    ];
    if let (Some(goodput), Some(good), Some(fraction)) = (report.goodput(), report.good(), report.good_fraction()) {
        totals.push(("goodput", "Goodput", "requests/sec", goodput));
        totals.push(("good_request_count", "Good Request Count", "requests", good as f64));
        totals.push(("good_request_fraction", "GoodRequestFraction", "ratio", fraction));
    }
    if report.reasoning_tokens > 0 {
        totals.push(("total_reasoning_tokens", "Total Reasoning Tokens", "tokens", report.reasoning_tokens as f64));
    }
    if errors > 0.0 {
        totals.push(("error_request_count", "Error Request Count", "requests", errors));
    }
    let counted = [
        ("total_usage_prompt_tokens", "Total Usage Prompt Tokens", sum("usage_prompt_tokens")),
        ("total_usage_completion_tokens", "Total Usage Completion Tokens", sum("usage_completion_tokens")),
        ("total_usage_reasoning_tokens", "Total Usage Reasoning Tokens", sum("usage_reasoning_tokens")),
        (
            "total_usage_prompt_cache_read_tokens",
            "Total Usage Prompt Cache Read Tokens",
            sum("usage_prompt_cache_read_tokens"),
        ),
        ("total_usage_total_tokens", "Total Usage Total Tokens", sum("usage_total_tokens")),
    ];
    totals.extend(counted.into_iter().filter_map(|(tag, title, sum)| Some((tag, title, "tokens", sum?))));
    if sum("osl_mismatch_diff_pct").is_some() {
        totals.push(("osl_mismatch_count", "OSL Mismatch Count", "requests", report.mismatched as f64));
    }
    totals
}
