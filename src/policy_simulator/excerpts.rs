//! The excerpts of public traces that come with headway, so that a plain clone can simulate. Their origin and licences
//! stand beside them, in `examples/traces`.

use super::workload::{Source, Sources};
use crate::trace::{TraceError, read_prompts};

const CHAT: &str = include_str!("../../examples/traces/azure_conv_excerpt.csv");
const CODE: &str = include_str!("../../examples/traces/azure_code_excerpt.csv");
const CONVERSATION: &str = include_str!("../../examples/traces/mooncake_conversation_excerpt.jsonl");
const SYNTHETIC: &str = include_str!("../../examples/traces/mooncake_synthetic_excerpt.jsonl");

/// The excerpts, as sources of the mixes.
///
/// # Errors
/// When an excerpt is no trace.
pub fn sources() -> Result<Sources, TraceError> {
    let source = |text| Ok(Source::new(read_prompts(text)?));
    Ok(Sources {
        chat: source(CHAT)?,
        code: source(CODE)?,
        conversation: source(CONVERSATION)?,
        synthetic: source(SYNTHETIC)?,
    })
}
