//! What must hold of the readers of requests, chunks and answers, whatever the bytes.
//!
//! The oracle is `serde_json`: what it takes for JSON is JSON, and a backend that reads with it sees what was read here.

use serde::de::IgnoredAny;
use serde_json::Value;

use super::answer::read_answer;
use super::chunk::{ChunkKind, read_chunk};
use super::error::{StreamError, read_error};
use super::request::{IncludeUsage, RequestReading, splice};
use super::trace_context::TraceParent;
use super::{Api, dcgm, engine_metrics::EngineLoad, json};

/// A name that needs escapes.
const OTHER_MODEL: &str = "other \"model\"\n\u{1}é";

/// The data of one event, or an unstreamed body, in every dialect.
pub(crate) fn chunk(bytes: &[u8]) {
    let data = bytes.trim_ascii();
    let literal = data.is_empty() || data == b"[DONE]";
    for api in Api::ALL {
        let read = read_chunk(api, b"", bytes);
        assert_eq!(read.is_ok(), literal || is_json(data), "{api:?}");
        if let Ok(read) = read {
            assert_eq!(read.kind == ChunkKind::Error, read.error.is_some(), "{api:?}");
            read.error.iter().for_each(harmless);
        }
        let named = read_chunk(api, b"error", bytes);
        assert!(named.is_ok_and(|read| read.error.is_some() || read.done), "{api:?}: an event named error is one");
        let answer = read_answer(api, bytes);
        assert_eq!(answer.is_ok(), is_json(bytes), "{api:?}");
        answer.iter().filter_map(|answer| answer.error.as_ref()).for_each(harmless);
    }
    let error = read_error(bytes);
    assert_eq!(error.is_ok(), is_json(bytes));
    error.iter().flatten().for_each(harmless);
}

/// Labels go into logs and metrics.
fn harmless(error: &StreamError) {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-. ".contains(&byte);
    assert!(error.label().len() <= 40 && error.label().bytes().all(plain), "{:?}", error.label());
}

/// JSON that is not nested too deeply to be read.
fn is_json(bytes: &[u8]) -> bool {
    serde_json::from_slice::<IgnoredAny>(bytes).is_ok() && depth(bytes) <= json::DEPTH
}

/// How deeply a JSON text is nested.
fn depth(text: &[u8]) -> u32 {
    let (mut depth, mut deepest, mut in_string, mut escaped) = (0_u32, 0, false, false);
    for byte in text {
        match byte {
            _ if std::mem::take(&mut escaped) => {}
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => depth += 1,
            b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    deepest
}

/// A request's body, in every dialect.
pub(crate) fn request(body: &[u8]) {
    for api in Api::ALL {
        let Ok(reading) = RequestReading::read(api, body) else { continue };
        assert!(is_json(body), "{api:?}: it is read, so it is JSON");
        let mut fed = 0;
        reading.prompt_text.feed(body, |piece| fed += piece.len());
        // A token id of one digit and its comma become four bytes, and each piece has a separator.
        assert!(fed <= 4 * body.len() + 1, "{api:?}: {fed} bytes of text");
        if let Ok(value) = serde_json::from_slice::<Value>(body)
            && reading.model_span.is_some()
        {
            assert_eq!(value.get("model").and_then(Value::as_str), reading.model.as_deref(), "{api:?}");
        }
        edited(api, body, &reading);
    }
}

/// Edits change what they are to change and nothing else, in the eyes of whoever reads next.
fn edited(api: Api, body: &[u8], reading: &RequestReading) {
    let usage = reading.ask_for_usage().filter(|_| api.has_choices());
    let rename = reading.rename(OTHER_MODEL);
    let (asks, renames) = (usage.is_some(), rename.is_some());
    let edits: Vec<_> = usage.into_iter().chain(rename).collect();
    let after = splice(body, &edits);
    let again = RequestReading::read(api, &after);
    assert!(again.is_ok(), "{api:?}: {}", String::from_utf8_lossy(&after));
    let Ok(again) = again else { return };
    let named = if renames { Some(OTHER_MODEL) } else { reading.model.as_deref() };
    assert_eq!(again.model.as_deref(), named, "{api:?}");
    if asks {
        assert_eq!(again.include_usage, IncludeUsage::Asked, "{api:?}");
    }
    let rest = |reading: &RequestReading| {
        let RequestReading { stream, choices, max_tokens, prompt_bytes, features, previous_response, .. } = reading;
        (*stream, *choices, *max_tokens, *prompt_bytes, *features, *previous_response)
    };
    assert_eq!(rest(&again), rest(reading), "{api:?}");
    let Ok(value) = serde_json::from_slice::<Value>(&after) else { return };
    if renames {
        assert_eq!(value.get("model").and_then(Value::as_str), Some(OTHER_MODEL), "{api:?}");
    }
    if asks {
        assert_eq!(value.pointer("/stream_options/include_usage"), Some(&Value::Bool(true)), "{api:?}");
    }
}

/// The field that says in whose trace a request comes.
pub(crate) fn traceparent(text: &str) {
    let Some(parent) = TraceParent::read(text) else { return };
    assert_eq!(TraceParent::read(&parent.field()), Some(parent));
    assert!(parent.trace_id != [0; 16] && parent.span_id != [0; 8]);
    assert!(text.get(3..52).is_some_and(|ids| parent.field().contains(ids)), "{text}");
}

/// The metrics pages of engines and of NVIDIA's exporter.
pub(crate) fn page(text: &str) {
    if let Some(load) = EngineLoad::parse(text) {
        assert!(load.running >= 0.0 && load.waiting >= 0.0 && load.running.is_finite() && load.waiting.is_finite());
        assert!(load.kv_ratio.is_none_or(|ratio| (0.0..=1.0).contains(&ratio)), "{load:?}");
    }
    let _ = dcgm::parse(text);
}
