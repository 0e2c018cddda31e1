//! What becomes of requests that the promise cannot be kept for: shed, sacrificed, or kept waiting; and what is said of
//! each decision.

use std::time::Duration;

use headway::measure::outcome::{Outcome, ShedReason};
use serde_json::Value;

use crate::support::backend::{Scripted, Step};
use crate::support::client::{Client, End};
use crate::support::headway::{Headway, Setup};
use crate::support::texts::{CHAT, STREAM, post, streamed};
use crate::support::until;

/// A script that answers when it is told to.
fn held() -> Vec<Step> {
    [vec![Step::Pause], streamed()].concat()
}

/// A client whose request is under way, or waits.
async fn ask(headway: &Headway) -> Client {
    let mut client = headway.connect().await;
    client.send(post(CHAT, STREAM)).await;
    client
}

async fn waiting(headway: &Headway, count: usize) {
    let fleet = headway.server.fleet();
    until("those that wait", || fleet.queued() == count).await;
}

async fn one_place(route: &str, backend: &Scripted) -> Headway {
    Setup::default().backend("a", backend, "max_in_flight: 1").route(route).start().await
}

#[tokio::test]
async fn a_promise_that_no_backend_keeps_sheds_with_the_time_to_come_back() {
    let backend = Scripted::start(streamed()).await;
    let route = "policy: cheapest_within_slo, slo: { ttft: { p95: 1ms } }, on_overload: shed";
    let headway = Setup::default().backend("a", &backend, "").route(route).start().await;
    // What is not known yet is found out, one request at a time.
    let mut client = headway.connect().await;
    let reply = loop {
        client.send(post(CHAT, STREAM)).await;
        let reply = client.reply().await;
        if reply.status != 200 {
            break reply;
        }
    };
    assert_eq!((reply.status, &*reply.error_code()), (429, "overloaded"));
    let seconds: u64 = reply.field("retry-after").unwrap().parse().unwrap();
    assert!((1..=60).contains(&seconds));
    headway.idle().await;
    let page = headway.admin("/metrics").await.text();
    assert!(page.contains("headway_shed_total{route=\"r\",reason=\"predicted\"} 1\n"), "{page}");
    let decisions = headway.admin("/api/v1/decisions?route=r&limit=1").await.json();
    let last = &decisions["decisions"][0];
    assert_eq!((&last["turned_away"], &last["candidates"][0]["verdict"]), (&"shed".into(), &"misses".into()));
    assert!(last["retry_after_ms"].as_f64().unwrap() >= 1_000.0 && last.get("backend").is_none());
}

#[tokio::test]
async fn a_request_waits_for_a_place_and_the_wait_is_on_record() {
    let backend = Scripted::start(streamed()).await;
    let headway = one_place("on_overload: { queue: { depth: 4, wait: 20s } }", &backend).await;
    backend.next(held());
    let mut first = ask(&headway).await;
    backend.reached(1).await;
    let mut second = ask(&headway).await;
    waiting(&headway, 1).await;
    backend.resume();
    assert_eq!(first.reply().await.end, End::Clean);
    let reply = second.reply().await;
    assert_eq!((reply.status, reply.end), (200, End::Clean));
    let records = headway.records(2).await;
    let queued = records.iter().map(|one| one.phases.queue).max().unwrap();
    assert!(queued > Duration::ZERO);
    let waited = records.iter().find(|one| one.phases.queue == queued).unwrap();
    assert!(waited.phases.overhead < queued + Duration::from_secs(1) && waited.outcome == Outcome::Complete);
    assert!(headway.admin("/metrics").await.text().contains("headway_queue_seconds_count{route=\"r\"} 1\n"));
}

#[tokio::test]
async fn whoever_leaves_the_line_gives_up_its_place_and_no_backend_hears_of_it() {
    let backend = Scripted::start(streamed()).await;
    let headway = one_place("on_overload: { queue: { depth: 1, wait: 20s } }", &backend).await;
    backend.next(held());
    let mut first = ask(&headway).await;
    backend.reached(1).await;
    let second = ask(&headway).await;
    waiting(&headway, 1).await;
    let refused = headway.stream().await;
    assert_eq!((refused.status, &*refused.error_code()), (429, "overloaded"));
    drop(second);
    waiting(&headway, 0).await;
    backend.resume();
    assert_eq!(first.reply().await.end, End::Clean);
    let outcomes: Vec<_> = headway.records(3).await.iter().map(|one| (one.outcome, one.shed)).collect();
    for expected in
        [(Outcome::Shed, Some(ShedReason::QueueFull)), (Outcome::ClientCancelled, None), (Outcome::Complete, None)]
    {
        assert!(outcomes.contains(&expected), "{outcomes:?}");
    }
    assert_eq!(backend.count(), 1);
}

#[tokio::test]
async fn whoever_waits_too_long_is_shed() {
    let backend = Scripted::start(streamed()).await;
    let headway = one_place("on_overload: { queue: { depth: 4, wait: 100ms } }", &backend).await;
    backend.next(held());
    let mut first = ask(&headway).await;
    backend.reached(1).await;
    let reply = headway.stream().await;
    assert_eq!((reply.status, &*reply.error_code()), (429, "overloaded"));
    assert!(reply.field("retry-after").is_some());
    backend.resume();
    assert_eq!(first.reply().await.end, End::Clean);
    let shed = headway.records(2).await.iter().find_map(|one| Some((one.shed?, one.phases.queue))).unwrap();
    assert!(shed.0 == ShedReason::Waited && shed.1 >= Duration::from_millis(100), "{shed:?}");
}

#[tokio::test]
async fn a_decision_can_be_looked_up_by_its_request_and_asked_for_without_one() {
    let backend = Scripted::start(streamed()).await;
    let route = "policy: cheapest_within_slo, shadow_policy: least_in_flight, slo: { ttft: { p95: 10s } }";
    let headway = Setup::default().backend("a", &backend, "").backend("b", &backend, "").route(route).start().await;
    let mut client = headway.connect().await;
    client.send(post(CHAT, STREAM).replacen("host:", "x-request-id: mine\r\nhost:", 1)).await;
    assert_eq!(client.reply().await.status, 200);
    headway.idle().await;
    let found = headway.admin("/api/v1/decisions?request_id=mine").await.json();
    let [one] = found["decisions"].as_array().unwrap().as_slice() else { panic!("{found}") };
    assert_eq!((&one["request_id"], &one["happened"]["outcome"]), (&"mine".into(), &"complete".into()));
    assert_eq!((&one["happened"]["kept"], &one["shadow"]["reason"]), (&Value::Bool(true), &"least_in_flight".into()));
    assert!(one["happened"]["ttft_ms"].as_f64().unwrap() > 0.0);
    let candidates = one["candidates"].as_array().unwrap();
    assert!(candidates.len() == 2 && candidates.iter().all(|one| one["headroom"].as_f64().unwrap() > 0.0), "{one}");
    assert_eq!(headway.admin("/api/v1/decisions?request_id=other").await.json()["decisions"], Value::Array(Vec::new()));

    let explained = headway.admin("/api/v1/explain?route=r&input_tokens=5000&max_tokens=7").await.json();
    assert_eq!((&explained["route"], explained["candidates"].as_array().unwrap().len()), (&"r".into(), 2));
    assert!(explained["backend"].is_string() && explained["reason"].is_string(), "{explained}");
    assert_eq!(headway.admin("/api/v1/explain?route=none").await.status, 404);
    assert_eq!(headway.admin("/api/v1/explain?route=r&input_tokens=many").await.status, 400);
    assert_eq!(backend.count(), 1, "asking sends nothing");
    let page = headway.admin("/metrics").await.text();
    for part in ["headway_shadow_decisions_total{route=\"r\"", "headway_predicted_seconds{route=\"r\",backend=\"b\""] {
        assert!(page.contains(part), "{part} is missing in {page}");
    }
}

#[tokio::test]
async fn a_prompt_follows_its_beginning_to_the_backend_that_has_it() {
    let backend = Scripted::start(streamed()).await;
    let route = "policy: cheapest_within_slo, slo: { ttft: { p95: 10s } }";
    let headway = Setup::default().backend("a", &backend, "").backend("b", &backend, "").route(route).start().await;
    let long = "All work and no play makes a dull prompt. ".repeat(200);
    let body = format!(r#"{{"model":"m","stream":true,"messages":[{{"role":"user","content":"{long}"}}]}}"#);
    for _ in 0..4 {
        assert_eq!(headway.post(CHAT, &body).await.status, 200);
    }
    let records = headway.records(4).await;
    let cached: Vec<_> = records.iter().map(|one| one.decision.as_ref().unwrap().prefix_tokens).collect();
    // The script states three tokens for all of it, and so few are reckoned with then.
    assert!(cached[0] == 0.0 && cached[1..].iter().all(|tokens| *tokens > 50.0), "{cached:?}");
    let backends: Vec<_> = records.iter().map(|one| one.backend().unwrap().to_string()).collect();
    assert!(backends[1..].iter().all(|one| *one == backends[0]), "{backends:?}");
    assert!(records.iter().all(|one| one.phases.hash > Duration::ZERO && one.phases.decide > Duration::ZERO));
}

/// One backend with one place; routes `urgent` (by a header) and `batch` queue for it, one request each.
async fn two_priorities(backend: &Scripted) -> Headway {
    let queue = "on_overload: { queue: { depth: 1, wait: 20s } }, policy: round_robin";
    let text = format!(
        "listeners: [{{ address: \"127.0.0.1:0\" }}]\nadmin: {{ address: \"127.0.0.1:0\" }}\nbackends:\n\
         \x20 - {{ name: a, url: \"http://{}\", models: [m], max_in_flight: 1, health: {{ path: /health, interval: 60s }} }}\n\
         routes:\n  - {{ name: urgent, match: {{ headers: {{ x-tier: urgent }} }}, backends: [a], priority: 10, {queue} }}\n\
         \x20 - {{ name: batch, backends: [a], {queue} }}\n",
        backend.address
    );
    let headway = Headway::start(&text).await;
    let fleet = headway.server.fleet();
    until("a ready backend", || fleet.backends()[0].usable()).await;
    headway
}

#[tokio::test]
async fn the_important_go_first_among_those_that_wait_and_nobody_is_put_out_who_is_served() {
    let backend = Scripted::start(streamed()).await;
    let headway = two_priorities(&backend).await;
    let with_id = |id: &str, tier: &str| {
        post(CHAT, STREAM).replacen("host:", &format!("x-request-id: {id}\r\nx-tier: {tier}\r\nhost:"), 1)
    };
    backend.next(held());
    let mut clients = Vec::new();
    for (number, (id, tier)) in [("served", "batch"), ("waits", "batch"), ("jumps", "urgent")].into_iter().enumerate() {
        let mut client = headway.connect().await;
        client.send(with_id(id, tier)).await;
        if number == 0 {
            backend.reached(1).await;
        } else {
            waiting(&headway, number).await;
        }
        clients.push(client);
    }
    // The one that is served is not the important one, and is left alone.
    backend.resume();
    for client in &mut clients {
        let reply = client.reply().await;
        assert_eq!((reply.status, reply.end), (200, End::Clean));
    }
    let order: Vec<_> = backend.seen().iter().map(|seen| seen.field("x-request-id")).collect();
    assert_eq!(order, ["served", "jumps", "waits"]);
    assert!(headway.records(3).await.iter().all(|one| one.outcome == Outcome::Complete && one.attempts.len() == 1));
}
