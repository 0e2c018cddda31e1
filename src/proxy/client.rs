//! The client's side of a connection while its request is served: leaving, sending too early, still sending.

use std::time::Duration;

use pingora_core::ErrorType;
use pingora_core::protocols::http::server::Session;

/// Most bytes that are read of what a client sends too early.
pub(super) const TOO_EARLY: usize = 4 * 1024;

/// How long, and how much, the rest of a refused body is read.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 64 << 20;

/// Waits until the client leaves. What it sends too early would be its next request, which is not waited for: those
/// bytes are dropped, and the connection ends with this response. Beyond a bound nothing is read any more, and that the
/// client has left shows when it is written to.
pub(super) async fn gone(session: &mut Session) {
    for _ in 0..TOO_EARLY {
        match session.read_body_or_idle(true).await {
            Err(error) if error.etype() == &ErrorType::ConnectError => session.set_keepalive(None),
            _ => return,
        }
    }
    std::future::pending::<()>().await;
}

/// Most of a body that is read although its request is refused, so that the connection can go on.
const SMALL_BODY: u64 = 64 * 1024;

/// Reads the body of a request that is refused, if it is small and on its way: then the connection need not end. Whether
/// it was read.
pub(super) async fn read_small_body(session: &mut Session) -> bool {
    if session.is_body_empty() {
        return true;
    }
    let length = session.get_header("content-length").and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if length.is_none_or(|length| length > SMALL_BODY) || session.get_header("expect").is_some() {
        return false;
    }
    let reading = async { while let Ok(Some(_)) = session.read_request_body().await {} };
    let in_time = tokio::time::timeout(LINGER, reading).await.is_ok();
    in_time && session.is_body_done()
}

/// Reads what is left of a refused request's body: closing the connection on it would destroy the refusal before the
/// client has read it.
pub(super) async fn linger(session: &mut Session) {
    if session.is_http2() {
        return;
    }
    let reading = async {
        let mut read = 0;
        while let Ok(Some(bytes)) = session.read_request_body().await {
            read += bytes.len();
            if read > LINGER_BYTES {
                return;
            }
        }
    };
    let _ = tokio::time::timeout(LINGER, reading).await;
}
