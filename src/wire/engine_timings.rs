//! What an engine says about the time it took for one request, where it does (vLLM, `--enable-per-request-metrics`).
//!
//! These times are the engine's own, so what they leave of the time that headway waited for the first token is
//! everything between the two: network, the server's HTTP layer, another proxy.

use std::time::Duration;

use super::json::{Malformed, Scanner, name_buffer};

/// The engine's own account of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EngineTimings {
    /// Waiting in the engine's queue.
    pub queue: Duration,
    /// From the request's arrival in the engine to its first token; the queue is part of it.
    pub first_token: Duration,
}

impl EngineTimings {
    /// Reads a `metrics` value; `None` when it is something else, or says too little.
    pub(super) fn read(scanner: &mut Scanner<'_>) -> Result<Option<Self>, Malformed> {
        let (mut queue, mut first_token) = (None, None);
        scanner.object_or_skip(|scanner, key| {
            match key.name(&mut name_buffer()) {
                b"queue_time_ms" => queue = millis(scanner)?,
                b"time_to_first_token_ms" => first_token = millis(scanner)?,
                _ => {}
            }
            Ok::<(), Malformed>(())
        })?;
        let told = queue.zip(first_token).filter(|(queue, first_token)| queue <= first_token);
        Ok(told.map(|(queue, first_token)| Self { queue, first_token }))
    }
}

fn millis(scanner: &mut Scanner<'_>) -> Result<Option<Duration>, Malformed> {
    let millis = scanner.decimal()?;
    Ok(millis.and_then(|millis| Duration::try_from_secs_f64(millis / 1e3).ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(json: &str, expected: Option<(u64, u64)>) {
        let micros = |timings: EngineTimings| (timings.queue.as_micros(), timings.first_token.as_micros());
        let expected = expected.map(|(queue, first)| (u128::from(queue), u128::from(first)));
        let read = EngineTimings::read(&mut Scanner::new(json.as_bytes())).expect("JSON");
        assert_eq!(read.map(micros), expected, "{json}");
    }

    #[test]
    fn times_are_read_where_both_are_told_and_make_sense() {
        check(
            r#"{"time_to_first_token_ms":2.5,"generation_time_ms":9.6,"queue_time_ms":0.01,"x":[]}"#,
            Some((10, 2_500)),
        );
        check(r#"{"time_to_first_token_ms":7,"queue_time_ms":0}"#, Some((0, 7_000)));
        check(r#"{"time_to_first_token_ms":1e1,"queue_time_ms":1E-1}"#, Some((100, 10_000)));
        for none in [
            r#"{"time_to_first_token_ms":2.5}"#,
            r#"{"time_to_first_token_ms":null,"queue_time_ms":1}"#,
            r#"{"time_to_first_token_ms":-2.5,"queue_time_ms":-3}"#,
            r#"{"time_to_first_token_ms":1,"queue_time_ms":2}"#,
            r#"{"time_to_first_token_ms":1e300,"queue_time_ms":2}"#,
            "null",
            "[]",
        ] {
            check(none, None);
        }
    }
}
