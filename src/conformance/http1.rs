//! As much of HTTP/1.1 as both ends need, on bytes that are all there.

/// A message's head and where its body begins.
pub(super) fn split(bytes: &[u8]) -> Option<(String, usize)> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = bytes.get(..end).unwrap_or_default();
    Some((String::from_utf8_lossy(head).into_owned(), end + 4))
}

/// A field of a head.
pub(super) fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().skip(1).find_map(|line| {
        let (field, value) = line.split_once(':')?;
        field.trim().eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

/// The status of a response's head.
pub(super) fn status(head: &str) -> u16 {
    head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0)
}

/// A body so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Body {
    pub(super) bytes: Vec<u8>,
    /// Its own framing says that it is over.
    pub(super) whole: bool,
    /// Only the connection's end ends it.
    pub(super) until_close: bool,
    /// How much of what was given it took, framing included.
    pub(super) taken: usize,
}

/// Takes the framing off.
pub(super) fn body(head: &str, raw: &[u8], is_request: bool) -> Body {
    if field(head, "transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked")) {
        return chunked(raw);
    }
    match field(head, "content-length").and_then(|length| length.parse::<usize>().ok()) {
        Some(length) => {
            let bytes = raw.get(..length.min(raw.len())).unwrap_or_default().to_vec();
            Body { whole: raw.len() >= length, taken: bytes.len(), bytes, until_close: false }
        }
        None if is_request || matches!(status(head), 204 | 304) => Body { whole: true, ..Body::default() },
        None => Body { bytes: raw.to_vec(), whole: false, until_close: true, taken: raw.len() },
    }
}

fn chunked(raw: &[u8]) -> Body {
    let (mut body, mut at) = (Body::default(), 0);
    loop {
        let rest = raw.get(at..).unwrap_or_default();
        let Some(end) = rest.windows(2).position(|window| window == b"\r\n") else { break };
        let line = String::from_utf8_lossy(rest.get(..end).unwrap_or_default()).into_owned();
        let size = usize::from_str_radix(line.split(';').next().unwrap_or("").trim(), 16);
        let Ok(size) = size else { break };
        let data = rest.get(end + 2..).unwrap_or_default();
        if size == 0 {
            // Trailers are not looked at: the empty line ends them.
            let trailers = data.windows(2).position(|window| window == b"\r\n");
            body.whole = trailers.is_some();
            at += end + 2 + trailers.map_or(0, |trailers| trailers + 2);
            break;
        }
        body.bytes.extend_from_slice(data.get(..size.min(data.len())).unwrap_or_default());
        if data.len() < size + 2 {
            break;
        }
        at += end + 2 + size + 2;
    }
    body.taken = at;
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(head: &str, raw: &str, expected: (&str, bool, bool, usize)) {
        let body = body(head, raw.as_bytes(), false);
        let text = String::from_utf8_lossy(&body.bytes).into_owned();
        assert_eq!((text.as_str(), body.whole, body.until_close, body.taken), expected, "{head} {raw}");
    }

    #[test]
    fn framing_comes_off() {
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked";
        check(chunked, "3\r\nabc\r\n0\r\n\r\nrest", ("abc", true, false, 13));
        check(chunked, "3\r\nabc\r\n5\r\nde", ("abcde", false, false, 8));
        check(chunked, "3;x=y\r\nabc\r\n", ("abc", false, false, 12));
        check("HTTP/1.1 200 OK\r\ncontent-length: 2", "abc", ("ab", true, false, 2));
        check("HTTP/1.1 200 OK\r\ncontent-length: 5", "abc", ("abc", false, false, 3));
        check("HTTP/1.1 200 OK", "abc", ("abc", false, true, 3));
    }

    #[test]
    fn heads_are_split_and_read() {
        let (head, at) = split(b"HTTP/1.1 503 Busy\r\nRetry-After: 7\r\n\r\nx").unwrap();
        assert_eq!((status(&head), field(&head, "retry-after"), at), (503, Some("7"), 37));
    }
}
