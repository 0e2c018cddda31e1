//! The dashboard from the outside: its files, its events and who may see them, and backends drained by hand.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]

mod support;

use std::time::Duration;

use headway::config;
use serde_json::Value;
use support::backend::{Scripted, Step, send};
use support::client::{Client, End, Reply, fields};
use support::headway::{Headway, Setup};
use support::texts::{CHAT, DONE, FINISH, LAST, STREAM, TOKEN, USAGE, begun, chunk, post, streamed};

const FILES: [&str; 13] = [
    "/",
    "/dashboard/style.css",
    "/dashboard/icon.svg",
    "/dashboard/app.js",
    "/dashboard/stream.js",
    "/dashboard/dom.js",
    "/dashboard/format.js",
    "/dashboard/history.js",
    "/dashboard/charts.js",
    "/dashboard/routes.js",
    "/dashboard/split.js",
    "/dashboard/backends.js",
    "/dashboard/decisions.js",
];

async fn ask(headway: &Headway, request: &str, more: &str) -> Reply {
    let mut client = Client::connect(headway.server.admin_address()).await;
    client.send(format!("{request} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{more}\r\n")).await;
    client.reply_to(request.split(' ').next().unwrap()).await
}

/// One who looks at the events.
struct Viewer {
    client: Client,
    read: usize,
}

impl Viewer {
    async fn open(headway: &Headway) -> Self {
        let mut client = Client::connect(headway.server.admin_address()).await;
        client.send("GET /api/v1/events HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
        Self { client, read: 0 }
    }

    /// Everything that came so far, the framing of chunks among it: an event is one chunk.
    fn text(&mut self) -> String {
        String::from_utf8_lossy(self.client.arrived()).into_owned()
    }

    async fn head(&mut self) -> String {
        let waiting = async {
            loop {
                if let Some((head, _)) = self.text().split_once("\r\n\r\n") {
                    return head.to_lowercase();
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(support::PATIENCE, waiting).await.expect("a head in time")
    }

    /// The next event: its name and data.
    async fn next(&mut self) -> (String, Value) {
        let number = self.read;
        self.read += 1;
        let waiting = async {
            loop {
                let text = self.text();
                let mut events = text.split("event: ").skip(1).filter(|event| event.contains("\n\n"));
                if let Some(event) = events.nth(number) {
                    let (name, rest) = event.split_once("\ndata: ").expect("data");
                    let data = rest.split_once("\n\n").expect("an end").0;
                    return (name.to_owned(), serde_json::from_str(data).expect("JSON"));
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(support::PATIENCE, waiting).await.expect("an event in time")
    }
}

#[tokio::test]
async fn the_page_is_open_strict_and_kept_by_browsers() {
    let backend = Scripted::start(streamed()).await;
    let token = "admin: { address: \"127.0.0.1:0\", token: canary-admin-token }\n";
    let text =
        Setup::default().backend("a", &backend, "").text().replace("admin: { address: \"127.0.0.1:0\" }\n", token);
    let headway = Headway::start(&text).await;
    for path in FILES {
        let file = ask(&headway, &format!("GET {path}"), "").await;
        assert_eq!((file.status, file.end), (200, End::Clean), "{path}");
        let policy = file.field("content-security-policy").expect("a policy");
        for part in [
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "frame-ancestors 'none'",
            "trusted-types 'none'",
        ] {
            assert!(policy.contains(part) && !policy.contains("unsafe"), "{path}: {policy}");
        }
        assert_eq!(file.field("x-content-type-options").as_deref(), Some("nosniff"));
        assert!(!file.text().contains("canary"), "{path}");
        let tag = file.field("etag").expect("a tag");
        let again = ask(&headway, &format!("GET {path}"), &format!("if-none-match: {tag}\r\n")).await;
        assert_eq!((again.status, again.body.len()), (304, 0), "{path}");
        assert_eq!(ask(&headway, &format!("GET {path}"), "if-none-match: \"other\"\r\n").await.status, 200);
    }
    for (path, more, status) in [
        ("/api/v1/events", "", 401),
        ("/api/v1/events", "authorization: Bearer wrong\r\n", 401),
        ("/api", "", 401),
        ("/dashboard/", "", 404),
        ("/dashboard/../app.js", "", 404),
    ] {
        assert_eq!(ask(&headway, &format!("GET {path}"), more).await.status, status, "{path}");
    }
    let foreign = "GET / HTTP/1.1\r\nhost: evil.example\r\nconnection: close\r\n\r\n";
    let mut client = Client::connect(headway.server.admin_address()).await;
    client.send(foreign).await;
    assert_eq!(client.reply().await.status, 403);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_event_is_the_whole_and_the_next_ones_are_changes() {
    let backend = Scripted::start(streamed()).await;
    let headway = Setup::default()
        .backend("a", &backend, "price: { input_per_mtok: 1, output_per_mtok: 1 }")
        .route("slo: { ttft: { p95: 2s } }")
        .start()
        .await;
    headway.stream().await;
    headway.record().await;
    let mut viewer = Viewer::open(&headway).await;
    let head = viewer.head().await;
    assert!(head.contains("content-type: text/event-stream") && head.contains("cache-control: no-store"), "{head}");
    let (name, whole) = viewer.next().await;
    assert_eq!(name, "whole");
    let (route, backend) = (&whole["routes"][0], &whole["backends"][0]);
    assert_eq!((&route["objectives"][0]["judged"], &route["objectives"][0]["met"]), (&1.into(), &true.into()));
    assert_eq!((&route["requests"], &backend["requests"], &backend["state"]), (&1.into(), &1.into(), &"ready".into()));
    let history = &whole["history"]["r"];
    assert_eq!(history["ttft"][0]["quantiles"]["samples"], 1);
    assert_eq!(history["traffic"][0]["outcomes"]["complete"], 1);
    assert_eq!(whole["decisions"]["ended"][0]["backend"], "a");
    assert_eq!(
        (&whole["decisions"]["missed"], &whole["decisions"]["under_way"]),
        (&Value::Array(Vec::new()), &Value::Array(Vec::new()))
    );
    let (name, change) = viewer.next().await;
    assert_eq!(name, "change");
    assert_eq!(change["tick"].as_u64(), whole["tick"].as_u64().map(|tick| tick + 1));
    // The API's own figures.
    for what in ["routes", "backends"] {
        let api = headway.admin(&format!("/api/v1/{what}")).await.json()[what][0].clone();
        for figure in ["requests", "cost"] {
            assert_eq!(api[figure], change[what][0][figure], "{what}.{figure}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn so_many_may_look_and_one_who_does_not_read_holds_up_nobody() {
    let backend = Scripted::start(streamed()).await;
    let headway = Setup::default().backend("a", &backend, "").start().await;
    let mut viewers = Vec::new();
    for _ in 0..16 {
        let mut viewer = Viewer::open(&headway).await;
        assert!(viewer.head().await.contains(" 200 "));
        viewers.push(viewer);
    }
    let full = ask(&headway, "GET /api/v1/events", "").await;
    assert_eq!((full.status, &full.json()["error"]["code"]), (503, &"too_many_viewers".into()));
    assert!(full.field("retry-after").is_some());
    // None of them reads; requests, probes and the API go on.
    assert_eq!(headway.stream().await.status, 200);
    assert_eq!(headway.admin("/readyz").await.status, 200);
    let mut last = viewers.pop().unwrap();
    let first = last.next().await.1["tick"].as_u64();
    assert_eq!(last.next().await.1["tick"].as_u64(), first.map(|tick| tick + 1), "one who reads is kept up to date");
    drop(last);
    let freed = async {
        while ask_briefly(&headway).await != 200 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(support::PATIENCE, freed).await.expect("a place that was left is free again");
}

/// The status of one more event stream, which is left at once.
async fn ask_briefly(headway: &Headway) -> u16 {
    let head = Viewer::open(headway).await.head().await;
    head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drained_backend_ends_its_streams_and_gets_nothing_new_until_undrained() {
    let (a, b) = (Scripted::start(streamed()).await, Scripted::start(streamed()).await);
    let setup = Setup::default().backend("a", &a, "").backend("b", &b, "");
    let text = setup.text();
    let headway = setup.start().await;
    let drain = |name: &str, verb: &str| format!("POST /api/v1/backends/{name}/{verb}");
    ask(&headway, &drain("b", "drain"), "").await;
    let rest = [chunk([TOKEN, FINISH, USAGE, DONE].concat()), LAST.into()].concat();
    a.next(vec![begun(TOKEN), Step::Pause, send(rest)]);
    let mut live = headway.connect().await;
    live.send(post(CHAT, STREAM)).await;
    a.reached(1).await;
    ask(&headway, &drain("b", "undrain"), "").await;

    let foreign = ask(&headway, &drain("a", "drain"), "origin: http://evil.example\r\n").await;
    assert_eq!((foreign.status, &foreign.json()["error"]["code"]), (403, &"foreign_origin".into()));
    let not_json = ask(&headway, &drain("a", "drain"), "content-type: text/plain\r\n").await;
    assert_eq!((not_json.status, &not_json.json()["error"]["code"]), (415, &"not_json".into()));
    assert_eq!(headway.server.fleet().backends()[0].state().as_str(), "ready", "what is refused changes nothing");

    let drained = ask(&headway, &drain("a", "drain"), "content-type: application/json\r\n").await.json();
    assert_eq!((&drained["state"], &drained["in_flight"]), (&"draining".into(), &1.into()));
    for _ in 0..6 {
        assert_eq!(headway.stream().await.status, 200);
    }
    assert_eq!((a.count(), b.count()), (1, 6), "nothing new at the drained one");
    let verbose = headway.admin("/readyz?verbose").await;
    assert!(verbose.status == 200 && verbose.text().contains("backend `a` is draining"), "{}", verbose.text());

    // An unchanged backend stays drained, whatever else the new configuration says.
    let text = text.replace("policy: round_robin", "policy: least_in_flight");
    let changed = config::parse("test.yaml", &text, &config::NoEnvironment).expect("a configuration");
    headway.server.apply(changed.settings).expect("it applies");
    assert_eq!(headway.server.fleet().backends()[0].state().as_str(), "draining");

    a.resume();
    let answer = live.reply().await;
    assert_eq!((answer.status, answer.end), (200, End::Clean));
    assert!(answer.text().ends_with("[DONE]\n\n"), "a stream under way ends in peace: {}", answer.text());

    ask(&headway, &drain("b", "drain"), "").await;
    assert_eq!(headway.stream().await.error_code(), "no_healthy_backend");
    let unready = headway.admin("/readyz?verbose").await;
    assert!(unready.status == 503 && unready.text().contains("route `r` has no usable backend"), "{}", unready.text());
    let undrained = ask(&headway, &drain("a", "undrain"), "").await.json();
    assert_eq!(undrained["state"], "ready");
    assert_eq!((headway.stream().await.status, a.count()), (200, 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_decision_that_is_asked_for_comes_with_its_exchange_and_its_waterfall() {
    let backend = Scripted::start(streamed()).await;
    let headway = Setup::default().backend("a", &backend, "").start().await;
    let reply = headway.stream().await;
    headway.record().await;
    let id = fields(&reply.head, "x-request-id").remove(0);
    let listed = headway.admin("/api/v1/decisions").await.json()["decisions"][0].clone();
    assert!(listed.get("exchange").is_none() && listed.get("waterfall").is_none(), "{listed}");
    let asked = headway.admin(&format!("/api/v1/decisions?request_id={id}")).await.json()["decisions"][0].clone();
    assert_eq!(asked["exchange"]["request_id"], id.as_str());
    let stretches = asked["waterfall"].as_array().expect("a waterfall");
    let named = |phase: &str| stretches.iter().find(|one| one["phase"] == phase);
    let (wait, first) = (named("backend_wait").expect("a wait"), asked["exchange"]["ttft_ms"].as_f64().unwrap());
    let float = |value: &Value| value.as_f64().unwrap();
    assert_eq!(wait["backend"], "a");
    let [begun, took, head] = ["start_ms", "duration_ms", "head_ms"].map(|field| float(&wait[field]));
    let near = |a: f64, b: f64| assert!((a - b).abs() < 0.002, "{a} is not {b}: {asked}");
    near(head - begun, float(&asked["exchange"]["backend_wait_ms"]));
    near(begun + took, first);
}
