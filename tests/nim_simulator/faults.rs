//! Every fault does what it says, and a full queue refuses as vLLM's does.

use std::time::Duration;

use headway::nim_simulator::{Faults, Simulator, SimulatorOptions, TruthRecord};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::client::*;

/// Fills an engine that runs one request and lets one wait, and hands back the two connections.
async fn full_engine(keep_alive: Option<Duration>) -> (Simulator, Vec<TcpStream>) {
    let mut options = SimulatorOptions { max_queue: 1, speed: 1.0, sse_keep_alive: keep_alive, ..options() };
    options.profile.max_sequences = 1;
    let simulator = start(options).await;
    let mut busy = Vec::new();
    for waiting in 0..2 {
        let mut stream = connect(&simulator).await;
        let body = chat(&json!({ "max_tokens": 20_000 })).to_string();
        stream.write_all(request("/v1/chat/completions", &body).as_bytes()).await.expect("it reads");
        while (simulator.stats().running, simulator.stats().waiting) != (1, waiting) {
            tokio::task::yield_now().await;
        }
        busy.push(stream);
    }
    (simulator, busy)
}

#[tokio::test]
async fn a_full_queue_refuses_with_503() {
    let (simulator, _busy) = full_engine(None).await;
    let refused = post(&simulator, "/v1/chat/completions", chat(&json!({}))).await;
    let expected = r#"{"error":{"message":"The engine is currently busy and cannot accept new requests. Please try again later or on a different instance.","type":"Service Unavailable","param":null,"code":503}}"#;
    assert_eq!((refused.status(), refused.body().as_str()), (503, expected));
    assert_eq!(truth(&simulator, |record| record.status == 503).await.outcome, "refused");
}

#[tokio::test]
async fn with_keep_alive_comments_a_full_queue_refuses_inside_a_200() {
    let (simulator, mut busy) = full_engine(Some(Duration::from_millis(20))).await;
    let refused = post(&simulator, "/v1/chat/completions", chat(&json!({}))).await;
    assert_eq!((refused.status(), refused.end), (200, End::Whole));
    assert_eq!(refused.data().len(), 2);
    assert!(refused.data()[0].contains("\"code\":503"), "{}", refused.body());
    // The one that waits gets comments, and the head has long been sent.
    let mut waiting = Vec::new();
    let waiter = busy.last_mut().expect("two");
    while !String::from_utf8_lossy(&waiting).contains(": keep-alive\n\n") {
        let mut buffer = [0; 4096];
        let count = tokio::time::timeout(PATIENCE, waiter.read(&mut buffer)).await.expect("a comment").expect("open");
        waiting.extend_from_slice(&buffer[..count]);
    }
    assert!(waiting.starts_with(b"HTTP/1.1 200") && !String::from_utf8_lossy(&waiting).contains("data:"));
}

/// Sends one chat request to a server with that fault.
async fn struck(fault: &str, more: Value) -> (Reply, TruthRecord) {
    let simulator = with_faults(&[fault]).await;
    let mut stream = connect(&simulator).await;
    stream.write_all(request("/v1/chat/completions", &chat(&more).to_string()).as_bytes()).await.expect("it reads");
    // What ends is waited for; only what is to be silent is listened to for a short while.
    let is_silent = ["hang", "stall"].iter().any(|silent| fault.starts_with(silent));
    let reply = read_reply(&mut stream, if is_silent { Duration::from_millis(400) } else { PATIENCE }).await;
    drop(stream);
    let record = truth(&simulator, |_| true).await;
    (reply, record)
}

#[track_caller]
fn check_fault((reply, record): &(Reply, TruthRecord), status: u16, end: End, tokens: usize, outcome: &str) {
    assert_eq!((reply.status(), &reply.end), (status, &end), "{record:?}\n{}", reply.body());
    assert_eq!((reply.content_tokens(), record.outcome), (tokens, outcome), "{record:?}\n{}", reply.body());
    assert!(record.fault.is_some(), "{record:?}");
}

#[tokio::test]
async fn faults_of_the_connection_do_what_they_say() {
    check_fault(&struck("reset-before-first-token", json!({})).await, 0, End::Reset, 0, "fault");
    check_fault(&struck("reset-after-head", json!({})).await, 200, End::Reset, 0, "fault");
    check_fault(&struck("reset-after-first-token", json!({})).await, 200, End::Reset, 1, "fault");
    check_fault(&struck("hang", json!({})).await, 0, End::Silent, 0, "aborted");
    check_fault(&struck("hang-after-head", json!({})).await, 200, End::Silent, 0, "aborted");
    check_fault(&struck("stall=5", json!({})).await, 200, End::Silent, 5, "aborted");
    check_fault(&struck("truncate=4", json!({})).await, 200, End::Whole, 4, "fault");
    check_fault(&struck("empty", json!({})).await, 200, End::Whole, 0, "fault");
    let cut = struck("close-mid-event=2", json!({})).await;
    assert!(!cut.0.body().ends_with("\n\n") && cut.0.data().len() == 1 + 2 + 1, "{}", cut.0.body());
    check_fault(&cut, 200, End::Closed, 2, "fault");
}

#[tokio::test]
async fn faults_of_the_content_do_what_they_say() {
    check_fault(&struck("refuse", json!({})).await, 503, End::Whole, 0, "fault");
    let first = struck("error-event", json!({})).await;
    check_fault(&first, 200, End::Whole, 0, "fault");
    assert!(first.0.data()[0].starts_with(r#"{"error":{"#) && first.0.data()[1] == "[DONE]");
    let mid = struck("error-event-mid=3", json!({})).await;
    check_fault(&mid, 200, End::Whole, 3, "fault");
    assert!(mid.0.data()[4].starts_with(r#"{"error":{"#));
    let json = struck("json-error-200", json!({})).await;
    check_fault(&json, 200, End::Whole, 0, "fault");
    assert!(json.0.head.contains("application/json") && json.0.json()["error"]["code"] == 500);
    let garbage = struck("garbage", json!({})).await;
    check_fault(&garbage, 200, End::Whole, 0, "fault");
    assert!(garbage.0.data().iter().any(|data| serde_json::from_str::<Value>(data).is_err() && data != "[DONE]"));
}

#[tokio::test]
async fn faults_strike_answers_in_one_piece_too() {
    let unary = || json!({ "stream": false });
    check_fault(&struck("reset-after-first-token", unary()).await, 0, End::Reset, 0, "fault");
    check_fault(&struck("stall", unary()).await, 0, End::Silent, 0, "aborted");
    check_fault(&struck("error-event-mid", unary()).await, 500, End::Whole, 0, "fault");
    let empty = struck("empty", unary()).await;
    assert_eq!((empty.0.status(), empty.0.body().as_str()), (200, ""));
    let broken = struck("garbage", unary()).await;
    assert!(serde_json::from_str::<Value>(&broken.0.body()).is_err(), "{}", broken.0.body());
}

#[tokio::test]
async fn a_refused_connection_is_reset() {
    let simulator = with_faults(&["refuse-connection:1x"]).await;
    let mut stream = connect(&simulator).await;
    let _ = stream.write_all(b"GET /health HTTP/1.1\r\n").await;
    assert_eq!(read_reply(&mut stream, PATIENCE).await.end, End::Reset);
    assert_eq!(get(&simulator, "/health").await.status(), 200, "the count is spent");
}

#[tokio::test]
async fn faults_change_at_run_time() {
    let simulator = start(SimulatorOptions { speed: 1.0, noise: 0.0, ..options() }).await;
    simulator.set_faults(Faults::parse(&["refuse:1x"]).expect("known"));
    assert_eq!(post(&simulator, "/v1/chat/completions", chat(&json!({}))).await.status(), 503);
    assert_eq!(post(&simulator, "/v1/chat/completions", chat(&json!({}))).await.status(), 200);
    assert_eq!(simulator.faults(), Faults::parse(&["refuse:0x"]).expect("known"));

    let set = post(&simulator, "/_faults", json!(["slow=5"])).await;
    assert_eq!((set.status(), simulator.faults().slow()), (200, 5.0));
    post(&simulator, "/v1/chat/completions", chat(&json!({ "max_tokens": 20 }))).await;
    let record = truth(&simulator, |record| record.tokens == 20).await;
    assert!(record.itl_ms.expect("20 tokens") > 30.0, "{record:?}");
    let unknown = post(&simulator, "/_faults", json!(["explode"])).await;
    assert!(unknown.status() == 400 && unknown.body().contains("hang-after-head"));
}
