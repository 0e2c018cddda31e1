//! Fewest requests in flight, by a full scan.

use super::{Asked, Books, Pick, Random, View};

#[derive(Debug)]
pub(super) struct LeastRequest;

impl Pick for LeastRequest {
    fn pick(&mut self, asked: &Asked<'_>, view: &View<'_>, books: &Books, random: &mut Random) -> Option<usize> {
        least_request(asked, view, books, random)
    }
}

/// Also what others fall back to.
pub(super) fn least_request(asked: &Asked<'_>, view: &View<'_>, books: &Books, random: &mut Random) -> Option<usize> {
    books.least(asked, view, random, super::books::Book::in_flight_of_all)
}
