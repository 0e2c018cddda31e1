//! Every timer by its name: what the client is told, what the record says, and that the backend is let go.

use std::time::Duration;

use bytes::Bytes;
use headway::measure::outcome::Outcome;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::support::backend::{Backend, DONE, Script, finish, stream, token};
use crate::support::client::{self, chat, read_reply, request, send};
use crate::support::h2_client::Connection;
use crate::support::{Headway, backend, config, patiently};

/// A headway before one backend, with these timers of its only route and these limits.
async fn before(backend_: &Backend, timeouts: &str, limits: &str) -> Headway {
    let rest = if limits.is_empty() { String::new() } else { format!("limits: {{ {limits} }}") };
    let route = format!(", timeouts: {{ {timeouts} }}");
    let route = if timeouts.is_empty() { "" } else { &route };
    Headway::start(&config(&[backend("m", backend_.address)], route, &rest)).await
}

async fn silent() -> Backend {
    Backend::start(Script::Silent).await
}

/// Sends a byte now and then until the connection's other side has had enough; what it said.
async fn drip(headway: &Headway, text: &str) -> String {
    let stream = client::connect(headway.address).await;
    let (mut read, mut write) = stream.into_split();
    let text = text.to_owned();
    let dripping = tokio::spawn(async move {
        for byte in text.bytes().cycle() {
            if write.write_all(&[byte]).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let mut answer = Vec::new();
    let _ = patiently("the connection's end", read.read_to_end(&mut answer)).await;
    dripping.abort();
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn a_head_must_be_whole_in_time_however_it_drips() {
    let backend = silent().await;
    let headway = before(&backend, "", "header_deadline: 300ms").await;
    let answer =
        drip(&headway, "POST /v1/chat/completions HTTP/1.1\r\nhost: h\r\nx-a: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa")
            .await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert_eq!(headway.server.active(), 0);
}

#[tokio::test]
async fn a_client_that_says_nothing_or_half_a_preface_is_closed() {
    let backend = silent().await;
    let headway = before(&backend, "", "header_deadline: 300ms").await;
    for text in ["", "PRI * HTTP/2.0\r\n", "G"] {
        let mut stream = send(headway.address, text).await;
        let mut answer = Vec::new();
        let _ = patiently(format!("the end after {text:?}"), stream.read_to_end(&mut answer)).await;
    }
}

#[tokio::test]
async fn connections_between_requests_outlive_the_head_deadline() {
    let backend = Backend::start(Script::events(&stream(2), true)).await;
    let headway = before(&backend, "", "header_deadline: 200ms").await;
    let mut h1 = client::connect(headway.address).await;
    let h2 = Connection::open(headway.address).await;
    for round in 0..3 {
        let reply = client::ask(&mut h1, &request(&format!("h1-{round}"), &chat("m"))).await;
        assert!(reply.whole && reply.status == 200, "round {round}: {reply:?}");
        let (status, text, end) = h2.send(&format!("h2-{round}"), Some(&chat("m"))).await.reply().await;
        assert!(status == 200 && text.ends_with(DONE) && end.is_ok(), "round {round}: {status} {text} {end:?}");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

#[tokio::test]
async fn a_stream_outlives_the_head_deadline() {
    let slow = Script::events(&stream(20), true).paced(Duration::from_millis(40));
    let backend = Backend::start(slow).await;
    let headway = before(&backend, "", "header_deadline: 200ms").await;
    let mut h1 = send(headway.address, &request("h1", &chat("m"))).await;
    let h2 = Connection::open(headway.address).await;
    let (status, text, end) = h2.send("h2", Some(&chat("m"))).await.reply().await;
    assert!(status == 200 && text.ends_with(DONE) && end.is_ok(), "{status} {text} {end:?}");
    assert!(read_reply(&mut h1).await.whole);
}

#[tokio::test]
async fn a_body_that_stops_is_refused_with_408() {
    let backend = silent().await;
    let headway = before(&backend, "", "body_idle: 200ms").await;
    let mut stream = send(headway.address, &(client::head("h1", 100) + "{\"model\":")).await;
    let reply = read_reply(&mut stream).await;
    assert_eq!(reply.status, 408, "{reply:?}");
    assert!(reply.text.contains("\"code\":\"request_timeout\"") && reply.text.contains("x-should-retry: false"));
    let h2 = Connection::open(headway.address).await;
    let mut stream = h2.send("h2", None).await;
    stream.up.send_data(Bytes::from_static(b"{"), false).expect("it is queued");
    assert_eq!(stream.head().await.expect("a head"), 408);
    for id in ["h1", "h2"] {
        let record = headway.record(id).await;
        assert_eq!((record.outcome, record.status), (Outcome::RejectedRequest, 408));
    }
    headway.idle().await;
}

/// A listener that answers one health check and then lets its queue run full: connecting to it waits.
async fn blackhole(listener: TcpListener) -> Vec<tokio::net::TcpStream> {
    let (mut health, _) = listener.accept().await.expect("a health check");
    client::read_until(&mut health, "\r\n\r\n").await;
    let healthy = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}";
    health.write_all(healthy.as_bytes()).await.expect("it reads");
    let address = listener.local_addr().expect("an address");
    let mut held = Vec::new();
    while let Ok(Ok(stream)) =
        tokio::time::timeout(Duration::from_millis(100), tokio::net::TcpStream::connect(address)).await
    {
        held.push(stream);
    }
    tokio::spawn(async move {
        let _open = listener;
        std::future::pending::<()>().await;
    });
    held
}

#[tokio::test]
async fn a_backend_that_takes_no_connection_is_given_up() {
    let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
    socket.bind("127.0.0.1:0".parse().expect("an address")).expect("a port");
    let listener = socket.listen(1).expect("it listens");
    let text =
        config(&[backend("m", listener.local_addr().expect("an address"))], ", timeouts: { connect: 200ms }", "");
    let filling = tokio::spawn(blackhole(listener));
    let headway = Headway::start(&text).await;
    let _held = patiently("a full queue", filling).await.expect("no panic");
    let mut stream = send(headway.address, &request("r", &chat("m"))).await;
    let reply = read_reply(&mut stream).await;
    assert!(reply.status == 502 && reply.text.contains("upstream_connect_failed"), "{reply:?}");
    assert_eq!(headway.record("r").await.outcome, Outcome::ConnectFailed);
    headway.idle().await;
}

#[tokio::test]
async fn a_stream_without_a_first_token_ends_with_504() {
    let headed = Script::events(&[": still there\n\n".to_owned()], false);
    for script in [Script::Silent, headed] {
        let backend = Backend::start(script).await;
        let headway = before(&backend, "first_token: 200ms, total: 20s", "").await;
        let mut stream = send(headway.address, &request("r", &chat("m"))).await;
        let reply = read_reply(&mut stream).await;
        assert!(reply.status == 504 && reply.text.contains("\"first_token_timeout\""), "{reply:?}");
        backend.wait("r", "is let go", |seen| seen.gone.is_some() && !seen.completed).await;
        let record = headway.record("r").await;
        assert_eq!((record.outcome, record.status), (Outcome::FirstTokenTimeout, 504));
        headway.idle().await;
    }
}

/// What both protocols' clients get when a stream that has begun is broken off by a timer.
async fn broken_off(headway: &Headway, backend: &Backend, code: &str, outcome: Outcome) {
    let mut stream = send(headway.address, &request("h1", &chat("m"))).await;
    let reply = read_reply(&mut stream).await;
    assert!(reply.status == 200 && !reply.whole, "{reply:?}");
    assert!(reply.text.contains(&format!("\"code\":\"{code}\"")) && !reply.text.contains(DONE), "{reply:?}");
    let h2 = Connection::open(headway.address).await;
    let (status, text, end) = h2.send("h2", Some(&chat("m"))).await.reply().await;
    assert!(status == 200 && text.contains(&format!("\"code\":\"{code}\"")), "{status} {text} {end:?}");
    assert_eq!(end.expect_err("broken off").reason(), Some(h2::Reason::INTERNAL_ERROR));
    for id in ["h1", "h2"] {
        backend.wait(id, "is let go", |seen| seen.gone.is_some() && !seen.completed).await;
        let record = headway.record(id).await;
        assert_eq!((record.outcome, record.attempts[0].outcome), (outcome, outcome), "{id}");
    }
    headway.idle().await;
}

#[tokio::test]
async fn a_stream_that_falls_silent_ends_with_an_error_event() {
    let backend = Backend::start(Script::events(&[token("first")], false)).await;
    let headway = before(&backend, "idle: 200ms", "").await;
    broken_off(&headway, &backend, "idle_timeout", Outcome::IdleTimeout).await;
}

#[tokio::test]
async fn comments_keep_a_stream_from_being_idle_and_total_ends_it() {
    let pieces: Vec<_> = std::iter::once(token("first")).chain((0..2_000).map(|_| ": ping\n\n".to_owned())).collect();
    let backend = Backend::start(Script::events(&pieces, false).paced(Duration::from_millis(50))).await;
    let headway = before(&backend, "idle: 400ms, total: 1500ms", "").await;
    broken_off(&headway, &backend, "total_timeout", Outcome::TotalTimeout).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn total_ends_a_stream_whose_next_bytes_are_always_there() {
    let again = Bytes::from(token("again").repeat(100));
    let backend = Backend::start(Script::pieces(vec![again; 50_000], "text/event-stream")).await;
    let headway = before(&backend, "total: 500ms", "").await;
    let mut stream = send(headway.address, &request("r", &chat("m"))).await;
    let (mut buffer, mut all) = (vec![0; 1 << 16], 0_usize);
    let tail = patiently("the end of an endless stream", async {
        let mut tail = Vec::new();
        while let Ok(read @ 1..) = stream.read(&mut buffer).await {
            all += read;
            tail.extend_from_slice(&buffer[..read]);
            tail.drain(..tail.len().saturating_sub(400));
        }
        String::from_utf8_lossy(&tail).into_owned()
    })
    .await;
    // Where the timer strikes inside an event or a write, nothing can be told: then the end is a broken one.
    let told = tail.contains("\"total_timeout\"");
    let broken = !tail.ends_with("0\r\n\r\n") && !tail.contains("[DONE]");
    assert!(told || broken, "after {all} bytes: {tail}");
    assert_eq!(headway.record("r").await.outcome, Outcome::TotalTimeout);
    headway.idle().await;
}

#[tokio::test]
async fn total_ends_an_answer_that_is_not_streamed() {
    let backend = silent().await;
    let headway = before(&backend, "total: 300ms", "").await;
    let body = chat("m").replace("true", "false");
    let mut stream = send(headway.address, &request("r", &body)).await;
    let reply = read_reply(&mut stream).await;
    assert!(reply.status == 504 && reply.text.contains("\"total_timeout\""), "{reply:?}");
    let record = headway.record("r").await;
    assert_eq!(record.outcome, Outcome::TotalTimeout);
    let attempts: Vec<_> = record.attempts.iter().map(|one| (one.outcome, one.blame)).collect();
    assert_eq!(attempts, [(Outcome::TotalTimeout, Outcome::TotalTimeout.blame())]);
    headway.idle().await;
}

/// More than every buffer between a backend and a client that does not read.
fn flood() -> Vec<String> {
    vec![token(&"x".repeat(60_000)); 400]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_never_reads_is_left_and_its_backend_let_go() {
    let pieces: Vec<_> = flood().into_iter().chain([finish(), DONE.to_owned()]).collect();
    let backend = Backend::start(Script::events(&pieces, true)).await;
    let headway = before(&backend, "", "write_idle: 400ms").await;
    let h1 = send(headway.address, &request("h1", &chat("m"))).await;
    let connection = Connection::open(headway.address).await;
    let mut h2 = connection.send("h2", Some(&chat("m"))).await;
    h2.head().await.expect("a head");
    for id in ["h1", "h2"] {
        backend.wait(id, "is let go", |seen| seen.gone.is_some() && !seen.completed).await;
        let record = headway.record(id).await;
        assert_eq!((record.outcome, record.phases.backpressured), (Outcome::ClientStalled, true), "{id}");
        assert!(record.phases.backpressure >= Duration::from_millis(400));
    }
    headway.idle().await;
    drop(h1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn total_and_leaving_hold_while_a_client_does_not_read() {
    let backend = Backend::start(Script::events(&flood(), false)).await;
    let headway = before(&backend, "total: 700ms", "").await;
    let stalled = send(headway.address, &request("total", &chat("m"))).await;
    let left = send(headway.address, &request("left", &chat("m"))).await;
    let connection = Connection::open(headway.address).await;
    let mut reset = connection.send("reset", Some(&chat("m"))).await;
    reset.head().await.expect("a head");
    for id in ["left", "reset"] {
        backend.wait(id, "is under way", |seen| seen.sent > 200_000).await;
    }
    client::reset_on_close(&left);
    drop(left);
    reset.reset();
    for (id, outcome) in
        [("left", Outcome::ClientCancelled), ("reset", Outcome::ClientCancelled), ("total", Outcome::TotalTimeout)]
    {
        backend.wait(id, "is let go", |seen| seen.gone.is_some()).await;
        assert_eq!(headway.record(id).await.outcome, outcome, "{id}");
    }
    headway.idle().await;
    drop(stalled);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_an_answer_does_not_wait_for_ever_for_a_client() {
    // Whole answers of growing length: somewhere the last bytes meet a socket that is exactly full.
    for length in [1_000_usize, 3_000, 4_000] {
        let pieces = vec![Bytes::from(vec![b' '; 50_000]); 200].into_iter().chain([Bytes::from(vec![b' '; length])]);
        let script = Script::pieces(pieces.collect(), "application/json");
        let backend = Backend::start(script).await;
        let headway = before(&backend, "", "write_idle: 300ms").await;
        let stalled = send(headway.address, &request("r", &chat("m").replace("true", "false"))).await;
        headway.record("r").await;
        headway.idle().await;
        drop(stalled);
    }
}
