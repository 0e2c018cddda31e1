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

/// Prompt tokens that one unit of the second TTFT feature stands for.
pub(super) const PROMPT_UNIT: f64 = 1_000.0;
const STREAMS_UNIT: f64 = 32.0;
const KV_UNIT: f64 = 1e5;
const RATE_UNIT: f64 = 1e4;

/// For a prompt of so many uncached tokens, sent now.
pub(super) fn ttft(load: &Load, uncached_tokens: f64) -> Features {
    let queue = (load.waiting_tokens + uncached_tokens) / PROMPT_UNIT;
    let streams = load.streams / STREAMS_UNIT;
    [1.0, queue, streams, queue * (streams + load.kv_tokens / KV_UNIT)]
}

/// For a stream among `streams` that hold so many tokens, while so many prompt tokens per second arrive.
pub(super) fn itl(streams: f64, kv_tokens: f64, prefill_rate: f64) -> Features {
    [1.0, streams / STREAMS_UNIT, kv_tokens / KV_UNIT, prefill_rate / RATE_UNIT]
}

/// How crowded a step is: what the fourth TTFT weight multiplies the queue by.
pub(super) fn crowding(load: &Load) -> f64 {
    load.streams / STREAMS_UNIT + load.kv_tokens / KV_UNIT
}
