//! Requests and answers in bytes.

use std::fmt::Write as _;

use super::backend::{Script, send};

/// The chat endpoint's path.
pub const CHAT: &str = "/v1/chat/completions";

/// A streamed chat request that asks for usage itself.
pub const STREAM: &str = r#"{"model":"m","stream":true,"stream_options":{"include_usage":true},"messages":[]}"#;

/// A chat request that is not streamed.
pub const UNARY: &str = r#"{"model":"m","messages":[]}"#;

/// The head of a streamed answer.
pub const SSE: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";

pub const ROLE: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"finish_reason\":null}]}\n\n";
pub const TOKEN: &str =
    "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\" train\"},\"finish_reason\":null}]}\n\n";
pub const FINISH: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n";
pub const USAGE: &str = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":2}}\n\n";
pub const DONE: &str = "data: [DONE]\n\n";

/// The last chunk of a body.
pub const LAST: &str = "0\r\n\r\n";

/// The events of a whole streamed answer.
pub fn events() -> String {
    [ROLE, TOKEN, TOKEN, FINISH, USAGE, DONE].concat()
}

/// One chunk of a chunked body.
pub fn chunk(bytes: impl AsRef<[u8]>) -> Vec<u8> {
    let bytes = bytes.as_ref();
    [format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat()
}

/// A whole streamed answer, as one write.
pub fn streamed() -> Script {
    answer(&events())
}

/// A whole streamed answer of this body.
pub fn answer(body: &str) -> Script {
    vec![send([SSE.as_bytes(), &chunk(body), LAST.as_bytes()].concat())]
}

/// The beginning of a streamed answer: its head and this much of its body.
pub fn begun(body: impl AsRef<[u8]>) -> super::backend::Step {
    send([SSE.as_bytes(), &chunk(body)].concat())
}

/// A JSON answer.
pub fn json(status: &str, body: &str) -> Script {
    with_fields(status, "", body)
}

/// A JSON answer with more header fields, each with its line end.
pub fn with_fields(status: &str, fields: &str, body: &str) -> Script {
    let length = body.len();
    let head =
        format!("HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n{fields}\r\n");
    vec![send(head + body)]
}

/// A whole answer that is not streamed.
pub const COMPLETION: &str = r#"{"choices":[{"index":0,"message":{"content":"Trains."},"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":2}}"#;

/// A POST of a JSON text.
pub fn post(path: &str, body: &str) -> String {
    post_with(path, "", body)
}

/// A POST with more header fields, each with its line end.
pub fn post_with(path: &str, fields: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "POST {path} HTTP/1.1\r\nhost: headway\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n{fields}\r\n{body}"
    )
}

/// The SHA-256 of a key, as the configuration wants it.
pub fn digest(secret: &str) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, secret.as_bytes());
    digest.as_ref().iter().fold(String::new(), |mut digits, byte| {
        let _ = write!(digits, "{byte:02x}");
        digits
    })
}

/// The line of a key in the configuration.
pub fn key(name: &str, secret: &str, more: &str) -> String {
    format!("  - {{ name: {name}, sha256: {}, {more} }}\n", digest(secret))
}
