//! Prompts, completions and keys appear nowhere but on the two connections they belong to.

use crate::support::backend::{Script, Scripted, Step, send};
use crate::support::client::Client;
use crate::support::headway::{Headway, Setup};
use crate::support::texts::{self, CHAT, DONE, FINISH, LAST, ROLE, TOKEN, answer, begun, digest, json, key, post_with};

const PROMPT: &str = "canary-prompt-4711";
const COMPLETION: &str = "canary-completion-4712";
const CLIENT_KEY: &str = "canary-client-key-4713";
const WRONG_KEY: &str = "canary-wrong-key-4716";
const SPENT_KEY: &str = "canary-spent-key-4717";
const OTHER_KEY: &str = "canary-other-key-4718";
const BACKEND_KEY: &str = "canary-backend-key-4714";
const ADMIN_TOKEN: &str = "canary-admin-token-4715";

/// Answers of every kind, each with the completion in it.
fn scripts() -> Vec<Script> {
    let token = TOKEN.replace("train", COMPLETION);
    let error =
        format!("{{\"error\":{{\"message\":\"{COMPLETION} {PROMPT}\",\"type\":\"{COMPLETION}\",\"code\":500}}}}");
    vec![
        answer(&[ROLE, &token, FINISH, DONE].concat()),
        json("200 OK", &texts::COMPLETION.replace("Trains.", COMPLETION)),
        json("400 Bad Request", &error),
        json("429 Too Many Requests", &error),
        json("500 Internal Server Error", &error),
        json("200 OK", &error),
        answer(&format!("data: {error}\n\n")),
        answer(&[&*token, &format!("data: {error}\n\n")].concat()),
        vec![begun([ROLE, &token].concat()), Step::Reset],
        vec![begun([ROLE, &token[..60]].concat()), Step::Close],
        vec![begun(&token), send(LAST)],
        vec![send(format!("HTTP/1.1 {COMPLETION}\r\n\r\n")), Step::Close],
        vec![Step::Close],
    ]
}

#[tokio::test]
async fn a_canary_is_found_nowhere() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("access.log");
    let backend = Scripted::start(texts::streamed()).await;
    let setup = Setup::default().backend("a", &backend, &format!("api_key: {BACKEND_KEY}"));
    let text = setup.text().replace(
        "admin: { address: \"127.0.0.1:0\" }",
        &format!(
            "admin: {{ address: \"127.0.0.1:0\", token: {ADMIN_TOKEN} }}\n\
             telemetry: {{ access_log: {{ format: json, path: {} }} }}\n\
             cors: {{ origins: [\"https://a.test\"] }}\nkeys:\n{}{}{}",
            log.display(),
            key("team", CLIENT_KEY, "tokens_per_minute: 1M"),
            key("spent", SPENT_KEY, "requests_per_minute: 1"),
            key("other", OTHER_KEY, "routes: [never]"),
        ),
    );
    let never = "  - { name: never, match: { paths: [/never] }, backends: [a] }\n";
    let headway = Headway::start(&(text + never)).await;
    let fleet = headway.server.fleet();
    crate::support::until("a ready backend", || fleet.backends()[0].usable()).await;
    let mut shown = Vec::new();
    let fields = format!("authorization: Bearer {CLIENT_KEY}\r\nx-api-key: {CLIENT_KEY}\r\n");
    let bodies = [
        format!(r#"{{"model":"m","stream":true,"messages":[{{"role":"user","content":"{PROMPT}"}}]}}"#),
        format!(r#"{{"model":"nope","messages":[{{"role":"user","content":"{PROMPT}"}}]}}"#),
        format!(r#"{{"model":"m","stream":"{PROMPT}"}}"#),
        format!(r#"{{"model":"m","messages":["{PROMPT}"#),
    ];
    let mut exchanges = 0;
    for script in scripts() {
        backend.next(script);
        let reply = headway.exchange(post_with(CHAT, &fields, &bodies[0])).await;
        exchanges += 1;
        // What a backend itself says belongs to the client; what headway says in its place must not quote it.
        if reply.field("x-should-retry").is_some() {
            shown.push(("an error body", reply.text()));
        }
    }
    for body in &bodies[1..] {
        shown.push(("a refusal", headway.exchange(post_with(CHAT, &fields, body)).await.text()));
        exchanges += 1;
    }
    for text in turned_away(&headway, [&bodies[1], &bodies[0]]).await {
        shown.push(("a refusal of a caller", text));
        exchanges += 1;
    }
    assert!(shown.len() > 14, "{shown:?}");
    let records = headway.records(exchanges).await;
    for record in &records {
        shown.push(("a record", format!("{record:?}")));
    }
    for page in pages(headway.server.admin_address()).await {
        shown.push(("the admin listener", page));
    }
    shown.push(("the dashboard's events", first_event(headway.server.admin_address()).await));
    headway.server.shutdown(std::time::Duration::from_secs(5)).await;
    let lines = std::fs::read_to_string(&log).unwrap();
    assert_eq!(lines.lines().count(), exchanges);
    for line in lines.lines() {
        serde_json::from_str::<serde_json::Value>(line).expect("a JSON line");
        shown.push(("the access log", line.to_owned()));
    }
    let digests = [CLIENT_KEY, WRONG_KEY, SPENT_KEY, OTHER_KEY].map(digest);
    for (place, text) in shown {
        assert!(!text.contains("canary"), "{place}: {text}");
        assert!(digests.iter().all(|digest| !text.contains(digest)), "{place}: {text}");
    }
}

/// What callers hear whose key is unknown, spent, or for another route.
async fn turned_away(headway: &Headway, bodies: [&str; 2]) -> Vec<String> {
    let mut heard = Vec::new();
    for (key, statuses) in [(WRONG_KEY, [401, 401]), (SPENT_KEY, [404, 429]), (OTHER_KEY, [404, 403])] {
        let fields = format!("origin: https://a.test\r\nauthorization: Bearer {key}\r\n");
        for (status, body) in statuses.into_iter().zip(bodies) {
            let reply = headway.exchange(post_with(CHAT, &fields, body)).await;
            assert_eq!(reply.status, status, "{key}: {}", reply.text());
            // The model's name is the client's own, and shown back to it.
            heard.push(reply.head.clone() + &reply.text());
        }
    }
    heard
}

/// What the admin listener shows.
async fn pages(admin: std::net::SocketAddr) -> Vec<String> {
    let mut pages = Vec::new();
    for path in [
        "/metrics",
        "/api/v1/requests",
        "/api/v1/backends",
        "/api/v1/routes",
        "/api/v1/decisions",
        "/api/v1/config",
        "/api/v1/version",
        "/readyz?verbose",
        "/",
    ] {
        let mut client = Client::connect(admin).await;
        client
            .send(format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {ADMIN_TOKEN}\r\n\r\n"))
            .await;
        let reply = client.reply().await;
        assert_eq!(reply.status, 200, "{path}: {}", reply.text());
        pages.push(reply.text());
    }
    pages
}

/// The first of the dashboard's events, which holds everything.
async fn first_event(admin: std::net::SocketAddr) -> String {
    let mut client = Client::connect(admin).await;
    client
        .send(format!("GET /api/v1/events HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {ADMIN_TOKEN}\r\n\r\n"))
        .await;
    let whole = async {
        loop {
            let text = String::from_utf8_lossy(client.arrived()).into_owned();
            if text.contains("event: whole") && text.contains("\n\n\r\n") {
                return text;
            }
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(crate::support::PATIENCE, whole).await.expect("an event in time")
}
