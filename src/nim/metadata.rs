//! The answer of a NIM's `/v1/metadata`: which profile it runs, of which model, which release it is.

use serde::Deserialize;
use serde_json::Value;

use super::document::{Document, Entry, Form, Standing};
use super::id::ProfileId;

/// Longest text of an answer that is kept.
const LONGEST: usize = 256;

/// What a NIM says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Metadata {
    /// The profile it runs: an id, or a name in the model-independent image.
    pub profile: Option<String>,
    /// The release of the NIM.
    pub version: Option<String>,
    /// The models it serves, by their short names.
    pub models: Vec<String>,
}

/// Everything is optional: releases have had different keys, and what is read is what is there.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    #[serde(default, alias = "selected_model_profile_id")]
    selected_model_profile_id: Option<Value>,
    #[serde(default)]
    version: Option<Value>,
    #[serde(default, alias = "model_info")]
    model_info: Option<Value>,
}

impl Metadata {
    /// Reads an answer; `None` when it says nothing that is known.
    #[must_use]
    pub fn parse(body: &[u8]) -> Option<Self> {
        let answer: Answer = serde_json::from_slice(body).ok()?;
        let text = |value: Option<Value>| value.as_ref().and_then(kept);
        let models = answer.model_info.as_ref().and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let name = |model: &Value| model.get("shortName").or(model.get("short_name")).and_then(kept);
        let read = Self {
            profile: text(answer.selected_model_profile_id),
            version: text(answer.version),
            models: models.iter().filter_map(name).take(64).collect(),
        };
        (read.profile.is_some() || !read.models.is_empty()).then_some(read)
    }
}

fn kept(value: &Value) -> Option<String> {
    let text = value.as_str()?;
    (!text.is_empty() && text.len() <= LONGEST).then(|| text.to_owned())
}

/// Reads an answer; `None` when the text is none.
pub(super) fn read(text: &str) -> Option<Document> {
    let metadata = Metadata::parse(text.as_bytes())?;
    let mut document = Document::new(Form::Metadata);
    if let Some(profile) = &metadata.profile {
        let id = ProfileId::parse(profile);
        let name = id.is_none().then_some(profile.as_str());
        document.push(Entry::new(id, name, Standing::Runnable, 1));
        document.selected = Some(0);
    }
    document.metadata = Some(metadata);
    Some(document)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_as_far_as_it_goes() {
        let body =
            r#"{"version":"1.8.4","selectedModelProfileId":"vllm","modelInfo":[{"shortName":"llama"},7],"x":[1]}"#;
        let read = Metadata::parse(body.as_bytes()).expect("metadata");
        assert_eq!((read.profile.as_deref(), read.version.as_deref()), (Some("vllm"), Some("1.8.4")));
        assert_eq!(read.models, ["llama"]);
        for none in ["{}", "[]", "", r#"{"error":"no"}"#, r#"{"selectedModelProfileId":null}"#] {
            assert_eq!(Metadata::parse(none.as_bytes()), None, "{none}");
        }
    }
}
