//! A collector that is not there, hangs, or takes a byte a second costs spans, which are counted, and nothing else.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use headway::clock::{Clock, SystemClock};
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;

use crate::process::{Process, config_file};
use crate::shape::log_file;
use crate::support::PATIENCE;
use crate::support::backend::Scripted;
use crate::support::client::{Client, End};
use crate::support::headway::Setup;
use crate::support::texts::{CHAT, STREAM, post, streamed};

/// So long may headway take to end, whatever the collector does.
const ENDS_WITHIN: Duration = Duration::from_secs(2);

/// What a troubled collector does with a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    Refuses,
    Hangs,
    /// Reads a byte a second.
    Crawls,
}

async fn troubled(trouble: Trouble) -> (SocketAddr, Option<tokio::task::JoinHandle<()>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    if trouble == Trouble::Refuses {
        return (address, None);
    }
    let serving = tokio::spawn(async move {
        let mut held = Vec::new();
        loop {
            let (mut tcp, _) = listener.accept().await.unwrap();
            if trouble == Trouble::Hangs {
                held.push(tcp);
                continue;
            }
            tokio::spawn(async move {
                let mut byte = [0];
                while tcp.read(&mut byte).await.is_ok_and(|read| read > 0) {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            });
        }
    });
    (address, Some(serving))
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_go_on_and_headway_ends_in_time_whatever_the_collector_does() {
    for protocol in ["http/protobuf", "grpc"] {
        for trouble in [Trouble::Refuses, Trouble::Hangs, Trouble::Crawls] {
            requests_go_on(protocol, trouble).await;
        }
    }
}

async fn requests_go_on(protocol: &str, trouble: Trouble) {
    let what = format!("{protocol}, {trouble:?}");
    let (collector, _serving) = troubled(trouble).await;
    let backend = Scripted::start(streamed()).await;
    let (_folder, log) = log_file();
    let more = format!(
        "telemetry:\n  otlp: {{ endpoint: \"http://{collector}\", protocol: {protocol}, sample_ratio: 1.0 }}\n  \
         access_log: {{ path: {} }}\n",
        log.display()
    );
    let config = config_file(&Setup::default().backend("a", &backend, "").more(&more).text());
    // A small queue that is soon full, and batches sent at once.
    let few =
        [("OTEL_BSP_MAX_QUEUE_SIZE", "64"), ("OTEL_BSP_SCHEDULE_DELAY", "10"), ("OTEL_EXPORTER_OTLP_TIMEOUT", "60000")];
    let (mut process, data, admin) = Process::serving(config.path(), &few).await;
    let asked = 100;
    for _ in 0..asked {
        let mut client = Client::connect(data).await;
        client.send(post(CHAT, STREAM)).await;
        let reply = client.reply().await;
        assert_eq!((reply.status, reply.end), (200, End::Clean), "{what}");
    }
    let page = metrics(admin).await;
    let dropped = |reason: &str| -> u64 {
        let name = format!("headway_spans_dropped_total{{reason=\"{reason}\"}} ");
        page.lines().find_map(|line| line.strip_prefix(&name)).expect("a counter").parse().unwrap()
    };
    match trouble {
        Trouble::Refuses => assert!(dropped("export_failed") + dropped("queue_full") > 0, "{what}: {page}"),
        Trouble::Hangs | Trouble::Crawls => assert!(dropped("queue_full") > 0, "{what}: {page}"),
    }
    assert!(page.contains("headway_spans_exported_total 0\n"), "{what}: {page}");
    let before: Instant = SystemClock.now();
    process.signal("TERM");
    assert_eq!(process.code().await, Some(0), "{what}: {}", process.log());
    let took = SystemClock.now().duration_since(before);
    assert!(took < ENDS_WITHIN, "{what}: it took {took:?} to end\n{}", process.log());
    let log = std::fs::read_to_string(&log).unwrap();
    assert_eq!(log.lines().count(), asked, "{what}: every exchange is in the log");
    assert!(
        log.lines().all(|line| line.contains("\"outcome\":\"complete\"") && line.contains("\"trace_id\"")),
        "{what}"
    );
    assert!(process.log().matches("collector").count() <= 2, "{what}: one line, not one a batch\n{}", process.log());
}

async fn metrics(admin: SocketAddr) -> String {
    let mut client = Client::connect(admin).await;
    client.send("GET /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    tokio::time::timeout(PATIENCE, client.reply()).await.unwrap().text()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_span_is_accounted_for() {
    let (collector, _serving) = troubled(Trouble::Hangs).await;
    let backend = Scripted::start(streamed()).await;
    let more = format!("telemetry: {{ otlp: {{ endpoint: \"http://{collector}\", sample_ratio: 1.0 }} }}\n");
    let headway = Setup::default().backend("a", &backend, "").more(&more).start().await;
    // Twice as many as may wait, and more than are sent at once.
    let asked = 600;
    for _ in 0..asked {
        headway.stream().await;
    }
    headway.idle().await;
    let telemetry = Arc::clone(headway.server.telemetry());
    headway.server.shutdown(Duration::from_secs(5)).await;
    let page = telemetry.metrics().render(&headway::telemetry::live::LiveFigures::default());
    let of = |line: &str| line.rsplit(' ').next().and_then(|number| number.parse::<u64>().ok()).unwrap();
    let spans = page.lines().filter(|line| line.starts_with("headway_spans_"));
    let counted: u64 = spans.clone().map(of).sum();
    assert_eq!(counted, asked * 8, "{:?}", spans.collect::<Vec<_>>());
}
