//! A slow client, a slow upload and a slow backend are told apart: each moves its own phase and no other.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use headway::measure::exchange::ExchangeRecord;
use headway::measure::outcome::Outcome;
use tokio::io::AsyncWriteExt;

use crate::support::backend::{Backend, DONE, Script, finish, stream, token};
use crate::support::client::{self, chat, read_reply, request, send};
use crate::support::h2_client::Connection;
use crate::support::{Headway, backend, config};

/// Slow enough to stand out on a loaded machine.
const SLOW: Duration = Duration::from_millis(600);
/// What something that is not slow stays under.
const QUICK: Duration = Duration::from_millis(400);

async fn before(backend_: &Backend) -> Headway {
    Headway::start(&config(&[backend("m", backend_.address)], "", "")).await
}

#[tokio::test]
async fn a_slow_upload_moves_only_the_upload() {
    let backend = Backend::start(Script::events(&stream(3), true)).await;
    let headway = before(&backend).await;
    let body = chat("m");
    let mut client = send(headway.address, &client::head("r", body.len())).await;
    for piece in body.as_bytes().chunks(body.len().div_ceil(2)) {
        tokio::time::sleep(SLOW / 2).await;
        client.write_all(piece).await.expect("it reads");
    }
    assert!(read_reply(&mut client).await.whole);
    let record = headway.record("r").await;
    assert!(record.phases.upload >= SLOW.mul_f64(0.9), "{:?}", record.phases);
    assert!(record.phases.backend_wait < QUICK && !record.phases.backpressured, "{:?}", record.phases);
    assert!(record.latencies.first_token.expect("a token") < QUICK, "{:?}", record.latencies);
}

/// What a request to a backend of this script is recorded as; the time to its first token is the backend's doing.
async fn slowed(script: Script) -> Arc<ExchangeRecord> {
    let backend = Backend::start(script).await;
    let headway = before(&backend).await;
    let mut client = send(headway.address, &request("r", &chat("m"))).await;
    assert!(read_reply(&mut client).await.whole);
    let record = headway.record("r").await;
    assert!(record.latencies.first_token.expect("a token") >= SLOW, "{:?}", record.latencies);
    assert!(record.phases.upload < QUICK && record.phases.backpressure < QUICK, "{:?}", record.phases);
    assert!(record.phases.overhead < QUICK && record.phases.connect < QUICK, "{:?}", record.phases);
    assert!(!record.phases.backpressured, "{:?}", record.phases);
    record
}

#[tokio::test]
async fn a_slow_backend_moves_only_its_own_wait() {
    let record = slowed(Script::events(&stream(1), true).late(SLOW)).await;
    assert!(record.phases.backend_wait >= SLOW, "{:?}", record.phases);
    let after_head = record.latencies.first_token.expect("a token").saturating_sub(record.phases.backend_wait);
    assert!(after_head < QUICK, "{:?} {:?}", record.phases, record.latencies);
}

#[tokio::test]
async fn a_late_token_after_an_early_head_moves_only_the_time_to_it() {
    let record = slowed(Script::events(&stream(1), true).paced(SLOW)).await;
    assert!(record.phases.backend_wait < QUICK, "{:?}", record.phases);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_client_moves_only_the_backpressure_and_stops_the_backend() {
    let pieces: Vec<_> = (0..400).map(|_| token(&"x".repeat(60_000))).chain([finish(), DONE.to_owned()]).collect();
    let whole: usize = pieces.iter().map(String::len).sum();
    let backend = Backend::start(Script::events(&pieces, true)).await;
    let headway = before(&backend).await;
    let mut client = send(headway.address, &request("r", &chat("m"))).await;
    // Until every buffer on the way is full, and a while longer.
    let mut before = 0;
    while before == 0 || backend.seen("r").sent > before {
        before = backend.seen("r").sent;
        tokio::time::sleep(SLOW).await;
    }
    assert!(before < whole / 2, "the backend was let go on: {before} of {whole} bytes");
    let reply = read_reply(&mut client).await;
    assert!(reply.whole && reply.text.contains(DONE), "{} bytes", reply.text.len());
    let record = headway.record("r").await;
    assert_eq!(record.outcome, Outcome::Complete);
    assert!(record.phases.backpressure >= SLOW && record.phases.backpressured, "{:?}", record.phases);
    assert!(record.phases.upload < QUICK && record.phases.backend_wait < QUICK, "{:?}", record.phases);
    // What came after the stop is the client's pace, and is not in the gaps.
    assert!(record.latencies.longest_stall.is_none_or(|stall| stall < SLOW), "{:?}", record.latencies);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reading_goes_on_while_a_client_pauses_shortly() {
    // More than the client's window of 64 KiB, less than window and queue together.
    let piece = token(&"x".repeat(10_000));
    let pieces: Vec<_> = vec![piece; 20].into_iter().chain([finish(), DONE.to_owned()]).collect();
    let backend = Backend::start(Script::events(&pieces, true).paced(Duration::from_millis(10))).await;
    let headway = before(&backend).await;
    let connection = Connection::open(headway.address).await;
    let mut client = connection.send("r", Some(&chat("m"))).await;
    backend.wait("r", "has sent everything", |seen| seen.completed).await;
    tokio::time::sleep(SLOW).await;
    let (status, text, end) = client.reply().await;
    assert!(status == 200 && text.ends_with(DONE) && end.is_ok(), "{status} {end:?}");
    let record = headway.record("r").await;
    assert!(!record.phases.backpressured && record.phases.backpressure >= SLOW, "{:?}", record.phases);
    let (first, last) = (record.latencies.first_token.unwrap(), record.latencies.end_to_end.unwrap());
    assert!(last < first + SLOW, "the last token was read when it came: {:?}", record.latencies);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_reads_slowly_all_the_time_has_not_stalled() {
    // One event of many writes; the client's window takes four of them, and then one for each piece that it reads.
    let pieces = [token(&"x".repeat(260_000)), finish(), DONE.to_owned()];
    let backend_ = Backend::start(Script::events(&pieces, true)).await;
    let headway = Headway::start(&config(&[backend("m", backend_.address)], "", "limits: { write_idle: 700ms }")).await;
    let connection = Connection::open(headway.address).await;
    let mut client = connection.send("r", Some(&chat("m"))).await;
    client.head().await.expect("a head");
    let mut length = 0;
    while let Some(piece) = client.piece().await.expect("it goes on") {
        length += piece.len();
        tokio::time::sleep(SLOW / 6).await;
    }
    assert_eq!(length, pieces.iter().map(String::len).sum::<usize>());
    let record = headway.record("r").await;
    assert_eq!(record.outcome, Outcome::Complete);
    assert!(record.phases.backpressure > Duration::from_millis(700), "{:?}", record.phases);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_on_one_connection_do_not_wait_for_a_slow_one() {
    let piece = token(&"x".repeat(10_000));
    let backend = Backend::start(Script::events(&vec![piece; 200], false)).await;
    let quick = Backend::start(Script::events(&stream(5), true)).await;
    let stanzas = [crate::support::backend("m", backend.address), crate::support::backend("q", quick.address)];
    let headway = Headway::start(&config(&stanzas, "", "")).await;
    let connection = Connection::open(headway.address).await;
    let mut slow = connection.send("slow", Some(&chat("m"))).await;
    slow.head().await.expect("a head");
    backend.wait("slow", "is under way", |seen| seen.sent > 100_000).await;
    let (status, text, end) = connection.send("quick", Some(&chat("q"))).await.reply().await;
    assert!(status == 200 && text.ends_with(DONE) && end.is_ok(), "{status} {end:?}");
    drop(slow);
    headway.record("slow").await;
    headway.idle().await;
}

#[tokio::test]
async fn large_bodies_arrive_whole_in_every_framing() {
    let padding = "y".repeat(300_000);
    let body = chat("m").replace("true", "false").replace("Hello", &padding);
    for http2 in [false, true] {
        let answer = Script::pieces(vec![Bytes::from_static(b"{\"choices\":[]}")], "application/json");
        let backend_ = Backend::start(answer).await;
        let stanza = format!("{}, http2: {http2}", backend("m", backend_.address));
        let headway = Headway::start(&config(&[stanza], "", "")).await;
        let mut h1 = client::connect(headway.address).await;
        assert_eq!(client::ask(&mut h1, &request("length", &body)).await.status, 200);
        let chunked = client::head("chunked", 0).replace("content-length: 0", "transfer-encoding: chunked");
        let chunks: String = body.as_bytes().chunks(7_000).map(chunk).chain(["0\r\n\r\n".to_owned()]).collect();
        assert_eq!(client::ask(&mut h1, &(chunked + &chunks)).await.status, 200);
        let connection = Connection::open(headway.address).await;
        let mut h2 = connection.send("h2", None).await;
        h2.send_part(body.as_bytes()).await;
        h2.up.send_data(Bytes::new(), true).expect("it is queued");
        assert_eq!(h2.reply().await.0, 200);
        for id in ["length", "chunked", "h2"] {
            assert_eq!(backend_.seen(id).body, body.as_bytes(), "{id}");
            assert_eq!(headway.record(id).await.bytes_in, body.len() as u64, "{id}");
        }
    }
}

fn chunk(bytes: &[u8]) -> String {
    format!("{:x}\r\n{}\r\n", bytes.len(), String::from_utf8_lossy(bytes))
}
