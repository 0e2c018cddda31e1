//! Web pages of other origins: which may call, and what they may read.

use headway::measure::outcome::Outcome;

use crate::support::backend::Scripted;
use crate::support::client::{Reply, fields};
use crate::support::headway::{Headway, Setup};
use crate::support::texts::{CHAT, COMPLETION, UNARY, json, post_with, with_fields};

const PAGE: &str = "https://app.example.com";
const CORS: &str = "cors: { origins: [\"https://app.example.com\"] }";
/// SHA-256 of `k`.
const KEY: &str = "keys: [{ name: one, sha256: 8254c329a92850f6d539dd376f4816ee2764517da5e0235514af433164480d7a }]";

async fn start(backend: &Scripted, more: &str) -> Headway {
    Setup::default().backend("a", backend, "").more(more).start().await
}

fn preflight(path: &str, origin: &str) -> String {
    format!(
        "OPTIONS {path} HTTP/1.1\r\nhost: h\r\norigin: {origin}\r\naccess-control-request-method: POST\r\n\
         access-control-request-headers: authorization,content-type,x-stainless-os\r\n\r\n"
    )
}

fn allowed(reply: &Reply) -> Option<String> {
    reply.field("access-control-allow-origin")
}

#[tokio::test]
async fn a_browsers_question_is_answered_without_a_key_and_no_backend_hears_of_it() {
    let backend = Scripted::start(json("200 OK", COMPLETION)).await;
    let headway = start(&backend, &format!("{CORS}\n{KEY}")).await;
    let mut client = headway.connect().await;
    for path in [CHAT, "/v1/models", "/nothing"] {
        client.send(preflight(path, PAGE)).await;
        let reply = client.reply().await;
        assert_eq!((reply.status, reply.body.len()), (204, 0), "{path}");
        assert_eq!(allowed(&reply).as_deref(), Some(PAGE));
        assert_eq!(reply.field("access-control-allow-methods").as_deref(), Some("GET, POST, DELETE"));
        let fields = reply.field("access-control-allow-headers");
        assert_eq!(fields.as_deref(), Some("authorization,content-type,x-stainless-os"));
        assert!(reply.field("access-control-max-age").is_some() && reply.field("x-request-id").is_some());
        assert!(reply.field("access-control-allow-credentials").is_none());
    }
    client.send(preflight(CHAT, "https://evil.test")).await;
    let reply = client.reply().await;
    assert_eq!((reply.status, allowed(&reply)), (204, None));
    assert!(reply.field("access-control-allow-methods").is_none());
    assert_eq!(fields(&reply.head, "vary"), ["origin"]);
    let records = headway.records(4).await;
    assert!(records.iter().all(|one| (one.outcome, one.status) == (Outcome::Complete, 204)), "{records:?}");
    assert_eq!(backend.count(), 0);
}

#[tokio::test]
async fn answers_of_every_kind_can_be_read_by_pages_that_are_named_and_by_no_others() {
    let own = "access-control-allow-origin: *\r\naccess-control-allow-credentials: true\r\nvary: accept\r\n";
    let backend = Scripted::start(with_fields("200 OK", own, COMPLETION)).await;
    let headway = start(&backend, &format!("{CORS}\n{KEY}")).await;
    let from = |origin: &str, key: &str| format!("origin: {origin}\r\nauthorization: Bearer {key}\r\n");
    let get = |path: &str, fields: &str| format!("GET {path} HTTP/1.1\r\nhost: h\r\n{fields}\r\n");
    for (key, request, status) in [
        ("k", CHAT, 200),
        ("wrong", CHAT, 401),
        ("k", "/v1/models", 200),
        ("k", "/nothing", 404),
        ("k", "/v1/embeddings", 405),
    ] {
        for (origin, readable) in [(PAGE, true), ("https://evil.test", false)] {
            let fields_sent = from(origin, key);
            let text = if request == CHAT { post_with(CHAT, &fields_sent, UNARY) } else { get(request, &fields_sent) };
            let reply = headway.exchange(text).await;
            assert_eq!(reply.status, status, "{request}: {}", reply.head);
            assert_eq!(allowed(&reply), readable.then(|| PAGE.to_owned()), "{request}: {}", reply.head);
            let exposed = reply.field("access-control-expose-headers").unwrap_or_default();
            assert_eq!(exposed.contains("x-request-id") && exposed.contains("retry-after"), readable);
            assert!(fields(&reply.head, "vary").contains(&"origin".to_owned()));
            assert!(reply.field("access-control-allow-credentials").is_none());
        }
    }
}

#[tokio::test]
async fn a_browsers_question_is_held_to_what_every_head_is_held_to() {
    let backend = Scripted::start(json("200 OK", COMPLETION)).await;
    let headway = start(&backend, &format!("{CORS}\n{KEY}")).await;
    let good = preflight(CHAT, PAGE);
    let with = |more: &str| good.replacen("\r\n\r\n", &format!("\r\n{more}\r\n\r\n"), 1);
    for (request, status, code) in [
        (good.replace("host: h\r\n", ""), 400, "bad_host"),
        (with(&["x-many: 1"; 120].join("\r\n")), 431, "headers_too_large"),
        (with("content-length: 0\r\ntransfer-encoding: chunked") + "0\r\n\r\n", 400, "malformed_body"),
        (with("content_length: 7"), 400, "bad_header_name"),
    ] {
        let reply = headway.exchange(&request).await;
        assert_eq!((reply.status, &*reply.error_code()), (status, code), "{request}");
        assert_eq!(allowed(&reply).as_deref(), Some(PAGE), "the page may read why");
    }
    assert_eq!(headway.exchange(&good).await.status, 204);
}

#[tokio::test]
async fn without_cors_pages_are_told_nothing_and_options_is_no_method() {
    let backend = Scripted::start(json("200 OK", COMPLETION)).await;
    let headway = start(&backend, "").await;
    let reply = headway.exchange(preflight(CHAT, PAGE)).await;
    assert_eq!((reply.status, allowed(&reply)), (405, None));
    let reply = headway.exchange(post_with(CHAT, &format!("origin: {PAGE}\r\n"), UNARY)).await;
    assert_eq!((reply.status, allowed(&reply), reply.field("vary")), (200, None, None));
}
