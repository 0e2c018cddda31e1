//! One thing is made slow at a time, and only its own bar of the waterfall grows: network, gateway, model or client.
//!
//! A relay stands between headway and a simulated engine that tells its own times. What cannot be told apart from
//! headway's place is the way to the engine and the way back: both are what is left of the wait for the first token
//! when the engine's own time is taken from it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use headway::clock::{Clock, SystemClock};
use headway::engine::Profile;
use headway::nim_simulator::{Faults, Simulator, SimulatorOptions};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;

use crate::collector::{Collector, Span};
use crate::shape::{ended, log_file, traced};
use crate::support::backend::{Scripted, Step, send};
use crate::support::client::Client;
use crate::support::headway::{Headway, Setup};
use crate::support::texts::{CHAT, LAST, SSE, STREAM, TOKEN, chunk, post, post_with, streamed};
use crate::support::until;
use crate::transport::pki;

/// What is injected.
const DELAY: Duration = Duration::from_millis(50);
/// What counts as having grown: more than a busy machine adds to the best of several samples.
const GROWN_MS: f64 = 35.0;
const SAMPLES: usize = 5;
/// Silence after which the relay closes a connection, so that every request connects anew.
const SILENCE: Duration = Duration::from_millis(250);

/// Where time is added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Slow {
    Nothing,
    Connecting,
    WayThere,
    WayBack,
    Engine,
    Upload,
}

const ALL: [Slow; 6] = [Slow::Nothing, Slow::Connecting, Slow::WayThere, Slow::WayBack, Slow::Engine, Slow::Upload];

/// A relay that speaks TLS towards headway.
struct Relay {
    address: SocketAddr,
    slow: Arc<Mutex<Slow>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Relay {
    async fn start(engine: SocketAddr, tls: TlsAcceptor) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let slow = Arc::new(Mutex::new(Slow::Nothing));
        let now = Arc::clone(&slow);
        let task = tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                tokio::spawn(relay(tcp, engine, tls.clone(), Arc::clone(&now)));
            }
        });
        Self { address, slow, task }
    }
}

async fn relay(client: TcpStream, engine: SocketAddr, tls: TlsAcceptor, slow: Arc<Mutex<Slow>>) {
    let is = move |what| *slow.lock().unwrap() == what;
    client.set_nodelay(true).unwrap();
    if is(Slow::Connecting) {
        tokio::time::sleep(DELAY).await;
    }
    let Ok(client) = tls.accept(client).await else { return };
    let engine = TcpStream::connect(engine).await.unwrap();
    engine.set_nodelay(true).unwrap();
    let ((from_client, to_client), (from_engine, to_engine)) = (split(client), engine.into_split());
    let there = delayed(from_client, to_engine, is(Slow::WayThere));
    let back = delayed(from_engine, to_client, is(Slow::WayBack));
    tokio::select! { () = there => {}, () = back => {} }
}

/// Moves bytes, each as much later as the others, until there were none for a while.
async fn delayed(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, late: bool) {
    let (sender, mut pieces) = mpsc::unbounded_channel();
    let reading = async move {
        let mut bytes = vec![0; 16 << 10];
        while let Ok(Ok(length @ 1..)) = tokio::time::timeout(SILENCE, from.read(&mut bytes)).await {
            let due = SystemClock.now() + if late { DELAY } else { Duration::ZERO };
            sender.send((due, bytes[..length].to_vec())).unwrap();
        }
    };
    let writing = async move {
        while let Some((due, bytes)) = pieces.recv().await {
            tokio::time::sleep_until(due.into()).await;
            if to.write_all(&bytes).await.is_err() || to.flush().await.is_err() {
                return;
            }
        }
    };
    tokio::join!(reading, writing);
}

/// Milliseconds of each kind of bar, and what the log says, of one request.
type Sample = BTreeMap<String, f64>;

fn sample(spans: &[Span], line: &Value) -> Sample {
    let mut sample = Sample::new();
    for span in spans.iter().filter(|span| span.trace == line["trace_id"]) {
        if span.name.contains(' ') && !span.name.starts_with("engine") && span.name != "backend wait" {
            continue;
        }
        *sample.entry(span.name.clone()).or_default() += span.millis();
        if let Some(outside) = span.attributes.get("headway.engine.outside") {
            sample.insert("outside the engine".to_owned(), outside.as_f64().unwrap() * 1e3);
        }
    }
    let ms = |field: &str| line[field].as_f64().unwrap_or_default();
    for field in ["upload_ms", "queue_ms", "connect_ms", "engine_queue_ms", "engine_ttft_ms"] {
        sample.insert(format!("log {field}"), ms(field));
    }
    sample.insert("log overhead_us".to_owned(), ms("overhead_us") / 1e3);
    let own = ms("overhead_us") / 1e3 + ms("queue_ms") + ms("connect_ms") + ms("engine_ttft_ms");
    sample.insert("log ttft_ms less all these".to_owned(), ms("ttft_ms") - own);
    sample
}

/// The least of each bar over some samples: what is noise is not in it.
fn least(samples: &[Sample]) -> Sample {
    let mut least = Sample::new();
    for (name, value) in samples.iter().flatten() {
        let so_far = least.entry(name.clone()).or_insert(*value);
        *so_far = so_far.min(*value);
    }
    least
}

fn grown(of: &Sample, base: &Sample) -> BTreeSet<String> {
    let growth = |(name, value): (&String, &f64)| (name.clone(), value - base.get(name).copied().unwrap_or_default());
    of.iter().map(growth).filter(|(_, by)| *by > GROWN_MS).map(|(name, _)| name).collect()
}

fn expected(slow: Slow) -> BTreeSet<String> {
    let names: &[&str] = match slow {
        Slow::Nothing => &[],
        Slow::Connecting => &["connect", "log connect_ms"],
        Slow::WayThere | Slow::WayBack => &["backend wait", "outside the engine", "log ttft_ms less all these"],
        Slow::Engine => &["backend wait", "engine prefill", "log engine_ttft_ms"],
        Slow::Upload => &["upload", "log upload_ms"],
    };
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_bar_of_what_is_slow_grows() {
    let (collector, (_folder, log), pki) = (Collector::start().await, log_file(), pki());
    let mut options = SimulatorOptions::new(Profile::named("h100-latency").expect("known"));
    (options.models, options.request_metrics, options.noise) = (vec!["m".to_owned()], true, 0.0);
    let engine = Simulator::start(options, Arc::new(SystemClock)).await.expect("a free port");
    let relay = Relay::start(engine.address, pki.server_only.clone()).await;
    let text = format!(
        "listeners: [{{ address: \"127.0.0.1:0\" }}]\nadmin: {{ address: \"127.0.0.1:0\" }}\n{}\
         backends: [{{ name: a, url: \"https://localhost:{}\", tls: {{ ca: {} }}, models: [m], \
         health: {{ path: /v1/health/ready, interval: 60s }} }}]\nroutes: [{{ name: r, backends: [a] }}]\n",
        traced(&collector, "http/protobuf", &log),
        relay.address.port(),
        pki.folder.path().join("ca.crt").display()
    );
    let headway = Headway::start(&text).await;
    let fleet = headway.server.fleet();
    until("a ready backend", || fleet.backends()[0].usable()).await;
    for number in 0..SAMPLES {
        for slow in ALL {
            ask(&headway, &relay, &engine, slow, number).await;
        }
    }
    let lines = ended(headway, &log).await;
    let spans = collector.spans();
    let of = |slow: Slow| {
        let mine = lines.iter().filter(|line| line["request_id"].as_str().unwrap().starts_with(&format!("{slow:?}")));
        let samples: Vec<_> = mine.map(|line| sample(&spans, line)).collect();
        assert_eq!(samples.len(), SAMPLES);
        least(&samples)
    };
    let base = of(Slow::Nothing);
    let mut wrong = Vec::new();
    for slow in ALL {
        let (of, expected) = (of(slow), expected(slow));
        let told: Vec<_> = of.iter().map(|(name, ms)| format!("{name} {ms:.1}")).collect();
        eprintln!("{slow:?}: {}", told.join(", "));
        if grown(&of, &base) != expected {
            wrong.push(format!("{slow:?}: {:?} grew, not {expected:?}", grown(&of, &base)));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// One request while that is slow; the engine's own slowness takes as long as the other delays.
async fn ask(headway: &Headway, relay: &Relay, engine: &Simulator, slow: Slow, number: usize) {
    *relay.slow.lock().unwrap() = slow;
    // A prompt takes this engine some 15 ms.
    let faults: &[&str] = if slow == Slow::Engine { &["slow=8"] } else { &[] };
    engine.set_faults(Faults::parse(faults).expect("a fault"));
    // The connection of the request before is closed by then.
    tokio::time::sleep(SILENCE + DELAY).await;
    let body =
        STREAM.replace("\"messages\":[]", "\"max_tokens\":1,\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]");
    let text = post_with(CHAT, &format!("x-request-id: {slow:?}-{number}\r\n"), &body);
    let mut client = Client::connect(headway.address()).await;
    let (before, rest) = text.split_at(text.len() - 5);
    client.send(before).await;
    if slow == Slow::Upload {
        tokio::time::sleep(DELAY).await;
    }
    client.send(rest).await;
    let reply = client.reply().await;
    assert_eq!(reply.status, 200, "{slow:?}: {}", reply.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_for_a_place_is_the_queues_and_nobody_elses() {
    let (collector, (_folder, log)) = (Collector::start().await, log_file());
    let backend = Scripted::start([vec![Step::Pause], streamed()].concat()).await;
    let route = "on_overload: { queue: { wait: 10s } }";
    let more = traced(&collector, "http/protobuf", &log);
    let headway = Setup::default().backend("a", &backend, "max_in_flight: 1").route(route).more(&more).start().await;
    let (mut first, mut second) = (headway.connect().await, headway.connect().await);
    first.send(post(CHAT, STREAM)).await;
    until("the first at the backend", || backend.count() == 1).await;
    second.send(post(CHAT, STREAM)).await;
    let fleet = headway.server.fleet();
    until("the second in line", || fleet.queued() == 1).await;
    tokio::time::sleep(DELAY).await;
    backend.resume();
    backend.resume();
    assert_eq!((first.reply().await.status, second.reply().await.status), (200, 200));
    let lines = ended(headway, &log).await;
    let (spans, waited) = (collector.spans(), lines.iter().find(|line| line["queue_ms"] != 0).expect("one waited"));
    let sample = sample(&spans, waited);
    assert!(sample["queue"] >= 50.0 && (sample["queue"] - sample["log queue_ms"]).abs() < 0.01, "{sample:?}");
    assert!(sample["headway"] < GROWN_MS && (sample["headway"] - sample["log overhead_us"]).abs() < 0.01, "{sample:?}");
    assert_eq!(spans.iter().filter(|span| span.name == "queue").count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_is_back_pressure_and_no_one_elses() {
    let (collector, (_folder, log)) = (Collector::start().await, log_file());
    // More than the sockets between it and the client hold, in few events: reading them should not be what is slow.
    let events = TOKEN.replace("train", &"x".repeat(8_000));
    let mut script = vec![send(SSE)];
    script.extend((0..3_000).map(|_| send(chunk(&events))));
    script.push(send(
        [&*chunk(crate::support::texts::FINISH), &chunk(crate::support::texts::DONE), LAST.as_bytes()].concat(),
    ));
    let backend = Scripted::start(script).await;
    let more = traced(&collector, "http/protobuf", &log);
    let headway = Setup::default().backend("a", &backend, "").more(&more).start().await;
    let mut client = headway.connect().await;
    client.send(post(CHAT, STREAM)).await;
    client.arrives(|text| text.contains("xxx")).await;
    tokio::time::sleep(30 * DELAY).await;
    assert_eq!(client.reply().await.status, 200);
    let lines = ended(headway, &log).await;
    let spans = collector.spans();
    let pressed = crate::collector::only(&spans, "client back-pressure");
    let logged = lines[0]["backpressure_ms"].as_f64().unwrap();
    let told = pressed.attributes["headway.backpressure"].as_f64().unwrap() * 1e3;
    assert!(told >= 50.0 && (told - logged).abs() < 0.01, "{told} {logged}");
    assert!(pressed.millis() >= told - 0.01, "{pressed:?}");
}
