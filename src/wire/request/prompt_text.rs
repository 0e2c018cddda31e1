//! Where the text of a prompt stands in its body, so that it can be read again without scanning the body again.

use std::ops::Range;

use crate::wire::json::Text;

/// The most pieces that are remembered; a prompt of more is taken to end there.
const MOST_PIECES: usize = 65_536;
/// Token ids that are fed at once.
const IDS_AT_ONCE: usize = 64;
/// Stands between two pieces and in no text, or `ab` + `c` would be `a` + `bc`.
const SEPARATOR: &[u8] = &[0x1f];

/// The canonical text of a prompt: for every message its role and its text, in the order of the body; data URLs excluded.
/// Token ids are four bytes each, however they are written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PromptText(Vec<Piece>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(Range<u32>),
    /// From the first id of a list to its last, with whatever is between them.
    Ids(Range<u32>),
}

impl PromptText {
    /// A piece of text that a scanner has just passed: it ends before the quote before `after`.
    pub(super) fn add(&mut self, text: &Text<'_>, after: usize) {
        let end = after.saturating_sub(1);
        self.push(end.saturating_sub(text.raw().len())..end, Piece::Text);
    }

    /// A token id that a scanner has just passed; whether it follows another one of the same list.
    pub(super) fn add_id(&mut self, at: Range<usize>, follows: bool) {
        if !follows {
            return self.push(at, Piece::Ids);
        }
        if let (Some(Piece::Ids(list)), Ok(end)) = (self.0.last_mut(), u32::try_from(at.end)) {
            list.end = end;
        }
    }

    fn push(&mut self, at: Range<usize>, piece: fn(Range<u32>) -> Piece) {
        let range = u32::try_from(at.start).ok().zip(u32::try_from(at.end).ok());
        if let Some((start, end)) = range.filter(|_| self.0.len() < MOST_PIECES) {
            self.0.push(piece(start..end));
        }
    }

    /// Takes in what another part of the same body holds.
    pub(super) fn append(&mut self, other: &mut Self) {
        self.0.append(&mut other.0);
        self.0.truncate(MOST_PIECES);
    }

    /// Feeds the canonical text, piece by piece. `body` is the one that was read.
    pub fn feed(&self, body: &[u8], mut sink: impl FnMut(&[u8])) {
        let raw = |range: &Range<u32>| {
            let ends = usize::try_from(range.start).ok().zip(usize::try_from(range.end).ok());
            ends.and_then(|(start, end)| body.get(start..end)).unwrap_or_default()
        };
        for piece in &self.0 {
            match piece {
                Piece::Text(range) => Text::scanned(raw(range)).unescape(&mut sink),
                Piece::Ids(range) => feed_ids(raw(range), &mut sink),
            }
            sink(SEPARATOR);
        }
    }
}

/// Feeds the numbers of a list.
fn feed_ids(raw: &[u8], sink: &mut impl FnMut(&[u8])) {
    let (mut together, mut count) = ([[0; 4]; IDS_AT_ONCE], 0);
    let numbers = raw.split(|byte| !byte.is_ascii_digit()).filter(|digits| !digits.is_empty());
    for digits in numbers {
        let id = digits.iter().fold(0_u32, |id, digit| id.wrapping_mul(10).wrapping_add(u32::from(digit - b'0')));
        if let Some(place) = together.get_mut(count) {
            *place = id.to_le_bytes();
            count += 1;
        }
        if count == IDS_AT_ONCE {
            sink(together.as_flattened());
            count = 0;
        }
    }
    sink(together.get(..count).unwrap_or_default().as_flattened());
}
