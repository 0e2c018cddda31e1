//! The access log: one JSON line per exchange, with exactly the documented fields.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use super::json_line::Json;
use super::series::{JUDGED, OTHER, UNMATCHED, verdicts};
use super::spool::{Sink, Spool};
use crate::config::settings;
use crate::measure::exchange::{DecisionSummary, ExchangeRecord};
use crate::units::Quantile;
use crate::wire::trace_context::trace_id_text;
use crate::wire::{Api, FinishReason};

/// An open access log. The line is made on its own thread, not on the data path.
#[derive(Debug)]
pub struct AccessLog(Spool<Arc<ExchangeRecord>>);

impl AccessLog {
    /// Opens the log; `dropped` counts lines that could not be written in time.
    ///
    /// # Errors
    /// When the file cannot be opened, or no thread can be had.
    pub fn open(target: &settings::AccessLog, dropped: Arc<AtomicU64>) -> io::Result<Self> {
        let sink = match target {
            settings::AccessLog::Stdout => Sink::Stdout,
            settings::AccessLog::File(path) => Sink::file(path)?,
        };
        Self::start(sink, dropped)
    }

    fn start(sink: Sink, dropped: Arc<AtomicU64>) -> io::Result<Self> {
        Spool::start("access-log", sink, dropped, |record: &Arc<ExchangeRecord>, text| write_line(record, text))
            .map(Self)
    }

    /// Hands a record over; never waits.
    pub fn record(&self, record: Arc<ExchangeRecord>) {
        self.0.push(record);
    }

    /// Opens the file anew, after its rotation.
    pub fn reopen(&self) {
        self.0.reopen();
    }

    /// Writes what is queued, waiting at most `patience`; whether all was written.
    pub fn close(&self, patience: Duration) -> bool {
        self.0.close(patience)
    }
}

/// One exchange as the log writes it, without the end of the line.
pub fn json(record: &ExchangeRecord) -> String {
    let mut text = Vec::new();
    write_line(record, &mut text);
    String::from_utf8_lossy(text.trim_ascii_end()).into_owned()
}

/// One exchange as one line. Names that a client chose are shown only where the configuration knows them.
fn write_line(record: &ExchangeRecord, text: &mut Vec<u8>) {
    Json::object(text, |line| {
        who_and_where(record, line);
        latencies(record, line);
        tokens(record, line);
        phases(record, line);
        if let Some(decision) = &record.decision {
            line.object_field("decision", |object| write_decision(decision, object));
        }
        let judged = || JUDGED.iter().zip(verdicts(record)).filter_map(|(latency, good)| Some((latency, good?)));
        if judged().next().is_some() {
            line.object_field("slo", |object| {
                judged().for_each(|(latency, good)| object.text(latency, if good { "good" } else { "bad" }));
            });
        }
    });
    text.push(b'\n');
}

fn who_and_where(record: &ExchangeRecord, line: &mut Json<'_>) {
    let last = record.last_attempt();
    line.time("ts", record.started);
    line.text("request_id", &record.request_id);
    line.maybe_text("trace_id", record.trace_id.map(trace_id_text).as_deref());
    line.maybe_text("key", record.key.as_deref());
    line.text("route", record.route.as_deref().unwrap_or(UNMATCHED));
    line.maybe_text("group", record.group.as_ref().map(|assigned| &*assigned.name));
    line.maybe_text("fell_over", record.group.as_ref().and_then(|assigned| Some(assigned.fell_over?.as_str())));
    line.maybe_text("api", record.api.map(Api::as_str));
    line.text("model", record.model.as_deref().unwrap_or(OTHER));
    line.maybe_text("backend", last.map(|attempt| &*attempt.backend));
    line.maybe_text("profile", last.and_then(|attempt| attempt.profile.as_deref()));
    line.objects("attempts", &record.attempts, |attempt, object| {
        object.text("backend", &attempt.backend);
        object.text("outcome", attempt.outcome.as_str());
        object.millis("ms", attempt.duration);
        if attempt.hedge {
            object.flag("hedge", true);
        }
    });
    line.maybe_number("status", Some(u64::from(record.status)).filter(|&status| status != 0));
    line.text("outcome", record.outcome.as_str());
    line.flag("stream", record.stream);
}

fn latencies(record: &ExchangeRecord, line: &mut Json<'_>) {
    let felt = &record.latencies;
    let gap = |share| record.gaps.as_ref().and_then(|gaps| gaps.quantile(share));
    line.maybe_millis("ttft_ms", felt.first_token);
    line.maybe_millis("ttfo_ms", felt.first_output);
    line.maybe_millis("ttst_ms", felt.second_token);
    line.maybe_millis("itl_ms", felt.inter_token);
    line.maybe_millis("chunk_gap_p50_ms", gap(Quantile::P50));
    line.maybe_millis("chunk_gap_p99_ms", gap(Quantile::P99));
    line.maybe_millis("longest_stall_ms", felt.longest_stall);
    line.maybe_millis("e2e_ms", felt.end_to_end);
}

fn tokens(record: &ExchangeRecord, line: &mut Json<'_>) {
    line.maybe_number("input_tokens", record.usage.input_tokens);
    line.maybe_number("cached_tokens", record.usage.cached_tokens);
    line.maybe_number("output_tokens", record.usage.output_tokens);
    line.maybe_number("reasoning_tokens", record.usage.reasoning_tokens);
    line.maybe_text("finish_reason", record.finish_reason.map(FinishReason::as_str));
}

/// The phases between headway and a backend are absent when none was reached for.
fn phases(record: &ExchangeRecord, line: &mut Json<'_>) {
    let phases = &record.phases;
    // Defined only where a backend answered; tries that failed have their own times in `attempts`.
    let answered = |phase| Some(phase).filter(|_| !phases.backend_wait.is_zero());
    line.millis("upload_ms", phases.upload);
    line.millis("queue_ms", phases.queue);
    line.maybe_millis("connect_ms", answered(phases.connect));
    line.maybe_millis("backend_wait_ms", answered(phases.backend_wait));
    line.maybe_millis("engine_queue_ms", record.engine.and_then(|engine| engine.queue));
    line.maybe_millis("engine_prefill_ms", record.engine.map(|engine| engine.prefill));
    line.maybe_millis("engine_ttft_ms", record.engine.and_then(|engine| engine.first_token()));
    line.maybe_millis("engine_itl_ms", record.engine.and_then(|engine| engine.inter_token));
    line.maybe_millis("backpressure_ms", answered(phases.backpressure));
    line.micros("overhead_us", phases.overhead);
    let spent = |phase: Duration| Some(phase).filter(|phase| !phase.is_zero());
    line.maybe_micros("hash_us", spent(phases.hash));
    line.maybe_micros("decide_us", spent(phases.decide));
    line.maybe_float("cost", record.cost);
    line.number("bytes_in", record.bytes_in);
    line.number("bytes_out", record.bytes_out);
}

fn write_decision(decision: &DecisionSummary, object: &mut Json<'_>) {
    object.text("reason", decision.reason);
    object.maybe_millis("predicted_ttft_ms", decision.predicted_ttft);
    object.maybe_millis("bound_ttft_ms", decision.bound_ttft);
    object.maybe_millis("predicted_itl_ms", decision.predicted_itl);
    object.maybe_millis("bound_itl_ms", decision.bound_itl);
    object.maybe_millis("predicted_e2e_ms", decision.predicted_e2e);
    object.maybe_millis("bound_e2e_ms", decision.bound_e2e);
    object.maybe_float("price", decision.price);
    object.maybe_number("prefix_tokens", Some(whole(decision.prefix_tokens)).filter(|tokens| *tokens > 0));
    object.maybe_float("gpu_utilization", decision.load.gpu_utilization);
    object.maybe_float("kv_cache_ratio", decision.load.kv_cache_ratio);
    object.maybe_number("running", decision.load.running.map(whole));
    object.maybe_number("waiting", decision.load.waiting.map(whole));
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "not negative, and far below 2^52")]
fn whole(tokens: f64) -> u64 {
    tokens.round() as u64
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;

    fn line(record: &ExchangeRecord) -> String {
        let mut text = Vec::new();
        write_line(record, &mut text);
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn a_streamed_exchange_has_every_field() {
        assert_eq!(line(&testing::complete()), testing::COMPLETE_LINE);
    }

    #[test]
    fn every_field_is_explained_in_the_readme() {
        let read: serde_json::Value = serde_json::from_str(testing::COMPLETE_LINE).expect("JSON");
        for field in read.as_object().expect("an object").keys() {
            assert!(include_str!("../../README.md").contains(&format!("`{field}`")), "{field} is not explained");
        }
    }

    #[test]
    fn a_refused_request_shows_what_is_defined_and_nothing_else() {
        assert_eq!(line(&testing::refused()), testing::REFUSED_LINE);
    }

    #[test]
    fn every_line_is_json() {
        for record in [testing::complete(), testing::refused(), testing::hostile()] {
            let text = line(&record);
            assert_eq!(text.matches('\n').count(), 1, "{text}");
            let read: serde_json::Value = serde_json::from_str(&text).expect(&text);
            assert_eq!(read["outcome"], record.outcome.as_str());
        }
    }

    #[test]
    fn records_reach_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        let log = AccessLog::open(&settings::AccessLog::File(path.clone()), Arc::default()).unwrap();
        log.record(Arc::new(testing::complete()));
        log.record(Arc::new(testing::refused()));
        assert!(log.close(Duration::from_secs(10)));
        let expected = format!("{}{}", testing::COMPLETE_LINE, testing::REFUSED_LINE);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), expected);
    }
}
