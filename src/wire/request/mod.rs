//! An inference request, read once: what routing needs to know, and where to splice.
//!
//! The body is forwarded as it came. Where it must differ (usage asked for, another model name), bytes are spliced in
//! and every other byte stays, so a field headway has never heard of reaches the backend as it was written.

mod prompt;
mod prompt_text;
mod splice;

use std::ops::Range;

use self::prompt::Prompt;
pub use self::prompt_text::PromptText;
pub use self::splice::{Edit, splice};
use super::json::{Kind, Malformed, Scanner, name_buffer, push_string};
use super::{Api, StoredId};

/// Why a body is not a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// Not JSON; carries the place, never the content.
    #[error("the body is not valid JSON (byte {})", .0.at)]
    Malformed(#[from] Malformed),
    /// JSON, but no object.
    #[error("the body is not a JSON object")]
    NotAnObject,
    /// A field that is read has another type than it should.
    #[error("`{param}` must be {expected}")]
    WrongType {
        /// The field.
        param: &'static str,
        /// What it should be.
        expected: &'static str,
    },
    /// `model` is there twice: backends would disagree which one counts.
    #[error("`model` is given twice")]
    DuplicateModel,
}

impl RequestError {
    /// The field that is wrong, as the error body's `param`.
    #[must_use]
    pub fn param(&self) -> Option<&'static str> {
        match self {
            Self::WrongType { param, .. } => Some(param),
            Self::DuplicateModel => Some("model"),
            Self::Malformed(_) | Self::NotAnObject => None,
        }
    }
}

/// Whether the client asked for the usage event, and where to ask in its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IncludeUsage {
    /// `stream_options.include_usage` is true.
    Asked,
    /// It is false or null: the value to replace.
    Refused(Range<usize>),
    /// `stream_options` is an object without it: where its first member would go, and whether others follow.
    NoKey {
        /// Just after the opening bracket.
        at: usize,
        /// Whether a comma is needed.
        others: bool,
    },
    /// `stream_options` is null: the value to replace.
    NullOptions(Range<usize>),
    /// There is no `stream_options`: where it would go, and whether other members follow.
    NoOptions {
        /// Just after the body's opening bracket.
        at: usize,
        /// Whether a comma is needed.
        others: bool,
    },
}

/// What a request needs of its backend.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Features {
    /// Tools are offered to the model.
    pub tools: bool,
    /// A message contains an image or a video.
    pub vision: bool,
    /// The answer must follow a schema or grammar.
    pub structured_output: bool,
}

/// What an inference request says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestReading {
    /// The model's name; for Triton it is in the path instead.
    pub model: Option<String>,
    /// Where the model's name stands in the body, quotes included.
    pub model_span: Option<Range<usize>>,
    /// Whether a streamed answer is asked for.
    pub stream: bool,
    /// `n`, at least 1.
    pub choices: u32,
    /// Answers that are made, at least 1: as many as `n` or `best_of` says, to each prompt of a list.
    pub answers: u64,
    /// The limit of output tokens of one answer, in the dialect's own field; the largest where several are given, of which
    /// backends believe different ones.
    pub max_tokens: Option<u64>,
    /// Whether usage is asked for.
    pub include_usage: IncludeUsage,
    /// Bytes of message text, data URLs excluded.
    pub prompt_bytes: u64,
    /// Whether more than these bytes makes the prompt's tokens, or less: images, sound, tools, a stored conversation.
    pub uncounted: bool,
    /// Where that text stands in the body.
    pub prompt_text: PromptText,
    /// What the backend must be able to do.
    pub features: Features,
    /// `previous_response_id` of the responses API: only the backend that gave it knows it.
    pub previous_response: Option<StoredId>,
}

impl RequestReading {
    /// Reads a request body.
    ///
    /// # Errors
    /// When it is not a JSON object, or a field that matters here has the wrong type.
    pub fn read(api: Api, body: &[u8]) -> Result<Self, RequestError> {
        Reader::new(api).read(body)
    }

    /// The edit that asks for the usage event; `None` when the client asked for it itself.
    #[must_use]
    pub fn ask_for_usage(&self) -> Option<Edit> {
        let comma = |others: &bool| if *others { "," } else { "" };
        let (span, text) = match &self.include_usage {
            IncludeUsage::Asked => return None,
            IncludeUsage::Refused(span) => (span.clone(), "true".to_owned()),
            IncludeUsage::NoKey { at, others } => (*at..*at, format!("\"include_usage\":true{}", comma(others))),
            IncludeUsage::NullOptions(span) => (span.clone(), "{\"include_usage\":true}".to_owned()),
            IncludeUsage::NoOptions { at, others } => {
                (*at..*at, format!("\"stream_options\":{{\"include_usage\":true}}{}", comma(others)))
            }
        };
        Some(Edit { span, text: text.into_bytes() })
    }

    /// The edit that names another model; `None` when the body names none, or this one.
    #[must_use]
    pub fn rename(&self, model: &str) -> Option<Edit> {
        let span = self.model_span.clone()?;
        if self.model.as_deref() == Some(model) {
            return None;
        }
        let mut text = Vec::with_capacity(model.len() + 2);
        push_string(&mut text, model);
        Some(Edit { span, text })
    }
}

/// A request while it is read.
struct Reader {
    api: Api,
    reading: RequestReading,
    max_completion_tokens: Option<u64>,
    /// Of the list of prompts.
    prompts: u32,
    best_of: u32,
}

type Step = Result<(), RequestError>;

/// Fields besides the prompt that make its tokens more or fewer.
const BESIDE_THE_PROMPT: [&[u8]; 7] = [
    b"documents",
    b"chat_template",
    b"truncate_prompt_tokens",
    b"prompt_embeds",
    b"suffix",
    b"conversation",
    b"prompt",
];

impl Reader {
    fn new(api: Api) -> Self {
        let reading = RequestReading {
            model: None,
            model_span: None,
            stream: api == Api::GenerateStream,
            choices: 1,
            answers: 1,
            max_tokens: None,
            include_usage: IncludeUsage::NoOptions { at: 0, others: false },
            prompt_bytes: 0,
            uncounted: false,
            prompt_text: PromptText::default(),
            features: Features::default(),
            previous_response: None,
        };
        Self { api, reading, max_completion_tokens: None, prompts: 1, best_of: 1 }
    }

    fn read(mut self, body: &[u8]) -> Result<RequestReading, RequestError> {
        let mut scanner = Scanner::new(body);
        let start = scanner.offset();
        if scanner.peek()? != Kind::Object {
            scanner.skip()?;
            scanner.end()?;
            return Err(RequestError::NotAnObject);
        }
        let mut others = false;
        // A body that is not JSON is told so, even when a field before the fault has the wrong type.
        let mut wrong = None;
        scanner.object(|scanner, key| {
            others = true;
            match self.member(scanner, key.name(&mut name_buffer())) {
                Err(RequestError::Malformed(malformed)) => Err(malformed),
                Err(other) => {
                    wrong = wrong.or(Some(other));
                    Ok(())
                }
                Ok(()) => Ok(()),
            }
        })?;
        scanner.end()?;
        if let Some(wrong) = wrong {
            return Err(wrong);
        }
        if let IncludeUsage::NoOptions { .. } = self.reading.include_usage {
            self.reading.include_usage = IncludeUsage::NoOptions { at: start + 1, others };
        }
        // vLLM takes a zero there for nothing said.
        let most = self.max_completion_tokens.filter(|most| *most > 0);
        self.reading.max_tokens = self.reading.max_tokens.max(most);
        self.reading.answers = u64::from(self.reading.choices.max(self.best_of)) * u64::from(self.prompts);
        let reading = &mut self.reading;
        reading.uncounted |= reading.features.tools || reading.features.vision || reading.previous_response.is_some();
        Ok(self.reading)
    }

    fn member(&mut self, scanner: &mut Scanner<'_>, key: &[u8]) -> Step {
        match key {
            b"model" => self.model(scanner),
            b"stream" if self.api != Api::GenerateStream => {
                self.reading.stream = flag(scanner, "stream")?.unwrap_or(false);
                Ok(())
            }
            b"n" if self.api.has_choices() => {
                self.reading.choices = at_least_one(count(scanner, "n")?);
                Ok(())
            }
            b"best_of" if self.api.has_choices() => {
                self.best_of = at_least_one(count(scanner, "best_of")?);
                Ok(())
            }
            b"max_completion_tokens" if self.api == Api::Chat => {
                self.max_completion_tokens = most(scanner, "max_completion_tokens")?;
                Ok(())
            }
            b"max_output_tokens" if self.api == Api::Responses => {
                self.reading.max_tokens = most(scanner, "max_output_tokens")?;
                Ok(())
            }
            b"max_tokens" if self.api != Api::Responses => {
                self.reading.max_tokens = most(scanner, "max_tokens")?;
                Ok(())
            }
            b"stream_options" if self.api.has_choices() => self.stream_options(scanner),
            b"previous_response_id" if self.api == Api::Responses => {
                self.reading.previous_response = scanner.text()?.map(|id| StoredId::of(id.raw()));
                Ok(())
            }
            _ => self.feature_or_prompt(scanner, key),
        }
    }

    fn model(&mut self, scanner: &mut Scanner<'_>) -> Step {
        if self.reading.model_span.is_some() {
            scanner.skip()?;
            return Err(RequestError::DuplicateModel);
        }
        let start = scanner.offset();
        let text = scanner.text()?;
        self.reading.model_span = Some(start..scanner.offset());
        let text = text.ok_or(RequestError::WrongType { param: "model", expected: "a string" })?;
        self.reading.model = Some(text.to_owned_string());
        Ok(())
    }

    fn stream_options(&mut self, scanner: &mut Scanner<'_>) -> Step {
        let start = scanner.offset();
        match scanner.peek()? {
            Kind::Null => {
                scanner.skip()?;
                self.reading.include_usage = IncludeUsage::NullOptions(start..scanner.offset());
            }
            Kind::Object => {
                let mut state = IncludeUsage::NoKey { at: start + 1, others: false };
                let mut wrong = None;
                scanner.object(|scanner, key| {
                    if let IncludeUsage::NoKey { others, .. } = &mut state {
                        *others = true;
                    }
                    if key.name(&mut name_buffer()) != b"include_usage" {
                        return Ok::<(), Malformed>(());
                    }
                    let value = scanner.offset();
                    match flag(scanner, "stream_options.include_usage") {
                        Ok(Some(true)) => state = IncludeUsage::Asked,
                        Ok(_) => state = IncludeUsage::Refused(value..scanner.offset()),
                        Err(RequestError::Malformed(malformed)) => return Err(malformed),
                        Err(other) => wrong = Some(other),
                    }
                    Ok(())
                })?;
                self.reading.include_usage = state;
                wrong.map_or(Ok(()), Err)?;
            }
            _ => {
                scanner.skip()?;
                return Err(RequestError::WrongType { param: "stream_options", expected: "an object" });
            }
        }
        Ok(())
    }

    fn feature_or_prompt(&mut self, scanner: &mut Scanner<'_>, key: &[u8]) -> Step {
        let features = &mut self.reading.features;
        match (self.api, key) {
            (Api::Chat | Api::Responses | Api::Messages, b"tools" | b"functions") => {
                scanner.array_or_skip(|_| {
                    features.tools = true;
                    Ok::<(), Malformed>(())
                })?;
            }
            (_, b"response_format" | b"text" | b"output_format" | b"output_config") if self.api != Api::Ranking => {
                features.structured_output |= asks_for_schema(scanner)?;
            }
            (_, b"guided_json" | b"guided_regex" | b"guided_choice" | b"guided_grammar" | b"structured_outputs") => {
                features.structured_output |= scanner.peek()? != Kind::Null;
            }
            (Api::Chat | Api::Messages, b"messages")
            | (Api::Messages, b"system")
            | (Api::Responses | Api::Embeddings, b"input")
            | (Api::Responses, b"instructions")
            | (Api::Completions, b"prompt")
            | (Api::Ranking, b"query" | b"passages")
            | (Api::GenerateStream, b"text_input") => {
                let mut prompt = Prompt::default();
                if self.api == Api::Completions {
                    self.prompts = prompt.prompts(scanner)?;
                } else {
                    prompt.value(scanner)?;
                }
                self.reading.prompt_bytes = self.reading.prompt_bytes.saturating_add(prompt.bytes);
                self.reading.prompt_text.append(&mut prompt.text);
                features.vision |= prompt.vision;
                self.reading.uncounted |= prompt.uncounted;
            }
            (_, key) if BESIDE_THE_PROMPT.contains(&key) => self.reading.uncounted |= scanner.peek()? != Kind::Null,
            _ => {}
        }
        Ok(())
    }
}

/// Whether a `response_format` (or its like in other dialects) asks for anything but plain text.
fn asks_for_schema(scanner: &mut Scanner<'_>) -> Result<bool, Malformed> {
    let mut asks = false;
    scanner.object_or_skip(|scanner, key| {
        match key.raw() {
            b"type" => asks |= scanner.text()?.is_some_and(|kind| kind.raw() != b"text"),
            b"format" => asks |= asks_for_schema(scanner)?,
            _ => {}
        }
        Ok::<(), Malformed>(())
    })?;
    Ok(asks)
}

fn at_least_one(count: Option<u64>) -> u32 {
    u32::try_from(count.unwrap_or(1)).unwrap_or(u32::MAX).max(1)
}

fn flag(scanner: &mut Scanner<'_>, param: &'static str) -> Result<Option<bool>, RequestError> {
    let kind = scanner.peek()?;
    let flag = scanner.flag()?;
    if matches!(kind, Kind::Bool | Kind::Null) {
        return Ok(flag);
    }
    Err(RequestError::WrongType { param, expected: "true or false" })
}

fn count(scanner: &mut Scanner<'_>, param: &'static str) -> Result<Option<u64>, RequestError> {
    let kind = scanner.peek()?;
    let count = scanner.count()?;
    if kind == Kind::Null || count.is_some() {
        return Ok(count);
    }
    Err(RequestError::WrongType { param, expected: "a whole number" })
}

/// A limit of output tokens. A negative one is none: llama.cpp and LM Studio mean it so, and whoever takes it for a mistake
/// says so itself.
fn most(scanner: &mut Scanner<'_>, param: &'static str) -> Result<Option<u64>, RequestError> {
    let number = scanner.clone().decimal()?;
    if number.is_some_and(|number| number < 0.0 && number.fract() == 0.0) {
        scanner.skip()?;
        return Ok(None);
    }
    count(scanner, param)
}

#[cfg(test)]
mod tests;
