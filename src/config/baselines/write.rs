//! Writes a file of measurements, for people to read as well.

use std::fmt::{self, Write as _};

use super::{Baseline, Baselines, VERSION};
use crate::route::model::Measured;
use crate::units::format_duration;

impl Baselines {
    /// Puts the measurements where [`Self::path`] says: whole or not at all. Blocking.
    ///
    /// # Errors
    /// When the file, or one beside it, cannot be written.
    pub fn write(&self) -> std::io::Result<()> {
        crate::config::replace_file(&self.path, self.to_string().as_bytes())
    }
}

impl fmt::Display for Baselines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "# What was measured of the backends before they served; headway starts from it and learns on.\n\
             # An entry is for one `backend` by name, or for every backend of a `profile` (and `model`).\n\
             # A point is a closed loop of so many clients; `ttft` and `itl` are medians. Prompts are not cached.\n\
             version: {VERSION}\n\
             baselines:\n"
        )?;
        self.entries.iter().try_for_each(|entry| entry.write(f))
    }
}

impl Baseline {
    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::new();
        let named = [("backend", &self.backend), ("profile", &self.profile), ("model", &self.model)];
        for (key, value) in named.into_iter().filter_map(|(key, value)| Some((key, value.as_ref()?))) {
            writeln!(text, "    {key}: {}", quoted(value))?;
        }
        writeln!(text, "    measured: {}", quoted(&self.measured))?;
        writeln!(text, "    origin: {}", quoted(&self.origin))?;
        if let Some(tokens) = self.kv_cache_tokens {
            writeln!(text, "    kv_cache_tokens: {tokens}")?;
        }
        writeln!(text, "    points:")?;
        for Measured { concurrency, input_tokens, output_tokens, ttft, itl } in &self.points {
            let (ttft, itl) = (format_duration(*ttft), format_duration(*itl));
            writeln!(
                text,
                "      - {{ concurrency: {concurrency}, input_tokens: {input_tokens}, output_tokens: {output_tokens}, \
                 ttft: {ttft}, itl: {itl} }}"
            )?;
        }
        // The first line of an entry carries the dash of the list.
        write!(f, "  - {}", text.trim_start())
    }
}

/// A text that YAML reads as nothing but a text; it has no control characters.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
    let starts = text.chars().next().is_some_and(|c| c.is_ascii_alphabetic());
    if starts && text.chars().all(plain) {
        return text.to_owned();
    }
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}
