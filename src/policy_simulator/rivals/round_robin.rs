//! The next healthy backend in index order.

use super::{Asked, Books, Pick, Random, View};

#[derive(Debug, Default)]
pub(super) struct RoundRobin {
    last: Option<usize>,
}

impl Pick for RoundRobin {
    fn pick(&mut self, asked: &Asked<'_>, view: &View<'_>, _: &Books, _: &mut Random) -> Option<usize> {
        let next = view.open(asked).find(|backend| Some(*backend) > self.last);
        self.last = next.or_else(|| view.open(asked).next());
        self.last
    }
}
