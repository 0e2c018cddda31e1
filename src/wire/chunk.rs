//! One event of a streamed answer, read: what it carries, never what it says.
//!
//! What counts as content is section 3 of the measurement reference: a non-empty text, also one of white space; `""`,
//! `null` and an absent key are the same and are not content.

use super::error::{ErrorFields, StreamError};
use super::json::{Malformed, Scanner, Text, name_buffer};
use super::{Api, EngineTimings, FinishReason, StoredId, Usage};

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
#[allow(clippy::struct_excessive_bools, reason = "an event may be any of these at once")]
pub struct ChunkReading {
    /// The most telling thing.
    pub kind: ChunkKind,
    choices: [ChoiceReading; MAX_CHOICES],
    len: u8,
    /// Token counts so far, where the event states them.
    pub usage: Option<Usage>,
    /// The engine's own times, where the event states them.
    pub timings: Option<EngineTimings>,
    /// `choices` is an empty array and there is a `usage` object: the event that `include_usage` adds.
    pub usage_only: bool,
    /// The event repeats text that deltas carried before (responses, `.done`): content only if there were none.
    pub repeats: bool,
    /// An error object, or an event named `error`.
    pub error: Option<StreamError>,
    /// The API's own end.
    pub done: bool,
    /// The response's name (responses).
    pub stored: Option<StoredId>,
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
    pub(super) fn push(&mut self, choice: ChoiceReading) {
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

    /// The event names a speaker, or begins the answer.
    pub(super) fn set_role(&mut self) {
        self.role = true;
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
            name if EngineTimings::is_told_by(name) => reading.timings = EngineTimings::read(scanner)?,
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
    reading.push(choice);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(api: Api, data: &str, kind: ChunkKind) -> ChunkReading {
        let reading = read_chunk(api, b"", data.as_bytes()).expect("JSON");
        assert_eq!(reading.kind, kind, "{data}");
        reading
    }

    fn chat(delta: &str) -> String {
        format!(
            r#"{{"object":"chat.completion.chunk","choices":[{{"index":0,"delta":{delta},"finish_reason":null}}]}}"#
        )
    }

    #[test]
    fn empty_null_and_absent_text_is_no_content() {
        for delta in ["{}", r#"{"content":""}"#, r#"{"content":null}"#, r#"{"reasoning":"","tool_calls":null}"#, "null"]
        {
            check(Api::Chat, &chat(delta), ChunkKind::Other);
        }
        check(Api::Chat, &chat(r#"{"role":"assistant","content":""}"#), ChunkKind::Role);
        check(Api::Chat, &chat(r#"{"role":null,"content":" "}"#), ChunkKind::Content);
        check(Api::Chat, &chat(r#"{"content":"\n"}"#), ChunkKind::Content);
        check(Api::Completions, r#"{"choices":[{"text":""}]}"#, ChunkKind::Other);
        check(Api::Completions, r#"{"choices":[{"text":"a"}]}"#, ChunkKind::Content);
    }

    #[test]
    fn reasoning_and_tool_calls_are_told_apart() {
        for key in ["reasoning", "reasoning_content", "rea\\u0073oning"] {
            let reading = check(Api::Chat, &chat(&format!(r#"{{"{key}":"Okay"}}"#)), ChunkKind::Reasoning);
            assert!(reading.choices()[0].is_content() && !reading.choices()[0].is_output());
        }
        let named = r#"{"tool_calls":[{"index":0,"function":{"name":"f","arguments":""}}]}"#;
        assert!(check(Api::Chat, &chat(named), ChunkKind::ToolCall).choices()[0].is_output());
        let empty = r#"{"tool_calls":[{"index":0,"function":{"arguments":""}}]}"#;
        check(Api::Chat, &chat(empty), ChunkKind::Other);
    }

    #[test]
    fn usage_only_needs_an_empty_array_and_a_usage_object() {
        let check = |data: &str, expected: bool| {
            let reading = read_chunk(Api::Chat, b"", data.as_bytes()).expect("JSON");
            assert_eq!(reading.usage_only, expected, "{data}");
        };
        check(r#"{"choices":[],"usage":{"prompt_tokens":1}}"#, true);
        check(r#"{"usage":{},"choices":[ ]}"#, true);
        check(r#"{"choices":[],"usage":null}"#, false);
        check(r#"{"usage":{"prompt_tokens":1}}"#, false);
        check(r#"{"choices":null,"usage":{"prompt_tokens":1}}"#, false);
        check(r#"{"choices":[{"index":0,"delta":{}}],"usage":{"prompt_tokens":1}}"#, false);
    }

    #[test]
    fn done_and_error_count_as_a_whole_payload_or_a_top_level_key_only() {
        assert!(check(Api::Chat, " [DONE] ", ChunkKind::Done).done);
        check(Api::Chat, &chat(r#"{"content":"data: [DONE]"}"#), ChunkKind::Content);
        check(Api::Chat, &chat(r#"{"content":"{\"error\":{\"code\":500}}"}"#), ChunkKind::Content);
        check(Api::Chat, &chat(r#"{"content":"a","error":{"code":500}}"#), ChunkKind::Content);
        check(Api::Chat, r#"{"error":{"code":500}}"#, ChunkKind::Error);
        check(Api::Chat, r#"{"object":"error","message":"m","code":400}"#, ChunkKind::Error);
        check(Api::Chat, r#"{"error":null,"choices":[]}"#, ChunkKind::Other);
    }

    #[test]
    fn an_event_named_error_is_one_whatever_it_holds() {
        for data in ["", "not JSON", r#"{"message":"worker lost"}"#] {
            let reading = read_chunk(Api::Chat, b"error", data.as_bytes()).expect("an error is never malformed");
            assert_eq!(reading.error.map(|error| error.label().to_owned()).as_deref(), Some("unknown"), "{data}");
        }
        let reading = read_chunk(Api::Chat, b"error", br#"{"code":503,"type":"overloaded"}"#).expect("JSON");
        assert_eq!(reading.error.and_then(|error| error.code()), Some(503));
    }

    #[test]
    fn choices_beyond_the_bound_share_the_last_place() {
        let choice = |index: usize| format!(r#"{{"index":{index},"delta":{{"content":"a"}}}}"#);
        let many = (0..40).map(choice).collect::<Vec<_>>().join(",");
        let reading = check(Api::Chat, &format!(r#"{{"choices":[{many}]}}"#), ChunkKind::Content);
        assert_eq!(reading.choices().len(), MAX_CHOICES);
        assert!(reading.choices().iter().all(|choice| usize::from(choice.index) < MAX_CHOICES));
    }

    #[test]
    fn malformed_payloads_are_malformed() {
        for data in ["{", "{}x", "nope", r#"{"choices":[}"#, "{\"a\":\"\n\"}"] {
            assert!(read_chunk(Api::Chat, b"", data.as_bytes()).is_err(), "{data}");
        }
        check(Api::Chat, "", ChunkKind::Other);
        check(Api::Chat, "12", ChunkKind::Other);
    }

    #[test]
    fn a_text_repeated_whole_is_marked_so() {
        let done = r#"{"type":"response.output_text.done","text":"all of it"}"#;
        assert!(check(Api::Responses, done, ChunkKind::Content).repeats);
        let failed = r#"{"type":"response.failed","response":{"status":"failed","error":{"code":"server_error"}}}"#;
        let reading = check(Api::Responses, failed, ChunkKind::Error);
        assert_eq!(reading.error.and_then(|error| error.status()), Some(500));
        check(Api::Responses, r#"{"type":"response.created","response":{"error":null}}"#, ChunkKind::Role);
    }
}
