//! The latest decisions, with their candidates and reasons, for whoever asks why a request went where it went.

use std::sync::Arc;
use std::time::Instant;

use crate::route::decision::{Assessment, Decision, Reason};
use crate::route::snapshot::BackendIndex;

/// How many decisions are remembered.
pub const REMEMBERED: usize = 1_000;

/// One decision.
#[derive(Debug, Clone)]
pub struct DecisionRecord {
    /// Counts all decisions of the process.
    pub number: u64,
    /// When it was made.
    pub at: Instant,
    /// On which route.
    pub route: Arc<str>,
    /// Which backend, and why; indices are those of the generation that decided.
    pub chosen: Option<(BackendIndex, Reason)>,
    /// Estimated prompt tokens of the request.
    pub input_tokens: u64,
    /// What it was chosen from, in the order of the configuration.
    pub candidates: Vec<(Arc<str>, Assessment)>,
}

/// A ring that allocates nothing once it has been round.
#[derive(Debug, Default)]
pub(super) struct DecisionLog {
    ring: Vec<DecisionRecord>,
    made: u64,
}

impl DecisionLog {
    /// Remembers a decision.
    pub(super) fn add(
        &mut self,
        (route, input_tokens): (&Arc<str>, u64),
        decision: &Decision,
        name: impl Fn(BackendIndex) -> Option<Arc<str>>,
        now: Instant,
    ) {
        let place = usize::try_from(self.made % REMEMBERED as u64).unwrap_or_default();
        self.made += 1;
        let named = decision.candidates.iter().filter_map(|one| Some((name(one.backend)?, *one)));
        let Some(old) = self.ring.get_mut(place) else {
            self.ring.push(DecisionRecord {
                number: self.made,
                at: now,
                route: Arc::clone(route),
                chosen: decision.chosen,
                input_tokens,
                candidates: named.collect(),
            });
            return;
        };
        (old.number, old.at, old.chosen, old.input_tokens) = (self.made, now, decision.chosen, input_tokens);
        old.route.clone_from(route);
        old.candidates.clear();
        old.candidates.extend(named);
    }

    /// Oldest first.
    pub(super) fn snapshot(&self) -> Vec<DecisionRecord> {
        let mut all = self.ring.clone();
        all.sort_unstable_by_key(|one| one.number);
        all
    }
}
