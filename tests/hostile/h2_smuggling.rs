//! HTTP/2 requests that would be something else once they are written as HTTP/1.1.

use bytes::Bytes;

use crate::frames::{CONTINUATION, DATA, END_HEADERS, END_STREAM, Field, HEADERS, Raw, block, field, frame, request};
use crate::recorder::Recorder;
use crate::support::client::{self, chat, read_reply, send};
use crate::support::h2_client::Connection;
use crate::support::{Headway, backend, config};

/// A head's fields, the pieces of a body, and the trailers after it.
struct Variant {
    name: &'static str,
    fields: Vec<Field>,
    data: Vec<Vec<u8>>,
    trailers: Vec<Field>,
}

fn body() -> String {
    chat("m").replace("true", "false")
}

/// What they try; each with a good body, unless it is the body that is wrong.
#[allow(clippy::too_many_lines, reason = "a table")]
fn variants(path: &str) -> Vec<Variant> {
    let good = || request(path);
    let variant = |name, fields, data: &[&str], trailers: &[(&str, &str)]| Variant {
        name,
        fields,
        data: data.iter().map(|piece| piece.as_bytes().to_vec()).collect(),
        trailers: trailers.iter().map(|(name, value)| field(name, value)).collect(),
    };
    let body = body();
    let (length, whole) = (body.len().to_string(), [body.as_str()]);
    let with = |name: &str, value: &str| good().into_iter().chain([field(name, value)]).collect::<Vec<_>>();
    let instead = |name: &str, value: &str| {
        let other = |(old, kept): Field| if old == name.as_bytes() { field(name, value) } else { (old, kept) };
        good().into_iter().map(other).collect::<Vec<_>>()
    };
    let inner = "GET /smuggled HTTP/1.1\r\nhost: h\r\n\r\n";
    let split = format!("a\r\n\r\n{inner}");
    let mut all = vec![
        variant("a length too short", with("content-length", "4"), &whole, &[]),
        variant("a length too long", with("content-length", "400"), &whole, &[]),
        variant("a length of nothing with a body", with("content-length", "0"), &[&body, inner], &[]),
        variant("a length and no body", with("content-length", &length), &[], &[]),
        variant("a length that is no number", with("content-length", "4, 4"), &whole, &[]),
        variant("a length with a sign", with("content-length", &format!("+{length}")), &whole, &[]),
        variant("more than the length, later", with("content-length", &length), &[&body, inner], &[]),
        variant("a transfer coding", with("transfer-encoding", "chunked"), &[&format!("0\r\n\r\n{inner}")], &[]),
        variant(
            "a coding and a length",
            [with("transfer-encoding", "chunked"), vec![field("content-length", &length)]].concat(),
            &whole,
            &[],
        ),
        variant("a connection field", with("connection", "close"), &whole, &[]),
        variant("an upgrade", with("upgrade", "foo"), &whole, &[]),
        variant("a keep-alive", with("keep-alive", "1"), &whole, &[]),
        variant("te other than trailers", with("te", "gzip"), &whole, &[]),
        variant("a line end in a value", with("x-a", &split), &whole, &[]),
        variant("a line feed in a value", with("x-a", "b\ntransfer-encoding: chunked"), &whole, &[]),
        variant("a zero byte in a value", with("x-a", "b\0c"), &whole, &[]),
        variant("a line end in a name", with("x-a\r\ntransfer-encoding", "chunked"), &whole, &[]),
        variant("a colon in a name", with("transfer-encoding: chunked\r\nx", "y"), &whole, &[]),
        variant("a name in capitals", with("Transfer-Encoding", "chunked"), &whole, &[]),
        variant("an empty name", with("", "x"), &whole, &[]),
        variant(
            "a line end in the path",
            instead(":path", &format!("{path} HTTP/1.1\r\nhost: h\r\n\r\n{inner}")),
            &whole,
            &[],
        ),
        variant("a space in the path", instead(":path", &format!("{path} HTTP/1.1")), &whole, &[]),
        variant("a path that is none", instead(":path", "smuggled"), &whole, &[]),
        variant("an empty path", instead(":path", ""), &whole, &[]),
        variant("a path with an authority", instead(":path", &format!("http://other{path}")), &whole, &[]),
        variant(
            "a line end in the method",
            instead(":method", &format!("GET / HTTP/1.1\r\nhost: h\r\n\r\n{inner}POST")),
            &whole,
            &[],
        ),
        variant("a space in the method", instead(":method", "POST /smuggled HTTP/1.1"), &whole, &[]),
        variant("a tunnel", instead(":method", "CONNECT"), &whole, &[]),
        variant("a line end in the authority", instead(":authority", &split), &whole, &[]),
        variant("a user in the authority", instead(":authority", "a@h"), &whole, &[]),
        variant("another host beside the authority", with("host", "other"), &whole, &[]),
        variant(
            "two hosts beside the authority",
            [with("host", "h"), vec![field("host", "other")]].concat(),
            &whole,
            &[],
        ),
        variant("a second path", with(":path", "/smuggled"), &whole, &[]),
        variant("a pseudo-field that is none", with(":smuggled", "x"), &whole, &[]),
        variant("a pseudo-field of answers", with(":status", "200"), &whole, &[]),
        variant("no path", good().into_iter().filter(|(name, _)| name != b":path").collect(), &whole, &[]),
        variant("no method", good().into_iter().filter(|(name, _)| name != b":method").collect(), &whole, &[]),
        variant("an underscore", with("content_length", "0"), &whole, &[]),
        variant("a length in trailers", good(), &whole, &[("content-length", "4")]),
        variant("a coding in trailers", good(), &whole, &[("transfer-encoding", "chunked")]),
        variant("a path in trailers", good(), &whole, &[(":path", "/smuggled")]),
        variant("a host in trailers", good(), &whole, &[("host", "other")]),
        variant("an empty piece at the end", good(), &[&body, ""], &[]),
        variant("empty pieces between", good(), &["", &body[..9], "", &body[9..], ""], &[]),
        variant("nothing wrong", good(), &whole, &[]),
        variant("nothing wrong, with its length", with("content-length", &length), &whole, &[]),
    ];
    let mut late = good();
    late.push(field(":scheme", "http"));
    all.push(variant("a pseudo-field behind others", late, &whole, &[]));
    let large = with("x-large", &"a".repeat(70_000));
    all.push(variant("fields beyond the bound", large, &whole, &[]));
    all
}

impl Variant {
    /// The frames of its stream.
    fn frames(&self, stream: u32) -> Vec<u8> {
        let ends = self.data.is_empty() && self.trailers.is_empty();
        let block_ = block(&self.fields);
        let mut pieces = block_.chunks(16_000).peekable();
        let mut bytes = Vec::new();
        let mut kind = (HEADERS, if ends { END_STREAM } else { 0 });
        while let Some(piece) = pieces.next() {
            let last = if pieces.peek().is_none() { END_HEADERS } else { 0 };
            bytes.extend(frame(kind.0, kind.1 | last, stream, piece));
            kind = (CONTINUATION, 0);
        }
        for (number, piece) in self.data.iter().enumerate() {
            let last = number + 1 == self.data.len() && self.trailers.is_empty();
            bytes.extend(frame(DATA, if last { END_STREAM } else { 0 }, stream, piece));
        }
        if !self.trailers.is_empty() {
            bytes.extend(frame(HEADERS, END_HEADERS | END_STREAM, stream, &block(&self.trailers)));
        }
        bytes
    }
}

#[tokio::test]
async fn a_backend_sees_one_request_of_a_stream_and_no_byte_after_it() {
    let recorder = Recorder::start().await;
    let route = ", match: { paths: [/v1/chat/completions, /v1/files] }";
    let headway = Headway::start(&config(&[backend("m", recorder.address)], route, "")).await;
    let (mut refused, mut served) = (0, 0);
    for path in ["/v1/chat/completions", "/v1/files"] {
        for variant in variants(path) {
            let name = variant.name;
            let before = recorder.seen();
            let mut raw = Raw::open(headway.address, &[]).await;
            raw.send(&variant.frames(1)).await;
            let ended = raw.end(1).await;
            drop(raw);
            headway.idle().await;
            let after = recorder.seen();
            let requests = &after.requests[before.requests.len()..];
            assert!(requests.len() <= 1, "{name} on {path}: {requests:#?}");
            assert_eq!(after.faults, before.faults, "{name} on {path}");
            assert!(
                !requests.iter().any(|head| head.contains("smuggled") || head.contains("x-a")),
                "{name}: {requests:#?}"
            );
            assert!(!ended.ok || requests.len() == 1, "{name} on {path}: {ended:?}");
            if name.starts_with("nothing wrong") {
                assert!(ended.ok && ended.answered, "{name} on {path}: {ended:?}");
            }
            if requests.is_empty() {
                refused += 1;
            } else {
                served += 1;
            }
            let id = format!("after-{}", after.requests.len());
            let next = read_reply(&mut send(headway.address, &client::request(&id, &body())).await).await;
            assert!(
                next.status == 200 && next.text.contains(&format!("\"id\":\"{id}\"")),
                "after {name} on {path}: {next:?}"
            );
        }
    }
    println!("{} variants on two paths: {refused} refused, {served} served as one request", variants("").len());
    assert!(refused > 40 && served > 6, "{refused} {served}");
}

/// <https://github.com/cloudflare/pingora/issues/935>
#[tokio::test]
async fn an_empty_last_piece_leaves_nothing_on_the_backends_connection() {
    let recorder = Recorder::start().await;
    let route = ", match: { paths: [/v1/chat/completions, /v1/files] }";
    let headway = Headway::start(&config(&[backend("m", recorder.address)], route, "")).await;
    for number in 0..1_000_u32 {
        let fields = request(if number % 2 == 0 { "/v1/files" } else { "/v1/chat/completions" });
        let mut raw = Raw::open(headway.address, &[]).await;
        let data = vec![body().into_bytes(), Vec::new()];
        let variant = Variant { name: "", fields, data, trailers: Vec::new() };
        raw.send(&variant.frames(1)).await;
        let ended = raw.end(1).await;
        assert!(ended.ok && ended.answered, "{number}: {ended:?}");
    }
    let seen = recorder.seen();
    println!("{} requests on {} connections: {} faults", seen.requests.len(), seen.connections, seen.faults.len());
    assert_eq!((seen.requests.len(), seen.faults), (1_000, Vec::<String>::new()));
    assert!(seen.connections < 20, "{} connections: nothing was pooled", seen.connections);
    // And by a client that is none of ours.
    let h2 = Connection::open(headway.address).await;
    let mut stream = h2.send("library", None).await;
    stream.up.send_data(Bytes::from(body()), false).expect("it is queued");
    stream.up.send_data(Bytes::new(), true).expect("it is queued");
    assert_eq!(stream.reply().await.0, 200);
}
