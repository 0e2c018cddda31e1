//! What a caller's limits are charged with, whatever its requests and the backends say.

use headway::measure::outcome::Outcome;

use crate::support::backend::{Scripted, Step};
use crate::support::client::Reply;
use crate::support::headway::{Headway, Setup};
use crate::support::texts::{CHAT, COMPLETION, STREAM, UNARY, json, key, post, post_with, streamed, with_fields};

const SECRET: &str = "sk-canary-one-0f9e8d7c";
const PAGE: &str = "https://app.example.com";

fn fields() -> String {
    format!("authorization: Bearer {SECRET}\r\norigin: {PAGE}\r\n")
}

fn setup(backend: &Scripted, limits: &str) -> Setup {
    let lines = format!("keys:\n{}cors: {{ origins: [\"{PAGE}\"] }}\n", key("one", SECRET, limits));
    Setup::default().backend("a", backend, "").more(&lines)
}

async fn left(headway: &Headway, what: &str) -> u64 {
    headway.idle().await;
    let list = headway.exchange(format!("GET /v1/models HTTP/1.1\r\nhost: h\r\n{}\r\n", fields())).await;
    list.field(&format!("x-ratelimit-remaining-{what}")).expect("a limit").parse().unwrap()
}

/// Refused for good: no wait would help.
#[track_caller]
fn check_never(reply: &Reply, what: &str) {
    assert_eq!((reply.status, &*reply.error_code()), (429, "rate_limit_exceeded"), "{what}: {}", reply.head);
    assert_eq!(reply.field("x-should-retry").as_deref(), Some("false"), "{what}");
}

#[tokio::test]
async fn one_callers_images_and_tools_do_not_change_what_anothers_text_is_taken_for() {
    let usage = COMPLETION.replace("\"prompt_tokens\":3", "\"prompt_tokens\":90000");
    let backend = Scripted::start(json("200 OK", &usage)).await;
    let headway = Setup::default().backend("a", &backend, "").start().await;
    let estimate = || headway.server.fleet().estimate_tokens("m", 1_000);
    let text = "a".repeat(100);
    let user = |content: &str| UNARY.replace("[]", &format!("[{{\"role\":\"user\",\"content\":{content}}}]"));
    let part = |more: &str| user(&format!("[{{\"type\":\"text\",\"text\":\"{text}\"}},{more}]"));
    for body in [
        part(r#"{"type":"image_url","image_url":{"url":"data:image/png;base64,AAAA"}}"#),
        part(r#"{"type":"input_audio","input_audio":{"data":"AAAA","format":"wav"}}"#),
        part(r#"{"type":"text","text":"data: no image"}"#),
        user(&format!("\"{text}\"")).replace("\"messages\"", "\"tools\":[{\"type\":\"function\"}],\"messages\""),
        user(&format!("\"{text}\"")).replace("\"messages\"", "\"documents\":[{\"title\":\"t\"}],\"messages\""),
    ] {
        assert_eq!(headway.exchange(post(CHAT, &body)).await.status, 200);
        headway.idle().await;
        assert_eq!(estimate(), 250, "{body}");
    }
    assert_eq!(headway.exchange(post(CHAT, &user(&format!("\"{text}\"")))).await.status, 200);
    headway.idle().await;
    assert_eq!(estimate(), 1_000, "text has no more tokens than bytes");
}

#[tokio::test]
async fn a_prompt_that_is_only_thought_to_be_longer_than_the_limit_is_served() {
    let backend = Scripted::start(json("200 OK", COMPLETION)).await;
    let long = UNARY.replace("[]", &format!("[{{\"role\":\"user\",\"content\":\"{}\"}}]", "a".repeat(8_000)));
    for body in [long.clone(), long.replace("\"messages\"", "\"max_tokens\":10,\"messages\"")] {
        let headway = setup(&backend, "tokens_per_minute: 1000").start().await;
        assert_eq!(headway.exchange(post_with(CHAT, &fields(), &body)).await.status, 200);
        assert_eq!(left(&headway, "tokens").await, 995, "settled by what the backend says");
    }
}

#[tokio::test]
async fn tokens_are_set_aside_for_every_answer_that_is_made() {
    let backend = Scripted::start(json("200 OK", COMPLETION)).await;
    let headway = setup(&backend, "tokens_per_minute: 1000").start().await;
    for (path, body) in [
        ("/v1/completions", r#"{"model":"m","prompt":["a","b","c"],"max_tokens":400}"#),
        ("/v1/completions", r#"{"model":"m","prompt":[[1,2],[3],[4]],"max_tokens":400}"#),
        ("/v1/completions", r#"{"model":"m","prompt":"a","n":1,"best_of":3,"max_tokens":400}"#),
        ("/v1/completions", r#"{"model":"m","prompt":["a","b"],"n":2,"max_tokens":300}"#),
        (CHAT, r#"{"model":"m","messages":[],"max_completion_tokens":0,"max_tokens":1200}"#),
        (CHAT, r#"{"model":"m","messages":[],"max_completion_tokens":1,"max_tokens":1200}"#),
    ] {
        check_never(&headway.exchange(post_with(path, &fields(), body)).await, body);
    }
    let one = r#"{"model":"m","prompt":[1,2,3],"max_tokens":400}"#;
    assert_eq!(headway.exchange(post_with("/v1/completions", &fields(), one)).await.status, 200);
    assert_eq!(backend.count(), 1);
}

#[tokio::test]
async fn callers_do_not_pay_for_an_outage() {
    let mut backend = Scripted::start(streamed()).await;
    let headway = setup(&backend, "requests_per_minute: 5, tokens_per_minute: 1000").start().await;
    backend.die().await;
    assert_eq!(headway.exchange(post_with(CHAT, &fields(), STREAM)).await.status, 502);
    assert_eq!(headway.record().await.outcome, Outcome::ConnectFailed);
    assert_eq!((left(&headway, "requests").await, left(&headway, "tokens").await), (5, 1_000));
}

#[tokio::test]
async fn what_a_backend_says_of_limits_counts_only_where_headway_has_none() {
    let own = "x-ratelimit-limit-tokens: 7\r\nx-ratelimit-remaining-requests: 7\r\n";
    let backend = Scripted::start(with_fields("200 OK", own, COMPLETION)).await;
    let headway = setup(&backend, "requests_per_minute: 5").start().await;
    let reply = headway.exchange(post_with(CHAT, &fields(), UNARY)).await;
    assert_eq!(reply.field("x-ratelimit-remaining-requests").as_deref(), Some("4"));
    assert_eq!(reply.field("x-ratelimit-limit-tokens"), None);
    let open = Headway::before(&backend).await;
    let reply = open.exchange(post(CHAT, UNARY)).await;
    assert_eq!(reply.field("x-ratelimit-limit-tokens").as_deref(), Some("7"));
}

#[tokio::test]
async fn an_answer_that_begins_with_a_comment_says_what_is_left_and_who_may_read_it() {
    let backend = Scripted::start([vec![Step::Pause], streamed()].concat()).await;
    let limits = "requests_per_minute: 5, tokens_per_minute: 1000";
    let headway = setup(&backend, limits).route("heartbeat: 50ms").start().await;
    let mut client = headway.connect().await;
    client.send(post_with(CHAT, &fields(), &STREAM.replace("\"messages\"", "\"max_tokens\":100,\"messages\""))).await;
    client.arrives(|text| text.contains(": ping\n\n")).await;
    backend.resume();
    let reply = client.reply().await;
    assert_eq!(reply.field("x-ratelimit-remaining-requests").as_deref(), Some("4"), "{}", reply.head);
    assert_eq!(reply.field("x-ratelimit-remaining-tokens").as_deref(), Some("900"), "{}", reply.head);
    assert_eq!(reply.field("access-control-allow-origin").as_deref(), Some(PAGE), "{}", reply.head);
}
