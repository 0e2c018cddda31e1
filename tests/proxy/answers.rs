//! Answers that are not streamed, and the connections they come on.

use headway::measure::outcome::{Blame, Outcome};

use crate::support::backend::{Scripted, Step, send};
use crate::support::client::End;
use crate::support::headway::{Headway, Setup};
use crate::support::texts::{self, CHAT, COMPLETION, UNARY, json, post, streamed};

#[tokio::test]
async fn a_whole_answer_is_forwarded_and_read() {
    let backend = Scripted::start(texts::with_fields("200 OK", "x-own: 1\r\n", COMPLETION)).await;
    let headway = Headway::before(&backend).await;
    let reply = headway.post(CHAT, UNARY).await;
    assert_eq!((reply.status, reply.text().as_str(), reply.end), (200, COMPLETION, End::Clean));
    assert_eq!(reply.field("x-own").as_deref(), Some("1"));
    assert_eq!(String::from_utf8(backend.only().body).unwrap(), UNARY, "not a byte is added");
    let record = headway.record().await;
    assert_eq!((record.outcome, record.status, record.stream), (Outcome::Complete, 200, false));
    assert_eq!((record.usage.input_tokens, record.usage.output_tokens), (Some(3), Some(2)));
    assert_eq!((record.bytes_in, record.bytes_out), (UNARY.len() as u64, COMPLETION.len() as u64));
}

#[tokio::test]
async fn a_large_answer_is_forwarded_intact() {
    let long: String = (0..400_000).map(|n| char::from(b'a' + u8::try_from(n % 23).unwrap())).collect();
    let body = COMPLETION.replace("Trains.", &long.repeat(4));
    let chunked = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n";
    let pieces = body.as_bytes().chunks(10_007).flat_map(texts::chunk).collect::<Vec<u8>>();
    let with_length = Scripted::start(json("200 OK", &body)).await;
    let in_chunks = Scripted::start(vec![send(chunked), send(pieces), send(texts::LAST)]).await;
    let setup = Setup::default().backend("length", &with_length, "").backend("chunks", &in_chunks, "");
    let headway = setup.start().await;
    for _ in 0..2 {
        let reply = headway.post(CHAT, UNARY).await;
        assert_eq!((reply.status, reply.end), (200, End::Clean));
        assert!(reply.body == body.as_bytes(), "{} bytes of {}", reply.body.len(), body.len());
    }
    for record in headway.records(2).await {
        assert_eq!((record.outcome, record.bytes_out), (Outcome::Complete, body.len() as u64));
    }
}

#[tokio::test]
async fn an_error_in_a_200_is_an_error() {
    let backend = Scripted::start(json("200 OK", r#"{"error":{"message":"secret","type":"server_error"}}"#)).await;
    let headway = Headway::before(&backend).await;
    let reply = headway.post(CHAT, UNARY).await;
    assert_eq!((reply.status, &*reply.error_code()), (502, "upstream_error"));
    assert!(!reply.text().contains("secret"));
    let record = headway.record().await;
    assert_eq!((record.outcome, record.attempts[0].blame), (Outcome::UpstreamError, Blame::Fault));
}

#[tokio::test]
async fn what_is_not_generated_may_say_anything_in_json_and_bytes_where_asked_for() {
    for path in ["/v1/embeddings", "/v1/ranking"] {
        let backend = Scripted::start(json("200 OK", r#"{"data":[]}"#)).await;
        let headway = Headway::before(&backend).await;
        let reply = headway.post(path, r#"{"model":"m","input":"a","stream":true}"#).await;
        assert_eq!((reply.status, reply.text().as_str()), (200, r#"{"data":[]}"#), "{path}");
        assert_eq!(headway.record().await.outcome, Outcome::Complete, "{path}");
    }
    let bytes =
        "HTTP/1.1 200 OK\r\ncontent-type: application/octet-stream\r\ncontent-length: 5\r\n\r\n{}\u{1}\u{2}\u{3}";
    let backend = Scripted::start(vec![send(bytes)]).await;
    let headway = Headway::before(&backend).await;
    let reply = headway.post("/v1/embeddings", r#"{"model":"m","input":"a"}"#).await;
    assert_eq!((reply.status, reply.text().as_str()), (200, "{}\u{1}\u{2}\u{3}"));
    assert_eq!(headway.record().await.outcome, Outcome::Complete);
}

#[tokio::test]
async fn a_backends_own_refusal_is_passed_on() {
    let too_large =
        r#"{"error":{"message":"max_tokens is too large","type":"BadRequestError","param":null,"code":400}}"#;
    // llama.cpp's, word for word, of a model that chats and is asked for embeddings.
    let unable = r#"{"error":{"code":501,"message":"This server does not support embeddings. Start it with `--embeddings`","type":"not_supported_error"}}"#;
    for (line, status, body) in [("400 Bad Request", 400, too_large), ("501 Not Implemented", 501, unable)] {
        let (one, two) = (Scripted::start(json(line, body)).await, Scripted::start(streamed()).await);
        let headway = Setup::default().backend("one", &one, "").backend("two", &two, "").start().await;
        let reply = headway.stream().await;
        assert_eq!((reply.status, reply.text().as_str(), reply.end), (status, body, End::Clean));
        let record = headway.record().await;
        assert_eq!(
            (record.outcome, record.attempts.len(), record.attempts[0].blame),
            (Outcome::BackendRejected, 1, Blame::Success)
        );
        assert_eq!(two.count(), 0, "what one backend refuses is not asked of another");
    }
}

#[tokio::test]
async fn a_refusal_as_an_event_stream_is_passed_on() {
    let body = "data: {\"error\":{\"message\":\"no such thing\",\"type\":\"invalid_request_error\",\"code\":400}}\n\n";
    let head = format!(
        "HTTP/1.1 400 Bad Request\r\ncontent-type: text/event-stream\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let backend = Scripted::start(vec![send(head + body)]).await;
    let headway = Headway::before(&backend).await;
    let reply = headway.stream().await;
    assert_eq!((reply.status, reply.text().as_str(), reply.end), (400, body, End::Clean));
    assert_eq!(headway.record().await.outcome, Outcome::BackendRejected);
}

#[tokio::test]
async fn clients_mistakes_never_eject_a_backend() {
    let backend = Scripted::start(json("404 Not Found", "{}")).await;
    let headway = Headway::before(&backend).await;
    for _ in 0..30 {
        assert_eq!(headway.stream().await.status, 404);
    }
    backend.always(json("429 Too Many Requests", "{}"));
    for _ in 0..30 {
        assert_eq!(headway.stream().await.status, 429);
    }
    assert!(headway.server.fleet().backends()[0].usable());
    backend.always(streamed());
    assert_eq!(headway.stream().await.status, 200);
}

#[tokio::test]
async fn a_length_that_is_too_long_is_no_answer() {
    let short = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n{}";
    let backend = Scripted::start(vec![send(short), Step::Close]).await;
    let headway = Headway::before(&backend).await;
    let reply = headway.post(CHAT, UNARY).await;
    assert_eq!((reply.status, &*reply.error_code()), (502, "upstream_disconnected"));
    assert_eq!(headway.record().await.outcome, Outcome::Truncated);
}

#[tokio::test]
async fn a_long_answer_that_breaks_off_breaks_off_at_the_client() {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 300000\r\n\r\n";
    let backend = Scripted::start(vec![send(head.to_owned() + &"x".repeat(200_000)), Step::Close]).await;
    let headway = Headway::before(&backend).await;
    let reply = headway.post(CHAT, UNARY).await;
    assert_eq!((reply.status, reply.body.len()), (200, 200_000));
    assert_ne!(reply.end, End::Clean);
    assert_eq!(headway.record().await.outcome, Outcome::Truncated);
}

#[tokio::test]
async fn bytes_after_an_answer_never_reach_another_client() {
    let poison = "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison";
    let (mut sized, mut chunked) = (json("200 OK", COMPLETION), streamed());
    for script in [&mut sized, &mut chunked] {
        let Some(Step::Send(bytes)) = script.first_mut() else { unreachable!() };
        bytes.extend_from_slice(poison.as_bytes());
    }
    for script in [sized, chunked, vec![json("200 OK", COMPLETION).remove(0), send(poison)]] {
        let backend = Scripted::start(json("200 OK", COMPLETION)).await;
        let headway = Headway::before(&backend).await;
        backend.next(script);
        assert_eq!(headway.post(CHAT, UNARY).await.status, 200);
        headway.records(1).await;
        let reply = headway.post(CHAT, UNARY).await;
        assert_eq!((reply.status, reply.text().as_str()), (200, COMPLETION));
        assert_eq!(headway.records(2).await[1].outcome, Outcome::Complete);
    }
}

#[tokio::test]
async fn a_connection_to_a_backend_is_used_again() {
    let backend = Scripted::start(streamed()).await;
    let headway = Headway::before(&backend).await;
    let mut client = headway.connect().await;
    for count in 0..20 {
        match count % 3 {
            0 => backend.next(json("200 OK", COMPLETION)),
            1 => backend.next(json("429 Too Many Requests", "{}")),
            _ => {}
        }
        client.send(post(CHAT, if count % 3 == 0 { UNARY } else { texts::STREAM })).await;
        assert_eq!(client.reply().await.end, End::Clean);
    }
    assert_eq!((backend.count(), backend.connections()), (20, 1));
}

#[tokio::test]
async fn a_pooled_connection_that_was_closed_is_replaced_unnoticed() {
    let backend = Scripted::start(streamed()).await;
    let headway = Headway::before(&backend).await;
    assert_eq!(headway.stream().await.end, End::Clean);
    headway.records(1).await;
    backend.close_idle().await;
    let reply = headway.stream().await;
    assert_eq!((reply.status, reply.end), (200, End::Clean));
    let records = headway.records(2).await;
    assert_eq!((records[1].attempts.len(), records[1].attempts[0].blame), (1, Blame::Success));
}

#[tokio::test]
async fn a_pooled_connection_that_dies_under_a_request_is_replaced_once() {
    for death in [Step::Close, Step::Reset] {
        let backend = Scripted::start(streamed()).await;
        let headway = Headway::before(&backend).await;
        assert_eq!(headway.stream().await.end, End::Clean);
        headway.records(1).await;
        backend.next(vec![death.clone()]);
        let reply = headway.stream().await;
        assert_eq!((reply.status, reply.end), (200, End::Clean));
        let record = &headway.records(2).await[1];
        assert_eq!((record.attempts.len(), record.attempts[0].blame), (1, Blame::Success), "nobody is charged");
        assert_eq!((backend.count(), backend.connections()), (3, 2));

        // The fresh connection has no such excuse.
        headway.records(2).await;
        backend.always(vec![death]);
        let reply = headway.stream().await;
        assert_eq!((reply.status, &*reply.error_code()), (502, "upstream_disconnected"));
        assert_eq!((backend.count(), backend.connections()), (5, 3));
        assert_eq!(headway.records(3).await[2].attempts[0].blame, Blame::Fault);
    }
}

#[tokio::test]
async fn a_pooled_connection_that_answers_with_nonsense_is_no_stale_one() {
    for nonsense in ["SSH-2.0-nonsense\r\n\r\n", "HTTP/1.1 two hundred\r\n\r\n"] {
        let backend = Scripted::start(streamed()).await;
        let headway = Headway::before(&backend).await;
        assert_eq!(headway.stream().await.end, End::Clean);
        headway.records(1).await;
        backend.next(vec![send(nonsense), Step::Close]);
        let reply = headway.stream().await;
        assert_eq!((reply.status, &*reply.error_code()), (502, "upstream_disconnected"), "after {nonsense}");
        assert_eq!(headway.records(2).await[1].attempts[0].blame, Blame::Fault);
        assert_eq!(backend.count(), 2, "the request was answered: it is not sent twice");
    }
}

#[tokio::test]
async fn a_refusal_inside_a_200_is_passed_on_and_blames_nobody() {
    let error = r#"{"error":{"message":"too long","type":"BadRequestError","param":null,"code":400}}"#;
    let as_event = format!("data: {error}\n\n{}", texts::DONE);
    for (script, status, body) in [(texts::answer(&as_event), 200, &*as_event), (json("200 OK", error), 400, error)] {
        let (one, two) = (Scripted::start(script).await, Scripted::start(streamed()).await);
        let headway = Setup::default().backend("one", &one, "").backend("two", &two, "").start().await;
        let reply = headway.stream().await;
        assert_eq!((reply.status, reply.text().as_str(), reply.end), (status, body, End::Clean));
        let record = headway.record().await;
        assert_eq!((record.outcome, record.attempts[0].blame), (Outcome::BackendRejected, Blame::Success));
        assert_eq!(two.count(), 0);
    }
}
