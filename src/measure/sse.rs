//! Incremental decoder of event streams, after the WHATWG standard.
//!
//! An event that lies whole in a push is handed out as slices of it; only an event cut by a push is carried over, up
//! to [`MAX_EVENT`] bytes. A longer one is stepped over and counted. Line ends may be LF, CRLF and lone CR, mixed.
//! Unlike the standard, [`SseDecoder::finish`] delivers an unterminated tail: `data: [DONE]` without a blank line is
//! common.

use memchr::memchr2;

/// An event longer than this is not decoded.
pub const MAX_EVENT: usize = 1 << 20;

/// Carry-over memory that is kept from one event to the next.
const KEPT: usize = 8 << 10;

/// One dispatched event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SseEvent<'a> {
    /// The `event` field; empty when there was none (the standard's `message`).
    pub name: &'a [u8],
    /// The `data` fields, joined with LF.
    pub data: &'a [u8],
}

/// Where a block of lines ended, and what it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Boundary<'a> {
    /// Offset in the pushed slice just after the blank line.
    pub end: usize,
    /// The event, unless the block had no `data`, or was too long.
    pub event: Option<SseEvent<'a>>,
}

/// Decodes one event stream, push by push.
#[derive(Debug, Default)]
#[allow(clippy::struct_excessive_bools, reason = "each is a fact of its own about where the stream was cut")]
pub struct SseDecoder {
    /// The bytes so far of a block that a push cut; at most [`MAX_EVENT`].
    carry: Vec<u8>,
    /// `data` lines joined; empty between events.
    joined: Vec<u8>,
    /// The current line has bytes in earlier pushes.
    line_open: bool,
    /// The current block has lines in earlier pushes.
    block_open: bool,
    /// The last push ended with a CR: a LF at the front of the next one belongs to it.
    after_cr: bool,
    /// The current block is too long and is being stepped over.
    skipping: bool,
    /// The stream is beyond its first block, so that a byte order mark is text.
    started: bool,
    skipped: u64,
    comments: u64,
}

impl SseDecoder {
    /// A decoder before the first byte.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Decodes the next bytes; `sink` gets the end of every block in them, in order.
    pub fn push(&mut self, bytes: &[u8], mut sink: impl FnMut(Boundary<'_>)) {
        if bytes.is_empty() {
            return;
        }
        let (mut block, mut at) = self.after_carriage_return(bytes);
        while let Some((line_end, next)) = self.line_end(bytes, at) {
            let blank = line_end == at && !self.line_open;
            self.line_open = false;
            at = next;
            if blank {
                self.close(bytes.get(block..line_end).unwrap_or_default(), next, &mut sink);
                block = next;
            } else {
                self.block_open = true;
            }
        }
        self.line_open |= at < bytes.len();
        self.block_open |= self.line_open;
        self.keep(bytes.get(block..).unwrap_or_default());
    }

    /// The end of the body: delivers a block that has no blank line after it. Nothing more may be pushed.
    pub fn finish(&mut self, mut sink: impl FnMut(SseEvent<'_>)) {
        if self.block_open {
            self.close(&[], 0, &mut |boundary: Boundary<'_>| boundary.event.into_iter().for_each(&mut sink));
            // It was delivered, but its blank line never came: whatever is written behind it becomes a part of it.
            self.block_open = true;
        }
    }

    /// Whether the bytes so far end between two events: another one could be written here. Holds after
    /// [`finish`](Self::finish), too.
    #[must_use]
    pub fn at_event_boundary(&self) -> bool {
        !self.block_open
    }

    /// Blocks that were too long to decode.
    #[must_use]
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// Comment lines.
    #[must_use]
    pub fn comments(&self) -> u64 {
        self.comments
    }

    /// Where the block and the line go on, when the last push may have ended between a CR and its LF.
    fn after_carriage_return(&mut self, bytes: &[u8]) -> (usize, usize) {
        if std::mem::take(&mut self.after_cr) && bytes.first() == Some(&b'\n') {
            return (usize::from(!self.block_open), 1);
        }
        (0, 0)
    }

    /// Where the line that goes on at `at` ends, and where the next one starts.
    #[inline]
    fn line_end(&mut self, bytes: &[u8], at: usize) -> Option<(usize, usize)> {
        let rest = bytes.get(at..)?;
        let len = memchr2(b'\n', b'\r', rest)?;
        let end = at + len;
        if rest.get(len) == Some(&b'\n') {
            return Some((end, end + 1));
        }
        match rest.get(len + 1) {
            Some(b'\n') => Some((end, end + 2)),
            Some(_) => Some((end, end + 1)),
            None => {
                self.after_cr = true;
                Some((end, end + 1))
            }
        }
    }

    /// Ends the block whose last bytes are `tail`.
    fn close(&mut self, tail: &[u8], end: usize, sink: &mut impl FnMut(Boundary<'_>)) {
        let first = !std::mem::replace(&mut self.started, true);
        self.block_open = false;
        self.line_open = false;
        if std::mem::take(&mut self.skipping) || self.carry.len() + tail.len() > MAX_EVENT {
            self.skipped += 1;
            self.carry = Vec::new();
            sink(Boundary { end, event: None });
            return;
        }
        if !self.carry.is_empty() {
            self.carry.extend_from_slice(tail);
        }
        let block = if self.carry.is_empty() { tail } else { self.carry.as_slice() };
        let block = if first { block.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(block) } else { block };
        sink(Boundary { end, event: read_block(block, &mut self.joined, &mut self.comments) });
        for memory in [&mut self.carry, &mut self.joined] {
            memory.clear();
            if memory.capacity() > KEPT {
                *memory = Vec::new();
            }
        }
    }

    /// Carries the unfinished block over to the next push.
    fn keep(&mut self, rest: &[u8]) {
        if self.skipping || rest.is_empty() {
            return;
        }
        if self.carry.len() + rest.len() > MAX_EVENT {
            self.skipping = true;
            self.carry = Vec::new();
            return;
        }
        self.carry.extend_from_slice(rest);
    }
}

/// Reads the lines of one block; `None` when none of them is `data`.
fn read_block<'a>(block: &'a [u8], joined: &'a mut Vec<u8>, comments: &mut u64) -> Option<SseEvent<'a>> {
    let mut name: &[u8] = &[];
    let mut data: Option<&[u8]> = None;
    let mut several = false;
    let mut rest = block;
    while !rest.is_empty() {
        let (line, after) = split_line(rest);
        rest = after;
        match split_field(line) {
            (b"data", value) => match data {
                None => data = Some(value),
                Some(first) => {
                    if !std::mem::replace(&mut several, true) {
                        joined.extend_from_slice(first);
                    }
                    joined.push(b'\n');
                    joined.extend_from_slice(value);
                }
            },
            (b"event", value) => name = value,
            (b"", _) if !line.is_empty() => *comments += 1,
            _ => {}
        }
    }
    let data = data?;
    Some(SseEvent { name, data: if several { joined.as_slice() } else { data } })
}

/// The first line, without its end, and what follows.
#[inline]
fn split_line(bytes: &[u8]) -> (&[u8], &[u8]) {
    let Some(len) = memchr2(b'\n', b'\r', bytes) else {
        return (bytes, &[]);
    };
    let (line, after) = bytes.split_at(len);
    let after = after.strip_prefix(b"\r\n").unwrap_or_else(|| after.get(1..).unwrap_or_default());
    (line, after)
}

/// Name and value; one space after the colon is not part of the value.
#[inline]
fn split_field(line: &[u8]) -> (&[u8], &[u8]) {
    let (name, value) = match line.strip_prefix(b"data:") {
        Some(value) => (&b"data"[..], value),
        None => match memchr::memchr(b':', line) {
            Some(at) => (line.get(..at).unwrap_or_default(), line.get(at + 1..).unwrap_or_default()),
            None => (line, &[][..]),
        },
    };
    (name, value.strip_prefix(b" ").unwrap_or(value))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Owned = (String, String);

    fn owned(event: &SseEvent<'_>) -> Owned {
        (String::from_utf8_lossy(event.name).into_owned(), String::from_utf8_lossy(event.data).into_owned())
    }

    /// Events, comments, and whether the end is between two events, from pushes of these parts.
    fn decode<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> (Vec<Owned>, u64, bool) {
        let mut decoder = SseDecoder::new();
        let mut events = Vec::new();
        for part in parts {
            decoder.push(part, |boundary| events.extend(boundary.event.as_ref().map(owned)));
        }
        let between = decoder.at_event_boundary();
        decoder.finish(|event| events.push(owned(&event)));
        decoder.finish(|_| panic!("finished twice"));
        assert_eq!(decoder.at_event_boundary(), between, "the end of the body ends no event");
        (events, decoder.comments(), between)
    }

    /// The same by the standard's words, over the whole text at once.
    fn reference(bytes: &[u8]) -> (Vec<Owned>, u64) {
        let text = String::from_utf8_lossy(bytes).into_owned();
        let text = text.strip_prefix('\u{FEFF}').unwrap_or(&text).replace("\r\n", "\n").replace('\r', "\n");
        let (mut events, mut comments) = (Vec::new(), 0);
        let (mut name, mut data) = (String::new(), Vec::new());
        for line in text.split('\n').chain([""]) {
            if line.is_empty() {
                if !data.is_empty() {
                    events.push((name.clone(), data.join("\n")));
                }
                name.clear();
                data.clear();
                continue;
            }
            let (field, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "" => comments += 1,
                "data" => data.push(value.to_owned()),
                "event" => value.clone_into(&mut name),
                _ => {}
            }
        }
        (events, comments)
    }

    #[track_caller]
    fn check(stream: &str, expected: &[(&str, &str)]) {
        let expected: Vec<Owned> =
            expected.iter().map(|(name, data)| ((*name).to_owned(), (*data).to_owned())).collect();
        for cut in 0..=stream.len() {
            let (front, back) = stream.as_bytes().split_at(cut);
            assert_eq!(decode([front, back]).0, expected, "{stream:?} cut at {cut}");
        }
        assert_eq!(reference(stream.as_bytes()).0, expected, "the reference on {stream:?}");
    }

    #[test]
    fn line_ends_may_be_mixed() {
        check(
            "data: a\n\ndata: b\r\n\r\ndata: c\r\rdata: d\n\r\ndata: e\r\n\n",
            &[("", "a"), ("", "b"), ("", "c"), ("", "d"), ("", "e")],
        );
    }

    #[test]
    fn data_lines_are_joined_and_one_space_is_dropped() {
        check("event: x\ndata:a\ndata:  b\ndata\n\n", &[("x", "a\n b\n")]);
    }

    #[test]
    fn a_block_without_data_dispatches_nothing_and_its_name_is_forgotten() {
        check("event: ping\n\nid: 1\n\ndata: a\n\n", &[("", "a")]);
    }

    #[test]
    fn a_byte_order_mark_is_dropped_once() {
        check("\u{FEFF}data: a\n\n\u{FEFF}data: b\n\ndata: c\n\n", &[("", "a"), ("", "c")]);
    }

    #[test]
    fn the_unterminated_tail_is_delivered() {
        check("data: a\n\ndata: [DONE]", &[("", "a"), ("", "[DONE]")]);
        check("data: a\n\ndata: [DONE]\r", &[("", "a"), ("", "[DONE]")]);
    }

    #[test]
    fn the_boundary_between_events_is_known() {
        for (stream, between) in [
            ("", true),
            ("data: a\n\n", true),
            ("data: a\n", false),
            ("data: a", false),
            ("data: a\r\n\r", true),
            ("data: a\r\n\r\n", true),
            (": comment\n", false),
            (": comment\n\n", true),
            ("data: a\n\nd", false),
            ("\n", true),
        ] {
            assert_eq!(decode(stream.as_bytes().chunks(1)).2, between, "{stream:?}");
            assert_eq!(decode([stream.as_bytes()]).2, between, "{stream:?}");
        }
    }

    #[test]
    fn an_event_that_is_too_long_is_stepped_over() {
        let long = format!("data: {}\n\n", "x".repeat(MAX_EVENT));
        let fits = format!("data: {}\n\n", "y".repeat(MAX_EVENT - 7));
        let stream = format!("data: a\n\n{long}{fits}data: b\n\n{long}");
        for size in [stream.len(), 4096, 100_003] {
            let mut decoder = SseDecoder::new();
            let mut lengths = Vec::new();
            for part in stream.as_bytes().chunks(size) {
                decoder.push(part, |boundary| lengths.extend(boundary.event.map(|event| event.data.len())));
                assert!(decoder.carry.len() <= MAX_EVENT);
            }
            assert_eq!((lengths, decoder.skipped()), (vec![1, MAX_EVENT - 7, 1], 2), "pushes of {size}");
            assert!(decoder.carry.capacity() <= KEPT && decoder.joined.capacity() <= KEPT);
        }
    }

    fn streams() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            4 => prop::sample::select(vec!["\n", "\r", "\r\n", "\n\n", "\r\n\r\n", "\r\r"]),
            4 => prop::sample::select(vec!["data: x", "data:", "data", ": c", "event: e", "id: 1", "{\"a\":1}", "\u{FEFF}"]),
            1 => prop::sample::select(vec![":", " ", "d", "\u{2028}", "🚀", "\0"]),
        ];
        prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat().into_bytes())
    }

    /// Pushes of these sizes, over and over.
    fn parts<'a>(bytes: &'a [u8], sizes: &[usize]) -> Vec<&'a [u8]> {
        let mut rest = bytes;
        let mut parts = Vec::new();
        for size in sizes.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (part, after) = rest.split_at((*size).min(rest.len()));
            parts.push(part);
            rest = after;
        }
        parts
    }

    proptest! {
        #[test]
        fn events_are_those_of_the_standard_however_the_stream_is_cut(
            stream in streams(),
            sizes in prop::collection::vec(1_usize..20, 1..10),
        ) {
            let whole = decode([stream.as_slice()]);
            prop_assert_eq!(&reference(&stream), &(whole.0.clone(), whole.1));
            prop_assert_eq!(&decode(parts(&stream, &sizes)), &whole);
            for cut in 0..stream.len() {
                let (front, back) = stream.split_at(cut);
                prop_assert_eq!(&decode([front, back]), &whole, "cut at {}", cut);
            }
        }

        #[test]
        fn no_bytes_whatever_disturb_it(stream in prop::collection::vec(any::<u8>(), 0..300), size in 1_usize..50) {
            prop_assert_eq!(decode(stream.chunks(size)), decode([stream.as_slice()]));
        }
    }
}
