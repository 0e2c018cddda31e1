//! What must hold of the readers of NIM's texts, whatever the text.

use super::{Circumstances, Metadata, ModelShape, ProfileName, parse, select};

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
    let _ = (ProfileName::parse(text), ModelShape::parse(text), Metadata::parse(text.as_bytes()));
}
