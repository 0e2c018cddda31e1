//! What this replica knows of one backend: its load, and what was learned of its latencies.
//!
//! One value per backend, driven by four calls: [`BackendModel::outlook`] before a decision, then
//! [`BackendModel::dispatched`], [`BackendModel::first_token`], [`BackendModel::tokens`] and [`BackendModel::ended`].
//! The proxy keeps it under a short lock, the policy simulator owns it.

mod capacity;
mod features;
mod learned;
mod measured;
mod observe;
mod pair;
mod probing;
mod quantiles;
mod route;
mod ticket;
mod usual;
mod view;

#[cfg(test)]
mod tests;

use std::time::Instant;

pub use capacity::Arriving;
pub use learned::{BackendLearned, PairLearned, RouteLearned, TrackerLearned};
pub use measured::Measured;
pub use route::{Output, RouteModel, allowed_misses};
pub use ticket::{How, Ticket};
pub use usual::{Fall, Offsets};

use self::pair::{Alphas, BIAS_RANGE, PairModel};
use self::probing::Probing;
use self::quantiles::Quantiles;
use super::calibrate::{Bias, Span};
use super::load::{BackendLoad, EngineReport, OtherLoad};
use super::moment::Moment;
use super::predict::Rls;
use super::prefix::{Prefix, PrefixIndex};
use super::snapshot::{RequestFacts, RouteSlot};
use super::tuning::Tuning;

/// TTFT trackers.
const TTFT: Span = Span { start: 0.4, range: (-0.5, 1.5) };
/// The most routes a backend tells apart; those beyond share the last slot.
const MOST_ROUTES: usize = 1_024;
/// The gap between tokens that is usual before any was seen, in seconds.
const USUAL_GAP: f64 = 0.03;
/// Share of an engine's key/value cache that is taken to hold prompts of the past.
const CACHE_SHARE: f64 = 0.5;
/// Tokens in a block, for sizing the index.
const BLOCK_TOKENS: f64 = 512.0;

/// A request that asks what a backend would make of it.
#[derive(Debug, Clone, Copy)]
pub struct Asking<'a> {
    /// Sizes and objectives.
    pub facts: &'a RequestFacts,
    /// Its route.
    pub route: RouteSlot,
    /// Its prompt's blocks; empty when there are none.
    pub prefix: Prefix<'a>,
    /// Output tokens to expect: [`RouteModel::output`].
    pub output: Output,
    /// How far answers of its route usually fall from what is expected: [`RouteModel::offsets`].
    pub offsets: Offsets,
}

/// What this replica knows of one backend.
#[derive(Debug, Clone)]
pub struct BackendModel {
    tuning: Tuning,
    /// When nothing was known.
    born: Instant,
    load: BackendLoad,
    prefix: PrefixIndex,
    ttft: Rls,
    itl: Rls,
    ttft_bias: Bias,
    itl_bias: Bias,
    ttft_bounds: Quantiles,
    /// When a first token was last seen.
    observed: Moment,
    /// The usual gap between tokens, in seconds.
    gap: f64,
    probing: Probing,
    /// Whether something on the way held the latest first token back: what then comes late says nothing of the backend.
    held_back: bool,
    /// By the route's slot.
    pairs: Vec<Option<PairModel>>,
    /// Requests sent so far; numbers tickets.
    requests: u64,
    /// How often the books were opened anew.
    books: u64,
}

impl BackendModel {
    /// Nothing is known yet: starts from priors that fit models of about eight billion parameters.
    #[must_use]
    pub fn new(tuning: Tuning, now: Instant) -> Self {
        Self {
            tuning,
            born: now,
            load: BackendLoad::new(Moment::START),
            prefix: PrefixIndex::new(prefix_blocks(tuning.kv_capacity)),
            ttft: Rls::new(features::TTFT),
            itl: Rls::new(features::ITL),
            ttft_bias: Bias::default(),
            itl_bias: Bias::default(),
            ttft_bounds: Quantiles::new(TTFT),
            observed: Moment::START,
            gap: USUAL_GAP,
            probing: Probing::new(&tuning),
            held_back: false,
            pairs: Vec::new(),
            requests: 0,
            books: 0,
        }
    }

    /// What is in flight there.
    #[must_use]
    pub fn load(&self) -> &BackendLoad {
        &self.load
    }

    /// Whether no request was ever sent there: what it knows, if anything, was given to it.
    #[must_use]
    pub fn is_unused(&self) -> bool {
        self.requests == 0
    }

    /// The backend was taken out of service: its books and its prefix index are void, what was learned stays.
    pub fn ejected(&mut self) {
        self.books += 1;
        self.load.clear();
        self.prefix.clear();
        self.probing.clear();
    }

    /// What other replicas have in flight there.
    pub fn others(&mut self, others: OtherLoad) {
        self.load.others(others);
    }

    /// What the engine says is in it: what is more than our own and the other replicas' load is someone else's.
    pub fn engine_reported(&mut self, report: EngineReport, now: Instant) {
        if self.tuning.engine_correction {
            self.load.engine_reported(report, self.moment(now));
        }
    }

    /// The engine's key/value cache holds so many tokens. A size other than before empties the prefix index.
    pub fn kv_capacity(&mut self, tokens: f64) {
        let blocks = prefix_blocks(tokens);
        if blocks != self.prefix.capacity() {
            self.prefix = PrefixIndex::new(blocks);
        }
    }

    /// All it has learned that is worth keeping.
    #[must_use]
    pub fn learned(&self) -> BackendLearned {
        BackendLearned {
            ttft: self.ttft.learned(),
            itl: self.itl.learned(),
            ttft_bias: self.ttft_bias.value(),
            itl_bias: self.itl_bias.value(),
            ttft_bounds: self.ttft_bounds.learned(),
            gap: self.gap,
            pairs: self.pairs.iter().map(|pair| pair.as_ref().map(PairModel::learned)).collect(),
        }
    }

    /// Goes on from what was learned; what is not finite is ignored.
    pub fn resume(&mut self, learned: &BackendLearned, now: Instant) {
        let now = self.moment(now);
        self.ttft.resume(learned.ttft);
        self.itl.resume(learned.itl);
        self.ttft_bias.resume(learned.ttft_bias, BIAS_RANGE);
        self.itl_bias.resume(learned.itl_bias, BIAS_RANGE);
        self.ttft_bounds.resume(&learned.ttft_bounds);
        if learned.gap.is_finite() && learned.gap > 0.0 {
            self.gap = learned.gap;
        }
        let (usual, tuning) = (Alphas::of(&RequestFacts::default().objectives, &self.tuning), self.tuning);
        for (slot, pair) in learned.pairs.iter().enumerate().take(MOST_ROUTES) {
            let own = pair.as_ref().and_then(|pair| Some((pair, self.pair_mut(RouteSlot(slot), &usual, now)?)));
            if let Some((learned, own)) = own {
                own.resume(learned, &tuning);
            }
        }
    }

    fn moment(&self, now: Instant) -> Moment {
        Moment::of(now, self.born)
    }

    /// What is usual on the request's route, as far as it counts.
    fn offsets(&self, asking: &Asking<'_>) -> Offsets {
        if self.tuning.pooling { asking.offsets } else { Offsets::default() }
    }

    /// What is known of a route here.
    fn pair(&self, route: RouteSlot) -> Option<&PairModel> {
        self.pairs.get(slot(route))?.as_ref()
    }

    fn pair_mut(&mut self, route: RouteSlot, alphas: &Alphas, now: Moment) -> Option<&mut PairModel> {
        let slot = slot(route);
        if self.pairs.len() <= slot {
            self.pairs.resize(slot + 1, None);
        }
        let pair = self.pairs.get_mut(slot)?;
        Some(pair.get_or_insert_with(|| PairModel::new(alphas, &self.tuning, now)))
    }
}

fn slot(route: RouteSlot) -> usize {
    route.0.min(MOST_ROUTES - 1)
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the index bounds itself")]
fn prefix_blocks(kv_capacity: f64) -> usize {
    (CACHE_SHARE * kv_capacity / BLOCK_TOKENS) as usize
}
