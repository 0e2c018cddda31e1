//! Requests that two servers could read in two ways. Whatever a client sends, the backend sees at most one request for it,
//! by the letter of the standard, and no byte after it; and the next client's request gets its own answer.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::recorder::Recorder;
use crate::support::client::{chat, connect, read_reply, request, send};
use crate::support::{Headway, backend, config};

/// A request that must never be seen.
const INNER: &str =
    "POST /v1/chat/completions?smuggled HTTP/1.1\r\nhost: h\r\nx-request-id: smuggled\r\ncontent-length: 2\r\n\r\n{}";

/// A body that both paths take.
fn body() -> String {
    chat("m").replace("true", "false")
}

/// Bytes, by what they try; `{path}` is where they go, `{body}` a good body, `{length}` its length, `{chunks}` it in
/// chunks, `{inner}` the request that must not be seen.
#[allow(clippy::too_many_lines, reason = "a table")]
fn variants() -> Vec<(&'static str, String)> {
    let post = |fields: &str, rest: &str| format!("POST {{path}} HTTP/1.1\r\nhost: h\r\n{fields}\r\n{rest}");
    let length = "content-length: {length}\r\n";
    let chunked = "transfer-encoding: chunked\r\n";
    let many = "x-many: 1\r\n".repeat(300);
    let large = format!("x-large: {}\r\n", "a".repeat(1_100_000));
    let of_chunks = |chunks: &str| post(chunked, &format!("{chunks}{{inner}}"));
    let both = format!("content-length: 4\r\n{chunked}");
    let other = format!("{chunked}content-length: 4\r\n");
    let plain = |fields: &str| post(&format!("{fields}{length}"), "{body}{inner}");
    vec![
        // Transfer codings.
        ("a coding of another name", post("transfer-encoding: xchunked\r\n", "{chunks}{inner}")),
        ("chunked and then another", post("transfer-encoding: chunked, identity\r\n", "{chunks}{inner}")),
        ("another and then chunked", post("transfer-encoding: gzip, chunked\r\n", "{chunks}{inner}")),
        ("two fields of coding", post(&format!("{chunked}transfer-encoding: identity\r\n"), "{chunks}{inner}")),
        ("two fields of the same coding", post(&format!("{chunked}{chunked}"), "{chunks}{inner}")),
        ("a space before the colon", post("transfer-encoding : chunked\r\n", "{chunks}{inner}")),
        ("a vertical tab", post("transfer-encoding: \u{b}chunked\r\n", "{chunks}{inner}")),
        ("a coding on a folded line", post("transfer-encoding:\r\n chunked\r\n", "{chunks}{inner}")),
        ("a coding in capitals", post("TRANSFER-ENCODING: CHUNKED\r\n", "{chunks}{inner}")),
        ("a coding in quotes", post("transfer-encoding: \"chunked\"\r\n", "{chunks}{inner}")),
        ("chunks of an old version", of_chunks("{chunks}").replace("HTTP/1.1", "HTTP/1.0")),
        // Lengths.
        ("two lengths", post("content-length: 0\r\ncontent-length: {length}\r\n", "{body}{inner}")),
        ("the same length twice", post(&length.repeat(2), "{body}{inner}")),
        ("a list of lengths", post("content-length: {length}, {length}\r\n", "{body}{inner}")),
        ("a length with a sign", post("content-length: +{length}\r\n", "{body}{inner}")),
        ("a negative length", post("content-length: -1\r\n", "{body}{inner}")),
        ("a length in hexadecimal", post("content-length: 0x4\r\n", "{body}{inner}")),
        ("a length that overflows", post("content-length: 18446744073709551617\r\n", "{body}{inner}")),
        ("an empty length", post("content-length:\r\n", "{body}{inner}")),
        ("no length", post("", "{body}{inner}")),
        ("a length and a coding", post(&both, "{chunks}{inner}")),
        ("a coding and a length", post(&other, "{chunks}{inner}")),
        ("a length with an underscore", post("content_length: 0\r\ncontent-length: {length}\r\n", "{body}{inner}")),
        ("a length too short for its body", post("content-length: 4\r\n", "{body}{inner}")),
        // Chunks.
        ("a chunk that ends in a bare line feed", of_chunks("5\n{\"a\":\n1}\r\n0\r\n\r\n")),
        ("a chunk's size with 0x", of_chunks("0x5\r\nhello\r\n0\r\n\r\n")),
        ("a chunk's size with a sign", of_chunks("+5\r\nhello\r\n0\r\n\r\n")),
        ("a chunk's size that overflows", of_chunks("10000000000000005\r\nhello\r\n0\r\n\r\n")),
        ("a chunk without its end", of_chunks("5\r\nhelloX0\r\n\r\n")),
        ("a chunk with an extension", of_chunks("{size};a=b\r\n{body}\r\n0\r\n\r\n")),
        ("an extension with a line feed", of_chunks("{size};a\nb\r\n{body}\r\n0\r\n\r\n")),
        ("trailers that are framing", of_chunks("{size}\r\n{body}\r\n0\r\ncontent-length: 9\r\nhost: x\r\n\r\n")),
        ("an end of chunks in bare line feeds", of_chunks("{size}\r\n{body}\r\n0\n\n")),
        // Hosts and targets.
        ("no host", format!("POST {{path}} HTTP/1.1\r\n{length}\r\n{{body}}{{inner}}")),
        ("two hosts", plain("host: other\r\n")),
        ("another host in the target", plain("").replace("{path}", "http://other{path}")),
        ("a connection of the host", plain("connection: host\r\n")),
        ("a connection of the framing", plain("connection: content-length, transfer-encoding\r\n")),
        ("a connection of the credential", plain("connection: authorization\r\nauthorization: Bearer x\r\n")),
        ("a space in the target", plain("").replace("{path}", "{path} /smuggled")),
        ("a control byte in the target", plain("").replace("{path}", "{path}?\u{1}")),
        ("a target with a line end", plain("").replace("{path}", "{path}?a\rb")),
        ("a target in authority form", plain("").replace("POST {path}", "CONNECT other:80")),
        ("a fragment", plain("").replace("{path}", "{path}#smuggled")),
        // Lines.
        ("bare line feeds", plain("").replace("\r\n", "\n")),
        ("a zero byte in a value", plain("x-a: a\0b\r\n")),
        ("a carriage return in a value", plain("x-a: a\rtransfer-encoding: chunked\r\n")),
        ("a folded value", plain("x-a: a\r\n transfer-encoding: chunked\r\n")),
        ("a field without a name", plain(": a\r\n")),
        ("a field without a colon", plain("transfer-encoding\r\n")),
        ("a field's name with a space", plain("x a: b\r\n")),
        ("a line end before the request", format!("\r\n\r\n{}", plain(""))),
        ("very many fields", plain(&many)),
        ("a very large field", plain(&large)),
        // Methods and versions.
        ("a trace", plain("").replace("POST", "TRACE")),
        ("a GET with a body", plain("").replace("POST", "GET")),
        ("a HEAD with a body", plain("").replace("POST", "HEAD")),
        (
            "an upgrade to HTTP/2",
            plain("connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AA\r\n"),
        ),
        ("an upgrade to something", plain("connection: upgrade\r\nupgrade: foo\r\n")),
        ("a version to come", plain("").replace("HTTP/1.1", "HTTP/1.2")),
        ("a version of another protocol", plain("").replace("HTTP/1.1", "HTTP/2.0")),
        ("a version that is none", plain("").replace("HTTP/1.1", "HTTP/1.1 x")),
        ("an expectation", plain("expect: 100-continue\r\n")),
        // Two at once.
        ("a request behind a request", plain("")),
        ("a request behind a refusal", post("content-length: 0\r\n", "{inner}")),
    ]
}

/// What a variant looks like on the wire.
fn bytes(text: &str, path: &str) -> Vec<u8> {
    let body = body();
    let (length, size) = (body.len().to_string(), format!("{:x}", body.len()));
    let chunks = format!("{size}\r\n{body}\r\n0\r\n\r\n");
    let text = text.replace("{chunks}", &chunks).replace("{size}", &size).replace("{length}", &length);
    text.replace("{path}", path).replace("{body}", &body).replace("{inner}", INNER).into_bytes()
}

#[tokio::test]
async fn a_backend_sees_one_request_and_no_byte_after_it() {
    let recorder = Recorder::start().await;
    // One path that headway understands, one that pingora's stock proxy carries.
    let route = ", match: { paths: [/v1/chat/completions, /v1/files] }";
    // What is waited for is not long in coming here.
    let rest = "listeners: [{ address: 127.0.0.1:0 }]\nlimits: { body_idle: 300ms, header_deadline: 1s }";
    let headway = Headway::start(&config(&[backend("m", recorder.address)], route, rest)).await;
    let (mut refused, mut served) = (0, 0);
    for path in ["/v1/chat/completions", "/v1/files"] {
        for (name, text) in variants() {
            let before = recorder.seen();
            let mut client = connect(headway.address).await;
            // A server that has had enough closes before it has read all of it.
            let _ = client.write_all(&bytes(&text, path)).await;
            let mut reply = read_reply(&mut client).await;
            // And what it says after its answer, if anything.
            let mut more = Vec::new();
            let _ = tokio::time::timeout(Duration::from_millis(20), client.read_to_end(&mut more)).await;
            reply.text += &String::from_utf8_lossy(&more);
            drop(client);
            headway.idle().await;
            let after = recorder.seen();
            let requests = &after.requests[before.requests.len()..];
            assert!(requests.len() <= 1, "{name} on {path}: {requests:#?}");
            assert_eq!(after.faults, before.faults, "{name} on {path}");
            assert!(!requests.iter().any(|head| head.contains("smuggled")), "{name} on {path}: {requests:#?}");
            assert!(!reply.text.contains("smuggled"), "{name} on {path}: {reply:?}");
            let answers = reply.text.matches("HTTP/1.1 200").count();
            assert!(answers <= requests.len(), "{name} on {path}: {reply:?}");
            if requests.is_empty() {
                refused += 1;
            } else {
                served += 1;
            }
            // The next one gets its own answer, on the same connection to the backend if there is one.
            let id = format!("after-{}", after.requests.len());
            let next = read_reply(&mut send(headway.address, &request(&id, &body())).await).await;
            assert!(
                next.status == 200 && next.text.contains(&format!("\"id\":\"{id}\"")),
                "after {name} on {path}: {next:?}"
            );
        }
    }
    println!("{} variants on two paths: {refused} refused, {served} served as one request", variants().len());
    assert!(refused > 60 && served > 20, "{refused} {served}");
}
