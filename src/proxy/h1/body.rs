//! Which of the bytes that follow a response's head are its body, and where it ends.
//!
//! <https://www.rfc-editor.org/rfc/rfc9112#section-6.3>. Works in place and byte by byte where it must, so that a cut at
//! any place is the same as none.

use super::Malformed;

/// Longest line of chunk framing or trailers; nothing sensible comes near it.
const LONGEST_LINE: u32 = 8 * 1024;
/// Trailers may have so many bytes in all.
const LONGEST_TRAILERS: u32 = 64 * 1024;

/// How far a body has been read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::proxy) enum Body {
    /// So many bytes are still to come.
    Length(u64),
    /// Pieces that say their length.
    Chunked(Chunk),
    /// Whatever comes until the connection closes.
    UntilClose,
    /// It is whole.
    Ended,
    /// What followed was no framing: nothing after it can be trusted.
    Broken(Malformed),
}

/// Where in the framing of chunks the next byte stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::proxy) enum Chunk {
    /// In the line that says a chunk's size; an extension is read and forgotten.
    Size { value: u64, digits: u8, extension: bool, line: u32 },
    /// Behind that line's CR.
    SizeEnd { value: u64 },
    /// In the data.
    Data { left: u64 },
    /// Before the CR that follows the data.
    DataEnd,
    /// Before the LF that follows the data.
    DataEndLf,
    /// In a trailer, or in the empty line that ends them.
    Trailer { line: u32, total: u32 },
    /// Behind a trailer's CR.
    TrailerEnd { line: u32, total: u32 },
}

impl Chunk {
    /// Before the first chunk.
    pub(in crate::proxy) const FIRST: Self = Self::Size { value: 0, digits: 0, extension: false, line: 0 };
}

/// What of a buffer was body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::proxy) struct Decoded {
    /// The body's bytes now stand at the buffer's start, so many.
    pub(in crate::proxy) body: usize,
    /// So many of the buffer's bytes were the body's or its framing's; what follows is nobody's.
    pub(in crate::proxy) consumed: usize,
}

impl Body {
    /// Takes the framing off what arrived, moving the body's bytes together. What came before bytes that are no framing
    /// is body all the same.
    pub(in crate::proxy) fn decode(&mut self, buffer: &mut [u8]) -> Decoded {
        match self {
            Self::Length(left) => {
                let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(buffer.len());
                *left -= taken as u64;
                if *left == 0 {
                    *self = Self::Ended;
                }
                Decoded { body: taken, consumed: taken }
            }
            Self::UntilClose => Decoded { body: buffer.len(), consumed: buffer.len() },
            Self::Ended | Self::Broken(_) => Decoded { body: 0, consumed: 0 },
            Self::Chunked(chunk) => {
                let (decoded, next) = dechunk(*chunk, buffer);
                *self = next;
                decoded
            }
        }
    }

    /// The connection closed; answers whether the body is whole.
    pub(in crate::proxy) fn closed(&mut self) -> bool {
        if *self == Self::UntilClose {
            *self = Self::Ended;
        }
        *self == Self::Ended
    }
}

fn dechunk(mut chunk: Chunk, buffer: &mut [u8]) -> (Decoded, Body) {
    let (mut at, mut body) = (0, 0);
    while let Some(&byte) = buffer.get(at) {
        if let Chunk::Data { left } = &mut chunk {
            let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(buffer.len() - at);
            buffer.copy_within(at..at + taken, body);
            (at, body) = (at + taken, body + taken);
            *left -= taken as u64;
            if *left == 0 {
                chunk = Chunk::DataEnd;
            }
            continue;
        }
        at += 1;
        match chunk.step(byte) {
            Ok(Some(next)) => chunk = next,
            Ok(None) => return (Decoded { body, consumed: at }, Body::Ended),
            Err(malformed) => return (Decoded { body, consumed: at }, Body::Broken(malformed)),
        }
    }
    (Decoded { body, consumed: at }, Body::Chunked(chunk))
}

impl Chunk {
    /// One byte of framing further; `None` at the end of the body.
    fn step(self, byte: u8) -> Result<Option<Self>, Malformed> {
        let next = match (self, byte) {
            (Self::Size { value, digits: 1.., .. }, b'\r') => Self::SizeEnd { value },
            (Self::Size { value, digits, extension, line }, byte) => {
                return size(value, digits, extension, line, byte).map(Some);
            }
            (Self::SizeEnd { value: 0 }, b'\n') => Self::Trailer { line: 0, total: 0 },
            (Self::SizeEnd { value }, b'\n') => Self::Data { left: value },
            (Self::DataEnd, b'\r') => Self::DataEndLf,
            (Self::DataEndLf, b'\n') => Self::FIRST,
            (Self::Trailer { line, total }, b'\r') => Self::TrailerEnd { line, total },
            (Self::Trailer { line, total }, byte) if byte != b'\n' && total < LONGEST_TRAILERS => {
                Self::Trailer { line: line + 1, total: total + 1 }
            }
            (Self::TrailerEnd { line: 0, .. }, b'\n') => return Ok(None),
            (Self::TrailerEnd { total, .. }, b'\n') => Self::Trailer { line: 0, total },
            _ => return Err(Malformed("the framing of a chunk")),
        };
        Ok(Some(next))
    }
}

/// A byte of the line that says a size: a digit, or part of the extension that may follow.
fn size(value: u64, digits: u8, extension: bool, line: u32, byte: u8) -> Result<Chunk, Malformed> {
    let line = line + 1;
    if line > LONGEST_LINE {
        return Err(Malformed("the line of a chunk's size"));
    }
    if extension && !byte.is_ascii_control() {
        return Ok(Chunk::Size { value, digits, extension, line });
    }
    match char::from(byte).to_digit(16) {
        Some(digit) if !extension && digits < 16 => {
            Ok(Chunk::Size { value: value << 4 | u64::from(digit), digits: digits + 1, extension, line })
        }
        None if digits > 0 && matches!(byte, b';' | b' ' | b'\t') => {
            Ok(Chunk::Size { value, digits, extension: true, line })
        }
        _ => Err(Malformed("a chunk's size")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Decodes pieces one after the other; answers the body, whether it ended, and the bytes left over.
    fn decode(mut body: Body, pieces: &[&[u8]]) -> Result<(Vec<u8>, bool, usize), Malformed> {
        let (mut all, mut surplus) = (Vec::new(), 0);
        for piece in pieces {
            let mut buffer = piece.to_vec();
            let decoded = body.decode(&mut buffer);
            all.extend_from_slice(&buffer[..decoded.body]);
            surplus += piece.len() - decoded.consumed;
        }
        match body {
            Body::Broken(malformed) => Err(malformed),
            body => Ok((all, body == Body::Ended, surplus)),
        }
    }

    #[track_caller]
    fn check(framed: &[u8], expected: Result<(&[u8], bool, usize), ()>) {
        let expected = expected.map(|(body, ended, surplus)| (body.to_vec(), ended, surplus));
        let first = Body::Chunked(Chunk::FIRST);
        assert_eq!(decode(first, &[framed]).map_err(|_| ()), expected, "whole");
        for cut in 0..=framed.len() {
            let (head, tail) = framed.split_at(cut);
            assert_eq!(decode(first, &[head, tail]).map_err(|_| ()), expected, "cut at {cut}");
        }
        let bytes: Vec<&[u8]> = framed.chunks(1).collect();
        assert_eq!(decode(first, &bytes).map_err(|_| ()), expected, "byte by byte");
    }

    #[test]
    fn chunks_become_their_content() {
        check(b"3\r\nabc\r\n10\r\n0123456789abcdef\r\n0\r\n\r\n", Ok((b"abc0123456789abcdef", true, 0)));
        check(b"5;name=\"v\"\r\nhello\r\n0\r\n\r\n", Ok((b"hello", true, 0)));
        check(b"5 \r\nhello\r\n0\r\nx-sum: 1\r\ny: 2\r\n\r\n", Ok((b"hello", true, 0)));
        check(b"0\r\n\r\nHTTP/1.1", Ok((b"", true, 8)));
        check(b"5\r\nhel", Ok((b"hel", false, 0)));
    }

    #[test]
    fn what_is_no_framing_is_refused() {
        for framed in [&b"x\r\n"[..], b"\r\n", b"5\nhello", b"5\r\nhello0\r\n", b"5\r\nhello\rX", b"-1\r\n", b"5;a\nb"]
        {
            check(framed, Err(()));
        }
        check(b"11111111111111111\r\n", Err(()));
        let endless = [&b"1;"[..], &vec![b'a'; 9000]].concat();
        assert!(decode(Body::Chunked(Chunk::FIRST), &[&endless]).is_err());
        let endless = [&b"0\r\n"[..], &vec![b'a'; 70_000]].concat();
        assert!(decode(Body::Chunked(Chunk::FIRST), &[&endless]).is_err());
    }

    #[test]
    fn what_came_before_nonsense_is_body() {
        let (mut body, mut buffer) = (Body::Chunked(Chunk::FIRST), *b"3\r\nabc\r\nXYZ");
        assert_eq!(body.decode(&mut buffer).body, 3);
        assert_eq!((&buffer[..3], matches!(body, Body::Broken(_))), (&b"abc"[..], true));
    }

    #[test]
    fn a_length_ends_where_it_says_and_a_close_ends_only_what_has_no_other_end() {
        assert_eq!(decode(Body::Length(3), &[b"ab", b"cd"]), Ok((b"abc".to_vec(), true, 1)));
        assert_eq!(decode(Body::UntilClose, &[b"ab", b"cd"]), Ok((b"abcd".to_vec(), false, 0)));
        for (mut body, whole) in [
            (Body::UntilClose, true),
            (Body::Length(1), false),
            (Body::Chunked(Chunk::FIRST), false),
            (Body::Ended, true),
        ] {
            assert_eq!(body.closed(), whole, "{body:?}");
        }
    }

    proptest! {
        #[test]
        fn any_content_survives_any_chunks_and_cuts(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..8),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
        ) {
            let mut framed = Vec::new();
            for chunk in &chunks {
                framed.extend_from_slice(format!("{:X}\r\n", chunk.len()).as_bytes());
                framed.extend_from_slice(chunk);
                framed.extend_from_slice(b"\r\n");
            }
            framed.extend_from_slice(b"0\r\n\r\n");
            let mut places: Vec<usize> = cuts.iter().map(|cut| cut.index(framed.len())).collect();
            places.extend([0, framed.len()]);
            places.sort_unstable();
            let pieces: Vec<&[u8]> = places.windows(2).map(|pair| &framed[pair[0]..pair[1]]).collect();
            prop_assert_eq!(decode(Body::Chunked(Chunk::FIRST), &pieces), Ok((chunks.concat(), true, 0)));
        }
    }
}
