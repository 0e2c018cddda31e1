//! What a trace looks like, span by span, and that its times are the access log's.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use serde_json::{Value, json};

use crate::collector::{Collector, Span, only};
use crate::support::backend::{Scripted, Step, send};
use crate::support::headway::{Headway, Setup};
use crate::support::texts::{
    CHAT, COMPLETION, DONE, FINISH, LAST, ROLE, STREAM, TOKEN, UNARY, begun, chunk, json as json_answer, post, streamed,
};
use crate::support::until;

const SERVER: &str = "POST /v1/chat/completions";
const CLIENT: &str = "chat m";
/// Half a microsecond for each of two roundings.
const NANOS: u64 = 1_000;

/// A headway that sends every trace to that collector and logs every exchange to that file.
pub(crate) fn traced(collector: &Collector, protocol: &str, log: &Path) -> String {
    format!(
        "telemetry:\n  otlp: {{ endpoint: \"{}\", protocol: {protocol}, sample_ratio: 1.0 }}\n  \
         access_log: {{ path: {} }}\n",
        collector.url(),
        log.display()
    )
}

/// Ends it, so that all is sent and written; the log's lines.
pub(crate) async fn ended(headway: Headway, log: &Path) -> Vec<Value> {
    headway.idle().await;
    headway.server.shutdown(std::time::Duration::from_secs(5)).await;
    let text = std::fs::read_to_string(log).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

pub(crate) fn log_file() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("access.log");
    (folder, log)
}

/// The log's `ts`, in nanoseconds since the epoch.
fn start_of(line: &Value) -> u64 {
    let text = line["ts"].as_str().expect("a time");
    let since_fixed = headway::trace::parse_timestamp(text).expect("a time");
    let epoch = headway::trace::parse_timestamp("1970-01-01T00:00:00Z").expect("a time");
    u64::try_from(since_fixed.saturating_sub(epoch).as_nanos()).unwrap()
}

/// A duration of the log, in nanoseconds.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a few seconds")]
fn nanos(line: &Value, field: &str) -> u64 {
    let scale = if field.ends_with("_us") { 1e3 } else { 1e6 };
    (line[field].as_f64().unwrap_or_else(|| panic!("{field} in {line}")) * scale).round() as u64
}

#[track_caller]
fn same(what: &str, span: u64, log: u64) {
    // The log's start has microseconds, a duration's last digit is rounded.
    assert!(span.abs_diff(log) <= 2 * NANOS, "{what}: {span} in the trace, {log} in the log");
}

/// A chat whose first backend is busy, and whose second one answers in three steps with a silence before the last.
async fn failover(protocol: &str) -> (Vec<Span>, Value, Collector) {
    let collector = Collector::start().await;
    let (_folder, log) = log_file();
    let busy = Scripted::start(json_answer("503 Service Unavailable", r#"{"error":{"code":503}}"#)).await;
    let engine = r#""metrics":{"time_to_first_token_ms":1.0,"queue_time_ms":0.5,"generation_time_ms":3}"#;
    let usage = format!(
        "data: {{\"choices\":[],\"usage\":{{\"prompt_tokens\":3,\"completion_tokens\":2,\
         \"prompt_tokens_details\":{{\"cached_tokens\":1}}}},{engine}}}\n\n"
    );
    let rest = [&*chunk([FINISH, &usage, DONE].concat()), LAST.as_bytes()].concat();
    let script =
        vec![Step::Pause, begun([ROLE, TOKEN, TOKEN, TOKEN].concat()), Step::Pause, send(chunk(TOKEN)), send(rest)];
    let good = Scripted::start(script).await;
    let setup = Setup::default()
        .backend("busy", &busy, "profile: vllm-a")
        .backend("good", &good, "profile: vllm-b")
        .route("slo: { ttft: { p95: 30s }, itl: { p95: 30s } }")
        .more(&traced(&collector, protocol, &log));
    let headway = setup.start().await;
    let asking = tokio::spawn({
        let address = headway.address();
        async move {
            let body = STREAM.replace("\"messages\":[]", "\"max_tokens\":77,\"messages\":[]");
            let mut client = crate::support::client::Client::connect(address).await;
            client.send(post(CHAT, &body)).await;
            client.arrives(|text| text.contains("train")).await;
            client.arrives(|text| text.contains("[DONE]")).await;
        }
    });
    until("the second try", || good.count() == 1).await;
    // Times that can be told apart from none at all.
    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    good.resume();
    tokio::time::sleep(std::time::Duration::from_millis(120)).await;
    good.resume();
    asking.await.unwrap();
    let lines = ended(headway, &log).await;
    assert_eq!(lines.len(), 1);
    (collector.spans(), lines[0].clone(), collector)
}

/// What varies from run to run is checked for its kind alone.
fn shape(attributes: &BTreeMap<String, Value>, varying: &[&str]) -> Value {
    let plain = |(name, value): (&String, &Value)| {
        let varies = varying.contains(&name.as_str());
        (name.clone(), if varies { json!(if value.is_f64() { "seconds" } else { "number" }) } else { value.clone() })
    };
    attributes.iter().map(plain).collect::<serde_json::Map<_, _>>().into()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exchange_is_a_tree_with_every_name_over_both_protocols() {
    for protocol in ["http/protobuf", "grpc"] {
        let (spans, line, collector) = failover(protocol).await;
        let tries: Vec<_> = spans.iter().filter(|span| span.name == CLIENT).collect();
        let [first, second] = tries[..] else { panic!("two tries in {spans:#?}") };
        let server = only(&spans, SERVER);
        kinds_and_parents(&spans, server, first, second, &line);
        attributes(server, first, second, &line);
        resource(&collector);
    }
}

fn kinds_and_parents(spans: &[Span], server: &Span, first: &Span, second: &Span, line: &Value) {
    assert!(spans.iter().all(|span| span.trace == line["trace_id"]), "{line}");
    assert!(spans.iter().all(|span| span.flags & 0xff == 1 && span.state.is_empty()));
    let tree: Vec<_> = spans.iter().map(|span| (&*span.name, span.kind, &*span.parent)).collect();
    let (root, one, two) = (&*server.id, &*first.id, &*second.id);
    let waits: Vec<_> = spans.iter().filter(|span| span.name == "backend wait").collect();
    assert_eq!(waits.len(), 2);
    let wait = &*waits[1].id;
    let expected = [
        (SERVER, SpanKind::Server, ""),
        (CLIENT, SpanKind::Client, root),
        (CLIENT, SpanKind::Client, root),
        ("upload", SpanKind::Internal, root),
        ("headway", SpanKind::Internal, root),
        ("connect", SpanKind::Internal, one),
        ("send", SpanKind::Internal, one),
        ("backend wait", SpanKind::Internal, one),
        ("connect", SpanKind::Internal, two),
        ("send", SpanKind::Internal, two),
        ("backend wait", SpanKind::Internal, two),
        ("engine queue", SpanKind::Internal, wait),
        ("engine prefill", SpanKind::Internal, wait),
        ("decode", SpanKind::Internal, two),
    ];
    assert_eq!(tree, expected);
    let mut ids: Vec<_> = spans.iter().map(|span| &span.id).collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), spans.len(), "an id stands twice");
    for span in spans {
        assert!(span.from <= span.to && server.from <= span.from && span.to <= server.to, "{span:?} in {server:?}");
    }
}

fn attributes(server: &Span, first: &Span, second: &Span, line: &Value) {
    let varying =
        ["gen_ai.latency.time_to_first_token", "headway.inter_token_latency", "headway.end_to_end", "headway.overhead"];
    let expected = json!({
        "http.request.method": "POST",
        "url.scheme": "http",
        "http.route": "/v1/chat/completions",
        "http.response.status_code": 200,
        "network.protocol.name": "http",
        "network.protocol.version": "1.1",
        "http.request.body.size": line["bytes_in"],
        "http.response.body.size": line["bytes_out"],
        "gen_ai.request.model": "m",
        "gen_ai.latency.time_to_first_token": "seconds",
        "headway.request_id": line["request_id"],
        "headway.route": "r",
        "headway.backend": "good",
        "headway.profile": "vllm-b",
        "headway.outcome": "complete",
        "headway.kept": "head",
        "headway.attempts": 2,
        "headway.inter_token_latency": "seconds",
        "headway.end_to_end": "seconds",
        "headway.overhead": "seconds",
        "headway.slo.ttft": "good",
        "headway.slo.itl": "good",
    });
    assert_eq!(shape(&server.attributes, &varying), expected);
    assert_eq!(server.error, None);
    attributes_of_tries(first, second);
}

fn attributes_of_tries(first: &Span, second: &Span) {
    // What the rule expected is another test's matter.
    let settled = |span: &Span| {
        let mut attributes = span.attributes.clone();
        attributes.retain(|name, _| !name.starts_with("headway.decision.predicted."));
        attributes.retain(|name, _| !name.starts_with("headway.decision.bound."));
        attributes.retain(|name, _| !name.starts_with("headway.decision.headroom."));
        assert_ne!(attributes.len(), span.attributes.len(), "{attributes:?}");
        let varying = [
            "server.port",
            "headway.decision.number",
            "gen_ai.response.time_to_first_chunk",
            "gen_ai.latency.time_to_first_token",
        ];
        shape(&attributes, &varying)
    };
    let expected = json!({
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "nvidia_nim",
        "gen_ai.request.model": "m",
        "gen_ai.request.stream": true,
        "gen_ai.request.max_tokens": 77,
        "server.address": "127.0.0.1",
        "server.port": "number",
        "http.response.status_code": 503,
        "error.type": "503",
        "headway.backend": "busy",
        "headway.profile": "vllm-a",
        "headway.outcome": "upstream_error",
        "headway.connection.reused": false,
        "headway.decision.number": "number",
        "headway.decision.reason": "round_robin",
        "headway.decision.candidates": 2,
        "headway.decision.objective.ttft": 30.0,
        "headway.decision.objective.itl": 30.0,
        "headway.decision.feasible": first.attributes["headway.decision.feasible"],
    });
    assert_eq!(settled(first), expected);
    assert_eq!(first.error.as_deref(), Some("upstream_error"));
    let expected = json!({
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "nvidia_nim",
        "gen_ai.request.model": "m",
        "gen_ai.request.stream": true,
        "gen_ai.request.max_tokens": 77,
        "gen_ai.response.time_to_first_chunk": "seconds",
        "gen_ai.response.finish_reasons": ["stop"],
        "gen_ai.usage.input_tokens": 3,
        "gen_ai.usage.cache_read.input_tokens": 1,
        "gen_ai.usage.output_tokens": 2,
        "gen_ai.latency.time_to_first_token": "seconds",
        "server.address": "127.0.0.1",
        "server.port": "number",
        "http.response.status_code": 200,
        "http.request.resend_count": 1,
        "headway.backend": "good",
        "headway.profile": "vllm-b",
        "headway.outcome": "complete",
        "headway.connection.reused": false,
        "headway.decision.number": "number",
        "headway.decision.reason": "only_candidate",
        "headway.decision.candidates": 1,
        "headway.decision.objective.ttft": 30.0,
        "headway.decision.objective.itl": 30.0,
        "headway.decision.feasible": second.attributes["headway.decision.feasible"],
    });
    assert_eq!(settled(second), expected);
    assert_eq!(second.error, None);
}

fn resource(collector: &Collector) {
    for export in collector.exports() {
        let [of] = &export.request.resource_spans[..] else { panic!("one resource") };
        let resource = crate::collector::map(&of.resource.as_ref().expect("a resource").attributes);
        let own = json!({ "service.name": "headway", "service.version": env!("CARGO_PKG_VERSION") });
        assert_eq!(json!(resource), own);
        assert_eq!(of.scope_spans[0].scope.as_ref().expect("a scope").name, "headway");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_time_is_the_access_logs() {
    let (spans, line, _collector) = failover("http/protobuf").await;
    let server = only(&spans, SERVER);
    let [first, second] = spans.iter().filter(|span| span.name == CLIENT).collect::<Vec<_>>()[..] else { panic!() };
    let of_second = |name: &str| {
        spans.iter().find(|span| span.name == name && span.parent == second.id).unwrap_or_else(|| panic!("{name}"))
    };
    let (start, length) = (start_of(&line), |span: &Span| span.to - span.from);
    same("start", server.from + nanos(&line, "upload_ms"), start);
    same("upload", length(only(&spans, "upload")), nanos(&line, "upload_ms"));
    same("headway's own time", length(only(&spans, "headway")), nanos(&line, "overhead_us"));
    same("connect", length(of_second("connect")), nanos(&line, "connect_ms"));
    let wait = of_second("backend wait");
    same("head", wait.event("head").0 - wait.from, nanos(&line, "backend_wait_ms"));
    same("TTFT", second.event("first_token").0 - start, nanos(&line, "ttft_ms"));
    same("the wait's end", wait.to - start, nanos(&line, "ttft_ms"));
    same("the decode's end", of_second("decode").to - start, nanos(&line, "e2e_ms"));
    same("the last token", second.event("last_token").0 - start, nanos(&line, "e2e_ms"));
    let stall = second.event("stall");
    same("stall", nanos_of(&stall.1["headway.stall.duration"]), nanos(&line, "longest_stall_ms"));
    same("the stall's end", stall.0, second.event("last_token").0);
    same("engine queue", length(only(&spans, "engine queue")), nanos(&line, "engine_queue_ms"));
    let (queue, prefill) = (only(&spans, "engine queue"), only(&spans, "engine prefill"));
    assert_eq!(queue.to, prefill.from);
    same("engine", prefill.to - queue.from, nanos(&line, "engine_ttft_ms"));
    same("outside", nanos_of(&wait.attributes["headway.engine.outside"]), length(wait) - (prefill.to - queue.from));
    for (place, span) in [first, second].into_iter().enumerate() {
        same("a try", length(span), nanos(&line["attempts"][place], "ms"));
        let decisions: Vec<_> = server.events.iter().filter(|event| event.0 == "decision").collect();
        same("a decision", decisions[place].1, span.from);
        assert_eq!(decisions[place].2["headway.backend"], span.attributes["headway.backend"]);
        assert_eq!(decisions[place].2["headway.decision.number"], span.attributes["headway.decision.number"]);
    }
    assert!(wait.millis() >= 20.0 && of_second("decode").millis() >= 100.0, "{wait:?}");
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a few seconds")]
fn nanos_of(seconds: &Value) -> u64 {
    (seconds.as_f64().expect("seconds") * 1e9).round() as u64
}

/// The spans of one request, by name, and its log line.
async fn of_one(backend: &Scripted, request: String) -> (Vec<Span>, Value) {
    let collector = Collector::start().await;
    let (_folder, log) = log_file();
    let setup = Setup::default().backend("a", backend, "").more(&traced(&collector, "http/protobuf", &log));
    let headway = setup.start().await;
    headway.exchange(request).await;
    let lines = ended(headway, &log).await;
    (collector.spans(), lines[0].clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_not_streamed_has_a_body_and_no_tokens() {
    let backend = Scripted::start(json_answer("200 OK", COMPLETION)).await;
    let (spans, line) = of_one(&backend, post(CHAT, UNARY)).await;
    let names: Vec<_> = spans.iter().map(|span| &*span.name).collect();
    let expected = [SERVER, CLIENT, "upload", "headway", "connect", "send", "backend wait", "body"];
    assert_eq!(names, expected);
    let client = only(&spans, CLIENT);
    let events: Vec<_> = client.events.iter().map(|event| &*event.0).collect();
    assert_eq!(events, ["first_byte"]);
    assert!(!client.attributes.contains_key("gen_ai.request.stream"), "{client:?}");
    assert_eq!(client.attributes["gen_ai.usage.output_tokens"], 2);
    same("the end", only(&spans, "body").to - start_of(&line), nanos(&line, "e2e_ms"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_has_no_try_and_is_no_error_and_a_broken_stream_is_one() {
    let backend = Scripted::start(streamed()).await;
    let (spans, line) = of_one(&backend, post(CHAT, &STREAM.replace("\"m\"", "\"nope\""))).await;
    assert_eq!(line["status"], 404);
    let names: Vec<_> = spans.iter().map(|span| &*span.name).collect();
    assert_eq!(names, [SERVER, "upload", "headway"]);
    assert_eq!((&spans[0].error, &spans[0].attributes["http.response.status_code"]), (&None, &json!(404)));
    assert!(!spans[0].attributes.contains_key("gen_ai.request.model"), "a name that the client made up: {spans:?}");

    let backend = Scripted::start(vec![begun([ROLE, TOKEN].concat()), Step::Close]).await;
    let (spans, line) = of_one(&backend, post(CHAT, STREAM)).await;
    assert_eq!(line["outcome"], "truncated");
    for span in [only(&spans, SERVER), only(&spans, CLIENT)] {
        assert_eq!(span.error.as_deref(), Some("truncated"));
        assert_eq!(span.attributes["error.type"], "truncated");
    }

    let backend = Scripted::start(json_answer("422 Unprocessable", r#"{"error":{"code":422}}"#)).await;
    let (spans, _) = of_one(&backend, post(CHAT, STREAM)).await;
    assert_eq!(only(&spans, SERVER).error, None);
    assert_eq!(only(&spans, CLIENT).error.as_deref(), Some("backend_rejected"));
    assert_eq!(only(&spans, CLIENT).attributes["error.type"], "422");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_is_not_there_fails_at_connecting() {
    let backend = Scripted::start(streamed()).await;
    let collector = Collector::start().await;
    let (_folder, log) = log_file();
    let route = "retry: { attempts: 1 }";
    let more = traced(&collector, "http/protobuf", &log);
    let headway = Setup::default().backend("a", &backend, "").route(route).more(&more).start().await;
    drop(backend);
    headway.stream().await;
    ended(headway, &log).await;
    let spans = collector.spans();
    let names: Vec<_> = spans.iter().map(|span| &*span.name).collect();
    assert_eq!(names, [SERVER, CLIENT, "upload", "headway", "connect"]);
    assert_eq!(only(&spans, CLIENT).error.as_deref(), Some("connect_failed"));
    assert!(!only(&spans, CLIENT).attributes.contains_key("http.response.status_code"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_is_in_no_span() {
    const CANARY: &str = "canary-4711";
    let collector = Collector::start().await;
    let (_folder, log) = log_file();
    let token = TOKEN.replace("train", CANARY);
    let error = format!("{{\"error\":{{\"message\":\"{CANARY}\",\"type\":\"{CANARY}\",\"code\":500}}}}");
    let backend = Scripted::start(vec![begun([ROLE, &token, FINISH, DONE].concat()), send(LAST)]).await;
    let key = format!("api_key: {CANARY}-backend");
    let more = traced(&collector, "http/protobuf", &log)
        .replace("sample_ratio", &format!("headers: {{ x-tenant: {CANARY}-tenant }}, sample_ratio"));
    let headway = Setup::default().backend("a", &backend, &key).more(&more).start().await;
    let body = STREAM.replace("[]", &format!(r#"[{{"role":"user","content":"{CANARY}"}}]"#));
    let fields =
        format!("authorization: Bearer {CANARY}\r\nx-api-key: {CANARY}\r\nbaggage: k={CANARY}\r\ncookie: {CANARY}\r\n");
    let mut asked = 0;
    for script in [
        None,
        Some(json_answer("500 No", &error)),
        Some(json_answer("400 No", &error)),
        Some(json_answer("200 OK", &error)),
    ] {
        if let Some(script) = script {
            backend.next(script);
        }
        headway.exchange(crate::support::texts::post_with(CHAT, &fields, &body)).await;
        asked += 1;
    }
    for (path, body) in
        [("/v1/chat/completions?key=canary-4711", body.replace("\"m\"", "\"canary-4711\"")), ("/canary-4711", body)]
    {
        headway.exchange(crate::support::texts::post_with(path, &fields, &body)).await;
        asked += 1;
    }
    ended(headway, &log).await;
    let exports = collector.exports();
    let spans = collector.spans();
    assert_eq!(spans.iter().filter(|span| span.kind == SpanKind::Server).count(), asked);
    for export in &exports {
        assert!(!format!("{:?}", export.request).contains("canary"), "{:#?}", export.request);
        assert_eq!(export.headers["x-tenant"], format!("{CANARY}-tenant").as_str());
    }
}
