//! W3C trace context, in and out.

use serde_json::json;

use crate::collector::{Collector, only};
use crate::shape::{ended, log_file, traced};
use crate::support::backend::Scripted;
use crate::support::headway::Setup;
use crate::support::texts::{CHAT, STREAM, json as json_answer, post_with, streamed};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00f067aa0ba902b7";
const SERVER: &str = "POST /v1/chat/completions";
const CLIENT: &str = "chat m";

#[tokio::test(flavor = "multi_thread")]
async fn the_callers_trace_goes_on_to_the_backend() {
    let (collector, (_folder, log)) = (Collector::start().await, log_file());
    let backend = Scripted::start(streamed()).await;
    let more = traced(&collector, "http/protobuf", &log);
    let headway = Setup::default().backend("a", &backend, "").more(&more).start().await;
    let fields = format!("traceparent: 00-{TRACE}-{CALLER}-01\r\ntracestate: a=b,c=d\r\nbaggage: user=7\r\n");
    headway.exchange(post_with(CHAT, &fields, STREAM)).await;
    let lines = ended(headway, &log).await;
    let spans = collector.spans();
    let (server, client) = (only(&spans, SERVER), only(&spans, CLIENT));
    assert!(spans.iter().all(|span| span.trace == TRACE && span.state == "a=b,c=d"), "{spans:#?}");
    assert_eq!((&*server.parent, &client.parent), (CALLER, &server.id));
    // Bit 8: whether it is known that the parent is remote; bit 9: whether it is.
    assert_eq!((server.flags, client.flags), (0x301, 0x101));
    let seen = backend.only();
    assert_eq!(seen.field("traceparent"), format!("00-{TRACE}-{}-01", client.id));
    assert_eq!(seen.field("tracestate"), "a=b,c=d");
    assert!(seen.fields("baggage").is_empty());
    assert_eq!(lines[0]["trace_id"], TRACE);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_try_is_a_caller_of_its_own() {
    let (collector, (_folder, log)) = (Collector::start().await, log_file());
    let busy = Scripted::start(json_answer("503 Service Unavailable", "{}")).await;
    let good = Scripted::start(streamed()).await;
    let more = traced(&collector, "http/protobuf", &log);
    let headway = Setup::default().backend("busy", &busy, "").backend("good", &good, "").more(&more).start().await;
    headway.stream().await;
    ended(headway, &log).await;
    let spans = collector.spans();
    let tries: Vec<_> = spans.iter().filter(|span| span.name == CLIENT).collect();
    assert_eq!(tries.len(), 2);
    for (client, seen) in tries.iter().zip([busy.only(), good.only()]) {
        assert_eq!(seen.field("traceparent"), format!("00-{}-{}-01", client.trace, client.id));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_makes_no_sense_is_none() {
    let (collector, (_folder, log)) = (Collector::start().await, log_file());
    let backend = Scripted::start(streamed()).await;
    let more = traced(&collector, "http/protobuf", &log);
    let headway = Setup::default().backend("a", &backend, "").more(&more).start().await;
    let twice = format!("traceparent: 00-{TRACE}-{CALLER}-01\r\n").repeat(2);
    for parent in [
        String::new(),
        "traceparent: 00-zz-1-1\r\n".to_owned(),
        format!("traceparent: ff-{TRACE}-{CALLER}-01\r\n"),
        format!("traceparent: 00-{}-{CALLER}-01\r\n", "0".repeat(32)),
        format!("traceparent: 00-{TRACE}-{}-01\r\n", "0".repeat(16)),
        twice,
    ] {
        headway.exchange(post_with(CHAT, &format!("{parent}tracestate: a=b\r\n"), STREAM)).await;
    }
    let lines = ended(headway, &log).await;
    let spans = collector.spans();
    let servers: Vec<_> = spans.iter().filter(|span| span.name == SERVER).collect();
    assert_eq!(servers.len(), 6);
    let mut traces: Vec<_> = servers.iter().map(|span| json!(span.trace)).collect();
    for server in servers {
        assert!(server.parent.is_empty() && server.state.is_empty() && server.trace != TRACE, "{server:?}");
    }
    for seen in backend.seen() {
        assert!(seen.fields("tracestate").is_empty() && seen.fields("traceparent").len() == 1, "{}", seen.head);
    }
    let mut logged: Vec<_> = lines.iter().map(|line| line["trace_id"].clone()).collect();
    traces.sort_by_key(ToString::to_string);
    logged.sort_by_key(ToString::to_string);
    assert_eq!(traces, logged);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_headway_only_passes_on_belongs_to_the_trace_too() {
    let (collector, (_folder, log)) = (Collector::start().await, log_file());
    let backend = Scripted::start(json_answer("200 OK", "{}")).await;
    let more = traced(&collector, "http/protobuf", &log);
    let route = "match: { paths: [/v1/audio] }";
    let headway = Setup::default().backend("a", &backend, "").route(route).more(&more).start().await;
    let fields = format!("traceparent: 00-{TRACE}-{CALLER}-01\r\n");
    assert_eq!(headway.exchange(post_with("/v1/audio", &fields, "{}")).await.status, 200);
    ended(headway, &log).await;
    let spans = collector.spans();
    let names: Vec<_> = spans.iter().map(|span| (&*span.name, span.kind.as_str_name())).collect();
    let expected = [("POST", "SPAN_KIND_SERVER"), ("POST", "SPAN_KIND_CLIENT"), ("headway", "SPAN_KIND_INTERNAL")];
    assert_eq!(names, expected);
    assert_eq!(backend.only().field("traceparent"), format!("00-{TRACE}-{}-01", spans[1].id));
    assert_eq!(spans[1].parent, spans[0].id);
}
