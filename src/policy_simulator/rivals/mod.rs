//! The rules that ours is compared with, each with its own book-keeping.
//!
//! All see the same health, estimates and prefix index; none knows a price unless it says so; ties are broken at random.
//! They are written from their descriptions at one setting each, some stronger than the original: a rival here has
//! perfect, free and fresh counts of what it sent.

mod books;
mod dynamo;
mod least_request;
mod lmetric;
mod oracle;
mod peak_ewma;
mod prequal;
mod prequal_rs;
mod round_robin;
mod sglang;
mod spill;

#[cfg(test)]
mod tests;

use std::time::Duration;

pub(super) use self::books::least;
use self::books::{Book, Books, Entry};
use super::rule::{Asked, Choice, Ending, Rule, Shared, Verdict, View};
use super::scene::Scene;
use crate::random::Random;

/// Which rival.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RivalKind {
    /// One backend after the other.
    RoundRobin,
    /// Fewest requests in flight.
    LeastRequest,
    /// The better of two by peak EWMA, as Finagle and Linkerd do it.
    PeakEwma,
    /// Hot-cold lexicographic, with the share of backends that are not hot.
    Prequal(f64),
    /// The score of prequal-rs.
    PrequalRs,
    /// Uncached tokens times requests in flight.
    Lmetric,
    /// Dynamo's cost: blocks to prefill and blocks held.
    Dynamo,
    /// Cache-aware with a balance threshold, as SGLang's router does it.
    Sglang,
    /// The cheapest with fewer than so many in flight.
    Spill(u32),
    /// A clairvoyant that runs the true engines ahead.
    Oracle,
}

/// How a rival picks; its counters are kept for it.
trait Pick {
    /// Which backend, of those that are open.
    fn pick(&mut self, asked: &Asked<'_>, view: &View<'_>, books: &Books, random: &mut Random) -> Option<usize>;

    /// A first token came.
    fn first_token(&mut self, _entry: &Entry, _now: Duration) {}
}

/// A rival with its books.
pub struct Rival {
    books: Books,
    pick: Box<dyn Pick>,
}

impl Rival {
    /// A rival that has seen nothing yet.
    #[must_use]
    pub fn new(kind: RivalKind, scene: &Scene) -> Self {
        let count = scene.backends.len();
        let pick: Box<dyn Pick> = match kind {
            RivalKind::RoundRobin => Box::<round_robin::RoundRobin>::default(),
            RivalKind::LeastRequest => Box::new(least_request::LeastRequest),
            RivalKind::PeakEwma => Box::new(peak_ewma::PeakEwma::new(count)),
            RivalKind::Prequal(cold) => Box::new(prequal::Prequal::new(cold, count)),
            RivalKind::PrequalRs => Box::new(prequal_rs::PrequalRs::new(count)),
            RivalKind::Lmetric => Box::new(lmetric::Lmetric),
            RivalKind::Dynamo => Box::new(dynamo::Dynamo),
            RivalKind::Sglang => Box::new(sglang::Sglang),
            RivalKind::Spill(limit) => Box::new(spill::Spill(limit)),
            RivalKind::Oracle => Box::new(oracle::Oracle),
        };
        Self { books: Books::new(scene), pick }
    }
}

impl Rule for Rival {
    type Ticket = Option<Entry>;

    fn choose(&mut self, asked: &Asked<'_>, view: &View<'_>, random: &mut Random) -> Verdict {
        let picked = self.pick.pick(asked, view, &self.books, random);
        picked.map_or(Verdict::Shed("no_backend"), |backend| Verdict::Serve(Choice::plain(backend, "chosen")))
    }

    fn dispatched(&mut self, asked: &Asked<'_>, choice: &Choice, now: Duration) -> Self::Ticket {
        self.books.dispatched(asked, choice.backend, now)
    }

    fn first_token(&mut self, ticket: &mut Self::Ticket, now: Duration) {
        let Some(entry) = ticket else { return };
        self.books.first_token(entry);
        self.pick.first_token(entry, now);
    }

    fn token(&mut self, backend: usize, _now: Duration) {
        self.books.token(backend);
    }

    fn gaps(&mut self, _ticket: &mut Self::Ticket, _count: u32, _mean: Duration, _now: Duration) {}

    fn ended(&mut self, ticket: Self::Ticket, ending: &Ending, _now: Duration) {
        if let Some(entry) = ticket {
            self.books.ended(&entry, ending);
        }
    }

    fn ejected(&mut self, backend: usize) {
        self.books.ejected(backend);
    }

    fn shared(&self, backend: usize) -> Shared {
        self.books.of(backend).map(Book::shared).unwrap_or_default()
    }

    fn hear(&mut self, backend: usize, others: Shared, _now: Duration) {
        self.books.hear(backend, others);
    }
}
