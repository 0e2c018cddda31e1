//! The body of a streamed answer: tokens in, events out, one write for each event.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame};
use tokio::sync::mpsc;
use tokio::time::{Interval, MissedTickBehavior};

use crate::nim_simulator::connection::Connection;
use crate::nim_simulator::dialect::{Dialect, Times, done};
use crate::nim_simulator::faults::FaultKind;
use crate::nim_simulator::pace::Token;
use crate::nim_simulator::problem::Problem;
use crate::nim_simulator::request::{Api, Job};
use crate::nim_simulator::ticket::{End, Ticket};

/// What follows the events that are queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    /// More tokens.
    Tokens,
    /// The end of the body.
    Finish(End),
    /// Silence on an open connection.
    Silence,
    /// The end of the connection.
    Close,
    /// A reset of the connection.
    Reset,
}

/// A streamed answer; it is polled by the connection and dropped with it.
pub(super) struct EventStream {
    api: Api,
    ticket: Ticket,
    tokens: mpsc::Receiver<Token>,
    dialect: Box<dyn Dialect>,
    /// The engine's own times, where they are told.
    times: Option<Times>,
    connection: Arc<Connection>,
    fault: Option<FaultKind>,
    /// Tokens so far and in all, of each choice.
    progress: Vec<(u32, u32)>,
    /// Bounded by the events of a few tokens: it is refilled only when empty.
    queued: VecDeque<Bytes>,
    then: Then,
    /// Whether the event before this one has been given the time to be written.
    flushed: bool,
    keep_alive: Option<Interval>,
    sent: u32,
}

/// What a stream is made of.
pub(super) struct Parts {
    pub(super) ticket: Ticket,
    pub(super) tokens: mpsc::Receiver<Token>,
    pub(super) dialect: Box<dyn Dialect>,
    pub(super) connection: Arc<Connection>,
    pub(super) fault: Option<FaultKind>,
    pub(super) keep_alive: Option<Duration>,
    pub(super) times: Option<Times>,
}

impl EventStream {
    pub(super) fn new(mut parts: Parts, job: &Job) -> Self {
        let queued = parts.dialect.accepted().into();
        let speaks_comments = matches!(job.api, Api::Chat | Api::Completions);
        Self {
            api: job.api,
            ticket: parts.ticket,
            tokens: parts.tokens,
            dialect: parts.dialect,
            times: parts.times,
            connection: parts.connection,
            fault: parts.fault,
            progress: job.choices.iter().map(|choice| (0, choice.tokens)).collect(),
            queued,
            then: Then::Tokens,
            flushed: true,
            keep_alive: parts.keep_alive.filter(|_| speaks_comments).map(ticking),
            sent: 0,
        }
        .faulty_from_the_start()
    }

    /// Some faults need no token to show.
    fn faulty_from_the_start(mut self) -> Self {
        match self.fault {
            Some(FaultKind::ResetAfterHead) => self.fail(Vec::new(), Then::Reset),
            Some(FaultKind::HangAfterHead) => self.fail(Vec::new(), Then::Silence),
            Some(FaultKind::Empty) => self.fail(Vec::new(), Then::Finish(End::Fault)),
            _ => {}
        }
        self
    }

    /// One token of a choice; queues what it adds, and what follows from it.
    fn on_token(&mut self, token: Token) {
        let choice = token.choice;
        self.keep_alive = None;
        if self.strikes_before() {
            return;
        }
        let Some((index, _)) = self.progress.get(choice).copied() else { return };
        if self.sent == 0 {
            self.queued.extend(self.dialect.opening());
        }
        self.queued.extend(self.dialect.token(choice, index));
        self.ticket.token();
        if let Some(times) = &mut self.times {
            times.token(&token);
        }
        self.sent = self.sent.saturating_add(1);
        if let Some((made, _)) = self.progress.get_mut(choice) {
            *made += 1;
        }
        self.strikes_after();
        if self.then == Then::Tokens && self.progress.iter().all(|(made, planned)| made >= planned) {
            if let Some(times) = self.times {
                self.dialect.timed(times);
            }
            self.queued.extend(self.dialect.closing());
            self.then = Then::Finish(End::Completed);
        }
    }

    /// Faults in place of the next token.
    fn strikes_before(&mut self) -> bool {
        match self.fault {
            Some(FaultKind::Stall(after)) if self.sent >= after => self.fail(Vec::new(), Then::Silence),
            Some(FaultKind::Truncate(after)) if self.sent >= after => {
                self.fail(Vec::new(), Then::Finish(End::Fault));
            }
            Some(FaultKind::CloseMidEvent(after)) if self.sent >= after => {
                let half = self.half_event();
                self.fail(half, Then::Close);
            }
            Some(FaultKind::ErrorEvent) => self.fail(Problem::internal().events(self.api), Then::Finish(End::Fault)),
            Some(FaultKind::ErrorEventMid(after)) if self.sent >= after => {
                self.fail(Problem::internal().events(self.api), Then::Finish(End::Fault));
            }
            Some(FaultKind::Garbage) => self.fail(garbage(), Then::Finish(End::Fault)),
            _ => return false,
        }
        true
    }

    /// Faults after a token.
    fn strikes_after(&mut self) {
        if self.fault == Some(FaultKind::ResetAfterFirstToken) {
            self.fail(Vec::new(), Then::Reset);
        }
    }

    fn fail(&mut self, events: Vec<Bytes>, then: Then) {
        self.queued.extend(events);
        self.then = then;
    }

    /// The beginning of the event that would come next.
    fn half_event(&mut self) -> Vec<Bytes> {
        let index = self.progress.first().map_or(0, |(made, _)| *made);
        let mut events = if self.sent == 0 { self.dialect.opening() } else { Vec::new() };
        let next = self.dialect.token(0, index);
        events.extend(next.first().map(|event| event.slice(..event.len() / 2)));
        events
    }

    /// What comes when nothing is queued.
    fn poll_end(&mut self) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.then {
            Then::Finish(end) => {
                self.ticket.end(end);
                return Poll::Ready(None);
            }
            Then::Close => {
                self.ticket.end(End::Fault);
                self.connection.close();
            }
            Then::Reset => {
                self.ticket.end(End::Fault);
                self.connection.reset();
            }
            Then::Silence | Then::Tokens => {}
        }
        Poll::Pending
    }

    /// A comment while the request waits for its first token.
    fn poll_comment(&mut self, cx: &mut Context<'_>) -> Option<Bytes> {
        let ticked = self.keep_alive.as_mut()?.poll_tick(cx).is_ready();
        ticked.then(|| Bytes::from_static(b": keep-alive\n\n"))
    }

    /// Hands out the next event, after a pause in which hyper writes the one before: each has a write of its own.
    fn poll_queued(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if self.queued.is_empty() {
            return Poll::Ready(None);
        }
        if !std::mem::replace(&mut self.flushed, true) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.flushed = false;
        Poll::Ready(self.queued.pop_front())
    }
}

impl Body for EventStream {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = &mut *self;
        loop {
            match this.poll_queued(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(event)) => return Poll::Ready(Some(Ok(Frame::data(event)))),
                Poll::Ready(None) if this.then != Then::Tokens => return this.poll_end(),
                Poll::Ready(None) => {}
            }
            match this.tokens.poll_recv(cx) {
                Poll::Ready(Some(token)) => this.on_token(token),
                Poll::Ready(None) => this.fail(Problem::internal().events(this.api), Then::Finish(End::Fault)),
                Poll::Pending => {
                    // Waiting is the pause in which the last event is written.
                    this.flushed = true;
                    let comment = this.poll_comment(cx).map(|comment| Ok(Frame::data(comment)));
                    return comment.map_or(Poll::Pending, |comment| Poll::Ready(Some(comment)));
                }
            }
        }
    }
}

fn ticking(every: Duration) -> Interval {
    let mut interval = tokio::time::interval(every.max(Duration::from_millis(1)));
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The first tick is immediate; the first comment is not.
    interval.reset();
    interval
}

/// Things a parser should survive.
fn garbage() -> Vec<Bytes> {
    let mut events: Vec<Bytes> = [
        b"data: {\"id\":\"chatcmpl-\n\n".as_slice(),
        b"\xFF\xFE\x00\x01 not an event\n\n",
        b"data: <html><body>502 Bad Gateway</body></html>\n\n",
        b"data: [[[[\n\n",
        b"event\ndata\n\n",
        b"data: {\"choices\":\"none\"}\n\n",
    ]
    .into_iter()
    .map(Bytes::from_static)
    .collect();
    events.push(done());
    events
}
