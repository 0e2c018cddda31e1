//! Two different backends at random; the one with fewer requests in flight wins.

use super::assess::{assess_all, trivial};
use super::{Policy, PolicyState};
use crate::route::decision::{Decision, Reason};
use crate::route::snapshot::{FleetSnapshot, RequestFacts};

/// The rule.
#[derive(Debug, Clone, Copy)]
pub struct PowerOfTwo;

impl Policy for PowerOfTwo {
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
        let count = fleet.open().count();
        let first = state.random.below(count);
        // The second is drawn from the others, so the two always differ.
        let second = (first + 1 + state.random.below(count - 1)) % count;
        let drawn = [first, second].into_iter().filter_map(|place| fleet.open().nth(place));
        decision.chosen = drawn
            .min_by(|one, other| one.weighed_in_flight().total_cmp(&other.weighed_in_flight()))
            .map(|one| (one.backend, Reason::PowerOfTwo));
    }
}
