//! A response's head: its fields, how its body is framed, and whether the connection may serve again.

use std::borrow::Cow;

use http::header::{CONNECTION, CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue, TRANSFER_ENCODING};
use http::{StatusCode, Version};
use pingora_http::ResponseHeader;

use super::Malformed;
use super::body::{Body, Chunk};

/// Fields of one head; as many as pingora takes.
const MOST_FIELDS: usize = 256;

/// What a head says.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) fields: Box<ResponseHeader>,
    pub(super) body: Body,
    /// Whether the connection may serve another request after the body.
    pub(super) keeps: bool,
}

/// Reads a head at the start of `bytes`, and says how long it is; `None` while it is not complete.
pub(super) fn parse(bytes: &[u8]) -> Result<Option<(Head, usize)>, Malformed> {
    let mut fields = [const { std::mem::MaybeUninit::uninit() }; MOST_FIELDS];
    let mut response = httparse::Response::new(&mut []);
    // As tolerant as pingora: these are servers that the operator chose.
    let mut parser = httparse::ParserConfig::default();
    parser.allow_spaces_after_header_name_in_responses(true);
    parser.allow_obsolete_multiline_headers_in_responses(true);
    let parsed = parser.parse_response_with_uninit_headers(&mut response, bytes, &mut fields);
    let length = match parsed.map_err(|_| Malformed("a response's head"))? {
        httparse::Status::Complete(length) => length,
        httparse::Status::Partial => return Ok(None),
    };
    let mut head = ResponseHeader::build(response.code.unwrap_or_default(), Some(response.headers.len()))
        .map_err(|_| Malformed("a status"))?;
    head.set_version(if response.version == Some(1) { Version::HTTP_11 } else { Version::HTTP_10 });
    for field in response.headers.iter() {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| Malformed("a field's name"))?;
        let value = HeaderValue::from_bytes(&unfolded(field.value)).map_err(|_| Malformed("a field's value"))?;
        head.append_header(name, value).map_err(|_| Malformed("a field"))?;
    }
    let body = framing(&mut head)?;
    let keeps = keeps(&head, body);
    Ok(Some((Head { fields: Box::new(head), body, keeps }, length)))
}

/// Line breaks of a folded value become spaces, <https://www.rfc-editor.org/rfc/rfc9112#section-5.2>.
fn unfolded(value: &[u8]) -> Cow<'_, [u8]> {
    if !value.iter().any(|byte| matches!(byte, b'\r' | b'\n')) {
        return Cow::Borrowed(value);
    }
    Cow::Owned(value.iter().map(|&byte| if matches!(byte, b'\r' | b'\n') { b' ' } else { byte }).collect())
}

/// How the body ends, <https://www.rfc-editor.org/rfc/rfc9112#section-6.3>.
fn framing(head: &mut ResponseHeader) -> Result<Body, Malformed> {
    if matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) || head.status.is_informational() {
        return Ok(Body::Ended);
    }
    if head.headers.contains_key(TRANSFER_ENCODING) {
        // It overrides a length, which must not go on.
        head.remove_header(&CONTENT_LENGTH);
        let last = tokens(&head.headers, &TRANSFER_ENCODING).last();
        let chunked = last.is_some_and(|coding| coding.eq_ignore_ascii_case("chunked"));
        return Ok(if chunked { Body::Chunked(Chunk::FIRST) } else { Body::UntilClose });
    }
    match length(&head.headers)? {
        Some(0) => Ok(Body::Ended),
        Some(length) => Ok(Body::Length(length)),
        None => Ok(Body::UntilClose),
    }
}

/// The one length that all of `Content-Length` agree on.
fn length(headers: &HeaderMap) -> Result<Option<u64>, Malformed> {
    let mut agreed = None;
    for value in headers.get_all(CONTENT_LENGTH) {
        for token in value.to_str().map_err(|_| Malformed("a length"))?.split(',') {
            let token = token.trim();
            let digits = !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_digit());
            let length: u64 = token.parse().ok().filter(|_| digits).ok_or(Malformed("a length"))?;
            if agreed.is_some_and(|agreed| agreed != length) {
                return Err(Malformed("two lengths"));
            }
            agreed = Some(length);
        }
    }
    Ok(agreed)
}

/// <https://www.rfc-editor.org/rfc/rfc9112#section-9.3>
fn keeps(head: &ResponseHeader, body: Body) -> bool {
    let says = |word: &str| tokens(&head.headers, &CONNECTION).any(|token| token.eq_ignore_ascii_case(word));
    let by_default = head.version == Version::HTTP_11 || says("keep-alive");
    by_default && body != Body::UntilClose && !says("close")
}

fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(fields: &str, body: Body, keeps: bool) {
        let text = format!("HTTP/1.1 200 OK\r\n{fields}\r\nrest");
        let (head, length) = parse(text.as_bytes()).unwrap().unwrap();
        assert_eq!((head.body, head.keeps, length), (body, keeps, text.len() - 4), "{fields}");
        for cut in 0..length {
            assert!(parse(&text.as_bytes()[..cut]).unwrap().is_none(), "cut at {cut}");
        }
    }

    #[test]
    fn framing_follows_the_standard() {
        check("Content-Length: 12\r\n", Body::Length(12), true);
        check("Content-Length: 0\r\n", Body::Ended, true);
        check("Content-Length: 12, 12\r\nContent-Length: 12\r\n", Body::Length(12), true);
        check("Transfer-Encoding: chunked\r\nContent-Length: 3\r\n", Body::Chunked(Chunk::FIRST), true);
        check("Transfer-Encoding: gzip, Chunked\r\nConnection: X, Close\r\n", Body::Chunked(Chunk::FIRST), false);
        check("Transfer-Encoding: gzip\r\n", Body::UntilClose, false);
        check("Server: uvicorn\r\n", Body::UntilClose, false);
    }

    #[test]
    fn lengths_that_cannot_be_trusted_are_refused() {
        for value in ["abc", "-1", "+1", "", "1, 2", "99999999999999999999"] {
            let text = format!("HTTP/1.1 200 OK\r\nContent-Length: {value}\r\n\r\n");
            assert!(parse(text.as_bytes()).is_err(), "{value}");
        }
        assert!(parse(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n").is_err());
        assert!(parse(b"SSH-2.0-OpenSSH\r\n\r\n").is_err());
    }

    #[test]
    fn an_older_server_keeps_a_connection_only_when_it_says_so() {
        for (fields, keeps) in [("", false), ("Connection: keep-alive\r\n", true)] {
            let text = format!("HTTP/1.0 200 OK\r\nContent-Length: 2\r\n{fields}\r\n");
            assert_eq!(parse(text.as_bytes()).unwrap().unwrap().0.keeps, keeps);
        }
    }

    #[test]
    fn heads_without_a_body_end_at_once() {
        for status in [100, 103, 204, 304] {
            let text = format!("HTTP/1.1 {status} X\r\n\r\n");
            assert_eq!(parse(text.as_bytes()).unwrap().unwrap().0.body, Body::Ended, "{status}");
        }
    }

    #[test]
    fn a_folded_field_becomes_one_line() {
        let (head, _) = parse(b"HTTP/1.1 200 OK\r\nx-long: a\r\n b\r\n\r\n").unwrap().unwrap();
        assert_eq!(head.fields.headers["x-long"], "a   b");
    }

    #[test]
    fn a_length_beside_chunks_does_not_go_on() {
        let (head, _) =
            parse(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 3\r\n\r\n").unwrap().unwrap();
        assert!(!head.fields.headers.contains_key("content-length"));
    }
}
