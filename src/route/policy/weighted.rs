//! In proportion to weights, evenly spread: smooth weighted round robin, as nginx does it.
//!
//! Each request gives every candidate its weight in credit; the richest serves and pays the sum of the weights.

use super::assess::{assess_all, trivial};
use super::{Policy, PolicyState};
use crate::route::decision::{Decision, Reason};
use crate::route::snapshot::{Candidate, FleetSnapshot, RequestFacts};

/// The rule.
#[derive(Debug, Clone, Copy)]
pub struct Weighted;

impl Policy for Weighted {
    fn choose(
        &self,
        request: &RequestFacts,
        fleet: &FleetSnapshot<'_>,
        state: &mut PolicyState,
        decision: &mut Decision,
    ) {
        assess_all(request, fleet, decision);
        if trivial(fleet, decision) {
            return;
        }
        let longest = fleet.open().map(|one| one.backend.0 + 1).max().unwrap_or_default();
        if state.credit.len() < longest {
            state.credit.resize(longest, 0);
        }
        let mut total = 0;
        let mut richest = None;
        for candidate in fleet.open() {
            let Some(credit) = state.credit.get_mut(candidate.backend.0) else { continue };
            let weight = weight(candidate);
            *credit += weight;
            total += weight;
            if richest.is_none_or(|(most, _)| *credit > most) {
                richest = Some((*credit, candidate.backend));
            }
        }
        let Some((_, chosen)) = richest else { return };
        if let Some(credit) = state.credit.get_mut(chosen.0) {
            *credit -= total;
        }
        decision.chosen = Some((chosen, Reason::Weighted));
    }
}

/// In thousandths, so that one that began not long ago can count for a part.
#[allow(clippy::cast_possible_truncation, reason = "a part of a weight, times a thousand")]
fn weight(candidate: &Candidate) -> i64 {
    (f64::from(candidate.weight) * candidate.ramp * 1_000.0).round() as i64
}
