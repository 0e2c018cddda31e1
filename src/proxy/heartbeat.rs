//! Comments for a client that waits for the first token of a stream.
//!
//! Something between the client and headway may give up on a connection that says nothing. A comment is no event, so
//! nobody takes it for an answer; but with the first one status 200 is said, and whatever goes wrong afterwards can be
//! told in an error event only: no other backend is tried any more.

use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Version;
use pingora_core::protocols::http::server::Session;
use pingora_http::ResponseHeader;
use tokio::sync::watch;

use super::client::gone;
use super::deliver::break_off;
use super::exchange::Exchange;
use super::headers::{self, BodyKind};
use super::inference::{Downstream, Turned, drained};
use super::lifecycle::turned;
use super::refuse::Refusal;
use super::stamp::Stamp;
use super::win::Won;
use crate::clock::Clock;
use crate::config::settings::Route;
use crate::measure::outcome::Outcome;
use crate::wire::Api;
use crate::wire::error::error_event;

/// A line that says nothing, and the end of its block.
pub(super) const COMMENT: &[u8] = b": ping\n\n";

/// What the client was sent before any backend's answer.
#[derive(Debug, Default)]
pub(super) struct Shown {
    committed: AtomicBool,
    bytes: AtomicU64,
}

impl Shown {
    /// Whether status 200 was said.
    pub(super) fn is_committed(&self) -> bool {
        self.committed.load(Ordering::Relaxed)
    }

    /// Bytes of comments.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

/// How often such a stream's client is sent a comment; `None` never. Of other streams it is not known whether their
/// clients know comments.
pub(super) fn interval(route: &Route, api: Api, stream: bool) -> Option<Duration> {
    let knows_comments = matches!(api, Api::Chat | Api::Completions | Api::Responses | Api::Messages);
    route.heartbeat.filter(|_| stream && knows_comments)
}

/// The beginning of a backend's body. A byte-order mark means nothing at the beginning of a stream, but after comments
/// it would be a part of the first event's first field: there it is dropped.
#[derive(Debug, Default)]
pub(super) struct Opening {
    after_comments: bool,
    /// How much of the mark came so far, and is kept back.
    kept: usize,
    over: bool,
}

const BYTE_ORDER_MARK: &[u8] = "\u{FEFF}".as_bytes();

impl Opening {
    pub(super) fn new(after_comments: bool) -> Self {
        Self { after_comments, ..Self::default() }
    }

    /// The client was sent a comment.
    pub(super) fn comes_after_comments(&mut self) {
        self.after_comments = true;
    }

    /// What the client is sent of these bytes. Of a body that ends within the mark, it gets nothing.
    pub(super) fn pass(&mut self, bytes: Bytes) -> Bytes {
        if self.over || bytes.is_empty() {
            return bytes;
        }
        let expected = BYTE_ORDER_MARK.get(self.kept..).filter(|_| self.after_comments).unwrap_or_default();
        let same = bytes.iter().zip(expected).take_while(|(came, expected)| came == expected).count();
        self.over = same == expected.len() || same < bytes.len();
        if !self.over {
            self.kept += same;
            return Bytes::new();
        }
        if same == expected.len() {
            return bytes.slice(same..);
        }
        let kept = BYTE_ORDER_MARK.get(..self.kept).unwrap_or_default();
        if kept.is_empty() { bytes } else { [kept, &bytes].concat().into() }
    }
}

/// The comments of one exchange, until a backend's answer is there.
pub(super) struct Heartbeat<'a> {
    every: Option<Duration>,
    next: Instant,
    stamp: Stamp,
    shown: &'a Shown,
    clock: &'a dyn Clock,
}

impl<'a> Heartbeat<'a> {
    pub(super) fn new(every: Option<Duration>, exchange: &Exchange, shown: &'a Shown, clock: &'a dyn Clock) -> Self {
        let next = exchange.started + every.unwrap_or_default();
        Self { every, next, stamp: exchange.stamp(), shown, clock }
    }

    async fn due(&self) {
        match self.every {
            Some(_) => tokio::time::sleep_until(self.next.into()).await,
            None => std::future::pending().await,
        }
    }

    async fn beat(&mut self, session: &mut Session) -> pingora_core::Result<()> {
        self.next = self.clock.now() + self.every.unwrap_or_default();
        if !self.shown.committed.swap(true, Ordering::Relaxed) {
            let head = head(session, &self.stamp)?;
            session.write_response_header(head).await?;
        }
        self.shown.bytes.fetch_add(COMMENT.len() as u64, Ordering::Relaxed);
        session.write_response_body(Bytes::from_static(COMMENT), false).await
    }
}

/// A head without a backend's.
fn head(session: &mut Session, stamp: &Stamp) -> pingora_core::Result<Box<ResponseHeader>> {
    let mut own = ResponseHeader::build(200, Some(6))?;
    own.insert_header("content-type", "text/event-stream; charset=utf-8")?;
    let mut head = headers::downstream_head(&own, BodyKind::EventStream, session.is_http2(), &stamp.request_id)?;
    stamp.put(&mut head)?;
    without_chunks(session, &mut head);
    Ok(head)
}

/// A client of HTTP/1.0 knows no chunks: the body ends with the connection.
pub(super) fn without_chunks(session: &mut Session, head: &mut ResponseHeader) {
    if session.req_header().version == Version::HTTP_10 && head.remove_header("transfer-encoding").is_some() {
        session.set_keepalive(None);
    }
}

/// Waits until the tries come to something, the client leaves, or the drain ends; meanwhile the heart beats.
pub(super) async fn wait_for<F>(
    session: &mut Session,
    mut tries: Pin<Box<F>>,
    mut heartbeat: Heartbeat<'_>,
    mut cut: watch::Receiver<bool>,
    write_idle: Duration,
) -> Result<Won, Turned>
where
    F: Future<Output = Result<Won, Turned>>,
{
    loop {
        tokio::select! {
            biased;
            won = tries.as_mut() => return won,
            () = gone(session) => return Err(Turned::Gone),
            () = turned(&mut cut) => return Err(Turned::Drained),
            () = heartbeat.due() => {}
        }
        let mut won = None;
        let mut beat = pin!(tokio::time::timeout(write_idle, heartbeat.beat(session)));
        // The tries go on while the client takes the comment.
        let beaten = loop {
            tokio::select! {
                biased;
                beaten = beat.as_mut() => break beaten,
                result = tries.as_mut(), if won.is_none() => won = Some(result),
            }
        };
        match (won, beaten) {
            // Should the client be gone, whoever writes next finds out.
            (Some(won), _) => return won,
            (None, Ok(Ok(()))) => {}
            (None, Ok(Err(_))) => return Err(Turned::Gone),
            (None, Err(_)) => return Err(Turned::Stalled),
        }
    }
}

/// Ends a response of which only comments were sent.
pub(super) async fn turn_away(
    session: &mut Session,
    mut exchange: Exchange,
    turned: Turned,
    shown: &Shown,
) -> Downstream {
    exchange.note(|record| (record.status, record.bytes_out) = (200, shown.bytes()));
    let refusal = match turned {
        Turned::Gone | Turned::Stalled => {
            let left = matches!(turned, Turned::Gone);
            exchange.finish(if left { Outcome::ClientCancelled } else { Outcome::ClientStalled });
            return Downstream::Close;
        }
        Turned::Drained => drained(&mut exchange),
        Turned::Refused(refusal) => *refusal,
    };
    let length = tell(session, &refusal).await;
    exchange.note(|record| {
        record.bytes_out += length;
        record.shed = refusal.shed;
    });
    exchange.finish(refusal.outcome);
    Downstream::Close
}

/// Tells of a failure in an event, and breaks the response off; says how many bytes that took.
pub(super) async fn tell(session: &mut Session, refusal: &Refusal) -> u64 {
    let event = error_event(&refusal.message, refusal.kind, refusal.param, Some(refusal.code));
    tell_event(session, event).await
}

/// The same, in the words of this event.
pub(super) async fn tell_event(session: &mut Session, event: Vec<u8>) -> u64 {
    let length = event.len() as u64;
    session.set_write_timeout(Some(super::inference::REFUSAL_PATIENCE));
    let sent = session.write_response_body(Bytes::from(event), false).await;
    break_off(session).await;
    if sent.is_ok() { length } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(after_comments: bool, pieces: &[&[u8]], expected: &[u8]) {
        let mut opening = Opening::new(after_comments);
        let passed = pieces.iter().map(|piece| opening.pass(Bytes::copy_from_slice(piece)));
        assert_eq!(passed.collect::<Vec<_>>().concat(), expected, "{pieces:?}");
    }

    #[test]
    fn a_byte_order_mark_is_dropped_only_at_the_beginning_of_a_body_that_follows_comments() {
        let marked = "\u{FEFF}data: \u{FEFF}x\n".as_bytes();
        check(false, &[marked], marked);
        check(true, &[marked], &marked[3..]);
        check(true, &marked.chunks(1).collect::<Vec<_>>(), &marked[3..]);
        check(true, &[b"", b"data: x\n", marked], &[b"data: x\n", marked].concat());
        check(true, &[b"\xEF", b"\xBBdata"], b"\xEF\xBBdata");
        check(true, &[b"\xEF\xBB", b"\xBE"], b"\xEF\xBB\xBE");
    }
}
