//! Names of traces and spans: random to anyone outside, and never the same twice.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::wire::trace_context::{SpanId, TraceId};

/// A keyed hash of a counter. The key comes from the system's randomness, so that two processes do not draw alike; the
/// hash is the standard library's `SipHash`, whose outputs nobody without the key tells from random ones.
#[derive(Debug, Default)]
pub(super) struct Ids {
    key: RandomState,
    drawn: AtomicU64,
}

impl Ids {
    pub(super) fn trace(&self) -> TraceId {
        (u128::from(self.draw()) << 64 | u128::from(self.draw())).to_be_bytes()
    }

    pub(super) fn span(&self) -> SpanId {
        self.draw().to_be_bytes()
    }

    /// Zero is no name.
    fn draw(&self) -> u64 {
        self.key.hash_one(self.drawn.fetch_add(1, Ordering::Relaxed)).max(1)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_differ_within_a_process_and_between_two() {
        let (one, other) = (Ids::default(), Ids::default());
        let names: HashSet<_> = (0..10_000).flat_map(|_| [one.span(), other.span()]).collect();
        assert_eq!(names.len(), 20_000);
        assert_ne!(one.trace(), other.trace());
    }

    #[test]
    fn every_bit_of_a_trace_id_is_drawn() {
        let ids = Ids::default();
        let drawn: Vec<_> = (0..64).map(|_| u128::from_be_bytes(ids.trace())).collect();
        assert_eq!(drawn.iter().fold(0, |seen, id| seen | id), u128::MAX);
        assert_eq!(drawn.iter().fold(u128::MAX, |seen, id| seen & id), 0);
    }
}
