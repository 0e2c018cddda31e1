//! After the first token nothing is retried: the client is told, and never made to believe that the answer is whole.

use headway::measure::outcome::{Blame, Outcome};

use crate::support::backend::{Script, Scripted, Step, send};
use crate::support::client::End;
use crate::support::headway::Setup;
use crate::support::texts::{CHAT, DONE, FINISH, LAST, ROLE, STREAM, TOKEN, begun, chunk, post, streamed};

/// What the client gets of an answer that goes wrong after its first token.
async fn check(script: Script, text: &str, end: End, outcome: Outcome) {
    check_bytes(script, text.as_bytes(), end, outcome).await;
}

async fn check_bytes(script: Script, body: &[u8], end: End, outcome: Outcome) {
    let broken = matches!(script.last(), Some(Step::Reset | Step::Close | Step::Pause));
    let (bad, good) = (Scripted::start(script).await, Scripted::start(streamed()).await);
    let setup = Setup::default().backend("bad", &bad, "").backend("good", &good, "");
    let headway = setup.route("timeouts: { idle: 300ms }").start().await;
    let reply = headway.stream().await;
    let shown = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert_eq!((reply.status, shown(&reply.body)), (200, shown(body)));
    assert_eq!(reply.body, body);
    let ended = if reply.end == End::Clean { End::Clean } else { End::Closed };
    assert_eq!(ended, end, "{reply:?}");
    let record = headway.record().await;
    let tries: Vec<_> = record.attempts.iter().map(|one| (&*one.backend, one.outcome, one.blame)).collect();
    assert_eq!(tries, [("bad", outcome, outcome.blame())]);
    assert_eq!((record.status, record.outcome, record.bytes_out >= 1), (200, outcome, true));
    assert_eq!((bad.count(), good.count()), (1, 0), "nothing is retried");
    // A connection is not used again after an answer that broke on it.
    if broken {
        bad.always(streamed());
        while bad.count() < 2 {
            assert_eq!(headway.stream().await.end, End::Clean);
        }
        assert_eq!(bad.connections(), 2);
    }
}

fn told(message: &str, kind: &str, code: &str) -> String {
    format!(
        "data: {{\"error\":{{\"message\":\"{message}\",\"type\":\"{kind}\",\"param\":null,\"code\":\"{code}\"}}}}\n\n"
    )
}

fn disconnected() -> String {
    told("the backend closed the connection early", "upstream_error", "upstream_disconnected")
}

const HALF: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\" sta";

#[tokio::test]
async fn death_between_two_events_is_told_in_an_event() {
    let front = [ROLE, TOKEN].concat();
    let expected = format!("{front}{}", disconnected());
    for death in [Step::Reset, Step::Close] {
        check(vec![begun(&front), death], &expected, End::Closed, Outcome::Truncated).await;
    }
    // A body that ends as its framing says proves nothing: the API's own end is missing.
    let clean = send([&chunk("")[..0], LAST.as_bytes()].concat());
    check(vec![begun(&front), clean], &expected, End::Closed, Outcome::Truncated).await;
}

#[tokio::test]
async fn death_within_an_event_adds_nothing() {
    let front = [ROLE, TOKEN, HALF].concat();
    for death in [Step::Reset, Step::Close, send(LAST)] {
        check(vec![begun(&front), death], &front, End::Closed, Outcome::Truncated).await;
    }
    let line = format!("{ROLE}{TOKEN}{}\n", TOKEN.trim_end());
    check(vec![begun(&line), Step::Close], &line, End::Closed, Outcome::Truncated).await;
}

#[tokio::test]
async fn death_within_a_character_adds_nothing() {
    let mut front = [ROLE, TOKEN, HALF].concat().into_bytes();
    front.extend_from_slice(&"\u{1F682}".as_bytes()[..2]);
    check_bytes(vec![begun(&front), Step::Reset], &front, End::Closed, Outcome::Truncated).await;
}

#[tokio::test]
async fn death_within_a_chunk_forwards_what_came() {
    let front = [ROLE, TOKEN, HALF].concat();
    let longer = format!("{:x}\r\n{HALF}", HALF.len() + 100);
    let script = vec![begun([ROLE, TOKEN].concat()), send(longer), Step::Close];
    check(script, &front, End::Closed, Outcome::Truncated).await;
}

#[tokio::test]
async fn what_is_held_of_a_usage_event_is_forwarded_or_nobody_ever_sees_it() {
    // The client did not ask for usage, so that what may be the usage event is held back until it is whole.
    let half = "data: {\"choices\":[],\"usage\":{\"prompt";
    let front = [ROLE, TOKEN, FINISH].concat();
    let silent = told("the backend went silent", "timeout_error", "idle_timeout");
    for (death, text) in [(Step::Reset, front.clone() + half), (Step::Pause, front.clone() + &silent)] {
        let bad = Scripted::start(vec![begun(&front), send(chunk(half)), death]).await;
        let headway = Setup::default().backend("a", &bad, "").route("timeouts: { idle: 300ms }").start().await;
        let reply = headway.post(CHAT, r#"{"model":"m","stream":true}"#).await;
        assert_eq!(reply.text(), text);
        assert_ne!(reply.end, End::Clean);
    }
}

#[tokio::test]
async fn after_the_end_of_the_api_nothing_can_go_wrong() {
    let whole = [ROLE, TOKEN, FINISH, DONE].concat();
    for death in [Step::Reset, Step::Close, send("XYZ"), Step::Pause] {
        check(vec![begun(&whole), death], &whole, End::Clean, Outcome::Complete).await;
    }
}

#[tokio::test]
async fn no_done_marker_is_made_up() {
    let unmarked = [ROLE, TOKEN, FINISH].concat();
    check(vec![begun(&unmarked), send(LAST)], &unmarked, End::Clean, Outcome::Complete).await;
    let expected = unmarked.clone() + &disconnected();
    check(vec![begun(&unmarked), Step::Reset], &expected, End::Closed, Outcome::Truncated).await;
}

#[tokio::test]
async fn the_backends_own_error_event_is_told_once() {
    let error = "data: {\"error\":{\"message\":\"out of memory\",\"type\":\"server_error\",\"code\":500}}\n\n";
    let with_mark = [ROLE, TOKEN, error, DONE].concat();
    check(vec![begun(&with_mark), send(LAST)], &with_mark, End::Clean, Outcome::UpstreamError).await;
    let alone = [ROLE, TOKEN, error].concat();
    check(vec![begun(&alone), send(LAST)], &alone, End::Clean, Outcome::UpstreamError).await;
    check(vec![begun(&alone), Step::Reset], &alone, End::Closed, Outcome::UpstreamError).await;
}

#[tokio::test]
async fn an_error_event_that_says_busy_blames_nobody() {
    for (code, blame) in [(503, Blame::Neutral), (429, Blame::Neutral), (500, Blame::Fault)] {
        let error = format!("data: {{\"error\":{{\"message\":\"m\",\"type\":\"t\",\"code\":{code}}}}}\n\n");
        let backend = Scripted::start(vec![begun([ROLE, TOKEN, &error].concat()), send(LAST)]).await;
        let headway = Setup::default().backend("a", &backend, "").start().await;
        headway.stream().await;
        let record = headway.record().await;
        assert_eq!((record.outcome, record.attempts[0].blame), (Outcome::UpstreamError, blame), "{code}");
    }
}

#[tokio::test]
async fn the_backend_is_named_where_the_route_exposes_it() {
    let backend = Scripted::start(vec![begun([ROLE, TOKEN].concat()), Step::Close]).await;
    let headway = Setup::default().backend("a", &backend, "").route("expose: true").start().await;
    let text = headway.stream().await.text();
    assert!(text.contains("\"backend a closed the connection early\""), "{text}");
}

#[tokio::test]
async fn silence_is_told_and_the_backend_let_go() {
    let front = [ROLE, TOKEN].concat();
    let expected = format!("{front}{}", told("the backend went silent", "timeout_error", "idle_timeout"));
    check(vec![begun(&front), Step::Pause], &expected, End::Closed, Outcome::IdleTimeout).await;
    let half = [ROLE, TOKEN, HALF].concat();
    check(vec![begun(&half), Step::Pause], &half, End::Closed, Outcome::IdleTimeout).await;
}

#[tokio::test]
async fn what_follows_the_last_event_is_no_success() {
    let tail = "{\"error\":{\"message\":\"late\",\"type\":\"server_error\",\"code\":500}}";
    let body = [ROLE, TOKEN, tail].concat();
    check(vec![begun(&body), send(LAST)], &body, End::Closed, Outcome::Truncated).await;
}

#[tokio::test]
async fn a_client_that_stays_is_served_again_elsewhere() {
    let (bad, good) =
        (Scripted::start(vec![begun([ROLE, TOKEN].concat()), Step::Close]).await, Scripted::start(streamed()).await);
    let headway = Setup::default().backend("bad", &bad, "").backend("good", &good, "").start().await;
    let mut client = headway.connect().await;
    client.send(post(CHAT, STREAM)).await;
    assert_ne!(client.reply().await.end, End::Clean);
    assert!(client.is_closed().await, "the connection ended with the answer");
    assert_eq!(headway.stream().await.end, End::Clean);
    let records = headway.records(2).await;
    assert_eq!((records[0].attempts[0].blame, records[1].attempts[0].blame), (Blame::Fault, Blame::Success));
}
