//! The backend with the fewest requests in flight; ties are drawn.

use super::assess::{assess_all, trivial};
use super::{Policy, PolicyState};
use crate::route::decision::{Decision, Reason};
use crate::route::snapshot::{Candidate, FleetSnapshot, RequestFacts};

/// The rule.
#[derive(Debug, Clone, Copy)]
pub struct LeastInFlight;

impl Policy for LeastInFlight {
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
        let least = fleet.open().map(Candidate::weighed_in_flight).fold(f64::INFINITY, f64::min);
        let tied = || fleet.open().filter(|one| one.weighed_in_flight() <= least);
        let drawn = state.random.below(tied().count());
        decision.chosen = tied().nth(drawn).map(|one| (one.backend, Reason::LeastInFlight));
    }
}
