//! Paths that a route names and headway does not understand: clients that leave, and clients that do not read.

use bytes::Bytes;
use headway::measure::outcome::Outcome;

use crate::support::backend::{Backend, Script};
use crate::support::client::{PATH, read_reply, request, reset_on_close, send};
use crate::support::{Headway, backend, config};

async fn before(backend_: &Backend, rest: &str) -> Headway {
    let route = format!(", match: {{ paths: [/v1/files, {PATH}] }}");
    Headway::start(&config(&[backend("m", backend_.address)], &route, rest)).await
}

fn files(id: &str) -> String {
    request(id, "some bytes").replace(PATH, "/v1/files")
}

#[tokio::test]
async fn a_client_that_leaves_is_noticed() {
    let whole = Backend::start(Script::pieces(vec![Bytes::from_static(b"file")], "text/plain")).await;
    let headway = before(&whole, "").await;
    let reply = read_reply(&mut send(headway.address, &files("whole")).await).await;
    assert!(reply.status == 200 && reply.whole && reply.text.contains("file"), "{reply:?}");
    assert_eq!(headway.record("whole").await.outcome.as_str(), "complete");
    for (id, reset) in [("fin", false), ("rst", true)] {
        let silent = Backend::start(Script::Silent).await;
        let headway = before(&silent, "").await;
        let client = send(headway.address, &files(id)).await;
        silent.wait(id, "arrives", |seen| seen.requests == 1).await;
        if reset {
            reset_on_close(&client);
        }
        drop(client);
        silent.wait(id, "is gone", |seen| seen.gone.is_some()).await;
        assert_eq!(headway.record(id).await.outcome.as_str(), "client_cancelled");
        headway.idle().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_never_reads_is_left() {
    let pieces = vec![Bytes::from(vec![b'x'; 60_000]); 400];
    let flood = Backend::start(Script::pieces(pieces, "text/plain")).await;
    let headway = before(&flood, "limits: { write_idle: 400ms }").await;
    let client = send(headway.address, &files("h1")).await;
    flood.wait("h1", "is gone", |seen| seen.gone.is_some()).await;
    headway.idle().await;
    assert_eq!(headway.record("h1").await.outcome.as_str(), "client_stalled");
    drop(client);
}

#[tokio::test]
async fn a_body_that_stops_is_refused() {
    let silent = Backend::start(Script::Silent).await;
    let headway = before(&silent, "limits: { body_idle: 300ms }").await;
    let text = crate::support::client::head("slow", 100).replace(PATH, "/v1/files") + "part";
    let reply = read_reply(&mut send(headway.address, &text).await).await;
    assert_eq!(reply.status, 408, "{reply:?}");
    assert_eq!(headway.record("slow").await.outcome, Outcome::RejectedRequest);
    headway.idle().await;
}

#[tokio::test]
async fn an_answer_that_never_ends_is_cut_off_after_total() {
    let pieces = vec![Bytes::from_static(b"x"); 10_000];
    let dripping = Script::pieces(pieces, "text/plain").paced(std::time::Duration::from_millis(20));
    let dripping = Backend::start(dripping).await;
    let headway = before(&dripping, "defaults: { timeouts: { total: 500ms } }").await;
    let asked = crate::support::now();
    let reply = read_reply(&mut send(headway.address, &files("drip")).await).await;
    assert!(reply.status == 200 && !reply.whole, "{reply:?}");
    assert!(asked.elapsed() < std::time::Duration::from_secs(5), "{:?}", asked.elapsed());
    let record = headway.record("drip").await;
    assert_eq!((record.outcome, record.status), (Outcome::TotalTimeout, 200));
    assert!(record.attempts.len() == 1 && record.bytes_out > 0, "{record:?}");
    dripping.wait("drip", "is let go", |seen| seen.gone.is_some()).await;
    headway.idle().await;
}

#[tokio::test]
async fn a_body_beyond_the_limit_is_refused_whether_announced_or_not() {
    let backend_ = Backend::start(Script::pieces(vec![Bytes::from_static(b"file")], "text/plain")).await;
    let headway = before(&backend_, "limits: { body: 1KiB }").await;
    let chunk = format!("400\r\n{}\r\n", "x".repeat(1024));
    let unannounced = crate::support::client::head("unannounced", 0)
        .replace("content-length: 0", "transfer-encoding: chunked")
        .replace(PATH, "/v1/files")
        + &chunk.repeat(2)
        + "0\r\n\r\n";
    let announced = request("announced", &"x".repeat(1025)).replace(PATH, "/v1/files");
    for (id, text) in [("announced", announced), ("unannounced", unannounced)] {
        let reply = read_reply(&mut send(headway.address, &text).await).await;
        assert!(reply.status == 413 && reply.whole && reply.text.contains("body_too_large"), "{id}: {reply:?}");
        assert_eq!(headway.record(id).await.outcome, Outcome::RejectedRequest, "{id}");
        assert_eq!(backend_.seen(id).requests, 0, "{id}");
    }
    headway.idle().await;
}

#[tokio::test]
async fn a_silent_backend_is_given_up_after_total() {
    let silent = Backend::start(Script::Silent).await;
    let headway = before(&silent, "defaults: { timeouts: { total: 500ms } }").await;
    let reply = read_reply(&mut send(headway.address, &files("silent")).await).await;
    assert_eq!(reply.status, 504, "{reply:?}");
    assert_eq!(headway.record("silent").await.outcome, Outcome::TotalTimeout);
    silent.wait("silent", "is let go", |seen| seen.gone.is_some()).await;
    headway.idle().await;
}
