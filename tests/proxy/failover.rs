//! Before the first token every failure that may be retried goes to another backend, and the client never notices.

use headway::measure::outcome::{Blame, Outcome};

use crate::support::backend::{Script, Scripted, Step, send};
use crate::support::client::End;
use crate::support::headway::{Headway, Setup};
use crate::support::texts::{self, DONE, LAST, ROLE, SSE, begun, events, json, streamed};

const CAUSES: [&str; 8] =
    ["connect", "status_429", "status_503", "status_5xx", "first_token_timeout", "reset", "error_event", "empty"];

/// A failure, and what becomes of it.
struct Case {
    fault: Script,
    cause: &'static str,
    outcome: Outcome,
    blame: Blame,
    status: u16,
    code: &'static str,
}

impl Case {
    fn reset(fault: Script) -> Self {
        let (outcome, blame) = (Outcome::Truncated, Blame::Fault);
        Self { fault, cause: "reset", outcome, blame, status: 502, code: "upstream_disconnected" }
    }

    fn error(fault: Script, cause: &'static str, blame: Blame, status: u16) -> Self {
        Self { fault, cause, outcome: Outcome::UpstreamError, blame, status, code: "upstream_error" }
    }

    fn empty(fault: Script) -> Self {
        let (outcome, blame) = (Outcome::Empty, Blame::Fault);
        Self { fault, cause: "empty", outcome, blame, status: 502, code: "upstream_empty" }
    }

    /// With its cause among those that are retried, and with all the others.
    async fn check(&self) {
        let others: Vec<_> = CAUSES.into_iter().filter(|cause| *cause != self.cause).collect();
        let alone = self.fleet(self.cause).await;
        let reply = alone.headway.stream().await;
        assert_eq!((reply.status, reply.end, reply.text()), (200, End::Clean, events()), "{}", self.cause);
        let record = alone.headway.record().await;
        let tries: Vec<_> = record.attempts.iter().map(|one| (&*one.backend, one.outcome, one.blame)).collect();
        assert_eq!(tries, [("bad", self.outcome, self.blame), ("good", Outcome::Complete, Blame::Success)]);
        assert!(record.attempts.iter().all(|one| one.reason.is_some()), "each try has its decision");
        assert_eq!((record.status, record.outcome), (200, Outcome::Complete));
        assert_eq!(alone.good.count(), 1);

        let without = self.fleet(&others.join(", ")).await;
        let reply = without.headway.stream().await;
        assert_eq!((reply.status, &*reply.error_code()), (self.status, self.code));
        assert_eq!(without.good.count(), 0, "{} is not among the causes", self.cause);
        let record = without.headway.record().await;
        let tries: Vec<_> = record.attempts.iter().map(|one| (&*one.backend, one.outcome, one.blame)).collect();
        assert_eq!(tries, [("bad", self.outcome, self.blame)]);
        assert_eq!((record.status, record.outcome), (self.status, self.outcome));
    }

    async fn fleet(&self, causes: &str) -> Fleet {
        let mut bad = Scripted::start(self.fault.clone()).await;
        let good = Scripted::start(streamed()).await;
        let route = format!("retry: {{ causes: [{causes}] }}, timeouts: {{ first_token: 300ms }}");
        let headway = Setup::default().backend("bad", &bad, "").backend("good", &good, "").route(&route).start().await;
        if self.cause == "connect" {
            bad.die().await;
        }
        Fleet { headway, _bad: bad, good }
    }
}

struct Fleet {
    headway: Headway,
    _bad: Scripted,
    good: Scripted,
}

#[tokio::test]
async fn a_refused_connection() {
    let (outcome, blame) = (Outcome::ConnectFailed, Blame::Fault);
    let code = "upstream_connect_failed";
    Case { fault: Vec::new(), cause: "connect", outcome, blame, status: 502, code }.check().await;
}

#[tokio::test]
async fn a_status_that_says_busy() {
    let overload = include_str!("../fixtures/recorded/vllm-overload.json");
    Case::error(json("429 Too Many Requests", "{}"), "status_429", Blame::Neutral, 429).check().await;
    Case::error(json("503 Service Unavailable", overload), "status_503", Blame::Neutral, 503).check().await;
}

#[tokio::test]
async fn a_status_that_says_broken() {
    Case::error(json("503 Service Unavailable", "down"), "status_503", Blame::Fault, 503).check().await;
    Case::error(json("500 Internal Server Error", "{}"), "status_5xx", Blame::Fault, 500).check().await;
}

#[tokio::test]
async fn a_redirect_is_never_followed() {
    let elsewhere = texts::with_fields("302 Found", "location: http://127.0.0.1:1/\r\n", "");
    Case::error(elsewhere, "status_5xx", Blame::Fault, 502).check().await;
}

#[tokio::test]
async fn an_error_in_place_of_the_first_event() {
    let error = r#"{"error":{"message":"secret text","type":"InternalServerError","param":null,"code":500}}"#;
    Case::error(texts::answer(&format!("data: {error}\n\n{DONE}")), "status_5xx", Blame::Fault, 500).check().await;
    let after_role = format!("{ROLE}event: error\ndata: {error}\n\n");
    Case::error(texts::answer(&after_role), "status_5xx", Blame::Fault, 500).check().await;
    Case::error(json("200 OK", error), "status_5xx", Blame::Fault, 500).check().await;
    for unnumbered in [error.replace(",\"code\":500", ""), error.replace("500", "\"broken\"")] {
        let event = texts::answer(&format!("data: {unnumbered}\n\n"));
        Case::error(event, "error_event", Blame::Fault, 502).check().await;
        Case::error(json("200 OK", &unnumbered), "error_event", Blame::Fault, 502).check().await;
    }
}

#[tokio::test]
async fn a_busy_backend_that_never_finishes_saying_so() {
    let head = "HTTP/1.1 429 Too Many Requests\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{";
    let bad = Scripted::start(vec![send(head), Step::Pause]).await;
    let good = Scripted::start(streamed()).await;
    let headway = Setup::default().backend("bad", &bad, "").backend("good", &good, "").start().await;
    assert_eq!(headway.stream().await.text(), events());
    crate::support::until("the connection to be dropped", || bad.left() == 1).await;
    assert_eq!(headway.record().await.attempts[0].blame, Blame::Neutral);
}

#[tokio::test]
async fn a_page_in_place_of_an_answer() {
    let page = "<!DOCTYPE html><html><body>Welcome to nginx!</body></html>";
    Case::error(json("200 OK", page), "error_event", Blame::Fault, 502).check().await;
}

#[tokio::test]
async fn an_answer_that_is_no_stream_and_says_nothing() {
    Case::empty(json("200 OK", "{}")).check().await;
    Case::empty(json("200 OK", r#"{"choices":[]}"#)).check().await;
}

#[tokio::test]
async fn a_full_queue_inside_a_200() {
    let recorded = include_str!("../fixtures/recorded/vllm-overload-inside-200.sse");
    Case::error(texts::answer(recorded), "status_503", Blame::Neutral, 503).check().await;
}

#[tokio::test]
async fn an_empty_200() {
    Case::empty(vec![send(format!("{SSE}{LAST}"))]).check().await;
    Case::empty(texts::answer(DONE)).check().await;
    Case::empty(texts::answer(&format!("{ROLE}{DONE}"))).check().await;
}

#[tokio::test]
async fn a_connection_that_breaks_before_the_head() {
    Case::reset(vec![Step::Reset]).check().await;
    Case::reset(vec![Step::Close]).check().await;
    Case::reset(vec![send("HTTP/1.1 200 OK\r\ncontent-ty"), Step::Reset]).check().await;
}

#[tokio::test]
async fn a_connection_that_breaks_before_the_first_token() {
    Case::reset(vec![send(SSE), Step::Reset]).check().await;
    Case::reset(vec![send(SSE), Step::Close]).check().await;
    Case::reset(vec![begun(ROLE), Step::Close]).check().await;
    Case::reset(vec![begun(&ROLE[..20]), Step::Reset]).check().await;
}

#[tokio::test]
async fn a_head_that_is_none() {
    Case::reset(vec![send("SSH-2.0-nonsense\r\n\r\n"), Step::Pause]).check().await;
    Case::reset(vec![send("HTTP/1.1 two hundred\r\n\r\n"), Step::Pause]).check().await;
    let head = format!("HTTP/1.1 200 OK\r\nx-long: {}\r\n\r\n", "a".repeat(8 << 20));
    Case::reset(vec![send(head), Step::Pause]).check().await;
    Case::reset(vec![Step::Flood(b"HTTP/1.1 102 Processing\r\n\r\n".to_vec())]).check().await;
}

#[tokio::test]
async fn a_backend_that_says_nothing_in_time() {
    for fault in [vec![Step::Pause], vec![send(SSE), Step::Pause], vec![begun(ROLE), Step::Pause]] {
        let (outcome, blame) = (Outcome::FirstTokenTimeout, Blame::Fault);
        let code = "first_token_timeout";
        Case { fault, cause: "first_token_timeout", outcome, blame, status: 504, code }.check().await;
    }
}

#[tokio::test]
async fn the_first_try_is_closed_before_the_second_begins() {
    let (bad, good) = (Scripted::start(vec![begun(ROLE), Step::Pause]).await, Scripted::start(vec![Step::Pause]).await);
    let setup = Setup::default().backend("bad", &bad, "").backend("good", &good, "");
    let headway = setup.route("timeouts: { first_token: 100ms }").start().await;
    let mut client = headway.connect().await;
    client.send(texts::post(texts::CHAT, texts::STREAM)).await;
    good.reached(1).await;
    crate::support::until("the first connection to be closed", || bad.left() == 1).await;
    assert_eq!(bad.count(), 1);
    drop(client);
    headway.idle().await;
}

#[tokio::test]
async fn a_broken_backend_is_not_covered_for_unless_the_route_says_so() {
    let (bad, good) =
        (Scripted::start(json("500 Internal Server Error", "{}")).await, Scripted::start(streamed()).await);
    let headway = Setup::default().backend("bad", &bad, "").backend("good", &good, "").start().await;
    assert_eq!(headway.stream().await.status, 500);
    assert_eq!(good.count(), 0);
}

#[tokio::test]
async fn there_is_one_retry_at_most() {
    let busy = || Scripted::start(json("429 Too Many Requests", "{}"));
    let (a, b, c) = (busy().await, busy().await, busy().await);
    let headway = Setup::default().backend("a", &a, "").backend("b", &b, "").backend("c", &c, "").start().await;
    let reply = headway.stream().await;
    assert_eq!((reply.status, &*reply.error_code()), (429, "upstream_error"));
    assert_eq!((a.count(), b.count(), c.count()), (1, 1, 0));
    assert_eq!(reply.field("x-should-retry").as_deref(), Some("false"), "headway's own retry is spent");
    assert_eq!(headway.record().await.attempts.len(), 2);
}

#[tokio::test]
async fn without_another_backend_the_first_failure_stands() {
    let alone = Scripted::start(texts::with_fields("503 Service Unavailable", "retry-after: 7\r\n", "{}")).await;
    let headway = Headway::before(&alone).await;
    let reply = headway.stream().await;
    assert_eq!((reply.status, &*reply.error_code()), (503, "upstream_error"));
    assert_eq!(reply.field("retry-after").as_deref(), Some("7"));
    assert_eq!(alone.count(), 1);
    assert_eq!(headway.record().await.attempts.len(), 1);
}

#[tokio::test]
async fn a_wait_of_more_than_a_minute_is_not_passed_on() {
    let alone = Scripted::start(texts::with_fields("429 Too Many Requests", "retry-after: 300\r\n", "{}")).await;
    let reply = Headway::before(&alone).await.stream().await;
    assert_eq!((reply.status, &*reply.error_code()), (429, "upstream_error"));
    assert_eq!(reply.field("x-should-retry").as_deref(), Some("false"), "{}", reply.head);
}

#[tokio::test]
async fn the_retry_budget_bounds_retries_under_way() {
    let busy = Scripted::start(json("429 Too Many Requests", "{}")).await;
    let slow = Scripted::start([vec![Step::Pause], streamed()].concat()).await;
    let setup = Setup::default().backend("busy", &busy, "").backend("slow", &slow, "");
    let headway = setup.route("policy: least_in_flight, retry: { budget: 0.1% }").start().await;
    let retrying = || headway.server.fleet().routes()[0].retrying();
    let mut clients = Vec::new();
    // Once one waits at the slow backend, the busy one is always the first choice.
    while retrying() < 3 {
        let mut client = headway.connect().await;
        client.send(texts::post(texts::CHAT, texts::STREAM)).await;
        clients.push(client);
        slow.reached(clients.len()).await;
    }
    assert_eq!(headway.stream().await.status, 429, "three retries are under way already");
    assert_eq!(slow.count(), clients.len());
    for _ in &clients {
        slow.resume();
    }
    for client in &mut clients {
        assert_eq!(client.reply().await.text(), events());
    }
    assert_eq!(headway.records(clients.len() + 1).await.len(), clients.len() + 1);
}

#[tokio::test]
async fn no_budget_means_no_retry() {
    let (bad, good) = (Scripted::start(json("429 Too Many Requests", "{}")).await, Scripted::start(streamed()).await);
    let setup = Setup::default().backend("bad", &bad, "").backend("good", &good, "");
    let headway = setup.route("retry: { budget: 0% }").start().await;
    assert_eq!(headway.stream().await.status, 429);
    assert_eq!(good.count(), 0);
}
