//! How many tokens a byte of prompt makes, learned per model from what backends state in `usage`.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// English text under today's tokenizers: about four bytes a token.
const USUAL: f64 = 0.25;
/// How fast the ratio follows: about twenty prompts.
const GAIN: f64 = 0.05;
/// The most models that are remembered; names come from the configuration and from backends only.
const MOST: usize = 1_024;
/// The shortest prompt that is learned from; in shorter ones the chat template outweighs the text.
const SHORTEST: u64 = 64;
/// What a ratio may be: text has no more tokens than bytes, whatever a request is made of that was not counted.
const PLAUSIBLE: (f64, f64) = (0.01, 1.0);

/// Tokens per byte, per model.
#[derive(Debug, Default)]
pub(super) struct PromptSizes(Mutex<HashMap<Arc<str>, f64>>);

impl PromptSizes {
    /// `None` for a model that nothing was learned of.
    pub(super) fn estimate(&self, model: &str, bytes: u64) -> Option<u64> {
        let ratios = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        ratios.get(model).map(|ratio| scaled(bytes, *ratio))
    }

    #[allow(clippy::cast_precision_loss, reason = "sizes are far below 2^52")]
    pub(super) fn learn(&self, model: &Arc<str>, bytes: u64, tokens: u64) {
        if bytes < SHORTEST || tokens == 0 {
            return;
        }
        let sample = (tokens as f64 / bytes as f64).clamp(PLAUSIBLE.0, PLAUSIBLE.1);
        let mut ratios = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(ratio) = ratios.get_mut(model) {
            *ratio += GAIN * (sample - *ratio);
        } else if ratios.len() < MOST {
            ratios.insert(Arc::clone(model), sample);
        }
    }
}

/// What to expect of an unknown model.
pub(super) fn usual(bytes: u64) -> u64 {
    scaled(bytes, USUAL)
}

#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "an estimate of a size that is far below 2^52"
)]
fn scaled(bytes: u64, ratio: f64) -> u64 {
    (bytes as f64 * ratio).ceil() as u64
}
