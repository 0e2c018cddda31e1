//! The backend of the comparison: a few lines of HTTP/1.1 that answer as vLLM does.
//!
//! The model's name carries the pace: `json` answers at once, `sse-GAP` streams `max_tokens` events with that many
//! microseconds between them.

use std::net::SocketAddr;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// The zero of the stamps that events carry; client and backend share it.
pub(crate) fn epoch() -> Instant {
    static EPOCH: OnceLock<Instant> = OnceLock::new();
    #[allow(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
    *EPOCH.get_or_init(Instant::now)
}

/// Nanoseconds since the epoch.
#[allow(clippy::cast_possible_truncation, reason = "a run of 584 years")]
pub(crate) fn now() -> u64 {
    epoch().elapsed().as_nanos() as u64
}

pub(crate) async fn start() -> SocketAddr {
    epoch();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("its address");
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.expect("a connection");
            let _ = stream.set_nodelay(true);
            tokio::spawn(async move {
                let _ = serve(stream).await;
            });
        }
    });
    address
}

async fn serve(mut stream: TcpStream) -> std::io::Result<()> {
    let mut buffer = Vec::with_capacity(8192);
    loop {
        let Some((head, body)) = read_request(&mut stream, &mut buffer).await? else { return Ok(()) };
        if head.starts_with("GET") {
            let body = if head.contains("/v1/models") {
                r#"{"object":"list","data":[{"id":"json","object":"model"},{"id":"sse-5000","object":"model"},{"id":"sse-3600000000","object":"model"}]}"#
            } else {
                "{}"
            };
            answer(&mut stream, body).await?;
        } else if let Some(gap) = between(&body, "\"sse-", "\"") {
            let events = between(&body, "\"max_tokens\":", "}").and_then(|text| text.parse().ok()).unwrap_or(1);
            stream_events(&mut stream, events, Duration::from_micros(gap.parse().unwrap_or(0))).await?;
        } else {
            answer(&mut stream, r#"{"id":"c","object":"chat.completion","choices":[{"index":0,"message":{"role":"assistant","content":"hello"},"finish_reason":"stop"}],"usage":{"prompt_tokens":9,"completion_tokens":2}}"#).await?;
        }
    }
}

fn between<'a>(text: &'a str, before: &str, after: &str) -> Option<&'a str> {
    let rest = &text[text.find(before)? + before.len()..];
    rest.get(..rest.find(after)?)
}

async fn answer(stream: &mut TcpStream, body: &str) -> std::io::Result<()> {
    let response =
        format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    stream.write_all(response.as_bytes()).await
}

async fn stream_events(stream: &mut TcpStream, events: usize, gap: Duration) -> std::io::Result<()> {
    let head =
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n";
    stream.write_all(head).await?;
    let mut ticks = tokio::time::interval(gap.max(Duration::from_micros(1)));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    for event in 0..events {
        tokio::select! {
            _ = ticks.tick() => {}
            // Held streams are left by their clients, not ended: without this their sockets would add up.
            () = left(stream) => return Ok(()),
        }
        let finish = if event + 1 == events { "\"stop\"" } else { "null" };
        let data = format!(
            "data: {{\"id\":\"chatcmpl-2f7c1c1d5a2b4d0f\",\"object\":\"chat.completion.chunk\",\"created\":1795308785,\"model\":\"meta/llama-3.1-8b-instruct\",\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"t{:016}\"}},\"logprobs\":null,\"finish_reason\":{finish},\"token_ids\":null}}],\"kv_transfer_params\":null}}\n\n",
            now()
        );
        stream.write_all(format!("{:x}\r\n{data}\r\n", data.len()).as_bytes()).await?;
    }
    stream.write_all(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n").await
}

/// Waits until the other side closes; it says nothing while it is answered.
async fn left(stream: &TcpStream) {
    let _ = stream.readable().await;
}

async fn read_request(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> std::io::Result<Option<(String, String)>> {
    loop {
        if let Some(end) = memchr::memmem::find(buffer, b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&buffer[..end]).into_owned();
            let mut lines = head.lines().map(str::to_ascii_lowercase);
            let length: usize = lines
                .find_map(|line| line.strip_prefix("content-length: ").and_then(|text| text.trim().parse().ok()))
                .unwrap_or(0);
            let whole = end + 4 + length;
            if buffer.len() >= whole {
                let body = String::from_utf8_lossy(&buffer[end + 4..whole]).into_owned();
                buffer.drain(..whole);
                return Ok(Some((head, body)));
            }
        }
        if stream.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    }
}
