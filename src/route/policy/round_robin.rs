//! One after the other, in the order of the configuration; backends that come and go do not disturb the turn.

use super::assess::{assess_all, trivial};
use super::{Policy, PolicyState};
use crate::route::decision::{Decision, Reason};
use crate::route::snapshot::{FleetSnapshot, RequestFacts};

/// The rule.
#[derive(Debug, Clone, Copy)]
pub struct RoundRobin;

impl Policy for RoundRobin {
    fn choose(
        &self,
        request: &RequestFacts,
        fleet: &FleetSnapshot<'_>,
        state: &mut PolicyState,
        decision: &mut Decision,
    ) {
        assess_all(request, fleet, decision);
        if !trivial(fleet, decision) {
            let all = || fleet.open().map(|one| one.backend);
            let next = all().filter(|one| Some(*one) > state.last).min().or_else(|| all().min());
            decision.chosen = next.map(|one| (one, Reason::RoundRobin));
        }
        state.last = decision.chosen.map(|(one, _)| one);
    }
}
