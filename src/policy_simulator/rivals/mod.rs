//! The rules that ours is compared with, each with its own book-keeping.
//!
//! All see the same health, estimates and prefix index; none knows a price unless it says so. They are written from
//! their descriptions at one setting each, some stronger than the original: a rival here has perfect and fresh counts.

mod books;

use std::time::Duration;

use self::books::{Books, Entry, least};
use super::rule::{Asked, Choice, Ending, Rule, Shared, Verdict, View};
use super::scene::Scene;
use crate::random::Random;

/// How a rival picks; its counters are kept for it.
trait Pick {
    /// Which backend, of those that are open.
    fn pick(&mut self, asked: &Asked<'_>, view: &View<'_>, books: &Books, random: &mut Random) -> Option<usize>;

    /// A first token came from a backend.
    fn first_token(&mut self, _entry: &Entry, _ttft: Duration, _now: Duration) {}
}

/// A rival with its books.
pub struct Rival {
    books: Books,
    reason: &'static str,
    pick: Box<dyn Pick>,
}

impl Rival {
    pub fn lr(scene: &Scene) -> Self {
        let books = Books::new(scene.backends.iter().map(|machine| (&machine.profile, machine.profile.price_input)));
        Self { books, reason: "x", pick: Box::new(Lr) }
    }
}
struct Lr;
impl Pick for Lr {
    fn pick(&mut self, asked: &Asked<'_>, view: &View<'_>, books: &Books, random: &mut Random) -> Option<usize> {
        least(view.open(asked).filter_map(|b| Some((b, books.0.get(b)?.in_flight_of_all()))), random)
    }
}

impl Rule for Rival {
    type Ticket = Option<Entry>;

    fn choose(&mut self, asked: &Asked<'_>, view: &View<'_>, random: &mut Random) -> Verdict {
        let picked = self.pick.pick(asked, view, &self.books, random);
        picked.map_or(Verdict::Shed("no_backend"), |backend| Verdict::Serve(Choice::plain(backend, self.reason)))
    }

    fn dispatched(&mut self, asked: &Asked<'_>, choice: &Choice, now: Duration) -> Self::Ticket {
        self.books.dispatched(asked, choice.backend, now)
    }

    fn first_token(&mut self, ticket: &mut Self::Ticket, now: Duration) {
        let Some(entry) = ticket else { return };
        self.books.first_token(entry);
        self.pick.first_token(entry, now - entry.sent, now);
    }

    fn token(&mut self, backend: usize) {
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
        self.books.0.get(backend).map(books::Book::shared).unwrap_or_default()
    }

    fn hear(&mut self, backend: usize, others: Shared, _now: Duration) {
        if let Some(book) = self.books.0.get_mut(backend) {
            book.others = others;
        }
    }
}
