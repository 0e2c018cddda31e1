//! Faults of the system below: the wall clock jumps, the disk is full, nobody reads the log, the process stands still.

use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use headway::clock::{Clock, SystemClock};
use headway::measure::outcome::Outcome;
use tokio::io::AsyncWriteExt as _;

use crate::support::backend::{Backend, DONE, Script, stream, token};
use crate::support::client::{self, chat, read_reply, read_until, request, send};
use crate::support::process::Process;
use crate::support::{Headway, backend, config, metric, now, page, patiently, until};

/// A clock on the wall that somebody sets.
#[derive(Default)]
struct Wall(AtomicI64);

impl Clock for Wall {
    fn now(&self) -> Instant {
        SystemClock.now()
    }

    fn wall(&self) -> SystemTime {
        let (by, wall) = (self.0.load(Ordering::Relaxed), SystemClock.wall());
        let step = Duration::from_secs(by.unsigned_abs());
        if by < 0 { wall - step } else { wall + step }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_hour_on_the_wall_is_no_time_for_a_stream() {
    let paced = Backend::start(Script::events(&stream(10), true).paced(Duration::from_millis(20))).await;
    let stuck = Backend::start(Script::events(&[token("first")], false)).await;
    let clock = Arc::new(Wall::default());
    let text = config(
        &[backend("m", paced.address), backend("stuck", stuck.address)],
        ", timeouts: { first_token: 30s, idle: 700ms, total: 40s }, slo: { ttft: { p95: 10s } }",
        "",
    );
    let headway = Headway::with_clock(&text, Arc::clone(&clock) as Arc<dyn Clock>).await;
    for (id, step) in [("forward", 3600), ("back", -3600)] {
        clock.0.store(0, Ordering::Relaxed);
        let mut whole = send(headway.address, &request(id, &chat("m"))).await;
        let mut idle = send(headway.address, &request(&format!("{id}-idle"), &chat("stuck"))).await;
        read_until(&mut whole, "t0").await;
        read_until(&mut idle, "first").await;
        let stepped = now();
        clock.0.store(step, Ordering::Relaxed);
        assert!(read_until(&mut whole, "\r\n0\r\n\r\n").await.contains(DONE), "{id}");
        let record = headway.record(id).await;
        assert_eq!(record.outcome, Outcome::Complete);
        let taken = record.latencies.end_to_end.expect("it is defined");
        assert!((Duration::from_millis(150)..Duration::from_secs(15)).contains(&taken), "{id}: {taken:?}");
        let reply = read_reply(&mut idle).await;
        assert!(reply.text.contains("\"code\":\"idle_timeout\""), "{id}: {reply:?}");
        assert!(stepped.elapsed() >= Duration::from_millis(600), "{id}: a timer came early");
        assert_eq!(headway.record(&format!("{id}-idle")).await.outcome, Outcome::IdleTimeout);
    }
    let (status, text) = page(headway.server.admin_address(), "GET", "/metrics").await;
    assert!(status == 200 && metric(&text, "headway_request_duration_seconds_sum", &["route=\"all\""]) < 120.0);
    headway.idle().await;
}

#[tokio::test]
async fn a_full_disk_costs_lines_of_the_log_alone() {
    let backend_ = Backend::start(Script::events(&stream(2), true)).await;
    let text = config(&[backend("m", backend_.address)], "", "telemetry: { access_log: { path: /dev/full } }");
    let headway = Headway::start(&text).await;
    let mut tcp = client::connect(headway.address).await;
    for number in 0..200 {
        assert!(client::ask(&mut tcp, &request(&format!("r{number}"), &chat("m"))).await.whole);
    }
    headway.idle().await;
    until("counted lines", || headway.records("r199").len() == 1).await;
    patiently("lost lines in the metrics", async {
        while headway.metric("headway_access_log_dropped_total", &[]).await < 200.0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_log_that_nobody_reads_holds_nobody_up() {
    let backend_ = Backend::start(Script::events(&stream(2), true)).await;
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("headway.yaml");
    let text = config(&[backend("m", backend_.address)], "", "telemetry: { access_log: { path: stdout } }");
    std::fs::write(&file, text).expect("a file");
    // The pipe is never read: it takes 64 KiB, and after that nothing.
    let args = ["serve", "--config", file.to_str().expect("a path")];
    let mut process = Process::run_with(&args, &[], Stdio::piped());
    let (data, admin) = process.ready().await;
    let mut tcp = client::connect(data).await;
    for number in 0..400 {
        assert!(client::ask(&mut tcp, &request(&format!("r{number}"), &chat("m"))).await.whole, "{number}");
    }
    assert_eq!(page(admin, "GET", "/readyz").await.0, 200);
    drop(tcp);
    let asked = now();
    process.signal("TERM");
    assert_eq!(process.code().await, Some(0));
    assert!(asked.elapsed() < Duration::from_secs(6), "it ends without its log: {:?}", asked.elapsed());
}

#[tokio::test]
async fn a_process_that_stood_still_goes_on_where_it_was() {
    let backend_ = Backend::start(Script::events(&stream(60), true).paced(Duration::from_millis(20))).await;
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("headway.yaml");
    let text = config(&[backend("m", backend_.address)], ", timeouts: { idle: 60s }", "");
    std::fs::write(&file, text).expect("a file");
    let (mut process, data, admin) = Process::serving(&file).await;
    let mut stream = send(data, &request("stopped", &chat("m"))).await;
    read_until(&mut stream, "t0").await;
    process.signal("STOP");
    // Its clients wait meanwhile: whoever connects is in the kernel's queue.
    let mut late = client::connect(data).await;
    late.write_all(request("late", &chat("m")).as_bytes()).await.expect("the kernel takes it");
    tokio::time::sleep(stopped()).await;
    process.signal("CONT");
    assert!(read_until(&mut stream, "\r\n0\r\n\r\n").await.contains(DONE));
    assert!(read_until(&mut late, "\r\n0\r\n\r\n").await.contains(DONE));
    assert_eq!(page(admin, "GET", "/readyz").await.0, 200, "its backend is no worse for that");
    process.signal("TERM");
    assert_eq!(process.code().await, Some(0));
}

/// How long the process stands still.
fn stopped() -> Duration {
    let seconds = std::env::var("HEADWAY_STOPPED_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(2))
}
