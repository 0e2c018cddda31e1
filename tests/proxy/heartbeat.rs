//! A client that waits for its first token is told, in comments, that somebody is there.

use headway::measure::outcome::{Blame, Outcome};

use crate::support::backend::{Scripted, Step, send};
use crate::support::client::End;
use crate::support::headway::{Headway, Setup};
use crate::support::texts::{
    CHAT, COMPLETION, DONE, FINISH, LAST, ROLE, SSE, STREAM, TOKEN, UNARY, begun, chunk, events, json, post, streamed,
};
use crate::support::until;

const PING: &str = ": ping\n\n";

async fn before(backend: &Scripted, more: &str) -> Headway {
    Setup::default().backend("a", backend, "").route(&format!("heartbeat: 50ms{more}")).start().await
}

fn without_pings(text: &str) -> String {
    text.replace(PING, "")
}

#[tokio::test]
async fn comments_come_until_the_first_token_and_not_after() {
    for more in ["", ", commit: headers"] {
        let rest = [FINISH, DONE].concat();
        let script = vec![
            Step::Pause,
            begun(ROLE),
            Step::Pause,
            send(chunk(TOKEN)),
            Step::Pause,
            send([chunk(&rest), LAST.into()].concat()),
        ];
        let backend = Scripted::start(script).await;
        let headway = before(&backend, more).await;
        let mut client = headway.connect().await;
        client.send(post(CHAT, STREAM)).await;
        let shown = client.arrives(|text| text.matches(PING).count() >= 3).await;
        assert!(shown.starts_with("HTTP/1.1 200 OK\r\n"), "{shown}");
        assert!(shown.contains("text/event-stream") && shown.contains("x-request-id"), "{shown}");
        backend.resume();
        if !more.is_empty() {
            // The backend's own bytes are shown, and still there is no token.
            client.arrives(|text| text.split("assistant").nth(1).is_some_and(|rest| rest.contains(PING))).await;
        }
        backend.resume();
        let before = client.arrives(|text| text.contains(" train")).await.matches(PING).count();
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        backend.resume();
        let reply = client.reply().await;
        assert_eq!((reply.end, without_pings(&reply.text())), (End::Clean, [ROLE, TOKEN, FINISH, DONE].concat()));
        assert_eq!(reply.text().matches(PING).count(), before, "none after the first token");
        let record = headway.record().await;
        assert_eq!((record.status, record.outcome), (200, Outcome::Complete));
        assert_eq!(record.bytes_out, reply.body.len() as u64);
        assert_eq!(backend.count(), 1);
    }
}

#[tokio::test]
async fn a_quick_answer_has_none() {
    let backend = Scripted::start(streamed()).await;
    let headway = Setup::default().backend("a", &backend, "").route("heartbeat: 15s").start().await;
    assert_eq!(headway.stream().await.text(), events());
}

#[tokio::test]
async fn what_is_not_streamed_has_none() {
    let backend = Scripted::start([vec![Step::Pause], json("200 OK", COMPLETION)].concat()).await;
    let headway = before(&backend, "").await;
    let mut client = headway.connect().await;
    client.send(post(CHAT, UNARY)).await;
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    assert_eq!(String::from_utf8_lossy(client.arrived()), "");
    backend.resume();
    assert_eq!(client.reply().await.text(), COMPLETION);
}

#[tokio::test]
async fn after_a_comment_a_failure_is_an_event_and_nobody_else_is_asked() {
    let refused = r#"{"error":{"message":"max_tokens is too large","type":"BadRequestError","code":400}}"#;
    for (failure, code, outcome) in [
        (vec![Step::Pause, Step::Close], "upstream_disconnected", Outcome::Truncated),
        ([vec![Step::Pause], json("503 Busy", "{}")].concat(), "upstream_error", Outcome::UpstreamError),
        ([vec![Step::Pause], json("400 Bad Request", refused)].concat(), "400", Outcome::BackendRejected),
        ([vec![Step::Pause], json("400 Bad Request", "no")].concat(), "backend_rejected", Outcome::BackendRejected),
        ([vec![Step::Pause], json("200 OK", COMPLETION)].concat(), "upstream_error", Outcome::UpstreamError),
        (vec![Step::Pause, send([SSE, LAST].concat())], "upstream_empty", Outcome::Empty),
    ] {
        let (bad, good) = (Scripted::start(failure).await, Scripted::start(streamed()).await);
        let setup = Setup::default().backend("bad", &bad, "").backend("good", &good, "");
        let headway = setup.route("heartbeat: 50ms").start().await;
        let mut client = headway.connect().await;
        client.send(post(CHAT, STREAM)).await;
        client.arrives(|text| text.contains(PING)).await;
        bad.resume();
        let reply = client.reply().await;
        let told = without_pings(&reply.text());
        assert!(told.starts_with("data: {\"error\":") && told.ends_with("\n\n"), "{told}");
        if code == "400" {
            assert_eq!(told, format!("data: {refused}\n\n"), "in the backend's own words");
        } else {
            assert!(told.contains(&format!("\"code\":\"{code}\"")), "{told}");
        }
        assert_eq!((reply.status, reply.end == End::Clean), (200, false));
        let record = headway.record().await;
        assert_eq!((record.status, record.outcome), (200, outcome), "{code}");
        assert_eq!((record.attempts.len(), good.count()), (1, 0), "{code}");
        assert_eq!(record.bytes_out, reply.body.len() as u64);
    }
}

/// It answers as it was asked, and no heartbeat makes a fault of that.
#[tokio::test]
async fn a_backend_that_does_not_stream_is_not_blamed() {
    let script = [vec![Step::Pause], json("200 OK", COMPLETION)].concat();
    let backend = Scripted::start(script.clone()).await;
    let headway = before(&backend, "").await;
    for _ in 0..6 {
        backend.always(script.clone());
        let mut client = headway.connect().await;
        client.send(post(CHAT, STREAM)).await;
        client.arrives(|text| text.contains(PING)).await;
        backend.resume();
        client.reply().await;
    }
    let records = headway.records(6).await;
    assert!(records.iter().all(|record| record.attempts[0].blame == Blame::Neutral), "{records:?}");
    assert!(records.iter().all(|record| record.outcome == Outcome::UpstreamError), "none was turned away: {records:?}");
}

/// After a comment it would be a part of the first event.
#[tokio::test]
async fn a_byte_order_mark_does_not_spoil_the_first_event() {
    for more in ["", ", commit: headers"] {
        let rest = [TOKEN, FINISH, DONE].concat();
        let marked = [chunk(format!("\u{FEFF}{ROLE}")), chunk(&rest), LAST.into()].concat();
        let script = vec![Step::Pause, send(SSE), Step::Pause, send(marked)];
        let backend = Scripted::start(script).await;
        let headway = before(&backend, more).await;
        let mut client = headway.connect().await;
        client.send(post(CHAT, STREAM)).await;
        client.arrives(|text| text.contains(PING)).await;
        backend.resume();
        backend.resume();
        let reply = client.reply().await;
        assert_eq!((reply.end, without_pings(&reply.text())), (End::Clean, [ROLE, &rest].concat()));
    }
}

#[tokio::test]
async fn the_first_tokens_timer_runs_on() {
    let backend = Scripted::start(vec![Step::Pause]).await;
    let headway = before(&backend, ", timeouts: { first_token: 300ms }").await;
    let reply = headway.stream().await;
    assert!(reply.text().contains("first_token_timeout") && reply.text().starts_with(PING), "{}", reply.text());
    assert_ne!(reply.end, End::Clean);
    until("the backend to be let go", || backend.left() == 1).await;
    assert_eq!(headway.record().await.outcome, Outcome::FirstTokenTimeout);
}

#[tokio::test]
async fn a_client_that_leaves_between_two_comments_is_noticed() {
    let backend = Scripted::start(vec![Step::Pause]).await;
    let headway = before(&backend, "").await;
    let mut client = headway.connect().await;
    client.send(post(CHAT, STREAM)).await;
    client.arrives(|text| text.contains(PING)).await;
    drop(client);
    until("the backend to be let go", || backend.left() == 1).await;
    assert_eq!(headway.record().await.outcome, Outcome::ClientCancelled);
}

#[tokio::test]
async fn an_older_client_reads_until_the_end() {
    let backend = Scripted::start([vec![Step::Pause], streamed()].concat()).await;
    let headway = before(&backend, "").await;
    let mut client = headway.connect().await;
    client.send(post(CHAT, STREAM).replace("HTTP/1.1", "HTTP/1.0")).await;
    client.arrives(|text| text.contains(PING)).await;
    backend.resume();
    let reply = client.reply().await;
    assert_eq!((reply.status, reply.end, without_pings(&reply.text())), (200, End::Clean, events()));
}
