//! A client's connection, as pingora sees it: one write per event, and a deadline on request heads.
//!
//! pingora's own stream zeroes a 64 KiB read buffer per connection, and has no deadline on a whole head, only on each
//! read. [`Plain`] buffers nothing it reads, gathers small writes until they are flushed, and hands an event's chunk to
//! the socket in one vectored write; [`ClientStream`] gives up on a head that does not become complete in time.

use std::fmt;
use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, RawFd};
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_trait::async_trait;
use pingora_core::protocols::raw_connect::ProxyDigest;
use pingora_core::protocols::tls::{SslDigest, TlsRef, TlsStream};
use pingora_core::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, IO, Peek, Shutdown, SocketDigest, Ssl, Stream,
    TimingDigest, UniqueID, UniqueIDType,
};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;

use super::Proxy;
use super::heads::{self, Unread};

/// Writes gathered before a flush; a response head and a small body together.
const GATHERED: usize = 4 * 1024;

/// The client connection preface of HTTP/2, <https://www.rfc-editor.org/rfc/rfc9113#section-3.4>.
const H2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A plain TCP connection without read buffer.
#[derive(Debug)]
pub(super) struct Plain {
    /// Empty while the socket is lent; whoever reads or writes here meanwhile is told that it is not connected.
    tcp: Mutex<Option<TcpStream>>,
    fd: RawFd,
    gathered: Vec<u8>,
    digest: Arc<SocketDigest>,
}

impl Plain {
    pub(super) fn new(tcp: TcpStream) -> Self {
        let fd = tcp.as_raw_fd();
        let digest = Arc::new(SocketDigest::from_raw_fd(fd));
        Self { tcp: Mutex::new(Some(tcp)), fd, gathered: Vec::new(), digest }
    }

    fn tcp(&mut self) -> io::Result<Pin<&mut TcpStream>> {
        present(&mut self.tcp)
    }

    fn lend(&self) -> Option<TcpStream> {
        if !self.gathered.is_empty() {
            return None;
        }
        self.tcp.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn reset_on_close(&self) {
        if let Some(tcp) = &*self.tcp.lock().unwrap_or_else(PoisonError::into_inner) {
            let _ = SockRef::from(tcp).set_linger(Some(Duration::ZERO));
        }
    }

    fn give_back(&self, tcp: TcpStream) {
        *self.tcp.lock().unwrap_or_else(PoisonError::into_inner) = Some(tcp);
    }

    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.gathered.is_empty() {
            let written = ready!(present(&mut self.tcp)?.poll_write(cx, &self.gathered))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.gathered.drain(..written);
        }
        // The allocation goes with its content: an idle connection holds none.
        if self.gathered.capacity() > 0 {
            self.gathered = Vec::new();
        }
        Poll::Ready(Ok(()))
    }
}

/// The socket, unless it is lent; exclusive access takes no lock.
fn present(tcp: &mut Mutex<Option<TcpStream>>) -> io::Result<Pin<&mut TcpStream>> {
    let tcp = tcp.get_mut().unwrap_or_else(PoisonError::into_inner);
    tcp.as_mut().map(Pin::new).ok_or_else(|| io::ErrorKind::NotConnected.into())
}

impl AsyncRead for Plain {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.get_mut().tcp()?.poll_read(cx, buf)
    }
}

impl AsyncWrite for Plain {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.gathered.len() + buf.len() > GATHERED {
            ready!(this.poll_drain(cx))?;
            return this.tcp()?.poll_write(cx, buf);
        }
        this.gathered.extend_from_slice(buf);
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_drain(cx))?;
        this.tcp()?.poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_drain(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_drain(cx))?;
        this.tcp()?.poll_shutdown(cx)
    }
}

#[async_trait]
impl Shutdown for Plain {
    async fn shutdown(&mut self) {
        // A peer that is gone already is no news.
        if let Ok(mut tcp) = self.tcp() {
            let _ = tokio::io::AsyncWriteExt::shutdown(&mut *tcp).await;
        }
    }
}

impl UniqueID for Plain {
    fn id(&self) -> UniqueIDType {
        self.fd
    }
}

impl Ssl for Plain {}

impl GetTimingDigest for Plain {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        Vec::new()
    }
}

impl GetProxyDigest for Plain {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        None
    }
}

impl GetSocketDigest for Plain {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        Some(Arc::clone(&self.digest))
    }
}

#[async_trait]
impl Peek for Plain {
    /// Looks for HTTP/2's preface, which may arrive in pieces: waits while what is there could still become it.
    async fn try_peek(&mut self, buf: &mut [u8]) -> io::Result<bool> {
        loop {
            let there = self.tcp()?.peek(buf).await?;
            let so_far = buf.get(..there).unwrap_or_default();
            if there == 0 {
                // pingora would take it for HTTP/2, and greet somebody who has left.
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if there == buf.len() || !H2_PREFACE.starts_with(so_far) {
                return Ok(true);
            }
            // A peeked socket stays readable, so its readiness says nothing about more bytes.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

/// A client's connection with a deadline on heads; `S` is plain TCP or TLS over it.
pub(super) struct ClientStream<S> {
    inner: S,
    proxy: Arc<Proxy>,
    phase: AtomicU8,
    within: Duration,
    deadline: Option<Pin<Box<Sleep>>>,
    /// Bytes of HTTP/2's preface still to come; 0 on a connection that speaks HTTP/1.1.
    preface: usize,
    h2: bool,
    /// Whether the client has said anything yet.
    heard: bool,
}

/// Nothing is due: a body or a response is under way.
const BUSY: u8 = 0;
/// The next head may begin whenever the client likes.
const IDLE: u8 = 1;
/// A head has begun and must be complete in time.
const HEAD: u8 = 2;
/// It was not, or was no head, and the client has been told, or it has left: whatever else arrives or is written is worthless.
const OVER: u8 = 3;

impl<S> ClientStream<S> {
    /// A fresh connection: its first head must be complete `within` that time.
    pub(super) fn new(inner: S, within: Duration, proxy: &Arc<Proxy>) -> Self {
        let (proxy, phase) = (Arc::clone(proxy), AtomicU8::new(HEAD));
        Self { inner, proxy, phase, within, deadline: None, preface: 0, h2: false, heard: false }
    }

    /// The connection speaks HTTP/2: what must come in time is the preface, since heads come one per stream, and
    /// nothing says to the connection when one is complete.
    pub(super) fn speaks_h2(&mut self) {
        self.preface = H2_PREFACE.len();
        self.h2 = true;
    }

    /// The head is complete.
    fn head_complete(&self) {
        self.phase.store(BUSY, Ordering::Relaxed);
    }

    /// The response is complete: the next head's time starts with its first byte.
    fn await_next_head(&self) {
        self.phase.store(IDLE, Ordering::Relaxed);
    }
}

/// Tells a client's connection that its request head is complete.
pub(super) fn head_complete(stream: &Stream) {
    match concrete(stream) {
        Some(Either::Plain(plain)) => plain.head_complete(),
        Some(Either::Tls(tls)) => tls.head_complete(),
        None => {}
    }
}

/// Tells a client's connection that the response is complete and another head may follow.
pub(super) fn await_next_head(stream: &Stream) {
    match concrete(stream) {
        Some(Either::Plain(plain)) => plain.await_next_head(),
        Some(Either::Tls(tls)) => tls.await_next_head(),
        None => {}
    }
}

/// Lets the connection's close be a reset: where a body ends with its connection, nothing else tells a broken one from a
/// whole one. Over TLS the missing `close_notify` says the same.
pub(super) fn reset_on_close(stream: &Stream) {
    if let Some(Either::Plain(plain)) = concrete(stream) {
        plain.inner.reset_on_close();
    }
}

/// Takes the socket out of a client's plain connection, for a task that serves it alone for a while.
pub(super) fn lend(stream: &Stream) -> Option<TcpStream> {
    match concrete(stream)? {
        Either::Plain(plain) => plain.inner.lend(),
        Either::Tls(_) => None,
    }
}

/// Puts a lent socket back.
pub(super) fn give_back(stream: &Stream, tcp: TcpStream) {
    if let Some(Either::Plain(plain)) = concrete(stream) {
        plain.inner.give_back(tcp);
    }
}

enum Either<'a> {
    Plain(&'a ClientStream<Plain>),
    Tls(&'a ClientStream<TlsStream<Plain>>),
}

/// pingora hands the stream back as a trait object; these are the two things it can be.
fn concrete(stream: &Stream) -> Option<Either<'_>> {
    let any = (**stream).as_any();
    any.downcast_ref().map(Either::Plain).or_else(|| any.downcast_ref().map(Either::Tls))
}

impl<S> fmt::Debug for ClientStream<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientStream").field("phase", &self.phase).finish_non_exhaustive()
    }
}

impl<S: IO> ClientStream<S> {
    /// Whether the head's time is up; tells the client, once, if the socket takes it at once.
    fn head_overdue(&mut self, cx: &mut Context<'_>) -> bool {
        match self.phase.load(Ordering::Relaxed) {
            HEAD => {}
            OVER => return true,
            _ => {
                self.deadline = None;
                return false;
            }
        }
        let within = self.within;
        let deadline = self.deadline.get_or_insert_with(|| Box::pin(tokio::time::sleep(within)));
        if deadline.as_mut().poll(cx).is_pending() {
            return false;
        }
        if self.heard && self.preface == 0 {
            self.tell(Unread::TooSlow, cx);
        } else {
            // Who said nothing asked nothing.
            self.phase.store(OVER, Ordering::Relaxed);
        }
        true
    }

    /// The client has left: before a head, or in the middle of one, it has asked nothing.
    fn left(&self) {
        if matches!(self.phase.load(Ordering::Relaxed), HEAD | IDLE) {
            self.phase.store(OVER, Ordering::Relaxed);
        }
    }

    /// The connection's last words, if the socket takes them at once.
    fn tell(&mut self, unread: Unread, cx: &mut Context<'_>) {
        self.phase.store(OVER, Ordering::Relaxed);
        let words = heads::refuse(&self.proxy, unread);
        let _ = Pin::new(&mut self.inner).poll_write(cx, &words);
        let _ = Pin::new(&mut self.inner).poll_flush(cx);
    }

    /// Whether what is written now would be pingora's own refusal of a head, which is said in our words instead.
    fn refuses_head(&mut self, answer: &[u8], cx: &mut Context<'_>) -> bool {
        match self.phase.load(Ordering::Relaxed) {
            HEAD if !self.h2 => {
                self.tell(Unread::by_answer(answer), cx);
                true
            }
            phase => phase == OVER,
        }
    }
}

impl<S: IO> AsyncRead for ClientStream<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.head_overdue(cx) {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        let before = buf.filled().len();
        let read = ready!(Pin::new(&mut this.inner).poll_read(cx, buf));
        if read.is_err() || (buf.filled().len() == before && buf.remaining() > 0) {
            this.left();
            return Poll::Ready(read);
        }
        this.heard = true;
        if this.preface > 0 {
            this.preface = this.preface.saturating_sub(buf.filled().len() - before);
            if this.preface == 0 {
                this.head_complete();
            }
        }
        if this.phase.load(Ordering::Relaxed) == IDLE {
            this.phase.store(HEAD, Ordering::Relaxed);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: IO> AsyncWrite for ClientStream<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.refuses_head(buf, cx) {
            return Poll::Ready(Ok(buf.len()));
        }
        Pin::new(&mut this.inner).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.refuses_head(bufs.first().map_or(&[], |buf| &**buf), cx) {
            return Poll::Ready(Ok(bufs.iter().map(|buf| buf.len()).sum()));
        }
        Pin::new(&mut this.inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}

#[async_trait]
impl<S: IO> Shutdown for ClientStream<S> {
    async fn shutdown(&mut self) {
        let _ = tokio::io::AsyncWriteExt::flush(self).await;
        self.inner.shutdown().await;
    }
}

impl<S: IO> UniqueID for ClientStream<S> {
    fn id(&self) -> UniqueIDType {
        self.inner.id()
    }
}

impl<S: IO> Ssl for ClientStream<S> {
    fn get_ssl(&self) -> Option<&TlsRef> {
        self.inner.get_ssl()
    }

    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        self.inner.get_ssl_digest()
    }

    fn selected_alpn_proto(&self) -> Option<ALPN> {
        self.inner.selected_alpn_proto()
    }
}

impl<S: IO> GetTimingDigest for ClientStream<S> {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        Vec::new()
    }
}

impl<S: IO> GetProxyDigest for ClientStream<S> {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        None
    }
}

impl<S: IO> GetSocketDigest for ClientStream<S> {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        self.inner.get_socket_digest()
    }
}

#[async_trait]
impl<S: IO> Peek for ClientStream<S> {
    async fn try_peek(&mut self, buf: &mut [u8]) -> io::Result<bool> {
        let within = self.within;
        let deadline = self.deadline.get_or_insert_with(|| Box::pin(tokio::time::sleep(within)));
        let peeked = tokio::select! {
            biased;
            peeked = self.inner.try_peek(buf) => peeked?,
            () = deadline.as_mut() => return Err(io::ErrorKind::TimedOut.into()),
        };
        if peeked && buf == H2_PREFACE {
            self.speaks_h2();
        }
        Ok(peeked)
    }
}
