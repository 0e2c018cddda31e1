//! What the scripted backend does: bytes, pauses, and how it ends.

use std::time::Duration;

/// One thing after another, on one connection.
#[derive(Debug, Clone)]
pub(super) enum Step {
    /// These bytes, in one write.
    Send(Vec<u8>),
    /// Nothing for a while.
    Pause(Duration),
    /// These bytes again and again, as fast as they are taken, so often.
    Flood(Vec<u8>, usize),
    /// The connection breaks, with a reset.
    Reset,
    /// The connection closes, after what was sent.
    Close,
    /// Nothing any more, until the other side leaves.
    Hang,
}

/// What happens to one request.
#[derive(Debug, Clone)]
pub(super) struct Script {
    pub(super) steps: Vec<Step>,
    /// Whether a request on a connection that served before gets a reset instead.
    pub(super) only_fresh: bool,
}

pub(super) const DONE: &str = "data: [DONE]\n\n";
/// The end of a chunked body.
pub(super) const END: &[u8] = b"0\r\n\r\n";
const STREAM_HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";

impl Script {
    pub(super) fn new(steps: Vec<Step>) -> Self {
        Self { steps, only_fresh: false }
    }

    /// An event stream of these pieces, each a chunk and a write of its own, a moment apart, and what comes then.
    pub(super) fn stream<T: AsRef<[u8]>>(pieces: &[T], then: Vec<Step>) -> Self {
        let moment = Step::Pause(Duration::from_millis(3));
        let mut steps = vec![Step::Send(STREAM_HEAD.into())];
        for piece in pieces {
            steps.extend([Step::Send(chunk(piece.as_ref())), moment.clone()]);
        }
        steps.extend(then);
        Self::new(steps)
    }

    /// A whole answer.
    pub(super) fn answer(status: &str, fields: &str, body: &str) -> Self {
        let head = format!("HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n", body.len());
        Self::new(vec![Step::Send(format!("{head}{fields}\r\n{body}").into_bytes())])
    }

    /// The stream that nothing is wrong with.
    pub(super) fn usual() -> Self {
        Self::stream(&usual(), vec![Step::Send(END.to_vec())])
    }
}

/// The events of a short answer.
pub(super) fn usual() -> Vec<String> {
    vec![role(), token("Hello"), token(" world"), finish(), DONE.to_owned()]
}

/// One chunk of a body.
pub(super) fn chunk(bytes: &[u8]) -> Vec<u8> {
    let mut framed = format!("{:x}\r\n", bytes.len()).into_bytes();
    framed.extend_from_slice(bytes);
    framed.extend_from_slice(b"\r\n");
    framed
}

/// An event with this delta.
fn event(delta: &str, finish: &str) -> String {
    format!(
        "data: {{\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,\"model\":\"conformance\",\
         \"choices\":[{{\"index\":0,\"delta\":{delta},\"logprobs\":null,\"finish_reason\":{finish}}}]}}\n\n"
    )
}

pub(super) fn role() -> String {
    event("{\"role\":\"assistant\",\"content\":\"\"}", "null")
}

/// An event with this text, which is JSON already as it stands.
pub(super) fn token(text: &str) -> String {
    event(&format!("{{\"content\":\"{text}\"}}"), "null")
}

pub(super) fn finish() -> String {
    event("{}", "\"stop\"")
}

/// An answer that is not streamed.
pub(super) fn whole() -> String {
    "{\"id\":\"chatcmpl-1\",\"object\":\"chat.completion\",\"created\":1700000000,\"model\":\"conformance\",\"choices\":[{\"index\":0,\
     \"message\":{\"role\":\"assistant\",\"content\":\"Hello world\"},\"finish_reason\":\"stop\"}],\
     \"usage\":{\"prompt_tokens\":9,\"completion_tokens\":2,\"total_tokens\":11}}"
        .to_owned()
}
