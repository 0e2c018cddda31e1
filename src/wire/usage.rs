//! Token counts, in the words of every dialect.

use super::json::{Malformed, Scanner, name_buffer};

/// Token counts as the backend states them; absent when not stated.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Prompt tokens.
    pub input_tokens: Option<u64>,
    /// Of the prompt tokens, those read from a prefix cache.
    pub cached_tokens: Option<u64>,
    /// Output tokens, reasoning included.
    pub output_tokens: Option<u64>,
    /// Of the output tokens, those of reasoning.
    pub reasoning_tokens: Option<u64>,
}

impl Usage {
    /// Whether nothing is stated.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Takes over what `later` states and keeps the rest: the messages dialect states input first and output last.
    pub fn update(&mut self, later: Self) {
        self.input_tokens = later.input_tokens.or(self.input_tokens);
        self.cached_tokens = later.cached_tokens.or(self.cached_tokens);
        self.output_tokens = later.output_tokens.or(self.output_tokens);
        self.reasoning_tokens = later.reasoning_tokens.or(self.reasoning_tokens);
    }

    /// Reads a `usage` value; `None` when it is no object.
    ///
    /// The messages dialect counts cached prompt tokens beside `input_tokens`, the others among them; here they are
    /// always among them.
    pub(super) fn read(scanner: &mut Scanner<'_>) -> Result<Option<Self>, Malformed> {
        let mut usage = Self::default();
        let (mut among, mut beside) = (None, 0_u64);
        let is_object = scanner.object_or_skip(|scanner, key| {
            match key.name(&mut name_buffer()) {
                b"prompt_tokens" => among = scanner.count()?,
                b"input_tokens" => usage.input_tokens = scanner.count()?,
                b"completion_tokens" | b"output_tokens" => usage.output_tokens = scanner.count()?,
                b"reasoning_tokens" => usage.reasoning_tokens = scanner.count()?,
                b"prompt_tokens_details"
                | b"input_tokens_details"
                | b"completion_tokens_details"
                | b"output_tokens_details" => usage.read_details(scanner)?,
                b"cache_read_input_tokens" => {
                    usage.cached_tokens = scanner.count()?;
                    beside = beside.saturating_add(usage.cached_tokens.unwrap_or(0));
                }
                b"cache_creation_input_tokens" => beside = beside.saturating_add(scanner.count()?.unwrap_or(0)),
                _ => {}
            }
            Ok::<(), Malformed>(())
        })?;
        usage.input_tokens = among.or(usage.input_tokens.map(|input| input.saturating_add(beside)));
        Ok(is_object.then_some(usage))
    }

    fn read_details(&mut self, scanner: &mut Scanner<'_>) -> Result<(), Malformed> {
        scanner.object_or_skip(|scanner, key| {
            match key.name(&mut name_buffer()) {
                b"cached_tokens" => self.cached_tokens = scanner.count()?,
                b"reasoning_tokens" => self.reasoning_tokens = scanner.count()?,
                _ => {}
            }
            Ok::<(), Malformed>(())
        })?;
        Ok(())
    }
}
