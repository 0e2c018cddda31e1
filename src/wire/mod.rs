//! The API dialects, typed: what a request asks, what a chunk of an answer says. Pure.

/// The APIs that are measured and routed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Api {
    /// `POST /v1/chat/completions`
    Chat,
    /// `POST /v1/completions`
    Completions,
    /// `POST /v1/responses`
    Responses,
    /// `POST /v1/messages`
    Messages,
    /// `POST /v1/embeddings`
    Embeddings,
    /// `POST /v1/ranking`
    Ranking,
    /// `POST /v2/models/MODEL/generate_stream`
    GenerateStream,
    /// `POST /v2/models/MODEL/infer`
    Infer,
}

/// Why the model stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FinishReason {
    /// A stop token or stop string.
    Stop,
}

/// Token counts as the backend states them; absent when not stated.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Prompt tokens.
    pub input_tokens: Option<u64>,
    /// Of the prompt tokens, those read from a prefix cache.
    pub cached_tokens: Option<u64>,
    /// Output tokens, reasoning included.
    pub output_tokens: Option<u64>,
    /// Of the output tokens, those of reasoning.
    pub reasoning_tokens: Option<u64>,
}
