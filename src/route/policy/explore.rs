//! Finding out about backends of which too little is known, at a bounded expense.
//!
//! A backend is unknown when its windows hold too few samples; it is stale when it would be passed over for what was
//! seen long ago. Each gets at most one exploring request at a time, and exploring at most one request in ten. Turns go
//! to whoever was observed longest ago, so nobody is left out.

use std::time::Duration;

use super::PolicyState;
use super::assess::has_room;
use crate::route::decision::Decision;
use crate::route::snapshot::{BackendIndex, Candidate, FleetSnapshot};

/// The share of requests that may explore.
pub(super) const SHARE: f64 = 0.1;
/// How many turns may be saved up.
const MOST_SAVED: f64 = 3.0;
/// What a route starts with: one turn.
pub(super) const FIRST_ALLOWANCE: f64 = 1.0;
/// After so long without a first token a backend that misses the promise is looked at again.
pub(super) const STALE: Duration = Duration::from_secs(10);

/// The backend that this request should explore, if any. To be asked once per request, for it also saves up.
pub(super) fn turn(
    fleet: &FleetSnapshot<'_>,
    decision: &Decision,
    state: &mut PolicyState,
    better: impl Fn(BackendIndex) -> bool,
) -> Option<BackendIndex> {
    state.allowance = (state.allowance + SHARE).min(MOST_SAVED);
    if state.allowance < 1.0 {
        return None;
    }
    let due = |&(candidate, load): &(&Candidate, Option<f64>)| {
        let long_ago = candidate.last_observed.is_none_or(|ago| ago > STALE) && candidate.in_flight == 0;
        let wanted = match load {
            None => true,
            Some(load) => load > 1.0 && long_ago && better(candidate.backend),
        };
        wanted && candidate.exploring == 0 && has_room(candidate)
    };
    let rank = |&(candidate, _): &(&Candidate, Option<f64>)| {
        (std::cmp::Reverse(candidate.last_observed.unwrap_or(Duration::MAX)), candidate.ttft.samples)
    };
    let loads = decision.candidates.iter().map(|one| one.load);
    let (chosen, _) = fleet.candidates.iter().zip(loads).filter(due).min_by_key(rank)?;
    state.allowance -= 1.0;
    Some(chosen.backend)
}
