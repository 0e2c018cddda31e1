//! Whether this request should find out about a backend that would otherwise be passed over.
//!
//! A slow backend gets no requests, so nothing would ever show that it has recovered. One request at a time finds out,
//! less often the longer a backend disappoints, and never while the route itself is short of good answers.

use crate::route::decision::{Assessment, Decision, Verdict};
use crate::route::model::allowed_misses;
use crate::route::snapshot::{FleetSnapshot, Outlook, RequestFacts};

/// Share of its allowance of misses up to which a route has some to spare.
const SPARE: f64 = 0.8;

/// The place of a backend that would serve more cheaply than the one picked, were it not believed to be slow.
pub(super) fn of_cheaper(
    request: &RequestFacts,
    fleet: &FleetSnapshot<'_>,
    decision: &Decision,
    pick: &Assessment,
) -> Option<usize> {
    let allowed = allowed_misses(&request.objectives)?;
    if !is_free(fleet) || fleet.route.slow_misses() >= SPARE * allowed {
        return None;
    }
    let cheaper = |one: &Assessment| one.price.is_some_and(|price| pick.price.is_none_or(|least| price < least));
    let wanted = |one: &Assessment, outlook: &Outlook| {
        let hopeful = one.hopeful_pressure <= 1.0;
        cheaper(one)
            && outlook.awaiting == 0
            && ((outlook.probe_due && (hopeful || outlook.idle)) || is_worth_learning(outlook))
    };
    find(fleet, decision, wanted)
}

/// Where nobody is expected to keep the promise: the place of a backend of which that is only a guess.
pub(super) fn of_unknown(fleet: &FleetSnapshot<'_>, decision: &Decision) -> Option<usize> {
    if !is_free(fleet) {
        return None;
    }
    find(fleet, decision, |_, outlook| {
        outlook.awaiting == 0 && (is_worth_learning(outlook) || (outlook.idle && outlook.probe_due))
    })
}

/// Nothing is known of it, and nobody waits there: behind a queue that others made, a request would learn how long that
/// queue is and not what the backend can do.
fn is_worth_learning(outlook: &Outlook) -> bool {
    outlook.unproven && outlook.queue < 1.0
}

/// One probe at a time.
fn is_free(fleet: &FleetSnapshot<'_>) -> bool {
    fleet.tuning.probes && !fleet.candidates.iter().any(|one| one.outlook.probing)
}

fn find(
    fleet: &FleetSnapshot<'_>,
    decision: &Decision,
    wanted: impl Fn(&Assessment, &Outlook) -> bool,
) -> Option<usize> {
    let mut both = decision.candidates.iter().zip(fleet.candidates);
    both.position(|(one, candidate)| {
        matches!(one.verdict, Verdict::MayKeep | Verdict::Misses) && wanted(one, &candidate.outlook)
    })
}
