//! Which models a backend serves: as configured, else as it says itself at `/v1/models`.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

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
    /// What it takes, where the list says so.
    pub context: Option<Context>,
}

/// How much a model takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Context {
    /// Tokens of prompt and answer together.
    pub tokens: u64,
    /// Whether an answer just ends where the context does (llama.cpp), so that only the prompt must fit; others (vLLM)
    /// refuse a request for the answer that it allows.
    pub cuts_answers: bool,
}

impl Context {
    /// Whether a prompt and the longest answer that it allows are taken.
    #[must_use]
    pub fn holds(self, prompt: u64, answer: Option<u64>) -> bool {
        let answer = answer.filter(|_| !self.cuts_answers).unwrap_or(0);
        prompt.saturating_add(answer) <= self.tokens
    }
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
    /// vLLM, SGLang and NIM.
    #[serde(default)]
    max_model_len: Option<u64>,
    /// llama.cpp: what it says about the model. Others may mean anything by these two, so neither has a type.
    #[serde(default)]
    meta: Value,
    /// llama.cpp: other names it answers to.
    #[serde(default)]
    aliases: Value,
}

impl ModelEntry {
    /// Of llama.cpp the context of one slot, else what the model was trained for, which no slot exceeds.
    fn context(&self) -> Option<Context> {
        let told = |key: &str| self.meta.get(key).and_then(Value::as_u64);
        let whole = self.max_model_len.map(|tokens| Context { tokens, cuts_answers: false });
        let slot =
            || told("n_ctx").or_else(|| told("n_ctx_train")).map(|tokens| Context { tokens, cuts_answers: true });
        whole.or_else(slot).filter(|context| context.tokens > 0)
    }

    /// The model under each of its names.
    fn named(self) -> Vec<DiscoveredModel> {
        let context = self.context();
        let aliases = self.aliases.as_array().map(Vec::as_slice).unwrap_or_default();
        let aliases = aliases.iter().filter_map(Value::as_str).filter(|alias| *alias != self.id);
        let names = std::iter::once(self.id.as_str()).chain(aliases);
        names.map(|name| DiscoveredModel { id: name.into(), context }).collect()
    }
}

impl Discovered {
    /// Reads the body of `GET /v1/models`; `None` when it is not such a list.
    #[must_use]
    pub fn parse(body: &[u8]) -> Option<Self> {
        let list: ModelList = serde_json::from_slice(body).ok()?;
        let models = list
            .data
            .into_iter()
            .flat_map(ModelEntry::named)
            .filter(|model| !model.id.is_empty() && model.id.len() <= LONGEST_NAME)
            .take(MOST_MODELS)
            .collect();
        Some(Self { models, known: true })
    }

    /// The model of that name.
    #[must_use]
    pub fn find(&self, model: &str) -> Option<&DiscoveredModel> {
        self.models.iter().find(|one| &*one.id == model)
    }

    /// What a model takes, where it is known.
    #[must_use]
    pub fn context(&self, model: &str) -> Option<Context> {
        self.find(model).and_then(|one| one.context)
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Names, their contexts, and whether answers are cut there.
    type Told<'a> = &'a [(&'a str, Option<(u64, bool)>)];

    #[track_caller]
    fn check(body: &str, expected: Option<Told<'_>>) {
        let found = Discovered::parse(body.as_bytes());
        let context = |model: &DiscoveredModel| model.context.map(|one| (one.tokens, one.cuts_answers));
        let models = found.as_ref().map(|found| found.models.iter());
        let found: Option<Vec<_>> = models.map(|all| all.map(|model| (&*model.id, context(model))).collect());
        assert_eq!(found.as_deref(), expected, "{body}");
    }

    #[test]
    fn every_engines_list_is_understood() {
        let vllm = r#"{"object":"list","data":[{"id":"m","object":"model","max_model_len":4096}]}"#;
        check(vllm, Some(&[("m", Some((4_096, false)))]));
        let llamacpp = include_str!("../../tests/fixtures/recorded/llamacpp-models.json");
        check(llamacpp, Some(&[("tiny", Some((2_048, true))), ("tiny-q8", Some((2_048, true)))]));
        let of_2025 = r#"{"models":[],"data":[{"id":"m","meta":{"vocab_type":2,"n_ctx_train":8192}}]}"#;
        check(of_2025, Some(&[("m", Some((8_192, true)))]));
        let both = r#"{"data":[{"id":"m","max_model_len":512,"meta":{"n_ctx":1024}}]}"#;
        check(both, Some(&[("m", Some((512, false)))]));
    }

    #[test]
    fn an_answer_must_fit_only_where_it_is_not_cut() {
        let holds = |cuts_answers, prompt, answer| Context { tokens: 100, cuts_answers }.holds(prompt, answer);
        assert!(holds(false, 60, Some(40)) && holds(false, 100, None) && holds(true, 100, Some(u64::MAX)));
        assert!(!holds(false, 60, Some(41)) && !holds(false, 1, Some(u64::MAX)) && !holds(true, 101, None));
    }

    #[test]
    fn what_others_mean_by_the_same_members_does_no_harm() {
        for member in
            [r#""meta":null"#, r#""meta":"x""#, r#""meta":{"n_ctx":-1}"#, r#""aliases":null"#, r#""aliases":{}"#]
        {
            check(&format!(r#"{{"data":[{{"id":"m",{member}}}]}}"#), Some(&[("m", None)]));
        }
        check(r#"{"data":[{"id":"m","meta":{"n_ctx":0}},{"id":""}]}"#, Some(&[("m", None)]));
        check(r#"{"data":{}}"#, None);
        let many: Vec<_> = (0..1_000).map(|number| format!("\"a{number}\"")).collect();
        let many = format!(r#"{{"data":[{{"id":"m","aliases":[{}]}}]}}"#, many.join(","));
        assert_eq!(Discovered::parse(many.as_bytes()).map(|found| found.models.len()), Some(MOST_MODELS));
    }
}
