//! Which traces are sent: chosen at their head, or kept at their end.

use std::collections::HashSet;
use std::time::Duration;

use crate::collector::Collector;
use crate::shape::{ended, log_file, traced};
use crate::support::backend::{Scripted, Step};
use crate::support::headway::{Headway, Setup};
use crate::support::texts::{CHAT, STREAM, json as json_answer, post_with, streamed};

const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7";

/// The requests that were traced, and why; what the backend was told of each in turn.
async fn sampled(
    keys: &str,
    route: &str,
    ask: impl AsyncFn(&Headway, &Scripted),
) -> (Vec<(String, String)>, Vec<String>) {
    let (collector, (_folder, log)) = (Collector::start().await, log_file());
    let backend = Scripted::start(streamed()).await;
    let more = traced(&collector, "http/protobuf", &log).replace("sample_ratio: 1.0", keys);
    let headway = Setup::default().backend("a", &backend, "").route(route).more(&more).start().await;
    ask(&headway, &backend).await;
    ended(headway, &log).await;
    let servers = collector.spans().into_iter().filter(|span| span.name.starts_with("POST"));
    let text = |value: &serde_json::Value| value.as_str().expect("a text").to_owned();
    let why =
        servers.map(|span| (text(&span.attributes["headway.request_id"]), text(&span.attributes["headway.kept"])));
    let flag = |parent: String| parent.rsplit('-').next().expect("flags").to_owned();
    let mut why: Vec<_> = why.collect();
    why.sort();
    (why, backend.seen().iter().map(|seen| flag(seen.field("traceparent"))).collect())
}

async fn ask(headway: &Headway, id: &str, fields: &str) {
    headway.exchange(post_with(CHAT, &format!("x-request-id: {id}\r\n{fields}"), STREAM)).await;
}

fn kept(of: &[(&str, &str)]) -> Vec<(String, String)> {
    of.iter().map(|(id, why)| ((*id).to_owned(), (*why).to_owned())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_missed_its_promise_or_failed_is_kept_although_nothing_was_chosen() {
    let route = "slo: { ttft: { p95: 1s } }";
    let all = async |headway: &Headway, backend: &Scripted| {
        ask(headway, "good", "").await;
        backend.next([vec![Step::Pause], streamed()].concat());
        tokio::join!(ask(headway, "late", ""), async {
            tokio::time::sleep(Duration::from_millis(1_100)).await;
            backend.resume();
        });
        backend.next(json_answer("400 Bad Request", "{}"));
        ask(headway, "rejected", "").await;
    };
    let (kept_by_default, told) = sampled("sample_ratio: 0", route, all).await;
    assert_eq!(kept_by_default, kept(&[("late", "slo_miss")]));
    // The backend is told what was chosen, not what came of it.
    assert_eq!(told, ["00"; 3]);
    let (nothing, _) = sampled("sample_ratio: 0, always_sample: []", route, all).await;
    assert_eq!(nothing, []);

    let failing = async |headway: &Headway, backend: &Scripted| {
        ask(headway, "good", "").await;
        backend.next(json_answer("500 Internal Server Error", "{}"));
        ask(headway, "failed", "").await;
    };
    let (errors, _) = sampled("sample_ratio: 0, always_sample: [error]", "", failing).await;
    assert_eq!(errors, kept(&[("failed", "error")]));
    let (misses, _) = sampled("sample_ratio: 0, always_sample: [slo_miss]", "", failing).await;
    assert_eq!(misses, [], "a route that promises nothing misses nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_callers_choice_is_followed() {
    let both = async |headway: &Headway, _: &Scripted| {
        ask(headway, "yes", &format!("traceparent: {PARENT}-01\r\n")).await;
        ask(headway, "no", &format!("traceparent: {PARENT}-00\r\n")).await;
    };
    for ratio in ["0", "1.0"] {
        let (chosen, told) = sampled(&format!("sample_ratio: {ratio}"), "", both).await;
        assert_eq!((chosen, told), (kept(&[("yes", "head")]), vec!["01".to_owned(), "00".to_owned()]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_share_is_a_share_and_backends_are_told_which() {
    let many = async |headway: &Headway, _: &Scripted| {
        for number in 0..200 {
            ask(headway, &number.to_string(), "").await;
        }
    };
    let (chosen, told) = sampled("sample_ratio: 50%", "", many).await;
    assert!((60..=140).contains(&chosen.len()), "{}", chosen.len());
    let chosen: HashSet<_> = chosen.into_iter().map(|(id, _)| id).collect();
    for (number, flag) in told.iter().enumerate() {
        assert_eq!(flag == "01", chosen.contains(&number.to_string()), "{number}");
    }
}
