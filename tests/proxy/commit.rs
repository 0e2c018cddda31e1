//! What the client is shown, and when.

use headway::measure::outcome::{Blame, Outcome};

use crate::support::backend::{Scripted, Step, send};
use crate::support::client::End;
use crate::support::headway::{Headway, Setup};
use crate::support::texts::{
    CHAT, COMPLETION, DONE, FINISH, LAST, ROLE, SSE, STREAM, TOKEN, UNARY, answer, begun, chunk, json, post,
};
use crate::support::until;

#[tokio::test]
async fn nothing_is_shown_before_the_first_token_and_everything_with_it() {
    let rest = [TOKEN, FINISH, DONE].concat();
    let script = vec![
        begun(": waiting\n\n".to_owned() + ROLE),
        Step::Pause,
        send(chunk(TOKEN)),
        Step::Pause,
        send(chunk(&rest)),
        send(LAST),
    ];
    let slow = Scripted::start(script).await;
    let quick = Scripted::start(json("200 OK", COMPLETION)).await;
    let headway = Setup::default().backend("slow", &slow, "").backend("quick", &quick, "").start().await;
    let mut client = headway.connect().await;
    client.send(post(CHAT, STREAM)).await;
    slow.reached(1).await;
    // Another exchange from beginning to end: time enough for the head to have come through, if it could.
    for _ in 0..5 {
        slow.next(json("200 OK", COMPLETION));
        headway.post(CHAT, UNARY).await;
    }
    assert_eq!(String::from_utf8_lossy(client.arrived()), "");
    slow.resume();
    let shown = client.arrives(|text| text.contains(" train")).await;
    assert!(shown.starts_with("HTTP/1.1 200 OK\r\n") && shown.contains(": waiting\n\ndata: "), "{shown}");
    assert!(!shown.contains("[DONE]"));
    slow.resume();
    let reply = client.reply().await;
    assert_eq!((reply.end, reply.text()), (End::Clean, [": waiting\n\n", ROLE, TOKEN, TOKEN, FINISH, DONE].concat()));
}

#[tokio::test]
async fn the_head_is_shown_at_once_where_the_route_says_so() {
    let backend =
        Scripted::start(vec![send(SSE), Step::Pause, send(chunk([ROLE, TOKEN, FINISH, DONE].concat())), send(LAST)])
            .await;
    let headway = Setup::default().backend("a", &backend, "").route("commit: headers").start().await;
    let mut client = headway.connect().await;
    client.send(post(CHAT, STREAM)).await;
    let shown = client.arrives(|text| text.contains("\r\n\r\n")).await;
    assert!(shown.starts_with("HTTP/1.1 200 OK\r\n"), "{shown}");
    backend.resume();
    assert_eq!(client.reply().await.text(), [ROLE, TOKEN, FINISH, DONE].concat());
    assert_eq!(headway.record().await.outcome, Outcome::Complete);
}

#[tokio::test]
async fn after_an_early_head_failures_are_told_in_an_event() {
    for (script, body, outcome, end) in [
        (answer(""), told("sent an empty answer", "upstream_empty"), Outcome::Empty, false),
        (
            vec![begun(ROLE), Step::Reset],
            ROLE.to_owned() + &told("closed the connection early", "upstream_disconnected"),
            Outcome::Truncated,
            false,
        ),
        (
            answer("data: {\"error\":{\"code\":500}}\n\n"),
            "data: {\"error\":{\"code\":500}}\n\n".to_owned(),
            Outcome::UpstreamError,
            true,
        ),
    ] {
        let backend = Scripted::start(script).await;
        let headway = Setup::default().backend("a", &backend, "").route("commit: headers").start().await;
        let reply = headway.stream().await;
        assert_eq!((reply.status, reply.text(), reply.end == End::Clean), (200, body, end));
        assert_eq!(headway.record().await.outcome, outcome);
    }
}

#[tokio::test]
async fn the_first_token_is_due_after_an_early_head_too() {
    let comments = ": still waiting\n\n".repeat(5_000);
    for (shown, commit) in [(": waiting\n\n", "headers"), (ROLE, "headers"), (&*comments, "first_token")] {
        let backend = Scripted::start(vec![begun(shown), Step::Pause]).await;
        let route = format!("commit: {commit}, timeouts: {{ first_token: 300ms }}");
        let headway = Setup::default().backend("a", &backend, "").route(&route).start().await;
        let reply = headway.stream().await;
        let told = told("sent no token in time", "first_token_timeout").replace("upstream_error", "timeout_error");
        assert_eq!((reply.status, reply.text()), (200, shown.to_owned() + &told));
        assert_ne!(reply.end, End::Clean);
        let record = headway.record().await;
        assert_eq!((record.outcome, record.attempts[0].blame), (Outcome::FirstTokenTimeout, Blame::Fault));
    }
}

#[tokio::test]
async fn the_first_token_is_known_while_the_stream_goes_on() {
    let script = vec![send(SSE), Step::Pause, send(chunk([ROLE, TOKEN].concat())), Step::Pause];
    let backend = Scripted::start([script, vec![send(chunk([FINISH, DONE].concat())), send(LAST)]].concat()).await;
    let headway = Setup::default()
        .backend("a", &backend, "")
        .route("commit: headers, timeouts: { first_token: 2s }")
        .start()
        .await;
    let mut client = headway.connect().await;
    client.send(post(CHAT, STREAM)).await;
    client.arrives(|text| text.contains("\r\n\r\n")).await;
    let awaiting = || headway.server.fleet().backends()[0].awaiting_first_token();
    assert_eq!(awaiting(), 1);
    backend.resume();
    until("the first token to be known", || awaiting() == 0).await;
    assert_eq!(headway.server.active(), 1);
    backend.resume();
    assert_eq!(client.reply().await.end, End::Clean);
    assert_eq!(headway.record().await.outcome, Outcome::Complete);
}

#[tokio::test]
async fn an_end_without_any_answer_is_no_success() {
    let backend = Scripted::start(answer(&[ROLE, DONE].concat())).await;
    let headway = Setup::default().backend("a", &backend, "").route("commit: headers").start().await;
    headway.stream().await;
    assert_eq!(headway.record().await.outcome, Outcome::Empty);
}

fn told(what: &str, code: &str) -> String {
    format!(
        "data: {{\"error\":{{\"message\":\"the backend {what}\",\"type\":\"upstream_error\",\"param\":null,\"code\":\"{code}\"}}}}\n\n"
    )
}

#[tokio::test]
async fn beyond_its_bound_nothing_is_held() {
    let comments = ": still waiting\n\n".repeat(5_000);
    let backend =
        Scripted::start(vec![begun(&comments), Step::Pause, send(chunk([TOKEN, FINISH, DONE].concat())), send(LAST)])
            .await;
    let headway = Headway::before(&backend).await;
    let mut client = headway.connect().await;
    client.send(post(CHAT, STREAM)).await;
    client.arrives(|text| text.matches("waiting").count() > 4_096).await;
    backend.resume();
    assert_eq!(client.reply().await.text(), [&comments, TOKEN, FINISH, DONE].concat());
}

#[tokio::test]
async fn each_event_is_shown_as_it_comes() {
    let mut script = vec![begun([ROLE, TOKEN].concat())];
    for number in 0..20 {
        script.extend([Step::Pause, send(chunk(TOKEN.replace("train", &format!("train{number}"))))]);
    }
    script.push(send([chunk([FINISH, DONE].concat()), LAST.into()].concat()));
    let backend = Scripted::start(script).await;
    let headway = Headway::before(&backend).await;
    let mut client = headway.connect().await;
    client.send(post(CHAT, STREAM)).await;
    client.arrives(|text| text.contains(" train\"")).await;
    for number in 0..20 {
        assert!(!String::from_utf8_lossy(client.arrived()).contains(&format!("train{number}\"")));
        backend.resume();
        client.arrives(|text| text.contains(&format!("train{number}\""))).await;
    }
    assert_eq!(client.reply().await.end, End::Clean);
    assert_eq!(headway.record().await.gaps.as_ref().map(|gaps| gaps.count()), Some(20));
}
