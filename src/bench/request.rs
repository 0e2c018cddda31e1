//! Request bodies with synthetic prompts of a stated length.
//!
//! A prompt is made of English words of three letters: with the space between them four bytes each, and one token each
//! to the usual tokenizers. The server's own count is what the reports show; where it was asked before, or a tokenizer's
//! file is at hand ([`PromptScale`]), prompts have the length that these count.

use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::schedule::Planned;
use crate::random::Random;
use crate::wire::Api;

const WORDS: &[&str] = &[
    "the", "and", "for", "are", "but", "not", "you", "all", "any", "can", "her", "was", "one", "our", "out", "day",
    "get", "has", "him", "his", "how", "man", "new", "now", "old", "see", "two", "way", "who", "boy", "did", "its",
    "let", "put", "say", "she", "too", "use", "red", "sun", "sea", "sky", "car", "dog", "cat", "map", "pen", "box",
    "key", "ice",
];

/// How many tokens a server counts for so many words: what its tokenizer makes of a word, and what its template adds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PromptScale {
    /// Tokens of one word.
    pub per_word: f64,
    /// Tokens of the template, whatever the prompt.
    pub template: f64,
}

impl Default for PromptScale {
    fn default() -> Self {
        Self { per_word: 1.0, template: 0.0 }
    }
}

impl PromptScale {
    /// Words of two texts to find it by: far enough apart that a token more or less does not show.
    pub const WORDS: [u32; 2] = [32, 288];

    /// The scale on which two prompts of so many words have so many tokens; `None` when no tokenizer counts so.
    #[must_use]
    pub fn through(shorter: (u32, u64), longer: (u32, u64)) -> Option<Self> {
        let words = f64::from(longer.0) - f64::from(shorter.0);
        #[allow(clippy::cast_precision_loss, reason = "token counts are far below 2^53")]
        let (few, many) = (shorter.1 as f64, longer.1 as f64);
        let per_word = (many - few) / words;
        let template = few - per_word * f64::from(shorter.0);
        ((0.2..=5.0).contains(&per_word) && template >= -1.0).then(|| Self { per_word, template: template.max(0.0) })
    }

    /// The words of a prompt that is to have so many tokens; at least one.
    #[must_use]
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to the range of the type")]
    pub fn words(self, tokens: u32) -> u32 {
        ((f64::from(tokens) - self.template) / self.per_word).round().clamp(1.0, f64::from(u32::MAX)) as u32
    }
}

/// How a body is to be, apart from its lengths.
#[derive(Debug, Clone)]
pub struct RequestShape {
    /// The API that is spoken.
    pub api: Api,
    /// The model's name.
    pub model: String,
    /// Whether a streamed answer is asked for.
    pub stream: bool,
    /// Whether an answer is to have exactly the length that is asked for: `ignore_eos` and `min_tokens`, which engines
    /// know and strict servers refuse.
    pub exact_length: bool,
    /// Members to add to every body, over those it has.
    pub extra: Map<String, Value>,
    /// How many different prompts there are; 0 makes every one different.
    pub prompts: u64,
    /// What the prompts are drawn from.
    pub seed: u64,
    /// How many words make so many tokens.
    pub scale: PromptScale,
}

impl RequestShape {
    /// Streamed requests of that API to that model, every prompt different.
    #[must_use]
    pub fn new(api: Api, model: &str) -> Self {
        Self {
            api,
            model: model.to_owned(),
            stream: true,
            exact_length: false,
            extra: Map::new(),
            prompts: 0,
            seed: 0,
            scale: PromptScale::default(),
        }
    }
}

/// A seed for the prompts of one part of a run: parts that differ share no prompt, so that none is warm in a prefix cache
/// that would not be.
#[must_use]
pub fn prompts_of(seed: u64, part: &[u64]) -> u64 {
    let mixed = part.iter().fold(seed, |mixed, number| Random::seeded(mixed.wrapping_add(*number)).bits());
    // The number of a prompt goes into the low bits.
    mixed & !0xFFFF_FFFF
}

/// Makes bodies.
#[derive(Debug, Clone)]
pub struct RequestBuilder {
    shape: RequestShape,
}

impl RequestBuilder {
    /// A builder of bodies of that shape.
    #[must_use]
    pub fn new(shape: RequestShape) -> Self {
        Self { shape }
    }

    /// The API that is spoken.
    #[must_use]
    pub fn api(&self) -> Api {
        self.shape.api
    }

    /// Whether streamed answers are asked for.
    #[must_use]
    pub fn stream(&self) -> bool {
        self.shape.stream && self.shape.api != Api::Embeddings
    }

    /// The body of one request.
    #[must_use]
    pub fn body(&self, planned: &Planned) -> Bytes {
        let shape = &self.shape;
        let prompt = self.prompt(planned);
        let mut body = Map::new();
        let mut set = |key: &str, value: Value| body.insert(key.to_owned(), value);
        set("model", json!(shape.model));
        match shape.api {
            Api::Completions => set("prompt", json!(prompt)),
            Api::Responses | Api::Embeddings => set("input", json!(prompt)),
            _ => set("messages", json!([{"role": "user", "content": prompt}])),
        };
        if self.stream() {
            set("stream", json!(true));
            if shape.api.has_choices() {
                set("stream_options", json!({"include_usage": true}));
            }
        }
        // The messages dialect refuses a request without a limit.
        let fallback = (shape.api == Api::Messages).then_some(1024);
        if let Some(tokens) = planned.output_tokens.or(fallback).filter(|_| shape.api != Api::Embeddings) {
            let limit = if shape.api == Api::Responses { "max_output_tokens" } else { "max_tokens" };
            set(limit, json!(tokens));
            if shape.exact_length {
                set("min_tokens", json!(tokens));
                set("ignore_eos", json!(true));
            }
        }
        body.extend(shape.extra.clone());
        Bytes::from(Value::Object(body).to_string())
    }

    fn prompt(&self, planned: &Planned) -> String {
        self.text(planned.index, self.shape.scale.words(planned.input_tokens))
    }

    /// The text of a prompt of so many words.
    #[must_use]
    pub fn text(&self, index: u64, words: u32) -> String {
        let which = index.checked_rem(self.shape.prompts).unwrap_or(index);
        // The multiplier spreads neighbouring prompts over the generator's states.
        let mut random = Random::seeded((self.shape.seed ^ which).wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let _ = random.bits();
        let mut prompt = String::with_capacity(4 * words as usize);
        for word in 0..words {
            if word > 0 {
                prompt.push(' ');
            }
            prompt.push_str(WORDS.get(random.below(WORDS.len())).copied().unwrap_or("the"));
        }
        prompt
    }
}

/// Reads one extra input: `NAME:VALUE`, where the value is JSON or else a text, or a whole JSON object.
///
/// # Errors
/// When it is neither; the message shows the form.
pub fn read_extra(text: &str) -> Result<Map<String, Value>, String> {
    if text.trim_start().starts_with('{') {
        return serde_json::from_str(text).map_err(|error| format!("`{text}` is no JSON object: {error}"));
    }
    let (name, value) = text
        .split_once(':')
        .filter(|(name, _)| !name.is_empty())
        .ok_or_else(|| format!("`{text}` is not NAME:VALUE, such as ignore_eos:true"))?;
    let value = serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.to_owned()));
    Ok(Map::from_iter([(name.to_owned(), value)]))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::wire::request::{IncludeUsage, RequestReading};

    fn planned(index: u64) -> Planned {
        Planned { index, at: Duration::ZERO, input_tokens: 50, output_tokens: Some(9) }
    }

    #[track_caller]
    fn check(api: Api) {
        let builder = RequestBuilder::new(RequestShape::new(api, "m"));
        let body = builder.body(&planned(1));
        let reading = RequestReading::read(api, &body).expect("a request");
        assert_eq!((reading.model.as_deref(), reading.stream, reading.prompt_bytes), (Some("m"), true, 199), "{api:?}");
        assert_eq!(reading.max_tokens, Some(9), "{api:?}");
        assert!(!api.has_choices() || reading.include_usage == IncludeUsage::Asked, "{api:?}");
    }

    #[test]
    fn every_dialect_reads_what_was_meant() {
        for api in [Api::Chat, Api::Completions, Api::Responses, Api::Messages] {
            check(api);
        }
    }

    #[test]
    fn prompts_differ_unless_they_are_few_and_are_the_same_again() {
        let of = |prompts, index| {
            RequestBuilder::new(RequestShape { prompts, ..RequestShape::new(Api::Chat, "m") }).body(&planned(index))
        };
        assert_eq!(of(0, 3), of(0, 3));
        assert_ne!(of(0, 3), of(0, 4));
        assert_eq!(of(2, 3), of(2, 5));
        assert_ne!(of(2, 3), of(2, 4));
    }

    #[test]
    fn parts_of_a_run_share_no_prompt() {
        let mut all = std::collections::HashSet::new();
        for part in [[200, 100, 1], [200, 100, 4], [200, 100, 8], [1_000, 100, 8], [200, 101, 8]] {
            let seed = prompts_of(0, &part);
            let builder = RequestBuilder::new(RequestShape { seed, ..RequestShape::new(Api::Chat, "m") });
            assert!((0..300).all(|index| all.insert(builder.body(&planned(index)))), "{part:?}");
            assert_eq!(seed, prompts_of(0, &part));
        }
    }

    #[test]
    fn prompts_have_the_length_that_the_server_counts() {
        // A template of 12 tokens, and a tokenizer that makes three tokens of two words.
        let scale = PromptScale::through((32, 60), (288, 444)).expect("a line");
        assert_eq!(scale, PromptScale { per_word: 1.5, template: 12.0 });
        assert_eq!((scale.words(312), scale.words(12), scale.words(1)), (200, 1, 1));
        assert_eq!(PromptScale::default().words(50), 50);
        assert_eq!(PromptScale::through((32, 100), (288, 100)), None, "a server that counts nothing of the prompt");
        assert_eq!(PromptScale::through((32, 10), (288, 444)), None, "no template takes tokens away");
    }

    #[test]
    fn extra_inputs_are_json_where_they_can_be() {
        let mut extra = read_extra("ignore_eos:true").expect("a pair");
        extra.extend(read_extra("user:me").expect("a pair"));
        extra.extend(read_extra(r#"{"max_tokens": 3}"#).expect("an object"));
        let body = RequestBuilder::new(RequestShape { extra, ..RequestShape::new(Api::Chat, "m") }).body(&planned(0));
        let body: Value = serde_json::from_slice(&body).expect("JSON");
        assert_eq!((&body["ignore_eos"], &body["user"], &body["max_tokens"]), (&json!(true), &json!("me"), &json!(3)));
        assert!(read_extra("ignore_eos").is_err() && read_extra("{").is_err());
    }
}
