//! What tests of the simulator share.

use super::workload::{Source, Sources};
use crate::trace::read_prompts;

/// Names a folder with the whole public traces; tests that need them are skipped without it.
pub(super) const TRACES: &str = "HEADWAY_TRACES";

/// The whole traces, where there are any.
pub(super) fn whole_traces() -> Option<Sources> {
    let folder = std::path::PathBuf::from(std::env::var_os(TRACES)?);
    let source = |name: &str| {
        let file = folder.join(name);
        let text = std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        Source::new(read_prompts(&text).expect("a trace"))
    };
    Some(Sources {
        chat: source("azure_llm_2023_conv.csv"),
        code: source("azure_llm_2023_code.csv"),
        conversation: source("mooncake_conversation_trace.jsonl"),
        synthetic: source("mooncake_synthetic_trace.jsonl"),
    })
}
