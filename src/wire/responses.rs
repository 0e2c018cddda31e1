//! Events of the responses API: typed, with deltas as plain texts.

use super::chunk::{ChoiceReading, ChunkReading, finish_of, not_empty};
use super::error::ErrorFields;
use super::json::{Malformed, Scanner, Text, name_buffer};
use super::{EngineTimings, FinishReason, StoredId, Usage};

/// What the event's type says about it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Text,
    Reasoning,
    Arguments,
}

pub(super) fn read<'a>(
    scanner: &mut Scanner<'a>,
    errors: &mut ErrorFields<'a>,
    reading: &mut ChunkReading,
) -> Result<(), Malformed> {
    let mut kind: Option<Text<'a>> = None;
    let (mut delta, mut whole) = (false, false);
    let mut response = ResponseObject::default();
    scanner.object_or_skip(|scanner, key| {
        match key.name(&mut name_buffer()) {
            b"type" => kind = scanner.text()?,
            b"delta" => delta = not_empty(scanner)?,
            b"text" | b"arguments" => whole |= not_empty(scanner)?,
            b"response" => response.read(scanner, errors)?,
            b"error" => errors.read(scanner)?,
            name @ b"code" => errors.member(scanner, name)?,
            name if EngineTimings::is_told_by(name) => reading.timings = EngineTimings::read(scanner)?,
            _ => {}
        }
        Ok::<(), Malformed>(())
    })?;
    let mut buffer = name_buffer();
    let kind = kind.map(|kind| kind.name(&mut buffer)).unwrap_or_default();
    let (part, repeats) = part_of(kind);
    let carries = if repeats { whole } else { delta };
    let mut choice = ChoiceReading {
        text: carries && part == Some(Part::Text),
        tool: carries && part == Some(Part::Arguments),
        reasoning: carries && part == Some(Part::Reasoning),
        ..ChoiceReading::default()
    };
    reading.repeats = repeats;
    reading.stored = response.stored;
    match kind {
        b"response.completed" | b"response.incomplete" => {
            reading.done = true;
            reading.usage = response.usage.filter(|usage| !usage.is_empty());
            let by_type =
                if kind == b"response.completed" { FinishReason::Completed } else { FinishReason::Incomplete };
            choice.finish = Some(response.reason.or(response.status).map_or(by_type, finish_of));
        }
        b"response.failed" | b"error" => errors.present = true,
        b"response.created" => reading.set_role(),
        _ => {}
    }
    reading.push(choice);
    Ok(())
}

fn part_of(kind: &[u8]) -> (Option<Part>, bool) {
    match kind {
        b"response.output_text.delta" => (Some(Part::Text), false),
        b"response.output_text.done" => (Some(Part::Text), true),
        b"response.reasoning_text.delta" => (Some(Part::Reasoning), false),
        b"response.reasoning_text.done" => (Some(Part::Reasoning), true),
        b"response.function_call_arguments.delta" => (Some(Part::Arguments), false),
        b"response.function_call_arguments.done" => (Some(Part::Arguments), true),
        _ => (None, false),
    }
}

/// What is read of a response object, in a terminal event or as a whole answer.
#[derive(Default)]
pub(super) struct ResponseObject<'a> {
    pub(super) usage: Option<Usage>,
    pub(super) status: Option<Text<'a>>,
    /// `incomplete_details.reason`.
    pub(super) reason: Option<Text<'a>>,
    /// Under which name it may be stored.
    pub(super) stored: Option<StoredId>,
    /// Whether `output` has any element.
    pub(super) output: bool,
}

impl<'a> ResponseObject<'a> {
    pub(super) fn read(&mut self, scanner: &mut Scanner<'a>, errors: &mut ErrorFields<'a>) -> Result<(), Malformed> {
        scanner.object_or_skip(|scanner, key| self.member(scanner, errors, key.name(&mut name_buffer())))?;
        Ok(())
    }

    pub(super) fn member(
        &mut self,
        scanner: &mut Scanner<'a>,
        errors: &mut ErrorFields<'a>,
        key: &[u8],
    ) -> Result<(), Malformed> {
        match key {
            b"id" => self.stored = scanner.text()?.map(|id| StoredId::of(id.raw())),
            b"usage" => self.usage = Usage::read(scanner)?,
            b"status" => self.status = scanner.text()?,
            b"error" => errors.read(scanner)?,
            b"output" => {
                scanner.array_or_skip(|_| {
                    self.output = true;
                    Ok::<(), Malformed>(())
                })?;
            }
            b"incomplete_details" => {
                scanner.object_or_skip(|scanner, key| {
                    if key.raw() == b"reason" {
                        self.reason = scanner.text()?;
                    }
                    Ok::<(), Malformed>(())
                })?;
            }
            _ => {}
        }
        Ok(())
    }
}
