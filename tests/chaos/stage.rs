//! The backends around the headway under test: some that do what a request's name says, some that nobody can reach.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::faults::{self, BODY_IDLE, CONNECT, FIRST_TOKEN, Fault, HEARTBEAT, IDLE, TOTAL, WRITE_IDLE};
use super::process::Subject;
use crate::support::backend::Scripted;

/// How often each request reached a backend.
pub(crate) type Ledger = Arc<Mutex<HashMap<usize, usize>>>;

/// What clients say, and nobody may repeat.
pub(crate) const PROMPT: &str = "canary-prompt-5f1c";
/// What clients show, and goes no further.
pub(crate) const THEIR_KEY: &str = "canary-key-of-a-client-5f1c";
/// What backends are shown.
pub(crate) const OUR_KEY: &str = "canary-key-of-headway-5f1c";

/// A headway and its backends.
pub(crate) struct World {
    pub(crate) subject: Subject,
    pub(crate) faults: Arc<Vec<Arc<Fault>>>,
    pub(crate) ledger: Ledger,
    pub(crate) backends: Vec<Scripted>,
    hole: Hole,
    refusing: SocketAddr,
}

impl World {
    pub(crate) async fn start() -> Self {
        let (faults, ledger) =
            (Arc::new(faults::all().into_iter().map(Arc::new).collect::<Vec<_>>()), Ledger::default());
        let mut backends = Vec::new();
        for _ in 0..4 {
            let (faults, ledger) = (Arc::clone(&faults), Arc::clone(&ledger));
            let rule = move |seen: &crate::support::backend::Seen| {
                let id = seen.field("x-request-id");
                let mut parts = id.split('.');
                let (number, name, scope) = (parts.next(), parts.next(), parts.next());
                let number = number.and_then(|number| number.parse().ok()).unwrap_or(usize::MAX);
                let mut ledger = ledger.lock().unwrap();
                let tries = ledger.entry(number).or_insert(0);
                *tries += 1;
                let again = *tries > 1 && scope == Some("once");
                let fault = faults.iter().find(|fault| Some(fault.name) == name).filter(|_| !again);
                fault.map_or_else(|| faults::good().script, |fault| fault.script.clone())
            };
            backends.push(Scripted::answering(rule).await);
        }
        let (hole, mut refusing) = (Hole::start(), Scripted::start(Vec::new()).await);
        let text = config(&backends, hole.address, refusing.address, TOTAL);
        let subject = Subject::start(&text).await;
        let world = Self { subject, faults, ledger, backends, refusing: refusing.address, hole };
        world.warm().await;
        refusing.die().await;
        world.hole.close().await;
        world
    }

    /// The configuration, with another longest time for a request.
    pub(crate) fn config(&self, total: Duration) -> String {
        config(&self.backends, self.hole.address, self.refusing, total)
    }

    pub(crate) fn tries(&self, number: usize) -> usize {
        self.ledger.lock().unwrap().get(&number).copied().unwrap_or(0)
    }

    /// Every backend is ready, and every path was walked once.
    async fn warm(&self) {
        let waited = tokio::time::timeout(Duration::from_secs(10), async {
            while self.subject.metric("headway_backend_state", &["state=\"ready\""]).await < 6.0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        let waited = waited.await;
        let readiness = crate::life::page(self.subject.admin, "GET", "/readyz?verbose").await.1;
        assert!(waited.is_ok(), "{readiness}");
    }
}

fn config(backends: &[Scripted], hole: SocketAddr, refusing: SocketAddr, total: Duration) -> String {
    let mut text = "limits: { write_idle: WRITE, body_idle: BODY }\nbackends:\n"
        .replace("WRITE", &millis(WRITE_IDLE))
        .replace("BODY", &millis(BODY_IDLE));
    let mut names = Vec::new();
    for (number, backend) in backends.iter().enumerate() {
        let address = backend.address;
        let health = "health: { path: /health, interval: 250ms }";
        text += &format!(
            "  - {{ name: b{number}, url: \"http://{address}\", models: [m, far, beat], api_key: {OUR_KEY}, {health} }}\n"
        );
        names.push(format!("b{number}"));
    }
    for (name, address) in [("hole", hole), ("refusing", refusing)] {
        let health = "health: { path: /health, interval: 1h }";
        text += &format!("  - {{ name: {name}, url: \"http://{address}\", models: [far], {health} }}\n");
    }
    let timers = format!(
        "timeouts: {{ connect: {}, first_token: {}, idle: {}, total: {} }}",
        millis(CONNECT),
        millis(FIRST_TOKEN),
        millis(IDLE),
        millis(total)
    );
    let names = names.join(", ");
    text + &format!(
        "routes:\n  - {{ name: near, match: {{ models: [m] }}, backends: [{names}], policy: round_robin, {timers}, \
         hedge: {{ after: p95, budget: 5% }} }}\n  - {{ name: far, match: {{ models: [far] }}, backends: [hole, \
         refusing, b0], policy: round_robin, {timers} }}\n  - {{ name: beat, match: {{ models: [beat] }}, backends: \
         [{names}], policy: round_robin, {timers}, heartbeat: {} }}\n",
        millis(HEARTBEAT)
    )
}

fn millis(duration: Duration) -> String {
    format!("{}ms", duration.as_millis())
}

/// A port that answers health checks until it is closed, and then nobody's wish to connect (U2): its queue is full.
struct Hole {
    address: SocketAddr,
    listener: Arc<TcpListener>,
    answering: tokio::task::JoinHandle<()>,
    queued: Mutex<Vec<TcpStream>>,
}

impl Hole {
    fn start() -> Self {
        let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
        socket.bind("127.0.0.1:0".parse().expect("an address")).expect("a free port");
        let listener = Arc::new(socket.listen(1).expect("it listens"));
        let address = listener.local_addr().expect("an address");
        let accepting = Arc::clone(&listener);
        let answering = tokio::spawn(async move {
            while let Ok((mut stream, _)) = accepting.accept().await {
                let _ = stream.read(&mut [0; 4096]).await;
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}").await;
            }
        });
        Self { address, listener, answering, queued: Mutex::default() }
    }

    async fn close(&self) {
        self.answering.abort();
        // The queue takes a few; the first that it does not take says that it is full.
        loop {
            let connecting = TcpStream::connect(self.address);
            match tokio::time::timeout(Duration::from_millis(100), connecting).await {
                Ok(Ok(stream)) => self.queued.lock().unwrap().push(stream),
                _ => return,
            }
        }
    }
}

impl Drop for Hole {
    fn drop(&mut self) {
        self.answering.abort();
        let _ = &self.listener;
    }
}
