//! Names for the blocks of a prompt, while its text is read.
//!
//! A folded multiply over 16 bytes at a time, as in wyhash and foldhash: fast, and good enough for names that only a
//! prediction depends on. The seed is the process's own, so a client cannot know which texts share a name.

use super::{BLOCK_BYTES, MOST_BLOCKS};

const ODD: [u64; 4] = [0x9e37_79b9_7f4a_7c15, 0xbf58_476d_1ce4_e5b9, 0x94d0_49bb_1331_11eb, 0xd6e8_feb8_6659_fd93];

/// Reads a prompt's canonical text and names its blocks.
///
/// Canonical means: for every message its role and its text, in order, whatever else the body holds. Whoever writes
/// separates the parts, or `ab` + `c` is taken for `a` + `bc`.
#[derive(Debug, Clone)]
pub struct BlockHasher {
    chain: u64,
    seed: u64,
    partial: [u8; BLOCK_BYTES],
    filled: usize,
}

impl BlockHasher {
    /// A hasher for one prompt to one model; the same seed for all prompts that are compared.
    #[must_use]
    pub fn new(seed: u64, model: &str) -> Self {
        let chain = hash(model.as_bytes(), fold(seed ^ ODD[0], ODD[1]));
        Self { chain, seed, partial: [0; BLOCK_BYTES], filled: 0 }
    }

    /// Reads on, and appends the names of the blocks that are whole now.
    pub fn write(&mut self, mut text: &[u8], blocks: &mut Vec<u64>) {
        while self.filled + text.len() >= BLOCK_BYTES {
            let (head, rest) = text.split_at(BLOCK_BYTES - self.filled);
            if self.filled == 0 {
                self.chain = self.name(head);
            } else {
                self.keep(head);
                self.chain = self.name(&self.partial);
                self.filled = 0;
            }
            text = rest;
            if blocks.len() < MOST_BLOCKS {
                blocks.push(self.chain);
            }
        }
        self.keep(text);
    }

    fn keep(&mut self, text: &[u8]) {
        if let Some(place) = self.partial.get_mut(self.filled..self.filled + text.len()) {
            place.copy_from_slice(text);
            self.filled += text.len();
        }
    }

    fn name(&self, block: &[u8]) -> u64 {
        hash(block, self.chain ^ self.seed)
    }
}

/// Two lanes, so that one multiplication does not wait for the other.
fn hash(text: &[u8], seed: u64) -> u64 {
    let (mut left, mut right) = (seed ^ ODD[0], seed ^ ODD[1]);
    let mut chunks = text.chunks_exact(32);
    for chunk in &mut chunks {
        left = fold(left ^ word(chunk, 0), ODD[2] ^ word(chunk, 8));
        right = fold(right ^ word(chunk, 16), ODD[3] ^ word(chunk, 24));
    }
    let mut tail = [0; 32];
    let rest = chunks.remainder();
    if let Some(place) = tail.get_mut(..rest.len()) {
        place.copy_from_slice(rest);
    }
    left = fold(left ^ word(&tail, 0), ODD[2] ^ word(&tail, 8));
    right = fold(right ^ word(&tail, 16), ODD[3] ^ word(&tail, 24));
    fold(left ^ text.len() as u64, right ^ ODD[0])
}

fn word(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |word| u64::from_le_bytes(*word))
}

/// The 128-bit product's halves, one over the other. A factor of zero would swallow the other, hence never alone.
#[allow(clippy::cast_possible_truncation, reason = "the two halves are what is wanted")]
fn fold(left: u64, right: u64) -> u64 {
    let product = u128::from(left) * u128::from(right);
    (product as u64) ^ ((product >> 64) as u64) ^ left.rotate_left(32)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    fn blocks(text: &[u8], model: &str) -> Vec<u64> {
        let mut blocks = Vec::new();
        BlockHasher::new(7, model).write(text, &mut blocks);
        blocks
    }

    fn text(bytes: usize) -> Vec<u8> {
        (0_u32..).flat_map(|word| word.wrapping_mul(2_654_435_761).to_le_bytes()).take(bytes).collect()
    }

    #[test]
    fn only_whole_blocks_are_named_and_each_covers_what_is_before_it() {
        let whole = text(3 * BLOCK_BYTES + 100);
        let names = blocks(&whole, "m");
        assert_eq!(names.len(), 3);
        let mut changed = whole.clone();
        changed[BLOCK_BYTES + 5] ^= 1;
        let others = blocks(&changed, "m");
        assert_eq!(names[0], others[0]);
        assert!(names[1] != others[1] && names[2] != others[2]);
    }

    #[test]
    fn models_do_not_share_blocks() {
        assert_ne!(blocks(&text(BLOCK_BYTES), "m"), blocks(&text(BLOCK_BYTES), "n"));
    }

    #[test]
    fn a_bit_anywhere_changes_the_name_and_names_spread() {
        let base = text(BLOCK_BYTES);
        let mut names = HashSet::from([blocks(&base, "m")[0]]);
        let mut low = HashSet::new();
        for bit in 0..BLOCK_BYTES * 8 {
            let mut changed = base.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            let name = blocks(&changed, "m")[0];
            assert!(names.insert(name), "bit {bit}");
            low.insert(name & 0xffff);
        }
        // 16,384 draws from 65,536 places fill 14,497 on average.
        assert!(low.len() > 14_200, "{}", low.len());
    }

    #[test]
    fn a_prompt_without_end_is_cut() {
        assert_eq!(blocks(&text((MOST_BLOCKS + 3) * BLOCK_BYTES), "m").len(), MOST_BLOCKS);
    }

    proptest! {
        #[test]
        fn how_the_text_is_cut_does_not_matter(cuts in proptest::collection::vec(0_usize..5_000, 0..12)) {
            let whole = text(20_000);
            let mut hasher = BlockHasher::new(7, "m");
            let mut names = Vec::new();
            let mut rest = whole.as_slice();
            for cut in cuts {
                let (head, tail) = rest.split_at(cut.min(rest.len()));
                hasher.write(head, &mut names);
                rest = tail;
            }
            hasher.write(rest, &mut names);
            prop_assert_eq!(names, blocks(&whole, "m"));
        }
    }
}
