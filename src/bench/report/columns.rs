//! What AIPerf reports of a request beside the metrics that GenAI-Perf has too: usage as stated, the phases of HTTP,
//! answers that have not the length asked for, and the wait for a free place.

use std::time::Duration;

use crate::bench::record::RequestRecord;

/// One metric of a request, by AIPerf's names.
#[derive(Debug)]
pub(super) struct Column {
    /// The key.
    pub(super) tag: &'static str,
    /// The name in tables.
    pub(super) title: &'static str,
    /// The unit.
    pub(super) unit: &'static str,
    of: Of,
}

/// Where a value is from; `None` where it is not defined.
#[derive(Debug)]
enum Of {
    Count(fn(&RequestRecord) -> Option<u64>),
    Time(fn(&RequestRecord) -> Option<Duration>),
    Bytes(fn(&RequestRecord) -> u64),
    Share(fn(&RequestRecord) -> Option<f64>),
}

/// How many there are.
pub(super) const MANY: usize = 21;

/// Those that AIPerf writes for every request, in its order; the last two only in a summary.
pub(super) const COLUMNS: [Column; MANY] = [
    tokens("usage_prompt_tokens", "Usage Prompt Tokens", |one| one.usage.input_tokens),
    tokens("usage_completion_tokens", "Usage Completion Tokens", |one| one.usage.output_tokens),
    tokens("usage_reasoning_tokens", "Usage Reasoning Tokens", |one| one.usage.reasoning_tokens),
    tokens("usage_prompt_cache_read_tokens", "Usage Prompt Cache Read Tokens", |one| one.usage.cached_tokens),
    tokens("usage_total_tokens", "Usage Total Tokens", |one| {
        Some(one.usage.input_tokens?.saturating_add(one.usage.output_tokens?))
    }),
    time("http_req_duration", "HTTP Duration (excl. conn)", |one| one.transfer.duration()),
    time("http_req_sending", "HTTP Sending", |one| one.transfer.sending()),
    size("http_req_data_sent", "HTTP Data Sent", |one| one.transfer.bytes_sent),
    time("http_req_dns_lookup", "HTTP DNS Lookup", |one| Some(one.transfer.lookup)),
    size("http_req_data_received", "HTTP Data Received", |one| one.transfer.bytes_received),
    time("http_req_connecting", "HTTP Connecting", |one| Some(one.transfer.connecting)),
    // Connections are made when there is none to take: no request waits for one.
    time("http_req_blocked", "HTTP Blocked", |_| Some(Duration::ZERO)),
    count("http_req_chunks_received", "HTTP Chunks Received", "count", |one| Some(one.transfer.pieces)),
    count("http_req_chunks_sent", "HTTP Chunks Sent", "count", |_| Some(1)),
    time("http_req_receiving", "HTTP Receiving", |one| one.transfer.receiving()),
    count("http_req_connection_reused", "HTTP Connection Reused", "ratio", |one| Some(one.transfer.reused.into())),
    Column { tag: MISMATCH, title: "OSL Mismatch Diff %", unit: "%", of: Of::Share(mismatch) },
    time("http_req_connection_overhead", "HTTP Connection Overhead", |one| Some(one.transfer.overhead())),
    time("http_req_total", "HTTP Total Time", |one| {
        Some(one.transfer.duration()?.saturating_add(one.transfer.overhead()))
    }),
    time("credit_to_start_latency", "Credit-to-Start Latency", |one| Some(one.lag)),
    time("effective_latency", "Effective Latency (CO-aware)", |one| Some(one.duration)),
];

/// By how many per cent an answer is longer than was asked for.
const MISMATCH: &str = "osl_mismatch_diff_pct";

/// Whether AIPerf has it in a request's own line, and not only in a summary.
pub(super) fn in_line(column: &Column) -> bool {
    !matches!(column.tag, "credit_to_start_latency" | "effective_latency")
}

const fn count(
    tag: &'static str,
    title: &'static str,
    unit: &'static str,
    of: fn(&RequestRecord) -> Option<u64>,
) -> Column {
    Column { tag, title, unit, of: Of::Count(of) }
}

const fn tokens(tag: &'static str, title: &'static str, of: fn(&RequestRecord) -> Option<u64>) -> Column {
    count(tag, title, "tokens", of)
}

const fn time(tag: &'static str, title: &'static str, of: fn(&RequestRecord) -> Option<Duration>) -> Column {
    Column { tag, title, unit: "ms", of: Of::Time(of) }
}

const fn size(tag: &'static str, title: &'static str, of: fn(&RequestRecord) -> u64) -> Column {
    Column { tag, title, unit: "KB", of: Of::Bytes(of) }
}

impl Column {
    /// Its value in its unit.
    #[allow(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
    pub(super) fn value(&self, record: &RequestRecord) -> Option<f64> {
        match self.of {
            Of::Count(of) => of(record).map(|count| count as f64),
            Of::Time(of) => of(record).map(|time| time.as_secs_f64() * 1e3),
            Of::Bytes(of) => Some(of(record) as f64 / 1024.0),
            Of::Share(of) => of(record),
        }
    }

    /// Whether one request's value is written without decimals.
    pub(super) fn is_count(&self) -> bool {
        matches!(self.of, Of::Count(_))
    }
}

#[allow(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
fn mismatch(record: &RequestRecord) -> Option<f64> {
    let asked = f64::from(record.planned_output.filter(|asked| *asked > 0)?);
    Some((record.usage.output_tokens? as f64 - asked) / asked * 100.0)
}

/// Whether an answer differs in length from what was asked for by so much that AIPerf counts it: 5 %, or 50 tokens.
pub(super) fn is_mismatched(record: &RequestRecord) -> bool {
    let (Some(asked), Some(made)) = (record.planned_output, record.usage.output_tokens) else { return false };
    let off = u64::from(asked).abs_diff(made);
    off > 50 || off * 20 > u64::from(asked)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::record::testing::record;

    #[track_caller]
    fn value(record: &RequestRecord, tag: &str) -> Option<f64> {
        COLUMNS.iter().find(|column| column.tag == tag).expect(tag).value(record)
    }

    #[test]
    fn the_phases_and_sizes_of_a_request() {
        let one = record(200, 20, 101);
        for (tag, expected) in [
            ("http_req_data_sent", 0.5),
            ("http_req_data_received", 101.0),
            ("http_req_chunks_received", 101.0),
            ("http_req_receiving", 2000.0),
            ("http_req_duration", 2200.0),
            ("http_req_total", 2200.0),
            ("http_req_connection_reused", 1.0),
            ("usage_total_tokens", 301.0),
            ("osl_mismatch_diff_pct", 0.0),
            ("effective_latency", 2200.0),
        ] {
            assert_eq!(value(&one, tag), Some(expected), "{tag}");
        }
        assert_eq!(value(&one, "usage_reasoning_tokens"), None);
    }

    #[test]
    fn an_answer_of_another_length_is_told() {
        let short = |asked| RequestRecord { planned_output: Some(asked), ..record(200, 20, 100) };
        assert_eq!(value(&short(200), "osl_mismatch_diff_pct"), Some(-50.0));
        assert_eq!([100, 105, 106, 200].map(|asked| is_mismatched(&short(asked))), [false, false, true, true]);
        assert!(is_mismatched(&RequestRecord { planned_output: Some(2000), ..record(200, 20, 1940) }));
        assert!(!is_mismatched(&RequestRecord { planned_output: None, ..record(200, 20, 100) }));
    }
}
