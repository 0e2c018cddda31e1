//! A client that reads to the end, or does not, over any stream of bytes: what it got, and how that ended.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};

/// How an answer ended for its client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// As its framing says.
    Clean,
    /// Before that.
    Cut,
}

/// What a client got.
#[derive(Debug, Clone)]
pub(crate) struct Got {
    /// 0 when there was no head.
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
    pub(crate) end: End,
}

impl Got {
    pub(crate) fn nothing() -> Self {
        Self { status: 0, body: Vec::new(), end: End::Cut }
    }
}

/// Reads one answer of HTTP/1.1, so much at a time with this pause between.
pub(crate) async fn read(stream: &mut (impl AsyncRead + Unpin), (most, pause): (usize, Duration)) -> Got {
    let mut reading = Reading::default();
    let mut piece = vec![0; most];
    loop {
        match stream.read(&mut piece).await {
            Ok(length @ 1..) => reading.take(&piece[..length]),
            Ok(0) | Err(_) => return reading.got(false),
        }
        if reading.is_whole {
            return reading.got(true);
        }
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
    }
}

/// An answer as far as it has come.
#[derive(Debug, Default)]
pub(crate) struct Reading {
    raw: Vec<u8>,
    status: u16,
    /// Where the body begins, once the head is whole.
    body_from: Option<usize>,
    length: Option<usize>,
    chunked: bool,
    /// Up to where chunks were decoded.
    at: usize,
    body: Vec<u8>,
    is_whole: bool,
}

impl Reading {
    fn take(&mut self, bytes: &[u8]) {
        self.raw.extend_from_slice(bytes);
        if self.body_from.is_none() {
            self.take_head();
        }
        match (self.body_from, self.length) {
            (Some(from), Some(length)) => {
                if self.raw.len() >= from + length {
                    self.body = self.raw[from..from + length].to_vec();
                    self.is_whole = true;
                }
            }
            (Some(_), None) if self.chunked => self.take_chunks(),
            (None, _) | (Some(_), None) => {}
        }
    }

    fn take_head(&mut self) {
        let Some(end) = self.raw.windows(4).position(|window| window == b"\r\n\r\n") else { return };
        let head = String::from_utf8_lossy(&self.raw[..end]).to_lowercase();
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        if (100..200).contains(&status) {
            self.raw.drain(..end + 4);
            return self.take_head();
        }
        let field = |name: &str| head.split(name).nth(1).and_then(|rest| rest.split("\r\n").next()?.parse().ok());
        (self.status, self.body_from, self.at) = (status, Some(end + 4), end + 4);
        self.length = field("content-length: ");
        self.chunked = head.contains("transfer-encoding: chunked");
    }

    fn take_chunks(&mut self) {
        while let Some(line) = self.raw[self.at..].windows(2).position(|window| window == b"\r\n") {
            let text = std::str::from_utf8(&self.raw[self.at..self.at + line]).expect("a chunk's size");
            let size = usize::from_str_radix(text, 16).expect("a chunk's size");
            let from = self.at + line + 2;
            if self.raw.len() < from + size + 2 {
                return;
            }
            self.body.extend_from_slice(&self.raw[from..from + size]);
            self.at = from + size + 2;
            if size == 0 {
                self.is_whole = true;
                return;
            }
        }
    }

    fn got(mut self, clean: bool) -> Got {
        if !clean && self.chunked {
            // What came of the last chunk was forwarded too.
            let rest = self.raw.get(self.at..).unwrap_or_default();
            let from = rest.windows(2).position(|window| window == b"\r\n").map_or(rest.len(), |line| line + 2);
            self.body.extend_from_slice(&rest[from..]);
        }
        Got { status: self.status, body: self.body, end: if clean { End::Clean } else { End::Cut } }
    }
}
