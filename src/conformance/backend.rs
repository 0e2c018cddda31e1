//! The scripted backend: it finds out by a mark in the prompt which script a request gets, and notes what happens to it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

use super::http1;
use super::script::{Script, Step};
use crate::clock::{ACCEPT_PAUSE, Clock, SystemClock};

/// Every prompt has it, followed by the number of its case's turn.
pub(super) const MARK: &str = "conformance-turn-";
/// Largest request that is taken.
const LARGEST: usize = 16 << 20;

/// What became of the requests with one mark.
#[derive(Debug, Clone, Default)]
pub(super) struct Received {
    /// How often it came.
    pub(super) attempts: usize,
    /// How often it came on a connection that had served before, and was reset for that.
    pub(super) reset_on_reuse: usize,
    /// Its head and body, as they came last.
    pub(super) head: String,
    pub(super) body: Vec<u8>,
    /// When each write of the script was done.
    pub(super) written: Vec<Instant>,
    /// Bytes that were taken.
    pub(super) sent: usize,
    /// When the other side left before the script's end.
    pub(super) left: Option<Instant>,
    /// The script was played to its end.
    pub(super) played: bool,
}

#[derive(Debug, Default)]
struct Book {
    scripts: HashMap<u64, Script>,
    received: HashMap<u64, Received>,
    next: u64,
}

/// A running backend.
#[derive(Debug, Clone)]
pub(super) struct Backend {
    book: Arc<Mutex<Book>>,
    model: Arc<str>,
    pub(super) address: SocketAddr,
}

impl Backend {
    /// Binds and serves on the current runtime.
    pub(super) async fn start(address: SocketAddr, model: &str) -> std::io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let backend = Self { book: Arc::default(), model: model.into(), address };
        let serving = backend.clone();
        tokio::spawn(async move {
            loop {
                let Ok((tcp, _)) = listener.accept().await else {
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                };
                let _ = tcp.set_nodelay(true);
                let backend = serving.clone();
                tokio::spawn(async move { backend.serve(tcp).await });
            }
        });
        Ok(backend)
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new mark for a request, which will get this script.
    pub(super) fn expect(&self, script: Script) -> u64 {
        let mut book = self.book();
        book.next += 1;
        let turn = book.next;
        book.scripts.insert(turn, script);
        turn
    }

    /// How many marks were given out.
    pub(super) fn given_out(&self) -> u64 {
        self.book().next
    }

    /// Whether any request reached it whose mark was given out after the first `before`.
    pub(super) fn was_reached_after(&self, before: u64) -> bool {
        let came = |received: &Received| received.attempts + received.reset_on_reuse > 0;
        self.book().received.iter().any(|(&turn, received)| turn > before && came(received))
    }

    /// What became of it so far.
    pub(super) fn received(&self, turn: u64) -> Received {
        self.book().received.get(&turn).cloned().unwrap_or_default()
    }

    fn note(&self, turn: u64, change: impl FnOnce(&mut Received)) {
        change(self.book().received.entry(turn).or_default());
    }

    async fn serve(&self, tcp: TcpStream) {
        let (mut read, mut write) = tcp.into_split();
        let (mut ahead, mut served) = (Vec::new(), 0);
        while let Some((head, body)) = request(&mut read, &mut ahead).await {
            served += 1;
            let Some(turn) = turn(&body) else {
                if write.write_all(&self.page(&head)).await.is_err() {
                    return;
                }
                continue;
            };
            let Some(script) = self.book().scripts.get(&turn).cloned() else { return };
            if script.only_fresh && served > 1 {
                self.note(turn, |received| received.reset_on_reuse += 1);
                return reset(read, write);
            }
            self.note(turn, |received| {
                received.attempts += 1;
                (received.head, received.body) = (head, body);
            });
            if !self.play(turn, script, &mut read, &mut write, &mut ahead).await {
                return reset(read, write);
            }
            if self.received(turn).left.is_some() {
                return;
            }
        }
    }

    /// Plays a script; false when the connection is to be reset.
    async fn play(
        &self,
        turn: u64,
        script: Script,
        read: &mut OwnedReadHalf,
        write: &mut OwnedWriteHalf,
        ahead: &mut Vec<u8>,
    ) -> bool {
        for step in script.steps {
            let done = tokio::select! {
                biased;
                done = self.step(turn, &step, write) => done,
                () = gone(read, ahead) => None,
            };
            match done {
                Some(true) => {}
                Some(false) => return false,
                None => {
                    self.note(turn, |received| received.left = Some(SystemClock.now()));
                    return true;
                }
            }
        }
        self.note(turn, |received| received.played = true);
        true
    }

    /// One step: false for a reset, nothing when the other side has left.
    async fn step(&self, turn: u64, step: &Step, write: &mut OwnedWriteHalf) -> Option<bool> {
        match step {
            Step::Send(bytes) => {
                write.write_all(bytes).await.ok()?;
                self.note(turn, |received| {
                    received.written.push(SystemClock.now());
                    received.sent += bytes.len();
                });
            }
            Step::Flood(bytes, times) => {
                for _ in 0..*times {
                    write.write_all(bytes).await.ok()?;
                    self.note(turn, |received| received.sent += bytes.len());
                }
            }
            Step::Pause(time) => tokio::time::sleep(*time).await,
            Step::Reset => {
                // What was sent is to arrive before the reset does.
                tokio::time::sleep(Duration::from_millis(20)).await;
                return Some(false);
            }
            Step::Close => {
                let _ = write.shutdown().await;
            }
            Step::Hang => std::future::pending().await,
        }
        Some(true)
    }

    /// What is answered to health checks and the like.
    fn page(&self, head: &str) -> Vec<u8> {
        let path = head.split(' ').nth(1).unwrap_or("");
        let body = match path {
            "/v1/models" => format!(
                "{{\"object\":\"list\",\"data\":[{{\"id\":\"{}\",\"object\":\"model\",\"created\":1,\"owned_by\":\"conformance\"}}]}}",
                self.model
            ),
            _ if head.starts_with("POST") => super::script::whole(),
            _ => "{}".to_owned(),
        };
        let head =
            format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n", body.len());
        (head + &body).into_bytes()
    }
}

fn reset(read: OwnedReadHalf, write: OwnedWriteHalf) {
    if let Ok(tcp) = read.reunite(write) {
        let _ = socket2::SockRef::from(&tcp).set_linger(Some(Duration::ZERO));
    }
}

/// Waits until the other side has left; what it says meanwhile is kept for later.
async fn gone(read: &mut OwnedReadHalf, ahead: &mut Vec<u8>) {
    loop {
        match read.read_buf(ahead).await {
            Ok(0) | Err(_) => return,
            Ok(_) if ahead.len() > LARGEST => return,
            Ok(_) => {}
        }
    }
}

/// The next request's head and body.
async fn request(read: &mut OwnedReadHalf, ahead: &mut Vec<u8>) -> Option<(String, Vec<u8>)> {
    loop {
        if let Some((head, at)) = http1::split(ahead) {
            let body = http1::body(&head, ahead.get(at..).unwrap_or_default(), true);
            if body.whole {
                ahead.drain(..at + body.taken);
                return Some((head, body.bytes));
            }
        }
        if ahead.len() > LARGEST || read.read_buf(ahead).await.ok()? == 0 {
            return None;
        }
    }
}

fn turn(body: &[u8]) -> Option<u64> {
    let text = String::from_utf8_lossy(body);
    let rest = text.split(MARK).nth(1)?;
    rest.split(|letter: char| !letter.is_ascii_digit()).next()?.parse().ok()
}
