//! How a route's policy is asked: on what, and what its answer looks like afterwards.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use super::Fleet;
use super::decisions::Decided;
use super::dispatch::{NoCandidate, Request};
use super::grouping::Scope;
use super::route::LiveRoute;
use crate::measure::exchange::{BackendLoad, DecisionSummary};
use crate::route::decision::{Assessment, Decision};
use crate::route::model::Asking;
use crate::route::policy::{PolicyKind, PolicyState};
use crate::route::prefix::Prefix;
use crate::route::scarcity::Scarcity;
use crate::route::slow_start;
use crate::route::snapshot::{Candidate, FleetSnapshot, Forecast, RequestFacts};
use crate::route::tuning::Tuning;

/// Where a request would go now.
#[derive(Debug, Clone)]
pub struct Explanation {
    /// The route.
    pub route: Arc<str>,
    /// What would be decided.
    pub verdict: Decided,
    /// What it would be chosen from.
    pub candidates: Vec<(Arc<str>, Assessment)>,
    /// What the route's shadow would decide.
    pub shadow: Option<Decided>,
    /// Why nothing was chosen from.
    pub refused: Option<NoCandidate>,
}

impl Fleet {
    /// Where such a request would go now; nothing is sent, counted or remembered. `None` when there is no such route.
    #[must_use]
    pub fn explain(&self, route: &str, request: &Request<'_>, now: Instant) -> Option<Explanation> {
        let route = self.routes().iter().find(|one| &**one.name() == route)?;
        let (mut candidates, mut decision) = (Vec::new(), Decision::default());
        let scope =
            route.split.as_ref().zip(request.group).map_or(Scope::Route, |(split, group)| Scope::Group(split, group));
        let asked = asking(route, request);
        let passed_over = self.gather((route, scope), (request, &asked), &[], &mut candidates, now);
        let copy = |state: &Mutex<PolicyState>| state.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut state = copy(&route.counts.policy);
        let (scarcity, asked) = (self.desk().scarcity, (&request.facts, Tuning::default()));
        let policy = route.settings().policy;
        decide_in_slow_start(route, policy, asked, (&mut candidates, scarcity), (&mut state, &mut decision));
        let name = |one: &Assessment| Some((Arc::clone(self.backends().get(one.backend.0)?.name()), *one));
        let nothing = decision.chosen.is_none() && decision.turned_away.is_none();
        let mut explanation = Explanation {
            route: Arc::clone(route.name()),
            verdict: Decided::of(&decision),
            candidates: decision.candidates.iter().filter_map(name).collect(),
            shadow: None,
            refused: nothing.then(|| passed_over.reason()),
        };
        if let Some(policy) = route.shadow_policy() {
            let mut state = copy(&route.counts.shadow_policy);
            decide(route, policy, asked, (&candidates, scarcity), (&mut state, &mut decision));
            explanation.shadow = Some(Decided::of(&decision));
        }
        Some(explanation)
    }
}

pub(super) fn asking<'a>(route: &LiveRoute, request: &'a Request<'_>) -> Asking<'a> {
    let (output, offsets) = {
        let model = route.counts.model();
        (model.output(request.facts.max_tokens), model.offsets())
    };
    let prefix = if route.follows_prefixes() { request.prefix } else { Prefix::default() };
    Asking { facts: &request.facts, route: route.counts.slot, prefix, output, offsets }
}

/// Lets the route's policy decide.
pub(super) fn choose(
    (route, state): (&LiveRoute, &Mutex<PolicyState>),
    request: &Request<'_>,
    fleet: (&mut [Candidate], Scarcity),
    decision: &mut Decision,
) {
    let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
    let probes = Tuning::default().probes && !request.hedge;
    let asked = (&request.facts, Tuning { probes, ..Tuning::default() });
    decide_in_slow_start(route, route.settings().policy, asked, fleet, (&mut state, decision));
}

/// Some of the candidates may have begun to serve not long ago: the request looks at them with a chance only, unless
/// those that it looks at cannot keep its promise.
fn decide_in_slow_start(
    route: &LiveRoute,
    policy: PolicyKind,
    asked: (&RequestFacts, Tuning),
    (candidates, scarcity): (&mut [Candidate], Scarcity),
    (state, decision): (&mut PolicyState, &mut Decision),
) {
    let some_held_back = policy.hold_back(candidates, state);
    decide(route, policy, asked, (candidates, scarcity), (state, decision));
    if some_held_back && decision.is_doomed_or_turned_away() {
        slow_start::release(candidates);
        decide(route, policy, asked, (candidates, scarcity), (state, decision));
    }
}

/// Lets the route's shadow decide.
pub(super) fn shadow(
    route: &LiveRoute,
    policy: PolicyKind,
    facts: &RequestFacts,
    fleet: (&[Candidate], Scarcity),
    decision: &mut Decision,
) {
    let mut state = route.counts.shadow_policy.lock().unwrap_or_else(PoisonError::into_inner);
    decide(route, policy, (facts, Tuning::default()), fleet, (&mut state, decision));
}

fn decide(
    route: &LiveRoute,
    policy: PolicyKind,
    (facts, tuning): (&RequestFacts, Tuning),
    (candidates, scarcity): (&[Candidate], Scarcity),
    (state, decision): (&mut PolicyState, &mut Decision),
) {
    let learned = *route.counts.model();
    let snapshot = FleetSnapshot {
        candidates,
        route: &learned,
        on_overload: route.on_overload(),
        priority: route.settings().priority,
        scarcity,
        tuning: &tuning,
    };
    policy.rule().choose(facts, &snapshot, state, decision);
}

/// The decision as the exchange's record has it.
pub(super) fn summarise(decision: &Decision, number: u64, load: BackendLoad) -> DecisionSummary {
    let reason = decision.chosen.map_or("", |(_, reason)| reason.as_str());
    let feasible = decision.is_feasible();
    let candidates = decision.candidates.len();
    let Some(chosen) = decision.of_chosen() else {
        return DecisionSummary { number, reason, feasible, candidates, load, ..DecisionSummary::default() };
    };
    let split = |one: Option<Forecast>| (one.map(|one| one.expected()), one.map(|one| one.bound()));
    let ((predicted_ttft, bound_ttft), (predicted_itl, bound_itl)) = (split(chosen.ttft), split(chosen.itl));
    let (predicted_e2e, bound_e2e) = split(Some(chosen.e2e));
    DecisionSummary {
        number,
        reason,
        feasible,
        predicted_ttft,
        bound_ttft,
        predicted_itl,
        bound_itl,
        predicted_e2e,
        bound_e2e,
        price: chosen.price,
        prefix_tokens: chosen.prefix_tokens,
        candidates,
        load,
    }
}
