//! Answers that are strange and not wrong, or wrong and still the client's: every byte is forwarded as it came.

use headway::measure::outcome::Outcome;

use crate::support::backend::{Script, Scripted, Step, send};
use crate::support::client::{End, Reply};
use crate::support::headway::Headway;
use crate::support::texts::{DONE, FINISH, LAST, ROLE, SSE, TOKEN, USAGE, answer, chunk, events};

async fn exchange(script: Script) -> (Headway, Reply) {
    let backend = Scripted::start(script).await;
    let headway = Headway::before(&backend).await;
    let reply = headway.stream().await;
    assert_eq!(backend.count(), 1);
    (headway, reply)
}

/// A body that arrives as it is, and counts as complete.
async fn whole(body: &str) {
    bytes(body.as_bytes()).await;
}

async fn bytes(body: &[u8]) {
    let script = vec![send([SSE.as_bytes(), &chunk(body), LAST.as_bytes()].concat())];
    let (headway, reply) = exchange(script).await;
    assert_eq!((reply.status, reply.end), (200, End::Clean), "{}", reply.text());
    assert!(reply.body == body, "{}", reply.text());
    let record = headway.record().await;
    assert_eq!((record.outcome, record.bytes_out), (Outcome::Complete, body.len() as u64));
}

#[tokio::test]
async fn lines_may_end_in_any_way() {
    for end in ["\r", "\r\n"] {
        whole(&events().replace('\n', end)).await;
    }
    whole(&format!("\u{FEFF}{}", events())).await;
    whole(events().trim_end_matches('\n')).await;
    whole(&events()[..events().len() - 1]).await;
}

#[tokio::test]
async fn events_may_have_any_fields() {
    let token = TOKEN.replace("data: {", "id: 7\nretry: 10\nevent: message\n: comment\ndata: {\ndata:");
    whole(&[ROLE, &token, ": ping\n\n", "event: ping\n\n", FINISH, USAGE, DONE].concat()).await;
}

#[tokio::test]
async fn text_may_be_anything() {
    whole(&events().replace("train", "\u{1F682} \\ud83d\\ude82 \u{2028} <!DOCTYPE> [DONE] \\\" data: ")).await;
    let mut body = [ROLE, &TOKEN[..TOKEN.len() - 30]].concat().into_bytes();
    body.extend_from_slice(b"\xff\xfe\xc0");
    body.extend_from_slice([&TOKEN[TOKEN.len() - 30..], FINISH, DONE].concat().as_bytes());
    bytes(&body).await;
}

#[tokio::test]
async fn two_end_marks_are_two() {
    whole(&[&events(), DONE].concat()).await;
}

#[tokio::test]
async fn usage_may_come_always_never_or_empty() {
    let with = |event: &str, usage: &str| event.replace("]}\n", &format!("],\"usage\":{usage}}}\n"));
    for usage in ["null", "{\"prompt_tokens\":3,\"completion_tokens\":1}", "{}"] {
        let body = [with(ROLE, usage), with(TOKEN, usage), with(FINISH, usage), DONE.to_owned()].concat();
        whole(&body).await;
    }
    whole(&[ROLE, TOKEN, FINISH, DONE].concat()).await;
}

#[tokio::test]
async fn tools_several_choices_and_none() {
    let tool = "data: {\"choices\":[{\"index\":0,\"delta\":{\"tool_calls\":[{\"index\":0,\"id\":\"c\",\"function\":{\"name\":\"f\",\"arguments\":\"{\"}}]}}]}\n\n";
    let finish = FINISH.replace("stop", "tool_calls");
    whole(&[ROLE, tool, tool, &finish, DONE].concat()).await;
    let second = |event: &str| event.replace("\"index\":0", "\"index\":1");
    whole(&[ROLE, TOKEN, &second(ROLE), &second(TOKEN), FINISH, &second(TOKEN), &second(FINISH), USAGE, DONE].concat())
        .await;
    whole(&["data: {\"choices\":[]}\n\n", ROLE, TOKEN, "data: {\"choices\":[]}\n\n", FINISH, DONE].concat()).await;
}

#[tokio::test]
async fn an_event_may_be_larger_than_what_is_read_of_it() {
    let token = TOKEN.replace("train", &"train ".repeat(500_000));
    whole(&[ROLE, TOKEN, &token, FINISH, USAGE, DONE].concat()).await;
}

#[tokio::test]
async fn an_answer_may_drip() {
    let drops = events().as_bytes().chunks(1).map(|byte| send(chunk(byte))).collect::<Vec<_>>();
    let (headway, reply) = exchange([vec![send(SSE)], drops, vec![send(LAST)]].concat()).await;
    assert_eq!((reply.end, reply.text()), (End::Clean, events()));
    let record = headway.record().await;
    assert_eq!((record.outcome, record.usage.output_tokens), (Outcome::Complete, Some(2)));
}

#[tokio::test]
async fn a_body_may_end_with_its_connection() {
    let head = "HTTP/1.0 200 OK\r\ncontent-type: text/event-stream\r\n\r\n";
    let (headway, reply) = exchange(vec![send(head), send(events()), Step::Close]).await;
    assert_eq!((reply.status, reply.end, reply.text()), (200, End::Clean, events()));
    assert!(reply.head.starts_with("HTTP/1.1 200 "), "{}", reply.head);
    assert_eq!(headway.record().await.outcome, Outcome::Complete);
    // Without its own end such a body proves nothing.
    let (headway, reply) = exchange(vec![send(head), send([ROLE, TOKEN].concat()), Step::Close]).await;
    assert_ne!(reply.end, End::Clean);
    assert!(reply.text().contains("upstream_disconnected"), "{}", reply.text());
    assert_eq!(headway.record().await.outcome, Outcome::Truncated);
}

#[tokio::test]
async fn garbage_among_the_events_is_the_clients_to_see() {
    let body = [ROLE, TOKEN, "data: {not json}\n\n", "\0\u{1}\u{2}\n\n", FINISH, DONE].concat();
    let (headway, reply) = exchange(answer(&body)).await;
    assert_eq!((reply.status, reply.end, reply.text()), (200, End::Clean, body));
    headway.record().await;
}

#[tokio::test]
async fn garbage_in_a_stream_without_end_mark_breaks_nothing() {
    let body = [ROLE, TOKEN, "data: {not json}\n\n", FINISH].concat();
    let (headway, reply) = exchange(answer(&body)).await;
    assert_eq!((reply.status, reply.end, reply.text()), (200, End::Clean, body));
    assert_eq!(headway.record().await.outcome, Outcome::Truncated);
    // Without any end, it is cut all the same.
    let (_headway, reply) = exchange(answer(&[ROLE, TOKEN, "data: {not json}\n\n"].concat())).await;
    assert_ne!(reply.end, End::Clean);
}

#[tokio::test]
async fn garbage_instead_of_events_is_no_answer() {
    let (headway, reply) = exchange(answer("<html>\n\ndata: {not json}\n\n<p>\n\n")).await;
    assert_eq!((reply.status, &*reply.error_code()), (502, "upstream_disconnected"));
    assert_eq!(headway.record().await.outcome, Outcome::Truncated);
}

#[tokio::test]
async fn an_encoded_stream_is_forwarded_as_it_comes() {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-encoding: gzip\r\ntransfer-encoding: chunked\r\n\r\n";
    let body: Vec<u8> = (0..3_000_u32).map(|n| u8::try_from(n * n % 251).unwrap()).collect();
    let script = vec![send(head), send(chunk(&body[..1_000])), Step::Pause, send(chunk(&body[1_000..])), send(LAST)];
    let backend = Scripted::start(script).await;
    let headway = Headway::before(&backend).await;
    let mut client = headway.connect().await;
    client.send(crate::support::texts::post(crate::support::texts::CHAT, crate::support::texts::STREAM)).await;
    // The tokens in it cannot be seen, so waiting for the first would be waiting for the end.
    client.arrives(|text| text.contains("\r\n\r\n") && text.len() > 1_000).await;
    backend.resume();
    let reply = client.reply().await;
    assert_eq!((reply.end, reply.field("content-encoding").as_deref()), (End::Clean, Some("gzip")));
    assert!(reply.body == body);
    assert_eq!(headway.record().await.outcome, Outcome::Complete);
}
