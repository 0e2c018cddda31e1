//! SGLang's cache-aware router: the longest match where it is worth it, fewest in flight where the fleet is unbalanced.
//!
//! The original matches raw text in a tree per model; here it sees the prefix index that all rules see.

use super::least_request::least_request;
use super::{Asked, Book, Books, Pick, Random, View};

/// Unbalanced is a difference in flight above this …
const FEW: f64 = 64.0;
/// … and a ratio above this.
const RATIO: f64 = 1.5;
/// The smallest share of the prompt that makes a match worth it.
const WORTH: f64 = 0.3;

#[derive(Debug)]
pub(super) struct Sglang;

impl Pick for Sglang {
    fn pick(&mut self, asked: &Asked<'_>, view: &View<'_>, books: &Books, random: &mut Random) -> Option<usize> {
        let most = books.all().map(Book::in_flight_of_all).fold(0.0, f64::max);
        let open = view.open(asked).filter_map(|backend| books.of(backend));
        let fewest = open.map(Book::in_flight_of_all).fold(f64::INFINITY, f64::min);
        if most - fewest > FEW && most > RATIO * fewest {
            return least_request(asked, view, books, random);
        }
        let matched = books.least(asked, view, random, |book| f64::from(book.uncached(asked)))?;
        let uncached = f64::from(books.of(matched)?.uncached(asked));
        if 1.0 - uncached / f64::from(asked.arrival.estimate.max(1)) > WORTH {
            return Some(matched);
        }
        least_request(asked, view, books, random)
    }
}
