//! What a simulated model says, and how its prompts are counted.
//!
//! Words come from a fixed list by hash, so the same seed and prompt give the same answer whatever runs beside it.

use crate::engine::prefix::BLOCK_TOKENS;
use crate::random::Random;

/// Bytes of text in one token, roughly what English needs.
const BYTES_PER_TOKEN: usize = 4;

const WORDS: &[&str] = &[
    " the", " a", " of", " and", " to", " in", " is", " that", " for", " it", " with", " as", " was", " on", " are",
    " by", " this", " from", " at", " which", " or", " an", " be", " train", " model", " token", " first", " time",
    " latency", " queue", " memory", " batch", " answer", " step", " small", " large", " fast", " slow", " when",
    " then", ".", ",", " we", " see", " one", " two", " more", " less", " route", " cheap", " keeps", " its", " word",
    " has", " been", " each", " request", " server", " prompt", " decode", " out", " over", " under", " next",
];

/// Hashes bytes, on top of what was hashed before (FNV-1a).
pub(super) fn hash(start: u64, bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(start ^ 0xCBF2_9CE4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01B3))
}

/// A generator that follows from a hash; the mixing spreads hashes that differ in few bits.
pub(super) fn random(hash: u64) -> Random {
    let mut random = Random::seeded(hash.wrapping_mul(0x9E37_79B9_7F4A_7C15));
    let _ = random.bits();
    random
}

/// The text of one token.
pub(super) fn word(seed: u64, choice: usize, index: u32) -> &'static str {
    let at = random(hash(seed, &[choice.to_le_bytes(), (index as usize).to_le_bytes()].concat())).below(WORDS.len());
    WORDS.get(at).copied().unwrap_or(" the")
}

/// Tokens in a text of that many bytes: about four bytes each, at least one.
pub(super) fn tokens(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(BYTES_PER_TOKEN)).unwrap_or(u32::MAX).max(1)
}

/// The prompt's whole blocks, each named by a hash of all up to its end.
pub(super) fn blocks(prompt: &[u8]) -> Vec<u64> {
    let mut name = 0;
    let whole = prompt.chunks_exact(BLOCK_TOKENS as usize * BYTES_PER_TOKEN);
    whole
        .map(|block| {
            name = hash(name, block);
            name
        })
        .collect()
}

/// How long an answer is when nothing cuts it: around 128 tokens, log-normal, from 2 to 2,048.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to a range that fits")]
pub(super) fn natural_length(seed: u64) -> u32 {
    (128.0 * (0.5 * random(seed).gauss()).exp()).clamp(2.0, 2048.0) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_that_share_a_beginning_share_its_blocks() {
        let (mut one, mut two) = (vec![b'a'; 5000], vec![b'a'; 5000]);
        one[4500] = b'x';
        two[3000] = b'y';
        let (one, two) = (blocks(&one), blocks(&two));
        assert_eq!((one.len(), two.len()), (2, 2));
        assert_eq!(one[0], two[0]);
        assert_ne!(one[1], two[1]);
        assert!(blocks(&[b'a'; 2047]).is_empty());
    }

    #[test]
    fn natural_lengths_scatter_around_their_median() {
        let mut lengths: Vec<u32> = (0..999).map(natural_length).collect();
        lengths.sort_unstable();
        assert!((115..142).contains(&lengths[499]), "median {}", lengths[499]);
        assert!(lengths[0] < 60 && lengths[998] > 300);
    }

    #[test]
    fn the_words_follow_from_the_seed() {
        let text = |seed| (0..40).map(|i| word(seed, 0, i)).collect::<String>();
        assert_eq!(text(1), text(1));
        assert_ne!(text(1), text(2));
    }

    #[test]
    fn four_bytes_are_a_token() {
        for (bytes, expected) in [(0, 1), (1, 1), (4, 1), (5, 2), (4000, 1000)] {
            assert_eq!(tokens(bytes), expected, "{bytes} bytes");
        }
    }
}
