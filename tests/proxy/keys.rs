//! Who may call: keys, the routes they lead to, what each may use, and when that changes.

use std::sync::Arc;
use std::time::Instant;

use headway::clock::{Clock, SystemClock};
use headway::config::access::KeyDigest;
use headway::config::{NoEnvironment, parse};
use headway::measure::outcome::Outcome;
use serde_json::Value;

use crate::support::backend::{Scripted, Step, send};
use crate::support::client::{Client, End, Reply};
use crate::support::headway::{Headway, Setup};
use crate::support::texts::{
    CHAT, COMPLETION, LAST, STREAM, TOKEN, UNARY, begun, digest, events, json, key, post_with, streamed,
};
use crate::support::until;

const ONE: &str = "sk-canary-one-0f9e8d7c";
const TWO: &str = "sk-canary-two-1a2b3c4d";

fn now() -> Instant {
    SystemClock.now()
}

fn keys(lines: &[String]) -> String {
    format!("keys:\n{}", lines.concat())
}

fn bearer(secret: &str) -> String {
    format!("authorization: Bearer {secret}\r\n")
}

/// A chat with this key.
fn chat(secret: &str, body: &str) -> String {
    post_with(CHAT, &bearer(secret), body)
}

fn get(path: &str, fields: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: h\r\n{fields}\r\n")
}

/// One backend `a`, one key `one` with these limits.
async fn limited(backend: &Scripted, limits: &str) -> Headway {
    Setup::default().backend("a", backend, "").more(&keys(&[key("one", ONE, limits)])).start().await
}

#[track_caller]
fn check_limited(reply: &Reply) {
    assert_eq!((reply.status, &*reply.error_code()), (429, "rate_limit_exceeded"), "{}", reply.head);
    assert_eq!(reply.json()["error"]["type"], "rate_limit_error");
}

fn left(reply: &Reply, what: &str) -> (u64, u64, String) {
    let field = |part: &str| reply.field(&format!("x-ratelimit-{part}-{what}")).expect("a limit");
    (field("limit").parse().unwrap(), field("remaining").parse().unwrap(), field("reset"))
}

#[tokio::test]
async fn whoever_brings_no_known_key_is_told_so_and_no_backend_hears_of_it() {
    let backend = Scripted::start(streamed()).await;
    let headway = limited(&backend, "").await;
    let unknown = [
        String::new(),
        bearer("sk-wrong"),
        bearer(&format!("{ONE}x")),
        bearer(&ONE[1..]),
        format!("authorization: Basic {ONE}\r\n"),
        format!("{}{}", bearer(ONE), bearer(ONE)),
        "x-api-key: sk-wrong\r\n".to_owned(),
    ];
    for fields in &unknown {
        for request in [
            post_with(CHAT, fields, UNARY),
            get("/v1/models", fields),
            get("/nothing", fields),
            get("/v1/responses/resp_1", fields),
        ] {
            let reply = headway.exchange(&request).await;
            assert_eq!((reply.status, &*reply.error_code()), (401, "invalid_api_key"), "{request}");
            assert_eq!(reply.json()["error"]["type"], "authentication_error");
            assert_eq!(reply.field("x-should-retry").as_deref(), Some("false"));
            assert_eq!(reply.field("www-authenticate").as_deref(), Some("Bearer"));
            assert!(!reply.text().contains("canary") && reply.field("retry-after").is_none());
        }
    }
    let records = headway.records(unknown.len() * 4).await;
    assert!(records.iter().all(|one| one.outcome == Outcome::RejectedRequest && one.key.is_none()));
    assert_eq!(backend.count(), 0);
}

#[tokio::test]
async fn a_key_is_taken_where_clients_put_it_and_goes_no_further() {
    let backend = Scripted::start(json("200 OK", COMPLETION)).await;
    let headway = limited(&backend, "").await;
    for fields in [bearer(ONE), format!("x-api-key: {ONE}\r\n"), format!("api-key: {ONE}\r\n")] {
        assert_eq!(headway.exchange(post_with(CHAT, &fields, UNARY)).await.status, 200, "{fields}");
    }
    for seen in backend.seen() {
        assert!(!seen.head.contains("canary"), "{}", seen.head);
    }
    let records = headway.records(3).await;
    assert!(records.iter().all(|one| one.key.as_deref() == Some("one")), "{records:?}");
    let shown = headway.admin("/api/v1/requests").await.json();
    assert_eq!(shown["requests"][0]["key"], "one", "{shown}");
}

/// Routes `first` and `second` for the model `m`, and `other` for `n`.
async fn three_routes(backend: &Scripted, lines: &[String]) -> Headway {
    let address = backend.address;
    let health = "health: { path: /health, interval: 60s }";
    let text = format!(
        "listeners: [{{ address: \"127.0.0.1:0\" }}]\nadmin: {{ address: \"127.0.0.1:0\" }}\n{}backends:\n\
         \x20 - {{ name: a, url: \"http://{address}\", models: [m, n], {health} }}\nroutes:\n\
         \x20 - {{ name: first, match: {{ models: [m] }}, backends: [a] }}\n\
         \x20 - {{ name: second, match: {{ models: [m] }}, backends: [a] }}\n\
         \x20 - {{ name: other, match: {{ models: [n] }}, backends: [a] }}\n\
         \x20 - {{ name: plain, match: {{ paths: [/custom] }}, backends: [a] }}\n",
        keys(lines)
    );
    let headway = Headway::start(&text).await;
    let fleet = headway.server.fleet();
    until("a ready backend", || fleet.backends()[0].usable()).await;
    headway
}

fn models(reply: &Reply) -> Vec<String> {
    let list = reply.json();
    let ids = list["data"].as_array().expect("a list").iter().map(|one| one["id"].as_str().unwrap().to_owned());
    ids.collect()
}

#[tokio::test]
async fn a_key_leads_to_its_routes_and_lists_their_models() {
    let backend = Scripted::start(json("200 OK", COMPLETION)).await;
    let lines = [key("one", ONE, "routes: [second]"), key("two", TWO, "")];
    let headway = three_routes(&backend, &lines).await;
    let other = UNARY.replace("\"m\"", "\"n\"");
    assert_eq!(headway.exchange(chat(ONE, UNARY)).await.status, 200);
    let refused = headway.exchange(chat(ONE, &other)).await;
    assert_eq!((refused.status, &*refused.error_code()), (403, "route_not_allowed"));
    assert_eq!(refused.json()["error"]["type"], "permission_error");
    let refused = headway.exchange(get("/custom", &bearer(ONE))).await;
    assert_eq!((refused.status, &*refused.error_code()), (403, "route_not_allowed"));
    let unknown = headway.exchange(chat(ONE, &UNARY.replace("\"m\"", "\"x\""))).await;
    assert_eq!((unknown.status, &*unknown.error_code()), (404, "model_not_found"));
    assert_eq!(headway.exchange(chat(TWO, &other)).await.status, 200);
    assert_eq!(headway.exchange(get("/custom", &bearer(TWO))).await.status, 200);
    let routes: Vec<_> = headway.records(6).await.iter().map(|one| one.route.clone()).collect();
    assert_eq!(routes[0].as_deref(), Some("second"), "what a key may not use is passed over");
    assert_eq!(models(&headway.exchange(get("/v1/models", &bearer(ONE))).await), ["m"]);
    assert_eq!(models(&headway.exchange(get("/v1/models", &bearer(TWO))).await), ["m", "n"]);
}

#[tokio::test]
async fn a_revoked_key_is_refused_at_once_while_its_stream_goes_on() {
    let backend = Scripted::start(streamed()).await;
    let setup = || Setup::default().backend("a", &backend, "");
    let headway = setup().more(&keys(&[key("one", ONE, ""), key("two", TWO, "")])).start().await;
    let whole = events();
    let rest = whole.split_once(TOKEN).unwrap().1;
    let front = &whole[..whole.len() - rest.len()];
    backend.next(vec![begun(front), Step::Pause, send(crate::support::texts::chunk(rest)), send(LAST)]);
    let mut client = headway.connect().await;
    client.send(chat(ONE, STREAM)).await;
    client.arrives(|text| text.contains("train")).await;

    let text = setup().more(&keys(&[key("two", TWO, "")])).text();
    let settings = parse("test.yaml", &text, &NoEnvironment).unwrap_or_else(|report| panic!("{report}")).settings;
    headway.server.apply(settings).expect("it applies");
    let began = now();
    assert_eq!(headway.exchange(chat(ONE, STREAM)).await.status, 401);
    assert!(now() - began < std::time::Duration::from_secs(1));
    assert_eq!(headway.exchange(chat(TWO, STREAM)).await.status, 200);
    backend.resume();
    let reply = client.reply().await;
    assert_eq!((reply.text(), reply.end), (whole, End::Clean));
}

#[tokio::test]
async fn requests_per_minute_are_given_out_and_told_of() {
    let backend = Scripted::start(streamed()).await;
    let headway = limited(&backend, "requests_per_minute: 3").await;
    for remaining in [2, 1, 0] {
        let reply = headway.exchange(chat(ONE, STREAM)).await;
        assert_eq!((reply.status, left(&reply, "requests").1), (200, remaining));
    }
    let refused = headway.exchange(chat(ONE, STREAM)).await;
    check_limited(&refused);
    let wait: u64 = refused.field("retry-after-ms").unwrap().parse().unwrap();
    assert!((50_000..=60_000).contains(&wait), "{wait}");
    let (limit, remaining, reset) = left(&refused, "requests");
    assert!((limit, remaining) == (3, 0) && (reset.starts_with("59") || reset.starts_with("1m")), "{reset}");
    assert_eq!(refused.field("x-should-retry").as_deref(), Some("true"));
    assert!(refused.field("x-ratelimit-limit-tokens").is_none(), "there is no such limit");
    let list = headway.exchange(get("/v1/models", &bearer(ONE))).await;
    assert_eq!((list.status, left(&list, "requests").1), (200, 0), "a look at the models is free");
    let records = headway.records(5).await;
    assert_eq!((records[3].outcome, records[3].status), (Outcome::RateLimited, 429));
    assert_eq!(backend.count(), 3);
}

#[tokio::test]
async fn of_many_requests_at_once_as_many_are_served_as_may_be() {
    let backend = Scripted::start(streamed()).await;
    let headway = Arc::new(limited(&backend, "requests_per_minute: 40").await);
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let headway = Arc::clone(&headway);
        clients.spawn(async move {
            let mut client = headway.connect().await;
            let mut served = 0;
            for _ in 0..25 {
                client.send(chat(ONE, STREAM)).await;
                match client.reply().await {
                    reply if reply.status == 200 => served += 1,
                    reply => check_limited(&reply),
                }
            }
            served
        });
    }
    let served: usize = clients.join_all().await.into_iter().sum();
    assert_eq!((served, backend.count()), (40, 40));
}

#[tokio::test]
async fn what_headway_itself_turns_away_does_not_count() {
    let backend = Scripted::start(streamed()).await;
    let lines = keys(&[key("one", ONE, "requests_per_minute: 2, tokens_per_minute: 10k")]);
    let setup = Setup::default().backend("a", &backend, "max_in_flight: 1").route("on_overload: shed");
    let headway = setup.more(&lines).start().await;
    backend.next([vec![Step::Pause], streamed()].concat());
    let mut first = headway.connect().await;
    first.send(chat(ONE, STREAM)).await;
    backend.reached(1).await;
    for _ in 0..3 {
        let shed = headway.exchange(chat(ONE, STREAM)).await;
        assert_eq!((shed.status, &*shed.error_code()), (429, "overloaded"));
    }
    backend.resume();
    assert_eq!(first.reply().await.status, 200);
    assert_eq!(headway.exchange(chat(ONE, STREAM)).await.status, 200);
    check_limited(&headway.exchange(chat(ONE, STREAM)).await);
}

#[tokio::test]
async fn tokens_are_set_aside_for_an_answer_and_settled_by_its_usage() {
    let backend = Scripted::start(json("200 OK", COMPLETION)).await;
    let headway = limited(&backend, "tokens_per_minute: 1k").await;
    let asking = |most: u64| UNARY.replace("\"messages\"", &format!("\"max_tokens\":{most},\"messages\""));
    backend.next([vec![Step::Pause], json("200 OK", COMPLETION)].concat());
    let mut first = headway.connect().await;
    first.send(chat(ONE, &asking(900))).await;
    backend.reached(1).await;
    let refused = headway.exchange(chat(ONE, &asking(200))).await;
    check_limited(&refused);
    let (limit, remaining, _) = left(&refused, "tokens");
    assert!(limit == 1_000 && remaining <= 100, "{remaining}");
    assert_eq!(refused.field("x-should-retry").as_deref(), Some("true"));
    backend.resume();
    assert_eq!(first.reply().await.status, 200);
    headway.idle().await;
    // The usage says 5 tokens.
    let list = headway.exchange(get("/v1/models", &bearer(ONE))).await;
    assert_eq!(left(&list, "tokens").1, 995);
    let never = headway.exchange(chat(ONE, &asking(1_001))).await;
    check_limited(&never);
    assert_eq!((never.field("x-should-retry").as_deref(), never.field("retry-after")), (Some("false"), None));
    let four = asking(300).replace("\"messages\"", "\"n\":4,\"messages\"");
    check_limited(&headway.exchange(chat(ONE, &four)).await);
    assert_eq!(backend.count(), 1);
}

#[tokio::test]
async fn a_stream_is_never_cut_for_its_quota_and_the_next_request_waits() {
    let usage = |output: u64| {
        let usage = format!("\"completion_tokens\":{output}");
        events().replace("\"completion_tokens\":2", &usage)
    };
    let backend = Scripted::start(crate::support::texts::answer(&usage(5_000))).await;
    let headway = limited(&backend, "tokens_per_minute: 1000").await;
    let reply = headway.exchange(chat(ONE, STREAM)).await;
    assert_eq!((reply.status, reply.end, reply.text()), (200, End::Clean, usage(5_000)));
    headway.idle().await;
    let refused = headway.exchange(chat(ONE, STREAM)).await;
    check_limited(&refused);
    assert_eq!(left(&refused, "tokens").1, 0);
    assert_eq!(backend.count(), 1, "the overshoot is one request");
}

#[tokio::test]
async fn a_client_that_leaves_pays_for_what_it_saw() {
    let backend = Scripted::start(vec![begun(TOKEN.repeat(7)), Step::Pause]).await;
    let headway = limited(&backend, "tokens_per_minute: 1000").await;
    let mut client = headway.connect().await;
    let asking = STREAM.replace("\"messages\"", "\"max_tokens\":500,\"messages\"");
    client.send(chat(ONE, &asking)).await;
    client.arrives(|text| text.matches("train").count() == 7).await;
    drop(client);
    headway.record().await;
    let list = headway.exchange(get("/v1/models", &bearer(ONE))).await;
    let remaining = left(&list, "tokens").1;
    assert!((980..=993).contains(&remaining), "seven tokens, and the prompt as estimated: {remaining}");
}

#[tokio::test]
async fn as_many_requests_run_at_once_as_may_and_places_come_back() {
    let backend = Scripted::start([vec![Step::Pause], streamed()].concat()).await;
    let headway = limited(&backend, "concurrency: 2").await;
    let mut running: Vec<Client> = Vec::new();
    for count in 1..=2 {
        let mut client = headway.connect().await;
        client.send(chat(ONE, STREAM)).await;
        backend.reached(count).await;
        running.push(client);
    }
    let refused = headway.exchange(chat(ONE, STREAM)).await;
    check_limited(&refused);
    assert_eq!(refused.field("retry-after").as_deref(), Some("1"));
    // One leaves, the other is answered: both places come back.
    drop(running.pop());
    until("the place of whoever left", || headway.server.active() == 1).await;
    backend.resume();
    assert_eq!(running[0].reply().await.status, 200);
    headway.idle().await;
    backend.always(streamed());
    assert_eq!(headway.exchange(chat(ONE, STREAM)).await.status, 200);
    let caller = Arc::clone(headway.server.fleet().caller(&KeyDigest::of(ONE.as_bytes())).unwrap());
    headway.idle().await;
    assert_eq!(caller.under_way(), 0);
}

#[tokio::test]
async fn what_was_used_outlives_a_reload() {
    let backend = Scripted::start(streamed()).await;
    let setup = |limit: u32| {
        let line = key("one", ONE, &format!("requests_per_minute: {limit}"));
        Setup::default().backend("a", &backend, "").more(&keys(&[line]))
    };
    let headway = setup(2).start().await;
    for _ in 0..2 {
        assert_eq!(headway.exchange(chat(ONE, STREAM)).await.status, 200);
    }
    let apply = |limit| {
        let settings =
            parse("test.yaml", &setup(limit).text(), &NoEnvironment).unwrap_or_else(|report| panic!("{report}"));
        headway.server.apply(settings.settings).expect("it applies");
    };
    apply(2);
    check_limited(&headway.exchange(chat(ONE, STREAM)).await);
    apply(3);
    let reply = headway.exchange(chat(ONE, STREAM)).await;
    assert_eq!((reply.status, left(&reply, "requests").1), (200, 0));
}

#[tokio::test]
async fn the_configuration_shows_who_may_call_and_no_digest() {
    let backend = Scripted::start(streamed()).await;
    let headway = limited(&backend, "routes: [r], tokens_per_minute: 200k, concurrency: 64").await;
    let shown = headway.admin("/api/v1/config").await;
    let config: Value = shown.json();
    assert!(!shown.text().contains(&digest(ONE)));
    let one = &config["keys"][0];
    assert_eq!(
        (&one["name"], &one["routes"][0], &one["tokens_per_minute"]),
        (&"one".into(), &"r".into(), &200_000.into()),
        "{config}"
    );
}
