//! Changes of a body that leave every other byte alone.

use std::ops::Range;

/// One change of a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edit {
    /// The bytes that go; empty for an insertion.
    pub span: Range<usize>,
    /// The bytes that come.
    pub text: Vec<u8>,
}

/// The body with `edits` made, every other byte untouched. An edit that does not fit, or overlaps one before it, is
/// left out.
#[must_use]
pub fn splice(body: &[u8], edits: &[Edit]) -> Vec<u8> {
    let mut order: Vec<&Edit> = edits.iter().collect();
    order.sort_by_key(|edit| edit.span.start);
    let added: usize = edits.iter().map(|edit| edit.text.len()).sum();
    let mut out = Vec::with_capacity(body.len() + added);
    let mut at = 0;
    for edit in order {
        let fits = edit.span.start <= edit.span.end && edit.span.end <= body.len();
        let Some(kept) = body.get(at..edit.span.start).filter(|_| fits) else { continue };
        out.extend_from_slice(kept);
        out.extend_from_slice(&edit.text);
        at = edit.span.end;
    }
    out.extend_from_slice(body.get(at..).unwrap_or_default());
    out
}
