//! From an answer that may be shown to its record: head, body, the end it deserves.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Version;
use pingora_core::protocols::http::server::Session;
use pingora_http::ResponseHeader;

use super::Proxy;
use super::answer::{Answer, Reading};
use super::exchange::Exchange;
use super::flow::{Forwarded, Terms};
use super::forward::forward;
use super::headers;
use super::heartbeat::{self, Shown, tell, tell_event, without_chunks};
use super::inference::{Downstream, turn_away};
use super::refuse::{Refusal, shown};
use super::stream;
use super::tries::sum;
use super::win::Won;
use crate::config::settings::{Route, Settings};
use crate::fleet::Served;
use crate::measure::exchange::Attempt;
use crate::measure::outcome::{Blame, Outcome};
use crate::wire::Usage;
use crate::wire::error::{error_as_event, error_event};

/// How long an h2 connection may take to send what precedes a reset.
const BEFORE_RESET: Duration = Duration::from_millis(5);

/// Sends the answer to its end, and what the end calls for.
pub(super) async fn deliver(
    proxy: &Arc<Proxy>,
    session: &mut Session,
    mut exchange: Exchange,
    won: Won,
    (route, settings): (&Route, &Settings),
    (total_deadline, shown_before): (Instant, &Shown),
) -> Downstream {
    let write_idle = settings.limits.write_idle;
    if shown_before.is_committed() {
        exchange.note(|record| record.status = 200);
        if !won.answer.follows_comments() {
            return no_stream(proxy, session, exchange, won, (route, shown_before)).await;
        }
    } else {
        let status = won.answer.status;
        let Ok(mut head) = response_head(&won, &exchange, route, session.is_http2()) else {
            return turn_away(session, exchange, Refusal::internal().into()).await;
        };
        without_chunks(session, &mut head);
        exchange.note(|record| record.status = status);
        let writing = tokio::time::timeout(write_idle, session.write_response_header(head));
        let failed = match writing.await {
            Ok(Ok(())) => None,
            Ok(Err(_)) => Some(Outcome::ClientCancelled),
            Err(_) => Some(Outcome::ClientStalled),
        };
        if let Some(outcome) = failed {
            settle(proxy, exchange, won, Forwarded::nothing(outcome)).await;
            return Downstream::Close;
        }
    }
    let heartbeat = match &won.answer.reading {
        Reading::Stream { api, .. } => heartbeat::interval(route, *api, true),
        Reading::Whole(_) | Reading::Opaque { .. } => None,
    };
    let terms = Terms {
        clock: Arc::clone(&proxy.clock),
        timeouts: route.timeouts,
        total_deadline,
        write_idle,
        heartbeat,
        cut: proxy.lifecycle.cutting(),
        after_comments: shown_before.is_committed(),
    };
    let (mut forwarded, won) = forward(session, won, terms).await;
    forwarded.bytes_out += shown_before.bytes();
    // The last bytes, too, wait for a client that does not read, but no longer than any others.
    let ending = end_downstream(session, &forwarded, shown(route, &won.backend));
    let downstream = tokio::time::timeout(write_idle, ending).await.unwrap_or_else(|_| {
        if forwarded.outcome == Outcome::Complete {
            forwarded.outcome = Outcome::ClientStalled;
        }
        Downstream::Close
    });
    settle(proxy, exchange, won, forwarded).await;
    downstream
}

/// The client was promised a stream by comments, and the answer is none: that can only be told.
async fn no_stream(
    proxy: &Arc<Proxy>,
    session: &mut Session,
    exchange: Exchange,
    won: Won,
    (route, shown_before): (&Route, &Shown),
) -> Downstream {
    let outcome = if won.answer.rejected { Outcome::BackendRejected } else { Outcome::UpstreamError };
    let answer = &won.answer;
    // An answer is no fault of a backend because it is none that comments can announce.
    let excused = !answer.rejected && answer.reading.outcome(answer.ended != Some(false)) != Outcome::UpstreamError;
    let told = match own_words(answer) {
        Some(event) => tell_event(session, event).await,
        None => tell(session, &Refusal::upstream(outcome, 502, shown(route, &won.backend), None)).await,
    };
    let bytes_out = shown_before.bytes() + told;
    settle(proxy, exchange, won, Forwarded { excused, bytes_out, ..Forwarded::nothing(outcome) }).await;
    Downstream::Close
}

/// A backend's own refusal as an event: what is wrong with the request, its client should read as without comments.
fn own_words(answer: &Answer) -> Option<Vec<u8>> {
    let whole = answer.rejected && answer.ended == Some(true);
    whole.then(|| error_as_event(&answer.held.concat())).flatten()
}

/// The backend's head as the client gets it.
fn response_head(
    won: &Won,
    exchange: &Exchange,
    route: &Route,
    client_is_h2: bool,
) -> pingora_core::Result<Box<ResponseHeader>> {
    let upstream = won.answer.upstream.head().ok_or_else(|| pingora_core::Error::new_str("an answer has a head"))?;
    let mut head = headers::downstream_head(upstream, won.answer.kind, client_is_h2, &exchange.request_id())?;
    exchange.stamp().put(&mut head)?;
    head.set_status(won.answer.status)?;
    if route.expose {
        expose(&mut head, exchange, won)?;
    }
    Ok(head)
}

fn expose(head: &mut ResponseHeader, exchange: &Exchange, won: &Won) -> pingora_core::Result<()> {
    head.insert_header("x-headway-backend", &*won.backend)?;
    if let Some(reason) = exchange.decision_reason() {
        head.insert_header("x-headway-decision", reason)?;
    }
    let ms = |duration: Duration| duration.as_secs_f64() * 1e3;
    let timing = format!(
        "connect;dur={:.3}, ttfb;dur={:.3}, proxy;dur={:.3}",
        ms(won.answer.connect),
        ms(won.answer.backend_wait),
        ms(exchange.overhead()),
    );
    head.insert_header("server-timing", timing)
}

/// Ends the response the way it deserves: cleanly, with an error event, or broken off.
async fn end_downstream(session: &mut Session, forwarded: &Forwarded, backend: &str) -> Downstream {
    if !forwarded.client_there {
        return Downstream::Close;
    }
    let told = matches!(forwarded.outcome, Outcome::UpstreamError) && forwarded.clean;
    if told || forwarded.whole || matches!(forwarded.outcome, Outcome::Complete | Outcome::BackendRejected) {
        // An error event of the backend's own has told the client already.
        let clean = session.finish_body().await.is_ok();
        return if clean { Downstream::Reusable } else { Downstream::Close };
    }
    if forwarded.at_event_boundary && forwarded.outcome != Outcome::UpstreamError {
        let refusal = Refusal::upstream(forwarded.outcome, 502, backend, None);
        let event = error_event(&refusal.message, refusal.kind, None, Some(refusal.code));
        let _ = session.write_response_body(Bytes::from(event), false).await;
    }
    break_off(session).await;
    Downstream::Close
}

/// Ends a response so that nobody takes it for whole.
pub(super) async fn break_off(session: &mut Session) {
    if session.is_http2() {
        // A reset overtakes what its connection has not sent yet, the head included: an SDK would take that for a
        // failed connection and ask again. h2 tells nobody when a frame is out, so this is a pause, not a proof.
        tokio::time::sleep(BEFORE_RESET).await;
    }
    match session.stream() {
        Some(stream) if session.req_header().version == Version::HTTP_10 => stream::reset_on_close(stream),
        _ => session.shutdown().await,
    }
}

/// Tells everyone how it ended, and gives the connection back.
async fn settle(proxy: &Arc<Proxy>, mut exchange: Exchange, won: Won, forwarded: Forwarded) {
    let Won { answer, in_flight, backend, profile, hedge, counted, mut course, .. } = won;
    let now = proxy.clock.now();
    let busy = forwarded.outcome == Outcome::UpstreamError
        && answer.reading.error().is_some_and(|error| error.is_backpressure());
    let blame = if busy || forwarded.excused { Blame::Neutral } else { forwarded.outcome.blame() };
    let started = exchange.started;
    let (mut usage, mut served) = (Usage::default(), None);
    if let Some(id) = answer.reading.stored() {
        exchange.fleet.remember_stored(id, &backend);
    }
    answer.reading.note_course(&mut course, started);
    exchange.seen_output = answer.reading.tokens();
    exchange.note(|record| {
        answer.reading.report(record, started);
        usage = record.usage;
        let output = output_tokens(&answer.reading, usage);
        let cost = in_flight.cost(usage.input_tokens, usage.cached_tokens, output);
        record.cost = sum(record.cost, cost);
        let held_back = in_flight.held_back(answer.reading.delivery(answer.began));
        let learned = Served { output_tokens: usage.output_tokens, mean_gap: record.latencies.inter_token, held_back };
        served = Some(learned).filter(|_| forwarded.outcome == Outcome::Complete);
        record.bytes_out = forwarded.bytes_out;
        record.phases.connect = answer.connect;
        record.phases.backend_wait = answer.backend_wait;
        record.phases.backpressure = forwarded.backpressure;
        (record.phases.backpressured, record.phases.held_back) = (forwarded.backpressured, held_back);
        (record.phases.relay_first, record.phases.relay) = (forwarded.relayed.first, forwarded.relayed.mean());
        let since = |at: Instant| at.saturating_duration_since(started);
        record.course.blocked = forwarded.blocked.map(|(from, to)| (since(from), since(to)));
        record.attempts.push(Attempt {
            backend,
            profile,
            reason: record.decision.as_ref().map(|decision| decision.reason),
            decision: record.decision.as_ref().map(|decision| decision.number),
            outcome: forwarded.outcome,
            blame,
            duration: now.saturating_duration_since(answer.began),
            first_token: answer.reading.first_token_at().map(|at| at.saturating_duration_since(answer.began)),
            hedge,
            cost,
            course,
        });
    });
    match served {
        Some(served) => in_flight.served(&served, now),
        None => in_flight.ended(blame, now),
    }
    if answer.reading.unread() > 0 {
        proxy.telemetry.metrics().parse_skipped(answer.reading.unread());
    }
    if let (Some(tokens), Some((model, bytes))) = (usage.input_tokens, &counted) {
        exchange.fleet.learn_prompt_size(model, *bytes, tokens);
    }
    exchange.finish(forwarded.outcome);
    answer.upstream.release().await;
}

/// As the backend states it, else as far as it was seen.
fn output_tokens(reading: &Reading, usage: Usage) -> Option<u64> {
    usage.output_tokens.or(Some(reading.tokens()).filter(|tokens| *tokens > 0))
}
