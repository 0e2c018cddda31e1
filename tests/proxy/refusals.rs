//! Requests that headway refuses itself: the status, the body, the hints, and what becomes of the connection.

use headway::measure::outcome::Outcome;
use serde_json::Value;

use crate::support::backend::Scripted;
use crate::support::client::{End, Reply};
use crate::support::headway::{Headway, Setup};
use crate::support::texts::{self, CHAT, COMPLETION, STREAM, UNARY, json, post, post_with, streamed};

/// A headway with small bounds before one backend.
async fn small() -> (Scripted, Headway) {
    let backend = Scripted::start(json("200 OK", COMPLETION)).await;
    let limits = "limits: { body: 1MiB, header: 8KiB, headers: 20 }";
    let headway = Setup::default().backend("a", &backend, "").more(limits).start().await;
    (backend, headway)
}

#[track_caller]
fn refused(reply: &Reply, status: u16, code: &str) {
    assert_eq!((reply.status, &*reply.error_code()), (status, code));
    if (400..500).contains(&status) {
        assert_eq!(reply.field("x-should-retry").as_deref(), Some("false"), "{}", reply.head);
    }
}

/// Refused on a fresh connection, never shown to the backend, and recorded as refused.
async fn check(request: impl AsRef<[u8]>, status: u16, code: &str) -> Value {
    let (backend, headway) = small().await;
    let reply = headway.exchange(request).await;
    refused(&reply, status, code);
    assert_eq!(backend.count(), 0);
    let record = headway.record().await;
    assert_eq!((record.status, record.outcome, record.attempts.len()), (status, Outcome::RejectedRequest, 0));
    reply.json()["error"].clone()
}

#[tokio::test]
async fn bodies_that_are_no_request() {
    for body in
        ["", "not json", "{\"model\":\"m\"", "{\"model\":\"m\"} trailing", "[1]", "{\"model\":\"m\",\"model\":\"x\"}"]
    {
        check(post(CHAT, body), 400, "invalid_body").await;
    }
    assert_eq!(check(post(CHAT, r#"{"model":"m","stream":"yes"}"#), 400, "invalid_body").await["param"], "stream");
    check(post(CHAT, &"[".repeat(100_000)), 400, "invalid_body").await;
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        let deep = [open.repeat(100_000), "1".to_owned(), close.repeat(100_000)].concat();
        check(post(CHAT, &format!(r#"{{"model":"m","messages":{deep}}}"#)), 400, "invalid_body").await;
    }
    // A key that is written differently is the same key.
    for second in [r#""model":"x""#, r#""mod\u0065l":"x""#, r#""\u006dodel":"m""#] {
        check(post(CHAT, &format!(r#"{{"model":"m",{second},"messages":[]}}"#)), 400, "invalid_body").await;
    }
}

#[tokio::test]
async fn models_that_are_not_served() {
    let error = check(post(CHAT, r#"{"model":"gpt-x","messages":[]}"#), 404, "model_not_found").await;
    assert_eq!((&error["type"], &error["param"]), (&"not_found_error".into(), &"model".into()));
    assert!(error["message"].as_str().unwrap().contains("gpt-x"));
    let error = check(post(CHAT, r#"{"messages":[]}"#), 400, "model_missing").await;
    assert_eq!(error["param"], "model");
    let long = format!(r#"{{"model":"{}"}}"#, "x".repeat(500_000));
    let error = check(post(CHAT, &long), 404, "model_not_found").await;
    assert!(error["message"].as_str().unwrap().len() < 300);
    let backend = Scripted::start(json("200 OK", COMPLETION)).await;
    let headway = Headway::before(&backend).await;
    let reply = headway.post(CHAT, &format!(r#"{{"model":"{}"}}"#, "m".repeat(1 << 20))).await;
    assert_eq!((reply.status, &*reply.error_code(), backend.count()), (404, "model_not_found", 0));
    assert!(reply.body.len() < 400 && headway.record().await.model.is_none());
}

#[tokio::test]
async fn heads_that_are_too_large() {
    check(post_with(CHAT, &"x-many: 1\r\n".repeat(30), UNARY), 431, "headers_too_large").await;
    check(post_with(CHAT, &format!("x-large: {}\r\n", "a".repeat(9_000)), UNARY), 431, "headers_too_large").await;
}

#[tokio::test]
async fn bodies_that_are_too_large() {
    let long = format!(r#"{{"model":"m","messages":[{{"role":"user","content":"{}"}}]}}"#, "x".repeat(1 << 20));
    check(post(CHAT, &long), 413, "body_too_large").await;
    let head = format!("POST {CHAT} HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n");
    let chunks: Vec<u8> = long.as_bytes().chunks(50_000).flat_map(texts::chunk).collect();
    check([head.as_bytes(), &chunks, texts::LAST.as_bytes()].concat(), 413, "body_too_large").await;
    // One that says so beforehand and waits is told before it sends anything.
    let (_backend, headway) = small().await;
    let mut client = headway.connect().await;
    client
        .send(format!("POST {CHAT} HTTP/1.1\r\nhost: h\r\nexpect: 100-continue\r\ncontent-length: 2000000\r\n\r\n"))
        .await;
    let shown = client.arrives(|text| text.contains("\r\n\r\n")).await;
    assert!(shown.starts_with("HTTP/1.1 413 "), "{shown}");
}

#[tokio::test]
async fn a_client_that_is_still_sending_hears_why_it_should_not() {
    let (backend, headway) = small().await;
    let long = "x".repeat(16 << 20);
    let chunked = format!("POST {CHAT} HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n").into_bytes();
    let chunked = [chunked, texts::chunk(&long), texts::LAST.into()].concat();
    for (request, status) in
        [(post(CHAT, &long).into_bytes(), 413), (chunked, 413), (post("/nothing", &long).into_bytes(), 404)]
    {
        let mut client = headway.connect().await;
        client.send(request).await;
        assert_eq!(client.reply().await.status, status);
        assert!(client.is_closed().await);
    }
    assert_eq!(backend.count(), 0);
}

#[tokio::test]
async fn what_a_client_sends_too_early_costs_it_no_answer() {
    let (backend, headway) = small().await;
    for early in ["\r\n".to_owned(), post(CHAT, UNARY)] {
        let mut client = headway.connect().await;
        client.send(post(CHAT, UNARY) + &early).await;
        let reply = client.reply().await;
        assert_eq!((reply.status, reply.end, reply.text().as_str()), (200, End::Clean, COMPLETION));
        assert!(client.is_closed().await);
    }
    assert_eq!(backend.count(), 2, "the early request is dropped");
}

#[tokio::test]
async fn methods_and_paths() {
    for method in ["GET", "PUT", "DELETE", "PATCH"] {
        check(format!("{method} {CHAT} HTTP/1.1\r\nhost: h\r\n\r\n"), 405, "method_not_allowed").await;
    }
    check("TRACE / HTTP/1.1\r\nhost: h\r\n\r\n", 405, "method_not_allowed").await;
    check("GET /v1/nothing HTTP/1.1\r\nhost: h\r\n\r\n", 404, "not_found").await;
    check("GET /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n", 404, "not_found").await;
    check("GET //v1/models/../api/v1/config HTTP/1.1\r\nhost: h\r\n\r\n", 404, "not_found").await;
    check(post("/v1/chat/completions/", UNARY), 404, "not_found").await;
    check("OPTIONS * HTTP/1.1\r\nhost: h\r\n\r\n", 404, "not_found").await;
}

#[tokio::test]
async fn allowed_methods_are_named() {
    let (_backend, headway) = small().await;
    let reply = headway.exchange(format!("GET {CHAT} HTTP/1.1\r\nhost: h\r\n\r\n")).await;
    assert_eq!(reply.field("allow").as_deref(), Some("POST"));
}

#[tokio::test]
async fn a_refusal_of_head_has_no_body() {
    let (_backend, headway) = small().await;
    let mut client = headway.connect().await;
    for _ in 0..2 {
        client.send("HEAD /v1/nothing HTTP/1.1\r\nhost: h\r\n\r\n").await;
        assert_eq!(client.reply_to("HEAD").await.status, 404);
    }
    client.send("GET /v1/nothing HTTP/1.1\r\nhost: h\r\n\r\n").await;
    refused(&client.reply().await, 404, "not_found");
}

#[tokio::test]
async fn one_host() {
    let head = |fields: &str| format!("POST {CHAT} HTTP/1.1\r\n{fields}content-length: {}\r\n\r\n{UNARY}", UNARY.len());
    check(head(""), 400, "bad_host").await;
    let (backend, headway) = small().await;
    let reply = headway.exchange(head("host: a\r\nhost: b\r\n")).await;
    assert_eq!((reply.status, backend.count()), (400, 0));
}

#[tokio::test]
async fn framing_that_could_be_read_twice() {
    check(post_with(CHAT, "content-encoding: gzip\r\n", UNARY), 415, "unsupported_content_encoding").await;
    check(post_with(CHAT, "content_length: 3\r\n", UNARY), 400, "bad_header_name").await;
    check(post_with(CHAT, "expect: a-miracle\r\n", UNARY), 417, "bad_expectation").await;
    let (backend, headway) = small().await;
    for fields in ["content-length: 3\r\n", "transfer-encoding: xchunked\r\n", "transfer-encoding: gzip, chunked\r\n"] {
        let reply = headway.exchange(post_with(CHAT, fields, UNARY)).await;
        assert!((400..500).contains(&reply.status), "{fields} gave {}", reply.head);
    }
    assert_eq!(backend.count(), 0);
    assert_eq!(headway.exchange(post_with(CHAT, "content-encoding: identity\r\n", UNARY)).await.status, 200);
}

#[tokio::test]
async fn identical_lengths_are_one() {
    let (backend, headway) = small().await;
    let twice = format!("content-length: {}\r\n", UNARY.len());
    assert_eq!(headway.exchange(post_with(CHAT, &twice, UNARY)).await.status, 200);
    assert_eq!(backend.only().field("content-length"), UNARY.len().to_string());
}

#[tokio::test]
async fn a_chunked_body_arrives_with_a_length() {
    let (backend, headway) = small().await;
    let head = format!("POST {CHAT} HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n");
    let chunks: Vec<u8> = UNARY.as_bytes().chunks(5).flat_map(texts::chunk).collect();
    let reply = headway.exchange([head.as_bytes(), &chunks, texts::LAST.as_bytes()].concat()).await;
    assert_eq!((reply.status, reply.end), (200, End::Clean));
    let seen = backend.only();
    assert_eq!((seen.field("content-length"), seen.body.as_slice()), (UNARY.len().to_string(), UNARY.as_bytes()));
    assert!(seen.fields("transfer-encoding").is_empty());
}

#[tokio::test]
async fn a_client_that_waits_for_leave_to_send_gets_it() {
    let (backend, headway) = small().await;
    let mut client = headway.connect().await;
    let request = post_with(CHAT, "expect: 100-continue\r\n", UNARY);
    let (head, body) = request.split_at(request.len() - UNARY.len());
    client.send(head).await;
    let shown = client.arrives(|text| text.contains("\r\n\r\n")).await;
    assert_eq!(shown.lines().next(), Some("HTTP/1.1 100 Continue"));
    client.send(body).await;
    let reply = client.reply().await;
    assert_eq!((reply.status, reply.end), (200, End::Clean));
    assert!(backend.only().fields("expect").is_empty());
}

#[tokio::test]
async fn a_connection_survives_refusals_whose_body_was_read() {
    let (backend, headway) = small().await;
    let mut client = headway.connect().await;
    for (request, status) in [
        (post(CHAT, "nonsense"), 400),
        (post(CHAT, r#"{"model":"x"}"#), 404),
        ("GET /nothing HTTP/1.1\r\nhost: h\r\n\r\n".to_owned(), 404),
        (post(CHAT, UNARY), 200),
        (format!("GET {CHAT} HTTP/1.1\r\nhost: h\r\n\r\n"), 405),
        (post(CHAT, UNARY), 200),
    ] {
        client.send(request).await;
        let reply = client.reply().await;
        assert_eq!((reply.status, reply.end), (status, End::Clean));
    }
    assert_eq!(backend.count(), 2);
    let ids: std::collections::HashSet<_> = headway.records(6).await.iter().map(|one| one.request_id.clone()).collect();
    assert_eq!(ids.len(), 6, "every request has an id of its own");
}

#[tokio::test]
async fn a_body_that_was_not_read_is_never_the_next_request() {
    let (backend, headway) = small().await;
    let mut client = headway.connect().await;
    let inner = post(CHAT, UNARY);
    client.send(post("/v1/nothing", &inner)).await;
    refused(&client.reply().await, 404, "not_found");
    assert!(client.is_closed().await);
    let mut client = headway.connect().await;
    client.send(post("/v1/models", &inner).replacen("POST", "GET", 1)).await;
    let reply = client.reply().await;
    assert_eq!((reply.status, reply.end), (200, crate::support::client::End::Clean));
    assert!(client.is_closed().await);
    assert_eq!(backend.count(), 0);
}

#[tokio::test]
async fn the_list_of_models_is_the_union() {
    let (one, two) = (Scripted::start(streamed()).await, Scripted::start(streamed()).await);
    let headway = Setup::default()
        .backend_at("one", one.address, "models: [m, n], rename: { alias: m }")
        .backend_at("two", two.address, "models: [n, o]")
        .start()
        .await;
    let reply = headway.exchange("GET /v1/models HTTP/1.1\r\nhost: h\r\n\r\n").await;
    let json = reply.json();
    let mut ids: Vec<_> = json["data"].as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap()).collect();
    ids.sort_unstable();
    assert_eq!((reply.status, ids, &json["object"]), (200, vec!["alias", "m", "n", "o"], &"list".into()));
    let mut client = headway.connect().await;
    client.send("HEAD /v1/models HTTP/1.1\r\nhost: h\r\n\r\n").await;
    assert_eq!(client.reply_to("HEAD").await.status, 200);
    client.send("GET /v1/models HTTP/1.1\r\nhost: h\r\n\r\n").await;
    assert_eq!(client.reply().await.json(), json);
}

#[tokio::test]
async fn a_fleet_that_is_down_or_full_says_when_to_come_back() {
    let backend = Scripted::start(streamed()).await;
    let headway = Setup::default().backend("a", &backend, "max_in_flight: 1").start().await;
    backend.next([vec![crate::support::backend::Step::Pause], streamed()].concat());
    let mut first = headway.connect().await;
    first.send(post(CHAT, STREAM)).await;
    backend.reached(1).await;
    let reply = headway.stream().await;
    assert_eq!((reply.status, &*reply.error_code()), (429, "overloaded"));
    assert_eq!((reply.field("x-should-retry").as_deref(), reply.field("retry-after").is_some()), (Some("true"), true));
    backend.resume();
    assert_eq!(first.reply().await.end, End::Clean);
    headway.server.fleet().backends()[0].drain();
    let reply = headway.stream().await;
    assert_eq!((reply.status, &*reply.error_code()), (503, "no_healthy_backend"));
    assert!(reply.field("retry-after").is_some());
    let outcomes: Vec<_> = headway.records(3).await.iter().map(|one| one.outcome).collect();
    assert_eq!(outcomes, [Outcome::Shed, Outcome::Complete, Outcome::NoBackend]);
}

#[tokio::test]
async fn requests_no_backend_could_hold_are_told_why() {
    let backend = Scripted::start(json("200 OK", COMPLETION)).await;
    let headway = Setup::default().backend("a", &backend, "context_length: 100, features: [vision]").start().await;
    let reply = headway.post(CHAT, r#"{"model":"m","max_tokens":101,"messages":[]}"#).await;
    assert_eq!((reply.status, &*reply.error_code()), (400, "context_length_exceeded"));
    let reply = headway.post(CHAT, r#"{"model":"m","tools":[{"type":"function"}],"messages":[]}"#).await;
    assert_eq!((reply.status, &*reply.error_code()), (400, "unsupported_feature"));
    assert_eq!(backend.count(), 0);
}
