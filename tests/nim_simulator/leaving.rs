//! A client that leaves is noticed at once, in every protocol and at every stage.

use std::time::UNIX_EPOCH;

use headway::clock::{Clock, SystemClock};
use headway::nim_simulator::{Simulator, SimulatorOptions, TruthRecord};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::client::*;

/// Milliseconds since 1970, from the clock the server stamps with.
fn wall_ms() -> f64 {
    SystemClock.wall().duration_since(UNIX_EPOCH).expect("after 1970").as_secs_f64() * 1e3
}

/// How long after `left` the server saw the client go.
fn noticed_after(record: &TruthRecord, left: f64) -> f64 {
    record.received_unix_ms + record.aborted_ms.expect("aborted") - left
}

#[track_caller]
fn check_abort(simulator: &Simulator, record: &TruthRecord, left: f64) {
    let after = noticed_after(record, left);
    assert!((-1.0..500.0).contains(&after), "noticed after {after} ms");
    let stats = simulator.stats();
    assert_eq!((stats.aborted, stats.in_flight, stats.running, stats.waiting), (1, 0, 0, 0));
    assert!(stats.kv_ratio < f64::EPSILON, "{stats:?}");
}

#[tokio::test]
async fn a_client_that_leaves_frees_the_engine_at_once() {
    for (stream_it, speed) in [(true, 1.0), (false, 1.0)] {
        let simulator = start(SimulatorOptions { speed, ..options() }).await;
        let mut stream = connect(&simulator).await;
        let body = chat(&json!({ "max_tokens": 20_000, "stream": stream_it })).to_string();
        stream.write_all(request("/v1/chat/completions", &body).as_bytes()).await.expect("it reads");
        if stream_it {
            assert!(stream.read(&mut [0; 4096]).await.expect("the head") > 0);
        } else {
            while simulator.stats().running == 0 {
                tokio::task::yield_now().await;
            }
        }
        let left = wall_ms();
        drop(stream);
        let record = truth(&simulator, |record| record.outcome == "aborted").await;
        check_abort(&simulator, &record, left);
        assert!(record.tokens < 1000, "{} tokens", record.tokens);
    }
}

async fn h2_client(
    simulator: &Simulator,
) -> hyper::client::conn::http2::SendRequest<http_body_util::Full<bytes::Bytes>> {
    let socket = hyper_util::rt::TokioIo::new(connect(simulator).await);
    let executor = hyper_util::rt::TokioExecutor::new();
    let (sender, connection) = hyper::client::conn::http2::handshake(executor, socket).await.expect("h2");
    tokio::spawn(connection);
    sender
}

fn h2_request(simulator: &Simulator, body: &Value) -> http::Request<http_body_util::Full<bytes::Bytes>> {
    http::Request::post(format!("{}/v1/chat/completions", simulator.url()))
        .body(http_body_util::Full::from(body.to_string()))
        .expect("a request")
}

#[tokio::test]
async fn h2_without_tls_serves_streams_and_sees_a_reset_stream() {
    use http_body_util::BodyExt;
    let simulator = start(options()).await;
    let mut sender = h2_client(&simulator).await;
    let answer = sender.send_request(h2_request(&simulator, &chat(&json!({})))).await.expect("an answer");
    let body = answer.into_body().collect().await.expect("a whole body").to_bytes();
    assert!(body.ends_with(b"data: [DONE]\n\n"));

    let simulator = start(SimulatorOptions { speed: 1.0, ..options() }).await;
    let mut sender = h2_client(&simulator).await;
    let long = chat(&json!({ "max_tokens": 20_000 }));
    let mut answer = sender.send_request(h2_request(&simulator, &long)).await.expect("an answer");
    answer.frame().await.expect("an event").expect("no error");
    let left = wall_ms();
    drop(answer);
    let record = truth(&simulator, |record| record.outcome == "aborted").await;
    check_abort(&simulator, &record, left);
}

#[tokio::test]
async fn a_client_that_waits_in_the_queue_leaves_it_at_once() {
    let mut options = SimulatorOptions { speed: 1.0, ..options() };
    options.profile.max_sequences = 1;
    let simulator = start(options).await;
    let body = chat(&json!({ "max_tokens": 20_000 })).to_string();
    let mut streams = Vec::new();
    for waiting in 0..2 {
        let mut stream = connect(&simulator).await;
        stream.write_all(request("/v1/chat/completions", &body).as_bytes()).await.expect("it reads");
        while simulator.stats().waiting != waiting || simulator.stats().running != 1 {
            tokio::task::yield_now().await;
        }
        streams.push(stream);
    }
    drop(streams.pop());
    let record = truth(&simulator, |record| record.outcome == "aborted").await;
    assert_eq!((record.tokens, record.ttft_ms), (0, None));
    assert_eq!((simulator.stats().waiting, simulator.stats().running), (0, 1));
}

#[tokio::test]
async fn an_h2_client_that_leaves_before_the_head_is_noticed() {
    let simulator = with_faults(&["hang"]).await;
    let mut sender = h2_client(&simulator).await;
    let answer = tokio::spawn(sender.send_request(h2_request(&simulator, &chat(&json!({})))));
    while simulator.stats().in_flight == 0 {
        tokio::task::yield_now().await;
    }
    answer.abort();
    let record = truth(&simulator, |record| record.outcome == "aborted").await;
    assert_eq!((record.fault, record.status), (Some("hang"), 0));
}
