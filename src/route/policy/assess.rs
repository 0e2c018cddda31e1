//! What a policy thinks of one candidate: how close its expected latencies come to the promise, and what it costs.

use crate::measure::objective::Objective;
use crate::route::decision::{Assessment, Decision, Reason, Verdict};
use crate::route::price::Work;
use crate::route::snapshot::{Candidate, FleetSnapshot, Forecast, RequestFacts};

/// How much a request that slows residents below their promise is worse than the promise it breaks.
const RESIDENTS: f64 = 0.5;

/// What was promised, in seconds; infinite where nothing was.
#[derive(Debug, Clone, Copy)]
pub(super) struct Promise {
    pub(super) ttft: f64,
    pub(super) itl: f64,
    pub(super) e2e: f64,
    /// What has passed already.
    waited: f64,
    /// One over each; 0 where nothing was promised. A decision multiplies often.
    inverse: (f64, f64, f64),
}

impl Promise {
    /// An unstreamed answer is judged by its end alone.
    pub(super) fn of(request: &RequestFacts) -> Self {
        let threshold = |objective: Option<Objective>| {
            objective.map_or(f64::INFINITY, |objective| objective.threshold.as_secs_f64().max(1e-9))
        };
        let streamed = |objective: Option<Objective>| threshold(objective.filter(|_| request.stream));
        let objectives = &request.objectives;
        let (ttft, itl, e2e) = (streamed(objectives.ttft), streamed(objectives.itl), threshold(objectives.e2e));
        let inverse = (1.0 / ttft, 1.0 / itl, 1.0 / e2e);
        Self { ttft, itl, e2e, waited: request.waited.as_secs_f64(), inverse }
    }

    /// The largest ratio of a latency, `times` as long, to what was promised.
    fn pressure(&self, ttft: f64, itl: f64, e2e: f64, times: f64) -> f64 {
        let first = (self.waited + ttft * times) * self.inverse.0;
        let whole = (self.waited + e2e * times) * self.inverse.2;
        first.max(itl * times * self.inverse.1).max(whole)
    }
}

/// Fills in the candidates; no choice is made yet.
pub(super) fn assess_all(request: &RequestFacts, fleet: &FleetSnapshot<'_>, decision: &mut Decision) {
    decision.chosen = None;
    decision.turned_away = None;
    decision.need = None;
    decision.candidates.clear();
    let promise = Promise::of(request);
    let margin = if fleet.tuning.margin { fleet.route.margin().exp() } else { 1.0 };
    let output_tokens = fleet.route.output(request.max_tokens).mean;
    let assess = |candidate| assess(candidate, &promise, margin, output_tokens, request.stream);
    decision.candidates.extend(fleet.candidates.iter().map(assess));
}

fn assess(candidate: &Candidate, promise: &Promise, margin: f64, output_tokens: f64, stream: bool) -> Assessment {
    let outlook = &candidate.outlook;
    let of = |part: fn(&Forecast) -> f64, times: f64| {
        promise.pressure(part(&outlook.ttft), part(&outlook.itl), part(&outlook.e2e), times)
    };
    let mut pressure = of(|one| one.bound, margin);
    if let Some(resident) = outlook.resident_itl.filter(|resident| *resident < promise.itl) {
        let slowed = outlook.itl.bound / resident;
        if slowed > 1.0 {
            pressure = pressure.max(1.0 + RESIDENTS * (slowed - 1.0));
        }
    }
    let central_pressure = of(|one| one.central, 1.0);
    let verdict = match () {
        () if candidate.held_back => Verdict::SlowStart,
        () if !candidate.has_room() => Verdict::Full,
        () if pressure <= 1.0 => Verdict::Keeps,
        () if central_pressure <= 1.0 => Verdict::MayKeep,
        () => Verdict::Misses,
    };
    let work = Work {
        uncached_tokens: outlook.uncached_tokens,
        cached_tokens: outlook.cached_tokens,
        output_tokens,
        prefill_seconds: outlook.prefill_seconds,
        decode_seconds: outlook.decode_seconds,
    };
    Assessment {
        backend: candidate.backend,
        ttft: stream.then_some(outlook.ttft),
        itl: stream.then_some(outlook.itl),
        e2e: outlook.e2e,
        pressure,
        central_pressure,
        hopeful_pressure: of(|one| one.hopeful, margin),
        price: candidate.price.map(|price| price.of(&work)),
        prefix_tokens: outlook.cached_tokens,
        in_flight: candidate.in_flight,
        verdict,
    }
}

/// Settles a choice between no candidates with room and one; answers whether that was all there was to do.
pub(super) fn trivial(fleet: &FleetSnapshot<'_>, decision: &mut Decision) -> bool {
    let mut open = fleet.open();
    match (open.next(), open.next()) {
        (Some(_), Some(_)) => false,
        (only, _) => {
            decision.chosen = only.map(|only| (only.backend, Reason::OnlyCandidate));
            true
        }
    }
}
