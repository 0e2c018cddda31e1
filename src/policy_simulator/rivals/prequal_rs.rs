//! The score of prequal-rs: prefix match, queue and memory, minus a penalty for a backend that runs hot.

use std::time::Duration;

use super::{Asked, Book, Books, Pick, Random, View};

/// How fast the smoothed in-flight count follows, in seconds.
const TAU: f64 = 3.0;
/// Ratio to the mean from which on a backend is hot.
const HOT: f64 = 1.5;

#[derive(Debug)]
pub(super) struct PrequalRs {
    smoothed: Vec<f64>,
    at: Duration,
}

impl PrequalRs {
    pub(super) fn new(backends: usize) -> Self {
        Self { smoothed: vec![0.0; backends], at: Duration::ZERO }
    }

    #[allow(clippy::cast_precision_loss, reason = "a fleet is small")]
    fn smooth(&mut self, books: &Books, now: Duration) -> f64 {
        let gain = 1.0 - (-(now.saturating_sub(self.at)).as_secs_f64() / TAU).exp();
        self.at = now;
        for (smoothed, book) in self.smoothed.iter_mut().zip(books.all()) {
            *smoothed += gain * (f64::from(book.in_flight) - *smoothed);
        }
        (self.smoothed.iter().sum::<f64>() / self.smoothed.len().max(1) as f64).max(1.0)
    }
}

impl Pick for PrequalRs {
    fn pick(&mut self, asked: &Asked<'_>, view: &View<'_>, books: &Books, random: &mut Random) -> Option<usize> {
        let mean = self.smooth(books, view.now);
        let waiting = || books.all().map(|book| f64::from(book.awaiting));
        let (most, least) = (waiting().fold(0.0, f64::max), waiting().fold(f64::INFINITY, f64::min));
        let score = |book: &Book, smoothed: f64| {
            let uncached = f64::from(book.uncached(asked)) / f64::from(asked.arrival.estimate.max(1));
            let queue = if most > least { (most - f64::from(book.awaiting)) / (most - least) } else { 1.0 };
            let memory = 1.0 - book.kv_tokens / book.kv_capacity;
            3.0 * (1.0 - uncached) + 2.0 * queue + 2.0 * memory - 6.0 * (smoothed / mean - HOT).max(0.0)
        };
        let negated = |backend: usize| Some((backend, -score(books.of(backend)?, *self.smoothed.get(backend)?)));
        super::books::least(view.open(asked).filter_map(negated), random)
    }
}
