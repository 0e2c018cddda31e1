//! What must hold of the readers of NIM's texts, whatever the text.

use super::{Circumstances, Document, Form, Metadata, ModelShape, ProfileId, ProfileName, parse, select};

/// A listing, a manifest, a log or an answer of `/v1/metadata`: bounded, and every profile ranked or left out with why.
pub(crate) fn text(text: &str) {
    let document = parse(text);
    assert_eq!(document, parse(text), "the same text says the same");
    assert!(document.entries.len() <= 10_000 && document.unread.len() <= 1_000);
    assert!(document.unread.iter().all(|line| line.text.chars().count() <= 300));
    assert!(document.selected.is_none_or(|entry| entry < document.entries.len()));
    for gib in [None, Some(24.0)] {
        let selection = select(&document, &Circumstances { gpus: document.gpus.as_deref(), gib, lora: false });
        let named = selection.ranked.iter().map(|one| (one.entry, &one.why));
        let mut entries: Vec<_> = named.chain(selection.excluded.iter().map(|one| (one.entry, &one.why))).collect();
        assert!(entries.iter().all(|(entry, why)| *entry < document.entries.len() && !why.is_empty()));
        entries.sort_unstable();
        assert!(
            entries.windows(2).all(|pair| pair.first().map(|one| one.0) != pair.last().map(|one| one.0)),
            "once each"
        );
    }
    for entry in &document.entries {
        assert!(!entry.label().is_empty());
    }
    if document.form == Form::Listing {
        no_id_is_lost(text, &document);
    }
    let _ = (ProfileName::parse(text), ModelShape::parse(text), Metadata::parse(text.as_bytes()));
}

/// Of lines that begin with a whole id, each is an entry or shown as not understood.
fn no_id_is_lost(text: &str, document: &Document) {
    if document.left_out > 0 {
        return;
    }
    for (number, line) in (1..).zip(text.trim_start_matches('\u{feff}').lines()) {
        let first = line.trim().trim_start_matches('-').split_whitespace().next();
        let entry = document.entries.iter().any(|entry| entry.line == number);
        let unread = document.unread.iter().any(|unread| unread.line == number);
        assert!(first.and_then(ProfileId::parse).is_none() || entry || unread, "line {number} is lost: {line}");
    }
}
