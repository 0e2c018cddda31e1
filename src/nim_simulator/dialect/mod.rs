//! How a planned answer is written in each API, byte for byte as vLLM and Triton write it.
//!
//! The order of keys is the order of fields in the serde structs here; it was taken from recorded answers of vLLM 0.32.

mod chat;
mod completions;
mod generate;
mod messages;
mod responses;
mod unary;

use std::time::Duration;

use bytes::Bytes;
use serde::{Serialize, Serializer};

use crate::nim_simulator::pace::Token;
use crate::nim_simulator::request::{Api, Choice, Job, Piece};

/// A key that is present and null.
type Null = Option<()>;

/// A key that is absent, null, or has a value: the engines tell the three apart.
#[derive(Debug, Clone, Copy, Default)]
enum Key<T> {
    #[default]
    Absent,
    Null,
    Value(T),
}

impl<T> Key<T> {
    fn is_absent(&self) -> bool {
        matches!(self, Self::Absent)
    }

    /// Null in place of absence.
    fn or_null(self) -> Self {
        if self.is_absent() { Self::Null } else { self }
    }
}

impl<T: Serialize> Serialize for Key<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Absent | Self::Null => serializer.serialize_none(),
            Self::Value(value) => value.serialize(serializer),
        }
    }
}

/// The answer to one request: what is written about it.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    pub(super) job: Job,
    /// Sixteen hex digits that name it.
    pub(super) id: String,
    /// Seconds since 1970.
    pub(super) created: u64,
    /// Prompt tokens that were cached.
    pub(super) cached: u32,
    /// The engine's own times, where they are told.
    pub(super) times: Option<Times>,
}

/// The engine's own times of one request.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Times {
    queue: Duration,
    first: Option<Duration>,
    last: Duration,
    tokens: u32,
}

impl Times {
    pub(super) fn token(&mut self, token: &Token) {
        (self.queue, self.last) = (token.waited, token.at);
        self.first.get_or_insert(token.at);
        self.tokens += 1;
    }

    /// As vLLM writes them.
    fn told(&self) -> RequestMetrics {
        let ms = |duration: Duration| duration.as_secs_f64() * 1e3;
        let first = self.first.unwrap_or_default();
        let generation = self.last.saturating_sub(first);
        let gaps = f64::from(self.tokens.saturating_sub(1));
        RequestMetrics {
            // From the queue's end.
            time_to_first_token_ms: ms(first.saturating_sub(self.queue)),
            generation_time_ms: ms(generation),
            queue_time_ms: ms(self.queue),
            mean_itl_ms: (gaps > 0.0).then(|| ms(generation) / gaps),
            tokens_per_second: (gaps > 0.0).then(|| gaps / generation.as_secs_f64().max(1e-9)),
        }
    }
}

#[derive(Debug, Serialize)]
struct RequestMetrics {
    time_to_first_token_ms: f64,
    generation_time_ms: f64,
    queue_time_ms: f64,
    mean_itl_ms: Option<f64>,
    tokens_per_second: Option<f64>,
}

impl Answer {
    /// The planned choice; out of range cannot happen, and would be an empty one.
    fn choice(&self, index: usize) -> Option<&Choice> {
        self.job.choices.get(index)
    }

    /// What a token of a choice adds, and the finish reason when it is the last.
    fn piece(&self, choice: usize, index: u32) -> (Piece, Option<&'static str>) {
        let Some(plan) = self.choice(choice) else { return (Piece::End, None) };
        let last = index + 1 >= plan.tokens;
        (plan.piece(self.job.seed, choice, index), last.then(|| plan.finish_reason()))
    }

    /// The parts of a whole choice.
    fn whole(&self, choice: usize) -> Whole {
        let mut whole = Whole::default();
        for index in 0..self.choice(choice).map_or(0, |plan| plan.tokens) {
            match self.piece(choice, index).0 {
                Piece::Reasoning(text) => whole.reasoning.push_str(&text),
                Piece::Content(text) => whole.content.push_str(&text),
                Piece::ToolName(name) => whole.tool = name,
                Piece::ToolArguments(text) => whole.arguments.push_str(&text),
                Piece::End => {}
            }
        }
        whole
    }

    fn finish_reason(&self, choice: usize) -> &'static str {
        self.choice(choice).map_or("stop", Choice::finish_reason)
    }
}

/// All the text of one choice.
#[derive(Debug, Default)]
struct Whole {
    reasoning: String,
    content: String,
    tool: String,
    arguments: String,
}

/// Writes one streamed answer; every element that comes back is one event.
pub(super) trait Dialect: Send {
    /// Sent as soon as the request is accepted.
    fn accepted(&mut self) -> Vec<Bytes> {
        Vec::new()
    }

    /// Sent with the first token.
    fn opening(&mut self) -> Vec<Bytes> {
        Vec::new()
    }

    /// One token of one choice.
    fn token(&mut self, choice: usize, index: u32) -> Vec<Bytes>;

    /// The engine's own times, told before what is sent last.
    fn timed(&mut self, _: Times) {}

    /// Sent after the last token of all choices.
    fn closing(&mut self) -> Vec<Bytes>;
}

/// The writer of streams for an answer's API.
pub(super) fn streamed(answer: Answer) -> Box<dyn Dialect> {
    match answer.job.api {
        Api::Completions => Box::new(completions::Completions::new(answer)),
        Api::Responses => Box::new(responses::Responses::new(answer)),
        Api::Messages => Box::new(messages::Messages::new(answer)),
        Api::Generate => Box::new(generate::Generate::new(answer)),
        Api::Chat | Api::Embeddings | Api::Ranking => Box::new(chat::Chat::new(answer)),
    }
}

/// The body of an answer in one piece.
pub(super) fn whole(answer: &Answer) -> Vec<u8> {
    match answer.job.api {
        Api::Chat => chat::whole(answer),
        Api::Completions => completions::whole(answer),
        Api::Responses => responses::whole(answer),
        Api::Messages => messages::whole(answer),
        Api::Generate => generate::whole(answer),
        Api::Embeddings => unary::embeddings(answer),
        Api::Ranking => unary::ranking(answer),
    }
}

/// `data: {json}` and a blank line.
fn data(value: &impl Serialize) -> Bytes {
    Bytes::from([b"data: ".as_slice(), &json(value), b"\n\n"].concat())
}

/// `event: name`, `data: {json}` and a blank line.
fn event(name: &str, value: &impl Serialize) -> Bytes {
    Bytes::from([b"event: ", name.as_bytes(), b"\ndata: ", &json(value), b"\n\n"].concat())
}

/// Serializing our own structs cannot fail: no maps with odd keys, no foreign code.
fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}

pub(super) fn done() -> Bytes {
    Bytes::from_static(b"data: [DONE]\n\n")
}

/// Usage as the OpenAI APIs count it.
#[derive(Debug, Clone, Copy, Serialize)]
struct Usage {
    prompt_tokens: u32,
    total_tokens: u32,
    completion_tokens: u32,
    #[serde(skip_serializing_if = "Key::is_absent")]
    prompt_tokens_details: Key<PromptDetails>,
    #[serde(skip_serializing_if = "Key::is_absent")]
    completion_tokens_details: Key<CompletionDetails>,
}

#[derive(Debug, Clone, Copy, Serialize)]
struct PromptDetails {
    cached_tokens: u32,
    created_cache_tokens: u32,
}

#[derive(Debug, Clone, Copy, Serialize)]
struct CompletionDetails {
    reasoning_tokens: u32,
}

impl Usage {
    /// The usage chunk: details only where they say something.
    fn at_end(answer: &Answer) -> Self {
        let (reasoning, cached) = (answer.job.reasoning_tokens(), answer.cached);
        Self {
            prompt_tokens_details: match cached {
                0 => Key::Absent,
                cached_tokens => Key::Value(PromptDetails { cached_tokens, created_cache_tokens: 0 }),
            },
            completion_tokens_details: match reasoning {
                0 => Key::Absent,
                reasoning_tokens => Key::Value(CompletionDetails { reasoning_tokens }),
            },
            ..Self::counted(answer, answer.job.total_tokens())
        }
    }

    /// Usage on an ordinary chunk: what its choice has made so far.
    fn so_far(answer: &Answer, completion: u32) -> Self {
        Self { completion_tokens_details: Key::Null, ..Self::counted(answer, completion) }
    }

    /// Usage of a unary answer, which spells out what it does not have.
    fn whole(answer: &Answer) -> Self {
        let usage = Self::at_end(answer);
        Self {
            prompt_tokens_details: usage.prompt_tokens_details.or_null(),
            completion_tokens_details: usage.completion_tokens_details.or_null(),
            ..usage
        }
    }

    fn counted(answer: &Answer, completion: u32) -> Self {
        let prompt = answer.job.prompt_tokens;
        Self {
            prompt_tokens: prompt,
            total_tokens: prompt.saturating_add(completion),
            completion_tokens: completion,
            prompt_tokens_details: Key::Absent,
            completion_tokens_details: Key::Absent,
        }
    }
}

/// What engines put into `system_fingerprint`.
const FINGERPRINT: &str = "headway-nim";
