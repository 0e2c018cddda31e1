//! What the two connections of an exchange do out of turn: answer early, die half-way, speak too soon, be old.

use std::sync::Arc;

use headway::measure::outcome::{Blame, Outcome};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::backend::{Scripted, Step, send};
use crate::support::client::{Client, End, Reply};
use crate::support::headway::{Headway, Setup};
use crate::support::texts::{CHAT, COMPLETION, STREAM, UNARY, begun, json, post, streamed};

/// A server that refuses every POST by its head alone, and closes on the body.
async fn refuses_by_head(mut stream: TcpStream) {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") && stream.read_exact(&mut byte).await.is_ok() {
        head.push(byte[0]);
    }
    let answer = if head.starts_with(b"GET") {
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}"
    } else {
        "HTTP/1.1 413 Content Too Large\r\ncontent-length: 9\r\nconnection: close\r\n\r\ntoo large"
    };
    let _ = stream.write_all(answer.as_bytes()).await;
    // The body stays unread until the peer gives up.
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
}

#[tokio::test]
async fn a_refusal_that_comes_before_the_body_was_read_is_passed_on() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(refuses_by_head(stream));
        }
    });
    let headway = Setup::default().backend_at("a", address, "models: [m]").start().await;
    let body = format!(r#"{{"model":"m","messages":[{{"role":"user","content":"{}"}}]}}"#, "x".repeat(8 << 20));
    let reply = headway.post(CHAT, &body).await;
    assert_eq!((reply.status, reply.text().as_str()), (413, "too large"));
    let record = headway.record().await;
    assert_eq!((record.outcome, record.attempts[0].blame), (Outcome::BackendRejected, Blame::Success));
}

#[tokio::test]
async fn a_pooled_connection_that_dies_within_its_answer_is_no_stale_one() {
    for part in ["HTTP/1.1 200 OK\r\ncontent-ty", "HTTP/1.1 103 Early Hints\r\n\r\n"] {
        let backend = Scripted::start(streamed()).await;
        let headway = Headway::before(&backend).await;
        assert_eq!(headway.stream().await.end, End::Clean);
        headway.records(1).await;
        backend.next(vec![send(part), Step::Close]);
        let reply = headway.stream().await;
        assert_eq!((reply.status, &*reply.error_code()), (502, "upstream_disconnected"), "after {part}");
        assert_eq!(headway.records(2).await[1].attempts[0].blame, Blame::Fault);
        assert_eq!(backend.count(), 2, "the backend had begun to answer: it is not asked twice");
    }
}

#[tokio::test]
async fn an_old_client_is_left_with_the_end_of_its_answer() {
    let backend = Scripted::start(json("200 OK", COMPLETION)).await;
    let headway = Headway::before(&backend).await;
    let length = UNARY.len();
    let requests = [
        format!("POST {CHAT} HTTP/1.0\r\ncontent-length: {length}\r\n\r\n{UNARY}"),
        "GET /v1/models HTTP/1.0\r\n\r\n".to_owned(),
        "GET /nothing HTTP/1.0\r\n\r\n".to_owned(),
    ];
    for request in requests {
        let mut client = headway.connect().await;
        client.send(&request).await;
        let reply = client.reply().await;
        assert!(client.is_closed().await, "{request}: {}", reply.head);
    }
}

#[tokio::test]
async fn an_old_client_sees_that_a_stream_broke() {
    let backend = Scripted::start(vec![begun(streamed_half()), Step::Close]).await;
    let headway = Headway::before(&backend).await;
    let length = STREAM.len();
    let reply = headway.exchange(format!("POST {CHAT} HTTP/1.0\r\ncontent-length: {length}\r\n\r\n{STREAM}")).await;
    assert_eq!(reply.end, End::Reset, "{}", reply.text());
    assert_eq!(headway.record().await.outcome, Outcome::Truncated);
}

/// A token, and half an event.
fn streamed_half() -> String {
    let events = crate::support::texts::events();
    events[..events.len() / 2].to_owned()
}

#[tokio::test]
async fn a_client_that_sends_its_next_request_too_early_still_gets_this_answer() {
    let whole = crate::support::texts::events();
    let (front, rest) = whole.split_at(whole.len() / 2);
    let chunk = crate::support::texts::chunk;
    let backend = Scripted::start(vec![begun(front), Step::Pause, send(chunk(rest)), send("0\r\n\r\n")]).await;
    let headway = Headway::before(&backend).await;
    let mut client = headway.connect().await;
    client.send(post(CHAT, STREAM)).await;
    client.arrives(|text| text.contains("train")).await;
    client.send(vec![b'x'; 6_000]).await;
    backend.resume();
    let reply = client.reply().await;
    assert_eq!((reply.text(), reply.end), (whole, End::Clean));
    assert_eq!(headway.record().await.outcome, Outcome::Complete);
    assert_eq!(backend.count(), 1, "what came too early is no request");
}

#[tokio::test]
async fn two_framings_of_one_body_are_refused_and_the_connection_ends() {
    let backend = Scripted::start(streamed()).await;
    let headway = Headway::before(&backend).await;
    let mut client = headway.connect().await;
    let head = format!("POST {CHAT} HTTP/1.1\r\nhost: h\r\nContent-Length : 3\r\ntransfer-encoding: chunked\r\n\r\n");
    for head in [head.replace(" :", ":"), head.replace("Content-Length :", "content-length:")] {
        client.send(format!("{head}2\r\n{{}}\r\n0\r\n\r\n")).await;
        let reply = client.reply().await;
        assert_eq!((reply.status, &*reply.error_code()), (400, "malformed_body"));
        assert!(client.is_closed().await);
        client = headway.connect().await;
    }
    assert_eq!(backend.count(), 0);
}

/// Refused in our words, with an id that its record has too.
async fn check_unread(headway: &Headway, head: &str, status: u16, code: &str) -> Reply {
    let before = headway.server.telemetry().recent().newest(usize::MAX).len();
    let mut client = Client::connect(headway.address()).await;
    // It may be refused before it was read to its end.
    let _ = client.stream.write_all(head.as_bytes()).await;
    let reply = client.reply().await;
    let shown = &head[..head.len().min(80)];
    assert_eq!((reply.status, &*reply.error_code()), (status, code), "{shown}");
    assert!(!reply.head.contains("Pingora") && client.is_closed().await, "{shown}: {reply:?}");
    let record = Arc::clone(&headway.records(before + 1).await[before]);
    assert_eq!((record.outcome, record.status), (Outcome::RejectedRequest, status), "{shown}");
    assert_eq!(Some(&*record.request_id), reply.field("x-request-id").as_deref(), "{shown}");
    assert_eq!(record.bytes_out, reply.body.len() as u64, "{shown}");
    reply
}

#[tokio::test]
async fn a_head_that_does_not_come_in_time_leaves_a_record_and_a_silent_client_none() {
    let backend = Scripted::start(streamed()).await;
    let setup = Setup::default().backend("a", &backend, "").more("limits: { header_deadline: 200ms }");
    let headway = setup.start().await;
    check_unread(&headway, "POST /v1/chat/completions HTTP/1.1\r\nhost: h\r\n", 408, "request_timeout").await;
    let mut silent = headway.connect().await;
    assert!(silent.is_closed().await);
    drop(headway.connect().await);
    // Nor one that leaves: in the middle of a head, and behind an answer.
    let mut leaving = headway.connect().await;
    leaving.send("POST /v1/chat").await;
    drop(leaving);
    let mut leaving = headway.connect().await;
    leaving.send("GET /v1/models HTTP/1.1\r\nhost: h\r\n\r\n").await;
    assert_eq!(leaving.reply().await.status, 200);
    leaving.send("GET /v1/mod").await;
    drop(leaving);
    let mut last = headway.connect().await;
    assert!(last.is_closed().await, "by then the others' ends were seen");
    assert_eq!(headway.records(2).await.len(), 2);
}

#[tokio::test]
async fn heads_that_cannot_be_read_are_refused_in_our_words() {
    let backend = Scripted::start(streamed()).await;
    let headway = Headway::before(&backend).await;
    for head in [
        "NONSENSE\r\n\r\n".to_owned(),
        format!("POST {CHAT} HTTP/1.1\r\nhost: h\r\ncontent-length: abc\r\n\r\n"),
        format!("POST {CHAT} HTTP/1.1\r\nhost: h\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n"),
        format!("GET / HTTP/1.1\r\nhost: h\r\n{}\r\n", "x-many: 1\r\n".repeat(300)),
    ] {
        check_unread(&headway, &head, 400, "malformed_request").await;
    }
    let tunnel = check_unread(&headway, "CONNECT other:443 HTTP/1.1\r\nhost: other\r\n\r\n", 405, "method_not_allowed");
    assert_eq!(tunnel.await.field("allow").as_deref(), Some("GET, HEAD, POST, OPTIONS, DELETE"));
    assert_eq!(backend.count(), 0);
    let metrics = headway.admin("/metrics").await.text();
    let counted = r#"headway_requests_total{route="unmatched",backend="none",api="none",outcome="rejected_request"} 5"#;
    assert!(metrics.contains(counted), "{metrics}");
}
