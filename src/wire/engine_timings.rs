//! What an engine says about the time it took for one request, where it does: vLLM with `--enable-per-request-metrics`
//! in `metrics`, llama.cpp always, in `timings`.
//!
//! These times are the engine's own, so what they leave of the time that headway waited for the first token is
//! everything between the two: network, the server's HTTP layer, another proxy; and the engine's queue, where it does not
//! tell that apart.

use std::time::Duration;

use super::json::{Malformed, Scanner, name_buffer};

/// The engine's own account of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EngineTimings {
    /// Waiting in the engine's queue; llama.cpp does not say.
    pub queue: Option<Duration>,
    /// From the queue's end to the first token.
    pub prefill: Duration,
    /// Mean time from one token to the next.
    pub inter_token: Option<Duration>,
}

impl EngineTimings {
    /// Whether a member of an answer, or of a chunk, holds such an account.
    pub(super) fn is_told_by(name: &[u8]) -> bool {
        matches!(name, b"metrics" | b"timings")
    }

    /// Reads the value of that member; `None` when it is something else, or says too little.
    pub(super) fn read(scanner: &mut Scanner<'_>) -> Result<Option<Self>, Malformed> {
        let (mut queue, mut first_token, mut prefill, mut inter_token) = (None, None, None, None);
        scanner.object_or_skip(|scanner, key| {
            match key.name(&mut name_buffer()) {
                b"queue_time_ms" => queue = millis(scanner)?,
                b"time_to_first_token_ms" => first_token = millis(scanner)?,
                b"prompt_ms" => prefill = millis(scanner)?,
                b"mean_itl_ms" | b"predicted_per_token_ms" => inter_token = millis(scanner)?,
                _ => {}
            }
            Ok::<(), Malformed>(())
        })?;
        let of_both = || first_token?.checked_sub(queue?);
        // llama.cpp writes 0 where there was no second token.
        let inter_token = inter_token.filter(|gap| !gap.is_zero());
        Ok(of_both().or(prefill).map(|prefill| Self { queue, prefill, inter_token }))
    }

    /// All of the wait for the first token that the engine tells.
    #[must_use]
    pub fn told(&self) -> Duration {
        self.queue.unwrap_or_default().saturating_add(self.prefill)
    }

    /// From the request's arrival in the engine to its first token; unknown where the queue is.
    #[must_use]
    pub fn first_token(&self) -> Option<Duration> {
        Some(self.queue?.saturating_add(self.prefill))
    }
}

fn millis(scanner: &mut Scanner<'_>) -> Result<Option<Duration>, Malformed> {
    let millis = scanner.decimal()?;
    Ok(millis.and_then(|millis| Duration::try_from_secs_f64(millis / 1e3).ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Microseconds: queue, prefill, gap.
    type Micros = (Option<u128>, u128, Option<u128>);

    #[track_caller]
    fn check(json: &str, expected: Option<Micros>) {
        let micros = |time: Option<Duration>| time.map(|time| time.as_micros());
        let told = |one: EngineTimings| (micros(one.queue), one.prefill.as_micros(), micros(one.inter_token));
        let read = EngineTimings::read(&mut Scanner::new(json.as_bytes())).expect("JSON");
        assert_eq!(read.map(told), expected, "{json}");
    }

    #[test]
    fn vllm_tells_queue_and_first_token() {
        check(
            r#"{"time_to_first_token_ms":2.5,"generation_time_ms":9.6,"queue_time_ms":0.01,"mean_itl_ms":1.92,"x":[]}"#,
            Some((Some(10), 2_490, Some(1_920))),
        );
        check(r#"{"time_to_first_token_ms":7,"queue_time_ms":0,"mean_itl_ms":null}"#, Some((Some(0), 7_000, None)));
        check(r#"{"time_to_first_token_ms":1e1,"queue_time_ms":1E-1}"#, Some((Some(100), 9_900, None)));
    }

    #[test]
    fn llamacpp_tells_prefill_and_gap_but_not_its_queue() {
        check(
            r#"{"cache_n":18,"prompt_n":1,"prompt_ms":0.465,"prompt_per_token_ms":0.465,"prompt_per_second":2150.5,
                "predicted_n":12,"predicted_ms":4.485,"predicted_per_token_ms":0.4077,"predicted_per_second":2452.6}"#,
            Some((None, 465, Some(407))),
        );
        check(r#"{"prompt_ms":9.5,"predicted_n":1,"predicted_per_token_ms":0.0}"#, Some((None, 9_500, None)));
    }

    #[test]
    fn what_makes_no_sense_or_says_too_little_is_no_account() {
        for none in [
            r#"{"time_to_first_token_ms":2.5}"#,
            r#"{"time_to_first_token_ms":null,"queue_time_ms":1}"#,
            r#"{"time_to_first_token_ms":-2.5,"queue_time_ms":-3}"#,
            r#"{"time_to_first_token_ms":1,"queue_time_ms":2}"#,
            r#"{"time_to_first_token_ms":1e300,"queue_time_ms":2}"#,
            r#"{"predicted_per_token_ms":2}"#,
            r#"{"prompt_ms":"9"}"#,
            "null",
            "[]",
        ] {
            check(none, None);
        }
        let most = EngineTimings { queue: Some(Duration::MAX), prefill: Duration::MAX, inter_token: None };
        assert_eq!((most.told(), most.first_token()), (Duration::MAX, Some(Duration::MAX)));
    }
}
