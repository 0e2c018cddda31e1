//! One accepted connection: HTTP/1.1 or, with prior knowledge, HTTP/2 without TLS; and how to break it.

use std::io::IoSlice;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Notify;

use crate::nim_simulator::routes;
use crate::nim_simulator::state::State;

/// How long a client may take to send a request's head.
const HEAD_DEADLINE: Duration = Duration::from_secs(60);

/// The handle by which a request breaks the connection it came on.
#[derive(Debug, Default)]
pub(super) struct Connection {
    cut: Notify,
    reset: AtomicBool,
}

impl Connection {
    /// Closes the connection once what was written is on its way.
    pub(super) fn close(&self) {
        self.cut.notify_one();
    }

    /// Resets the connection once what was written is on its way.
    pub(super) fn reset(&self) {
        self.reset.store(true, Ordering::Relaxed);
        self.cut.notify_one();
    }
}

/// A socket that is closed as its connection says.
struct Socket {
    stream: TcpStream,
    connection: Arc<Connection>,
}

impl Drop for Socket {
    fn drop(&mut self) {
        if self.connection.reset.load(Ordering::Relaxed) {
            reset_on_close(&self.stream);
        }
    }
}

/// Makes the coming close a reset.
pub(super) fn reset_on_close(stream: &TcpStream) {
    if let Err(error) = socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO)) {
        tracing::debug!(%error, "a reset becomes a close");
    }
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, into)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, from: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, from)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        from: &[IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, from)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Serves requests until either side ends the connection.
pub(super) async fn serve(stream: TcpStream, state: Arc<State>) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "small writes may be delayed");
    }
    let connection = Arc::new(Connection::default());
    let handle = Arc::clone(&connection);
    let service = service_fn(move |request| routes::answer(Arc::clone(&state), Arc::clone(&handle), request));
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_DEADLINE);
    builder.http2().timer(TokioTimer::new());
    let socket = TokioIo::new(Socket { stream, connection: Arc::clone(&connection) });
    let serving = builder.serve_connection(socket, service);
    tokio::pin!(serving);
    // Serving is polled first, so that what was written before the cut is flushed before it.
    tokio::select! {
        biased;
        _ = serving.as_mut() => {}
        () = connection.cut.notified() => {}
    }
}
