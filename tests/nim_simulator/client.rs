//! A client of plain sockets that sees every chunk and how the connection ended.

use std::sync::Arc;
use std::time::Duration;

use headway::clock::SystemClock;
use headway::engine::Profile;
use headway::nim_simulator::{Faults, Simulator, SimulatorOptions, TruthRecord};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub(super) const PATIENCE: Duration = Duration::from_secs(20);

pub(super) fn options() -> SimulatorOptions {
    SimulatorOptions {
        models: vec!["tiny".to_owned(), "tiny-reason".to_owned()],
        speed: 50.0,
        ..SimulatorOptions::new(Profile::named("h100-latency").expect("known"))
    }
}

pub(super) async fn start(options: SimulatorOptions) -> Simulator {
    Simulator::start(options, Arc::new(SystemClock)).await.expect("a free port")
}

pub(super) async fn with_faults(faults: &[&str]) -> Simulator {
    start(SimulatorOptions { faults: Faults::parse(faults).expect("known faults"), ..options() }).await
}

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// A whole answer came.
    Whole,
    /// The connection was closed before.
    Closed,
    /// The connection was reset before.
    Reset,
    /// Nothing came for a while.
    Silent,
}

#[derive(Debug)]
pub(super) struct Reply {
    pub(super) head: String,
    /// The HTTP chunks, or the body as one.
    pub(super) chunks: Vec<Vec<u8>>,
    pub(super) end: End,
}

impl Reply {
    pub(super) fn status(&self) -> u16 {
        self.head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0)
    }

    pub(super) fn body(&self) -> String {
        String::from_utf8_lossy(&self.chunks.concat()).into_owned()
    }

    pub(super) fn json(&self) -> Value {
        serde_json::from_str(&self.body()).unwrap_or_else(|error| panic!("{error}: {}", self.body()))
    }

    /// The payloads of the `data` lines, `[DONE]` included.
    pub(super) fn data(&self) -> Vec<String> {
        self.body().lines().filter_map(|line| line.strip_prefix("data: ")).map(str::to_owned).collect()
    }

    pub(super) fn content_tokens(&self) -> usize {
        self.data().iter().filter(|data| data.contains("\"content\":\"") && !data.contains("\"role\"")).count()
    }

    pub(super) fn parse(bytes: &[u8], mut end: End) -> Self {
        let Some(split) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
            return Self { head: String::new(), chunks: Vec::new(), end };
        };
        let head = String::from_utf8_lossy(&bytes[..split]).to_lowercase();
        let mut rest = &bytes[split + 4..];
        let mut chunks = Vec::new();
        if head.contains("transfer-encoding: chunked") {
            while let Some(line) = rest.windows(2).position(|window| window == b"\r\n") {
                let size = usize::from_str_radix(&String::from_utf8_lossy(&rest[..line]), 16).expect("a chunk size");
                rest = &rest[line + 2..];
                if size == 0 {
                    end = End::Whole;
                    break;
                }
                let Some(chunk) = rest.get(..size) else { break };
                chunks.push(chunk.to_vec());
                rest = rest.get(size + 2..).unwrap_or_default();
            }
        } else {
            let length = head.split("content-length: ").nth(1).and_then(|rest| rest.split("\r\n").next());
            if length.and_then(|length| length.parse().ok()) == Some(rest.len()) {
                end = End::Whole;
            }
            chunks.push(rest.to_vec());
        }
        Self { head, chunks, end }
    }

    pub(super) fn is_whole(bytes: &[u8]) -> bool {
        Self::parse(bytes, End::Closed).end == End::Whole
    }
}

pub(super) async fn connect(simulator: &Simulator) -> TcpStream {
    TcpStream::connect(simulator.address).await.expect("it listens")
}

pub(super) fn request(path: &str, body: &str) -> String {
    let length = body.len();
    format!("POST {path} HTTP/1.1\r\nhost: nim\r\nx-request-id: req-7\r\ncontent-length: {length}\r\n\r\n{body}")
}

pub(super) async fn read_reply(stream: &mut TcpStream, patience: Duration) -> Reply {
    let mut bytes = Vec::new();
    let end = loop {
        match tokio::time::timeout(patience, stream.read_buf(&mut bytes)).await {
            Err(_) => break End::Silent,
            Ok(Err(_)) => break End::Reset,
            Ok(Ok(0)) => break End::Closed,
            Ok(Ok(_)) => {}
        }
        if Reply::is_whole(&bytes) {
            break End::Whole;
        }
    };
    Reply::parse(&bytes, end)
}

pub(super) async fn post_text(simulator: &Simulator, path: &str, body: &str) -> Reply {
    let mut stream = connect(simulator).await;
    stream.write_all(request(path, body).as_bytes()).await.expect("it reads");
    read_reply(&mut stream, PATIENCE).await
}

pub(super) async fn post(simulator: &Simulator, path: &str, body: Value) -> Reply {
    post_text(simulator, path, &body.to_string()).await
}

pub(super) async fn get(simulator: &Simulator, path: &str) -> Reply {
    let mut stream = connect(simulator).await;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: nim\r\n\r\n").as_bytes()).await.expect("it reads");
    read_reply(&mut stream, PATIENCE).await
}

/// A chat request for 12 tokens exactly, with these keys added or replaced.
pub(super) fn chat(more: &Value) -> Value {
    let mut body = json!({
        "model": "tiny", "messages": [{ "role": "user", "content": "Tell me about trains." }],
        "stream": true, "max_tokens": 12, "ignore_eos": true,
    });
    for (key, value) in more.as_object().expect("an object") {
        body[key] = value.clone();
    }
    body
}

/// Waits for the record of the request that was sent.
pub(super) async fn truth(simulator: &Simulator, condition: impl Fn(&TruthRecord) -> bool) -> TruthRecord {
    tokio::time::timeout(PATIENCE, simulator.truth_log().wait_for(condition)).await.expect("a record in time")
}

/// A JSON text with its keys and punctuation in order, strings as `s` and numbers as `0`.
pub(super) fn shape(text: &str) -> String {
    let (mut shape, mut rest) = (String::new(), text);
    while let Some(first) = rest.chars().next() {
        if first == '"' {
            let mut end = 1;
            while rest.as_bytes()[end] != b'"' {
                end += if rest.as_bytes()[end] == b'\\' { 2 } else { 1 };
            }
            let is_key = rest[end + 1..].starts_with(':');
            shape.push_str(if is_key { &rest[..=end] } else { "s" });
            rest = &rest[end + 1..];
        } else if first.is_ascii_digit() || first == '-' {
            shape.push('0');
            rest = rest.trim_start_matches(|c: char| c.is_ascii_digit() || "+-.eE".contains(c));
        } else {
            shape.push(first);
            rest = &rest[first.len_utf8()..];
        }
    }
    shape
}

/// The shapes of a stream's events, repeated ones once.
pub(super) fn shapes<'a>(events: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let mut shapes: Vec<String> = events.into_iter().map(shape).collect();
    shapes.dedup();
    shapes
}

#[track_caller]
pub(super) fn check_shapes(reply: &Reply, recorded: &[&str]) {
    assert_eq!(reply.end, End::Whole);
    let data = reply.data();
    assert_eq!(shapes(data.iter().map(String::as_str)), shapes(recorded.iter().copied()));
}
