//! What a backend's prefix cache probably holds: an approximate index of the prompts that were sent there.
//!
//! A prompt is cut into blocks of 2 KiB of its canonical text, each named by a hash that covers everything before it, so
//! a match is a leading run. The engine's own cache is not visible; the index only has its shape: least recently used
//! blocks leave first, and of a prompt the last blocks before the first.

mod hash;
mod index;

pub use hash::BlockHasher;
pub use index::PrefixIndex;

/// Bytes of canonical message text in a block.
pub const BLOCK_BYTES: usize = 2_048;
/// The most blocks of one prompt that are named: 8 MiB of text; what follows is not matched.
pub const MOST_BLOCKS: usize = 4_096;

/// The blocks of one prompt, hashed once.
#[derive(Debug, Clone, Copy, Default)]
pub struct Prefix<'a> {
    /// One hash per whole block, each over all text up to its end.
    pub blocks: &'a [u64],
    /// Estimated tokens of a block.
    pub block_tokens: f64,
}
