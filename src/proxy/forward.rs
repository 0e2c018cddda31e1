//! From the first token to the end: bytes go to the client as they come, and are timed as they come.
//!
//! One wait serves everything: the backend's next bytes, the client's leaving, the timers, the end of the drain. While
//! a write to a slow client is pending, reading goes on, up to a bound; beyond that the backend waits, the exchange is
//! marked, and its gaps are not measured any more, since they would be the client's.
//!
//! This pump works through pingora's session and so for every protocol; between plain connections [`super::direct`]
//! does the same.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::Poll;

use bytes::Bytes;
use pingora_core::protocols::http::server::Session;

use super::client::gone;
use super::direct;
use super::flow::{Flow, Forwarded, Stop, Terms};
use super::lifecycle::turned;
use super::win::Won;
use crate::measure::outcome::Outcome;

/// Sends the rest of an answer whose head the client has.
pub(super) async fn forward(session: &mut Session, won: Won, terms: Terms) -> (Forwarded, Won) {
    let mut flow = Flow::new(won, terms);
    let stop = if let Some(client) = direct::client(session, &mut flow) {
        let stop;
        (flow, stop) = direct::pump(session, client, flow).await;
        stop
    } else {
        pump(session, &mut flow).await.err()
    };
    (flow.conclude(stop), flow.won)
}

async fn pump(session: &mut Session, flow: &mut Flow) -> Result<(), Stop> {
    let mut cut = flow.terms.cut.clone();
    let mut timer = pin!(tokio::time::sleep_until(flow.next_deadline().into()));
    loop {
        while let Some(bytes) = flow.next_write() {
            write(session, flow, bytes).await?;
        }
        if flow.ended() {
            return Ok(());
        }
        // A backend that always has more would keep the select from ever looking at its other branches.
        if let Some(stop) = flow.overdue() {
            return Err(stop);
        }
        if *cut.borrow() {
            return Err(Stop::Drained);
        }
        tokio::select! {
            biased;
            read = flow.won.answer.upstream.read_body() => {
                let now = flow.terms.clock.now();
                flow.take(read, now);
                // Pieces that came with the same read from the socket belong to the same instant and the same write.
                while let Some(read) = if flow.wants_more() { read_now(flow).await } else { None } {
                    flow.take(read, now);
                }
            }
            () = gone(session) => return Err(Stop::ClientGone),
            () = timer.as_mut() => timer.as_mut().reset(flow.check_deadlines()?.into()),
            () = turned(&mut cut) => return Err(Stop::Drained),
        }
    }
}

/// What can be read without waiting.
async fn read_now(flow: &mut Flow) -> Option<pingora_core::Result<Option<Bytes>>> {
    let mut read = pin!(flow.won.answer.upstream.read_body());
    poll_once(read.as_mut()).await
}

/// Writes one piece; goes on reading while the client does not take it.
async fn write(session: &mut Session, flow: &mut Flow, bytes: Bytes) -> Result<(), Stop> {
    let length = bytes.len();
    let mut write = pin!(session.write_response_body(bytes, false));
    let written = match poll_once(write.as_mut()).await {
        Some(written) => written,
        None => write_slowly(flow, write).await?,
    };
    if written.is_err() {
        return Err(Stop::ClientGone);
    }
    flow.wrote(length);
    Ok(())
}

async fn write_slowly<T>(flow: &mut Flow, mut write: Pin<&mut impl Future<Output = T>>) -> Result<T, Stop> {
    let mut cut = flow.terms.cut.clone();
    let mut stalled = pin!(tokio::time::sleep(flow.terms.write_idle));
    let mut total = pin!(tokio::time::sleep_until(flow.terms.total_deadline.into()));
    let result = loop {
        let listens = flow.block();
        tokio::select! {
            biased;
            written = write.as_mut() => break Ok(written),
            read = flow.won.answer.upstream.read_body(), if listens => {
                let now = flow.terms.clock.now();
                flow.take(read, now);
            }
            () = stalled.as_mut() => break Err(Stop::ClientStalled),
            () = total.as_mut() => break Err(Stop::Timeout(Outcome::TotalTimeout)),
            () = turned(&mut cut) => break Err(Stop::Drained),
        }
    };
    flow.unblock();
    result
}

/// Polls a future one time; `None` when it is not ready. The future must be safe to drop then.
async fn poll_once<F: Future>(mut future: Pin<&mut F>) -> Option<F::Output> {
    poll_fn(|cx| {
        Poll::Ready(match future.as_mut().poll(cx) {
            Poll::Ready(output) => Some(output),
            Poll::Pending => None,
        })
    })
    .await
}
