//! One request as a JSON line: `profile_export.jsonl`, in AIPerf's form.
//!
//! AIPerf's three parts come first, `metadata`, `metrics` and, when the request failed, `error`, with its keys in its order. What
//! only headway says stands in a part of its own, so that a reader of AIPerf's files finds nothing that it does not know
//! among its keys.

use std::io::{self, Write};
use std::time::{Duration, UNIX_EPOCH};

use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

use super::columns::{COLUMNS, in_line};
use crate::bench::record::{Metric, Phase, RequestRecord};
use crate::wire::FinishReason;

/// Where in a run a record belongs, as far as it does not know itself.
#[derive(Debug, Clone, Copy, Default)]
pub struct Place {
    /// Whether the run has a warm-up, which is then its first phase.
    pub warmed: bool,
    /// Whether the request is good, where there are bounds.
    pub good: Option<bool>,
}

/// Writes one record as a line.
///
/// # Errors
/// When it cannot be written.
pub fn write_json_line(writer: &mut impl Write, record: &RequestRecord, place: Place) -> io::Result<()> {
    let line = Line {
        metadata: Metadata::of(record, place),
        metrics: Metrics { record, good: place.good },
        error: record.error.as_ref().map(|class| Error::of(record.status, class)),
        headway: Own::of(record),
    };
    serde_json::to_writer(&mut *writer, &line)?;
    writer.write_all(b"\n")
}

#[derive(Serialize)]
struct Line<'a> {
    metadata: Metadata<'a>,
    metrics: Metrics<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Error<'a>>,
    headway: Own<'a>,
}

#[derive(Serialize)]
struct Metadata<'a> {
    session_num: u64,
    x_request_id: &'a str,
    x_correlation_id: &'a str,
    conversation_id: String,
    turn_index: u32,
    credit_issued_ns: u64,
    request_start_ns: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_ack_ns: Option<u64>,
    request_end_ns: u64,
    worker_id: &'static str,
    record_processor_id: &'static str,
    benchmark_phase: &'static str,
    phase_index: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    profiling_index: Option<u32>,
    phase_name: &'static str,
    phase_kind: &'static str,
    was_cancelled: bool,
    context_overflow_skip: bool,
    agent_depth: u32,
    root_correlation_id: &'a str,
}

impl<'a> Metadata<'a> {
    fn of(record: &'a RequestRecord, place: Place) -> Self {
        let start = record.started.duration_since(UNIX_EPOCH).unwrap_or_default();
        let ns = |after: Duration| u64::try_from(start.saturating_add(after).as_nanos()).unwrap_or(u64::MAX);
        let (phase, measured) = (record.phase.as_str(), record.phase == Phase::Profiling);
        Self {
            session_num: record.index,
            x_request_id: &record.request_id,
            x_correlation_id: &record.request_id,
            conversation_id: format!("session_{:06}", record.index),
            turn_index: 0,
            credit_issued_ns: ns(Duration::ZERO),
            request_start_ns: ns(record.lag),
            request_ack_ns: record.transfer.head.map(|head| ns(record.lag.saturating_add(head))),
            request_end_ns: ns(record.duration),
            worker_id: "headway",
            record_processor_id: "headway",
            benchmark_phase: phase,
            phase_index: u32::from(measured && place.warmed),
            profiling_index: measured.then_some(0),
            phase_name: phase,
            phase_kind: phase,
            was_cancelled: false,
            context_overflow_skip: false,
            agent_depth: 0,
            root_correlation_id: &record.request_id,
        }
    }
}

/// What was measured; nothing of a request that failed.
struct Metrics<'a> {
    record: &'a RequestRecord,
    good: Option<bool>,
}

impl Serialize for Metrics<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        if self.record.error.is_some() {
            return map.end();
        }
        for metric in Metric::ALL {
            if let Some(value) = self.record.metric(metric) {
                map.serialize_entry(metric.tag(), &Measured::number(value, metric.unit(), metric.unit() == "tokens"))?;
            }
        }
        for column in COLUMNS.iter().filter(|column| in_line(column)) {
            if let Some(value) = column.value(self.record) {
                map.serialize_entry(column.tag, &Measured::number(value, column.unit, column.is_count()))?;
            }
        }
        if self.record.gap_list.ms().is_some() {
            let value = Value::Gaps(self.record);
            map.serialize_entry("inter_chunk_latency", &Measured { value, unit: "ms" })?;
        }
        if let Some(good) = self.good {
            let value = Value::Count(good.into());
            map.serialize_entry("good_request_count", &Measured { value, unit: "requests" })?;
        }
        map.end()
    }
}

#[derive(Serialize)]
struct Measured<'a> {
    value: Value<'a>,
    unit: &'static str,
}

enum Value<'a> {
    Number(f64),
    Count(u64),
    Gaps(&'a RequestRecord),
}

impl Measured<'_> {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count, which was one before")]
    fn number(value: f64, unit: &'static str, count: bool) -> Self {
        let value = if count { Value::Count(value as u64) } else { Value::Number(value) };
        Self { value, unit }
    }
}

impl Serialize for Value<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Number(value) => serializer.serialize_f64(*value),
            Self::Count(count) => serializer.serialize_u64(*count),
            Self::Gaps(record) => serializer.collect_seq(record.gap_list.ms().into_iter().flatten()),
        }
    }
}

/// Transport errors have no code.
#[derive(Serialize)]
struct Error<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<u16>,
    #[serde(rename = "type")]
    class: &'a str,
    message: String,
}

impl<'a> Error<'a> {
    fn of(status: u16, class: &'a str) -> Self {
        let code = Some(status).filter(|status| *status >= 300);
        let message = code.map_or_else(|| class.to_owned(), |status| format!("HTTP status {status}"));
        Self { code, class, message }
    }
}

#[derive(Serialize)]
struct Own<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    label: &'static str,
    offset_ms: f64,
    send_lag_ms: f64,
    status: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    backend: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    finish_reason: Option<&'a str>,
    content_responses: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    longest_stall_ms: Option<f64>,
}

impl<'a> Own<'a> {
    fn of(record: &'a RequestRecord) -> Self {
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        Self {
            label: record.label,
            offset_ms: ms(record.offset),
            send_lag_ms: ms(record.lag),
            status: record.status,
            backend: record.backend.as_deref(),
            finish_reason: record.finish_reason.map(FinishReason::as_str),
            content_responses: record.content_responses,
            longest_stall_ms: record.latencies.longest_stall.map(ms),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value as Json, json};

    use super::*;
    use crate::bench::record::testing::record;

    fn text(record: &RequestRecord, place: Place) -> String {
        let mut line = Vec::new();
        write_json_line(&mut line, record, place).expect("memory");
        assert_eq!(line.iter().position(|byte| *byte == b'\n'), Some(line.len() - 1));
        String::from_utf8(line).expect("text")
    }

    fn line(record: &RequestRecord) -> Json {
        serde_json::from_str(&text(record, Place { warmed: true, good: Some(true) })).expect("JSON")
    }

    #[test]
    fn a_request_has_aiperfs_parts() {
        let mut one = record(200, 20, 101);
        one.transfer.head = Some(Duration::from_millis(150));
        one.gap_list.responses(1, Duration::from_millis(200));
        one.gap_list.responses(2, Duration::from_millis(220));
        let value = line(&one);
        assert_eq!(value["metrics"]["inter_token_latency"], json!({"value": 20.0, "unit": "ms"}));
        assert_eq!(value["metrics"]["output_sequence_length"].to_string(), r#"{"unit":"tokens","value":101}"#);
        assert_eq!(value["metrics"]["http_req_connection_reused"].to_string(), r#"{"unit":"ratio","value":1}"#);
        assert_eq!(value["metrics"]["inter_chunk_latency"], json!({"value": [20.0, 0.0], "unit": "ms"}));
        assert_eq!(value["metrics"]["good_request_count"], json!({"value": 1, "unit": "requests"}));
        let of = |key: &str| value["metadata"][key].as_u64().expect(key);
        assert_eq!((of("request_ack_ns"), of("request_end_ns")), (150_000_000, 2_200_000_000));
        assert_eq!((of("phase_index"), of("profiling_index")), (1, 0));
        assert!(value.get("error").is_none(), "{value}");
    }

    #[test]
    fn the_keys_of_a_line_stand_in_aiperfs_order() {
        let text = text(&record(200, 20, 101), Place::default());
        let keys = [
            "session_num",
            "x_request_id",
            "conversation_id",
            "credit_issued_ns",
            "request_end_ns",
            "benchmark_phase",
            "phase_index",
            "phase_name",
            "was_cancelled",
            "root_correlation_id",
            "metrics",
            "headway",
        ];
        let places: Vec<_> = keys.iter().map(|key| text.find(&format!("\"{key}\":")).expect(key)).collect();
        assert!(text.starts_with("{\"metadata\":{\"session_num\":0,\"x_request_id\":") && places.is_sorted(), "{text}");
        assert!(text.contains("{\"value\":200.0,\"unit\":\"ms\"}"), "{text}");
    }

    #[test]
    fn an_error_has_a_code_when_the_server_gave_one_and_no_metrics() {
        let refused = RequestRecord { error: Some("http_503".into()), status: 503, ..record(1, 1, 1) };
        assert_eq!((&line(&refused)["error"]["code"], &line(&refused)["metrics"]), (&json!(503), &json!({})));
        let cut = RequestRecord { error: Some("truncated".into()), ..record(1, 1, 1) };
        assert_eq!(line(&cut)["error"], json!({"type": "truncated", "message": "truncated"}));
    }
}
