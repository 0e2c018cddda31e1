//! Who is let in at the listeners: as many connections as may be open, and whoever comes after them.
//!
//! Those wait in the kernel's queue for a moment, since places come back. When none did, whoever comes is told so and
//! when to come back, which a balancer can act on; a connection that hangs tells nobody anything.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Notify, Semaphore};

use super::Proxy;
use super::ladder::{Client, Ladder};
use crate::measure::outcome::ShedReason;

/// How long connections wait for a place before they are turned away.
const PATIENCE: Duration = Duration::from_secs(1);

/// How many are told at once why they are turned away; more are closed without a word.
const TOLD: usize = 8;

/// For what a client has sent already: closing on it would destroy the answer.
const FAREWELL: Duration = Duration::from_secs(1);
const FAREWELL_BYTES: usize = 64 * 1024;

const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\ncontent-length: 154\r\n\
    retry-after: 1\r\nretry-after-ms: 1000\r\nx-should-retry: true\r\nconnection: close\r\n\r\n\
    {\"error\":{\"message\":\"headway has as many connections as it may; ask again on a new one\",\
    \"type\":\"server_error\",\"param\":null,\"code\":\"too_many_connections\"}}";

/// The door of all listeners.
#[derive(Debug)]
pub(super) struct Door {
    ladder: Arc<Ladder>,
    closed: Notify,
    told: Arc<Semaphore>,
}

/// One open connection; released by `Drop`.
#[derive(Debug)]
pub(super) struct Connection {
    /// `None` only while it is being dropped.
    client: Option<Client>,
    door: Arc<Door>,
}

/// What a listener knows of the last connection it took.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// Nobody left for as long as anyone waits.
    full: bool,
}

impl Door {
    pub(super) fn new(ladder: Arc<Ladder>) -> Arc<Self> {
        Arc::new(Self { ladder, closed: Notify::new(), told: Arc::new(Semaphore::new(TOLD)) })
    }

    /// Waits until a connection may be taken, or must be turned away.
    pub(super) async fn wait(&self, proxy: &Proxy, queue: &mut Queue) {
        let has_room = || self.ladder.has_room(&proxy.fleet.load().settings().limits);
        if has_room() {
            queue.full = false;
        } else if !queue.full {
            let room = async {
                loop {
                    let closed = self.closed.notified();
                    if has_room() {
                        return;
                    }
                    closed.await;
                }
            };
            // A reload may raise the bound, and nothing tells of that here.
            queue.full = tokio::time::timeout(PATIENCE, room).await.is_err() && !has_room();
        }
    }

    /// Lets a connection in, if there is a place.
    pub(super) fn enter(self: &Arc<Self>, proxy: &Proxy, queue: &Queue) -> Option<Connection> {
        if queue.full && !self.ladder.has_room(&proxy.fleet.load().settings().limits) {
            return None;
        }
        Some(Connection { client: Some(self.ladder.enter()), door: Arc::clone(self) })
    }

    /// Turns a connection away, with a word if it speaks plainly.
    pub(super) fn turn_away(&self, proxy: &Proxy, stream: TcpStream, plain: bool) {
        proxy.telemetry.metrics().turned_away(ShedReason::Connections);
        if let Ok(place) = Arc::clone(&self.told).try_acquire_owned()
            && plain
        {
            drop(tokio::spawn(async move {
                tell(stream).await;
                drop(place);
            }));
        }
    }

    /// Waits until the last connection is closed.
    pub(super) async fn empty(&self) {
        loop {
            let closed = self.closed.notified();
            if self.ladder.clients() == 0 {
                return;
            }
            closed.await;
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.client = None;
        self.door.closed.notify_one();
    }
}

async fn tell(mut stream: TcpStream) {
    let farewell = async {
        stream.write_all(FULL).await?;
        stream.shutdown().await?;
        let (mut heard, mut piece) = (0, [0; 1024]);
        while heard < FAREWELL_BYTES {
            match stream.read(&mut piece).await? {
                0 => break,
                bytes => heard += bytes,
            }
        }
        std::io::Result::Ok(())
    };
    // Whoever does not listen is not waited for.
    let _ = tokio::time::timeout(FAREWELL, farewell).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_refusal_is_framed_as_it_says() {
        let text = std::str::from_utf8(FULL).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("content-length: {}", body.len())), "{}", body.len());
        let error: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(error["error"]["code"], "too_many_connections");
    }
}
