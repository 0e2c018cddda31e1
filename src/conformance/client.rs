//! The client: one request on a connection of its own, and everything that comes back, with its time.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::http1;
use crate::clock::{Clock, SystemClock};

/// Most bytes of an answer that are taken.
const LARGEST: usize = 64 << 20;

/// How an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// As its framing says, or by an orderly close where nothing else says it.
    Clean,
    /// The connection ended too early.
    Cut,
    /// Not within the patience.
    Never,
}

/// What came back.
#[derive(Debug, Clone)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) head: String,
    pub(super) body: Vec<u8>,
    /// When how much of the body was there.
    pub(super) arrivals: Vec<(Instant, usize)>,
    pub(super) end: End,
    pub(super) took: Duration,
}

impl Reply {
    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(super) fn is_json(&self) -> bool {
        http1::field(&self.head, "content-type").is_some_and(|kind| kind.starts_with("application/json"))
    }
}

/// Where the proxy is.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) address: SocketAddr,
    pub(super) authority: String,
    /// Before `/v1`.
    pub(super) base: String,
    pub(super) key: Option<String>,
}

impl Target {
    pub(super) async fn connect(&self) -> std::io::Result<TcpStream> {
        let tcp = TcpStream::connect(self.address).await?;
        tcp.set_nodelay(true)?;
        Ok(tcp)
    }

    /// The head of a chat request, up to the fields about its body.
    pub(super) fn head(&self) -> String {
        let key = self.key.as_ref().map(|key| format!("authorization: Bearer {key}\r\n")).unwrap_or_default();
        format!(
            "POST {}/v1/chat/completions HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\naccept: */*\r\n{key}",
            self.base, self.authority
        )
    }

    /// A whole chat request.
    pub(super) fn request(&self, fields: &str, body: &str) -> Vec<u8> {
        format!("{}{fields}content-length: {}\r\n\r\n{body}", self.head(), body.len()).into_bytes()
    }
}

/// Sends these bytes on a connection and reads one answer.
pub(super) async fn ask(tcp: &mut TcpStream, request: &[u8], patience: Duration) -> Reply {
    let began = SystemClock.now();
    let mut reply = Reply {
        status: 0,
        head: String::new(),
        body: Vec::new(),
        arrivals: Vec::new(),
        end: End::Never,
        took: Duration::ZERO,
    };
    let asking = async {
        if tcp.write_all(request).await.is_err() {
            // Whoever closed early may have answered before.
        }
        read(tcp, &mut reply).await
    };
    let end = tokio::time::timeout(patience, asking).await;
    reply.end = end.unwrap_or(End::Never);
    reply.took = SystemClock.now().saturating_duration_since(began);
    reply
}

/// Reads an answer into `reply`.
pub(super) async fn read(tcp: &mut TcpStream, reply: &mut Reply) -> End {
    let mut raw = Vec::new();
    let mut at = None;
    loop {
        let ended = match tcp.read_buf(&mut raw).await {
            Ok(0) => Some(End::Clean),
            Ok(_) => None,
            Err(_) => Some(End::Cut),
        };
        // `100 Continue` and the like are not the answer.
        while at.is_none() {
            let Some((head, start)) = http1::split(&raw) else { break };
            if (100..200).contains(&http1::status(&head)) {
                raw.drain(..start);
                continue;
            }
            (reply.status, reply.head, at) = (http1::status(&head), head, Some(start));
        }
        let body = at.map(|at| http1::body(&reply.head, raw.get(at..).unwrap_or_default(), false));
        if let Some(body) = &body {
            if body.bytes.len() > reply.body.len() {
                reply.arrivals.push((SystemClock.now(), body.bytes.len()));
            }
            reply.body.clone_from(&body.bytes);
            if body.whole {
                return End::Clean;
            }
        }
        match ended {
            Some(End::Clean) if body.is_some_and(|body| body.until_close) => return End::Clean,
            Some(_) => return End::Cut,
            None if raw.len() > LARGEST => return End::Cut,
            None => {}
        }
    }
}
