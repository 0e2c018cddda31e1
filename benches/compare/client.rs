//! The clients of the comparison: raw HTTP/1.1, so that they cost little.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::backend::now;

/// Connections of the request scenario.
const CONNECTIONS: usize = 32;

fn request(model: &str, events: usize, stream: bool) -> Vec<u8> {
    let body = format!(
        "{{\"model\":\"{model}\",\"stream\":{stream},\"stream_options\":{{\"include_usage\":true}},\"messages\":[{{\"role\":\"user\",\"content\":\"How long is a headway?\"}}],\"max_tokens\":{events}}}"
    );
    format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

async fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).await.expect("the proxy listens");
    let _ = stream.set_nodelay(true);
    stream
}

/// Whole answers, one after the other on each of a few connections.
pub(crate) async fn requests(address: SocketAddr, count: usize) {
    let (_, failed) = timed_requests(address, count).await;
    assert_eq!(failed, 0, "every request is answered");
}

/// The same; returns the nanoseconds that each took, and how many were not answered with 200.
pub(crate) async fn timed_requests(address: SocketAddr, count: usize) -> (Vec<u64>, usize) {
    let workers: Vec<_> = (0..CONNECTIONS)
        .map(|_| {
            tokio::spawn(async move {
                let request = request("json", 2, false);
                let (mut stream, mut buffer) = (connect(address).await, vec![0; 8192]);
                let (mut took, mut failed) = (Vec::with_capacity(count / CONNECTIONS), 0);
                for _ in 0..count / CONNECTIONS {
                    let before = now();
                    let sent = stream.write_all(&request).await.is_ok();
                    if sent && read_whole(&mut stream, &mut buffer).await {
                        took.push(now().saturating_sub(before));
                    } else {
                        failed += 1;
                        stream = connect(address).await;
                    }
                }
                (took, failed)
            })
        })
        .collect();
    let (mut all, mut failures) = (Vec::with_capacity(count), 0);
    for worker in workers {
        let (took, failed) = worker.await.expect("a worker");
        all.extend(took);
        failures += failed;
    }
    (all, failures)
}

/// The answer ends with the JSON's own end; whether it came and its head says 200.
async fn read_whole(stream: &mut TcpStream, buffer: &mut [u8]) -> bool {
    let mut there = 0;
    loop {
        let Ok(read @ 1..) = stream.read(&mut buffer[there..]).await else { return false };
        there += read;
        let text = &buffer[..there];
        if memchr::memmem::find(text, b"\"completion_tokens\":2}}").is_some() {
            return text.starts_with(b"HTTP/1.1 200");
        }
    }
}

/// The metrics page of an admin listener.
pub(crate) async fn page(admin: SocketAddr) -> String {
    let (mut stream, mut page) = (connect(admin).await, Vec::new());
    stream
        .write_all(b"GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        .await
        .expect("a request");
    stream.read_to_end(&mut page).await.expect("a page");
    let page = String::from_utf8_lossy(&page).into_owned();
    assert!(page.contains("\nheadway_build_info"), "no metrics: {page}");
    page
}

/// Streams side by side; returns, for every event, the nanoseconds from its being sent to its being read.
pub(crate) async fn stream(address: SocketAddr, streams: usize, events: usize, gap: Duration) -> Vec<u64> {
    let model = format!("sse-{}", gap.as_micros());
    let readers: Vec<_> = (0..streams)
        .map(|_| {
            let request = request(&model, events, true);
            tokio::spawn(async move {
                let mut stream = connect(address).await;
                stream.write_all(&request).await.expect("a request");
                read_events(&mut stream, events).await
            })
        })
        .collect();
    let mut delays = Vec::with_capacity(streams * events);
    for reader in readers {
        delays.extend(reader.await.expect("a reader"));
    }
    delays
}

async fn read_events(stream: &mut TcpStream, events: usize) -> Vec<u64> {
    let (mut buffer, mut delays) = (Vec::with_capacity(16 * 1024), Vec::with_capacity(events));
    loop {
        let read = stream.read_buf(&mut buffer).await.expect("events");
        let now = now();
        let mut parsed = 0;
        while let Some(at) = memchr::memmem::find(&buffer[parsed..], b"\"content\":\"t") {
            let start = parsed + at + 12;
            let Some(stamp) = buffer.get(start - 1 + 1..start + 16) else { break };
            let sent: u64 = std::str::from_utf8(stamp).expect("digits").parse().expect("a stamp");
            delays.push(now.saturating_sub(sent));
            parsed = start + 16;
        }
        if memchr::memmem::find(&buffer[parsed..], b"[DONE]").is_some() {
            assert_eq!(delays.len(), events, "every event arrived");
            return delays;
        }
        assert!(read > 0, "the stream ended early: {}", String::from_utf8_lossy(&buffer));
        buffer.drain(..parsed);
    }
}

/// Streams that have had their first event and wait for the next; they last until dropped.
pub(crate) async fn hold(address: SocketAddr, count: usize) -> Vec<TcpStream> {
    let mut held = Vec::with_capacity(count);
    for _ in 0..count {
        let mut stream = connect(address).await;
        stream.write_all(&request("sse-3600000000", 2, true)).await.expect("a request");
        held.push(stream);
    }
    let mut buffer = vec![0; 4096];
    for stream in &mut held {
        let mut there = 0;
        while memchr::memmem::find(&buffer[..there], b"\n\n").is_none() {
            let read = stream.read(&mut buffer[there..]).await.expect("a first event");
            assert!(read > 0, "no event: {}", String::from_utf8_lossy(&buffer[..there]));
            there += read;
        }
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    held
}
