//! Uncached tokens times requests in flight.

use super::{Asked, Books, Pick, Random, View};

#[derive(Debug)]
pub(super) struct Lmetric;

impl Pick for Lmetric {
    fn pick(&mut self, asked: &Asked<'_>, view: &View<'_>, books: &Books, random: &mut Random) -> Option<usize> {
        books.least(asked, view, random, |book| f64::from(book.uncached(asked)) * (f64::from(book.in_flight) + 1.0))
    }
}
