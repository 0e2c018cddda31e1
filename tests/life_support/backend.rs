//! A backend that says, for every request, when it arrived and when its client was seen to be gone.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::{now, patiently};

/// What a backend does with a request.
#[derive(Debug, Clone)]
pub(crate) enum Script {
    /// It reads it and never answers.
    Silent,
    /// It answers, its head after `late`, with these pieces, each after a pause, and then ends the body or falls silent.
    Answer { late: Duration, pieces: Vec<Bytes>, pause: Duration, ends: bool, content_type: &'static str },
}

impl Script {
    /// An event stream of these pieces at once.
    pub(crate) fn events(pieces: &[String], ends: bool) -> Self {
        let pieces = pieces.iter().map(|piece| Bytes::from(piece.clone())).collect();
        Self::Answer { late: Duration::ZERO, pieces, pause: Duration::ZERO, ends, content_type: "text/event-stream" }
    }

    /// A whole body of these pieces, as fast as it is taken.
    pub(crate) fn pieces(pieces: Vec<Bytes>, content_type: &'static str) -> Self {
        Self::Answer { late: Duration::ZERO, pieces, pause: Duration::ZERO, ends: true, content_type }
    }

    pub(crate) fn late(mut self, by: Duration) -> Self {
        if let Self::Answer { late, .. } = &mut self {
            *late = by;
        }
        self
    }

    pub(crate) fn paced(mut self, by: Duration) -> Self {
        if let Self::Answer { pause, .. } = &mut self {
            *pause = by;
        }
        self
    }
}

/// One chat event with that much text.
pub(crate) fn token(text: &str) -> String {
    format!(
        "data: {{\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"m\",\"choices\":[{{\"index\":0,\
         \"delta\":{{\"content\":\"{text}\"}},\"finish_reason\":null}}]}}\n\n"
    )
}

pub(crate) fn finish() -> String {
    "data: {\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"m\",\"choices\":[{\"index\":0,\
     \"delta\":{},\"finish_reason\":\"stop\"}]}\n\n"
        .to_owned()
}

pub(crate) const DONE: &str = "data: [DONE]\n\n";

/// A whole stream of that many tokens.
pub(crate) fn stream(tokens: usize) -> Vec<String> {
    (0..tokens).map(|n| token(&format!("t{n} "))).chain([finish(), DONE.to_owned()]).collect()
}

/// What the backend saw of one request.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    pub(crate) requests: usize,
    /// Its head has come.
    pub(crate) begun: bool,
    pub(crate) body: Bytes,
    pub(crate) gone: Option<Instant>,
    pub(crate) completed: bool,
    /// Body bytes handed to the connection.
    pub(crate) sent: usize,
}

#[derive(Default)]
struct Ledger {
    seen: Mutex<HashMap<String, Seen>>,
    changed: Notify,
    connections: AtomicUsize,
    open: AtomicUsize,
}

impl Ledger {
    fn note(&self, id: &str, change: impl FnOnce(&mut Seen)) {
        change(self.seen.lock().unwrap().entry(id.to_owned()).or_default());
        self.changed.notify_waiters();
    }
}

/// A running backend; dropping it closes its port.
pub(crate) struct Backend {
    pub(crate) address: SocketAddr,
    ledger: Arc<Ledger>,
    accepting: JoinHandle<()>,
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Backend {
    pub(crate) async fn start(script: Script) -> Self {
        Self::start_with(script, None).await
    }

    /// With a TLS acceptor, it speaks TLS.
    pub(crate) async fn start_with(script: Script, tls: Option<tokio_rustls::TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let ledger = Arc::new(Ledger::default());
        let accepting = tokio::spawn(accept(listener, Arc::clone(&ledger), script, tls));
        Self { address, ledger, accepting }
    }

    pub(crate) fn seen(&self, id: &str) -> Seen {
        self.ledger.seen.lock().unwrap().get(id).cloned().unwrap_or_default()
    }

    /// Connections that carried a request other than a health check.
    pub(crate) fn connections(&self) -> usize {
        self.ledger.connections.load(Ordering::SeqCst)
    }

    /// Connections that are open now.
    pub(crate) fn open(&self) -> usize {
        self.ledger.open.load(Ordering::SeqCst)
    }

    /// Waits until that is true of a request.
    #[track_caller]
    pub(crate) fn wait<'a>(
        &'a self,
        id: &'a str,
        what: &str,
        holds: impl Fn(&Seen) -> bool + 'a,
    ) -> impl Future<Output = Seen> + 'a {
        patiently(format!("{id}: {what}"), async move {
            loop {
                let mut changed = std::pin::pin!(self.ledger.changed.notified());
                changed.as_mut().enable();
                let seen = self.seen(id);
                if holds(&seen) {
                    return seen;
                }
                changed.await;
            }
        })
    }
}

async fn accept(listener: TcpListener, ledger: Arc<Ledger>, script: Script, tls: Option<tokio_rustls::TlsAcceptor>) {
    loop {
        let Ok((tcp, _)) = listener.accept().await else { continue };
        tcp.set_nodelay(true).expect("an option");
        let (ledger, script, tls) = (Arc::clone(&ledger), script.clone(), tls.clone());
        tokio::spawn(async move {
            let served = Arc::new(AtomicUsize::new(0));
            let of_service = Arc::clone(&ledger);
            let service = service_fn(move |request| {
                answer(Arc::clone(&of_service), script.clone(), Arc::clone(&served), request)
            });
            let builder = auto::Builder::new(TokioExecutor::new());
            ledger.open.fetch_add(1, Ordering::SeqCst);
            match tls {
                None => drop(builder.serve_connection(TokioIo::new(tcp), service).await),
                Some(tls) => {
                    if let Ok(tls) = tls.accept(tcp).await {
                        drop(builder.serve_connection(TokioIo::new(tls), service).await);
                    }
                }
            }
            ledger.open.fetch_sub(1, Ordering::SeqCst);
        });
    }
}

/// Notes the end of a request, whatever it is.
struct Guard(Arc<Ledger>, String);

impl Drop for Guard {
    fn drop(&mut self) {
        let at = now();
        self.0.note(&self.1, |seen| seen.gone = Some(at));
    }
}

struct Scripted {
    pieces: VecDeque<Bytes>,
    pause: Duration,
    timer: Option<Pin<Box<tokio::time::Sleep>>>,
    ends: bool,
    guard: Option<Guard>,
}

impl Body for Scripted {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = self.get_mut();
        if !this.pause.is_zero() && !this.pieces.is_empty() {
            let pause = this.pause;
            let timer = this.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(pause)));
            std::task::ready!(timer.as_mut().poll(cx));
            this.timer = None;
        }
        match (this.pieces.pop_front(), &this.guard) {
            (Some(piece), Some(Guard(ledger, id))) => {
                ledger.note(id, |seen| seen.sent += piece.len());
                Poll::Ready(Some(Ok(Frame::data(piece))))
            }
            (Some(piece), None) => Poll::Ready(Some(Ok(Frame::data(piece)))),
            (None, Some(Guard(ledger, id))) if this.ends => {
                ledger.note(id, |seen| seen.completed = true);
                Poll::Ready(None)
            }
            (None, None) => Poll::Ready(None),
            (None, Some(_)) => Poll::Pending,
        }
    }
}

async fn answer(
    ledger: Arc<Ledger>,
    script: Script,
    served: Arc<AtomicUsize>,
    request: Request<Incoming>,
) -> Result<Response<Scripted>, Infallible> {
    if request.method() == http::Method::GET {
        let pieces = VecDeque::from([Bytes::from_static(b"{}")]);
        return Ok(Response::new(Scripted { pieces, pause: Duration::ZERO, timer: None, ends: true, guard: None }));
    }
    if served.fetch_add(1, Ordering::SeqCst) == 0 {
        ledger.connections.fetch_add(1, Ordering::SeqCst);
    }
    let id = request.headers().get("x-request-id").and_then(|id| id.to_str().ok()).unwrap_or("").to_owned();
    let guard = Guard(Arc::clone(&ledger), id.clone());
    ledger.note(&id, |seen| seen.begun = true);
    let body = request.into_body().collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    ledger.note(&id, |seen| (seen.requests, seen.body) = (seen.requests + 1, body));
    match script {
        Script::Silent => {
            let _guard = guard;
            std::future::pending().await
        }
        Script::Answer { late, pieces, pause, ends, content_type } => {
            if !late.is_zero() {
                tokio::time::sleep(late).await;
            }
            let body = Scripted { pieces: pieces.into(), pause, timer: None, ends, guard: Some(guard) };
            Ok(Response::builder().header("content-type", content_type).body(body).expect("a response"))
        }
    }
}
