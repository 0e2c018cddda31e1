//! HTTP/2 floods: each costs headway no memory to speak of, and its neighbours nothing.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, PING, PRIORITY, RESET, Raw, SETTINGS, WINDOW, block, field,
    frame, request, setting,
};
use crate::neighbour::{Neighbour, falls, gauge, whole};
use crate::support::backend::{Backend, Script, token};
use crate::support::client::chat;
use crate::support::process::Process;
use crate::support::{backend, config, now};

/// How long each flood lasts at most.
fn lasting() -> Duration {
    let seconds = std::env::var("HEADWAY_FLOOD_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(1))
}

/// Most that a flood may cost.
const BOUND: f64 = 20.0 * 1024.0 * 1024.0;

/// Most that answers may cost which a client leaves unread: a hundred streams, each with its queue for a slow client of
/// 256 KiB, a read of 64 KiB, what came before the first token, its task and its connection to the backend.
const STALLED: f64 = 100.0 * 512.0 * 1024.0;

/// A flood: what is said first, and then again and again; on stream ids that grow where it opens streams.
struct Flood {
    name: &'static str,
    settings: Vec<u8>,
    first: Vec<u8>,
    again: Box<dyn Fn(u32) -> Vec<u8> + Send>,
    /// Whether the attacker reads what is answered.
    reads: bool,
    /// Whether headway must give the connection up.
    closes: bool,
}

fn head(stream: u32, flags: u8) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | flags, stream, &block(&request("/v1/chat/completions")))
}

fn floods() -> Vec<Flood> {
    let flood = |name, first: Vec<u8>, again: Box<dyn Fn(u32) -> Vec<u8> + Send>, closes| Flood {
        name,
        settings: Vec::new(),
        first,
        again,
        reads: true,
        closes,
    };
    let open = || head(1, 0);
    let cancel = 8_u32.to_be_bytes();
    let no_end = || frame(HEADERS, END_STREAM, 1, &block(&request("/v1/chat/completions")));
    let piece = block(&[field("x-a", "a".repeat(16_000))]);
    let unread = |flood: Flood| Flood { reads: false, ..flood };
    vec![
        flood(
            "rapid reset",
            Vec::new(),
            Box::new(move |stream| [head(stream, 0), frame(RESET, 0, stream, &cancel)].concat()),
            true,
        ),
        flood(
            "resets that the server is made to send",
            Vec::new(),
            Box::new(|stream| [head(stream, 0), frame(WINDOW, 0, stream, &[0; 4])].concat()),
            true,
        ),
        flood(
            "requests that are malformed",
            Vec::new(),
            Box::new(|stream| frame(HEADERS, END_HEADERS | END_STREAM, stream, &block(&[field("x-a", "a")]))),
            true,
        ),
        flood("continuations without end", no_end(), Box::new(move |_| frame(CONTINUATION, 0, 1, &piece)), true),
        flood("empty continuations without end", no_end(), Box::new(|_| frame(CONTINUATION, 0, 1, &[])), true),
        flood("empty pieces of a body", open(), Box::new(|_| frame(DATA, 0, 1, &[])), true),
        flood("pings", Vec::new(), Box::new(|_| frame(PING, 0, 0, &[7; 8])), false),
        unread(flood("pings whose answers are not read", Vec::new(), Box::new(|_| frame(PING, 0, 0, &[7; 8])), false)),
        flood("settings", Vec::new(), Box::new(|_| frame(SETTINGS, 0, 0, &[])), false),
        unread(flood(
            "settings whose answers are not read",
            Vec::new(),
            Box::new(|_| frame(SETTINGS, 0, 0, &[])),
            false,
        )),
        flood("priorities", Vec::new(), Box::new(|n| frame(PRIORITY, 0, n, &[0, 0, 0, 0, 1])), false),
        flood("frames of no known kind", Vec::new(), Box::new(|_| frame(0xbe, 0, 0, &[0; 64])), false),
        flood("windows", open(), Box::new(|_| frame(WINDOW, 0, 0, &1_u32.to_be_bytes())), false),
        Flood {
            settings: [setting(1, u32::MAX), setting(4, 0)].concat(),
            ..flood(
                "answers that no window is given for",
                Vec::new(),
                Box::new(|stream| {
                    let body = chat("m");
                    let asks = || [head(stream, 0), frame(DATA, END_STREAM, stream, body.as_bytes())].concat();
                    // As many as may be open at once.
                    if stream < 200 { asks() } else { Vec::new() }
                }),
                false,
            )
        },
    ]
}

/// Sends it until nobody takes it any more or its time is over; whether the connection was given up, and how many bytes
/// were sent.
async fn run(flood: &Flood, address: SocketAddr) -> (bool, usize) {
    let mut raw = Raw::open(address, &flood.settings).await;
    raw.send(&flood.first).await;
    let (mut read, mut write) = raw.stream.into_split();
    let closed = Arc::new(AtomicBool::new(false));
    let (reads, of_reader) = (flood.reads, Arc::clone(&closed));
    let reading = tokio::spawn(async move {
        let mut buffer = vec![0; 1 << 16];
        while reads && read.read(&mut buffer).await.is_ok_and(|read| read > 0) {}
        if reads {
            of_reader.store(true, Ordering::SeqCst);
        }
        // The socket stays open on this side.
        std::future::pending::<()>().await;
        drop(read);
    });
    let (began, mut sent, mut stream) = (now(), 0, if flood.first.is_empty() { 1 } else { 3 });
    while began.elapsed() < lasting() && !closed.load(Ordering::SeqCst) {
        let batch: Vec<u8> = (0..64).flat_map(|number| (flood.again)(stream + 2 * number)).collect();
        stream += 128;
        if batch.is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        match tokio::time::timeout(Duration::from_millis(200), write.write_all(&batch)).await {
            Ok(Ok(())) => sent += batch.len(),
            Ok(Err(_)) => closed.store(true, Ordering::SeqCst),
            Err(_) => {}
        }
    }
    reading.abort();
    (closed.load(Ordering::SeqCst), sent)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn floods_cost_no_memory_and_no_neighbour() {
    // What is asked in vain to be read; and what the neighbour asks.
    let pieces: Vec<_> = vec![Bytes::from(token(&"x".repeat(30_000))); 40];
    let (large, small) =
        (Backend::start(Script::pieces(pieces, "text/event-stream")).await, Backend::start(whole()).await);
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("headway.yaml");
    let stanzas = [backend("m", large.address), backend("n", small.address)];
    std::fs::write(&file, config(&stanzas, "", "limits: { write_idle: 1s }")).expect("a file");
    let (_process, data, admin) = Process::serving(&file).await;
    let quiet = Neighbour::start(data);
    tokio::time::sleep(lasting()).await;
    let quiet = quiet.end().await.median;
    for flood in floods() {
        let before = gauge(admin, "process_resident_memory_bytes").await;
        let neighbour = Neighbour::start(data);
        let (closed, sent) = run(&flood, data).await;
        let grown = gauge(admin, "process_resident_memory_bytes").await - before;
        let median = neighbour.end().await.median;
        println!(
            "{}: {} MiB sent, {}, memory {:+.1} MiB, neighbour's median {median:.1?} (quiet: {quiet:.1?})",
            flood.name,
            sent >> 20,
            if closed { "given up" } else { "borne" },
            grown / 1_048_576.0
        );
        assert!(closed || !flood.closes, "{} was borne", flood.name);
        let bound = if flood.settings.is_empty() { BOUND } else { STALLED };
        assert!(grown < bound, "{} cost {grown} bytes", flood.name);
    }
    // Nothing of it is left.
    falls(admin, "headway_backend_in_flight", 0.0).await;
}
