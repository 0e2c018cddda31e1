//! What must hold of a backend's response, whatever the bytes and wherever reads cut them.

use pingora_http::ResponseHeader;

use super::body::Body;
use super::head;
use crate::proxy::headers::{body_kind, downstream_head};

/// A response: the same head and body in any pieces, and nothing of the backend's connection for the client.
pub(crate) fn response(bytes: &[u8]) {
    let Ok(Some((read, length))) = head::parse(bytes) else { return };
    let (front, rest) = bytes.split_at(length);
    for end in [0, length / 2, length.saturating_sub(1)] {
        let early = head::parse(front.get(..end).unwrap_or_default());
        assert!(matches!(early, Ok(None)), "a head is read when it is complete, and not before");
    }
    passed_on(&read.fields);
    let whole = decoded(read.body, [rest]);
    for size in [1, 7] {
        assert_eq!(decoded(read.body, rest.chunks(size)), whole);
    }
}

/// The body, what is left to come of it, and how many bytes of it and its framing there were.
fn decoded<'a>(mut body: Body, pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<u8>, Body, usize) {
    let (mut all, mut consumed) = (Vec::new(), 0);
    for piece in pieces {
        let mut buffer = piece.to_vec();
        let decoded = body.decode(&mut buffer);
        assert!(decoded.body <= decoded.consumed && decoded.consumed <= buffer.len());
        all.extend_from_slice(buffer.get(..decoded.body).unwrap_or_default());
        consumed += decoded.consumed;
    }
    (all, body, consumed)
}

fn passed_on(fields: &ResponseHeader) {
    for h2 in [false, true] {
        let Ok(head) = downstream_head(fields, body_kind(fields), h2, "id") else { continue };
        for name in ["connection", "keep-alive", "te", "trailer", "upgrade", "proxy-authenticate"] {
            assert!(!head.headers.contains_key(name), "{name} goes on");
        }
        let (coded, long) = ("transfer-encoding", "content-length");
        assert_eq!(head.headers.get_all("x-request-id").iter().count(), 1);
        assert!(!(head.headers.contains_key(coded) && head.headers.contains_key(long)), "one framing");
        assert!(!(h2 && head.headers.contains_key(coded)));
    }
}
