//! The metrics page over the wire: what junk adds to it, what it says of one exchange, and in which format.

use headway::random::Random;

use crate::support::backend::Scripted;
use crate::support::client::Client;
use crate::support::headway::Headway;
use crate::support::texts::{CHAT, STREAM, post, post_with, streamed};

/// Junk requests over sockets; in-process there is a million of them.
const JUNK: usize = 10_000;

/// The page, in the format that `accept` asks for, and its content type.
async fn page(headway: &Headway, accept: &str) -> (String, String) {
    let mut client = Client::connect(headway.server.admin_address()).await;
    client
        .send(format!("GET /metrics HTTP/1.1\r\nhost: localhost\r\naccept: {accept}\r\nconnection: close\r\n\r\n"))
        .await;
    let reply = client.reply().await;
    (reply.text(), reply.field("content-type").unwrap_or_default())
}

const OPEN: &str = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5";

fn samples(page: &str) -> Vec<&str> {
    page.lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.rsplit_once(' '))
        .map(|(name, _)| name)
        .collect()
}

#[tokio::test]
async fn ten_thousand_models_that_nobody_serves_add_no_series() {
    let backend = Scripted::start(streamed()).await;
    let headway = Headway::before(&backend).await;
    let mut client = headway.connect().await;
    let mut random = Random::seeded(7);
    let mut before = String::new();
    for number in 0..=JUNK {
        client.send(post(CHAT, &format!(r#"{{"model":"junk-{:x}","messages":[]}}"#, random.bits()))).await;
        assert_eq!(client.reply().await.status, 404);
        if number == 0 {
            headway.idle().await;
            before = page(&headway, "*/*").await.0;
        }
    }
    headway.idle().await;
    let (after, _) = page(&headway, "*/*").await;
    assert_eq!(samples(&after), samples(&before));
    assert!(after.len() < 2 << 20, "{} bytes", after.len());
    let counted = format!("api=\"chat\",outcome=\"rejected_request\"}} {}\n", JUNK + 1);
    assert!(after.contains(&counted), "{after}");
    assert!(!after.contains("junk"), "{after}");
}

#[tokio::test]
async fn openmetrics_is_for_those_who_ask_and_points_to_traces() {
    let backend = Scripted::start(streamed()).await;
    let headway = Headway::before(&backend).await;
    let trace = "0af7651916cd43dd8448eb211c80319c";
    let traced = format!("traceparent: 00-{trace}-b7ad6b7169203331-01\r\n");
    assert_eq!(headway.exchange(post_with(CHAT, &traced, STREAM)).await.status, 200);
    headway.idle().await;
    let (open, kind) = page(&headway, OPEN).await;
    assert_eq!(kind, "application/openmetrics-text; version=1.0.0; charset=utf-8");
    assert!(open.ends_with("# EOF\n"), "{open}");
    for family in ["time_to_first_token", "inter_token_latency", "request_duration"] {
        let bucket = format!("headway_{family}_seconds_bucket{{");
        let exemplar = format!(" # {{trace_id=\"{trace}\"}} ");
        let pointing = open.lines().filter(|line| line.starts_with(&bucket) && line.contains(&exemplar)).count();
        assert_eq!(pointing, 1, "{family}: {open}");
    }
    let (text, kind) = page(&headway, "text/plain").await;
    assert_eq!(kind, "text/plain; version=0.0.4; charset=utf-8");
    assert!(!text.contains(trace) && !text.contains("# EOF"), "{text}");
}

#[tokio::test]
async fn what_headway_adds_is_shown_by_phase() {
    let backend = Scripted::start(streamed()).await;
    let headway = Headway::before(&backend).await;
    assert_eq!(headway.stream().await.status, 200);
    headway.idle().await;
    let (text, _) = page(&headway, "text/plain").await;
    for phase in ["request", "decide", "first_token"] {
        let counted = format!("headway_overhead_seconds_count{{route=\"r\",phase=\"{phase}\"}} 1\n");
        assert!(text.contains(&counted), "{phase}: {text}");
    }
    let record = headway.record().await;
    let (first, felt) = (record.phases.relay_first.unwrap(), record.latencies.end_to_end.unwrap());
    assert!(!first.is_zero() && first < felt.max(std::time::Duration::from_secs(1)), "{first:?} of {felt:?}");
}
