//! The name of a stored response, as far as it is remembered: enough to know it again, not the name itself.

use std::hash::{DefaultHasher, Hasher};

/// Which stored response; two names are the same when this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct StoredId(u64);

impl StoredId {
    /// Of the `id` of a responses answer.
    #[must_use]
    pub fn of(id: &[u8]) -> Self {
        let mut hasher = DefaultHasher::new();
        hasher.write(id);
        Self(hasher.finish())
    }
}
