//! Takes the usage event out of a stream, when headway asked for it and the client did not.
//!
//! Everything else passes byte for byte and at once. Only after a finish reason, when the usage event is due, is an
//! incomplete event held back until it is whole; when it grows beyond [`MAX_HELD`], or its beginning has already gone
//! out, everything is forwarded: a usage event too many disturbs nobody, a missing byte does.

use bytes::Bytes;

use super::reader::EventMark;

/// Bytes of an incomplete event that are held.
pub const MAX_HELD: usize = 64 << 10;

/// Removes usage-only events from a stream.
#[derive(Debug, Default)]
pub struct UsageSieve {
    /// The beginning of an event that is not whole yet; at most [`MAX_HELD`].
    held: Vec<u8>,
    /// Bytes of the current event have been forwarded, so that it cannot be removed whole.
    begun: bool,
    finish_seen: bool,
    /// The last event ended with a CR at the end of a push: a LF at the front of the next one is its last byte.
    after_cr: Option<Fate>,
    removed: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Forwarded,
    Removed,
}

impl UsageSieve {
    /// A sieve at the front of a stream.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Passes on what one read returned; `marks` are those of
    /// [`StreamReader::marks`](super::reader::StreamReader::marks) for the same bytes.
    pub fn pass(&mut self, bytes: Bytes, marks: &[EventMark], mut out: impl FnMut(Bytes)) {
        if bytes.is_empty() {
            return;
        }
        let mut from = self.after_carriage_return(&bytes, &mut out);
        // What is to be forwarded goes out in as few pieces as possible: `pending` is the front of the next one.
        let mut pending = from;
        for mark in marks {
            let removable = mark.usage_only && !self.begun;
            if removable {
                slice(&bytes, pending, from, &mut out);
                self.held.clear();
                pending = mark.end;
                self.removed += 1;
            } else {
                self.release(&mut out);
            }
            self.begun = false;
            self.finish_seen |= mark.finish_seen;
            from = mark.end;
            let fate = if removable { Fate::Removed } else { Fate::Forwarded };
            let at_end = from == bytes.len() && bytes.last() == Some(&b'\r');
            self.after_cr = at_end.then_some(fate);
        }
        let rest = bytes.len().saturating_sub(from);
        if rest == 0 || !self.may_hold(rest) {
            self.release(&mut out);
            self.begun |= rest > 0;
            slice(&bytes, pending, bytes.len(), &mut out);
            return;
        }
        slice(&bytes, pending, from, &mut out);
        self.held.extend_from_slice(bytes.get(from..).unwrap_or_default());
    }

    /// The end of the stream: whatever is held goes out.
    pub fn flush(&mut self, mut out: impl FnMut(Bytes)) {
        self.release(&mut out);
    }

    /// Bytes held back.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// Events removed.
    #[must_use]
    pub fn removed(&self) -> u64 {
        self.removed
    }

    fn may_hold(&self, rest: usize) -> bool {
        self.finish_seen && !self.begun && self.held.len() + rest <= MAX_HELD
    }

    fn release(&mut self, out: &mut impl FnMut(Bytes)) {
        if !self.held.is_empty() {
            self.begun = true;
            out(Bytes::from(std::mem::take(&mut self.held)));
        }
    }

    /// The LF of a CRLF that two reads cut goes where its CR went. Returns how many bytes that settles.
    fn after_carriage_return(&mut self, bytes: &Bytes, out: &mut impl FnMut(Bytes)) -> usize {
        match self.after_cr.take() {
            Some(fate) if bytes.first() == Some(&b'\n') => {
                if fate == Fate::Forwarded {
                    slice(bytes, 0, 1, out);
                }
                1
            }
            _ => 0,
        }
    }
}

fn slice(bytes: &Bytes, from: usize, to: usize, out: &mut impl FnMut(Bytes)) {
    if from < to && to <= bytes.len() {
        out(bytes.slice(from..to));
    }
}
