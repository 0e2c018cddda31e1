//! The least recently used blocks of one backend, in a fixed number of places.
//!
//! A map from a block's name to its place, and a list through the places in the order of use. Looking up changes and
//! allocates nothing; inserting allocates until all places are taken, and then reuses the oldest.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// No place.
const NONE: u32 = u32::MAX;
/// More places than any cache has blocks.
const MOST: usize = 1 << 20;

/// Blocks are hashes already.
#[derive(Debug, Default, Clone, Copy)]
struct Identity(u64);

impl Hasher for Identity {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(byte);
        }
    }

    fn write_u64(&mut self, name: u64) {
        self.0 = name;
    }
}

/// One block, between one that was used later and one that was used earlier.
#[derive(Debug, Clone, Copy)]
struct Place {
    block: u64,
    newer: u32,
    older: u32,
}

/// Blocks that were sent to one backend, at most so many.
#[derive(Debug, Clone)]
pub struct PrefixIndex {
    capacity: usize,
    by_block: HashMap<u64, u32, BuildHasherDefault<Identity>>,
    places: Vec<Place>,
    newest: u32,
    oldest: u32,
}

impl PrefixIndex {
    /// An index of at most `capacity` blocks. Nothing is allocated before the first insertion.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        let capacity = capacity.min(MOST);
        Self { capacity, by_block: HashMap::default(), places: Vec::new(), newest: NONE, oldest: NONE }
    }

    /// How many blocks it may hold.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Blocks held now.
    #[must_use]
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether nothing is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// How many of the leading blocks are held. Allocates nothing.
    ///
    /// A block's name covers what is before it, so whoever uses a block has just used all before it: what is held of a
    /// prompt is always its beginning, and its end is found by halving.
    #[must_use]
    pub fn leading(&self, blocks: &[u64]) -> usize {
        if self.places.is_empty() {
            return 0;
        }
        blocks.partition_point(|block| self.by_block.contains_key(block))
    }

    /// Holds all the blocks of a prompt, the first as the most recently used.
    pub fn insert(&mut self, blocks: &[u64]) {
        // Blocks beyond the capacity would only push out the ones before them.
        for &block in blocks.iter().take(self.capacity).rev() {
            self.touch(block);
        }
    }

    /// Forgets everything: the engine was restarted, or is not trusted to have kept it.
    pub fn clear(&mut self) {
        self.by_block.clear();
        self.places.clear();
        (self.newest, self.oldest) = (NONE, NONE);
    }

    fn touch(&mut self, block: u64) {
        let place = match self.by_block.get(&block) {
            Some(&place) => {
                self.unlink(place);
                place
            }
            None => self.vacate(block),
        };
        self.link_newest(place);
    }

    /// A place for a block that is not held: a new one, or the oldest one's.
    fn vacate(&mut self, block: u64) -> u32 {
        let place = if self.places.len() < self.capacity {
            self.places.push(Place { block, newer: NONE, older: NONE });
            u32::try_from(self.places.len() - 1).unwrap_or(NONE)
        } else {
            let oldest = self.oldest;
            self.unlink(oldest);
            if let Some(place) = self.at(oldest) {
                let before = std::mem::replace(&mut place.block, block);
                self.by_block.remove(&before);
            }
            oldest
        };
        self.by_block.insert(block, place);
        place
    }

    fn unlink(&mut self, place: u32) {
        let Some(&Place { newer, older, .. }) = self.at(place).as_deref() else { return };
        match self.at(newer) {
            Some(one) => one.older = older,
            None => self.newest = older,
        }
        match self.at(older) {
            Some(one) => one.newer = newer,
            None => self.oldest = newer,
        }
    }

    fn link_newest(&mut self, place: u32) {
        let before = self.newest;
        if let Some(one) = self.at(place) {
            (one.newer, one.older) = (NONE, before);
        }
        match self.at(before) {
            Some(one) => one.newer = place,
            None => self.oldest = place,
        }
        self.newest = place;
    }

    fn at(&mut self, place: u32) -> Option<&mut Place> {
        self.places.get_mut(usize::try_from(place).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_a_leading_run_counts() {
        let mut index = PrefixIndex::new(10);
        assert_eq!(index.leading(&[1, 2]), 0);
        index.insert(&[1, 2, 3]);
        assert_eq!(index.leading(&[1, 2, 9, 10]), 2);
        assert_eq!(index.leading(&[9, 10]), 0);
        index.clear();
        assert_eq!((index.leading(&[1]), index.len()), (0, 0));
    }

    #[test]
    fn suffixes_leave_before_prefixes_and_old_prompts_before_new() {
        let mut index = PrefixIndex::new(4);
        index.insert(&[1, 2, 3]);
        index.insert(&[7, 8]);
        assert_eq!((index.leading(&[1, 2, 3]), index.leading(&[7, 8]), index.len()), (2, 2, 4));
        index.insert(&[1]);
        index.insert(&[9]);
        assert_eq!((index.leading(&[1, 2]), index.leading(&[7, 8])), (1, 2));
    }

    #[test]
    fn a_prompt_longer_than_the_index_keeps_its_beginning() {
        let mut index = PrefixIndex::new(3);
        index.insert(&[1, 2, 3, 4, 5]);
        assert_eq!((index.leading(&[1, 2, 3, 4, 5]), index.len()), (3, 3));
    }

    #[test]
    fn an_index_without_places_holds_nothing() {
        let mut index = PrefixIndex::new(0);
        index.insert(&[1, 2]);
        assert!(index.is_empty() && index.leading(&[1]) == 0);
    }

    /// The same by the book: a list, the most recently used first.
    fn by_the_book(capacity: usize, prompts: &[Vec<u64>]) -> Vec<u64> {
        let mut held: Vec<u64> = Vec::new();
        for block in prompts.iter().flat_map(|prompt| prompt.iter().take(capacity).rev()) {
            held.retain(|one| one != block);
            held.insert(0, *block);
            held.truncate(capacity);
        }
        held
    }

    proptest! {
        #[test]
        fn it_holds_what_a_list_would_hold(
            capacity in 0_usize..12,
            prompts in proptest::collection::vec(proptest::collection::vec(0_u64..30, 0..8), 0..40),
        ) {
            let mut index = PrefixIndex::new(capacity);
            for prompt in &prompts {
                index.insert(prompt);
            }
            let held = by_the_book(capacity, &prompts);
            prop_assert_eq!(index.len(), held.len());
            for block in 0..30 {
                prop_assert_eq!(index.leading(&[block]) == 1, held.contains(&block), "{}", block);
            }
        }
    }
}
