//! The pump between two plain sockets: an event is one read, one look, one write.
//!
//! pingora serves a request inside one future of nested futures, and every event would be polled through all of them
//! (about 18 KiB a stream, rarely in the cache). So for the time of the stream the client's socket is lent to a task of
//! its own, whose one future is written by hand; the request's own future sleeps until the stream ends.

use std::cell::RefCell;
use std::future::Future;
use std::io::{self, ErrorKind, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::Version;
use pingora_core::protocols::http::server::Session;
use tokio::io::AsyncWrite;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::task::coop::unconstrained;
use tokio::time::Sleep;

use super::client::TOO_EARLY;
use super::flow::{Flow, Stop};
use super::headers::BodyKind;
use super::lifecycle::turned;
use super::stream;

/// The client's socket, if both sides are plain HTTP/1.1 and the client reads an event stream in chunks.
pub(super) fn client(session: &Session, flow: &mut Flow) -> Option<TcpStream> {
    let answer = &mut flow.won.answer;
    let streams = answer.kind == BodyKind::EventStream && answer.upstream.plain().is_some();
    let chunked = session.req_header().version == Version::HTTP_11 && !session.is_http2();
    session.stream().filter(|_| streams && chunked).and_then(stream::lend)
}

/// Moves the answer to its end, or to where it must stop.
pub(super) async fn pump(session: &mut Session, client: TcpStream, flow: Flow) -> (Flow, Option<Stop>) {
    // Dropped with the request's future, the set ends the task.
    let mut tasks = JoinSet::new();
    tasks.spawn(Direct(Some(Pump::new(client, flow))));
    let (Pump { client, flow, early, .. }, stop) = match tasks.join_next().await {
        Some(Ok(ended)) => ended,
        Some(Err(error)) => match error.try_into_panic() {
            // Whoever catches panics of this request counts it and tells the client.
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => std::future::pending().await,
        },
        None => std::future::pending().await,
    };
    if early > 0 {
        // What the client sent would have been its next request, and it is gone.
        session.set_keepalive(None);
    }
    if let Some(stream) = session.stream() {
        stream::give_back(stream, client);
    }
    (flow, stop)
}

/// The pump as a task: ends with what it was made of, and why it stopped before the body's end.
struct Direct(Option<Pump>);

impl Future for Direct {
    type Output = (Pump, Option<Stop>);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(pump) = &mut self.0 else { return Poll::Pending };
        let stop = ready!(pump.poll(cx)).err();
        self.0.take().map_or(Poll::Pending, |pump| Poll::Ready((pump, stop)))
    }
}

struct Pump {
    client: TcpStream,
    flow: Flow,
    /// What is being written.
    piece: Option<Piece>,
    /// Bytes that the client sent too early.
    early: usize,
    timer: Pin<Box<Sleep>>,
    /// Runs while a write is pending.
    stalled: Option<Pin<Box<Sleep>>>,
    cut: Pin<Box<dyn Future<Output = ()> + Send>>,
    /// Whether the end of the drain wakes this task already.
    watched: bool,
}

impl Pump {
    fn new(client: TcpStream, flow: Flow) -> Self {
        let timer = Box::pin(tokio::time::sleep_until(flow.next_deadline().into()));
        let mut cut = flow.terms.cut.clone();
        let cut = Box::pin(async move { turned(&mut cut).await });
        Self { client, flow, piece: None, early: 0, timer, stalled: None, cut, watched: false }
    }

    /// Bytes first, in both directions until neither moves; then whatever could end the answer early.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Stop>> {
        loop {
            let listens = if self.poll_write(cx)? {
                if self.flow.ended() {
                    return Poll::Ready(Ok(()));
                }
                true
            } else {
                self.flow.block()
            };
            if let Some(stop) = self.flow.must_stop() {
                return Poll::Ready(Err(stop));
            }
            if !listens || self.poll_read(cx).is_pending() {
                break;
            }
        }
        self.poll_client(cx)?;
        self.poll_timers(cx)?;
        self.poll_cut(cx)?;
        if self.piece.is_none() && self.flow.has_more() {
            // A comment was due.
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }

    /// Writes what there is; answers whether the client has taken all of it.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Result<bool, Stop> {
        loop {
            if self.piece.is_none() {
                self.piece = self.flow.next_write().map(Piece::new);
            }
            let Some(piece) = &mut self.piece else { return Ok(true) };
            let Poll::Ready(written) = piece.poll_write(&mut self.client, cx) else { return Ok(false) };
            match written {
                Ok(0) | Err(_) => return Err(Stop::ClientGone),
                Ok(written) => piece.sent += written,
            }
            self.stalled = None;
            if piece.is_sent() {
                self.flow.wrote(piece.body.len());
                self.piece = None;
                if self.flow.unblock() {
                    self.timer.as_mut().reset(self.flow.next_deadline().into());
                }
            }
        }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(upstream) = self.flow.won.answer.upstream.plain() else { return Poll::Pending };
        let read = ready!(upstream.poll_body(cx));
        let now = self.flow.terms.clock.now();
        self.flow.take(read, now);
        Poll::Ready(())
    }

    /// Looks whether the client has left; what it says too early is dropped.
    fn poll_client(&mut self, cx: &mut Context<'_>) -> Result<(), Stop> {
        let mut heard = [0; 512];
        // Beyond the bound its bytes stay where they are; that it has left then shows when it is written to.
        while self.early < TOO_EARLY && self.client.poll_read_ready(cx).is_ready() {
            match self.client.try_read(&mut heard) {
                Ok(bytes @ 1..) => self.early += bytes,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Ok(_) | Err(_) => return Err(Stop::ClientGone),
            }
        }
        Ok(())
    }

    fn poll_timers(&mut self, cx: &mut Context<'_>) -> Result<(), Stop> {
        if self.flow.is_blocked() {
            let within = self.flow.terms.write_idle;
            let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(within)));
            if stalled.as_mut().poll(cx).is_ready() {
                return Err(Stop::ClientStalled);
            }
        }
        while self.timer.as_mut().poll(cx).is_ready() {
            let next = self.flow.check_deadlines()?;
            self.timer.as_mut().reset(next.into());
        }
        Ok(())
    }

    /// Registers once: every stream waits on the same signal, whose lock is not for every event.
    fn poll_cut(&mut self, cx: &mut Context<'_>) -> Result<(), Stop> {
        if !self.watched {
            // Without budget the signal would not be asked, and would never wake this task.
            self.watched = true;
            let mut cut = unconstrained(self.cut.as_mut());
            let _ = Pin::new(&mut cut).poll(cx);
        }
        self.flow.must_stop().map_or(Ok(()), Err)
    }
}

/// Bytes of the body as one chunk, <https://www.rfc-editor.org/rfc/rfc9112#section-7.1>.
struct Piece {
    /// The line that says the size, right-aligned.
    size: [u8; SIZE_LINE],
    starts: usize,
    body: Bytes,
    /// Bytes of all three parts that the client has taken.
    sent: usize,
}

/// Most bytes of a body that are gathered.
const SMALL: usize = 2 * 1024;

thread_local! {
    /// Where a small piece is gathered, from one write to the next.
    static WHOLE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Sixteen digits and the end of the line.
const SIZE_LINE: usize = 18;
const CRLF: &[u8] = b"\r\n";

impl Piece {
    fn new(body: Bytes) -> Self {
        let mut size = [0; SIZE_LINE];
        let (mut starts, mut left) = (SIZE_LINE, body.len());
        for &byte in CRLF.iter().rev() {
            starts = put(&mut size, starts, byte);
        }
        while left > 0 {
            starts = put(&mut size, starts, b"0123456789abcdef".get(left % 16).copied().unwrap_or(b'0'));
            left /= 16;
        }
        Self { size, starts, body, sent: 0 }
    }

    fn parts(&self) -> [&[u8]; 3] {
        [self.size.get(self.starts..).unwrap_or_default(), &self.body, CRLF]
    }

    /// One write of what the client has not taken yet. A token's event goes out as one buffer: gathering a few hundred
    /// bytes costs less than the kernel's way for three.
    fn poll_write(&self, client: &mut TcpStream, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.sent > 0 || self.body.len() > SMALL {
            return Pin::new(client).poll_write_vectored(cx, &self.rest());
        }
        WHOLE.with_borrow_mut(|whole| {
            whole.clear();
            self.parts().iter().for_each(|part| whole.extend_from_slice(part));
            Pin::new(client).poll_write(cx, whole)
        })
    }

    /// What the client has not taken yet.
    fn rest(&self) -> [IoSlice<'_>; 3] {
        let mut sent = self.sent;
        self.parts().map(|part| {
            let skipped = sent.min(part.len());
            sent -= skipped;
            IoSlice::new(part.get(skipped..).unwrap_or_default())
        })
    }

    fn is_sent(&self) -> bool {
        self.sent >= self.parts().iter().map(|part| part.len()).sum()
    }
}

/// Puts a byte before those that stand there already.
fn put(line: &mut [u8; SIZE_LINE], starts: usize, byte: u8) -> usize {
    let at = starts.saturating_sub(1);
    if let Some(place) = line.get_mut(at) {
        *place = byte;
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_is_one_chunk_wherever_the_client_stops_taking_it() {
        for length in [1, 9, 16, 255, 4096, 16_384] {
            let body = Bytes::from(vec![b'x'; length]);
            let whole = [format!("{length:x}\r\n").as_bytes(), &body, b"\r\n"].concat();
            let mut piece = Piece::new(body);
            for sent in (0..whole.len()).step_by(1 + length / 50) {
                piece.sent = sent;
                let rest: Vec<u8> = piece.rest().iter().flat_map(|part| part.to_vec()).collect();
                assert_eq!(rest, whole[sent..], "{length}, after {sent}");
                assert!(!piece.is_sent());
            }
            piece.sent = whole.len();
            assert!(piece.is_sent());
        }
    }
}
