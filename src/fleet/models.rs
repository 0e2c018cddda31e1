//! Which models a backend serves: as configured, else as it says itself at `/v1/models`.

use std::sync::Arc;

use serde::Deserialize;

use crate::config::settings::Backend;

/// The most models that are remembered of one backend.
const MOST_MODELS: usize = 256;
/// The longest model name that is remembered.
const LONGEST_NAME: usize = 256;

/// One model of a backend's list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiscoveredModel {
    /// Its id.
    pub id: Arc<str>,
    /// The longest context, where the list says so (`max_model_len`).
    pub context_length: Option<u64>,
}

/// A backend's list of models.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Discovered {
    /// The models; at most 256.
    pub models: Vec<DiscoveredModel>,
    /// Whether the backend was asked with success at all.
    pub known: bool,
}

/// Whether a backend serves a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Serves {
    /// Under the name it was asked for.
    Yes,
    /// Under this other name.
    Renamed(Arc<str>),
    /// It has not said yet.
    NotYetKnown,
    /// No.
    No,
}

#[derive(Deserialize)]
struct ModelList {
    data: Vec<ModelEntry>,
}

#[derive(Deserialize)]
struct ModelEntry {
    id: String,
    #[serde(default)]
    max_model_len: Option<u64>,
}

impl Discovered {
    /// Reads the body of `GET /v1/models`; `None` when it is not such a list.
    #[must_use]
    pub fn parse(body: &[u8]) -> Option<Self> {
        let list: ModelList = serde_json::from_slice(body).ok()?;
        let models = list
            .data
            .into_iter()
            .filter(|model| !model.id.is_empty() && model.id.len() <= LONGEST_NAME)
            .take(MOST_MODELS)
            .map(|model| DiscoveredModel { id: model.id.into(), context_length: model.max_model_len })
            .collect();
        Some(Self { models, known: true })
    }

    /// The model of that name.
    #[must_use]
    pub fn find(&self, model: &str) -> Option<&DiscoveredModel> {
        self.models.iter().find(|one| &*one.id == model)
    }

    /// The longest context of a model, where it is known.
    #[must_use]
    pub fn context_length(&self, model: &str) -> Option<u64> {
        self.find(model).and_then(|one| one.context_length)
    }
}

/// Whether a backend serves a model: an alias first, then the configured patterns, else its own list.
#[must_use]
pub fn serves(backend: &Backend, discovered: &Discovered, model: &str) -> Serves {
    if let Some((_, name)) = backend.rename.iter().find(|(alias, _)| &**alias == model) {
        return Serves::Renamed(Arc::clone(name));
    }
    match &backend.models {
        Some(patterns) if patterns.iter().any(|pattern| pattern.matches(model)) => Serves::Yes,
        Some(_) => Serves::No,
        None if discovered.find(model).is_some() => Serves::Yes,
        None if discovered.known => Serves::No,
        None => Serves::NotYetKnown,
    }
}
