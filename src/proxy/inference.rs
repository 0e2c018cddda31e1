//! An inference request, from its body to its record: understand, win an answer, deliver it; or turn away.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use pingora_core::protocols::http::server::Session;

use super::Proxy;
use super::client::linger;
use super::deliver::deliver;
use super::exchange::Exchange;
use super::heartbeat::{self, Heartbeat, Shown};
use super::lifecycle::turned;
use super::refuse::Refusal;
use super::stamp::Stamp;
use super::understand::understand;
use super::win::{Bounds, win};
use crate::measure::outcome::Outcome;
use crate::wire::Api;

/// What the client's connection is good for afterwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Downstream {
    /// It may carry another request.
    Reusable,
    /// It must be closed: what was sent on it is not whole, or nobody is there.
    Close,
}

/// Why the client gets an answer of headway's own, or none.
pub(super) enum Turned {
    Refused(Box<Refusal>),
    Gone,
    /// It does not take what it is sent.
    Stalled,
    Drained,
}

impl From<Refusal> for Turned {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(Box::new(refusal))
    }
}

/// Serves one inference request; writes its record.
pub(super) async fn serve(
    proxy: &Arc<Proxy>,
    session: &mut Session,
    mut exchange: Exchange,
    api: Api,
    path_model: Option<String>,
) -> Downstream {
    let mut cut = proxy.lifecycle.cutting();
    let understood = tokio::select! {
        biased;
        understood = understand(proxy, session, &mut exchange, api, path_model) => understood,
        () = turned(&mut cut) => Err(Turned::Drained),
    };
    let understood = match understood {
        Ok(understood) => understood,
        Err(turned) => return turn_away(session, exchange, turned).await,
    };
    let settings = Arc::clone(exchange.fleet.settings());
    let Some(route) = settings.routes.get(understood.route) else {
        return turn_away(session, exchange, Refusal::internal().into()).await;
    };
    let total_deadline = exchange.started + route.timeouts.total;
    let shown = Shown::default();
    let won = {
        let every = heartbeat::interval(route, api, understood.reading.stream);
        let beats = Heartbeat::new(every, &exchange, &shown, &*proxy.clock);
        let bounds = Bounds { total_deadline, shown: &shown };
        // On the heap, so that a stream does not carry the room for its tries to its end.
        let tries = Box::pin(win(proxy, &mut exchange, &understood, route, bounds));
        heartbeat::wait_for(session, tries, beats, cut, settings.limits.write_idle).await
    };
    match won {
        Ok(won) => {
            // No second try is left: the request's bytes are not needed any more.
            drop(understood);
            deliver(proxy, session, exchange, won, (route, &settings), (total_deadline, &shown)).await
        }
        Err(turned) if shown.is_committed() => heartbeat::turn_away(session, exchange, turned, &shown).await,
        Err(turned) => turn_away(session, exchange, turned).await,
    }
}

/// Answers in headway's own name, or not at all.
pub(super) async fn turn_away(session: &mut Session, mut exchange: Exchange, turned: Turned) -> Downstream {
    let refusal = match turned {
        Turned::Gone | Turned::Stalled => {
            exchange.finish(Outcome::ClientCancelled);
            return Downstream::Close;
        }
        Turned::Drained => drained(&mut exchange),
        Turned::Refused(refusal) => *refusal,
    };
    exchange.note(|record| (record.status, record.shed) = (refusal.status, refusal.shed));
    // What is left of a body would be taken for the next request.
    let body_read = session.is_body_done();
    let sent = respond(session, &exchange.stamp(), &refusal, body_read).await;
    let length = sent.as_ref().copied().unwrap_or(0);
    exchange.note(|record| record.bytes_out = length);
    exchange.finish(refusal.outcome);
    if sent.is_ok() && !body_read && refusal.status != 408 {
        linger(session).await;
    }
    if sent.is_ok() && body_read { Downstream::Reusable } else { Downstream::Close }
}

/// What whoever is cut off by the end of the drain is told.
pub(super) fn drained(exchange: &mut Exchange) -> Refusal {
    let mut refusal = Refusal::unavailable("draining", "headway is shutting down", Duration::from_secs(1));
    refusal.outcome = Outcome::Drained;
    // The tries that were under way were dropped by us, not by the client.
    exchange.note(|record| {
        let dropped = record.attempts.iter_mut().filter(|one| one.outcome == Outcome::ClientCancelled);
        dropped.for_each(|one| one.outcome = Outcome::Drained);
    });
    refusal
}

/// How long a client may leave a refusal, or a list of models, unread.
pub(super) const REFUSAL_PATIENCE: Duration = Duration::from_secs(10);

/// Writes a refusal; says how long its body is.
pub(super) async fn respond(
    session: &mut Session,
    stamp: &Stamp,
    refusal: &Refusal,
    keep_alive: bool,
) -> pingora_core::Result<u64> {
    if !keep_alive {
        session.set_keepalive(None);
    }
    let body = Bytes::from(refusal.body());
    let length = body.len() as u64;
    session.set_write_timeout(Some(REFUSAL_PATIENCE));
    session.write_response_header(refusal.head(stamp, body.len())?).await?;
    session.write_response_body(body, true).await?;
    session.finish_body().await?;
    Ok(length)
}
