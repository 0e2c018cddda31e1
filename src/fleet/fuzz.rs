//! What must hold of what backends say of themselves, whatever the bytes.

use super::models::Discovered;

/// A list of models.
pub(crate) fn models(bytes: &[u8]) {
    if let Some(found) = Discovered::parse(bytes) {
        assert!(found.models.len() <= 256 && found.models.iter().all(|model| (1..=256).contains(&model.id.len())));
    }
}
