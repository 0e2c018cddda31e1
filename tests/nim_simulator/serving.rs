//! Refusals, pages, metrics, pace, truth log, start and stop.

use std::sync::Arc;
use std::time::Duration;

use headway::clock::SystemClock;
use headway::nim_simulator::{Simulator, SimulatorOptions};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::client::*;

#[tokio::test]
async fn a_request_that_cannot_be_served_is_refused_as_vllm_does() {
    let simulator = start(options()).await;
    let unknown = post(&simulator, "/v1/chat/completions", chat(&json!({ "model": "nope" }))).await;
    let expected = r#"{"error":{"message":"The model `nope` does not exist. Valid aliases: tiny, tiny-reason.","type":"NotFoundError","param":"model","code":404}}"#;
    assert_eq!((unknown.status(), unknown.body().as_str()), (404, expected));
    let cut = post_text(&simulator, "/v1/chat/completions", r#"{"model": "tiny", "messages": ["#).await;
    assert_eq!((cut.status(), &cut.json()["error"]["code"]), (400, &json!(400)));
    let long = post(&simulator, "/v1/chat/completions", chat(&json!({ "max_tokens": 10_000_000 }))).await;
    assert_eq!((long.status(), &long.json()["error"]["type"]), (400, &json!("BadRequestError")));
    assert_eq!(simulator.stats().rejected, 3);
    assert_eq!(get(&simulator, "/nowhere").await.status(), 404);
    assert_eq!(get(&simulator, "/v1/chat/completions").await.status(), 405);
}

#[tokio::test]
async fn the_pages_of_a_nim_are_there() {
    let simulator = start(options()).await;
    for path in ["/v1/health/live", "/v1/health/ready", "/health", "/v1/manifest", "/v1/license", "/v1/version"] {
        assert_eq!(get(&simulator, path).await.status(), 200, "{path}");
    }
    let models = get(&simulator, "/v1/models").await.json();
    assert_eq!((&models["object"], &models["data"][1]["id"]), (&json!("list"), &json!("tiny-reason")));
    let metadata = get(&simulator, "/v1/metadata").await.json();
    assert_eq!(metadata["selectedModelProfileId"].as_str().map(str::len), Some(64));

    let warming = start(SimulatorOptions { warmup: Duration::from_secs(1000), ..options() }).await;
    assert_eq!(get(&warming, "/v1/health/ready").await.status(), 503);
    assert_eq!(get(&warming, "/v1/health/live").await.status(), 200);
}

#[tokio::test]
async fn the_metrics_page_counts_in_nim_names() {
    let simulator = start(options()).await;
    post(&simulator, "/v1/chat/completions", chat(&json!({}))).await;
    truth(&simulator, |record| record.outcome == "completed").await;
    let page = get(&simulator, "/v1/metrics").await.body();
    for line in page.lines().filter(|line| !line.starts_with('#')) {
        let (series, value) = line.rsplit_once(' ').expect("a series and a value");
        assert!(value.parse::<f64>().is_ok() && series.contains("model_name=\"tiny"), "{line}");
    }
    for line in [
        "generation_tokens_total{model_name=\"tiny\"} 12",
        "prompt_tokens_total{model_name=\"tiny\"} 6",
        "request_success_total{model_name=\"tiny\"} 1",
        "request_failure_total{model_name=\"tiny\"} 0",
        "request_finish_total{finished_reason=\"length\",model_name=\"tiny\"} 1",
        "num_request_max{model_name=\"tiny\"} 48",
        "num_requests_running{model_name=\"tiny\"} 0",
        "num_requests_waiting{model_name=\"tiny\"} 0",
        "gpu_cache_usage_perc{model_name=\"tiny\"} 0",
        "time_to_first_token_seconds_count{model_name=\"tiny\"} 1",
        "time_per_output_token_seconds_count{model_name=\"tiny\"} 11",
        "e2e_request_latency_seconds_count{model_name=\"tiny\"} 1",
    ] {
        assert!(page.lines().any(|have| have == line), "{line} in\n{page}");
    }
    assert_eq!(get(&simulator, "/metrics").await.status(), 200);
}

#[tokio::test]
async fn one_connection_serves_many_requests() {
    let simulator = start(options()).await;
    let mut stream = connect(&simulator).await;
    for _ in 0..3 {
        let body = chat(&json!({})).to_string();
        stream.write_all(request("/v1/chat/completions", &body).as_bytes()).await.expect("it reads");
        assert_eq!(read_reply(&mut stream, PATIENCE).await.content_tokens(), 12);
    }
    assert_eq!((simulator.stats().connections, simulator.stats().completed), (1, 3));
}

#[tokio::test]
async fn the_pace_is_the_profiles() {
    let options = SimulatorOptions { noise: 0.0, speed: 1.0, ..options() };
    let simulator = start(options).await;
    post(&simulator, "/v1/chat/completions", chat(&json!({ "max_tokens": 60 }))).await;
    let record = truth(&simulator, |record| record.outcome == "completed").await;
    let itl = record.itl_ms.expect("60 tokens");
    // A step of the profile takes 6.5 ms and little more; a busy machine may add to a token, not to each.
    assert!((6.3..10.0).contains(&itl), "{itl} ms");
    assert!(record.ttft_ms.expect("a token") >= 6.5);
}

#[tokio::test]
async fn the_truth_file_tells_times_and_no_text() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("truth.jsonl");
    let simulator = start(SimulatorOptions { truth: Some(path.clone()), ..options() }).await;
    let reply = post(&simulator, "/v1/chat/completions", chat(&json!({}))).await;
    assert_eq!(reply.end, End::Whole);
    truth(&simulator, |record| record.outcome == "completed").await;
    simulator.shutdown().await;
    let text = std::fs::read_to_string(&path).expect("written");
    let record: Value = serde_json::from_str(text.trim()).expect("one line of JSON");
    assert_eq!(
        (&record["x_request_id"], &record["tokens"], &record["api"]),
        (&json!("req-7"), &json!(12), &json!("chat"))
    );
    assert!(record["ttft_ms"].as_f64() <= record["last_ms"].as_f64() && record["itl_ms"].is_f64());
    assert!(!text.contains("trains"), "{text}");
}

#[tokio::test]
async fn a_taken_address_is_an_error_that_names_it() {
    let simulator = start(options()).await;
    let taken = SimulatorOptions { listen: simulator.address, ..options() };
    let error = Simulator::start(taken, Arc::new(SystemClock)).await.map(|_| ()).expect_err("taken").to_string();
    assert!(error.contains(&simulator.address.to_string()), "{error}");
    let idle = SimulatorOptions { speed: 0.0, ..options() };
    assert!(Simulator::start(idle, Arc::new(SystemClock)).await.is_err());
}

#[tokio::test]
async fn a_stopped_server_takes_no_connection() {
    let simulator = start(options()).await;
    let address = simulator.address;
    let mut open = connect(&simulator).await;
    simulator.shutdown().await;
    assert_ne!(read_reply(&mut open, PATIENCE).await.end, End::Silent);
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn many_streams_at_once_all_come_whole() {
    let simulator = Arc::new(start(options()).await);
    let clients: Vec<_> = (0..200)
        .map(|client| {
            let simulator = Arc::clone(&simulator);
            let body = chat(&json!({ "max_tokens": 20 + client % 50 }));
            tokio::spawn(async move { post(&simulator, "/v1/chat/completions", body).await.content_tokens() })
        })
        .collect();
    for (client, task) in clients.into_iter().enumerate() {
        assert_eq!(task.await.expect("no panic"), 20 + client % 50);
    }
    let stats = simulator.stats();
    assert_eq!((stats.completed, stats.in_flight, stats.running, stats.waiting), (200, 0, 0, 0), "{stats:?}");
}
