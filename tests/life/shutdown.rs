//! How the process ends: when, with which code, and what becomes of those it serves.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::AsyncReadExt;

use crate::support::backend::{Backend, DONE, Script, stream, token};
use crate::support::client::{self, PATH, chat, read_reply, read_until, request, send};
use crate::support::h2_client::Connection;
use crate::support::process::Process;
use crate::support::{Headway, backend, config, now, page, patiently, until};

fn file(folder: &tempfile::TempDir, text: &str) -> std::path::PathBuf {
    let path = folder.path().join("headway.yaml");
    std::fs::write(&path, text).expect("a file");
    path
}

/// A process before one backend, with that `shutdown` section.
async fn serving(backend_: &Backend, shutdown: &str) -> (Process, SocketAddr, SocketAddr, tempfile::TempDir) {
    let folder = tempfile::tempdir().expect("a folder");
    let text = config(&[backend("m", backend_.address)], "", &format!("shutdown: {{ {shutdown} }}"));
    let (process, data, admin) = Process::serving(&file(&folder, &text)).await;
    (process, data, admin, folder)
}

async fn refused(address: SocketAddr) {
    patiently("refusal of new connections", async {
        while tokio::net::TcpStream::connect(address).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

/// A stream of about a second and a half.
fn long() -> Script {
    Script::events(&stream(30), true).paced(Duration::from_millis(50))
}

#[tokio::test]
async fn an_idle_process_ends_at_once() {
    let backend = Backend::start(Script::events(&stream(2), true)).await;
    let (mut process, data, _, _folder) = serving(&backend, "drain: 10m").await;
    // Idle connections do not count.
    let mut kept = client::connect(data).await;
    assert!(client::ask(&mut kept, &request("r", &chat("m"))).await.whole);
    let h2 = Connection::open(data).await;
    assert_eq!(h2.send("h2", Some(&chat("m"))).await.reply().await.0, 200);
    let asked = now();
    process.signal("TERM");
    assert_eq!(process.code().await, Some(0));
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
}

#[tokio::test]
async fn streams_finish_whole_before_the_end() {
    let backend = Backend::start(long()).await;
    let (mut process, data, admin, _folder) = serving(&backend, "drain: 10m").await;
    let mut h1 = send(data, &request("h1", &chat("m"))).await;
    let connection = Connection::open(data).await;
    let mut h2 = connection.send("h2", Some(&chat("m"))).await;
    read_until(&mut h1, "t0").await;
    h2.head().await.expect("a head");
    process.signal("TERM");
    refused(data).await;
    assert_eq!(page(admin, "GET", "/readyz").await.0, 503);
    assert_eq!(page(admin, "GET", "/healthz").await.0, 200);
    assert!(!process.has_ended());
    let mut rest = String::new();
    while let Some(bytes) = h2.piece().await.expect("a whole stream") {
        rest.push_str(&String::from_utf8_lossy(&bytes));
    }
    assert!(rest.ends_with(DONE));
    assert!(read_until(&mut h1, "\r\n0\r\n\r\n").await.contains(DONE));
    let done = now();
    assert_eq!(process.code().await, Some(0));
    assert!(done.elapsed() < Duration::from_secs(5), "{:?}", done.elapsed());
}

#[tokio::test]
async fn whoever_outstays_the_drain_is_told() {
    let backend_ = Backend::start(Script::events(&[token("first")], false)).await;
    let silent = Backend::start(Script::Silent).await;
    let folder = tempfile::tempdir().expect("a folder");
    let stanzas = [backend("m", backend_.address), backend("s", silent.address)];
    let text = config(&stanzas, "", "shutdown: { drain: 300ms }");
    let (mut process, data, _) = Process::serving(&file(&folder, &text)).await;
    let mut h1 = send(data, &request("h1", &chat("m"))).await;
    let connection = Connection::open(data).await;
    let mut h2 = connection.send("h2", Some(&chat("m"))).await;
    let mut waiting = send(data, &request("waiting", &chat("s"))).await;
    read_until(&mut h1, "first").await;
    h2.head().await.expect("a head");
    silent.wait("waiting", "arrives", |seen| seen.requests == 1).await;
    process.signal("TERM");
    let reply = read_reply(&mut h1).await;
    assert!(reply.text.contains("\"code\":\"drained\"") && !reply.whole, "{reply:?}");
    assert!(h2.read_until("\"code\":\"drained\"").await.contains("first"));
    let reply = read_reply(&mut waiting).await;
    assert!(reply.status == 503 && reply.whole, "{reply:?}");
    assert_eq!(process.code().await, Some(0));
}

#[tokio::test]
async fn what_the_drain_cuts_off_leaves_its_record() {
    let silent = Backend::start(Script::Silent).await;
    let folder = tempfile::tempdir().expect("a folder");
    let log = folder.path().join("access.log");
    let rest = format!("shutdown: {{ drain: 300ms }}\ntelemetry: {{ access_log: {{ path: \"{}\" }} }}", log.display());
    let route = format!(", match: {{ paths: [/v1/files, {PATH}] }}");
    let text = config(&[backend("m", silent.address)], &route, &rest);
    let (mut process, data, _) = Process::serving(&file(&folder, &text)).await;
    let mut uploading = send(data, &(client::head("uploading", 100) + "part")).await;
    let files = |text: String| text.replace(PATH, "/v1/files");
    let mut passed = send(data, &files(request("passed", "some bytes"))).await;
    silent.wait("passed", "arrives", |seen| seen.requests == 1).await;
    let mut half = send(data, &(files(client::head("half", 100)) + "part")).await;
    silent.wait("half", "arrives", |seen| seen.begun).await;
    process.signal("TERM");
    let reply = read_reply(&mut uploading).await;
    assert!(reply.status == 503 && reply.text.contains("\"code\":\"draining\""), "{reply:?}");
    for one in [&mut passed, &mut half] {
        let reply = read_reply(one).await;
        assert!(!reply.whole, "{reply:?}");
    }
    assert_eq!(process.code().await, Some(0));
    let lines = std::fs::read_to_string(&log).expect("a log");
    for id in ["uploading", "passed", "half"] {
        let of: Vec<_> = lines.lines().filter(|line| line.contains(&format!("\"{id}\""))).collect();
        assert!(of.len() == 1 && of[0].contains("\"outcome\":\"drained\""), "{id}: {lines}");
    }
}

#[tokio::test]
async fn a_stream_whose_next_bytes_are_always_there_is_cut_too() {
    let again = Bytes::from(token("again").repeat(100));
    let endless = Backend::start(Script::pieces(vec![again; 500_000], "text/event-stream")).await;
    let folder = tempfile::tempdir().expect("a folder");
    let log = folder.path().join("access.log");
    let rest = format!("shutdown: {{ drain: 300ms }}\ntelemetry: {{ access_log: {{ path: \"{}\" }} }}", log.display());
    let text = config(&[backend("m", endless.address)], "", &rest);
    let (mut process, data, _) = Process::serving(&file(&folder, &text)).await;
    let mut stream = send(data, &request("endless", &chat("m"))).await;
    read_until(&mut stream, "again").await;
    process.signal("TERM");
    let mut sink = vec![0; 1 << 16];
    patiently("the end of an endless stream", async { while let Ok(1..) = stream.read(&mut sink).await {} }).await;
    assert_eq!(process.code().await, Some(0));
    let lines = std::fs::read_to_string(&log).expect("a log");
    assert!(lines.contains("\"endless\"") && lines.contains("\"outcome\":\"drained\""), "{lines}");
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    for (second, code) in [("TERM", 0), ("INT", 130)] {
        let waiting = Backend::start(Script::events(&[token("first")], false)).await;
        let folder = tempfile::tempdir().expect("a folder");
        let log = folder.path().join("access.log");
        let rest = format!("telemetry: {{ access_log: {{ path: \"{}\" }} }}", log.display());
        let text = config(&[backend("m", waiting.address)], "", &rest);
        let (mut process, data, _) = Process::serving(&file(&folder, &text)).await;
        let mut h1 = send(data, &request("h1", &chat("m"))).await;
        read_until(&mut h1, "first").await;
        process.signal("TERM");
        refused(data).await;
        assert!(!process.has_ended());
        process.signal(second);
        assert_eq!(process.code().await, Some(code), "after {second}");
        assert!(read_reply(&mut h1).await.text.contains("\"code\":\"drained\""));
        let lines = std::fs::read_to_string(&log).expect("a log");
        assert!(lines.contains("\"outcome\":\"drained\"") && lines.contains("\"backend\":\"m\""), "{lines}");
    }
}

#[tokio::test]
async fn requests_are_taken_until_the_drain_begins() {
    let backend = Backend::start(Script::events(&stream(2), true)).await;
    let (mut process, data, admin, _folder) = serving(&backend, "pre_drain: 1s, drain: 10m").await;
    let asked = now();
    assert_eq!(page(admin, "POST", "/-/drain").await.0 / 100, 2);
    patiently("unreadiness", async {
        while page(admin, "GET", "/readyz").await.0 != 503 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
    let mut late = send(data, &request("late", &chat("m"))).await;
    let reply = read_reply(&mut late).await;
    assert!(reply.status == 200 && reply.whole, "{reply:?}");
    assert_eq!(process.code().await, Some(0));
    assert!(asked.elapsed() >= Duration::from_secs(1), "{:?}", asked.elapsed());
}

#[tokio::test]
async fn what_cannot_start_says_so_by_its_exit_code() {
    let folder = tempfile::tempdir().expect("a folder");
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = taken.local_addr().expect("an address");
    let listener = format!("listeners: [{{ address: \"{address}\" }}]");
    let text = config(&[backend("m", address)], "", &listener);
    let file_ = file(&folder, &text);
    let serve = ["serve", "--config", file_.to_str().expect("a path")];
    let address = address.to_string();
    let [nim, demo] = [["nim", "--listen", &address], ["demo", "--listen", &address]];
    for args in [&serve, &nim, &demo] {
        let mut process = Process::run(args);
        assert_eq!(process.code().await, Some(69), "{args:?}");
        until("the reason", || process.log().contains(&address)).await;
    }
    let mut process = Process::spawn(&file(&folder, "listeners: [{ adress: 127.0.0.1:0 }]\n"));
    assert_eq!(process.code().await, Some(78));
    until("the place", || process.log().contains("headway.yaml:1:")).await;
}

#[tokio::test]
async fn connections_beyond_the_limit_wait_for_a_place() {
    let backend_ = Backend::start(Script::events(&stream(2), true)).await;
    let text = config(&[backend("m", backend_.address)], "", "limits: { connections: 2 }");
    let headway = Headway::start(&text).await;
    let (first, _second) = (client::connect(headway.address).await, client::connect(headway.address).await);
    let mut third = send(headway.address, &request("third", &chat("m"))).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(headway.records("third").is_empty());
    drop(first);
    assert!(read_reply(&mut third).await.whole);
}
