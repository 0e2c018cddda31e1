//! An answer on its way to the client: what was read of it and is not sent yet, its timers, and what its end means.
//!
//! Two pumps move it: [`super::direct`] between two sockets, [`super::forward`] where TLS or HTTP/2 is spoken.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use tokio::sync::watch;

use super::answer::Answer;
use super::headers::BodyKind;
use super::heartbeat::{COMMENT, Opening};
use super::win::Won;
use crate::clock::Clock;
use crate::config::settings::Timeouts;
use crate::measure::outcome::Outcome;

/// Most bytes that wait for a slow client.
const QUEUED: usize = 256 * 1024;

/// Most bytes of one write, whether several pieces were there at once or one larger one: each write that the client
/// takes proves that it still reads.
pub(super) const ONE_WRITE: usize = 16 * 1024;

/// How forwarding ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "independent facts, each named where it is read")]
pub(super) struct Forwarded {
    pub(super) outcome: Outcome,
    /// Whether the backend has done nothing wrong, whatever the outcome says of others.
    pub(super) excused: bool,
    /// Body bytes handed to the client's connection.
    pub(super) bytes_out: u64,
    /// How long writes to the client were pending.
    pub(super) backpressure: Duration,
    /// From the beginning of the first such wait to the end of the last.
    pub(super) blocked: Option<(Instant, Instant)>,
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
    pub(super) relayed: Relayed,
}

/// How long headway itself took from reading to having written, while the client kept up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Relayed {
    /// Of the first token.
    pub(super) first: Option<Duration>,
    /// Of one write in [`RELAY_SAMPLE`].
    sum: Duration,
    count: u32,
    writes: u32,
}

/// A clock is read for one write in so many: what is measured must not become what is felt.
const RELAY_SAMPLE: u32 = 16;

impl Relayed {
    /// The mean of the later tokens that were looked at.
    pub(super) fn mean(&self) -> Option<Duration> {
        self.sum.checked_div(self.count)
    }
}

impl Forwarded {
    /// The client took not even the head.
    pub(super) fn nothing(outcome: Outcome) -> Self {
        Self {
            outcome,
            excused: false,
            bytes_out: 0,
            backpressure: Duration::ZERO,
            blocked: None,
            backpressured: false,
            client_there: false,
            clean: false,
            whole: false,
            at_event_boundary: false,
            relayed: Relayed::default(),
        }
    }
}

/// What forwarding needs to know besides the answer itself.
pub(super) struct Terms {
    pub(super) clock: Arc<dyn Clock>,
    pub(super) timeouts: Timeouts,
    /// When `timeouts.total` passes.
    pub(super) total_deadline: Instant,
    /// Longest time the client may take nothing.
    pub(super) write_idle: Duration,
    /// How often a client that waits for the first token is sent a comment.
    pub(super) heartbeat: Option<Duration>,
    /// Turns true when the drain deadline has passed.
    pub(super) cut: watch::Receiver<bool>,
    /// Whether the client was sent comments already.
    pub(super) after_comments: bool,
}

/// Why a pump stopped before the body's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    ClientGone,
    ClientStalled,
    Timeout(Outcome),
    Drained,
}

/// The answer under way.
pub(super) struct Flow {
    pub(super) won: Won,
    pub(super) terms: Terms,
    queue: VecDeque<Bytes>,
    queued: usize,
    opening: Opening,
    last_read: Instant,
    /// When the next comment is due, while no token has come.
    next_beat: Option<Instant>,
    /// The latest instant that was asked for.
    latest: Instant,
    bytes_out: u64,
    backpressure: Duration,
    blocked_within: Option<(Instant, Instant)>,
    backpressured: bool,
    /// Whether the client has taken a part of a write and not yet the rest.
    mid_write: bool,
    /// Since when a write is pending, and whether the backend was not listened to meanwhile.
    blocked: Option<(Instant, bool)>,
    relayed: Relayed,
}

impl Flow {
    pub(super) fn new(mut won: Won, terms: Terms) -> Self {
        let now = terms.clock.now();
        let held = std::mem::take(&mut won.answer.held);
        let mut flow = Self {
            queued: 0,
            queue: VecDeque::with_capacity(held.len()),
            opening: Opening::new(terms.after_comments),
            last_read: now,
            next_beat: terms.heartbeat.map(|every| now + every),
            latest: now,
            won,
            terms,
            bytes_out: 0,
            backpressure: Duration::ZERO,
            blocked_within: None,
            backpressured: false,
            mid_write: false,
            blocked: None,
            relayed: Relayed::default(),
        };
        for bytes in held {
            flow.queue_up(bytes);
        }
        flow
    }

    fn queue_up(&mut self, bytes: Bytes) {
        let bytes = self.opening.pass(bytes);
        if !bytes.is_empty() {
            self.queued += bytes.len();
            self.queue.push_back(bytes);
        }
    }

    /// Whether the backend has nothing more to say.
    pub(super) fn ended(&self) -> bool {
        self.won.answer.ended.is_some()
    }

    /// Whether more may be read at once, into the same write.
    pub(super) fn wants_more(&self) -> bool {
        !self.ended() && self.queued < ONE_WRITE
    }

    /// Observes what was read, and queues it for the client.
    pub(super) fn take<E>(&mut self, read: Result<Option<Bytes>, E>, now: Instant) {
        self.latest = now;
        let Won { answer, in_flight, .. } = &mut self.won;
        let before = answer.reading.tokens();
        let Self { queue, queued, opening, .. } = self;
        let enqueue = |bytes: Bytes| {
            let bytes = opening.pass(bytes);
            if !bytes.is_empty() {
                *queued += bytes.len();
                queue.push_back(bytes);
            }
        };
        match read {
            Ok(Some(bytes)) => {
                self.last_read = now;
                answer.reading.take(bytes, now, enqueue);
                in_flight.progressed(now);
            }
            Ok(None) => {
                answer.reading.finish(true, now, enqueue);
                answer.ended = Some(true);
                in_flight.excuse();
            }
            Err(_) => {
                answer.reading.finish(false, now, enqueue);
                answer.ended = Some(false);
                in_flight.excuse();
            }
        }
        if let (0, Some(at)) = (before, answer.reading.first_token_at()) {
            in_flight.first_token(at);
        }
        in_flight.tokens(answer.reading.tokens().saturating_sub(before), now);
    }

    /// What is queued, as one piece of a size that one write should have. It is on its way until [`Self::wrote`].
    pub(super) fn next_write(&mut self) -> Option<Bytes> {
        let mut first = self.queue.pop_front()?;
        self.mid_write = true;
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

    /// The client has taken a piece of so many bytes.
    pub(super) fn wrote(&mut self, length: usize) {
        self.mid_write = false;
        self.bytes_out += length as u64;
        self.look_at_relay();
    }

    /// Reads the clock after the first token's write, and after one in so many.
    fn look_at_relay(&mut self) {
        let client_kept_up = self.blocked.is_none() && self.backpressure.is_zero();
        let Some(first) = self.won.answer.reading.first_token_at().filter(|_| client_kept_up) else { return };
        let Relayed { writes, sum, count, first: of_first } = &mut self.relayed;
        *writes = writes.wrapping_add(1);
        if *writes == 1 {
            *of_first = Some(self.terms.clock.now().saturating_duration_since(first));
        } else if writes.is_multiple_of(RELAY_SAMPLE) {
            *sum += self.terms.clock.now().saturating_duration_since(self.latest);
            *count += 1;
        }
    }

    /// A write has to wait for the client. Answers whether the backend may still be listened to.
    pub(super) fn block(&mut self) -> bool {
        let full = self.queued >= QUEUED;
        let (_, unheard) = self.blocked.get_or_insert_with(|| (self.terms.clock.now(), false));
        *unheard |= full;
        if full {
            // That the backend says nothing now is the client's doing.
            self.won.in_flight.excuse();
        }
        if full && !self.backpressured {
            self.backpressured = true;
            self.won.answer.reading.suspend_gaps();
            self.won.in_flight.paced_by_client();
        }
        !full && !self.ended()
    }

    /// Whether a write waits for the client.
    pub(super) fn is_blocked(&self) -> bool {
        self.blocked.is_some()
    }

    /// The client takes bytes again; answers whether it had not.
    pub(super) fn unblock(&mut self) -> bool {
        let Some((since, unheard)) = self.blocked.take() else { return false };
        let now = self.terms.clock.now();
        self.latest = now;
        self.backpressure += now.saturating_duration_since(since);
        let first = self.blocked_within.map_or(since, |(first, _)| first);
        self.blocked_within = Some((first, now));
        if unheard {
            // The backend was not listened to for a while: that silence is not its fault.
            self.last_read = self.last_read.max(now);
            if !self.ended() {
                self.won.in_flight.listen(now);
            }
        }
        true
    }

    /// The instant at which a timer could next have passed.
    pub(super) fn next_deadline(&self) -> Instant {
        let fixed =
            self.first_token_deadline().map_or(self.terms.total_deadline, |at| at.min(self.terms.total_deadline));
        let next = (self.last_read + self.terms.timeouts.idle).min(fixed);
        self.beats_next().map_or(next, |at| at.min(next))
    }

    /// When the next comment is due, while no token has come.
    fn beats_next(&self) -> Option<Instant> {
        self.next_beat.filter(|_| !self.won.answer.reading.has_token() && !self.ended())
    }

    /// Queues a comment that is due, where the client can take one: between two events, after all that came before.
    fn beat(&mut self, now: Instant) {
        let Some(every) = self.terms.heartbeat.filter(|_| self.beats_next().is_some_and(|at| now >= at)) else {
            return;
        };
        self.next_beat = Some(now + every);
        if self.all_written() && self.won.answer.reading.at_event_boundary() {
            self.opening.comes_after_comments();
            self.queued += COMMENT.len();
            self.queue.push_back(Bytes::from_static(COMMENT));
        }
    }

    /// Whether something waits to be written.
    pub(super) fn has_more(&self) -> bool {
        !self.queue.is_empty()
    }

    /// When the first token is due, while it has not come.
    fn first_token_deadline(&self) -> Option<Instant> {
        let Answer { kind, rejected, reading, .. } = &*self.won.answer;
        let waits = *kind == BodyKind::EventStream && !rejected && !reading.has_token();
        self.won.first_token_deadline.filter(|_| waits)
    }

    /// Why the pump must stop although bytes still move: a backend that always has more keeps a pump from waiting on
    /// anything else. Looks at the latest read's instant, not at the clock.
    pub(super) fn must_stop(&self) -> Option<Stop> {
        self.overdue_at(self.latest).or_else(|| self.terms.cut.borrow().then_some(Stop::Drained))
    }

    fn overdue_at(&self, now: Instant) -> Option<Stop> {
        if now >= self.terms.total_deadline {
            return Some(Stop::Timeout(Outcome::TotalTimeout));
        }
        self.first_token_deadline().filter(|at| now >= *at).map(|_| Stop::Timeout(Outcome::FirstTokenTimeout))
    }

    /// The timer is set once and looks, when it fires, at what has happened since: reads cost it nothing. Answers when
    /// to look again.
    pub(super) fn check_deadlines(&mut self) -> Result<Instant, Stop> {
        let now = self.terms.clock.now();
        if let Some(stop) = self.overdue_at(now) {
            return Err(stop);
        }
        if self.won.answer.kind != BodyKind::EventStream {
            return Ok(self.terms.total_deadline);
        }
        if self.is_blocked() {
            // The client is waited for, not the backend; the timer is set anew when it takes bytes again.
            return Ok(self.terms.total_deadline);
        }
        if now >= self.last_read + self.terms.timeouts.idle {
            return Err(Stop::Timeout(Outcome::IdleTimeout));
        }
        self.beat(now);
        Ok(self.next_deadline())
    }

    /// Whether the client's connection has taken everything that was read.
    fn all_written(&self) -> bool {
        self.queue.is_empty() && !self.mid_write
    }

    /// What the end means.
    pub(super) fn conclude(&mut self, stop: Option<Stop>) -> Forwarded {
        self.unblock();
        let answer = &self.won.answer;
        let outcome = match stop {
            // What the API calls the end has been sent: nothing after it can make the answer worse.
            _ if answer.reading.done_seen() && self.all_written() => Outcome::Complete,
            None if answer.rejected && answer.ended == Some(true) => Outcome::BackendRejected,
            None => answer.reading.outcome(answer.ended == Some(true)),
            Some(Stop::ClientGone) => Outcome::ClientCancelled,
            Some(Stop::ClientStalled) => Outcome::ClientStalled,
            Some(Stop::Timeout(outcome)) => outcome,
            Some(Stop::Drained) => Outcome::Drained,
        };
        Forwarded {
            outcome,
            excused: false,
            bytes_out: self.bytes_out,
            backpressure: self.backpressure,
            blocked: self.blocked_within,
            backpressured: self.backpressured,
            // Nothing can follow half a write.
            client_there: !matches!(stop, Some(Stop::ClientGone | Stop::ClientStalled)) && !self.mid_write,
            clean: answer.ended == Some(true),
            whole: stop.is_none() && answer.ended == Some(true) && answer.reading.whole_to_client(),
            at_event_boundary: self.all_written() && answer.reading.at_event_boundary(),
            relayed: self.relayed,
        }
    }
}
