//! Which header fields cross headway, on real connections.

use crate::support::backend::{Scripted, send};
use crate::support::client::End;
use crate::support::headway::{Headway, Setup};
use crate::support::texts::{CHAT, COMPLETION, STREAM, UNARY, json, post_with, streamed, with_fields};

#[tokio::test]
async fn a_client_cannot_pass_its_credentials_or_hop_by_hop_fields() {
    let backend = Scripted::start(json("200 OK", COMPLETION)).await;
    let headway = Setup::default().backend("a", &backend, "api_key: backend-key").start().await;
    let fields = "authorization: Bearer client-key\r\nx-api-key: client-key\r\ncookie: a=b\r\n\
                  connection: keep-alive, x-session-id, authorization\r\nkeep-alive: timeout=5\r\nte: trailers\r\n\
                  proxy-authorization: Basic eA==\r\naccept-encoding: gzip\r\nx-real-ip: 6.6.6.6\r\n\
                  forwarded: for=6.6.6.6\r\nx-forwarded-host: evil\r\naccept: text/event-stream\r\n";
    assert_eq!(headway.exchange(post_with(CHAT, fields, UNARY)).await.status, 200);
    let seen = backend.only();
    assert_eq!(seen.field("authorization"), "Bearer backend-key");
    assert_eq!(seen.field("host"), backend.address.to_string());
    assert_eq!(
        (seen.field("accept-encoding").as_str(), seen.field("accept").as_str()),
        ("identity", "text/event-stream")
    );
    for gone in ["x-api-key", "cookie", "keep-alive", "te", "proxy-authorization", "connection", "expect", "upgrade"] {
        assert!(seen.fields(gone).is_empty(), "{gone} in {}", seen.head);
    }
    assert!(seen.head.starts_with(&format!("POST {CHAT} HTTP/1.1\r\n")));
    assert!(!seen.head.contains("6.6.6.6") && !seen.head.contains("evil"), "{}", seen.head);
}

#[tokio::test]
async fn a_backend_may_be_given_the_clients_credential() {
    let backend = Scripted::start(json("200 OK", COMPLETION)).await;
    let headway = Setup::default().backend("a", &backend, "forward_authorization: true").start().await;
    headway.exchange(post_with(CHAT, "authorization: Bearer client-key\r\n", UNARY)).await;
    assert_eq!(backend.only().field("authorization"), "Bearer client-key");
}

/// What a backend is told of who asked, by a client that sends these fields, on both paths.
async fn check_forwarded(trusted: &str, sent: &str, expected: [&str; 5]) {
    let backend = Scripted::start(json("200 OK", COMPLETION)).await;
    let setup = Setup::default().backend("a", &backend, "").more(&format!("trusted_proxies: [{trusted}]"));
    let headway = setup.route(&format!("match: {{ paths: [{CHAT}, /v1/files] }}")).start().await;
    for path in [CHAT, "/v1/files"] {
        assert_eq!(headway.exchange(post_with(path, sent, UNARY)).await.status, 200);
        let seen = backend.seen().pop().expect("a request");
        let names = ["x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-real-ip", "forwarded"];
        assert_eq!(names.map(|name| seen.field(name)), expected, "{path}: {sent}");
    }
}

#[tokio::test]
async fn who_asked_is_said_anew_and_hops_are_believed_from_the_right() {
    let claims = "x-forwarded-for: 6.6.6.6\r\nx-forwarded-for: 7.7.7.7\r\nx-forwarded-proto: https\r\n\
                  x-forwarded-host: api.example\r\nx-real-ip: 6.6.6.6\r\n";
    let own = "for=127.0.0.1;proto=http;host=\"headway\"";
    let alone = ["127.0.0.1", "http", "headway", "127.0.0.1", own];
    check_forwarded("", claims, alone).await;
    check_forwarded("10.0.0.0/8", claims, alone).await;
    let through = "for=7.7.7.7;proto=https;host=\"api.example\", for=127.0.0.1";
    check_forwarded("127.0.0.0/8", claims, ["7.7.7.7, 127.0.0.1", "https", "api.example", "7.7.7.7", through]).await;
    let through = "for=6.6.6.6;proto=https;host=\"api.example\", for=7.7.7.7, for=127.0.0.1";
    let list = "6.6.6.6, 7.7.7.7, 127.0.0.1";
    check_forwarded("127.0.0.0/8, 7.7.7.7", claims, [list, "https", "api.example", "6.6.6.6", through]).await;
    let forwarded = "forwarded: for=6.6.6.6, for=\"[2001:db8::1]:4711\";proto=https\r\n";
    let through = "for=\"[2001:db8::1]\";proto=https;host=\"headway\", for=127.0.0.1";
    let expected = ["2001:db8::1, 127.0.0.1", "https", "headway", "2001:db8::1", through];
    check_forwarded("127.0.0.0/8", forwarded, expected).await;
    // One of the two was passed on by a proxy that does not know it.
    check_forwarded("127.0.0.0/8", &format!("x-forwarded-for: 7.7.7.7\r\n{forwarded}"), alone).await;
}

#[tokio::test]
async fn a_trace_goes_on_and_a_broken_one_is_dropped() {
    let backend = Scripted::start(streamed()).await;
    let headway = Headway::before(&backend).await;
    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    headway.exchange(post_with(CHAT, &format!("traceparent: {parent}\r\ntracestate: a=b\r\n"), STREAM)).await;
    headway.exchange(post_with(CHAT, "traceparent: 00-zz-1-1\r\ntracestate: a=b\r\n", STREAM)).await;
    let seen = backend.seen();
    assert_eq!((seen[0].field("traceparent").as_str(), seen[0].field("tracestate").as_str()), (parent, "a=b"));
    assert!(seen[1].fields("traceparent").is_empty() && seen[1].fields("tracestate").is_empty(), "{}", seen[1].head);
    let records = headway.records(2).await;
    assert_eq!(records[0].trace_id.map(u128::from_be_bytes), Some(0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736));
    assert_eq!(records[1].trace_id, None);
}

#[tokio::test]
async fn a_request_id_is_echoed_and_passed_on() {
    let backend = Scripted::start(streamed()).await;
    let headway = Headway::before(&backend).await;
    for (given, kept) in [("my-id.1", true), ("a b", false), ("", false), (&*"x".repeat(129), false)] {
        let reply = headway.exchange(post_with(CHAT, &format!("x-request-id: {given}\r\n"), STREAM)).await;
        let id = reply.field("x-request-id").expect("an id");
        assert_eq!(id == given, kept, "{given} became {id}");
        assert_eq!(backend.seen().last().unwrap().field("x-request-id"), id);
        let refused = headway.exchange(post_with("/v1/nothing", &format!("x-request-id: {given}\r\n"), "")).await;
        assert_eq!(refused.field("x-request-id").as_deref() == Some(given), kept);
    }
    let ids: Vec<_> = headway.records(8).await.iter().map(|record| record.request_id.to_string()).collect();
    assert_eq!(ids.iter().filter(|id| *id == "my-id.1").count(), 2);
}

#[tokio::test]
async fn what_a_backend_says_of_its_connection_stays_there() {
    let fields = "connection: keep-alive, x-hop\r\nx-hop: 1\r\nkeep-alive: timeout=5\r\nserver: uvicorn\r\n\
                  x-request-id: theirs\r\nset-cookie: a=1\r\nset-cookie: b=2\r\n";
    let backend = Scripted::start(with_fields("200 OK", fields, COMPLETION)).await;
    let reply = Headway::before(&backend).await.exchange(post_with(CHAT, "x-request-id: mine\r\n", UNARY)).await;
    let all = |name| crate::support::client::fields(&reply.head, name);
    assert_eq!((all("x-request-id"), all("server")), (vec!["mine".to_owned()], vec!["uvicorn".to_owned()]));
    assert_eq!(all("set-cookie"), ["a=1", "b=2"]);
    assert!(all("x-hop").is_empty() && all("keep-alive").is_empty(), "{}", reply.head);
}

#[tokio::test]
async fn a_stream_says_how_it_is_to_be_handled() {
    let body = crate::support::texts::events();
    let head = format!("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: {}\r\n\r\n", body.len());
    let backend = Scripted::start(vec![send(head + &body)]).await;
    let reply = Headway::before(&backend).await.stream().await;
    assert_eq!((reply.text(), reply.end), (body, End::Clean));
    assert_eq!(reply.field("x-accel-buffering").as_deref(), Some("no"));
    assert_eq!(reply.field("cache-control").as_deref(), Some("no-cache"));
    assert_eq!(reply.field("transfer-encoding").as_deref(), Some("chunked"));
}

#[tokio::test]
async fn an_old_client_gets_no_chunks() {
    let backend = Scripted::start(streamed()).await;
    let headway = Headway::before(&backend).await;
    let length = STREAM.len();
    let reply = headway.exchange(format!("POST {CHAT} HTTP/1.0\r\ncontent-length: {length}\r\n\r\n{STREAM}")).await;
    assert_eq!((reply.status, reply.text()), (200, crate::support::texts::events()), "{}", reply.head);
    assert!(reply.field("transfer-encoding").is_none(), "{}", reply.head);
}

#[tokio::test]
async fn where_the_route_says_so_the_decision_is_shown() {
    let backend = Scripted::start(streamed()).await;
    let headway = Setup::default().backend("a", &backend, "").route("expose: true").start().await;
    let reply = headway.stream().await;
    assert_eq!(reply.field("x-headway-backend").as_deref(), Some("a"));
    assert!(reply.field("x-headway-decision").is_some() && reply.field("server-timing").is_some(), "{}", reply.head);
    let reply = Headway::before(&backend).await.stream().await;
    assert!(!reply.head.contains("x-headway") && reply.field("server-timing").is_none(), "{}", reply.head);
}
