//! HTTP/2 by the frame, for what no client library would send, <https://www.rfc-editor.org/rfc/rfc9113>.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::client::connect;
use crate::support::patiently;

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RESET: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

/// A field's name and value, whatever bytes they are.
pub(crate) type Field = (Vec<u8>, Vec<u8>);

pub(crate) fn field(name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Field {
    (name.as_ref().to_vec(), value.as_ref().to_vec())
}

/// One frame.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A setting.
pub(crate) fn setting(name: u16, value: u32) -> Vec<u8> {
    [&name.to_be_bytes()[..], &value.to_be_bytes()].concat()
}

/// Fields, each a literal that is not indexed, <https://www.rfc-editor.org/rfc/rfc7541#section-6.2.2>.
pub(crate) fn block(fields: &[Field]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            length(text.len(), &mut block);
            block.extend_from_slice(text);
        }
    }
    block
}

fn length(length: usize, block: &mut Vec<u8>) {
    let mut rest = match length {
        0..127 => return block.push(u8::try_from(length).unwrap()),
        _ => length - 127,
    };
    block.push(127);
    while rest >= 128 {
        block.push(u8::try_from(rest % 128).unwrap() | 128);
        rest /= 128;
    }
    block.push(u8::try_from(rest).unwrap());
}

/// The fields of a chat request.
pub(crate) fn request(path: &str) -> Vec<Field> {
    let pseudo = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "h")];
    let others = [("content-type", "application/json")];
    pseudo.into_iter().chain(others).map(|(name, value)| field(name, value)).collect()
}

/// What became of a stream.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Ended {
    /// Whether an answer of status 200 began.
    pub(crate) ok: bool,
    /// Whether an answer ended.
    pub(crate) answered: bool,
    /// The code of a reset.
    pub(crate) reset: Option<u32>,
    /// The code that the connection was given up with.
    pub(crate) goaway: Option<u32>,
    /// Whether the connection is closed.
    pub(crate) closed: bool,
}

/// A connection that has said hello.
pub(crate) struct Raw {
    pub(crate) stream: TcpStream,
    buffer: Vec<u8>,
}

impl Raw {
    /// With these settings.
    pub(crate) async fn open(address: SocketAddr, settings: &[u8]) -> Self {
        let mut stream = connect(address).await;
        let hello = [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &frame(SETTINGS, 0, 0, settings)].concat();
        stream.write_all(&hello).await.expect("it reads");
        Self { stream, buffer: Vec::new() }
    }

    /// Sends bytes, if anybody still takes them.
    pub(crate) async fn send(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).await.is_ok()
    }

    /// Reads until that stream, or the connection, has come to its end.
    pub(crate) async fn end(&mut self, stream: u32) -> Ended {
        patiently("the end of a stream", async {
            let mut ended = Ended::default();
            loop {
                let Some((kind, flags, of, payload)) = self.next().await else {
                    ended.closed = true;
                    return ended;
                };
                let code = |at: usize| u32::from_be_bytes(payload[at..at + 4].try_into().unwrap());
                match kind {
                    GOAWAY => ended.goaway = Some(code(4)),
                    RESET if of == stream => {
                        ended.reset = Some(code(0));
                        return ended;
                    }
                    // `:status: 200` has a place of its own in the static table.
                    HEADERS if of == stream => ended.ok |= payload.first() == Some(&0x88),
                    _ => {}
                }
                if of == stream && matches!(kind, HEADERS | DATA) && flags & END_STREAM != 0 {
                    ended.answered = true;
                    return ended;
                }
            }
        })
        .await
    }

    /// The next frame; `None` at the connection's end.
    async fn next(&mut self) -> Option<(u8, u8, u32, Vec<u8>)> {
        loop {
            if let Some(head) = self.buffer.get(..9) {
                let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
                let (kind, flags) = (head[3], head[4]);
                let stream = u32::from_be_bytes(head[5..9].try_into().unwrap());
                if self.buffer.len() >= 9 + length {
                    let payload = self.buffer[9..9 + length].to_vec();
                    self.buffer.drain(..9 + length);
                    return Some((kind, flags, stream, payload));
                }
            }
            if self.stream.read_buf(&mut self.buffer).await.ok()? == 0 {
                return None;
            }
        }
    }
}
