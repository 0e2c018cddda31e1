//! Prefix cache of an engine: which leading blocks of a prompt are already in its memory.
//!
//! Blocks are named by a hash that covers everything before them, so a match is a leading run. The least recently used
//! block leaves first, and a prompt's last blocks count as used before its first: suffixes go before prefixes.

use std::collections::{BTreeMap, HashMap};

/// Tokens in one block.
pub const BLOCK_TOKENS: u32 = 512;

/// Blocks in the order of their last use, at most `capacity` of them.
#[derive(Debug, Clone, Default)]
pub struct PrefixCache {
    capacity: usize,
    uses: u64,
    last_use: HashMap<u64, u64>,
    by_use: BTreeMap<u64, u64>,
}

impl PrefixCache {
    /// A cache of at most `capacity` blocks.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self { capacity, ..Self::default() }
    }

    /// How many of the leading blocks are held.
    #[must_use]
    pub fn leading(&self, blocks: &[u64]) -> usize {
        blocks.iter().take_while(|block| self.last_use.contains_key(block)).count()
    }

    /// Holds all the blocks of a prompt, the first as the most recently used.
    pub fn insert(&mut self, blocks: &[u64]) {
        for &block in blocks.iter().rev() {
            self.touch(block);
        }
        while self.last_use.len() > self.capacity {
            let Some((_, oldest)) = self.by_use.pop_first() else { break };
            self.last_use.remove(&oldest);
        }
    }

    /// Blocks held now.
    #[must_use]
    pub fn len(&self) -> usize {
        self.last_use.len()
    }

    /// Whether nothing is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.last_use.is_empty()
    }

    fn touch(&mut self, block: u64) {
        self.uses += 1;
        if let Some(before) = self.last_use.insert(block, self.uses) {
            self.by_use.remove(&before);
        }
        self.by_use.insert(self.uses, block);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_leading_run_counts() {
        let mut cache = PrefixCache::new(10);
        cache.insert(&[1, 2, 3]);
        assert_eq!(cache.leading(&[1, 2, 9, 3]), 2);
        assert_eq!(cache.leading(&[2, 3]), 2, "each block's name covers what is before it");
        assert_eq!(cache.leading(&[9, 1]), 0);
    }

    #[test]
    fn suffixes_leave_before_prefixes() {
        let mut cache = PrefixCache::new(3);
        cache.insert(&[1, 2, 3]);
        cache.insert(&[7]);
        assert_eq!(cache.leading(&[1, 2, 3]), 2);
        assert_eq!(cache.len(), 3);
    }

    #[test]
    fn capacity_holds_for_a_prompt_longer_than_the_cache() {
        let mut cache = PrefixCache::new(2);
        cache.insert(&[1, 2, 3, 4]);
        assert_eq!((cache.len(), cache.leading(&[1, 2, 3, 4])), (2, 2));
        let mut none = PrefixCache::new(0);
        none.insert(&[1]);
        assert!(none.is_empty());
    }
}
