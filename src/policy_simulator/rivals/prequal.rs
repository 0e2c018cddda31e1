//! Prequal's hot-cold lexicographic rule: among backends whose in-flight count is not in the hot tail, the one with the
//! least latency at about that count; when all are hot, the fewest in flight.
//!
//! The original probes (3 per query, a pool of 16); here the counts are perfect and free, so this is its upper end.

use std::collections::VecDeque;
use std::time::Duration;

use super::least_request::least_request;
use super::{Asked, Books, Entry, Pick, Random, View};

/// In-flight counts the quantile is taken of.
const COUNTS: usize = 128;
/// Latencies remembered of a backend.
const LATENCIES: usize = 64;
/// Latencies, the nearest by in-flight count, whose median is taken.
const NEAREST: usize = 9;

#[derive(Debug)]
pub(super) struct Prequal {
    cold: f64,
    counts: VecDeque<f64>,
    sorted: Vec<f64>,
    latencies: Vec<VecDeque<(f64, f64)>>,
    nearest: Vec<(f64, f64)>,
}

impl Prequal {
    pub(super) fn new(cold: f64, backends: usize) -> Self {
        Self {
            cold,
            counts: VecDeque::new(),
            sorted: Vec::new(),
            latencies: vec![VecDeque::new(); backends],
            nearest: Vec::new(),
        }
    }

    /// The count from which on a backend is hot.
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "at most 128, and the share is between 0 and 1"
    )]
    fn threshold(&mut self) -> f64 {
        self.sorted.clear();
        self.sorted.extend(&self.counts);
        self.sorted.sort_unstable_by(f64::total_cmp);
        let place = (self.sorted.len() as f64 * self.cold) as usize;
        self.sorted.get(place.min(self.sorted.len().saturating_sub(1))).copied().unwrap_or_default()
    }

    /// Median of the latencies seen at about that many in flight, the latest first among equals; 0 when none was.
    fn latency(&mut self, backend: usize, in_flight: f64) -> f64 {
        let Some(seen) = self.latencies.get(backend) else { return 0.0 };
        self.nearest.clear();
        self.nearest.extend(seen.iter().rev().map(|(count, latency)| ((count - in_flight).abs(), *latency)));
        self.nearest.sort_by(|one, other| one.0.total_cmp(&other.0));
        self.nearest.truncate(NEAREST);
        self.nearest.sort_by(|one, other| one.1.total_cmp(&other.1));
        self.nearest.get(self.nearest.len() / 2).map_or(0.0, |(_, latency)| *latency)
    }
}

impl Pick for Prequal {
    fn pick(&mut self, asked: &Asked<'_>, view: &View<'_>, books: &Books, random: &mut Random) -> Option<usize> {
        for book in books.all() {
            push(&mut self.counts, COUNTS, book.in_flight_of_all());
        }
        let threshold = self.threshold();
        let count = |backend: usize| books.of(backend).map(super::Book::in_flight_of_all);
        let cold: Vec<(usize, f64)> = view
            .open(asked)
            .filter_map(|backend| Some((backend, count(backend).filter(|count| *count <= threshold)?)))
            .collect();
        let latencies = cold.into_iter().map(|(backend, count)| (backend, self.latency(backend, count)));
        super::books::least(latencies, random).or_else(|| least_request(asked, view, books, random))
    }

    fn first_token(&mut self, entry: &Entry, now: Duration) {
        if let Some(seen) = self.latencies.get_mut(entry.backend) {
            push(seen, LATENCIES, (entry.in_flight, now.saturating_sub(entry.sent).as_secs_f64()));
        }
    }
}

fn push<T>(ring: &mut VecDeque<T>, most: usize, value: T) {
    if ring.len() == most {
        ring.pop_front();
    }
    ring.push_back(value);
}
