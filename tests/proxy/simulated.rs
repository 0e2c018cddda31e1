//! The proxy before simulated engines: every API of theirs, and every fault.

use std::sync::Arc;

use headway::clock::SystemClock;
use headway::engine::Profile;
use headway::measure::outcome::Outcome;
use headway::nim_simulator::{Faults, Simulator, SimulatorOptions};

use crate::support::client::End;
use crate::support::headway::{Headway, Setup};
use crate::support::texts::CHAT;

const STREAM: &str = r#"{"model":"m","stream":true,"max_tokens":12,"ignore_eos":true,"messages":[{"role":"user","content":"Tell me about trains."}]}"#;

async fn simulator() -> Simulator {
    let mut options = SimulatorOptions::new(Profile::named("h100-latency").expect("known"));
    (options.models, options.speed) = (vec!["m".to_owned()], 50.0);
    Simulator::start(options, Arc::new(SystemClock)).await.expect("a free port")
}

/// Two engines, the first with a fault that strikes once.
async fn fleet(fault: &str) -> (Simulator, Simulator, Headway) {
    let (bad, good) = (simulator().await, simulator().await);
    let setup = Setup::default()
        .backend_at("bad", bad.address, "models: [m]")
        .backend_at("good", good.address, "models: [m]")
        .route(
            "timeouts: { first_token: 1s, idle: 300ms }, \
             retry: { causes: [status_503, status_5xx, first_token_timeout, reset, empty] }",
        );
    let headway = setup.start().await;
    if !fault.is_empty() {
        bad.set_faults(Faults::parse(&[fault]).expect("a fault"));
    }
    (bad, good, headway)
}

#[tokio::test]
async fn faults_before_the_first_token_are_not_noticed() {
    for (fault, outcome) in [
        ("reset-before-first-token", Outcome::Truncated),
        ("reset-after-head", Outcome::Truncated),
        ("error-event", Outcome::UpstreamError),
        ("refuse", Outcome::UpstreamError),
        ("hang", Outcome::FirstTokenTimeout),
        ("hang-after-head", Outcome::FirstTokenTimeout),
        ("empty", Outcome::Empty),
        ("json-error-200", Outcome::UpstreamError),
    ] {
        let (_bad, _good, headway) = fleet(fault).await;
        let reply = headway.post(CHAT, STREAM).await;
        assert_eq!((reply.status, reply.end), (200, End::Clean), "{fault}");
        assert!(reply.text().ends_with("data: [DONE]\n\n") && !reply.text().contains("usage"), "{}", reply.text());
        let record = headway.record().await;
        let tries: Vec<_> = record.attempts.iter().map(|one| (&*one.backend, one.outcome)).collect();
        assert_eq!(tries, [("bad", outcome), ("good", Outcome::Complete)], "{fault}");
        assert_eq!(record.usage.output_tokens, Some(12), "{fault}");
    }
}

#[tokio::test]
async fn faults_after_the_first_token_are_told() {
    for (fault, outcome, told) in [
        ("reset-after-first-token", Outcome::Truncated, true),
        ("truncate", Outcome::Truncated, true),
        ("stall", Outcome::IdleTimeout, true),
        ("close-mid-event", Outcome::Truncated, false),
        ("error-event-mid", Outcome::UpstreamError, true),
    ] {
        let (_bad, _good, headway) = fleet(fault).await;
        let reply = headway.post(CHAT, STREAM).await;
        assert_eq!(reply.status, 200, "{fault}");
        assert_eq!(reply.text().matches("{\"error\":").count(), usize::from(told), "{fault}: {}", reply.text());
        let clean = outcome == Outcome::UpstreamError && reply.text().contains("[DONE]");
        assert_eq!(reply.end == End::Clean, clean, "{fault}: {}", reply.text());
        let record = headway.record().await;
        assert_eq!((record.outcome, record.attempts.len()), (outcome, 1), "{fault}");
        assert!(record.latencies.first_token.is_some());
    }
}

#[tokio::test]
async fn every_api_is_served_and_read() {
    let (_bad, _good, headway) = fleet("").await;
    let requests = [
        (CHAT, STREAM.to_owned()),
        (CHAT, STREAM.replace("true,\"max", "false,\"max")),
        ("/v1/completions", r#"{"model":"m","stream":true,"max_tokens":12,"ignore_eos":true,"prompt":"x"}"#.to_owned()),
        ("/v1/responses", r#"{"model":"m","stream":true,"max_output_tokens":12,"ignore_eos":true,"input":"x"}"#.to_owned()),
        ("/v1/messages", r#"{"model":"m","stream":true,"max_tokens":12,"ignore_eos":true,"messages":[{"role":"user","content":"x"}]}"#.to_owned()),
    ];
    for (count, (path, body)) in requests.iter().enumerate() {
        let reply = headway.post(path, body).await;
        assert_eq!((reply.status, reply.end), (200, End::Clean), "{path}: {}", reply.text());
        let record = headway.records(count + 1).await.pop().unwrap();
        assert_eq!(record.outcome, Outcome::Complete, "{path}: {}", reply.text());
        assert_eq!(record.usage.output_tokens, Some(12), "{path}: {}", reply.text());
        assert_eq!(record.latencies.inter_token.is_some(), body.contains("\"stream\":true"), "{path}");
    }
    let triton = r#"{"text_input":"x","parameters":{"max_tokens":12,"ignore_eos":true}}"#;
    let reply = headway.post("/v2/models/m/generate_stream", triton).await;
    assert_eq!((reply.status, reply.end), (200, End::Clean), "{}", reply.text());
}
