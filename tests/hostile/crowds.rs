//! Very many connections: slow ones, idle ones, short ones.
//!
//! The regular run is small. `HEADWAY_CROWD=10000` makes it whole, where so many descriptors may be open.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::neighbour::{Neighbour, falls, gauge, whole};
use crate::support::authority::Authority;
use crate::support::backend::Backend;
use crate::support::client::{self, ask, chat, connect, read_reply, reset_on_close};
use crate::support::process::Process;
use crate::support::{Headway, backend, config, now, patiently, until};

/// How many connections.
fn crowd() -> usize {
    std::env::var("HEADWAY_CROWD").ok().and_then(|text| text.parse().ok()).unwrap_or(400)
}

/// How long a head may take: less than usual where the crowd is small.
fn deadline() -> Duration {
    if crowd() >= 5_000 { Duration::from_secs(10) } else { Duration::from_secs(2) }
}

/// How much later than it must a connection may be closed on a machine that is busy with all of them.
const SLACK: Duration = Duration::from_secs(3);

/// A headway for a crowd, before a backend that serves the neighbour.
async fn serving(backend_: &Backend) -> (Process, SocketAddr, SocketAddr, TempDir) {
    let folder = tempfile::tempdir().expect("a folder");
    let file: PathBuf = folder.path().join("headway.yaml");
    let limits = format!("limits: {{ connections: 20000, header_deadline: {}s }}", deadline().as_secs());
    std::fs::write(&file, config(&[backend("n", backend_.address)], "", &limits)).expect("a file");
    let (process, data, admin) = Process::serving(&file).await;
    (process, data, admin, folder)
}

/// What one of the slow says, byte by byte; the first part at once.
const SLOW: [(&str, &str); 5] = [
    ("", ""),
    ("P", "OST /v1/chat/completions HTTP/1.1\r\nhost: h\r\n"),
    ("POST /v1/chat/completions HTTP/1.1\r\nhost: h\r\nx-a: ", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"),
    ("GET / HTTP/1.1\r\n", "a: b\r\nc: d\r\ne: f\r\ng: h\r\n"),
    ("PRI * HTTP/2.0\r\n", "\r\nSM\r\n"),
];

/// One slow connection; how long it was borne.
async fn slow(mut stream: TcpStream, number: usize) -> Duration {
    let began = now();
    let (first, rest) = SLOW[number % SLOW.len()];
    let _ = stream.write_all(first.as_bytes()).await;
    let (mut read, mut write) = stream.into_split();
    let dripping = async {
        for byte in rest.bytes() {
            tokio::time::sleep(Duration::from_millis(700)).await;
            if write.write_all(&[byte]).await.is_err() {
                break;
            }
        }
        std::future::pending::<()>().await;
    };
    let mut answer = Vec::new();
    tokio::select! {
        _ = patiently("the end of a slow connection", read.read_to_end(&mut answer)) => {}
        () = dripping => {}
    }
    began.elapsed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_heads_are_all_given_up_in_time_and_cost_others_nothing() {
    let backend_ = Backend::start(whole()).await;
    let (_process, data, admin, _folder) = serving(&backend_).await;
    let descriptors = gauge(admin, "process_open_fds").await;
    let alone = Neighbour::start(data);
    tokio::time::sleep(deadline()).await;
    let alone = alone.end().await;
    let beside = Neighbour::start(data);
    let mut slow_ones = JoinSet::new();
    for number in 0..crowd() {
        slow_ones.spawn(slow(connect(data).await, number));
        if number % 50 == 49 {
            // No faster than they are accepted: what the kernel's queue has no room for is no connection.
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    let mut longest = Duration::ZERO;
    while let Some(borne) = slow_ones.join_next().await {
        longest = longest.max(borne.expect("no panic"));
    }
    let beside = beside.end().await;
    println!(
        "{} slow connections, all closed after at most {longest:.2?}; neighbour's median {:.2?} beside them, {:.2?} alone \
         (ratio {:.2}), p99 {:.2?} and {:.2?} (ratio {:.2}), {} and {} requests",
        crowd(),
        beside.median,
        alone.median,
        beside.median.as_secs_f64() / alone.median.as_secs_f64(),
        beside.p99,
        alone.p99,
        beside.p99.as_secs_f64() / alone.p99.as_secs_f64(),
        beside.requests,
        alone.requests,
    );
    assert!(longest < deadline() + SLACK, "{longest:?}");
    falls(admin, "process_open_fds", descriptors + 4.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_connections_cost_little() {
    let backend_ = Backend::start(whole()).await;
    let (_process, data, admin, _folder) = serving(&backend_).await;
    // The allocator's own rooms are there before what is measured.
    drop(idle(data, 50).await);
    let before = gauge(admin, "process_resident_memory_bytes").await;
    let held = idle(data, crowd()).await;
    let each = (gauge(admin, "process_resident_memory_bytes").await - before) / 1024.0 / held.len() as f64;
    println!("{} idle connections: {each:.1} KiB each", held.len());
    assert!(each < 64.0, "{each} KiB");
    let neighbour = Neighbour::start(data).end().await;
    assert!(neighbour.requests >= 20);
}

/// So many connections that each have had an answer.
async fn idle(address: SocketAddr, count: usize) -> Vec<TcpStream> {
    let mut held = Vec::with_capacity(count);
    for number in 0..count {
        let mut stream = connect(address).await;
        let body = chat("n").replace("true", "false");
        assert_eq!(ask(&mut stream, &client::request(&format!("idle-{number}"), &body)).await.status, 200);
        held.push(stream);
    }
    held
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_come_and_go_leave_nothing() {
    let backend_ = Backend::start(whole()).await;
    let (process, data, admin, _folder) = serving(&backend_).await;
    let descriptors = gauge(admin, "process_open_fds").await;
    let neighbour = Neighbour::start(data);
    let (began, count) = (now(), Arc::new(AtomicUsize::new(0)));
    let mut churning = JoinSet::new();
    for task in 0..8_usize {
        let count = Arc::clone(&count);
        churning.spawn(async move {
            while began.elapsed() < Duration::from_secs(2) {
                let number = count.fetch_add(1, Ordering::Relaxed) + task;
                let mut stream = connect(data).await;
                match number % 4 {
                    0 => {}
                    1 => reset_on_close(&stream),
                    2 => drop(stream.write_all(b"POST /v1/chat").await),
                    _ => {
                        let text = "GET /v1/models HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n";
                        stream.write_all(text.as_bytes()).await.expect("it reads");
                        assert_eq!(read_reply(&mut stream).await.status, 200);
                    }
                }
            }
        });
    }
    while let Some(done) = churning.join_next().await {
        done.expect("no panic");
    }
    let took = neighbour.end().await;
    let rate = count.load(Ordering::Relaxed) as f64 / 2.0;
    println!("{rate:.0} connections per second; neighbour's median {:.2?}, p99 {:.2?}", took.median, took.p99);
    falls(admin, "process_open_fds", descriptors + 4.0).await;
    // Who comes and goes writes nothing into headway's log.
    assert!(process.log().lines().count() < 20, "{}", process.log());
}

#[tokio::test]
async fn handshakes_and_first_heads_over_tls_have_their_time_too() {
    let authority = Authority::new();
    let backend_ = Backend::start(whole()).await;
    let rest = format!("{}\nlimits: {{ header_deadline: 400ms }}", authority.listener(""));
    let headway = Headway::start(&config(&[backend("n", backend_.address)], "", &rest)).await;
    let began = now();
    let mut stalled = Vec::new();
    for number in 0..20 {
        // Some say nothing, some half a hello; some have shaken hands and say nothing, or half a head, or half a preface.
        let mut stream = connect(headway.address).await;
        if number % 2 == 0 {
            stream.write_all(&[22, 3, 1, 2, 0, 1, 0]).await.expect("it reads");
        }
        stalled.push(tokio::spawn(async move { drop(stream.read_to_end(&mut Vec::new()).await) }));
        let (protocol, text): (&[u8], &[u8]) = match number % 4 {
            0 => (b"http/1.1", b""),
            1 => (b"http/1.1", b"POST /v1/chat/completions HTTP/1.1\r\n"),
            2 => (b"h2", b""),
            _ => (b"h2", b"PRI * HTTP/2.0\r\n"),
        };
        let mut stream = authority.client(&headway, protocol, false).await;
        stream.write_all(text).await.expect("it reads");
        stalled.push(tokio::spawn(async move { drop(stream.read_to_end(&mut Vec::new()).await) }));
    }
    for one in stalled {
        patiently("the end of a stalled connection", one).await.expect("no panic");
    }
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    until("an idle headway", || headway.server.active() == 0).await;
}

#[tokio::test]
async fn a_body_must_keep_a_pace() {
    let backend_ = Backend::start(whole()).await;
    let headway = Headway::start(&config(&[backend("n", backend_.address)], "", "limits: { body_idle: 400ms }")).await;
    let mut stream = client::send(headway.address, &client::head("drip", 10_000)).await;
    let began = now();
    let (mut read, mut write) = stream.split();
    let dripping = async {
        while write.write_all(b" ").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        std::future::pending::<()>().await;
    };
    let reply = tokio::select! {
        reply = read_reply(&mut read) => reply,
        () = dripping => unreachable!("it never ends"),
    };
    assert!(reply.status == 408 && reply.text.contains("request_timeout"), "{reply:?}");
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert_eq!(headway.record("drip").await.status, 408);
}
