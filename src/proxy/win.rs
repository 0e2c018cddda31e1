//! Tries backends, one or two, until one has an answer that the client may be shown.
//!
//! The second one comes after the first has failed, or, where the route hedges, beside it when its first token is late.

use std::sync::Arc;
use std::time::Instant;

use super::Proxy;
use super::answer::Answer;
use super::attempt::{Failure, attempt};
use super::exchange::Exchange;
use super::heartbeat::Shown;
use super::inference::Turned;
use super::place::{hedge, place};
use super::refuse::{Refusal, shown};
use super::tries::Tries;
use super::understand::Understood;
use crate::config::settings::Route;
use crate::fleet::{Dispatched, InFlight, LiveRoute};
use crate::measure::course::TryCourse;
use crate::measure::group::GroupIndex;
use crate::route::snapshot::BackendIndex;

/// An answer the client may be shown, and whom it comes from.
pub(super) struct Won {
    pub(super) answer: Box<Answer>,
    pub(super) in_flight: InFlight,
    pub(super) backend: Arc<str>,
    pub(super) profile: Option<Arc<str>>,
    /// Whether it was sent beside another one that was late.
    pub(super) hedge: bool,
    /// When the first token is due, if the client asked for a stream.
    pub(super) first_token_deadline: Option<Instant>,
    /// The model as the client named it, and the bytes of its prompt, where they are all of it: what usage teaches about
    /// token counts.
    pub(super) counted: Option<(String, u64)>,
    /// How the try went on, up to its answer's head.
    pub(super) course: TryCourse,
}

/// What every try of an exchange needs to know.
#[derive(Clone, Copy)]
pub(super) struct Bounds<'a> {
    /// When `timeouts.total` passes.
    pub(super) total_deadline: Instant,
    /// Whether the client was sent anything yet: then no other backend is tried any more.
    pub(super) shown: &'a Shown,
}

/// Tries backends until one may be shown to the client.
pub(super) async fn win(
    proxy: &Arc<Proxy>,
    exchange: &mut Exchange,
    request: &Understood,
    route: &Route,
    bounds: Bounds<'_>,
) -> Result<Won, Turned> {
    let mut excluded = request.excluded.clone();
    let mut tries = 0;
    let mut last: Option<Refusal> = None;
    let mut permit = None;
    loop {
        let dispatched = match place(proxy, exchange, request, (&excluded, tries == 0)).await {
            Ok(dispatched) => dispatched,
            Err(refusal) => return Err(last.unwrap_or(refusal).into()),
        };
        if !exchange.reach() {
            return Err(last.unwrap_or_else(Refusal::out_of_reach).into());
        }
        let under_way = Tries::new(proxy, exchange, request, route);
        let failed = match race(under_way, dispatched, &mut excluded, bounds).await? {
            Ok(won) => return Ok(won),
            Err(failed) => failed,
        };
        let Failed { failure, last: index } = failed;
        tries = excluded.len() - request.excluded.len();
        let wanted = failure.cause.is_some_and(|cause| route.retry.causes.contains(&cause));
        let may = wanted && tries < most_tries(route) && !bounds.shown.is_committed();
        let backend = exchange.fleet.backends().get(index.0).map_or("", |backend| shown(route, backend.name()));
        let refusal = if failure.tls {
            Refusal::upstream_tls(backend)
        } else {
            Refusal::upstream(failure.outcome, failure.status, backend, failure.wait)
        };
        let tried_out = is_tried_out((request, route), exchange.fleet.routes().get(request.route), index);
        if may && permit.is_none() && !tried_out {
            permit = exchange.fleet.retry_permit(request.route);
        }
        if !may || (permit.is_none() && !tried_out) {
            return Err(spent(refusal, tries).into());
        }
        last = Some(refusal);
    }
}

/// A group with a smaller share than this is one that is tried out.
const TRIED_OUT: f64 = 0.5;

/// A group that is tried out may fail all that it is given: its share is then the budget of the retries that this takes.
/// What others fail, and one of two halves, counts as it does anywhere.
fn is_tried_out((request, route): (&Understood, &Route), live: Option<&Arc<LiveRoute>>, failed: BackendIndex) -> bool {
    let Some(group) = request.group.filter(|group| *group != GroupIndex::BASELINE) else { return false };
    let groups = route.split.as_ref().map(|split| split.groups.as_slice()).unwrap_or_default();
    let share = group.place().checked_sub(1).and_then(|place| groups.get(place)).map_or(1.0, |group| group.share);
    share < TRIED_OUT && live.is_some_and(|live| live.group_of(failed) == group)
}

fn most_tries(route: &Route) -> usize {
    usize::try_from(route.retry.attempts).unwrap_or(usize::MAX)
}

/// At most one layer tries again: a client whose request had its second try here is told not to.
fn spent(mut refusal: Refusal, tries: usize) -> Refusal {
    if tries > 1 {
        refusal.should_retry = Some(false);
    }
    refusal
}

/// Nothing came of a try, or of both.
struct Failed {
    failure: Failure,
    /// Who failed last.
    last: BackendIndex,
}

/// One try; and a second one beside it when the first is late and the route hedges. Whoever has a token first wins, and
/// the other's connection is closed at once. `excluded` grows by whom was tried.
async fn race(
    mut tries: Tries<'_>,
    dispatched: Dispatched,
    excluded: &mut Vec<BackendIndex>,
    bounds: Bounds<'_>,
) -> Result<Result<Won, Failed>, Turned> {
    let (index, patience) = (dispatched.index, dispatched.hedge_after);
    // A request is sent twice at most: one that failed before has had its second try.
    let patience = patience.filter(|_| excluded.len() == tries.request.excluded.len());
    excluded.push(index);
    let (call, began) = tries.begin(dispatched)?;
    let trying = attempt(call, bounds.total_deadline);
    let Some(patience) = patience else {
        let result = trying.await;
        return Ok(tries.settle(index, result).map_err(|failure| Failed { failure, last: index }));
    };
    let mut trying = Box::pin(trying);
    if let Ok(result) = tokio::time::timeout_at((began + patience).into(), trying.as_mut()).await {
        return Ok(tries.settle(index, result).map_err(|failure| Failed { failure, last: index }));
    }
    let reach = if bounds.shown.is_committed() { None } else { tries.proxy.reach() };
    let other = reach.as_ref().and_then(|_| hedge(tries.proxy, tries.exchange, tries.request, excluded));
    let Some(other) = other else {
        let result = trying.await;
        return Ok(tries.settle(index, result).map_err(|failure| Failed { failure, last: index }));
    };
    let second = other.index;
    excluded.push(second);
    let (call, _) = tries.begin(other)?;
    let mut hedging = Box::pin(attempt(call, bounds.total_deadline));
    let ((index, result), rest) = tokio::select! {
        biased;
        result = trying.as_mut() => ((index, result), (second, hedging)),
        // That a request is wrong is for the one to say that was asked first.
        result = hedging.as_mut() => ((second, result.and_then(Answer::unless_rejected)), (index, trying)),
    };
    Ok(match result {
        Ok(answer) => {
            drop(rest);
            tries.settle(index, Ok(answer)).map_err(|failure| Failed { failure, last: index })
        }
        Err(failure) => {
            let _ = tries.settle(index, Err(failure));
            let (index, trying) = rest;
            let result = trying.await;
            tries.settle(index, result).map_err(|failure| Failed { failure, last: index })
        }
    })
}
