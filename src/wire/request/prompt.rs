//! The size of a prompt: bytes of text in messages, and whether there is more than text.

use super::prompt_text::PromptText;
use crate::wire::json::{Kind, Malformed, Scanner, Text, name_buffer};

/// A prompt of token ids counts this many bytes for each, so that it weighs like text.
const BYTES_PER_TOKEN_ID: u64 = 4;

/// Parts of a conversation that are made of nothing but what is counted.
const IS_COUNTED: [&[u8]; 9] = [
    b"text",
    b"input_text",
    b"output_text",
    b"message",
    b"function",
    b"function_call",
    b"function_call_output",
    b"tool_result",
    b"thinking",
];

/// Text found in messages, at any depth the scanner allows.
#[derive(Default)]
pub(super) struct Prompt {
    /// Bytes of text, unescaped; data URLs excluded.
    pub(super) bytes: u64,
    /// Where it stands, roles included.
    pub(super) text: PromptText,
    /// Whether there is an image or a video.
    pub(super) vision: bool,
    /// Whether there is something that makes tokens and is not among the bytes.
    pub(super) uncounted: bool,
    /// Whether the value before this one was a token id of the same list.
    in_ids: bool,
}

impl Prompt {
    /// Reads the prompt, or the list of prompts, of a completion; says how many there are, each of which is answered.
    pub(super) fn prompts(&mut self, scanner: &mut Scanner<'_>) -> Result<u32, Malformed> {
        if scanner.peek()? != Kind::Array {
            self.value(scanner)?;
            return Ok(1);
        }
        let mut prompts = 0_u32;
        scanner.array(|scanner| {
            // A list of numbers is one prompt of token ids.
            let one = !matches!(scanner.peek()?, Kind::Number | Kind::Null);
            prompts = prompts.saturating_add(u32::from(one));
            self.value(scanner)
        })?;
        Ok(prompts.max(1))
    }

    /// Reads a text, a list, a message or a part of one.
    pub(super) fn value(&mut self, scanner: &mut Scanner<'_>) -> Result<(), Malformed> {
        let kind = scanner.peek()?;
        let in_ids = std::mem::take(&mut self.in_ids);
        match kind {
            Kind::String => {
                if let Some(text) = scanner.text()? {
                    self.take(&text, scanner.offset());
                }
                Ok(())
            }
            Kind::Number => {
                self.bytes = self.bytes.saturating_add(BYTES_PER_TOKEN_ID);
                let start = scanner.offset();
                scanner.skip()?;
                self.text.add_id(start..scanner.offset(), in_ids);
                self.in_ids = true;
                Ok(())
            }
            Kind::Array => {
                scanner.array(|scanner| self.value(scanner))?;
                self.in_ids = false;
                Ok(())
            }
            Kind::Object => scanner.object(|scanner, key| self.member(scanner, key.name(&mut name_buffer()))),
            Kind::Bool | Kind::Null => scanner.skip(),
        }
    }

    /// One member of a message, of a part of it, or of a tool call in it.
    fn member(&mut self, scanner: &mut Scanner<'_>, key: &[u8]) -> Result<(), Malformed> {
        match key {
            b"content" | b"text" | b"arguments" | b"thinking" | b"reasoning" | b"reasoning_content" | b"tool_calls"
            | b"function" | b"function_call" | b"name" | b"output" | b"partial_json" => self.value(scanner),
            b"image_url" | b"video_url" => {
                (self.vision, self.uncounted) = (true, true);
                scanner.skip()
            }
            b"role" => {
                if let Some(role) = scanner.text()? {
                    self.text.add(&role, scanner.offset());
                }
                Ok(())
            }
            b"type" => {
                let kind = scanner.text()?;
                self.vision |= kind.is_some_and(|kind| matches!(kind.raw(), b"image" | b"input_image"));
                self.uncounted |= kind.is_some_and(|kind| !IS_COUNTED.contains(&kind.raw()));
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn take(&mut self, text: &Text<'_>, after: usize) {
        if text.raw().starts_with(b"data:") {
            self.uncounted = true;
        } else {
            self.text.add(text, after);
            self.bytes = self.bytes.saturating_add(text.unescaped_len() as u64);
        }
    }
}
