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
        }
    }

    /// Whether the bytes so far end between two events: another one could be written here.
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
