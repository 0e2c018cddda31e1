//! The cheapest backend whose calibrated predictions keep the route's objectives.
//!
//! Feasible is a candidate whose bounds keep every objective. Of the feasible ones the cheapest is taken; of those within
//! 5 % of its price the one with the most headroom. Now and then a request finds out about a cheaper one that is passed
//! over. When none is feasible the central predictions decide; when those miss too, the request is doomed, and the route
//! says whether it is turned away or sacrificed: served where that costs little, so that the others stay fast. A route
//! that turns away at all does so first with the requests that need the most, and, the scarcer room is, with those that
//! would only just keep their promise.

use std::time::Duration;

use super::assess::{Promise, assess_all};
use super::least::least;
use super::{Policy, PolicyState, probe};
use crate::random::Random;
use crate::route::admission::OnOverload;
use crate::route::decision::{Assessment, Cause, Decision, Reason, TurnedAway, Verdict};
use crate::route::scarcity;
use crate::route::snapshot::{Candidate, FleetSnapshot, Outlook, RequestFacts};

/// How far a bound may miss and not be given up, where the central prediction has no say.
const DOOM: f64 = 2.5;
/// In scarcity a request is only tried where its central prediction is this much below the promise, at most: what
/// misses by a little has taken the room of one that would not have.
const CAUTION: f64 = 0.3;
/// How long a client that is turned away is told to wait, in seconds.
const RETRY: (f64, f64) = (1.0, 60.0);
/// How long an overload may last at least, in seconds: to those who make room for others.
const CALM: f64 = 10.0;
/// The share of it that is drawn, so that clients do not all come back at once.
const JITTER: f64 = 0.25;

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
        let random = &mut state.random;
        decision.need = needed(request, fleet);
        let too_much = decision.need.is_some_and(|need| !fleet.scarcity.admits(need));
        if too_much && fleet.on_overload != OnOverload::Sacrifice {
            decision.turned_away = turned_away(request, fleet, Cause::MakesRoom, random);
            return;
        }
        let picked = match cheapest(fleet, decision, random) {
            Some(pick) => Ok(with_probe(request, fleet, decision, pick)),
            None => infeasible(fleet, decision, random),
        };
        match picked {
            Ok((place, reason)) => {
                decision.chosen = decision.candidates.get(place).map(|one| (one.backend, reason));
            }
            Err(cause) if fleet.open().next().is_some() => {
                decision.turned_away = turned_away(request, fleet, cause, random);
            }
            Err(_) => {}
        }
    }
}

fn cheapest(fleet: &FleetSnapshot<'_>, decision: &Decision, random: &mut Random) -> Option<usize> {
    let feasible = || decision.candidates.iter().filter(|one| one.verdict == Verdict::Keeps);
    let most = if fleet.tuning.cost {
        feasible().map(cost).min_by(f64::total_cmp)? * (1.0 + fleet.tuning.same_price)
    } else {
        f64::INFINITY
    };
    let near = |one: &Assessment| one.verdict == Verdict::Keeps && cost(one) <= most;
    least(&decision.candidates, random, |one| near(one).then_some(one.pressure), in_flight)
}

/// What has no price comes last.
fn cost(one: &Assessment) -> f64 {
    one.price.unwrap_or(f64::INFINITY)
}

fn in_flight(one: &Assessment) -> f64 {
    f64::from(one.in_flight)
}

fn with_probe(request: &RequestFacts, fleet: &FleetSnapshot<'_>, decision: &Decision, pick: usize) -> (usize, Reason) {
    let probe = decision.candidates.get(pick).and_then(|one| probe::of_cheaper(request, fleet, decision, one));
    let reason = if fleet.candidates.len() == 1 { Reason::OnlyCandidate } else { Reason::CheapestWithinSlo };
    probe.map_or((pick, reason), |probe| (probe, Reason::Probe))
}

/// No bound keeps the objectives: where the request goes all the same, or why it is to be turned away.
fn infeasible(fleet: &FleetSnapshot<'_>, decision: &Decision, random: &mut Random) -> Result<(usize, Reason), Cause> {
    if let Some(place) = probe::of_unknown(fleet, decision) {
        return Ok((place, Reason::Probe));
    }
    let median = fleet.tuning.median_fallback;
    let miss = |one: &Assessment| if median { one.central_pressure } else { one.pressure };
    let open = |one: &Assessment| one.verdict.is_open();
    let best = least(&decision.candidates, random, |one| open(one).then(|| miss(one)), in_flight);
    let best = best.and_then(|place| Some((place, decision.candidates.get(place).map(miss)?)));
    let (best, least_miss) = best.ok_or(Cause::Doomed)?;
    let turns_away = fleet.on_overload != OnOverload::Sacrifice;
    if least_miss <= if median { 1.0 } else { DOOM } {
        let unlikely = median && least_miss > 1.0 - CAUTION * fleet.scarcity.severity();
        if turns_away && unlikely {
            return Err(Cause::MakesRoom);
        }
        return Ok((best, if median { Reason::MedianWithinSlo } else { Reason::BestEffort }));
    }
    if turns_away {
        return Err(Cause::Doomed);
    }
    if !fleet.tuning.sacrifice {
        return Ok((best, Reason::BestEffort));
    }
    let hopeful = |one: &Assessment| open(one) && miss(one) < fleet.tuning.sacrifice_most * least_miss;
    let cheapest = least(&decision.candidates, random, |one| hopeful(one).then(|| cost(one)), miss);
    Ok(cheapest.map_or((best, Reason::BestEffort), |place| (place, Reason::Sacrifice)))
}

/// What the request takes where it takes the least, weighed by its route's priority.
fn needed(request: &RequestFacts, fleet: &FleetSnapshot<'_>) -> Option<f64> {
    if !fleet.tuning.scarcity {
        return None;
    }
    let output = fleet.route.output(request.max_tokens).mean;
    let seconds = |one: &Candidate| {
        let outlook = &one.outlook;
        Some(outlook.uncached_tokens * outlook.prefill_seconds? + output * outlook.decode_seconds?)
    };
    let least = fleet.candidates.iter().filter_map(seconds).min_by(f64::total_cmp)?;
    Some(scarcity::need(least, fleet.priority))
}

fn turned_away(
    request: &RequestFacts,
    fleet: &FleetSnapshot<'_>,
    cause: Cause,
    random: &mut Random,
) -> Option<TurnedAway> {
    let promise = Promise::of(request);
    let output = fleet.route.output(request.max_tokens).mean;
    let drained = fleet.open().map(|one| drain(&promise, &one.outlook, output)).min_by(f64::total_cmp)?;
    let drain = if cause == Cause::MakesRoom { drained.max(CALM) } else { drained };
    let seconds = (drain * (1.0 + JITTER * random.share())).clamp(RETRY.0, RETRY.1);
    let retry_after = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::from_secs(60));
    Some(match fleet.on_overload {
        OnOverload::Queue { .. } => TurnedAway::Wait { cause, retry_after },
        OnOverload::Shed | OnOverload::Sacrifice => TurnedAway::Shed { cause, retry_after },
    })
}

/// How long until such a request could keep its promise if nothing else arrived, in seconds: a queue of prompts drains
/// as fast as it delays, and a batch shrinks as its streams, half done on average, end.
fn drain(promise: &Promise, outlook: &Outlook, output: f64) -> f64 {
    let (ttft, itl, e2e) = (outlook.ttft.central, outlook.itl.central, outlook.e2e.central);
    let streams = if itl > promise.itl { output * itl / 2.0 * (1.0 - promise.itl / itl) } else { 0.0 };
    (ttft - promise.ttft).max(e2e - promise.e2e).max(streams).max(0.0)
}
