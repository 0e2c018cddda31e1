//! The API dialects, typed: what a request asks, what a chunk of an answer says. Pure.
//!
//! Everything here reads bytes in place and keeps numbers, names from closed lists and positions; never the text of a
//! prompt or of an answer.

pub mod answer;
pub mod chunk;
pub mod dcgm;
pub mod engine_metrics;
mod engine_timings;
pub mod error;
mod exposition;
mod finish;
pub mod forwarded;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
pub mod gpu;
pub mod json;
mod messages;
pub mod request;
mod responses;
mod stored;
pub mod trace_context;
mod usage;

pub use engine_timings::EngineTimings;
pub use finish::FinishReason;
pub use stored::StoredId;
pub use usage::Usage;

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

impl Api {
    /// Every API, in the order of the documentation.
    pub const ALL: [Self; 8] = [
        Self::Chat,
        Self::Completions,
        Self::Responses,
        Self::Messages,
        Self::Embeddings,
        Self::Ranking,
        Self::GenerateStream,
        Self::Infer,
    ];

    /// The name in logs and metric labels.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Chat => "chat",
            Self::Completions => "completions",
            Self::Responses => "responses",
            Self::Messages => "messages",
            Self::Embeddings => "embeddings",
            Self::Ranking => "ranking",
            Self::GenerateStream => "generate_stream",
            Self::Infer => "infer",
        }
    }

    /// The path it is asked at, as a pattern where the path names the model.
    #[must_use]
    pub fn path(self) -> &'static str {
        match self {
            Self::Chat => "/v1/chat/completions",
            Self::Completions => "/v1/completions",
            Self::Responses => "/v1/responses",
            Self::Messages => "/v1/messages",
            Self::Embeddings => "/v1/embeddings",
            Self::Ranking => "/v1/ranking",
            Self::GenerateStream => "/v2/models/{model}/generate_stream",
            Self::Infer => "/v2/models/{model}/infer",
        }
    }

    /// The API a path belongs to, and the model where the path names it (Triton); the query is not part of the path.
    #[must_use]
    pub fn from_path(path: &str) -> Option<(Self, Option<&str>)> {
        let api = match path {
            "/v1/chat/completions" => Self::Chat,
            "/v1/completions" => Self::Completions,
            "/v1/responses" => Self::Responses,
            "/v1/messages" => Self::Messages,
            "/v1/embeddings" => Self::Embeddings,
            "/v1/ranking" => Self::Ranking,
            _ => return triton_path(path),
        };
        Some((api, None))
    }

    /// Whether answers of this API end with a finish reason for every choice and `[DONE]`.
    #[must_use]
    pub fn has_choices(self) -> bool {
        matches!(self, Self::Chat | Self::Completions)
    }

    /// Whether an answer is made of generated tokens.
    #[must_use]
    pub fn generates(self) -> bool {
        !matches!(self, Self::Embeddings | Self::Ranking | Self::Infer)
    }
}

/// `/v2/models/MODEL[/versions/VERSION]/generate_stream` or `…/infer`.
fn triton_path(path: &str) -> Option<(Api, Option<&str>)> {
    let mut parts = path.strip_prefix("/v2/models/")?.split('/');
    let model = parts.next().filter(|model| !model.is_empty())?;
    let mut verb = parts.next()?;
    if verb == "versions" {
        parts.next().filter(|version| !version.is_empty())?;
        verb = parts.next()?;
    }
    let api = match verb {
        "generate_stream" => Api::GenerateStream,
        "infer" => Api::Infer,
        _ => return None,
    };
    parts.next().is_none().then_some((api, Some(model)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(path: &str, expected: Option<(Api, Option<&str>)>) {
        assert_eq!(Api::from_path(path), expected, "{path}");
    }

    #[test]
    fn a_path_names_its_api_and_tritons_its_model_too() {
        check("/v1/chat/completions", Some((Api::Chat, None)));
        check("/v1/chat/completions/", None);
        check("/v1/messages", Some((Api::Messages, None)));
        check("/v2/models/ensemble/generate_stream", Some((Api::GenerateStream, Some("ensemble"))));
        check("/v2/models/m/versions/3/generate_stream", Some((Api::GenerateStream, Some("m"))));
        check("/v2/models/m/infer", Some((Api::Infer, Some("m"))));
        check("/v2/models//infer", None);
        check("/v2/models/m/versions//infer", None);
        check("/v2/models/m/infer/x", None);
        check("/v2/models/m", None);
    }
}
