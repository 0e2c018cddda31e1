//! A hop that holds tokens back is found out, and what its streams felt like is not learned as the engine's pace.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use headway::clock::{Clock, SystemClock};
use headway::engine::Profile;
use headway::measure::objective::Latency;
use headway::nim_simulator::{Simulator, SimulatorOptions};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::support::headway::{Headway, Setup};
use crate::support::texts::{CHAT, post};
use crate::support::until;

/// For so long the relay holds what the engine says.
const HOLD: Duration = Duration::from_millis(400);

/// What a relay does with what the backend says.
#[derive(Clone, Copy)]
enum Relay {
    Honest,
    Holding,
}

/// Relays connections to a server, requests at once; ends with the test.
async fn relay(to: SocketAddr, how: Relay) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((client, _)) = listener.accept().await {
            connections.spawn(connection(client, to, how));
        }
    });
    address
}

async fn connection(client: TcpStream, to: SocketAddr, how: Relay) -> std::io::Result<()> {
    let server = TcpStream::connect(to).await?;
    let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
        (client.into_split(), server.into_split());
    let up = tokio::io::copy(&mut from_client, &mut to_server);
    let down = async {
        let (mut held, mut streams) = (Vec::new(), false);
        let mut flush = tokio::time::interval(HOLD);
        loop {
            tokio::select! {
                read = from_server.read_buf(&mut held) => {
                    let ended = read? == 0;
                    streams |= String::from_utf8_lossy(&held).contains("text/event-stream");
                    if ended || !streams || matches!(how, Relay::Honest) {
                        to_client.write_all(&std::mem::take(&mut held)).await?;
                    }
                    if ended {
                        return std::io::Result::Ok(());
                    }
                }
                _ = flush.tick() => to_client.write_all(&std::mem::take(&mut held)).await?,
            }
        }
    };
    tokio::select! {
        up = up => up.map(|_| ()),
        down = down => down,
    }
}

async fn simulator(profile: &str, speed: f64) -> Simulator {
    let mut options = SimulatorOptions::new(Profile::named(profile).expect("known"));
    (options.models, options.speed) = (vec!["m".to_owned()], speed);
    Simulator::start(options, Arc::new(SystemClock)).await.expect("a free port")
}

fn question(tokens: u32) -> String {
    format!(
        r#"{{"model":"m","stream":true,"max_tokens":{tokens},"ignore_eos":true,"messages":[{{"role":"user","content":"Tell me about trains."}}]}}"#
    )
}

/// Asks so many times at once.
async fn ask(headway: &Headway, clients: usize, tokens: u32) {
    let replies = (0..clients).map(|_| async {
        assert_eq!(headway.exchange(post(CHAT, &question(tokens))).await.status, 200);
    });
    all(replies).await;
    headway.idle().await;
}

/// Waits for all of them.
async fn all(futures: impl Iterator<Item = impl Future<Output = ()>>) {
    let mut all: Vec<_> = futures.map(Box::pin).collect();
    std::future::poll_fn(|cx| {
        all.retain_mut(|one| one.as_mut().poll(cx).is_pending());
        if all.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
}

async fn expected_ttft(headway: &Headway) -> f64 {
    let page = headway.admin("/api/v1/explain?route=r&input_tokens=10&max_tokens=16").await.json();
    page["candidates"][0]["ttft"]["expected_ms"].as_f64().unwrap_or_else(|| panic!("{page:#}"))
}

async fn backend(headway: &Headway) -> serde_json::Value {
    headway.admin("/api/v1/backends").await.json()["backends"][0].clone()
}

#[tokio::test]
async fn a_relay_that_holds_tokens_is_found_and_not_learned_from() {
    let engine = simulator("h100-latency", 1.0).await;
    let holding = relay(engine.address, Relay::Holding).await;
    let headway = Setup::default().backend_at("a", holding, "models: [m]").start().await;
    ask(&headway, 8, 200).await;
    let seen = backend(&headway).await;
    assert_eq!((&seen["buffering"], &seen["buffered_streams"]), (&true.into(), &8.into()), "{seen:#}");
    let before = expected_ttft(&headway).await;
    // Long enough to be told, and too short to be.
    ask(&headway, 4, 200).await;
    ask(&headway, 4, 8).await;
    assert!((expected_ttft(&headway).await - before).abs() < 1.0, "late first tokens were learned");
    let fleet = headway.server.fleet();
    let windows = fleet.routes()[0].observed("a", Latency::InterToken, SystemClock.now()).unwrap();
    assert_eq!(windows.samples, 0);
    let page = headway.admin("/metrics").await.text();
    assert!(page.contains("headway_backend_buffering{backend=\"a\"} 1\n"), "{page}");
    assert!(page.contains("headway_buffered_streams_total{backend=\"a\"} 12\n"), "{page}");
    let held = headway.records(16).await.iter().filter(|record| record.phases.held_back).count();
    assert_eq!(held, 16);
}

#[tokio::test]
async fn engines_under_load_are_not_accused() {
    for (profile, clients) in [("h100-latency", 4), ("a10g", 24)] {
        let engine = simulator(profile, 2.0).await;
        let honest = relay(engine.address, Relay::Honest).await;
        let headway = Setup::default().backend_at("a", honest, "models: [m]").start().await;
        ask(&headway, clients, 60).await;
        let seen = backend(&headway).await;
        assert_eq!((&seen["buffering"], &seen["buffered_streams"]), (&false.into(), &0.into()), "{profile}: {seen:#}");
        let fleet = headway.server.fleet();
        let samples = || fleet.routes()[0].observed("a", Latency::InterToken, SystemClock.now()).unwrap().samples;
        until("latencies that were learned", || samples() == clients as u64).await;
    }
}

#[tokio::test]
async fn a_client_that_reads_slowly_is_not_the_backends_fault() {
    let engine = simulator("h100-latency", 1.0).await;
    let headway = Setup::default().backend_at("a", engine.address, "models: [m]").start().await;
    for _ in 0..2 {
        let mut client = headway.connect().await;
        client.send(post(CHAT, &question(120))).await;
        // It takes what has come only when all has.
        until("the answer's end", || headway.server.active() == 0).await;
        assert_eq!(client.reply().await.status, 200);
    }
    assert_eq!(backend(&headway).await["buffered_streams"], 0);
}
