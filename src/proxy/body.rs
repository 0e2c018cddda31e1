//! Reads a request's whole body, whatever its framing, within bounds of size, time and memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use pingora_core::protocols::http::server::Session;

use super::refuse::Refusal;
use crate::clock::Clock;
use crate::config::settings::Limits;
use crate::measure::outcome::ShedReason;
use crate::units::format_size;

/// Slowest pace, in bytes per second, at which a body may arrive once `body_idle` has passed: a client that sends one
/// byte just before every `body_idle` would otherwise hold a connection for as long as it likes.
const SLOWEST: u64 = 1024;

/// How much all request bodies together may hold.
#[derive(Debug)]
pub(super) struct MemoryBudget {
    used: AtomicU64,
}

/// A share of the budget; given back by `Drop`.
#[derive(Debug)]
pub(super) struct Held {
    budget: Arc<MemoryBudget>,
    bytes: u64,
}

impl MemoryBudget {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { used: AtomicU64::new(0) })
    }

    /// Bytes that are held.
    pub(super) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    fn hold(self: &Arc<Self>) -> Held {
        Held { budget: Arc::clone(self), bytes: 0 }
    }
}

impl Held {
    /// Takes `more` bytes, unless that would pass `limit`.
    fn grow(&mut self, more: u64, limit: u64) -> bool {
        let before = self.budget.used.fetch_add(more, Ordering::Relaxed);
        self.bytes += more;
        before + more <= limit
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Why there is no body.
#[derive(Debug)]
pub(super) enum BodyError {
    /// The client is told.
    Refused(Refusal),
    /// The client is gone.
    ClientGone,
}

/// A whole request body.
pub(super) struct WholeBody {
    pub(super) bytes: Bytes,
    pub(super) held: Held,
}

/// Reads the body to its end.
pub(super) async fn read(
    session: &mut Session,
    limits: &Limits,
    budget: &Arc<MemoryBudget>,
    clock: &dyn Clock,
) -> Result<WholeBody, BodyError> {
    let too_large = || BodyError::Refused(too_large(limits));
    if declared_too_large(session, limits) {
        return Err(too_large());
    }
    let started = clock.now();
    let mut held = budget.hold();
    let mut gathered = Gathered::default();
    loop {
        let allowed = limits.body_idle + Duration::from_secs(gathered.length / SLOWEST);
        let left = allowed.saturating_sub(clock.now().saturating_duration_since(started)).min(limits.body_idle);
        let read = tokio::time::timeout(left, session.read_request_body()).await;
        let chunk = match read {
            Err(_) => {
                let message = "the request body did not arrive in time";
                return Err(BodyError::Refused(Refusal::bad_request(408, "request_timeout", message)));
            }
            Ok(Err(error)) => return Err(failed(&error)),
            Ok(Ok(None)) => break,
            Ok(Ok(Some(chunk))) => chunk,
        };
        let length = chunk.len() as u64;
        if gathered.length + length > limits.body {
            return Err(too_large());
        }
        if !held.grow(length, limits.memory) {
            let message = "headway holds as many request bytes as it may";
            return Err(BodyError::Refused(Refusal::overloaded(ShedReason::Memory, message, Duration::from_secs(1))));
        }
        gathered.push(chunk);
    }
    Ok(WholeBody { bytes: gathered.finish(), held })
}

/// A malformed body is the client's mistake and is told; anything else means that the client is gone.
fn failed(error: &pingora_core::Error) -> BodyError {
    use pingora_core::ErrorType::{ConnectionClosed, ReadError, ReadTimedout};
    match error.etype() {
        ConnectionClosed | ReadError | ReadTimedout | pingora_core::ErrorType::H2Error => BodyError::ClientGone,
        _ => BodyError::Refused(Refusal::bad_request(400, "malformed_body", "the request body's framing is broken")),
    }
}

/// Whether the client itself says that its body is larger than it may be.
pub(super) fn too_large(limits: &Limits) -> Refusal {
    let message = format!("the request body is larger than {}", format_size(limits.body));
    Refusal::bad_request(413, "body_too_large", message)
}

pub(super) fn declared_too_large(session: &Session, limits: &Limits) -> bool {
    declared_length(session).is_some_and(|length| length > limits.body)
}

fn declared_length(session: &Session) -> Option<u64> {
    session.get_header("content-length")?.to_str().ok()?.parse().ok()
}

/// Pieces of a body; a body of one piece is never copied.
#[derive(Default)]
struct Gathered {
    first: Bytes,
    more: BytesMut,
    length: u64,
}

impl Gathered {
    fn push(&mut self, chunk: Bytes) {
        self.length += chunk.len() as u64;
        if self.first.is_empty() {
            self.first = chunk;
            return;
        }
        if self.more.is_empty() {
            self.more.extend_from_slice(&self.first);
        }
        self.more.extend_from_slice(&chunk);
    }

    fn finish(self) -> Bytes {
        if self.more.is_empty() { self.first } else { self.more.freeze() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_make_one_body() {
        let mut gathered = Gathered::default();
        assert_eq!(Gathered::default().finish(), "");
        gathered.push(Bytes::from_static(b"ab"));
        gathered.push(Bytes::from_static(b"c"));
        gathered.push(Bytes::from_static(b"de"));
        assert_eq!(gathered.length, 5);
        assert_eq!(gathered.finish(), "abcde");
    }

    #[test]
    fn held_memory_is_given_back() {
        let budget = MemoryBudget::new();
        let mut held = budget.hold();
        assert!(held.grow(10, 10));
        assert!(!held.grow(1, 10));
        drop(held);
        assert_eq!(budget.used.load(Ordering::Relaxed), 0);
    }
}
