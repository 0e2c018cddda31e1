//! What a rival knows of each backend: counters that move when a request is sent, answered and over.

use std::time::Duration;

use super::super::rule::{Asked, Ending, How, Shared, View};
use super::super::scene::{Machine, Scene};
use crate::engine::prefix::{BLOCK_TOKENS, PrefixCache};
use crate::random::Random;
use crate::route::load::Load;

/// Prompt tokens that are computed however much of the prompt is cached.
const LEAST_UNCACHED: u32 = 16;

/// The counters of one backend.
#[derive(Debug, Clone)]
pub(super) struct Book {
    /// Uncached prompt tokens sent, first token not seen.
    pub(super) waiting_tokens: f64,
    /// Streams that decode.
    pub(super) streams: u32,
    /// Requests whose first token is awaited.
    pub(super) awaiting: u32,
    /// Prompt tokens and streamed tokens of what is in flight.
    pub(super) kv_tokens: f64,
    /// Requests in flight.
    pub(super) in_flight: u32,
    /// What the other replicas told last, summed.
    pub(super) others: Shared,
    /// Tokens its key/value cache holds.
    pub(super) kv_capacity: f64,
    /// Price of a million input tokens.
    pub(super) price: f64,
    /// The blocks it was sent.
    prefix: PrefixCache,
    capacity: usize,
}

/// What is remembered of a request in flight.
#[derive(Debug, Clone)]
pub struct Entry {
    pub(super) backend: usize,
    /// In flight there when it was sent.
    pub(super) in_flight: f64,
    pub(super) sent: Duration,
    uncached: u32,
    estimate: u32,
    started: bool,
}

/// The counters of the fleet.
#[derive(Debug, Clone)]
pub(super) struct Books(Vec<Book>);

impl Books {
    pub(super) fn new(scene: &Scene) -> Self {
        Self(scene.backends.iter().map(Book::new).collect())
    }

    pub(super) fn of(&self, backend: usize) -> Option<&Book> {
        self.0.get(backend)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Book> {
        self.0.iter()
    }

    /// The open backend with the smallest value.
    pub(super) fn least(
        &self,
        asked: &Asked<'_>,
        view: &View<'_>,
        random: &mut Random,
        value: impl Fn(&Book) -> f64,
    ) -> Option<usize> {
        least(view.open(asked).filter_map(|backend| Some((backend, value(self.of(backend)?)))), random)
    }

    pub(super) fn hear(&mut self, backend: usize, others: Shared) {
        if let Some(book) = self.0.get_mut(backend) {
            book.others = others;
        }
    }

    pub(super) fn dispatched(&mut self, asked: &Asked<'_>, backend: usize, now: Duration) -> Option<Entry> {
        let book = self.0.get_mut(backend)?;
        let uncached = book.uncached(asked);
        let estimate = asked.arrival.estimate;
        let entry =
            Entry { backend, in_flight: book.in_flight_of_all(), sent: now, uncached, estimate, started: false };
        book.prefix.insert(asked.blocks);
        book.waiting_tokens += f64::from(uncached);
        book.awaiting += 1;
        book.kv_tokens += f64::from(estimate);
        book.in_flight += 1;
        Some(entry)
    }

    pub(super) fn first_token(&mut self, entry: &mut Entry) {
        let Some(book) = self.0.get_mut(entry.backend).filter(|_| !entry.started) else { return };
        entry.started = true;
        book.waiting_tokens -= f64::from(entry.uncached);
        book.awaiting = book.awaiting.saturating_sub(1);
        book.streams += 1;
    }

    pub(super) fn token(&mut self, backend: usize) {
        if let Some(book) = self.0.get_mut(backend) {
            book.kv_tokens += 1.0;
        }
    }

    pub(super) fn ended(&mut self, entry: &Entry, ending: &Ending) {
        let Some(book) = self.0.get_mut(entry.backend) else { return };
        if entry.started {
            book.streams = book.streams.saturating_sub(1);
        } else {
            book.waiting_tokens -= f64::from(entry.uncached);
            book.awaiting = book.awaiting.saturating_sub(1);
        }
        let streamed = if entry.started && ending.how != How::Retried { ending.output.saturating_sub(1) } else { 0 };
        book.kv_tokens -= f64::from(entry.estimate) + f64::from(streamed);
        book.in_flight = book.in_flight.saturating_sub(1);
    }

    pub(super) fn ejected(&mut self, backend: usize) {
        if let Some(book) = self.0.get_mut(backend) {
            *book = Book {
                waiting_tokens: 0.0,
                streams: 0,
                awaiting: 0,
                kv_tokens: 0.0,
                in_flight: 0,
                prefix: PrefixCache::new(book.capacity),
                ..book.clone()
            };
        }
    }
}

impl Book {
    fn new(machine: &Machine) -> Self {
        let capacity = machine.profile.prefix_blocks();
        Self {
            waiting_tokens: 0.0,
            streams: 0,
            awaiting: 0,
            kv_tokens: 0.0,
            in_flight: 0,
            others: Shared::default(),
            kv_capacity: f64::from(machine.profile.kv_capacity),
            price: machine.input_price(),
            prefix: PrefixCache::new(capacity),
            capacity,
        }
    }

    /// Prompt tokens that this backend would have to compute.
    pub(super) fn uncached(&self, asked: &Asked<'_>) -> u32 {
        let cached = u32::try_from(self.prefix.leading(asked.blocks)).unwrap_or(u32::MAX).saturating_mul(BLOCK_TOKENS);
        asked.arrival.estimate.saturating_sub(cached).max(LEAST_UNCACHED)
    }

    /// Requests in flight, those of other replicas included as far as they told.
    pub(super) fn in_flight_of_all(&self) -> f64 {
        f64::from(self.in_flight) + self.others.in_flight
    }

    pub(super) fn shared(&self) -> Shared {
        let load = Load {
            waiting_tokens: self.waiting_tokens,
            awaiting: f64::from(self.awaiting),
            streams: f64::from(self.streams),
            kv_tokens: self.kv_tokens,
        };
        Shared { load, in_flight: f64::from(self.in_flight) }
    }
}

/// The one with the smallest value; of equals one at random, by one draw per tie met.
pub(in super::super) fn least(values: impl Iterator<Item = (usize, f64)>, random: &mut Random) -> Option<usize> {
    let mut best: Option<(usize, f64)> = None;
    let mut equals = 1.0;
    for (backend, value) in values {
        match best {
            Some((_, least)) if value > least => {}
            Some((_, least)) if (value - least).abs() == 0.0 => {
                equals += 1.0;
                if random.share() * equals < 1.0 {
                    best = Some((backend, value));
                }
            }
            _ => {
                best = Some((backend, value));
                equals = 1.0;
            }
        }
    }
    best.map(|(backend, _)| backend)
}
