//! The better of two drawn at random, by peak EWMA: a cost that jumps to a worse TTFT at once and decays on read.
//!
//! As in Finagle and tower, an idle slow host is forgotten in about `TAU`, and a request that still hangs is not seen.

use std::time::Duration;

use super::{Asked, Books, Entry, Pick, Random, View};

/// How long a cost is remembered, in seconds.
const TAU: f64 = 10.0;
/// The load of a backend that has answered nothing yet and has something to answer.
const UNKNOWN: f64 = 1e12;

#[derive(Debug)]
pub(super) struct PeakEwma(Vec<Cost>);

#[derive(Debug, Clone, Copy, Default)]
struct Cost {
    value: f64,
    at: Duration,
}

impl PeakEwma {
    pub(super) fn new(backends: usize) -> Self {
        Self(vec![Cost::default(); backends])
    }

    fn load(&mut self, backend: usize, in_flight: f64, now: Duration) -> f64 {
        let Some(cost) = self.0.get_mut(backend) else { return f64::INFINITY };
        cost.observe(0.0, now);
        if cost.value == 0.0 && in_flight > 0.0 { UNKNOWN + in_flight } else { cost.value * (in_flight + 1.0) }
    }
}

impl Cost {
    fn observe(&mut self, ttft: f64, now: Duration) {
        let kept = (-(now.saturating_sub(self.at)).as_secs_f64() / TAU).exp();
        self.at = now;
        self.value = if ttft > self.value { ttft } else { self.value * kept + ttft * (1.0 - kept) };
    }
}

impl Pick for PeakEwma {
    fn pick(&mut self, asked: &Asked<'_>, view: &View<'_>, books: &Books, random: &mut Random) -> Option<usize> {
        let open: Vec<usize> = view.open(asked).collect();
        if open.is_empty() {
            return None;
        }
        let first = random.below(open.len());
        let drawn = random.below(open.len());
        let second = if drawn == first { (first + 1) % open.len() } else { drawn };
        let (first, second) = (*open.get(first)?, *open.get(second)?);
        let mut load = |backend| self.load(backend, f64::from(books.of(backend)?.in_flight), view.now).into();
        let (one, other): (Option<f64>, Option<f64>) = (load(first), load(second));
        Some(if other? < one? { second } else { first })
    }

    fn first_token(&mut self, entry: &Entry, now: Duration) {
        if let Some(cost) = self.0.get_mut(entry.backend) {
            cost.observe(now.saturating_sub(entry.sent).as_secs_f64(), now);
        }
    }
}
