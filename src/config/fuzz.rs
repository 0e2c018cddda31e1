//! What must hold of the reader of configurations, whatever the text.

use super::{NoEnvironment, dump, file, hash, parse};

/// A configuration: either settings or at least one mistake with its place, and the same ones again.
pub(crate) fn text(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match (parse("fuzz.yaml", text, &NoEnvironment), parse("fuzz.yaml", text, &NoEnvironment)) {
        (Ok(one), Ok(other)) => {
            assert_eq!(hash(&one.settings), hash(&other.settings));
            assert_eq!(dump(&one.settings), dump(&other.settings));
        }
        (Err(one), Err(other)) => {
            assert!(!one.0.is_empty(), "a refusal says why");
            assert_eq!(one.to_string(), other.to_string());
        }
        (one, _) => assert!(one.is_err() && one.is_ok(), "the same text is judged in two ways"),
    }
    let (_, mistakes) = file::baselines::judge("fuzz.yaml", text);
    for mistake in mistakes {
        assert!(!mistake.to_string().is_empty());
    }
}
