//! "Did you mean": the nearest of the words that would have been right.

/// The candidate that `word` was probably meant to be.
pub(super) fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let folded = fold(word);
    candidates
        .into_iter()
        .filter_map(|candidate| Some((rank(&folded, &fold(candidate))?, candidate)))
        .min_by_key(|(rank, _)| *rank)
        .map(|(_, candidate)| candidate)
}

/// How far apart two folded words are; `None` when too far to be one mistyped as the other.
fn rank(word: &str, candidate: &str) -> Option<usize> {
    let typed = distance(word, candidate);
    let longer = word.chars().count().max(candidate.chars().count());
    if typed <= (longer / 3).clamp(1, 4) && typed < longer {
        return Some(typed);
    }
    // `ttft_slo` for `ttft`, `certificate_file` for `certificate`: a name with more words than needed, or fewer.
    let contained = |inner: &str, outer: &str| inner.len() >= 3 && outer.split('_').any(|part| part == inner);
    let prefixed = |inner: &str, outer: &str| inner.len() >= 3 && outer.starts_with(inner);
    let related = contained(candidate, word)
        || contained(word, candidate)
        || prefixed(candidate, word)
        || prefixed(word, candidate);
    related.then_some(10 + typed)
}

/// Spellings that differ by convention only become equal: `maxInFlight`, `max-in-flight`, `max_in_flight`.
fn fold(word: &str) -> String {
    let mut folded = String::with_capacity(word.len() + 4);
    let mut after_lower = false;
    // A word longer than any name is cut, so that the distance stays cheap.
    for character in word.chars().take(64) {
        if character.is_uppercase() && after_lower {
            folded.push('_');
        }
        after_lower = character.is_lowercase();
        let character = if matches!(character, '-' | '.' | ' ') { '_' } else { character };
        folded.extend(character.to_lowercase());
    }
    folded
}

/// Damerau–Levenshtein distance (optimal string alignment): a transposition counts as one.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let (mut before, mut above): (Vec<usize>, Vec<usize>) = (Vec::new(), (0..=b.len()).collect());
    let cell = |row: &[usize], column: usize| row.get(column).copied().unwrap_or(usize::MAX - 1);
    for (i, x) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, y) in b.iter().enumerate() {
            let replaced = cell(&above, j) + usize::from(x != y);
            let mut best = replaced.min(cell(&above, j + 1) + 1).min(cell(&row, j) + 1);
            let swapped = i > 0 && j > 0 && a.get(i - 1) == Some(y) && b.get(j - 1) == Some(x);
            if swapped {
                best = best.min(cell(&before, j - 1) + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut above, row);
    }
    cell(&above, b.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(word: &str, expected: Option<&str>) {
        let words = ["ttft", "itl", "e2e", "timeouts", "max_in_flight", "api_key", "certificate", "window"];
        assert_eq!(nearest(word, words), expected, "{word}");
    }

    #[test]
    fn the_nearest_word_is_meant() {
        check("tftt", Some("ttft"));
        check("ttft_slo", Some("ttft"));
        check("timeout", Some("timeouts"));
        check("maxInFlight", Some("max_in_flight"));
        check("max-in-flight", Some("max_in_flight"));
        check("apikey", Some("api_key"));
        check("certificate_file", Some("certificate"));
        check("cert", Some("certificate"));
        check("completely_else", None);
        check("x", None);
        check("", None);
    }

    #[test]
    fn a_transposition_is_one_mistake() {
        assert_eq!(distance("ab", "ba"), 1);
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
    }
}
