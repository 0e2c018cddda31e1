//! Events of the messages API: typed, with blocks of content.

use super::chunk::{ChoiceReading, ChunkReading, not_empty, read_finish};
use super::error::ErrorFields;
use super::json::{Malformed, Scanner, Text, name_buffer};
use super::{FinishReason, Usage};

pub(super) fn read<'a>(
    scanner: &mut Scanner<'a>,
    errors: &mut ErrorFields<'a>,
    reading: &mut ChunkReading,
) -> Result<(), Malformed> {
    let mut kind: Option<Text<'a>> = None;
    let mut delta = Delta::default();
    let mut at_start: Option<Usage> = None;
    scanner.object_or_skip(|scanner, key| {
        match key.name(&mut name_buffer()) {
            b"type" => kind = scanner.text()?,
            b"delta" => delta.read(scanner)?,
            b"usage" => reading.usage = Usage::read(scanner)?,
            b"message" => at_start = read_start(scanner)?,
            b"error" => errors.read(scanner)?,
            _ => {}
        }
        Ok::<(), Malformed>(())
    })?;
    let mut choice = ChoiceReading::default();
    let mut buffer = name_buffer();
    match kind.map(|kind| kind.name(&mut buffer)).unwrap_or_default() {
        b"message_start" => {
            reading.set_role();
            // The output counted at the start is a placeholder; the last event states it.
            reading.usage = at_start.map(|usage| Usage { output_tokens: None, ..usage });
        }
        b"content_block_delta" => {
            choice.text = delta.text;
            choice.tool = delta.partial_json;
            choice.reasoning = delta.thinking;
        }
        b"message_delta" => choice.finish = delta.stop_reason,
        b"message_stop" => reading.done = true,
        b"error" => errors.present = true,
        _ => {}
    }
    reading.usage = reading.usage.filter(|usage| !usage.is_empty());
    reading.push(choice);
    Ok(())
}

/// The members of any `delta`; which of them are there tells its type.
#[derive(Default)]
struct Delta {
    text: bool,
    thinking: bool,
    partial_json: bool,
    stop_reason: Option<FinishReason>,
}

impl Delta {
    fn read(&mut self, scanner: &mut Scanner<'_>) -> Result<(), Malformed> {
        scanner.object_or_skip(|scanner, key| {
            match key.name(&mut name_buffer()) {
                b"text" => self.text = not_empty(scanner)?,
                b"thinking" => self.thinking = not_empty(scanner)?,
                b"partial_json" => self.partial_json = not_empty(scanner)?,
                b"stop_reason" => self.stop_reason = read_finish(scanner)?,
                _ => {}
            }
            Ok::<(), Malformed>(())
        })?;
        Ok(())
    }
}

/// The usage of the message in `message_start`.
fn read_start(scanner: &mut Scanner<'_>) -> Result<Option<Usage>, Malformed> {
    let mut usage = None;
    scanner.object_or_skip(|scanner, key| {
        if key.raw() == b"usage" {
            usage = Usage::read(scanner)?;
        }
        Ok::<(), Malformed>(())
    })?;
    Ok(usage)
}
