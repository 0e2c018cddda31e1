//! Connections of the admin listener, each with a deadline, all together with a bound.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::events::Audience;
use super::{Services, answer};
use crate::clock::ACCEPT_PAUSE;

/// Most connections at once; further ones wait in the kernel's queue.
const CONNECTIONS: usize = 64;
/// From the connection, or the last answer, to a complete request head.
const HEADER_DEADLINE: Duration = Duration::from_secs(10);
/// Largest request head, and most bytes buffered per connection.
const BUFFER_BYTES: usize = 64 << 10;
/// A connection gets no further request after this time, so that idle ones cannot take every place for good.
const LIFE: Duration = Duration::from_secs(300);
/// For the answers under way at the end.
const LAST_ANSWERS: Duration = Duration::from_secs(1);
/// For the last answer of a connection that has lived its time.
const FAREWELL: Duration = Duration::from_secs(30);

/// Serves on a thread and runtime of its own, until `shutdown` turns true or its sender is gone.
///
/// # Errors
/// When no thread or runtime can be had.
pub fn spawn(
    listener: std::net::TcpListener,
    services: Services,
    shutdown: watch::Receiver<bool>,
) -> io::Result<JoinHandle<()>> {
    listener.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(2).build()?;
    std::thread::Builder::new().name("admin".to_owned()).spawn(move || {
        runtime.block_on(async {
            match TcpListener::from_std(listener) {
                Ok(listener) => serve(listener, services, shutdown).await,
                Err(error) => tracing::error!(%error, "the admin listener cannot be served"),
            }
        });
    })
}

/// Serves until `shutdown` turns true or its sender is gone.
pub async fn serve(listener: TcpListener, services: Services, mut shutdown: watch::Receiver<bool>) {
    let services = Arc::new(services);
    let (audience, places) = (Audience::new(), Arc::new(Semaphore::new(CONNECTIONS)));
    let accepting = async {
        // The semaphore is never closed.
        while let Ok(place) = Arc::clone(&places).acquire_owned().await {
            match listener.accept().await {
                Ok((stream, _)) => {
                    drop(tokio::spawn(connection(stream, place, Arc::clone(&services), Arc::clone(&audience))));
                }
                Err(error) => {
                    tracing::warn!(%error, "the admin listener cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    };
    tokio::select! {
        () = accepting => {}
        _ = shutdown.wait_for(|&shut_down| shut_down) => {}
    }
    drop(listener);
    // Whoever was accepted is answered. Those that ask nothing, or for ever, are not waited for.
    let all = u32::try_from(CONNECTIONS).unwrap_or(u32::MAX);
    let _ = tokio::time::timeout(LAST_ANSWERS, places.acquire_many(all)).await;
}

async fn connection(stream: TcpStream, _place: OwnedSemaphorePermit, services: Arc<Services>, audience: Arc<Audience>) {
    let Ok(local) = stream.local_addr() else { return };
    let service = service_fn(|request| {
        let (services, audience) = (Arc::clone(&services), Arc::clone(&audience));
        async move { Ok::<_, Infallible>(answer::answer(&services, &audience, local, request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_DEADLINE)
        .max_buf_size(BUFFER_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    // How a connection ends is its client's business: a broken one is not worth a line.
    tokio::select! {
        _ended = connection.as_mut() => return,
        () = tokio::time::sleep(LIFE) => connection.as_mut().graceful_shutdown(),
    }
    let _ended = tokio::time::timeout(FAREWELL, connection).await;
}
