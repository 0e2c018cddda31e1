//! What the two predictors look at, and what they start from.
//!
//! A first token waits for the prompts before it, more so the more streams share the steps; the gap between tokens grows
//! with the streams, with what they hold in memory, and with the prompts that are computed between.

use crate::route::load::Load;
use crate::route::predict::{Features, Prior};

/// Deliberately pessimistic to neutral for models of about eight billion parameters.
pub(super) const TTFT: Prior = Prior { weights: [0.05, 0.10, 0.01, 0.01], doubt: 1.0, least: 0.010 };
/// The same for the gap between tokens.
pub(super) const ITL: Prior = Prior { weights: [0.02, 0.005, 0.005, 0.01], doubt: 0.01, least: 0.003 };

/// What a prompt token counts for in the second TTFT feature.
pub(super) const PER_TOKEN: f64 = 1e-3;
const PER_STREAM: f64 = 1.0 / 32.0;
const PER_KV_TOKEN: f64 = 1e-5;
/// What a prompt token per second counts for in the fourth ITL feature.
const PER_RATE: f64 = 1e-4;

/// For a prompt of so many uncached tokens, sent now.
pub(super) fn ttft(load: &Load, uncached_tokens: f64) -> Features {
    let queue = (load.waiting_tokens + uncached_tokens) * PER_TOKEN;
    let streams = load.streams * PER_STREAM;
    [1.0, queue, streams, queue * (streams + load.kv_tokens * PER_KV_TOKEN)]
}

/// For a stream among `streams` that hold so many tokens, while so many prompt tokens per second arrive.
pub(super) fn itl(streams: f64, kv_tokens: f64, prefill_rate: f64) -> Features {
    [1.0, streams * PER_STREAM, kv_tokens * PER_KV_TOKEN, prefill_rate * PER_RATE]
}

/// How crowded a step is: what the fourth TTFT weight multiplies the queue by.
pub(super) fn crowding(load: &Load) -> f64 {
    load.streams * PER_STREAM + load.kv_tokens * PER_KV_TOKEN
}
