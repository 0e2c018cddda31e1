//! Our side of a plain HTTP/1.1 connection to a backend.
//!
//! Model servers mostly speak plain HTTP/1.1, and every token of theirs passes here, so this path is our own from the
//! socket up: one write per request, one read per event, no buffer of its own between two events. What is read goes
//! through one scratch buffer per thread, which stays in the processor's cache; TLS and HTTP/2 are pingora's.

mod body;
#[cfg(any(test, feature = "fuzzing"))]
pub(in crate::proxy) mod fuzz;
mod head;

use std::cell::RefCell;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use pingora_core::protocols::TcpKeepalive;
use pingora_core::protocols::http::v1::client::http_req_header_to_wire;
use pingora_core::protocols::l4::ext::set_tcp_keepalive;
use pingora_http::{RequestHeader, ResponseHeader};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use self::body::Body;
use self::head::Head;

/// Most that one read takes.
const ONE_READ: usize = 64 * 1024;

/// Longest head of a response.
const LONGEST_HEAD: usize = 128 * 1024;

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; ONE_READ].into_boxed_slice());
}

/// What arrived is not HTTP/1.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} is malformed")]
pub(super) struct Malformed(&'static str);

/// Why a response could not be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    /// The connection ended or broke.
    #[error("the connection ended: {error}")]
    Closed {
        /// What the system says.
        error: io::Error,
        /// Whether nothing of an answer had come: an idle connection that had died already looks like this.
        silent: bool,
    },
    /// The other side speaks something else.
    #[error(transparent)]
    Malformed(#[from] Malformed),
}

/// A connection, with at most one request on it.
#[derive(Debug)]
pub(super) struct Connection {
    tcp: TcpStream,
    /// What came with an earlier read and is not looked at yet.
    ahead: Vec<u8>,
    head: Option<Box<ResponseHeader>>,
    body: Body,
    /// Whether it may serve again once the body has ended.
    keeps: bool,
    /// Whether the whole request was sent.
    sent_whole: bool,
}

impl Connection {
    /// A new connection to that address.
    pub(super) async fn open(address: SocketAddr, keepalive: Option<&TcpKeepalive>) -> io::Result<Self> {
        let tcp = TcpStream::connect(address).await?;
        let _ = tcp.set_nodelay(true);
        // A host that has vanished answers nothing: only probes tell it from a model that thinks.
        if let Some(keepalive) = keepalive {
            let _ = set_tcp_keepalive(&tcp, keepalive);
        }
        Ok(Self::on(tcp))
    }

    /// A connection that nothing was said on since it became idle.
    pub(super) fn on(tcp: TcpStream) -> Self {
        Self { tcp, ahead: Vec::new(), head: None, body: Body::UntilClose, keeps: false, sent_whole: false }
    }

    /// Sends the whole request, or as much of it as the backend waits for before it answers: a refusal of a large body
    /// comes early, and what follows it is not read any more.
    pub(super) async fn send(&mut self, head: &RequestHeader, body: &[u8]) -> io::Result<()> {
        let head = http_req_header_to_wire(head).ok_or(io::ErrorKind::InvalidInput)?;
        let mut sent = 0;
        let written = poll_fn(|cx| self.poll_send(cx, &head, body, &mut sent)).await;
        self.sent_whole = sent == head.len() + body.len();
        // Whoever closed the door may have said why before.
        if written.is_err() && poll_fn(|cx| self.poll_ahead(cx)).await.is_err() { written } else { Ok(()) }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, head: &[u8], body: &[u8], sent: &mut usize) -> Poll<io::Result<()>> {
        while *sent < head.len() + body.len() {
            let rest = [
                IoSlice::new(head.get(*sent..).unwrap_or_default()),
                IoSlice::new(body.get(sent.saturating_sub(head.len())..).unwrap_or_default()),
            ];
            match Pin::new(&mut self.tcp).poll_write_vectored(cx, &rest) {
                Poll::Ready(written) => *sent += written?,
                Poll::Pending => {
                    ready!(self.poll_ahead(cx))?;
                    if self.is_answered() {
                        break;
                    }
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Whether what came is a final answer, or the nonsense that stands in its place.
    fn is_answered(&self) -> bool {
        head::parse(&self.ahead)
            .map_or(true, |head| head.is_some_and(|(head, _)| !head.fields.status.is_informational()))
    }

    /// Waits for a response's head; called again after an informational one, for the next.
    pub(super) async fn read_head(&mut self) -> Result<&ResponseHeader, ReadError> {
        loop {
            if let Some((Head { fields, body, keeps }, length)) = head::parse(&self.ahead)? {
                self.ahead.drain(..length);
                (self.body, self.keeps) = (body, keeps && self.sent_whole);
                return Ok(self.head.insert(fields));
            }
            if self.ahead.len() > LONGEST_HEAD {
                return Err(Malformed("an endless head").into());
            }
            poll_fn(|cx| self.poll_ahead(cx)).await.map_err(|error| self.closed(error))?;
        }
    }

    fn closed(&self, error: io::Error) -> ReadError {
        ReadError::Closed { error, silent: self.ahead.is_empty() && self.head.is_none() }
    }

    /// The latest response's head.
    pub(super) fn head(&self) -> Option<&ResponseHeader> {
        self.head.as_deref()
    }

    /// The next bytes of the body; `None` at its end.
    pub(super) fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, ReadError>> {
        loop {
            match self.body {
                Body::Ended => return Poll::Ready(Ok(None)),
                Body::Broken(malformed) => return Poll::Ready(Err(malformed.into())),
                Body::Length(_) | Body::Chunked(_) | Body::UntilClose => {}
            }
            let bytes = if self.ahead.is_empty() {
                ready!(self.poll_read_body(cx)).map_err(|error| self.closed(error))?
            } else {
                let mut ahead = std::mem::take(&mut self.ahead);
                self.take_body(&mut ahead)
            };
            if !bytes.is_empty() {
                return Poll::Ready(Ok(Some(bytes)));
            }
        }
    }

    /// Whether the response has been read to its end.
    pub(super) fn is_done(&self) -> bool {
        self.head.is_some() && self.body == Body::Ended
    }

    /// The socket, if it may serve another request.
    pub(super) fn into_idle(self) -> Option<TcpStream> {
        (self.is_done() && self.keeps && self.ahead.is_empty()).then_some(self.tcp)
    }

    fn poll_ahead(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        SCRATCH.with_borrow_mut(|scratch| {
            let read = ready!(poll_read(&mut self.tcp, cx, scratch))?;
            if read.is_empty() {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            self.ahead.extend_from_slice(read);
            Poll::Ready(Ok(()))
        })
    }

    /// What one read says of the body; nothing where the connection's end is the body's.
    fn poll_read_body(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Bytes>> {
        SCRATCH.with_borrow_mut(|scratch| {
            let read = ready!(poll_read(&mut self.tcp, cx, scratch))?;
            if !read.is_empty() {
                return Poll::Ready(Ok(self.take_body(read)));
            }
            let whole = self.body.closed();
            Poll::Ready(if whole { Ok(Bytes::new()) } else { Err(io::ErrorKind::UnexpectedEof.into()) })
        })
    }

    /// The body's part of what was read. A server that says more than its response is not asked again.
    fn take_body(&mut self, read: &mut [u8]) -> Bytes {
        let decoded = self.body.decode(read);
        self.keeps &= decoded.consumed == read.len();
        Bytes::copy_from_slice(read.get(..decoded.body).unwrap_or_default())
    }
}

/// One read; an empty answer is the end.
fn poll_read<'a>(tcp: &mut TcpStream, cx: &mut Context<'_>, into: &'a mut [u8]) -> Poll<io::Result<&'a mut [u8]>> {
    let mut buffer = ReadBuf::new(into);
    ready!(Pin::new(tcp).poll_read(cx, &mut buffer))?;
    let length = buffer.filled().len();
    Poll::Ready(Ok(into.get_mut(..length).unwrap_or_default()))
}

/// Whether an idle connection is still good: open, and nothing said out of turn. Asks the socket itself, since a busy
/// runtime may not have heard of it yet.
pub(super) fn is_quiet(tcp: &TcpStream) -> bool {
    let mut byte = [MaybeUninit::uninit()];
    matches!(SockRef::from(tcp).peek(&mut byte), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}
