//! What is known of one request once it has ended.

use std::borrow::Cow;
use std::time::{Duration, SystemTime};

use super::transfer::{GapList, Transfer};
use crate::measure::exchange::Latencies;
use crate::measure::gaps::GapHistogram;
use crate::measure::objective::{Ended, Objectives, Verdicts};
use crate::measure::outcome::Outcome;
use crate::wire::{FinishReason, Usage};

/// Which part of a run a request belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Before the measurement: sent, recorded, not reported.
    Warmup,
    /// Measured.
    Profiling,
}

impl Phase {
    /// The name in the per-request records, as AIPerf writes it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Warmup => "warmup",
            Self::Profiling => "profiling",
        }
    }
}

/// One request and its answer, as the client saw them.
#[derive(Debug, Clone)]
pub struct RequestRecord {
    /// Its place in the schedule.
    pub index: u64,
    /// The `x-request-id` it was sent with.
    pub request_id: String,
    /// Which part of the run it belongs to.
    pub phase: Phase,
    /// What kind of traffic it is, where a run has several.
    pub label: &'static str,
    /// Wall-clock time at which it was sent.
    pub started: SystemTime,
    /// From the run's start to its own: in an open loop, to when it was to be sent.
    pub offset: Duration,
    /// How much later than planned it was sent, which its latencies include; the generator is the bottleneck when this
    /// grows.
    pub lag: Duration,
    /// How HTTP carried it, counted from when it was sent.
    pub transfer: Transfer,
    /// From its start to the end of its answer, however it ended.
    pub duration: Duration,
    /// The status of the answer; 0 when there was none.
    pub status: u16,
    /// The error class when it failed: `connect`, `timeout`, `http_503`, `stream_error`, `truncated`, `empty`.
    pub error: Option<Cow<'static, str>>,
    /// The latencies; only those of a request that did not fail are reported.
    pub latencies: Latencies,
    /// Every gap between content responses; the collector takes it out.
    pub gaps: Option<Box<GapHistogram>>,
    /// The same gaps, one after the other.
    pub gap_list: GapList,
    /// Token counts as the server states them.
    pub usage: Usage,
    /// Why the model stopped.
    pub finish_reason: Option<FinishReason>,
    /// Prompt tokens that were meant, for servers that state none.
    pub planned_input: u32,
    /// The answer's length that was asked for.
    pub planned_output: Option<u32>,
    /// Content responses in the stream.
    pub content_responses: u64,
    /// The `x-headway-backend` of the answer.
    pub backend: Option<String>,
}

/// What a request is measured by, in the reports' words and units.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Metric {
    /// TTFT, ms.
    TimeToFirstToken,
    /// TTFO, ms.
    TimeToFirstOutputToken,
    /// TTST, ms.
    TimeToSecondToken,
    /// The whole answer, ms.
    RequestLatency,
    /// ITL, ms.
    InterTokenLatency,
    /// 1 / ITL, tokens per second.
    OutputTokenThroughputPerUser,
    /// Output tokens.
    OutputSequenceLength,
    /// Input tokens.
    InputSequenceLength,
    /// From the request's last byte to the first of the answer's body, ms.
    TimeToFirstByte,
    /// From the first to the last token, ms.
    DecodeDuration,
    /// Output tokens over the whole latency, tokens per second.
    EndToEndThroughput,
    /// Input tokens over TTFT, tokens per second.
    PrefillThroughput,
    /// Output tokens without those of reasoning.
    OutputTokenCount,
    /// Output tokens of reasoning.
    ReasoningTokenCount,
}

impl Metric {
    /// Every metric, in the order of GenAI-Perf's table.
    pub const ALL: [Self; 14] = [
        Self::TimeToFirstToken,
        Self::TimeToFirstOutputToken,
        Self::TimeToSecondToken,
        Self::RequestLatency,
        Self::InterTokenLatency,
        Self::OutputTokenThroughputPerUser,
        Self::OutputSequenceLength,
        Self::InputSequenceLength,
        Self::TimeToFirstByte,
        Self::DecodeDuration,
        Self::EndToEndThroughput,
        Self::PrefillThroughput,
        Self::OutputTokenCount,
        Self::ReasoningTokenCount,
    ];

    /// Those that GenAI-Perf has, in the order of its table.
    pub const GENAI_PERF: [Self; 7] = [
        Self::TimeToFirstToken,
        Self::TimeToSecondToken,
        Self::RequestLatency,
        Self::InterTokenLatency,
        Self::OutputTokenThroughputPerUser,
        Self::OutputSequenceLength,
        Self::InputSequenceLength,
    ];

    /// AIPerf's tag, which is GenAI-Perf's JSON key too.
    #[must_use]
    pub fn tag(self) -> &'static str {
        match self {
            Self::TimeToFirstToken => "time_to_first_token",
            Self::TimeToFirstOutputToken => "time_to_first_output_token",
            Self::TimeToSecondToken => "time_to_second_token",
            Self::RequestLatency => "request_latency",
            Self::InterTokenLatency => "inter_token_latency",
            Self::OutputTokenThroughputPerUser => "output_token_throughput_per_user",
            Self::OutputSequenceLength => "output_sequence_length",
            Self::InputSequenceLength => "input_sequence_length",
            Self::TimeToFirstByte => "http_req_waiting",
            Self::DecodeDuration => "decode_duration",
            Self::EndToEndThroughput => "e2e_output_token_throughput",
            Self::PrefillThroughput => "prefill_throughput_per_user",
            Self::OutputTokenCount => "output_token_count",
            Self::ReasoningTokenCount => "reasoning_token_count",
        }
    }

    /// The name in tables.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::TimeToFirstToken => "Time To First Token",
            Self::TimeToFirstOutputToken => "Time To First Output Token",
            Self::TimeToSecondToken => "Time To Second Token",
            Self::RequestLatency => "Request Latency",
            Self::InterTokenLatency => "Inter Token Latency",
            Self::OutputTokenThroughputPerUser => "Output Token Throughput Per User",
            Self::OutputSequenceLength => "Output Sequence Length",
            Self::InputSequenceLength => "Input Sequence Length",
            Self::TimeToFirstByte => "HTTP Waiting (TTFB)",
            Self::DecodeDuration => "Decode Duration",
            Self::EndToEndThroughput => "E2E Output Token Throughput",
            Self::PrefillThroughput => "Prefill Throughput Per User",
            Self::OutputTokenCount => "Output Token Count",
            Self::ReasoningTokenCount => "Reasoning Token Count",
        }
    }

    /// The unit.
    #[must_use]
    pub fn unit(self) -> &'static str {
        match self {
            Self::OutputTokenThroughputPerUser | Self::EndToEndThroughput | Self::PrefillThroughput => {
                "tokens/sec/user"
            }
            Self::OutputSequenceLength
            | Self::InputSequenceLength
            | Self::OutputTokenCount
            | Self::ReasoningTokenCount => "tokens",
            _ => "ms",
        }
    }

    /// Whether more is better, so that a bound is a floor.
    #[must_use]
    pub fn larger_is_better(self) -> bool {
        matches!(
            self,
            Self::OutputTokenThroughputPerUser
                | Self::OutputSequenceLength
                | Self::EndToEndThroughput
                | Self::PrefillThroughput
                | Self::OutputTokenCount
                | Self::ReasoningTokenCount
        )
    }

    /// The metric of that tag.
    #[must_use]
    pub fn named(tag: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|metric| metric.tag() == tag)
    }

    /// All tags, for messages.
    #[must_use]
    pub fn names() -> String {
        Self::ALL.map(Self::tag).join(", ")
    }
}

impl RequestRecord {
    /// Whether it counts in the statistics: answered to its end, without an error.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        self.error.is_none()
    }

    /// One metric in its unit; `None` where it is not defined.
    #[must_use]
    #[allow(clippy::cast_precision_loss, reason = "token counts are far below 2^53")]
    pub fn metric(&self, metric: Metric) -> Option<f64> {
        let ms = |latency: Option<Duration>| latency.map(|latency| latency.as_secs_f64() * 1e3);
        match metric {
            Metric::TimeToFirstToken => ms(self.latencies.first_token),
            Metric::TimeToFirstOutputToken => ms(self.latencies.first_output),
            Metric::TimeToSecondToken => ms(self.latencies.second_token),
            Metric::RequestLatency => ms(self.latencies.end_to_end),
            Metric::InterTokenLatency => ms(self.latencies.inter_token),
            Metric::OutputTokenThroughputPerUser => {
                self.latencies.inter_token.map(|latency| latency.as_secs_f64()).filter(|itl| *itl > 0.0).map(f64::recip)
            }
            Metric::OutputSequenceLength => self.usage.output_tokens.map(|tokens| tokens as f64),
            Metric::InputSequenceLength => Some(self.input_tokens() as f64),
            Metric::TimeToFirstByte => ms(self.transfer.waiting()),
            Metric::DecodeDuration => ms(self.decode_duration()),
            Metric::EndToEndThroughput => per_second(self.usage.output_tokens?, self.latencies.end_to_end?),
            Metric::PrefillThroughput => per_second(self.input_tokens(), self.latencies.first_token?),
            Metric::OutputTokenCount => {
                let reasoning = self.usage.reasoning_tokens.unwrap_or(0);
                self.usage.output_tokens.map(|tokens| tokens.saturating_sub(reasoning) as f64)
            }
            Metric::ReasoningTokenCount => self.usage.reasoning_tokens.map(|tokens| tokens as f64),
        }
    }

    fn decode_duration(&self) -> Option<Duration> {
        Some(self.latencies.end_to_end?.saturating_sub(self.latencies.first_token?))
    }

    /// Counts everything from when it was to be sent: what a generator, or a server that lets it wait, delays is then
    /// felt in the latencies, and cannot hide by being sent late.
    pub fn count_from_schedule(&mut self, due: Duration) {
        let lag = self.offset.saturating_sub(due);
        self.lag = lag;
        self.offset = self.offset.min(due);
        self.started = self.started.checked_sub(lag).unwrap_or(self.started);
        self.duration = self.duration.saturating_add(lag);
        let felt = [
            &mut self.latencies.first_byte,
            &mut self.latencies.first_token,
            &mut self.latencies.first_output,
            &mut self.latencies.end_to_end,
        ];
        for latency in felt.into_iter().flatten() {
            *latency = latency.saturating_add(lag);
        }
    }

    /// How objectives judge a request whose answer was to be streamed: the rule of the proxy, on what the client felt. A
    /// failure is bad.
    #[must_use]
    pub fn verdicts(&self, objectives: &Objectives) -> Verdicts {
        objectives.judge(&Ended {
            outcome: if self.is_valid() { Outcome::Complete } else { Outcome::UpstreamError },
            stream: true,
            choices: 1,
            latencies: &self.latencies,
            output_tokens: self.usage.output_tokens,
        })
    }

    /// Prompt tokens as the server counted them, else as they were meant.
    #[must_use]
    pub fn input_tokens(&self) -> u64 {
        self.usage.input_tokens.unwrap_or(u64::from(self.planned_input))
    }
}

#[allow(clippy::cast_precision_loss, reason = "token counts are far below 2^53")]
fn per_second(tokens: u64, time: Duration) -> Option<f64> {
    let seconds = time.as_secs_f64();
    (seconds > 0.0).then(|| tokens as f64 / seconds)
}

#[cfg(test)]
mod tests {
    use super::testing::record;
    use super::*;

    #[test]
    fn a_request_that_was_sent_late_is_felt_as_late() {
        let mut one = record(200, 20, 101);
        one.offset = Duration::from_millis(1500);
        one.count_from_schedule(Duration::from_secs(1));
        let ms = |metric| one.metric(metric).expect("measured");
        assert_eq!((one.lag, one.offset), (Duration::from_millis(500), Duration::from_secs(1)));
        let felt =
            [Metric::TimeToFirstToken, Metric::RequestLatency, Metric::InterTokenLatency, Metric::DecodeDuration];
        for (metric, expected) in felt.into_iter().zip([700.0, 2700.0, 20.0, 2000.0]) {
            assert!((ms(metric) - expected).abs() < 1e-6, "{metric:?}: {}", ms(metric));
        }
    }

    #[test]
    fn waiting_for_the_first_byte_begins_when_the_request_is_written() {
        let mut one = record(200, 20, 101);
        one.transfer.sent = Some(Duration::from_millis(150));
        assert_eq!(one.metric(Metric::TimeToFirstByte), Some(50.0));
    }

    #[test]
    fn the_throughputs_of_one_request() {
        let one = record(200, 20, 101);
        let of = |metric| one.metric(metric).expect("measured");
        assert!((of(Metric::PrefillThroughput) - 1000.0).abs() < 1e-9);
        assert!((of(Metric::EndToEndThroughput) - 101.0 / 2.2).abs() < 1e-9);
    }
}

#[cfg(test)]
pub(crate) mod testing {
    //! Records with round numbers.

    use super::*;

    /// A completed request of that TTFT and ITL in milliseconds, and so many output tokens.
    pub(crate) fn record(ttft: u64, itl: u64, tokens: u64) -> RequestRecord {
        let ms = Duration::from_millis;
        let end_to_end = ms(ttft + itl * tokens.saturating_sub(1));
        let many = tokens > 1;
        RequestRecord {
            index: 0,
            request_id: "r-0".to_owned(),
            phase: Phase::Profiling,
            label: "",
            started: SystemTime::UNIX_EPOCH,
            offset: Duration::ZERO,
            lag: Duration::ZERO,
            transfer: Transfer {
                reused: true,
                sent: Some(Duration::ZERO),
                first_byte: Some(ms(ttft)),
                last_byte: Some(end_to_end),
                bytes_sent: 512,
                bytes_received: 1024 * tokens,
                pieces: tokens,
                ..Transfer::default()
            },
            duration: end_to_end,
            status: 200,
            error: None,
            latencies: Latencies {
                first_byte: Some(ms(ttft)),
                first_token: Some(ms(ttft)),
                first_output: Some(ms(ttft)),
                second_token: many.then_some(ms(itl)),
                inter_token: many.then_some(ms(itl)),
                end_to_end: Some(end_to_end),
                longest_stall: many.then_some(ms(itl)),
            },
            gaps: None,
            gap_list: GapList::default(),
            usage: Usage { input_tokens: Some(200), output_tokens: Some(tokens), ..Usage::default() },
            finish_reason: Some(FinishReason::Length),
            planned_input: 200,
            planned_output: u32::try_from(tokens).ok(),
            content_responses: tokens,
            backend: None,
        }
    }
}
