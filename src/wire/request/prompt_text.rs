//! Where the text of a prompt stands in its body, so that it can be read again without scanning the body again.

use std::ops::Range;

use crate::wire::json::Text;

/// The most pieces that are remembered; a prompt of more is taken to end there.
const MOST_PIECES: usize = 65_536;
/// Stands between two pieces and in no text, or `ab` + `c` would be `a` + `bc`.
const SEPARATOR: &[u8] = &[0x1f];

/// The canonical text of a prompt: for every message its role and its text, in the order of the body; data URLs excluded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PromptText(Vec<Range<u32>>);

impl PromptText {
    /// A piece of text that a scanner has just passed: it ends before the quote before `after`.
    pub(super) fn add(&mut self, text: &Text<'_>, after: usize) {
        let end = after.saturating_sub(1);
        let range = u32::try_from(end.saturating_sub(text.raw().len())).ok().zip(u32::try_from(end).ok());
        if let Some((start, end)) = range.filter(|_| self.0.len() < MOST_PIECES) {
            self.0.push(start..end);
        }
    }

    /// Takes in what another part of the same body holds.
    pub(super) fn append(&mut self, other: &mut Self) {
        self.0.append(&mut other.0);
        self.0.truncate(MOST_PIECES);
    }

    /// Feeds the canonical text, piece by piece. `body` is the one that was read.
    pub fn feed(&self, body: &[u8], mut sink: impl FnMut(&[u8])) {
        for range in &self.0 {
            let piece = usize::try_from(range.start).ok().zip(usize::try_from(range.end).ok());
            if let Some(raw) = piece.and_then(|(start, end)| body.get(start..end)) {
                Text::scanned(raw).unescape(&mut sink);
            }
            sink(SEPARATOR);
        }
    }
}
