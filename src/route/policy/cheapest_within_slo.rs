//! The cheapest backend that is expected to keep the route's objectives.
//!
//! Feasible is a candidate whose bounds, under its present load, keep every objective. Of the feasible ones the
//! cheapest is taken; of those within 5 % of its price the one with the most headroom. When none is feasible, one that is
//! unknown may be; else the one that misses least. A share of requests explores what too little is known of.

use super::assess::{assess_all, expected_output, trivial};
use super::{Policy, PolicyState, explore};
use crate::route::decision::{Assessment, Decision, Reason};
use crate::route::price::Cost;
use crate::route::snapshot::{BackendIndex, Candidate, FleetSnapshot, RequestFacts};

/// Prices so close are the same.
const SAME_PRICE: f64 = 0.05;

/// The rule.
#[derive(Debug, Clone, Copy)]
pub struct CheapestWithinSlo;

impl Policy for CheapestWithinSlo {
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
        let cost = |candidate: &Candidate| {
            let of_request = |price: &crate::route::price::Price| {
                price.of_request(request.input_tokens, expected_output(request, fleet))
            };
            candidate.price.as_ref().map_or(Cost::Unknown, of_request)
        };
        let pick = cheapest(fleet, decision, cost);
        let pick_cost = pick.and_then(|pick| fleet.candidates.iter().find(|one| one.backend == pick)).map(cost);
        // A backend that missed the promise long ago is worth another look only if it would be the better choice.
        let better = |backend: BackendIndex| {
            let candidate = fleet.candidates.iter().find(|one| one.backend == backend);
            let cheaper = |pick_cost: &Cost| candidate.is_some_and(|one| cost(one).order(pick_cost).is_lt());
            pick_cost.as_ref().is_none_or(cheaper)
        };
        decision.chosen = explore::turn(fleet, decision, state, better)
            .map(|backend| (backend, Reason::Explore))
            .or(pick.map(|backend| (backend, Reason::CheapestWithinSlo)))
            .or_else(|| unknown(fleet, decision).map(|backend| (backend, Reason::Explore)))
            .or_else(|| least_missing(decision).map(|backend| (backend, Reason::BestEffort)))
            .or_else(|| least_known(fleet).map(|backend| (backend, Reason::Explore)));
    }
}

fn cheapest(fleet: &FleetSnapshot<'_>, decision: &Decision, cost: impl Fn(&Candidate) -> Cost) -> Option<BackendIndex> {
    let feasible = || {
        let both = fleet.candidates.iter().zip(&decision.candidates);
        both.filter(|(_, thought)| thought.load.is_some_and(|load| load <= 1.0))
    };
    let least = feasible().map(|(candidate, _)| cost(candidate)).min_by(Cost::order)?;
    feasible()
        .filter(|(candidate, _)| cost(candidate).near(&least, SAME_PRICE))
        .min_by(|(_, one), (_, other)| headroom(one, other))
        .map(|(candidate, _)| candidate.backend)
}

fn headroom(one: &Assessment, other: &Assessment) -> std::cmp::Ordering {
    let load = |thought: &Assessment| thought.load.unwrap_or_default();
    load(one).total_cmp(&load(other)).then_with(|| one.in_flight.cmp(&other.in_flight))
}

/// Where nobody is known to keep the promise, one of whom it is not known may; still one request at a time.
fn unknown(fleet: &FleetSnapshot<'_>, decision: &Decision) -> Option<BackendIndex> {
    let both = fleet.candidates.iter().zip(&decision.candidates);
    let free = both.filter(|(candidate, thought)| thought.load.is_none() && candidate.exploring == 0);
    free.min_by_key(|(candidate, _)| candidate.in_flight).map(|(candidate, _)| candidate.backend)
}

fn least_missing(decision: &Decision) -> Option<BackendIndex> {
    let known = decision.candidates.iter().filter(|one| one.load.is_some());
    known.min_by(|one, other| headroom(one, other)).map(|one| one.backend)
}

/// Nothing is known of anybody: the idlest, and of those the one seen least.
fn least_known(fleet: &FleetSnapshot<'_>) -> Option<BackendIndex> {
    fleet.candidates.iter().min_by_key(|one| (one.in_flight, one.ttft.samples)).map(|one| one.backend)
}
