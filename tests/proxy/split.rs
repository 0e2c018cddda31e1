//! Split routes before simulated engines: who gets which share, what a bad canary costs its callers, and its end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use headway::clock::SystemClock;
use headway::engine::Profile;
use headway::fleet::GroupFigures;
use headway::measure::group::FellOver;
use headway::measure::outcome::Outcome;
use headway::nim_simulator::{Faults, Simulator, SimulatorOptions};
use serde_json::Value;
use tokio::task::JoinSet;

use crate::support::client::{Client, End, Reply};
use crate::support::headway::Headway;
use crate::support::texts::{CHAT, post};
use crate::support::until;

const STREAM: &str = r#"{"model":"m","stream":true,"max_tokens":8,"ignore_eos":true,"messages":[{"role":"user","content":"Tell me about trains."}]}"#;
/// Requests at once.
const CLIENTS: usize = 8;
/// Enough to tell shares.
const REQUESTS: usize = 600;

async fn simulator(speed: f64) -> Simulator {
    let mut options = SimulatorOptions::new(Profile::named("h100-latency").expect("known"));
    (options.models, options.speed) = (vec!["m".to_owned()], speed);
    Simulator::start(options, Arc::new(SystemClock)).await.expect("a free port")
}

/// A headway before both, with a third of the requests for the canary.
async fn before(baseline: &Simulator, canary: &Simulator, slo: &str) -> Headway {
    let backend = |name: &str, of: &Simulator| {
        let health = "health: { path: /health, interval: 60s, slow_start: 0s, eject_slow: false }";
        format!("  - {{ name: {name}, url: \"http://{}\", models: [m], {health} }}\n", of.address)
    };
    let text = format!(
        "listeners:\n  - {{ address: \"127.0.0.1:0\" }}\nadmin: {{ address: \"127.0.0.1:0\" }}\nbackends:\n{}{}routes:\n  \
         - name: r\n    backends: [old]\n    split: {{ canary: {{ backends: [new], share: 30% }} }}\n    slo: {slo}\n",
        backend("old", baseline),
        backend("new", canary),
    );
    let headway = Headway::start(&text).await;
    let fleet = headway.server.fleet();
    until("ready backends", || fleet.backends().iter().all(|backend| backend.usable())).await;
    headway
}

/// Sends requests until `enough` of the canary's figures, at most so many; every one must be answered whole.
async fn serve(headway: &Headway, most: usize, enough: impl Fn(&GroupFigures) -> bool) -> usize {
    let mut sent = 0;
    while sent < most && !enough(&canary(headway)) {
        let mut round = JoinSet::new();
        (0..CLIENTS).for_each(|_| drop(round.spawn(ask(headway.address()))));
        for reply in round.join_all().await {
            assert_eq!((reply.status, reply.end), (200, End::Clean), "{}", reply.text());
            assert!(reply.text().ends_with("data: [DONE]\n\n"), "{}", reply.text());
        }
        sent += CLIENTS;
    }
    headway.idle().await;
    sent
}

async fn ask(headway: SocketAddr) -> Reply {
    let mut client = Client::connect(headway).await;
    client.send(post(CHAT, STREAM)).await;
    client.reply().await
}

fn canary(headway: &Headway) -> GroupFigures {
    headway.server.fleet().routes()[0].groups().remove(1)
}

async fn shown(headway: &Headway) -> Value {
    let reply = headway.admin("/api/v1/routes").await;
    let mut routes: Value = serde_json::from_str(&reply.text()).expect("JSON");
    routes["routes"][0]["split"].take()
}

async fn change(headway: &Headway, action: &str) -> u16 {
    let mut client = Client::connect(headway.server.admin_address()).await;
    let path = format!("/api/v1/routes/r/split/{action}");
    client
        .send(format!("POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"))
        .await;
    client.reply().await.status
}

#[tokio::test]
async fn a_canary_twice_as_slow_is_rolled_back_by_itself_while_every_request_completes() {
    let (old, new) = (simulator(1.0).await, simulator(0.5).await);
    // A whole answer takes the old one some 80 ms, and the new one twice as long.
    let headway = before(&old, &new, "{ e2e: { p90: 120ms } }").await;
    let sent = serve(&headway, 4_000, |canary| canary.rolled_back.is_some()).await;
    let of = canary(&headway);
    let why = of.rolled_back.as_ref().expect("rolled back").why.expect("by itself");
    println!("rolled back after {sent} requests, {} of them the canary's: {why:?}", of.requests);
    assert!((of.share, of.drawn) == (0.3, 0.0), "{of:?}");

    let split = shown(&headway).await;
    let group = &split["groups"][1];
    assert_eq!(
        (group["state"].as_str(), group["effective_share"].as_f64()),
        (Some("rolled_back"), Some(0.0)),
        "{group:#}"
    );
    assert_eq!(group["rolled_back"]["reason"], "broke_objective");
    let median = &group["differences"]["latencies"]["e2e"]["p50"];
    assert!(median["low_ms"].as_f64().expect("enough samples") > 0.0 && median["clear"] == true, "{group:#}");
    let metrics = headway.admin("/metrics").await.text();
    for line in [
        "headway_split_rolled_back{route=\"r\",group=\"canary\"} 1\n",
        "headway_split_share_ratio{route=\"r\",group=\"canary\"} 0\n",
        "headway_split_share_ratio{route=\"r\",group=\"baseline\"} 1\n",
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }

    // It gets nothing more, until a person says so.
    let served = new.stats().requests;
    serve(&headway, 40, |_| false).await;
    assert_eq!(new.stats().requests, served);
    assert_eq!(change(&headway, "canary/resume").await, 200);
    assert_eq!(shown(&headway).await["groups"][1]["state"], "running");
    assert_eq!(change(&headway, "canary/rollback").await, 200);
    assert_eq!(shown(&headway).await["groups"][1]["rolled_back"]["reason"], "operator");
    assert_eq!((change(&headway, "baseline/rollback").await, change(&headway, "other/resume").await), (404, 404));
}

#[tokio::test]
async fn a_canary_that_is_as_good_stays_and_gets_what_was_asked() {
    let (old, new) = (simulator(5.0).await, simulator(5.0).await);
    let headway = before(&old, &new, "{ e2e: { p90: 60ms } }").await;
    assert_eq!(serve(&headway, REQUESTS, |canary| canary.rolled_back.is_some()).await, REQUESTS);
    let of = canary(&headway);
    assert_eq!((of.rolled_back, of.fell_over), (None, [0; 4]));
    // 5 standard deviations of a binomial.
    let (requests, expected, deviation) = (f64::from(u32::try_from(of.requests).unwrap()), 180.0, 11.2);
    assert!((requests - expected).abs() < 5.0 * deviation, "{requests} of {REQUESTS}");
    assert_eq!(new.stats().requests, of.requests, "whoever was assigned to it was served by it");
    let records = headway.records(REQUESTS).await;
    let assigned =
        |name: &str| records.iter().filter(|one| one.group.as_ref().is_some_and(|of| &*of.name == name)).count();
    assert_eq!(assigned("canary") as u64, of.requests);
    assert_eq!(assigned("baseline"), REQUESTS - assigned("canary"));
}

#[tokio::test]
async fn a_canary_that_fails_or_is_gone_loses_nothing() {
    let (old, new) = (simulator(50.0).await, simulator(50.0).await);
    let headway = before(&old, &new, "{ e2e: { p90: 10s } }").await;
    // It fails what it gets, then it is gone.
    new.set_faults(Faults::parse(&["reset-before-first-token"]).expect("a fault"));
    let one = |headway: &Headway| canary(headway).fell_over[FellOver::Failed as usize] >= 1;
    serve(&headway, 200, |_| one(&headway)).await;
    assert!(one(&headway), "{:?}", canary(&headway));
    new.shutdown().await;
    serve(&headway, 400, |_| false).await;
    let of = canary(&headway);
    println!("{of:?}");
    assert!(of.fell_over.iter().sum::<u64>() > 50, "{of:?}");
    for record in headway.server.telemetry().recent().newest(usize::MAX) {
        assert_eq!(record.outcome, Outcome::Complete);
        let (last, assigned) = (record.backend().expect("answered"), record.group.as_ref().expect("assigned"));
        assert!(assigned.fell_over.is_none() || &**last == "old", "{record:?}");
    }
}

#[tokio::test]
async fn what_continues_a_stored_response_belongs_to_no_group() {
    let (old, new) = (simulator(50.0).await, simulator(50.0).await);
    let headway = before(&old, &new, "{ e2e: { p90: 10s } }").await;
    let body = r#"{"model":"m","max_output_tokens":4,"store":true,"input":"x"}"#;
    for _ in 0..12 {
        let reply = headway.post("/v1/responses", body).await;
        let answer: Value = serde_json::from_str(&reply.text()).expect("JSON");
        let id = answer["id"].as_str().expect("an id");
        let more = format!(r#"{{"model":"m","max_output_tokens":4,"previous_response_id":"{id}","input":"y"}}"#);
        assert_eq!(headway.post("/v1/responses", &more).await.status, 200);
    }
    let records = headway.records(24).await;
    for pair in records.chunks(2) {
        assert!(pair[0].group.is_some() && pair[1].group.is_none());
        assert_eq!(pair[0].backend(), pair[1].backend(), "the one that has it");
    }
    tokio::time::timeout(Duration::from_secs(10), headway.idle()).await.expect("idle");
}
