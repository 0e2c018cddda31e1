//! A backend that plays scripts: it records the exact bytes of each request and answers with exact bytes, pauses and
//! ends. Health checks are answered beside the scripts, each on a connection of its own.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore};
use tokio::task::{JoinHandle, JoinSet};

use super::until;

/// One thing a backend does.
#[derive(Debug, Clone)]
pub enum Step {
    /// Writes these bytes, in one write.
    Send(Vec<u8>),
    /// Writes these bytes again and again, until nobody takes them any more.
    Flood(Vec<u8>),
    /// Lets this time pass.
    Wait(Duration),
    /// Waits for [`Scripted::resume`], or until the peer leaves.
    Pause,
    /// Closes the connection.
    Close,
    /// Resets the connection, once the peer has acknowledged what was written.
    Reset,
}

/// What a backend does with one request; without an end of its own, the connection stays open for the next one.
pub type Script = Vec<Step>;

/// Bytes to write.
pub fn send(bytes: impl AsRef<[u8]>) -> Step {
    Step::Send(bytes.as_ref().to_vec())
}

/// One request as it arrived.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Which connection it came on, from 0.
    pub connection: usize,
    /// Request line and header fields.
    pub head: String,
    /// The body.
    pub body: Vec<u8>,
}

impl Seen {
    /// The values of a field.
    pub fn fields(&self, name: &str) -> Vec<String> {
        super::client::fields(&self.head, name)
    }

    /// The only value of a field.
    #[track_caller]
    pub fn field(&self, name: &str) -> String {
        let values = self.fields(name);
        assert_eq!(values.len(), 1, "one {name} in {}", self.head);
        values[0].clone()
    }
}

/// What a backend does with a request that no script waits for.
type Rule = Arc<dyn Fn(&Seen) -> Script + Send + Sync>;

#[derive(Default)]
struct Shared {
    next: Mutex<VecDeque<Script>>,
    usual: Mutex<Option<Rule>>,
    seen: Mutex<Vec<Seen>>,
    connections: AtomicUsize,
    /// Peers that left during a pause.
    left: AtomicUsize,
    closing: Notify,
    waiting: AtomicUsize,
    /// Whether it says that it is not ready.
    unready: AtomicBool,
}

/// A scripted backend; dropping it closes its port and every connection.
pub struct Scripted {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    gate: Arc<Semaphore>,
    task: JoinHandle<()>,
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Scripted {
    /// A backend that does this with every request, unless [`Self::next`] says otherwise.
    pub async fn start(usual: Script) -> Self {
        Self::answering(move |_| usual.clone()).await
    }

    /// A backend that does with each request what the request asks for.
    pub async fn answering(rule: impl Fn(&Seen) -> Script + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let shared = Arc::new(Shared { usual: Mutex::new(Some(Arc::new(rule))), ..Shared::default() });
        let gate = Arc::new(Semaphore::new(0));
        let task = tokio::spawn(accept(listener, Arc::clone(&shared), Arc::clone(&gate)));
        Self { address, shared, gate, task }
    }

    /// What it does with the next request that no other script waits for.
    pub fn next(&self, script: Script) {
        self.shared.next.lock().unwrap().push_back(script);
    }

    /// What it does with every request from now on.
    pub fn always(&self, script: Script) {
        *self.shared.usual.lock().unwrap() = Some(Arc::new(move |_| script.clone()));
    }

    /// Ends one pause, begun or to come.
    pub fn resume(&self) {
        self.gate.add_permits(1);
    }

    /// The requests so far, health checks apart.
    pub fn seen(&self) -> Vec<Seen> {
        self.shared.seen.lock().unwrap().clone()
    }

    /// How many requests there were so far.
    pub fn count(&self) -> usize {
        self.shared.seen.lock().unwrap().len()
    }

    /// The only request there was.
    #[track_caller]
    pub fn only(&self) -> Seen {
        let seen = self.seen();
        assert_eq!(seen.len(), 1, "one request");
        seen[0].clone()
    }

    /// Peers that left during a pause.
    pub fn left(&self) -> usize {
        self.shared.left.load(Ordering::SeqCst)
    }

    /// Connections that requests came on.
    pub fn connections(&self) -> usize {
        let mut used: Vec<usize> = self.seen().iter().map(|seen| seen.connection).collect();
        used.sort_unstable();
        used.dedup();
        used.len()
    }

    /// Waits for that many requests.
    pub async fn reached(&self, count: usize) {
        until("requests at the backend", || self.count() >= count).await;
    }

    /// What health checks are told from now on.
    pub fn ready(&self, ready: bool) {
        self.shared.unready.store(!ready, Ordering::SeqCst);
    }

    /// Closes the connections that wait for another request.
    pub async fn close_idle(&self) {
        until("an idle connection", || self.shared.waiting.load(Ordering::SeqCst) > 0).await;
        self.shared.closing.notify_waiters();
        until("connections to close", || self.shared.waiting.load(Ordering::SeqCst) == 0).await;
    }

    /// Closes the port and every connection.
    pub async fn die(&mut self) {
        self.task.abort();
        let _ = (&mut self.task).await;
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, gate: Arc<Semaphore>) {
    let mut open = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { return };
                let _ = stream.set_nodelay(true);
                open.spawn(serve(stream, Arc::clone(&shared), Arc::clone(&gate)));
            }
            Some(_) = open.join_next(), if !open.is_empty() => {}
        }
    }
}

async fn serve(mut stream: TcpStream, shared: Arc<Shared>, gate: Arc<Semaphore>) {
    let connection = shared.connections.fetch_add(1, Ordering::SeqCst);
    let mut buffer = Vec::new();
    let mut first = true;
    loop {
        let (idle, closing) = (!first, shared.closing.notified());
        tokio::pin!(closing);
        closing.as_mut().enable();
        shared.waiting.fetch_add(usize::from(idle), Ordering::SeqCst);
        let request = tokio::select! {
            request = request(&mut stream, &mut buffer) => request,
            () = closing, if idle => None,
        };
        shared.waiting.fetch_sub(usize::from(idle), Ordering::SeqCst);
        let Some((head, body)) = request else { return };
        if head.starts_with("GET ") && ["/health", "/v1/models"].iter().any(|path| head.contains(path)) {
            let unready = head.contains("/health") && shared.unready.load(Ordering::SeqCst);
            let status = if unready { "503 Service Unavailable" } else { "200 OK" };
            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{{}}");
            let _ = stream.write_all(answer.as_bytes()).await;
            return;
        }
        first = false;
        let script = shared.next.lock().unwrap().pop_front();
        let seen = Seen { connection, head, body };
        let script = script.unwrap_or_else(|| {
            let rule = shared.usual.lock().unwrap().clone();
            rule.map(|rule| rule(&seen)).unwrap_or_default()
        });
        shared.seen.lock().unwrap().push(seen);
        for step in script {
            if !play(step, &mut stream, &shared, &gate).await {
                return;
            }
        }
    }
}

/// Whether the connection goes on.
async fn play(step: Step, stream: &mut TcpStream, shared: &Shared, gate: &Semaphore) -> bool {
    match step {
        Step::Send(bytes) => stream.write_all(&bytes).await.is_ok(),
        Step::Flood(bytes) => {
            while stream.write_all(&bytes).await.is_ok() {}
            false
        }
        Step::Pause => {
            let mut byte = [0];
            tokio::select! {
                permit = gate.acquire() => {
                    permit.expect("never closed").forget();
                    true
                }
                _ = stream.read(&mut byte) => {
                    shared.left.fetch_add(1, Ordering::SeqCst);
                    false
                }
            }
        }
        Step::Wait(time) => {
            tokio::time::sleep(time).await;
            true
        }
        Step::Close => false,
        Step::Reset => {
            acknowledged(stream).await;
            let _ = socket2::SockRef::from(&*stream).set_linger(Some(Duration::ZERO));
            false
        }
    }
}

/// A reset destroys what its peer has not read yet, so the peer is given the time to read: its kernel has all of it at
/// once on loopback, its program a moment later.
async fn acknowledged(stream: &TcpStream) {
    let _ = stream.writable().await;
    tokio::time::sleep(Duration::from_millis(20)).await;
}

/// Reads one request, framed by its length; `None` when the peer has left.
async fn request(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<(String, Vec<u8>)> {
    let end = loop {
        if let Some(at) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            break at + 4;
        }
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8_lossy(&buffer[..end]).into_owned();
    let length = super::client::fields(&head, "content-length").first().and_then(|text| text.parse().ok()).unwrap_or(0);
    while buffer.len() < end + length {
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    }
    let rest = buffer.split_off(end + length);
    let body = buffer.split_off(end);
    *buffer = rest;
    Some((head, body))
}
