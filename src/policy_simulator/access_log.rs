//! Headway's own access log as a workload: what came, when, on which route, and how long it was.
//!
//! A line counts when the request would have been routed: what a key's limit, a bad body or a backend's own 4xx ended
//! would have ended so anywhere. Lengths come from the backend's usage; a request that never got one (it was shed, or
//! failed) takes the median of its route. A log tells no prompts, so nothing hits a prefix cache, and prompts are known to
//! the token: what the proxy would have estimated is not written down.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;

use super::workload::{Arrival, Workload};
use crate::trace::parse_timestamp;

/// Outcomes of requests that no policy had a say in.
const NOT_ROUTED: [&str; 3] = ["rejected_request", "backend_rejected", "rate_limited"];
/// Most lines read from one log.
const MOST_LINES: usize = 5_000_000;

/// The fields of a line that are read.
#[derive(Debug, Deserialize)]
struct Line {
    ts: String,
    route: String,
    outcome: String,
    #[serde(default)]
    stream: bool,
    upload_ms: Option<f64>,
    input_tokens: Option<u32>,
    output_tokens: Option<u32>,
}

/// One request of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logged {
    at: Duration,
    route: String,
    stream: bool,
    complete: bool,
    input: Option<u32>,
    output: Option<u32>,
}

/// Why a text is no access log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AccessLogError {
    /// A line is no line of an access log.
    #[error("line {line} is no line of headway's access log: {reason}")]
    Line {
        /// Counted from 1.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// There is no request in it that was routed.
    #[error("there is no routed request in it")]
    Empty,
    /// There are more lines than are read.
    #[error("it has more than {MOST_LINES} lines")]
    TooLong,
}

/// Reads a log.
///
/// # Errors
/// At the first line that is none of the log, and when none was routed.
pub fn read(text: &str) -> Result<Vec<Logged>, AccessLogError> {
    let mut all = Vec::new();
    for (number, text) in text.lines().enumerate().filter(|(_, text)| !text.trim().is_empty()) {
        if number >= MOST_LINES {
            return Err(AccessLogError::TooLong);
        }
        let wrong = |reason: String| AccessLogError::Line { line: number + 1, reason };
        let line: Line = serde_json::from_str(text).map_err(|error| wrong(error.to_string()))?;
        let started = parse_timestamp(&line.ts).ok_or_else(|| wrong(format!("`{}` is no time", line.ts)))?;
        // The proxy's clock starts when the request is whole.
        let upload = Duration::try_from_secs_f64(line.upload_ms.unwrap_or_default() / 1e3).unwrap_or_default();
        if !NOT_ROUTED.contains(&line.outcome.as_str()) {
            all.push(Logged {
                at: started.saturating_add(upload),
                route: line.route,
                stream: line.stream,
                complete: line.outcome == "complete",
                input: line.input_tokens,
                output: line.output_tokens,
            });
        }
    }
    all.sort_by_key(|logged| logged.at);
    if all.is_empty() { Err(AccessLogError::Empty) } else { Ok(all) }
}

/// The requests of those routes as a workload, and how many were on others or of unknown length.
#[must_use]
pub fn workload(log: &[Logged], routes: &[&str]) -> (Workload, usize) {
    let start = log.first().map_or(Duration::ZERO, |logged| logged.at);
    let usual = usual(log);
    let (mut arrivals, mut left) = (Vec::new(), 0);
    for logged in log {
        let route = routes.iter().position(|name| *name == logged.route);
        let (input, output) = usual.get(logged.route.as_str()).copied().unwrap_or_default();
        // What was cut short says nothing of how long the answer would have been.
        let output = logged.output.filter(|_| logged.complete).or(output);
        let (Some(route), Some(input), Some(output)) = (route, logged.input.or(input), output) else {
            left += 1;
            continue;
        };
        let arrival = Arrival::new(logged.at.saturating_sub(start), route, input.max(1), output.max(1));
        arrivals.push(if logged.stream { arrival } else { arrival.unstreamed() });
    }
    (Workload::of(arrivals), left)
}

/// Median input and output of each route.
fn usual(log: &[Logged]) -> BTreeMap<&str, (Option<u32>, Option<u32>)> {
    let mut lengths: BTreeMap<&str, (Vec<u32>, Vec<u32>)> = BTreeMap::new();
    for logged in log {
        let (inputs, outputs) = lengths.entry(&logged.route).or_default();
        inputs.extend(logged.input);
        outputs.extend(logged.output.filter(|_| logged.complete));
    }
    let median = |mut values: Vec<u32>| {
        values.sort_unstable();
        values.get(values.len() / 2).copied()
    };
    lengths.into_iter().map(|(route, (inputs, outputs))| (route, (median(inputs), median(outputs)))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = r#"
{"ts":"2026-03-01T10:00:01.000000Z","request_id":"b","route":"chat","outcome":"complete","stream":true,"upload_ms":500,"input_tokens":100,"output_tokens":20}
{"ts":"2026-03-01T10:00:00.000000Z","request_id":"a","route":"chat","outcome":"complete","stream":false,"upload_ms":0.5,"input_tokens":300,"output_tokens":40}
{"ts":"2026-03-01T10:00:02.000000Z","request_id":"c","route":"chat","outcome":"shed","stream":true,"upload_ms":0}
{"ts":"2026-03-01T10:00:03.000000Z","request_id":"d","route":"chat","outcome":"client_cancelled","stream":true,"input_tokens":50,"output_tokens":1}
{"ts":"2026-03-01T10:00:04.000000Z","request_id":"e","route":"other","outcome":"complete","stream":true,"input_tokens":50,"output_tokens":1}
{"ts":"2026-03-01T10:00:05.000000Z","request_id":"f","route":"chat","outcome":"rejected_request","stream":false}
"#;

    #[test]
    fn lines_become_arrivals_in_the_order_of_time() {
        let (workload, left) = workload(&read(LOG).expect("a log"), &["chat"]);
        let seen = |one: &Arrival| (one.at.as_micros(), one.input, one.output, one.stream);
        let seen: Vec<_> = workload.arrivals.iter().map(seen).collect();
        // The shed one and the answer that was cut short take the route's median.
        let expected =
            [(0, 300, 40, false), (1_499_500, 100, 20, true), (1_999_500, 100, 40, true), (2_999_500, 50, 40, true)];
        assert_eq!((seen.as_slice(), left), (expected.as_slice(), 1));
    }

    #[test]
    fn the_lines_that_the_proxy_writes_are_read() {
        let written =
            [include_str!("../telemetry/testdata/complete.jsonl"), include_str!("../telemetry/testdata/refused.jsonl")];
        let read = read(&written.concat()).expect("a log");
        let seen: Vec<_> = read.iter().map(|one| (one.stream, one.complete, one.input, one.output)).collect();
        assert_eq!(seen, [(true, true, Some(310), Some(94))]);
    }

    #[test]
    fn what_is_no_log_is_said() {
        let error = read("{\"ts\":\"yesterday\",\"route\":\"a\",\"outcome\":\"complete\"}").expect_err("no time");
        assert!(error.to_string().contains("line 1") && error.to_string().contains("yesterday"), "{error}");
        assert_eq!(read("\n"), Err(AccessLogError::Empty));
    }
}
