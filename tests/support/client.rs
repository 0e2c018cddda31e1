//! A raw HTTP/1.1 client: exact bytes out, exact bytes in, and how the connection ended.

use std::io;
use std::net::SocketAddr;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::PATIENCE;

/// How an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// As its framing says.
    Clean,
    /// The connection was closed before that.
    Closed,
    /// The connection was reset before that.
    Reset,
}

/// One answer.
#[derive(Debug, Clone)]
pub struct Reply {
    pub status: u16,
    /// Status line and header fields.
    pub head: String,
    /// The body, chunked coding removed.
    pub body: Vec<u8>,
    pub end: End,
}

impl Reply {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn field(&self, name: &str) -> Option<String> {
        fields(&self.head, name).into_iter().next()
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// Checks that this is an error of headway's own making, and returns its `code`.
    #[track_caller]
    pub fn error_code(&self) -> String {
        assert_eq!(self.end, End::Clean, "{self:?}");
        assert_eq!(self.field("content-type").as_deref(), Some("application/json"), "{}", self.head);
        assert!(self.field("x-request-id").is_some_and(|id| !id.is_empty()), "{}", self.head);
        let json = self.json();
        let error = json["error"].as_object().expect("an error object");
        let mut keys: Vec<_> = error.keys().map(String::as_str).collect();
        keys.sort_unstable();
        assert_eq!(keys, ["code", "message", "param", "type"]);
        assert_eq!(json.as_object().unwrap().len(), 1);
        if let Some(wait) = self.field("retry-after") {
            assert!((1..=60).contains(&wait.parse::<u64>().expect("whole seconds")), "{wait}");
            assert!(self.field("retry-after-ms").is_some());
        }
        error["code"].as_str().expect("a code").to_owned()
    }
}

/// The values of a field in a head.
pub fn fields(head: &str, name: &str) -> Vec<String> {
    head.lines()
        .skip(1)
        .filter_map(|line| line.split_once(':'))
        .filter(|(field, _)| field.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.trim().to_owned())
        .collect()
}

/// A connection.
pub struct Client {
    pub stream: TcpStream,
    buffer: Vec<u8>,
}

/// How a body is delimited.
enum Framing {
    None,
    Length(usize),
    Chunked,
    Close,
}

impl Client {
    pub async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.expect("it listens");
        stream.set_nodelay(true).expect("a TCP option");
        Self { stream, buffer: Vec::new() }
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.expect("it reads");
    }

    /// Reads the next answer, interim ones skipped.
    pub async fn reply(&mut self) -> Reply {
        self.reply_to("POST").await
    }

    /// The same for a request of another method: HEAD has no body.
    pub async fn reply_to(&mut self, method: &str) -> Reply {
        tokio::time::timeout(PATIENCE, self.read_reply(method)).await.expect("an answer in time")
    }

    /// Whatever has arrived so far and was not taken as an answer.
    pub fn arrived(&mut self) -> &[u8] {
        let mut bytes = [0; 4096];
        while let Ok(length @ 1..) = self.stream.try_read(&mut bytes) {
            self.buffer.extend_from_slice(&bytes[..length]);
        }
        &self.buffer
    }

    /// Waits until what has arrived satisfies the condition; returns it.
    pub async fn arrives(&mut self, condition: impl Fn(&str) -> bool) -> String {
        let waiting = async {
            loop {
                let text = String::from_utf8_lossy(&self.buffer).into_owned();
                if condition(&text) {
                    return text;
                }
                assert!(self.more().await.is_ok_and(|more| more), "it ended with {text}");
            }
        };
        tokio::time::timeout(PATIENCE, waiting).await.expect("bytes in time")
    }

    /// Waits for the connection's end; whether nothing came before it.
    pub async fn is_closed(&mut self) -> bool {
        let end = tokio::time::timeout(PATIENCE, self.more()).await.expect("an end in time");
        !matches!(end, Ok(true)) && self.buffer.is_empty()
    }

    async fn more(&mut self) -> io::Result<bool> {
        Ok(self.stream.read_buf(&mut self.buffer).await? > 0)
    }

    async fn read_reply(&mut self, method: &str) -> Reply {
        let (status, head) = loop {
            let Some(at) = self.buffer.windows(4).position(|window| window == b"\r\n\r\n") else {
                match self.more().await {
                    Ok(true) => continue,
                    ended => return nothing(&self.buffer, &ended),
                }
            };
            let rest = self.buffer.split_off(at + 4);
            let head = String::from_utf8_lossy(&std::mem::replace(&mut self.buffer, rest)).into_owned();
            let status: u16 = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
            if status >= 200 {
                break (status, head);
            }
        };
        let (body, end) = match framing(&head, method) {
            Framing::None => (Vec::new(), End::Clean),
            Framing::Length(length) => self.exactly(length).await,
            Framing::Chunked => self.chunks().await,
            Framing::Close => {
                let end = self.exactly(usize::MAX).await;
                (end.0, if end.1 == End::Closed { End::Clean } else { end.1 })
            }
        };
        Reply { status, head, body, end }
    }

    async fn exactly(&mut self, length: usize) -> (Vec<u8>, End) {
        while self.buffer.len() < length {
            match self.more().await {
                Ok(true) => {}
                ended => return (std::mem::take(&mut self.buffer), end_of(&ended)),
            }
        }
        let rest = self.buffer.split_off(length);
        (std::mem::replace(&mut self.buffer, rest), End::Clean)
    }

    async fn chunks(&mut self) -> (Vec<u8>, End) {
        let mut body = Vec::new();
        let mut at = 0;
        loop {
            let line = self.buffer[at..].windows(2).position(|window| window == b"\r\n");
            let size = line.map(|line| {
                let text = std::str::from_utf8(&self.buffer[at..at + line]).expect("a chunk size");
                (at + line + 2, usize::from_str_radix(text, 16).expect("a chunk size"))
            });
            if let Some((start, size)) = size
                && self.buffer.len() >= start + size + 2
            {
                assert_eq!(&self.buffer[start + size..start + size + 2], b"\r\n", "a chunk's end");
                body.extend_from_slice(&self.buffer[start..start + size]);
                at = start + size + 2;
                if size == 0 {
                    self.buffer.drain(..at);
                    return (body, End::Clean);
                }
                continue;
            }
            match self.more().await {
                Ok(true) => {}
                ended => {
                    // What arrived of the last chunk was forwarded too.
                    if let Some((start, _)) = size {
                        body.extend_from_slice(&self.buffer[start..]);
                    }
                    self.buffer.clear();
                    return (body, end_of(&ended));
                }
            }
        }
    }
}

fn end_of(ended: &io::Result<bool>) -> End {
    if ended.is_ok() { End::Closed } else { End::Reset }
}

/// No answer at all.
fn nothing(bytes: &[u8], ended: &io::Result<bool>) -> Reply {
    Reply { status: 0, head: String::new(), body: bytes.to_vec(), end: end_of(ended) }
}

fn framing(head: &str, method: &str) -> Framing {
    let (lengths, codings) = (fields(head, "content-length"), fields(head, "transfer-encoding"));
    assert!(lengths.len() + codings.len() <= 1, "one framing: {head}");
    let status = head.split(' ').nth(1).unwrap_or_default();
    if method == "HEAD" || status == "204" || status == "304" {
        Framing::None
    } else if let Some(length) = lengths.first() {
        Framing::Length(length.parse().expect("a length"))
    } else if codings.is_empty() {
        Framing::Close
    } else {
        Framing::Chunked
    }
}
