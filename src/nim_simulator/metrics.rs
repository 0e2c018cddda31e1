//! The metrics page, in the names of NIM 1.x.

use std::time::Duration;

use prometheus::{
    Encoder, GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts, Registry, TextEncoder,
};

use crate::nim_simulator::pace::Load;
use crate::nim_simulator::truth::TruthRecord;

const FIRST_TOKEN: &[f64] =
    &[0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0];
const PER_TOKEN: &[f64] = &[0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5];
const END_TO_END: &[f64] = &[1.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0];
const TOKENS: &[f64] = &[1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5];

/// Everything the page shows. Labels are the served models only: requests for others are rejected before.
pub(super) struct Metrics {
    registry: Registry,
    kv: GaugeVec,
    running: IntGaugeVec,
    waiting: IntGaugeVec,
    most: IntGaugeVec,
    prompt_tokens: IntCounterVec,
    generation_tokens: IntCounterVec,
    success: IntCounterVec,
    failure: IntCounterVec,
    finish: IntCounterVec,
    first_token: HistogramVec,
    per_token: HistogramVec,
    end_to_end: HistogramVec,
    prompt_sizes: HistogramVec,
    generation_sizes: HistogramVec,
}

impl Metrics {
    pub(super) fn new() -> Result<Self, prometheus::Error> {
        let model = &["model_name"];
        let counter = |name, help| IntCounterVec::new(Opts::new(name, help), model);
        let gauge = |name, help| IntGaugeVec::new(Opts::new(name, help), model);
        let histogram = |name: &str, help: &str, buckets: &[f64]| {
            HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets.to_vec()), model)
        };
        let metrics = Self {
            registry: Registry::new(),
            kv: GaugeVec::new(Opts::new("gpu_cache_usage_perc", "KV cache usage, 1 is full"), model)?,
            running: gauge("num_requests_running", "Requests running")?,
            waiting: gauge("num_requests_waiting", "Requests waiting")?,
            most: gauge("num_request_max", "Requests that may run at once")?,
            prompt_tokens: counter("prompt_tokens_total", "Prompt tokens processed")?,
            generation_tokens: counter("generation_tokens_total", "Tokens generated")?,
            success: counter("request_success_total", "Requests that succeeded")?,
            failure: counter("request_failure_total", "Requests that failed")?,
            finish: IntCounterVec::new(
                Opts::new("request_finish_total", "Finished requests by reason"),
                &["model_name", "finished_reason"],
            )?,
            first_token: histogram("time_to_first_token_seconds", "Time to first token", FIRST_TOKEN)?,
            per_token: histogram("time_per_output_token_seconds", "Time per output token", PER_TOKEN)?,
            end_to_end: histogram("e2e_request_latency_seconds", "End-to-end request latency", END_TO_END)?,
            prompt_sizes: histogram("request_prompt_tokens", "Prompt tokens of a request", TOKENS)?,
            generation_sizes: histogram("request_generation_tokens", "Tokens generated for a request", TOKENS)?,
        };
        metrics.register()?;
        Ok(metrics)
    }

    fn register(&self) -> Result<(), prometheus::Error> {
        self.registry.register(Box::new(self.kv.clone()))?;
        for gauge in [&self.running, &self.waiting, &self.most] {
            self.registry.register(Box::new(gauge.clone()))?;
        }
        for counter in [&self.prompt_tokens, &self.generation_tokens, &self.success, &self.failure, &self.finish] {
            self.registry.register(Box::new(counter.clone()))?;
        }
        for histogram in
            [&self.first_token, &self.per_token, &self.end_to_end, &self.prompt_sizes, &self.generation_sizes]
        {
            self.registry.register(Box::new(histogram.clone()))?;
        }
        Ok(())
    }

    /// Shows every series of a model from the start, as NIM does.
    pub(super) fn serve(&self, model: &str, most: usize) {
        let label = &[model];
        self.most.with_label_values(label).set(i64::try_from(most).unwrap_or(i64::MAX));
        for counter in [&self.prompt_tokens, &self.generation_tokens, &self.success, &self.failure] {
            counter.with_label_values(label);
        }
        for histogram in [&self.first_token, &self.per_token, &self.end_to_end] {
            histogram.with_label_values(label);
        }
    }

    pub(super) fn first_token(&self, model: &str, after: Duration) {
        self.first_token.with_label_values(&[model]).observe(after.as_secs_f64());
        self.generation_tokens.with_label_values(&[model]).inc();
    }

    pub(super) fn next_token(&self, model: &str, gap: Duration) {
        self.per_token.with_label_values(&[model]).observe(gap.as_secs_f64());
        self.generation_tokens.with_label_values(&[model]).inc();
    }

    /// A request is over. One that never had a served model has no series.
    pub(super) fn ended(&self, record: &TruthRecord, finish_reasons: &[&'static str]) {
        if record.model.is_empty() {
            return;
        }
        let label = &[record.model.as_str()];
        self.prompt_tokens.with_label_values(label).inc_by(u64::from(record.prompt_tokens));
        if record.outcome != "completed" {
            self.failure.with_label_values(label).inc();
            return;
        }
        self.success.with_label_values(label).inc();
        for reason in finish_reasons {
            self.finish.with_label_values(&[record.model.as_str(), reason]).inc();
        }
        self.end_to_end.with_label_values(label).observe(record.end_ms / 1e3);
        self.prompt_sizes.with_label_values(label).observe(f64::from(record.prompt_tokens));
        self.generation_sizes.with_label_values(label).observe(f64::from(record.tokens));
    }

    /// The page; the engine's load stands under the first model, which all share.
    pub(super) fn page(&self, model: &str, load: Load) -> Vec<u8> {
        let whole = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.kv.with_label_values(&[model]).set(load.kv_ratio);
        self.running.with_label_values(&[model]).set(whole(load.running));
        self.waiting.with_label_values(&[model]).set(whole(load.waiting));
        let mut page = Vec::new();
        if let Err(error) = TextEncoder::new().encode(&self.registry.gather(), &mut page) {
            tracing::warn!(%error, "the metrics page cannot be written");
        }
        page
    }
}
