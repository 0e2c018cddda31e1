//! One request as a JSON line: `profile_export.jsonl`, in AIPerf's form.
//!
//! AIPerf's three parts come first, `metadata`, `metrics` and, when the request failed, `error`. What only headway says
//! stands in a part of its own, so that a reader of AIPerf's files finds nothing that it does not know among its keys.

use std::io::{self, Write};
use std::time::{Duration, UNIX_EPOCH};

use serde_json::{Map, Value, json};

use crate::bench::record::{Metric, RequestRecord};
use crate::wire::FinishReason;

/// Writes one record as a line.
///
/// # Errors
/// When it cannot be written.
pub fn write_json_line(writer: &mut impl Write, record: &RequestRecord) -> io::Result<()> {
    serde_json::to_writer(&mut *writer, &value(record))?;
    writer.write_all(b"\n")
}

fn value(record: &RequestRecord) -> Value {
    let mut line = Map::new();
    line.insert("metadata".to_owned(), metadata(record));
    line.insert("metrics".to_owned(), Value::Object(metrics(record)));
    if let Some(class) = &record.error {
        line.insert("error".to_owned(), error(record.status, class));
    }
    line.insert("headway".to_owned(), own(record));
    Value::Object(line)
}

fn metadata(record: &RequestRecord) -> Value {
    let start = record.started.duration_since(UNIX_EPOCH).unwrap_or_default();
    let ns = |after: Duration| u64::try_from(start.saturating_add(after).as_nanos()).unwrap_or(u64::MAX);
    json!({
        "session_num": record.index,
        "x_request_id": record.request_id,
        "x_correlation_id": record.request_id,
        "conversation_id": format!("session_{:06}", record.index),
        "turn_index": 0,
        "credit_issued_ns": ns(Duration::ZERO),
        "request_start_ns": ns(record.lag),
        "request_ack_ns": record.latencies.first_byte.map(ns),
        "request_end_ns": ns(record.duration),
        "worker_id": "headway",
        "record_processor_id": "headway",
        "benchmark_phase": record.phase.as_str(),
        "was_cancelled": false,
    })
}

fn metrics(record: &RequestRecord) -> Map<String, Value> {
    let mut metrics = Map::new();
    let mut set = |tag: &str, value: f64, unit: &str| {
        metrics.insert(tag.to_owned(), json!({ "value": value, "unit": unit }));
    };
    for metric in Metric::ALL {
        if let Some(value) = record.metric(metric) {
            set(metric.tag(), value, metric.unit());
        }
    }
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    set("http_req_connecting", ms(record.connect), "ms");
    set("http_req_duration", ms(record.duration), "ms");
    let reused = if record.connect.is_zero() { 1.0 } else { 0.0 };
    set("http_req_connection_reused", reused, "boolean");
    metrics
}

/// Transport errors have no code.
fn error(status: u16, class: &str) -> Value {
    let refused = status >= 300;
    if refused {
        json!({ "code": status, "type": class, "message": format!("HTTP status {status}") })
    } else {
        json!({ "type": class, "message": class })
    }
}

fn own(record: &RequestRecord) -> Value {
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    json!({
        "label": (!record.label.is_empty()).then_some(record.label),
        "offset_ms": ms(record.offset),
        "send_lag_ms": ms(record.lag),
        "status": record.status,
        "backend": record.backend,
        "finish_reason": record.finish_reason.map(FinishReason::as_str),
        "content_responses": record.content_responses,
        "longest_stall_ms": record.latencies.longest_stall.map(ms),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::record::testing::record;

    fn line(record: &RequestRecord) -> Value {
        let mut line = Vec::new();
        write_json_line(&mut line, record).expect("memory");
        assert_eq!(line.iter().position(|byte| *byte == b'\n'), Some(line.len() - 1));
        serde_json::from_slice(&line).expect("JSON")
    }

    #[test]
    fn a_request_has_aiperfs_parts() {
        let value = line(&record(200, 20, 101));
        assert_eq!(value["metrics"]["inter_token_latency"], json!({"value": 20.0, "unit": "ms"}));
        assert_eq!(value["metadata"]["benchmark_phase"], "profiling");
        let ns = |key: &str| value["metadata"][key].as_u64().expect(key);
        assert_eq!((ns("request_ack_ns"), ns("request_end_ns")), (200_000_000, 2_200_000_000));
        assert!(value.get("error").is_none(), "{value}");
    }

    #[test]
    fn an_error_has_a_code_when_the_server_gave_one() {
        let refused = RequestRecord { error: Some("http_503".into()), status: 503, ..record(1, 1, 1) };
        assert_eq!(line(&refused)["error"]["code"], 503);
        let cut = RequestRecord { error: Some("truncated".into()), ..record(1, 1, 1) };
        assert_eq!(line(&cut)["error"], json!({"type": "truncated", "message": "truncated"}));
    }
}
