//! One event of a streamed answer, read: what it carries, never what it says.
//!
//! What counts as content is section 3 of the measurement reference: a non-empty text, also one of white space; `""`,
//! `null` and an absent key are the same and are not content.

use super::error::{ErrorFields, StreamError};
use super::json::{Malformed, Scanner, Text, name_buffer};
use super::{Api, FinishReason, Usage};

/// Choices told apart; those beyond share the last place.
pub const MAX_CHOICES: usize = 16;

/// What an event is, by the most telling thing it carries.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ChunkKind {
    /// Nothing that is measured: a ping, the start of a block.
    #[default]
    Other,
    /// The role of the speaker.
    Role,
    /// Token counts alone.
    Usage,
    /// A finish reason.
    Finish,
    /// Text of the model's reasoning.
    Reasoning,
    /// A piece of a tool call.
    ToolCall,
    /// Text of the answer.
    Content,
    /// The API's own end.
    Done,
    /// An error in place of an answer.
    Error,
}

/// What one event says about one choice.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ChoiceReading {
    /// The choice's index, at most [`MAX_CHOICES`] - 1.
    pub index: u8,
    /// It carries text of the answer.
    pub text: bool,
    /// It carries a piece of a tool call.
    pub tool: bool,
    /// It carries reasoning.
    pub reasoning: bool,
    /// Why the choice ended, if it did.
    pub finish: Option<FinishReason>,
}

impl ChoiceReading {
    /// Whether this is a content response.
    #[inline]
    #[must_use]
    pub fn is_content(&self) -> bool {
        self.text || self.tool || self.reasoning
    }

    /// Whether this is a content response that is not reasoning alone.
    #[inline]
    #[must_use]
    pub fn is_output(&self) -> bool {
        self.text || self.tool
    }
}

/// What one event says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ChunkReading {
    /// The most telling thing.
    pub kind: ChunkKind,
    choices: [ChoiceReading; MAX_CHOICES],
    len: u8,
    /// Token counts so far, where the event states them.
    pub usage: Option<Usage>,
    /// `choices` is an empty array and there is a `usage` object: the event that `include_usage` adds.
    pub usage_only: bool,
    /// The event repeats text that deltas carried before (responses, `.done`): content only if there were none.
    pub repeats: bool,
    /// An error object, or an event named `error`.
    pub error: Option<StreamError>,
    /// The API's own end.
    pub done: bool,
    role: bool,
}

impl ChunkReading {
    /// What the event says about each choice it mentions.
    #[inline]
    #[must_use]
    pub fn choices(&self) -> &[ChoiceReading] {
        self.choices.get(..usize::from(self.len)).unwrap_or_default()
    }

    /// Adds a choice; one beyond the bound joins the last.
    fn push(&mut self, choice: ChoiceReading) {
        if let Some(place) = self.choices.get_mut(usize::from(self.len)) {
            *place = choice;
            self.len += 1;
        } else if let Some(last) = self.choices.last_mut() {
            last.text |= choice.text;
            last.tool |= choice.tool;
            last.reasoning |= choice.reasoning;
            last.finish = last.finish.or(choice.finish);
        }
    }

    /// The only choice of a dialect without choices.
    fn only(&mut self, choice: ChoiceReading) {
        self.push(choice);
    }

    fn classify(&mut self) {
        let any = |told: fn(&ChoiceReading) -> bool| self.choices().iter().any(told);
        self.kind = if self.error.is_some() {
            ChunkKind::Error
        } else if self.done {
            ChunkKind::Done
        } else if any(|choice| choice.text) {
            ChunkKind::Content
        } else if any(|choice| choice.tool) {
            ChunkKind::ToolCall
        } else if any(|choice| choice.reasoning) {
            ChunkKind::Reasoning
        } else if any(|choice| choice.finish.is_some()) {
            ChunkKind::Finish
        } else if self.role {
            ChunkKind::Role
        } else if self.usage.is_some() {
            ChunkKind::Usage
        } else {
            ChunkKind::Other
        };
    }
}

/// Reads one event: its name (`event:`, empty when absent) and its data.
///
/// # Errors
/// When the data is neither empty, nor `[DONE]`, nor JSON, in an event that is not named `error`.
pub fn read_chunk(api: Api, name: &[u8], data: &[u8]) -> Result<ChunkReading, Malformed> {
    let mut reading = ChunkReading::default();
    let data = data.trim_ascii();
    if data == b"[DONE]" {
        reading.done = true;
        reading.classify();
        return Ok(reading);
    }
    let named_error = name == b"error";
    if !data.is_empty() {
        let read = read_payload(api, named_error, data, &mut reading);
        if !named_error {
            read?;
        }
    }
    if named_error && reading.error.is_none() {
        reading.error = Some(StreamError::UNKNOWN);
    }
    reading.classify();
    Ok(reading)
}

fn read_payload(api: Api, named_error: bool, data: &[u8], reading: &mut ChunkReading) -> Result<(), Malformed> {
    let mut scanner = Scanner::new(data);
    let mut errors = ErrorFields::default();
    errors.present = named_error;
    match api {
        Api::Responses => super::responses::read(&mut scanner, &mut errors, reading)?,
        Api::Messages => super::messages::read(&mut scanner, &mut errors, reading)?,
        Api::GenerateStream | Api::Infer => generate(&mut scanner, &mut errors, reading)?,
        Api::Chat | Api::Completions | Api::Embeddings | Api::Ranking => {
            openai(&mut scanner, &mut errors, reading)?;
        }
    }
    scanner.end()?;
    reading.error = errors.error();
    Ok(())
}

/// Chat and completions: they differ in the members of a choice only, and neither uses the other's.
fn openai<'a>(
    scanner: &mut Scanner<'a>,
    errors: &mut ErrorFields<'a>,
    reading: &mut ChunkReading,
) -> Result<(), Malformed> {
    let mut no_choices = false;
    scanner.object_or_skip(|scanner, key| {
        match key.name(&mut name_buffer()) {
            b"choices" => {
                let is_array = scanner.array_or_skip(|scanner| {
                    let choice = read_choice(scanner, &mut reading.role)?;
                    reading.push(choice);
                    Ok::<(), Malformed>(())
                })?;
                no_choices = is_array && reading.len == 0;
            }
            b"usage" => reading.usage = Usage::read(scanner)?,
            b"error" => errors.read(scanner)?,
            b"object" => errors.present |= scanner.text()?.is_some_and(|text| text.raw() == b"error"),
            name @ (b"code" | b"type") => errors.member(scanner, name)?,
            _ => {}
        }
        Ok::<(), Malformed>(())
    })?;
    reading.usage_only = no_choices && reading.usage.is_some();
    reading.usage = reading.usage.filter(|usage| !usage.is_empty());
    Ok(())
}

/// One element of `choices`, streamed (`delta`, `text`) or whole (`message`).
pub(super) fn read_choice(scanner: &mut Scanner<'_>, role: &mut bool) -> Result<ChoiceReading, Malformed> {
    let mut choice = ChoiceReading::default();
    scanner.object_or_skip(|scanner, key| {
        match key.name(&mut name_buffer()) {
            b"index" => choice.index = place_of(scanner.count()?),
            b"delta" | b"message" => read_delta(scanner, &mut choice, role)?,
            b"text" => choice.text |= not_empty(scanner)?,
            b"finish_reason" => choice.finish = read_finish(scanner)?,
            _ => {}
        }
        Ok::<(), Malformed>(())
    })?;
    Ok(choice)
}

fn read_delta(scanner: &mut Scanner<'_>, choice: &mut ChoiceReading, role: &mut bool) -> Result<(), Malformed> {
    scanner.object_or_skip(|scanner, key| {
        match key.name(&mut name_buffer()) {
            b"content" => choice.text |= not_empty(scanner)?,
            b"reasoning" | b"reasoning_content" => choice.reasoning |= not_empty(scanner)?,
            b"tool_calls" => choice.tool |= tool_calls(scanner)?,
            b"role" => *role |= not_empty(scanner)?,
            _ => {}
        }
        Ok::<(), Malformed>(())
    })?;
    Ok(())
}

/// Whether any call carries a name or arguments.
fn tool_calls(scanner: &mut Scanner<'_>) -> Result<bool, Malformed> {
    let mut any = false;
    scanner.array_or_skip(|scanner| {
        scanner.object_or_skip(|scanner, key| {
            if key.raw() == b"function" {
                scanner.object_or_skip(|scanner, key| {
                    if matches!(key.raw(), b"name" | b"arguments") {
                        any |= not_empty(scanner)?;
                    }
                    Ok::<(), Malformed>(())
                })?;
            }
            Ok::<(), Malformed>(())
        })?;
        Ok::<(), Malformed>(())
    })?;
    Ok(any)
}

/// Triton's `generate_stream`: text alone, and an error that is a text.
fn generate<'a>(
    scanner: &mut Scanner<'a>,
    errors: &mut ErrorFields<'a>,
    reading: &mut ChunkReading,
) -> Result<(), Malformed> {
    let mut choice = ChoiceReading::default();
    scanner.object_or_skip(|scanner, key| {
        match key.name(&mut name_buffer()) {
            b"text_output" => choice.text = not_empty(scanner)?,
            b"error" => errors.read(scanner)?,
            _ => {}
        }
        Ok::<(), Malformed>(())
    })?;
    reading.only(choice);
    Ok(())
}

/// Whether the next value is a text with something in it.
#[inline]
pub(super) fn not_empty(scanner: &mut Scanner<'_>) -> Result<bool, Malformed> {
    Ok(scanner.text()?.is_some_and(|text| !text.is_empty()))
}

/// A finish reason; `None` for `null` and the empty text.
pub(super) fn read_finish(scanner: &mut Scanner<'_>) -> Result<Option<FinishReason>, Malformed> {
    Ok(scanner.text()?.filter(|text| !text.is_empty()).map(finish_of))
}

pub(super) fn finish_of(text: Text<'_>) -> FinishReason {
    FinishReason::from_name(text.name(&mut name_buffer()))
}

fn place_of(index: Option<u64>) -> u8 {
    const LAST: u64 = MAX_CHOICES as u64 - 1;
    u8::try_from(index.unwrap_or(0).min(LAST)).unwrap_or(0)
}

/// Lets the dialects in files of their own set what they read.
impl ChunkReading {
    pub(super) fn set_only(&mut self, choice: ChoiceReading) {
        self.only(choice);
    }

    pub(super) fn set_role(&mut self) {
        self.role = true;
    }
}
