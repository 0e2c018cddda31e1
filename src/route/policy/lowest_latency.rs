//! The backend with the lowest expected latency, whatever it costs: of the whole answer, as its model expects it.

use super::assess::{assess_all, trivial};
use super::least::least;
use super::{Policy, PolicyState};
use crate::route::decision::{Decision, Reason};
use crate::route::snapshot::{Candidate, FleetSnapshot, RequestFacts};

/// The rule.
#[derive(Debug, Clone, Copy)]
pub struct LowestLatency;

impl Policy for LowestLatency {
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
        let open = |one: &crate::route::decision::Assessment| one.verdict.is_open();
        let expected = |one: &_| open(one).then_some(one.e2e.central);
        let fastest = least(&decision.candidates, &mut state.random, expected, |one| f64::from(one.in_flight));
        let (place, reason) = match forgotten(fleet) {
            Some(place) => (Some(place), Reason::Probe),
            None => (fastest, Reason::LowestLatency),
        };
        let chosen = place.and_then(|place| decision.candidates.get(place));
        decision.chosen = chosen.map(|one| (one.backend, reason));
    }
}

/// One that was slow gets no requests that could show it is not any more: now and then one finds out.
fn forgotten(fleet: &FleetSnapshot<'_>) -> Option<usize> {
    let probing = fleet.candidates.iter().any(|one| one.outlook.probing);
    let due = |one: &Candidate| one.has_room() && one.outlook.idle && one.outlook.probe_due;
    fleet.candidates.iter().position(due).filter(|_| fleet.tuning.probes && !probing)
}
