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
        // What is to be forwarded goes out in as few pieces as possible: `pending` is the front of the next one.
        let (mut pending, mut from) = self.after_carriage_return(&bytes);
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
            // The usual case: all of it, as it is.
            if pending == 0 {
                out(bytes);
            } else {
                slice(&bytes, pending, bytes.len(), &mut out);
            }
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

    /// The LF of a CRLF that two reads cut goes where its CR went. Returns where forwarding and the next event begin.
    fn after_carriage_return(&mut self, bytes: &Bytes) -> (usize, usize) {
        let fate = self.after_cr.take().filter(|_| bytes.first() == Some(&b'\n'));
        match fate {
            Some(Fate::Forwarded) => (0, 1),
            Some(Fate::Removed) => (1, 1),
            None => (0, 0),
        }
    }
}

fn slice(bytes: &Bytes, from: usize, to: usize, out: &mut impl FnMut(Bytes)) {
    if from < to && to <= bytes.len() {
        out(bytes.slice(from..to));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::clock::{Clock, ManualClock};
    use crate::measure::reader::StreamReader;
    use crate::wire::Api;

    const CONTENT: &str = r#"data: {"choices":[{"index":0,"delta":{"content":" a"},"finish_reason":null}]}"#;
    const FINISH: &str = r#"data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#;
    const USAGE: &str = r#"data: {"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2}}"#;

    /// What comes out of pushes of these parts, and how many events were removed.
    fn sieve<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> (String, u64) {
        let now = ManualClock::new().now();
        let mut reader = StreamReader::new(Api::Chat, now);
        let mut sieve = UsageSieve::new();
        let mut out = Vec::new();
        for part in parts {
            reader.observe(part, now);
            sieve.pass(Bytes::copy_from_slice(part), reader.marks(), |bytes| out.extend_from_slice(&bytes));
            assert!(sieve.held() <= MAX_HELD);
        }
        sieve.flush(|bytes| out.extend_from_slice(&bytes));
        (String::from_utf8(out).expect("text"), sieve.removed())
    }

    #[track_caller]
    fn check(stream: &str, expected: &str) {
        assert_eq!(sieve([stream.as_bytes()]).0, expected, "whole");
        assert_eq!(sieve(stream.as_bytes().chunks(1)).0, expected, "byte by byte");
        for cut in 0..=stream.len() {
            let (front, back) = stream.as_bytes().split_at(cut);
            assert_eq!(sieve([front, back]).0, expected, "cut at {cut}");
        }
    }

    #[test]
    fn the_usage_event_goes_and_all_else_stays() {
        for end in ["\n\n", "\r\n\r\n", "\r\r", "\n\r\n"] {
            let with = [CONTENT, FINISH, USAGE, "data: [DONE]"].map(|event| format!("{event}{end}")).concat();
            let without = [CONTENT, FINISH, "data: [DONE]"].map(|event| format!("{event}{end}")).concat();
            check(&with, &without);
        }
    }

    #[test]
    fn a_comment_block_before_the_usage_event_stays() {
        check(
            &format!("{FINISH}\n\n: keep-alive\n\n{USAGE}\n\n: more\n\n{USAGE}\n\n"),
            &format!("{FINISH}\n\n: keep-alive\n\n: more\n\n"),
        );
    }

    #[test]
    fn a_stream_that_breaks_off_is_forwarded_to_its_last_byte() {
        let broken = format!("{CONTENT}\n\n{FINISH}\n\n{}", &USAGE[..USAGE.len() - 4]);
        check(&broken, &broken);
    }

    #[test]
    fn content_is_never_held() {
        let now = ManualClock::new().now();
        let mut reader = StreamReader::new(Api::Chat, now);
        let mut sieve = UsageSieve::new();
        for byte in format!("{CONTENT}\n\n{CONTENT}\n\n{FINISH}\n").as_bytes().chunks(1) {
            reader.observe(byte, now);
            let mut out = 0;
            sieve.pass(Bytes::copy_from_slice(byte), reader.marks(), |bytes| out += bytes.len());
            assert_eq!(out, 1, "before the finish reason is whole, every byte goes out at once");
        }
    }

    #[test]
    fn a_read_goes_out_in_one_piece_and_uncopied() {
        let now = ManualClock::new().now();
        let mut reader = StreamReader::new(Api::Chat, now);
        let mut sieve = UsageSieve::new();
        for text in
            [format!("{CONTENT}\r\n\r"), format!("\n{CONTENT}\r\n\r\n"), format!("{CONTENT}\n\n{FINISH}\n\n: c")]
        {
            let bytes = Bytes::from(text);
            reader.observe(&bytes, now);
            let held = if bytes.ends_with(b": c") { 3 } else { 0 };
            let mut pieces = Vec::new();
            sieve.pass(bytes.clone(), reader.marks(), |piece| pieces.push((piece.as_ptr(), piece.len())));
            assert_eq!(pieces, [(bytes.as_ptr(), bytes.len() - held)]);
        }
    }

    #[test]
    fn an_event_too_long_to_hold_is_forwarded() {
        let long =
            format!(r#"data: {{"choices":[],"usage":{{"completion_tokens":1}},"x":"{}"}}"#, "y".repeat(2 * MAX_HELD));
        let stream = format!("{FINISH}\n\n{long}\n\ndata: [DONE]\n\n");
        assert!(sieve(stream.as_bytes().chunks(1000)).0 == stream);
        // Whole in one read, nothing has gone out yet.
        assert!(sieve([stream.as_bytes()]).0 == format!("{FINISH}\n\ndata: [DONE]\n\n"));
    }

    #[test]
    fn an_event_that_has_begun_to_go_out_goes_out_whole() {
        // Before a finish reason nothing is held: cut by two reads, the usage event cannot be removed any more.
        let (with, without) =
            (format!("{CONTENT}\n\n{USAGE}\n\ndata: [DONE]\n\n"), format!("{CONTENT}\n\ndata: [DONE]\n\n"));
        let (begin, end) = (CONTENT.len() + 2, CONTENT.len() + 2 + USAGE.len() + 2);
        for cut in 0..=with.len() {
            let (front, back) = with.as_bytes().split_at(cut);
            let expected = if begin < cut && cut < end { &with } else { &without };
            assert_eq!(&sieve([front, back]).0, expected, "cut at {cut}");
        }
        let padding = "y".repeat(MAX_HELD);
        let long = format!(r#"data: {{"choices":[],"usage":{{"completion_tokens":1}},"x":"{padding}"}}"#);
        let stream = format!("{FINISH}\n\n{long}\n\n");
        let (front, back) = stream.as_bytes().split_at(stream.len() - 5);
        assert_eq!(sieve([front, back]).0, stream, "too much to hold in a single read");
    }

    #[test]
    fn usage_on_an_ordinary_chunk_stays() {
        let stream = format!(
            "{}\n\n{FINISH}\n\ndata: [DONE]\n\n",
            CONTENT.replace("]}", r#"],"usage":{"completion_tokens":1}}"#)
        );
        check(&stream, &stream);
    }

    proptest! {
        #[test]
        fn the_output_is_the_input_without_usage_events(
            before in prop::collection::vec(prop::sample::select(vec![CONTENT, ": c", "data: x", "event: e"]), 0..4),
            after in prop::collection::vec(prop::sample::select(vec![USAGE, CONTENT, ": c", "data: [DONE]", USAGE]), 0..6),
            end in prop::sample::select(vec!["\n\n", "\r\n\r\n", "\r\r", "\r\n\n"]),
            sizes in prop::collection::vec(1_usize..90, 1..12),
        ) {
            let events: Vec<&str> = before.iter().chain([&FINISH]).chain(&after).copied().collect();
            let join = |events: &[&str]| events.iter().flat_map(|event| [*event, end]).collect::<String>();
            let stream = join(&events);
            let kept = join(&events.iter().filter(|event| **event != USAGE).copied().collect::<Vec<_>>());
            let mut rest = stream.as_bytes();
            let mut parts = Vec::new();
            for size in sizes.iter().cycle() {
                if rest.is_empty() { break; }
                let (part, more) = rest.split_at((*size).min(rest.len()));
                parts.push(part);
                rest = more;
            }
            let (out, removed) = sieve(parts);
            prop_assert_eq!(out, kept);
            prop_assert_eq!(removed, after.iter().filter(|event| **event == USAGE).count() as u64);
        }
    }
}
