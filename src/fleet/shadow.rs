//! What a second policy would have done: it decides on the same snapshots and serves nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::Fleet;
use super::route::{LiveRoute, Pair};
use crate::route::decision::{Decision, Verdict};

/// What a shadow would have sent to one backend of a route, counted. Written under the desk's lock only.
#[derive(Debug, Default)]
pub(super) struct ShadowCounts {
    /// By whether it agreed with the policy in force, then by whether its choice was expected to keep the promise.
    choices: [[AtomicU64; 2]; 2],
    /// The sum of prices, as bits.
    cost: AtomicU64,
}

/// What a shadow would have done, in numbers.
#[derive(Debug, Clone, PartialEq)]
pub struct ShadowFigures {
    /// The route.
    pub route: Arc<str>,
    /// The backend; `None` for what it would have turned away.
    pub backend: Option<Arc<str>>,
    /// Decisions by whether it agreed, then by whether its choice was expected to keep the promise.
    pub choices: [[u64; 2]; 2],
    /// What its choices were expected to cost.
    pub cost: f64,
}

impl ShadowCounts {
    fn count(&self, agrees: bool, keeps: bool, price: Option<f64>) {
        if let Some(counter) = self.choices.get(usize::from(agrees)).and_then(|row| row.get(usize::from(keeps))) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
        if let Some(price) = price {
            let sum = f64::from_bits(self.cost.load(Ordering::Relaxed)) + price;
            self.cost.store(sum.to_bits(), Ordering::Relaxed);
        }
    }

    fn figures(&self, route: &LiveRoute, backend: Option<&Arc<str>>) -> Option<ShadowFigures> {
        let choices = self.choices.each_ref().map(|row| row.each_ref().map(|one| one.load(Ordering::Relaxed)));
        let any = choices.iter().flatten().any(|count| *count > 0);
        any.then(|| ShadowFigures {
            route: Arc::clone(route.name()),
            backend: backend.cloned(),
            choices,
            cost: f64::from_bits(self.cost.load(Ordering::Relaxed)),
        })
    }
}

impl Fleet {
    /// Counts what the shadow decided beside what was decided.
    pub(super) fn count_shadow(&self, route: &LiveRoute, live: &Decision, shadow: &Decision) {
        let choice = |decision: &Decision| decision.chosen.map(|(backend, _)| backend);
        let agrees = choice(live) == choice(shadow);
        let Some(chosen) = shadow.of_chosen() else {
            return route.counts.shadow.count(agrees, false, None);
        };
        let pair = self.backends().get(chosen.backend.0).and_then(|backend| route.pair(backend.name()));
        if let Some(pair) = pair {
            pair.shadow.count(agrees, chosen.verdict == Verdict::Keeps, chosen.price);
        }
    }

    /// What shadows would have done, of every route that has or had one.
    #[must_use]
    pub fn shadows(&self) -> Vec<ShadowFigures> {
        let of_route = |route: &Arc<LiveRoute>| {
            let pairs =
                route.pairs.iter().filter_map(|pair: &Arc<Pair>| pair.shadow.figures(route, Some(&pair.backend)));
            let none = route.counts.shadow.figures(route, None);
            pairs.chain(none).collect::<Vec<_>>()
        };
        self.routes().iter().flat_map(of_route).collect()
    }
}
