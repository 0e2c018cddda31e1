//! The cases, by subject, in the order in which they are told.

mod broken;
mod errors;
mod framing;
mod leaving;
mod stream;

use std::pin::Pin;

use super::stage::Stage;
use super::verdict::Finding;

type Playing<'a> = Pin<Box<dyn Future<Output = Finding> + Send + 'a>>;

/// Those of which nothing need reach the backend.
const ANSWERED_BEFORE: &[&str] = &["invalid-json", "two-lengths", "length-and-coding", "unknown-coding", "no-host"];

/// One thing that a proxy does right or wrong.
pub(super) struct Case {
    pub(super) name: &'static str,
    /// What a proxy that does it right does.
    pub(super) expected: &'static str,
    pub(super) play: for<'a> fn(&'a Stage) -> Playing<'a>,
}

impl Case {
    /// Whether only what reaches the backend can show something.
    pub(super) fn needs_the_backend(&self) -> bool {
        !ANSWERED_BEFORE.contains(&self.name)
    }
}

macro_rules! cases {
    ($($subject:ident::$case:ident, $name:literal, $expected:literal;)*) => {
        /// All of them.
        pub(super) const CASES: &[Case] = &[
            $(Case { name: $name, expected: $expected, play: |stage| Box::pin($subject::$case(stage)) },)*
        ];
    };
}

cases! {
    stream::plain, "bytes-plain", "a stream arrives byte for byte";
    stream::utf8, "bytes-utf8-cut", "characters that writes cut in two arrive byte for byte";
    stream::crlf, "bytes-crlf", "events that end in CRLF arrive byte for byte";
    stream::comments, "bytes-comments", "comments, ids and names of events arrive byte for byte";
    stream::members, "bytes-unknown-members", "members that the proxy does not know arrive byte for byte";
    stream::big, "bytes-big-event", "an event of 300 KiB arrives byte for byte";
    stream::usage, "usage-asked-for", "usage that the client asked for arrives";
    stream::request, "request-members", "every member of a request of 300 KiB reaches the backend as it was";
    stream::first_token, "first-token-at-once", "the first token is not held back: 250 ms at most";
    stream::each_token, "every-token-at-once", "tokens 60 ms apart arrive apart";
    stream::h2, "h2", "HTTP/2 with prior knowledge serves a stream, where it is offered";
    leaving::mid_stream, "abort-mid-stream", "the backend sees within 1 s that the client left";
    leaving::before_head, "abort-before-answer", "the same, before the first byte of an answer";
    leaving::unstreamed, "abort-unstreamed", "the same, of an answer that is not streamed";
    leaving::slow_reader, "slow-reader", "a client that does not read stops the backend: less than 16 MiB are held";
    broken::between, "death-between-events", "a stream that breaks between two events does not look complete";
    broken::within, "death-within-event", "one that breaks within an event neither, and nothing is glued to the half";
    broken::no_done, "end-without-done", "a clean end without finish reason and [DONE] does not look complete";
    broken::after_done, "reset-after-done", "a backend that breaks after [DONE] does no harm: the end is clean";
    broken::once, "no-second-generation", "no second try once the client has a token";
    broken::error_event, "error-event", "an error event in a stream reaches the client";
    broken::error_first, "error-event-first", "an error event in place of the first token is an HTTP error, or reaches the client";
    broken::empty, "empty-stream", "a stream without any event is an error, not an empty answer";
    broken::json_under_200, "json-error-under-200", "an error object under status 200 in place of a stream is an HTTP error";
    broken::truncated_length, "truncated-length", "an unstreamed answer that breaks off is an error or a cut connection";
    broken::truncated_chunks, "truncated-chunks", "the same, of a chunked one";
    broken::hang, "hang-before-first-token", "a backend that never sends a token is a timeout (with --first-token-timeout)";
    broken::pooled_closed, "pooled-connection-closed", "a pooled connection that the backend closed harms no request";
    broken::pooled_dies, "pooled-connection-dies", "nor does one that dies as it is used";
    errors::before_head, "death-before-answer", "a backend that breaks before its answer is a 5xx with an OpenAI error body";
    errors::tries, "bounded-tries", "of a request whose backend breaks, the same backend gets at most two tries";
    errors::busy, "busy", "a backend's 429 reaches the client as one, with its Retry-After and an OpenAI error body";
    errors::invalid, "invalid-json", "a body that is not JSON is a 4xx with an OpenAI error body";
    errors::request_id, "request-id", "an answer has an x-request-id";
    framing::two_lengths, "two-lengths", "two different Content-Length are a 400, and nothing reaches the backend";
    framing::length_and_coding, "length-and-coding", "of Content-Length beside Transfer-Encoding, no second request is made";
    framing::coding, "unknown-coding", "an unknown transfer coding is refused, and nothing reaches the backend";
    framing::no_host, "no-host", "a request without Host is a 400";
    framing::expect, "expect-continue", "Expect: 100-continue costs no second";
}
