//! Request heads that come to nothing: they cannot be read, ask for a tunnel, or do not come in time.
//!
//! pingora refuses such a head before any hook of ours runs, or would wait for it for ever. What the client is told, and
//! that a record is written, happens here, from inside its connection.

use std::sync::Arc;

use http::StatusCode;

use super::Proxy;
use super::exchange::Exchange;
use super::inspect::METHODS;
use super::refuse::Refusal;

/// Why a head comes to nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unread {
    /// It cannot be read.
    Malformed,
    /// It asks for a tunnel.
    Tunnel,
    /// It did not come in time.
    TooSlow,
}

impl Unread {
    /// By what pingora would have answered.
    pub(super) fn by_answer(answer: &[u8]) -> Self {
        if answer.starts_with(b"HTTP/1.1 405 ") { Self::Tunnel } else { Self::Malformed }
    }

    fn refusal(self) -> Refusal {
        match self {
            Self::Malformed => Refusal::bad_request(400, "malformed_request", "the request head cannot be read"),
            Self::Tunnel => Refusal::method(METHODS),
            Self::TooSlow => Refusal::bad_request(408, "request_timeout", "the request head did not arrive in time"),
        }
    }
}

/// Writes the record of a request that was never read, and says what its client is told.
pub(super) fn refuse(proxy: &Arc<Proxy>, unread: Unread) -> Vec<u8> {
    let refusal = unread.refusal();
    let id = proxy.ids.fresh();
    let (body, words) = words(&refusal, &id);
    let mut exchange = Exchange::new(proxy, id, proxy.clock.now());
    exchange.note(|record| (record.status, record.bytes_out) = (refusal.status, body as u64));
    exchange.finish(refusal.outcome);
    words
}

/// A connection's last words, and how long their body is.
fn words(refusal: &Refusal, id: &str) -> (usize, Vec<u8>) {
    let body = refusal.body();
    let reason = StatusCode::from_u16(refusal.status).ok().and_then(|status| status.canonical_reason()).unwrap_or("");
    let allow = refusal.allow.map(|methods| format!("allow: {methods}\r\n")).unwrap_or_default();
    let head = format!(
        "HTTP/1.1 {} {reason}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nx-request-id: {id}\r\n\
         {allow}x-should-retry: false\r\nconnection: close\r\n\r\n",
        refusal.status,
        body.len()
    );
    (body.len(), [head.into_bytes(), body].concat())
}
