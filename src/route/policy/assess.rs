//! What a policy thinks of one candidate: expected latencies, their bounds, and how close they come to the promise.
//!
//! A window says how latencies were under the load that was usual there. Under more load they grow, under less they
//! shrink; how much depends on the engine, and this first rule reckons simply: with r = (1 + in flight) ÷ (1 + usually
//! in flight), TTFT grows like r (prompts queue for prefill) and ITL and the whole answer like √r (one decoding batch
//! serves all). Shrinking stops at a half, so that an idle backend is not believed to be cured by being idle.

use std::time::Duration;

use crate::measure::objective::Objective;
use crate::route::decision::{Assessment, Decision, Reason};
use crate::route::snapshot::{BackendIndex, Candidate, FleetSnapshot, Observed, RequestFacts};

/// Below so many samples a window says nothing.
const FEWEST: u64 = 10;
/// What is added to an estimate while the samples are too few for a bound.
const CAUTION: f64 = 1.3;
/// How far load moves a latency, at most.
const PRESSURE: (f64, f64) = (0.5, 4.0);

/// Fills in the candidates; no choice is made yet.
pub(super) fn assess_all(request: &RequestFacts, fleet: &FleetSnapshot<'_>, decision: &mut Decision) {
    decision.chosen = None;
    decision.candidates.clear();
    let expected_output = expected_output(request, fleet);
    let assess = |candidate| assess(request, candidate, expected_output);
    decision.candidates.extend(fleet.candidates.iter().map(assess));
}

/// Settles a choice between no candidates and one; answers whether that was all there was to do.
pub(super) fn trivial(fleet: &FleetSnapshot<'_>, decision: &mut Decision) -> bool {
    if let [only] = fleet.candidates {
        decision.chosen = Some((only.backend, Reason::OnlyCandidate));
    }
    fleet.candidates.len() < 2
}

/// Whether a candidate has a place left. The caller has filtered already; a policy does not rely on it.
pub(super) fn has_room(candidate: &Candidate) -> bool {
    candidate.max_in_flight.is_none_or(|most| candidate.in_flight < most)
}

/// The candidate with the fewest requests in flight; the first such.
pub(super) fn idlest(fleet: &FleetSnapshot<'_>) -> Option<BackendIndex> {
    fleet.candidates.iter().min_by_key(|one| one.in_flight).map(|one| one.backend)
}

fn assess(request: &RequestFacts, candidate: &Candidate, expected_output: u64) -> Assessment {
    let pressure = (1.0 + f64::from(candidate.in_flight)) / (1.0 + candidate.usual_in_flight.max(0.0));
    let (prefill, decode) = (pressure, pressure.sqrt());
    let ttft = expect(&candidate.ttft, prefill);
    let itl = expect(&candidate.itl, decode);
    let e2e = expect(&candidate.e2e, decode);
    let objectives = &request.objectives;
    let streamed = |objective: Option<Objective>| objective.filter(|_| request.stream);
    let promised = [(streamed(objectives.ttft), ttft), (streamed(objectives.itl), itl), (objectives.e2e, e2e)];
    let promised = || promised.iter().filter_map(|(objective, expected)| Some((objective.as_ref()?, *expected)));
    // Too little known of one latency is too little known, unless another is missed for certain.
    let worst = promised().filter_map(|(objective, expected)| Some(ratio(objective, expected?))).fold(0.0, f64::max);
    let unknown = promised().any(|(_, expected)| expected.is_none());
    let load = (!unknown || worst > 1.0).then_some(worst);
    let price = candidate.price.and_then(|price| price.of_request(request.input_tokens, expected_output).value());
    Assessment { backend: candidate.backend, ttft, itl, e2e, load, price, in_flight: candidate.in_flight }
}

/// The expected latency and its bound under the present load.
fn expect(observed: &Observed, pressure: f64) -> Option<(Duration, Duration)> {
    let estimate = observed.estimate.filter(|_| observed.samples >= FEWEST)?;
    let bound = observed.bound.unwrap_or_else(|| estimate.mul_f64(CAUTION));
    let pressure = pressure.clamp(PRESSURE.0, PRESSURE.1);
    Some((estimate.mul_f64(pressure), bound.mul_f64(pressure)))
}

/// Bound ÷ threshold.
fn ratio(objective: &Objective, (_, bound): (Duration, Duration)) -> f64 {
    bound.as_secs_f64() / objective.threshold.as_secs_f64().max(1e-9)
}

/// Output tokens to expect of the request.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a mean of token counts")]
pub(super) fn expected_output(request: &RequestFacts, fleet: &FleetSnapshot<'_>) -> u64 {
    fleet.route.output(request.max_tokens).mean as u64
}
