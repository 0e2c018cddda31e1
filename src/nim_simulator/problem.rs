//! Errors before and inside a stream, in the words of vLLM and in the shape of each API.

use bytes::Bytes;
use http::StatusCode;
use serde::Serialize;

use crate::nim_simulator::request::Api;

/// What vLLM says when its queue is full.
const BUSY: &str =
    "The engine is currently busy and cannot accept new requests. Please try again later or on a different instance.";

/// Why a request is not answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Problem {
    pub(super) status: StatusCode,
    pub(super) message: String,
    /// vLLM's name for the class of error.
    kind: &'static str,
    /// The parameter it is about.
    about: Option<String>,
}

#[derive(Serialize)]
struct OpenAi<'a> {
    error: OpenAiError<'a>,
}

#[derive(Serialize)]
struct OpenAiError<'a> {
    message: &'a str,
    r#type: &'a str,
    param: Option<&'a str>,
    code: u16,
}

#[derive(Serialize)]
struct Anthropic<'a> {
    r#type: &'static str,
    error: AnthropicError<'a>,
}

#[derive(Serialize)]
struct AnthropicError<'a> {
    r#type: &'static str,
    message: &'a str,
}

#[derive(Serialize)]
struct Triton<'a> {
    error: &'a str,
}

impl Problem {
    /// A problem of the class that belongs to the status.
    pub(super) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        let kind = match status {
            StatusCode::BAD_REQUEST => "BadRequestError",
            StatusCode::NOT_FOUND => "NotFoundError",
            StatusCode::PAYLOAD_TOO_LARGE => "Request Entity Too Large",
            StatusCode::SERVICE_UNAVAILABLE => "Service Unavailable",
            _ => "InternalServerError",
        };
        Self { status, message: message.into(), kind, about: None }
    }

    pub(super) fn about(mut self, parameter: impl Into<String>) -> Self {
        self.about = Some(parameter.into());
        self
    }

    /// The queue is full.
    pub(super) fn busy() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, BUSY)
    }

    /// The engine broke.
    pub(super) fn internal() -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "Internal server error")
    }

    pub(super) fn unknown_model(asked: &str, served: &[String]) -> Self {
        let message = format!("The model `{asked}` does not exist. Valid aliases: {}.", served.join(", "));
        Self::new(StatusCode::NOT_FOUND, message).about("model")
    }

    pub(super) fn context_overflow(prompt: u32, output: u32, context: u32) -> Self {
        let message = format!(
            "This model's maximum context length is {context} tokens. However, you requested {output} output tokens and \
             your prompt contains {prompt} input tokens. Please reduce the length of the input prompt or the number of \
             requested output tokens."
        );
        Self::new(StatusCode::BAD_REQUEST, message).about("input_tokens")
    }

    /// Names the place, never what stands there: a body holds prompts.
    pub(super) fn bad_json(error: &serde_json::Error) -> Self {
        let place = format!("body.{}", error.column());
        let (kind, what) = if error.is_data() {
            ("value_error", "Input should be a valid value of the expected type")
        } else {
            ("json_invalid", "JSON decode error")
        };
        let message = format!("1 validation error:\n  {{'type': '{kind}', 'loc': '{place}', 'msg': '{what}'}}");
        let mut problem = Self::new(StatusCode::BAD_REQUEST, message).about(place);
        problem.kind = "Bad Request";
        problem
    }

    /// The body in the shape of that API.
    pub(super) fn body(&self, api: Api) -> Vec<u8> {
        let json = match api {
            Api::Messages => serde_json::to_vec(&Anthropic {
                r#type: "error",
                error: AnthropicError { r#type: self.anthropic_kind(), message: &self.message },
            }),
            Api::Generate => serde_json::to_vec(&Triton { error: &self.message }),
            _ => serde_json::to_vec(&OpenAi {
                error: OpenAiError {
                    message: &self.message,
                    r#type: self.kind,
                    param: self.about.as_deref(),
                    code: self.status.as_u16(),
                },
            }),
        };
        json.unwrap_or_default()
    }

    /// The error inside a stream; the OpenAI APIs still send their end mark after it.
    pub(super) fn events(&self, api: Api) -> Vec<Bytes> {
        let body = self.body(api);
        let head: &[u8] = if api == Api::Messages { b"event: error\ndata: " } else { b"data: " };
        let mut events = vec![Bytes::from([head, &body, b"\n\n"].concat())];
        if matches!(api, Api::Chat | Api::Completions) {
            events.push(Bytes::from_static(b"data: [DONE]\n\n"));
        }
        events
    }

    fn anthropic_kind(&self) -> &'static str {
        match self.status.as_u16() {
            400 => "invalid_request_error",
            404 => "not_found_error",
            413 => "request_too_large",
            503 => "overloaded_error",
            _ => "api_error",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(problem: &Problem, api: Api, expected: &str) {
        assert_eq!(String::from_utf8(problem.body(api)).expect("text"), expected);
    }

    #[test]
    fn errors_have_the_shape_of_their_api() {
        let unknown = Problem::unknown_model("nope", &["tiny".to_owned()]);
        check(
            &unknown,
            Api::Chat,
            r#"{"error":{"message":"The model `nope` does not exist. Valid aliases: tiny.","type":"NotFoundError","param":"model","code":404}}"#,
        );
        check(
            &Problem::busy(),
            Api::Completions,
            r#"{"error":{"message":"The engine is currently busy and cannot accept new requests. Please try again later or on a different instance.","type":"Service Unavailable","param":null,"code":503}}"#,
        );
        check(
            &Problem::internal(),
            Api::Messages,
            r#"{"type":"error","error":{"type":"api_error","message":"Internal server error"}}"#,
        );
        check(&Problem::internal(), Api::Generate, r#"{"error":"Internal server error"}"#);
    }

    #[test]
    fn an_error_about_json_does_not_repeat_it() {
        let error = serde_json::from_str::<u32>("\"secret\"").expect_err("a text");
        assert!(!Problem::bad_json(&error).message.contains("secret"));
    }
}
