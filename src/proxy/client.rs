//! The client's side of a connection while its request is served: leaving, sending too early, still sending.

use std::time::Duration;

use pingora_core::ErrorType;
use pingora_core::protocols::http::server::Session;

/// Most bytes that a client may send too early, before it is taken for one that left.
pub(super) const TOO_EARLY: usize = 4 * 1024;

/// How long, and how much, the rest of a refused body is read.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 64 << 20;

/// Waits until the client leaves. What it sends too early would be its next request, which is not waited for: those
/// bytes are dropped, and the connection ends with this response.
pub(super) async fn gone(session: &mut Session) {
    for _ in 0..TOO_EARLY {
        match session.read_body_or_idle(true).await {
            Err(error) if error.etype() == &ErrorType::ConnectError => session.set_keepalive(None),
            _ => return,
        }
    }
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
