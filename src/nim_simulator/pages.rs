//! What a NIM says about itself: health, models, metadata, metrics.

use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use serde_json::{Value, json};

use crate::nim_simulator::routes::{AnswerBody, bytes_answer, text_answer};
use crate::nim_simulator::state::State;
use crate::nim_simulator::text;

/// The NIM release that is imitated.
const RELEASE: &str = "1.8.5";

/// Answers a page, or 404 as vLLM words it.
pub(super) fn answer(state: &State, request: &Request<Incoming>, path: &str) -> Response<AnswerBody> {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return text_answer(StatusCode::METHOD_NOT_ALLOWED, "application/json", r#"{"detail":"Method Not Allowed"}"#);
    }
    match path {
        "/v1/health/live" => ok(&health("Service is live.")),
        "/v1/health/ready" => ready(state),
        "/health" | "/ping" => text_answer(StatusCode::OK, "text/plain", ""),
        "/v1/models" => ok(&models(state)),
        "/v1/metadata" => ok(&metadata(state)),
        "/v1/version" => ok(&json!({ "release": RELEASE, "api": "1.0.0" })),
        "/v1/manifest" => ok(&json!({ "manifest_file": "model_manifest.yaml", "repository": "simulated" })),
        "/v1/license" => ok(&license()),
        "/v1/metrics" | "/metrics" => metrics(state),
        _ => text_answer(StatusCode::NOT_FOUND, "application/json", r#"{"detail":"Not Found"}"#),
    }
}

fn ok(value: &Value) -> Response<AnswerBody> {
    bytes_answer(StatusCode::OK, "application/json", value.to_string().into_bytes())
}

fn health(message: &str) -> Value {
    json!({ "object": "health-response", "message": message })
}

fn ready(state: &State) -> Response<AnswerBody> {
    if state.is_ready() {
        return ok(&health("Service is ready."));
    }
    let body = health("Service is not ready.").to_string().into_bytes();
    bytes_answer(StatusCode::SERVICE_UNAVAILABLE, "application/json", body)
}

fn models(state: &State) -> Value {
    let model = |id: &String| {
        json!({
            "id": id, "object": "model", "created": 1_735_689_600, "owned_by": "system", "root": id, "parent": null,
            "max_model_len": state.limits.context,
        })
    };
    json!({ "object": "list", "data": state.limits.models.iter().map(model).collect::<Vec<_>>() })
}

fn metadata(state: &State) -> Value {
    let info = |id: &String| json!({ "shortName": id, "modelUrl": format!("simulated://{id}") });
    json!({
        "version": RELEASE,
        "modelInfo": state.limits.models.iter().map(info).collect::<Vec<_>>(),
        "assetInfo": [],
        "licenseInfo": license(),
        "repository_override": "",
        "selectedModelProfileId": profile_id(state.profile.name),
        "profileName": state.profile.name,
    })
}

/// Profile ids are 64 hex digits; a simulated one follows from its name.
pub(super) fn profile_id(name: &str) -> String {
    let digits = |part| format!("{:016x}", text::random(text::hash(part, name.as_bytes())).bits());
    [0, 1, 2, 3].map(digits).concat()
}

fn license() -> Value {
    json!({
        "name": "Apache License 2.0", "path": "/LICENSE", "sha": "", "size": 0,
        "url": "https://www.apache.org/licenses/LICENSE-2.0", "type": "file", "content": "",
    })
}

fn metrics(state: &State) -> Response<AnswerBody> {
    let model = state.limits.models.first().map_or("", String::as_str);
    let page = state.metrics.page(model, state.engine.load());
    bytes_answer(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", page)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_id_is_64_hex_digits_that_follow_from_the_name() {
        let id = profile_id("vllm-a100-fp16-tp1");
        assert_eq!((id.len(), id == profile_id("vllm-a100-fp16-tp1")), (64, true));
        assert!(id.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte)), "{id}");
        assert_ne!(id, profile_id("vllm-a10g-int8-tp1"));
    }
}
