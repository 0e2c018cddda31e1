//! How near a backend is to the most it can serve with its promises kept: the signal to scale by.
//!
//! What is in flight says little of that: at four fifths of what a backend can take it is a fifth of what it will be at
//! the limit. So the question is asked of rates. At so many times the present arrivals, how many streams would there be
//! in the long run (by Little's law, with the model's own latencies), and what would the bounds be then? The largest
//! multiple whose bounds keep the promise is the headroom, and demand is one over it: proportional to what arrives, as
//! whoever scales by it needs it.

use std::time::Instant;

use super::pair::{Alphas, PairModel};
use super::{Asking, BackendModel, features};
use crate::measure::objective::Objective;
use crate::route::load::Load;
use crate::route::moment::Moment;
use crate::route::snapshot::RouteSlot;

/// Arrivals beyond so many times the present ones are not looked at: that is idle enough.
const FARTHEST: f64 = 1_024.0;
/// Halvings between a multiple that fits and one that does not: to a thousandth.
const STEPS: u32 = 12;
/// Rounds in which streams and waiting requests settle.
const ROUNDS: u32 = 64;
/// More streams than any backend serves: they do not settle.
const TOO_MANY: f64 = 1e5;
/// Recent bad news and a backlog make of demand at most so many times what arrivals say: both grow without bound in
/// overload, and a signal that explodes makes whoever scales by it overshoot.
const BAD_NEWS: f64 = 2.0;
/// Demand is no more than this, likewise.
const MOST: f64 = 4.0;
/// Where not even an idle backend would keep the promise, load must make it worse by so much to be the reason.
const OVERLOAD: f64 = 1.2;

/// What arrives at a backend, of all its routes.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Arriving {
    /// Requests per second.
    pub requests: f64,
    /// Output tokens that they ask for, per second.
    pub output_tokens: f64,
    /// The most requests that may be there at once.
    pub room: Option<u32>,
}

impl BackendModel {
    /// Requests of a route that arrived per second, lately.
    #[must_use]
    pub fn arrivals(&self, route: RouteSlot, now: Instant) -> f64 {
        let now = self.moment(now);
        self.pair(route).map_or(0.0, |pair| pair.arrivals.per_second(now))
    }

    /// What arrives over the most that could arrive, of the same mix, with every bound of such a request within the
    /// promise, `margin` included. Above 1 there is too much; 0 where nothing arrives.
    ///
    /// `None` where nothing is promised, and where not even an idle backend would keep the promise, so that more of its
    /// kind would not help.
    #[must_use]
    pub fn demand(&self, asking: &Asking<'_>, margin: f64, arriving: &Arriving, now: Instant) -> Option<f64> {
        let now = self.moment(now);
        let reckoned = Reckoned::new(self, asking, (margin, arriving), now)?;
        let present = reckoned.pressure(&self.load.total(now), self.load.prefill_rate(now));
        let Some(hopeful) = reckoned.hopeful().by_arrivals() else {
            // In overload the model comes to hold its backend for slow. It is overload as far as load is what makes it so.
            let by_load = present / reckoned.pressure(&Load::default(), 0.0);
            return (by_load > OVERLOAD).then_some(by_load.min(BAD_NEWS));
        };
        let believed = reckoned.by_arrivals().unwrap_or(f64::INFINITY);
        let backlog = if present > 1.0 { present.min(BAD_NEWS) } else { 0.0 };
        Some(believed.clamp(hopeful, hopeful * BAD_NEWS).max(backlog).min(MOST))
    }
}

/// What one request's bounds are reckoned from, whatever the load.
#[derive(Clone, Copy)]
struct Reckoned<'a> {
    model: &'a BackendModel,
    asking: &'a Asking<'a>,
    arriving: &'a Arriving,
    /// Uncached prompt tokens that arrive per second.
    prefill: f64,
    /// By how much TTFT and ITL are longer than modelled, by recent news.
    biases: (f64, f64),
    /// From predictions to bounds: of TTFT, ITL and the whole answer.
    bounds: (f64, f64, f64),
}

impl<'a> Reckoned<'a> {
    fn new(
        model: &'a BackendModel,
        asking: &'a Asking<'a>,
        (margin, arriving): (f64, &'a Arriving),
        now: Moment,
    ) -> Option<Self> {
        let objectives = &asking.facts.objectives;
        if objectives.is_empty() {
            return None;
        }
        let alphas = Alphas::of(objectives, &model.tuning);
        let pair = model.pair(asking.route).copied().unwrap_or_else(|| PairModel::new(&alphas, now));
        let rested = now.since(model.observed);
        let bias = |factor: f64| if model.tuning.bias { factor } else { 1.0 };
        let bound = |factor: f64| if model.tuning.calibration { factor * margin.exp() } else { margin.exp() };
        Some(Self {
            model,
            asking,
            arriving,
            prefill: model.load.prefill_rate(now),
            biases: (bias(model.ttft_bias.factor(rested)), bias(model.itl_bias.factor(rested))),
            bounds: (bound(model.ttft_bounds.factor(alphas.ttft)), bound(pair.itl.factor()), bound(pair.e2e.factor())),
        })
    }

    /// The same without recent bad news.
    fn hopeful(&self) -> Self {
        Self { biases: (self.biases.0.min(1.0), self.biases.1.min(1.0)), ..*self }
    }

    /// What arrives over the most that could; `None` where nothing could.
    fn by_arrivals(&self) -> Option<f64> {
        if !self.fits(0.0) {
            return None;
        }
        if self.arriving.requests <= 0.0 {
            return Some(0.0);
        }
        let (mut below, mut above) = (0.0, 1.0);
        while self.fits(above) {
            (below, above) = (above, above * 2.0);
            if above > FARTHEST {
                return Some(0.0);
            }
        }
        for _ in 0..STEPS {
            let middle = f64::midpoint(below, above);
            if self.fits(middle) { below = middle } else { above = middle }
        }
        Some(1.0 / above)
    }

    /// Whether the promise would be kept if so many times as much arrived.
    fn fits(&self, times: f64) -> bool {
        let Some(load) = self.settled(times) else { return false };
        let there = load.streams + load.awaiting;
        self.arriving.room.is_none_or(|room| there <= f64::from(room))
            && self.pressure(&load, self.prefill * times) <= 1.0
    }

    /// The load in the long run; `None` where it grows without end.
    fn settled(&self, times: f64) -> Option<Load> {
        let (requests, output) = (self.arriving.requests * times, self.arriving.output_tokens * times);
        let held = self.prompt() + self.asking.output.mean / 2.0;
        let mut load = Load::default();
        for _ in 0..ROUNDS {
            let (first, gap) = self.expected(&load, self.prefill * times);
            (load.streams, load.awaiting) = (output * gap, requests * first);
            load.waiting_tokens = load.awaiting * self.prompt();
            load.kv_tokens = (load.streams + load.awaiting) * held;
            if load.streams + load.awaiting > TOO_MANY {
                return None;
            }
        }
        Some(load)
    }

    /// TTFT and the gap between tokens, in seconds, of a request that comes to such a load.
    fn expected(&self, load: &Load, prefill: f64) -> (f64, f64) {
        let streams = load.streams + load.awaiting + 1.0;
        let first = self.model.ttft.predict(&features::ttft(load, self.prompt()));
        let gap = self.model.itl.predict(&features::itl(streams, load.kv_tokens + self.prompt(), prefill));
        (first * self.biases.0, gap * self.biases.1)
    }

    /// The largest ratio of a bound to what was promised, under a load.
    fn pressure(&self, load: &Load, prefill: f64) -> f64 {
        let (first, gap) = self.expected(load, prefill);
        let whole = first + self.asking.output.upper * gap;
        let over = |seconds: f64, objective: Option<Objective>| {
            objective.map_or(0.0, |objective| seconds / objective.threshold.as_secs_f64().max(1e-9))
        };
        let promised = &self.asking.facts.objectives;
        over(first * self.bounds.0, promised.ttft)
            .max(over(gap * self.bounds.1, promised.itl))
            .max(over(whole * self.bounds.2, promised.e2e))
    }

    #[allow(clippy::cast_precision_loss, reason = "token counts are far below 2^52")]
    fn prompt(&self) -> f64 {
        self.asking.facts.input_tokens as f64
    }
}
