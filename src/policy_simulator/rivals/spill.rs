//! The cheapest backend with fewer than so many requests in flight, else the least loaded: the rule of thumb that
//! knows prices and nothing of latency.

use super::least_request::least_request;
use super::{Asked, Books, Pick, Random, View};

#[derive(Debug)]
pub(super) struct Spill(pub(super) u32);

impl Pick for Spill {
    fn pick(&mut self, asked: &Asked<'_>, view: &View<'_>, books: &Books, random: &mut Random) -> Option<usize> {
        let room = |backend: &usize| books.of(*backend).is_some_and(|book| book.in_flight < self.0);
        let price = |backend: usize| Some((backend, books.of(backend)?.price));
        let cheapest = super::books::least(view.open(asked).filter(room).filter_map(price), random);
        cheapest.or_else(|| least_request(asked, view, books, random))
    }
}
