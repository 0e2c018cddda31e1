//! What the router knows besides its own books: what engines say, what was measured before, and what was learned before
//! a restart; and how it explains itself.

use std::fmt::Write;
use std::sync::Arc;

use headway::clock::{Clock, SystemClock};
use headway::commands::AdminArgs;
use headway::commands::explain::{self, ExplainArgs, Format};
use headway::engine::Profile;
use headway::nim_simulator::{FaultKind, Faults, Simulator, SimulatorOptions};
use serde_json::Value;

use crate::support::client::Client;
use crate::support::headway::{Headway, Setup};
use crate::support::texts::{CHAT, post};
use crate::support::until;

const SLO: &str = "policy: cheapest_within_slo, slo: { ttft: { p95: 1s } }";
const CHEAP: &str = "price: { input_per_mtok: 0.1, output_per_mtok: 0.1 }";
const DEAR: &str = "price: { input_per_mtok: 1.0, output_per_mtok: 1.0 }";

async fn simulator(profile: &str, speed: f64) -> Simulator {
    let mut options = SimulatorOptions::new(Profile::named(profile).expect("known"));
    (options.models, options.speed) = (vec!["m".to_owned()], speed);
    Simulator::start(options, Arc::new(SystemClock)).await.expect("a free port")
}

/// A streamed request of so many output tokens, with a prompt of about a thousand.
fn question(tokens: u32) -> String {
    let prompt = "train ".repeat(800);
    format!(
        r#"{{"model":"m","stream":true,"max_tokens":{tokens},"ignore_eos":true,"messages":[{{"role":"user","content":"{prompt}"}}]}}"#
    )
}

/// Which backends served so many requests, one after the other.
async fn served(headway: &Headway, requests: usize) -> Vec<String> {
    for _ in 0..requests {
        assert_eq!(headway.post(CHAT, &question(2)).await.status, 200);
    }
    let records = headway.records(requests).await;
    records.iter().filter_map(|record| record.backend().map(ToString::to_string)).collect()
}

/// What is expected of a streamed request now: the first candidate's TTFT in milliseconds.
async fn expected(headway: &Headway) -> f64 {
    let page = headway.admin("/api/v1/explain?route=r&input_tokens=1000&max_tokens=16").await.json();
    page["candidates"][0]["ttft"]["expected_ms"].as_f64().unwrap_or_else(|| panic!("{page:#}"))
}

#[tokio::test]
async fn load_of_others_is_seen_where_the_engine_is_asked_and_nowhere_else() {
    let (cheap, dear) = (simulator("a10g", 1.0).await, simulator("a10g", 1.0).await);
    let before = |metrics: &str| {
        let setup = Setup::default().backend_at("cheap", cheap.address, &format!("models: [m], {CHEAP}{metrics}"));
        setup.backend_at("dear", dear.address, &format!("models: [m], {DEAR}{metrics}")).route(SLO).start()
    };
    let (asking, blind) = (before(", metrics: { path: /v1/metrics, interval: 50ms }").await, before("").await);
    // So many prove a backend; one that is not proven gets a request now and then whatever is expected of it.
    assert_eq!(served(&asking, 9).await, ["cheap"; 9], "without other load the cheaper one is fast enough");

    let mut others = Vec::new();
    for _ in 0..160 {
        let mut client = Client::connect(cheap.address).await;
        client.send(post(CHAT, &question(4_000))).await;
        others.push(client);
    }
    let seen = |headway: &Headway, name: &str| {
        let fleet = headway.server.fleet();
        let backend = fleet.backends().iter().find(|backend| &**backend.name() == name).cloned();
        backend.and_then(|backend| backend.engine(SystemClock.now()))
    };
    // Twice what one report takes: the model believes only what two in a row say.
    until("a queue", || seen(&asking, "cheap").is_some_and(|engine| engine.waiting > 40.0)).await;
    let page = asking.admin("/metrics").await.text();
    let shown = |line: &str| page.lines().any(|one| one.starts_with(line));
    assert!(shown("headway_engine_waiting{backend=\"cheap\"} ") && shown("headway_engine_running{backend=\"dear\"} 0"));
    until("the second report", || {
        let fleet = asking.server.fleet();
        let request = headway::fleet::Request {
            model: "m",
            facts: headway::route::snapshot::RequestFacts {
                input_tokens: 1_000,
                stream: true,
                ..fleet.routes()[0].usual_request()
            },
            ..headway::fleet::Request::default()
        };
        let explained = fleet.explain("r", &request, SystemClock.now()).expect("a route");
        explained.candidates[0].1.pressure > 1.0
    })
    .await;

    for _ in 0..5 {
        assert_eq!(asking.post(CHAT, &question(2)).await.status, 200);
    }
    let records = asking.records(14).await;
    let backends: Vec<_> = records.iter().skip(9).filter_map(|record| record.backend()).map(|name| &**name).collect();
    assert_eq!(backends, ["dear"; 5]);

    assert!(seen(&blind, "cheap").is_none(), "it was not asked");
    let reply = blind.admin("/api/v1/explain?route=r").await.json();
    assert_eq!(reply["backend"], "cheap", "own books know nothing of others: {reply:#}");
}

#[tokio::test]
async fn a_client_that_gives_up_after_a_long_wait_shows_that_the_wait_was_long() {
    let engine = simulator("h100-latency", 1.0).await;
    engine.set_faults(Faults::from(vec![FaultKind::Hang]));
    let headway = Setup::default().backend_at("a", engine.address, "models: [m]").route(SLO).start().await;
    let in_flight = || headway.server.fleet().backends().iter().map(|one| one.in_flight()).sum::<u32>();
    let neutral = expected(&headway).await;
    let mut client = Client::connect(headway.address()).await;
    client.send(post(CHAT, &question(2))).await;
    until("the request", || in_flight() == 1).await;
    // While it waits, what is overdue counts; what is left once it is gone was learned.
    while expected(&headway).await < 6.0 * neutral {
        tokio::task::yield_now().await;
    }
    drop(client);
    until("its end", || in_flight() == 0).await;
    let learned = expected(&headway).await / neutral;
    assert!((1.1..6.0).contains(&learned), "{learned}");
}

#[tokio::test]
async fn what_was_learned_survives_a_restart() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("state.json");
    let engine = simulator("a10g", 1.0).await;
    let start = |state: bool| {
        let state = if state { format!("state: {{ path: '{}' }}", path.display()) } else { String::new() };
        Setup::default().backend_at("a", engine.address, "models: [m]").route(SLO).more(&state).start()
    };
    let first = start(true).await;
    let neutral = expected(&first).await;
    served(&first, 20).await;
    let learned = expected(&first).await;
    assert!((learned / neutral).ln() > 0.1, "{learned} and {neutral}: the engine is slower than a neutral start");
    first.server.shutdown(std::time::Duration::from_secs(5)).await;

    let second = start(true).await;
    let resumed = expected(&second).await;
    assert!((resumed / learned).ln().abs() < 0.05, "{resumed} and {learned}");
    let fresh = start(false).await;
    assert!((expected(&fresh).await / neutral).ln().abs() < 0.05);
}

#[tokio::test]
async fn a_backend_starts_from_what_was_measured_of_it() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("baselines.yaml");
    let mut text =
        "version: 1\nbaselines:\n  - backend: a\n    measured: 2026-01-31\n    origin: a test\n    points:\n"
            .to_owned();
    for (concurrency, ttft, itl) in [(1, "700ms", "40ms"), (4, "1500ms", "45ms")] {
        let _ = writeln!(
            text,
            "      - {{ concurrency: {concurrency}, input_tokens: 1000, output_tokens: 100, ttft: {ttft}, itl: {itl} }}"
        );
    }
    std::fs::write(&path, text).expect("writable");
    let engine = simulator("a10g", 1.0).await;
    let setup = Setup::default().backend_at("a", engine.address, "models: [m]").route(SLO);
    let measured = setup.more(&format!("baselines: '{}'", path.display())).start().await;
    let expected = expected(&measured).await;
    assert!((expected / 700.0).ln().abs() < 0.1, "{expected}");
}

#[tokio::test]
async fn the_command_line_explains_what_the_router_did_and_would_do() {
    let engine = simulator("h100-latency", 10.0).await;
    let headway = Setup::default().backend_at("a", engine.address, "models: [m]").route(SLO).start().await;
    let id = headway.post(CHAT, &question(8)).await.field("x-request-id").expect("an id");
    headway.record().await;
    let ask = |request_id: Option<&str>, route: Option<&str>, format| {
        let args = ExplainArgs {
            admin: AdminArgs { admin: format!("http://{}", headway.server.admin_address()), token: None },
            request_id: request_id.map(str::to_owned),
            route: route.map(str::to_owned),
            input_tokens: route.map(|_| 2_000),
            max_tokens: None,
            unstreamed: false,
            format,
        };
        let work = tokio::task::spawn_blocking(move || {
            let mut out = Vec::new();
            explain::run(&args, &mut out).map(|code| (code, String::from_utf8_lossy(&out).into_owned()))
        });
        async { work.await.expect("it ends") }
    };
    let (code, text) = ask(Some(&id), None, Format::Table).await.expect("an answer");
    assert_eq!(code, 0);
    for part in [&*format!("request {id} on route r"), "went to a (", "what happened: complete; ttft ", "*  a  "] {
        assert!(text.contains(part), "{part}:\n{text}");
    }
    let (_, text) = ask(None, Some("r"), Format::Table).await.expect("an answer");
    assert!(text.starts_with("a request on route r now\nwould go to a ("), "{text}");
    let (_, text) = ask(Some(&id), None, Format::Json).await.expect("an answer");
    let decisions: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!((decisions[0]["backend"].as_str(), decisions[0]["request_id"].as_str()), (Some("a"), Some(&*id)));
    let unknown = ask(Some("nobody"), None, Format::Table).await.expect_err("no such request");
    assert!(unknown.to_string().contains("no decision about the request `nobody`"), "{unknown}");
    let unknown = ask(None, Some("nowhere"), Format::Table).await.expect_err("no such route");
    assert!(unknown.to_string().contains("no route of that name"), "{unknown}");
}
