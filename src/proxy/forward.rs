//! From the first token to the end: bytes go to the client as they come, and are timed as they come.
//!
//! One wait serves everything: the backend's next bytes, the client's leaving, the timers, the end of the drain. While
//! a write to a slow client is pending, reading goes on, up to [`QUEUED`]; beyond that the backend waits, the exchange
//! is marked, and its gaps are not measured any more, since they would be the client's.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use pingora_core::protocols::http::server::Session;
use tokio::sync::watch;
use tokio::time::Sleep;

use super::answer::Answer;
use super::client::gone;
use super::headers::BodyKind;
use super::lifecycle::turned;
use crate::clock::Clock;
use crate::config::settings::Timeouts;
use crate::fleet::InFlight;
use crate::measure::outcome::Outcome;

/// Most bytes that wait for a slow client.
const QUEUED: usize = 256 * 1024;

/// Most bytes of one write, whether several pieces were there at once or one larger one: each write that the client
/// takes proves that it still reads.
const ONE_WRITE: usize = 16 * 1024;

/// How forwarding ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "independent facts, each named where it is read")]
pub(super) struct Forwarded {
    pub(super) outcome: Outcome,
    /// Body bytes handed to the client's connection.
    pub(super) bytes_out: u64,
    /// How long writes to the client were pending.
    pub(super) backpressure: Duration,
    /// Whether the client was slow enough to stop the backend.
    pub(super) backpressured: bool,
    /// Whether the client's connection still takes bytes.
    pub(super) client_there: bool,
    /// Whether the body ended as its framing says.
    pub(super) clean: bool,
    /// Whether a body that ended so is whole for the client, whatever of it could not be read here.
    pub(super) whole: bool,
    /// Whether the last byte sent ends an event.
    pub(super) at_event_boundary: bool,
}

impl Forwarded {
    /// The client took not even the head.
    pub(super) fn nothing(outcome: Outcome) -> Self {
        Self {
            outcome,
            bytes_out: 0,
            backpressure: Duration::ZERO,
            backpressured: false,
            client_there: false,
            clean: false,
            whole: false,
            at_event_boundary: false,
        }
    }
}

/// What forwarding needs to know besides the answer itself.
pub(super) struct Terms<'a> {
    pub(super) clock: &'a dyn Clock,
    pub(super) timeouts: Timeouts,
    /// When `timeouts.first_token` passes, for an answer of which the client was shown something without a token.
    pub(super) first_token_deadline: Option<Instant>,
    /// When `timeouts.total` passes.
    pub(super) total_deadline: Instant,
    /// Longest time the client may take nothing.
    pub(super) write_idle: Duration,
    /// Turns true when the drain deadline has passed.
    pub(super) cut: watch::Receiver<bool>,
}

/// Why the pump stopped before the body's end.
enum Stop {
    ClientGone,
    ClientStalled,
    Timeout(Outcome),
    Drained,
}

/// Sends the rest of an answer whose head the client has.
pub(super) async fn forward(
    session: &mut Session,
    answer: &mut Answer,
    in_flight: &mut InFlight,
    terms: &Terms<'_>,
) -> Forwarded {
    let mut pump = Pump::new(answer, in_flight, terms);
    let stop = pump.run(session).await.err();
    pump.conclude(stop.as_ref())
}

struct Pump<'a> {
    answer: &'a mut Answer,
    in_flight: &'a mut InFlight,
    terms: &'a Terms<'a>,
    queue: VecDeque<Bytes>,
    queued: usize,
    last_read: Instant,
    /// The latest instant that was asked for.
    latest: Instant,
    bytes_out: u64,
    backpressure: Duration,
    backpressured: bool,
    /// Whether the client has taken a part of a write and not yet the rest.
    mid_write: bool,
}

impl<'a> Pump<'a> {
    fn new(answer: &'a mut Answer, in_flight: &'a mut InFlight, terms: &'a Terms<'a>) -> Self {
        let now = terms.clock.now();
        let queue: VecDeque<Bytes> = answer.held.drain(..).collect();
        Self {
            queued: queue.iter().map(Bytes::len).sum(),
            queue,
            last_read: now,
            latest: now,
            answer,
            in_flight,
            terms,
            bytes_out: 0,
            backpressure: Duration::ZERO,
            backpressured: false,
            mid_write: false,
        }
    }

    async fn run(&mut self, session: &mut Session) -> Result<(), Stop> {
        let mut cut = self.terms.cut.clone();
        let mut timer = pin!(tokio::time::sleep_until(self.next_deadline().into()));
        loop {
            while let Some(bytes) = self.next_write() {
                self.write(session, bytes).await?;
            }
            if self.answer.ended.is_some() {
                return Ok(());
            }
            // A backend that always has more would keep the select from ever looking at its other branches.
            if let Some(timer) = self.overdue(self.latest) {
                return Err(Stop::Timeout(timer));
            }
            if *cut.borrow() {
                return Err(Stop::Drained);
            }
            tokio::select! {
                biased;
                read = self.answer.upstream.read_body() => {
                    let now = self.terms.clock.now();
                    self.take(read, now);
                    self.take_what_is_there(now).await;
                }
                () = gone(session) => return Err(Stop::ClientGone),
                () = timer.as_mut() => self.check_deadlines(timer.as_mut())?,
                () = turned(&mut cut) => return Err(Stop::Drained),
            }
        }
    }

    /// Observes what was read, and queues it for the client.
    fn take(&mut self, read: pingora_core::Result<Option<Bytes>>, now: Instant) {
        self.latest = now;
        let before = self.answer.reading.tokens();
        let Self { queue, queued, .. } = self;
        let enqueue = |bytes: Bytes| {
            if !bytes.is_empty() {
                *queued += bytes.len();
                queue.push_back(bytes);
            }
        };
        match read {
            Ok(Some(bytes)) => {
                self.last_read = now;
                self.answer.reading.take(bytes, now, enqueue);
                self.in_flight.progressed(now);
            }
            Ok(None) => {
                self.answer.reading.finish(true, now, enqueue);
                self.answer.ended = Some(true);
            }
            Err(_) => {
                self.answer.reading.finish(false, now, enqueue);
                self.answer.ended = Some(false);
            }
        }
        self.in_flight.tokens(self.answer.reading.tokens().saturating_sub(before));
        if let (0, Some(at)) = (before, self.answer.reading.first_token_at()) {
            self.in_flight.first_token(at);
        }
    }

    /// Pieces that came with the same read from the socket belong to the same instant, and into the same write.
    async fn take_what_is_there(&mut self, now: Instant) {
        while self.answer.ended.is_none() && self.queued < ONE_WRITE {
            let read = {
                let mut read = pin!(self.answer.upstream.read_body());
                poll_once(read.as_mut()).await
            };
            let Some(read) = read else { return };
            self.take(read, now);
        }
    }

    /// What is queued, as one piece of a size that one write should have.
    fn next_write(&mut self) -> Option<Bytes> {
        let mut first = self.queue.pop_front()?;
        if first.len() > ONE_WRITE {
            self.queue.push_front(first.split_off(ONE_WRITE));
        }
        self.queued -= first.len();
        let Some(second) = self.queue.front() else { return Some(first) };
        if first.len() + second.len() > ONE_WRITE {
            return Some(first);
        }
        let mut joined = BytesMut::with_capacity((first.len() + self.queued).min(ONE_WRITE));
        joined.extend_from_slice(&first);
        while let Some(next) = self.queue.front().filter(|next| joined.len() + next.len() <= ONE_WRITE) {
            self.queued -= next.len();
            joined.extend_from_slice(next);
            self.queue.pop_front();
        }
        Some(joined.freeze())
    }

    /// Writes one piece; goes on reading while the client does not take it.
    async fn write(&mut self, session: &mut Session, bytes: Bytes) -> Result<(), Stop> {
        let length = bytes.len() as u64;
        let mut write = pin!(session.write_response_body(bytes, false));
        self.mid_write = true;
        let written = match poll_once(write.as_mut()).await {
            Some(written) => written,
            None => self.write_slowly(write).await?,
        };
        if written.is_err() {
            return Err(Stop::ClientGone);
        }
        self.mid_write = false;
        self.bytes_out += length;
        Ok(())
    }

    async fn write_slowly<T>(&mut self, mut write: Pin<&mut impl Future<Output = T>>) -> Result<T, Stop> {
        let pending_since = self.terms.clock.now();
        let mut cut = self.terms.cut.clone();
        let mut stalled = pin!(tokio::time::sleep(self.terms.write_idle));
        let mut total = pin!(tokio::time::sleep_until(self.terms.total_deadline.into()));
        let mut unheard = false;
        let result = loop {
            let full = self.queued >= QUEUED;
            unheard |= full;
            if full && !self.backpressured {
                self.backpressured = true;
                self.answer.reading.suspend_gaps();
            }
            tokio::select! {
                biased;
                written = write.as_mut() => break Ok(written),
                read = self.answer.upstream.read_body(), if !full && self.answer.ended.is_none() => {
                    let now = self.terms.clock.now();
                    self.take(read, now);
                }
                () = stalled.as_mut() => break Err(Stop::ClientStalled),
                () = total.as_mut() => break Err(Stop::Timeout(Outcome::TotalTimeout)),
                () = turned(&mut cut) => break Err(Stop::Drained),
            }
        };
        let now = self.terms.clock.now();
        self.latest = now;
        self.backpressure += now.saturating_duration_since(pending_since);
        if unheard {
            // The backend was not listened to for a while: that silence is not its fault.
            self.last_read = self.last_read.max(now);
        }
        result
    }

    fn next_deadline(&self) -> Instant {
        self.until_overdue(self.last_read + self.terms.timeouts.idle)
    }

    /// That instant, or the earliest of the deadlines that no byte moves.
    fn until_overdue(&self, instant: Instant) -> Instant {
        let fixed =
            self.first_token_deadline().map_or(self.terms.total_deadline, |at| at.min(self.terms.total_deadline));
        instant.min(fixed)
    }

    /// When the first token is due, while it has not come.
    fn first_token_deadline(&self) -> Option<Instant> {
        let Answer { kind, rejected, reading, .. } = &*self.answer;
        let waits = *kind == BodyKind::EventStream && !rejected && !reading.has_token();
        self.terms.first_token_deadline.filter(|_| waits)
    }

    /// The timer that has passed at `now`, of those that no byte moves.
    fn overdue(&self, now: Instant) -> Option<Outcome> {
        if now >= self.terms.total_deadline {
            return Some(Outcome::TotalTimeout);
        }
        self.first_token_deadline().filter(|at| now >= *at).map(|_| Outcome::FirstTokenTimeout)
    }

    /// The timer is set once and looks, when it fires, at what has happened since: reads cost it nothing.
    fn check_deadlines(&self, timer: Pin<&mut Sleep>) -> Result<(), Stop> {
        let now = self.terms.clock.now();
        if let Some(outcome) = self.overdue(now) {
            return Err(Stop::Timeout(outcome));
        }
        let streamed = self.answer.kind == BodyKind::EventStream;
        if streamed && now >= self.last_read + self.terms.timeouts.idle {
            return Err(Stop::Timeout(Outcome::IdleTimeout));
        }
        let next = if streamed { self.next_deadline() } else { self.terms.total_deadline };
        timer.reset(next.into());
        Ok(())
    }

    /// Whether the client's connection has taken everything that was read.
    fn all_written(&self) -> bool {
        self.queue.is_empty() && !self.mid_write
    }

    fn conclude(&self, stop: Option<&Stop>) -> Forwarded {
        let outcome = match stop {
            // What the API calls the end has been sent: nothing after it can make the answer worse.
            _ if self.answer.reading.done_seen() && self.all_written() => Outcome::Complete,
            None if self.answer.rejected && self.answer.ended == Some(true) => Outcome::BackendRejected,
            None => self.answer.reading.outcome(self.answer.ended == Some(true)),
            Some(Stop::ClientGone) => Outcome::ClientCancelled,
            Some(Stop::ClientStalled) => Outcome::ClientStalled,
            Some(Stop::Timeout(outcome)) => *outcome,
            Some(Stop::Drained) => Outcome::Drained,
        };
        Forwarded {
            outcome,
            bytes_out: self.bytes_out,
            backpressure: self.backpressure,
            backpressured: self.backpressured,
            // Nothing can follow half a write.
            client_there: !matches!(stop, Some(Stop::ClientGone | Stop::ClientStalled)) && !self.mid_write,
            clean: self.answer.ended == Some(true),
            whole: stop.is_none() && self.answer.ended == Some(true) && self.answer.reading.whole_to_client(),
            at_event_boundary: self.all_written() && self.answer.reading.at_event_boundary(),
        }
    }
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
