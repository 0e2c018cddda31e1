//! Paths that a route names and headway does not understand.

use headway::measure::outcome::Outcome;

use crate::support::backend::{Scripted, Step, send};
use crate::support::client::End;
use crate::support::headway::{Headway, Setup};
use crate::support::texts::{LAST, answer, chunk, post, post_with, with_fields};

const PATH: &str = "/v1/audio/speech";

async fn before(backend: &Scripted) -> Headway {
    let setup = Setup::default().backend("a", backend, "api_key: backend-key");
    setup.route(&format!("match: {{ paths: [{PATH}] }}")).start().await
}

#[tokio::test]
async fn a_named_path_is_carried_with_clean_heads() {
    let backend = Scripted::start(with_fields("200 OK", "x-own: 1\r\n", "sound")).await;
    let headway = before(&backend).await;
    let fields =
        "authorization: Bearer client-key\r\ncookie: a=b\r\nx-forwarded-for: 6.6.6.6\r\nx-request-id: mine\r\n";
    let mut client = headway.connect().await;
    for _ in 0..2 {
        client.send(post_with(&format!("{PATH}?voice=a"), fields, "text")).await;
        let reply = client.reply().await;
        assert_eq!((reply.status, reply.text().as_str(), reply.end), (200, "sound", End::Clean));
        assert_eq!(reply.field("x-request-id").as_deref(), Some("mine"));
    }
    let seen = backend.seen().remove(0);
    assert!(seen.head.starts_with(&format!("POST {PATH}?voice=a HTTP/1.1\r\n")), "{}", seen.head);
    assert_eq!((seen.body.as_slice(), seen.field("authorization").as_str()), (&b"text"[..], "Bearer backend-key"));
    assert_eq!((seen.field("x-forwarded-for").as_str(), seen.fields("cookie").len()), ("127.0.0.1", 0));
    for record in headway.records(2).await {
        assert_eq!((record.outcome, record.status, record.attempts.len()), (Outcome::Complete, 200, 1));
        assert!(record.attempts[0].reason.is_some(), "it has its decision");
    }
}

#[tokio::test]
async fn an_answer_in_chunks_arrives_whole() {
    let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    let backend = Scripted::start(vec![send(head), send(chunk("so")), send(chunk("und")), send(LAST)]).await;
    let reply = before(&backend).await.post(PATH, "text").await;
    assert_eq!((reply.text().as_str(), reply.end), ("sound", End::Clean));
}

#[tokio::test]
async fn what_fails_is_told_as_anywhere_else() {
    let backend = Scripted::start(vec![Step::Close]).await;
    let headway = before(&backend).await;
    let reply = headway.post(PATH, "text").await;
    assert_eq!((reply.status, &*reply.error_code()), (502, "upstream_disconnected"));
    assert_eq!(backend.count(), 1, "nothing is retried");
    assert_eq!(headway.record().await.outcome, Outcome::Truncated);
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_not_whole() {
    let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    let backend = Scripted::start(vec![send(head), send(chunk("so")), Step::Close]).await;
    let headway = before(&backend).await;
    let reply = headway.post(PATH, "text").await;
    assert_ne!(reply.end, End::Clean);
    assert_eq!(headway.record().await.outcome, Outcome::Truncated);
}

#[tokio::test]
async fn a_backend_that_is_gone_is_told() {
    let mut backend = Scripted::start(Vec::new()).await;
    let headway = before(&backend).await;
    backend.die().await;
    let reply = headway.exchange(post(PATH, "text")).await;
    assert_eq!((reply.status, &*reply.error_code()), (502, "upstream_connect_failed"));
    assert_eq!(headway.record().await.outcome, Outcome::ConnectFailed);
}

#[tokio::test]
async fn paths_beside_it_stay_closed() {
    let backend = Scripted::start(with_fields("200 OK", "", "{}")).await;
    let headway = before(&backend).await;
    for path in ["/v1/audio", "/v1/audio/speech/x", "/v1/audio/speech/../../secret", "/v1/audio/transcriptions"] {
        assert_eq!(headway.post(path, "text").await.status, 404, "{path}");
    }
    assert_eq!(backend.count(), 0);
}

#[tokio::test]
async fn promises_and_distributions_are_not_for_them() {
    let backend = Scripted::start(with_fields("200 OK", "", "sound")).await;
    let setup = Setup::default().backend("a", &backend, "");
    let headway = setup.route(&format!("match: {{ paths: [{PATH}] }}, slo: {{ e2e: {{ p95: 1ms }} }}")).start().await;
    assert_eq!(headway.post(PATH, "text").await.status, 200);
    let record = headway.record().await;
    assert_eq!((record.api, record.verdicts.e2e, record.measured()), (None, None, false));
    let page = headway.admin("/metrics").await.text();
    assert!(
        page.contains("headway_requests_total{") && !page.contains("headway_request_duration_seconds_count{"),
        "{page}"
    );
}

#[tokio::test]
async fn ambiguous_framing_is_refused_there_too() {
    let backend = Scripted::start(with_fields("200 OK", "", "{}")).await;
    let headway = before(&backend).await;
    for (field, status) in [("content-encoding: gzip\r\n", 415), ("content_length: 3\r\n", 400)] {
        assert_eq!(headway.exchange(post_with(PATH, field, "text")).await.status, status, "{field}");
    }
    assert_eq!(backend.count(), 0);
}

fn stored(method: &str, id: &str) -> String {
    format!("{method} /v1/responses/{id} HTTP/1.1\r\nhost: headway\r\n\r\n")
}

#[tokio::test]
async fn a_stored_response_is_asked_of_the_only_backend() {
    let backend = Scripted::start(with_fields("200 OK", "", "stored")).await;
    let headway = Headway::before(&backend).await;
    for method in ["GET", "DELETE"] {
        assert_eq!(headway.exchange(stored(method, "resp_1-a")).await.text(), "stored");
    }
    assert!(backend.seen()[0].head.starts_with("GET /v1/responses/resp_1-a HTTP/1.1\r\n"));
    for (method, id) in [("GET", "a/b"), ("GET", ".."), ("GET", ""), ("POST", "resp_1")] {
        assert_eq!(headway.exchange(stored(method, id)).await.status, 404, "{method} {id}");
    }
    assert_eq!(backend.count(), 2);
}

#[tokio::test]
async fn a_stored_response_is_asked_of_the_backend_that_made_it() {
    let whole = r#"{"id":"resp_2","object":"response","status":"completed","output":[{"type":"message"}]}"#;
    let events = "event: response.created\ndata: {\"type\":\"response.created\",\"response\":{\"id\":\"resp_1\"}}\n\n\
                  event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"delta\":\"a\"}\n\n\
                  event: response.completed\ndata: {\"type\":\"response.completed\",\"response\":{\"id\":\"resp_1\"}}\n\n";
    let other = Scripted::start(with_fields("404 Not Found", "", "{}")).await;
    let maker = Scripted::start(with_fields("200 OK", "", whole)).await;
    let setup = Setup::default().backend("maker", &maker, "").backend("other", &other, "");
    let headway = setup.route("policy: least_in_flight").start().await;
    maker.next(answer(events));
    // Only the first may choose; until it has answered at the maker, it is asked again.
    while maker.count() == 0 {
        headway.post("/v1/responses", r#"{"model":"m","stream":true,"input":"a"}"#).await;
    }
    for (previous, next) in [("resp_1", "resp_2"), ("resp_2", "resp_2")] {
        let (asked, before) = (other.count(), maker.count());
        for _ in 0..4 {
            let body = format!(r#"{{"model":"m","input":"b","previous_response_id":"{previous}"}}"#);
            let reply = headway.post("/v1/responses", &body).await;
            assert!(reply.status == 200 && reply.text().contains(next), "{reply:?}");
            assert_eq!(headway.exchange(stored("GET", previous)).await.status, 200);
        }
        assert_eq!((other.count(), maker.count()), (asked, before + 8), "{previous}");
    }
    let unknown = headway.post("/v1/responses", r#"{"model":"m","input":"b","previous_response_id":"resp_9"}"#).await;
    assert_eq!((unknown.status, &*unknown.error_code()), (400, "previous_response_unknown"));
}

#[tokio::test]
async fn which_of_several_backends_stored_a_response_is_unknown() {
    let backends = [
        Scripted::start(with_fields("200 OK", "", "stored")).await,
        Scripted::start(with_fields("200 OK", "", "stored")).await,
    ];
    let setup = Setup::default().backend("a", &backends[0], "").backend("b", &backends[1], "");
    let headway = setup.start().await;
    let reply = headway.exchange(stored("GET", "resp_1")).await;
    assert_eq!((reply.status, &*reply.error_code()), (400, "previous_response_unknown"));
    assert_eq!(headway.record().await.outcome, Outcome::RejectedRequest);
    assert_eq!(backends.iter().map(Scripted::count).sum::<usize>(), 0);
}
