//! Dynamo's cost: blocks still to prefill and blocks held, of 16 tokens each.

use super::{Asked, Books, Pick, Random, View};

#[derive(Debug)]
pub(super) struct Dynamo;

impl Pick for Dynamo {
    fn pick(&mut self, asked: &Asked<'_>, view: &View<'_>, books: &Books, random: &mut Random) -> Option<usize> {
        books.least(asked, view, random, |book| {
            let prefill = book.waiting_tokens + book.others.load.waiting_tokens + f64::from(book.uncached(asked));
            (prefill + book.kv_tokens + book.others.load.kv_tokens) / 16.0
        })
    }
}
