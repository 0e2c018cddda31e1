//! What must hold of the readers of event streams, whatever the bytes and wherever reads cut them.

use std::time::Instant;

use bytes::Bytes;

use super::reader::StreamReader;
use super::sieve::{MAX_HELD, UsageSieve};
use super::sse::SseDecoder;
use crate::random::Random;
use crate::wire::Api;
use crate::wire::chunk::read_chunk;

type Event = (Vec<u8>, Vec<u8>);

/// The decoder says what the standard says, whole and cut anywhere.
pub(crate) fn sse(bytes: &[u8]) {
    let expected = by_the_standard(bytes);
    for parts in [vec![bytes], bytes.chunks(1).collect(), cut(bytes)] {
        let (mut decoder, mut events) = (SseDecoder::new(), Vec::new());
        for part in parts {
            let mut last = 0;
            decoder.push(part, |boundary| {
                assert!(boundary.end > last && boundary.end <= part.len(), "ends go forward");
                last = boundary.end;
                events.extend(boundary.event.map(|event| (event.name.to_vec(), event.data.to_vec())));
            });
        }
        decoder.finish(|event| events.push((event.name.to_vec(), event.data.to_vec())));
        assert_eq!(events, expected);
    }
}

/// <https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation>, word by word and slowly;
/// unlike there, a block without its blank line is delivered.
fn by_the_standard(bytes: &[u8]) -> Vec<Event> {
    let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes);
    let mut text = Vec::new();
    let mut rest = bytes.iter().peekable();
    while let Some(&byte) = rest.next() {
        if byte == b'\r' && rest.peek() == Some(&&b'\n') {
            continue;
        }
        text.push(if byte == b'\r' { b'\n' } else { byte });
    }
    let (mut events, mut name, mut data) = (Vec::new(), Vec::new(), Vec::<Vec<u8>>::new());
    for line in text.split(|&byte| byte == b'\n').chain([&b""[..]]) {
        let colon = line.iter().position(|&byte| byte == b':');
        let (field, value) = line.split_at(colon.unwrap_or(line.len()));
        let value = value.strip_prefix(b":").unwrap_or(value);
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match field {
            b"data" => data.push(value.to_vec()),
            b"event" => name = value.to_vec(),
            _ if line.is_empty() => {
                let event = (std::mem::take(&mut name), data.join(&b'\n'));
                events.extend((!data.is_empty()).then_some(event));
                data.clear();
            }
            _ => {}
        }
    }
    events
}

/// The same places for the same bytes.
fn cut(bytes: &[u8]) -> Vec<&[u8]> {
    let mut random = Random::seeded(bytes.iter().fold(0, |seed: u64, &byte| seed.rotate_left(5) ^ u64::from(byte)));
    let (mut rest, mut parts) = (bytes, Vec::new());
    while !rest.is_empty() {
        let (part, after) = rest.split_at((1 + random.below(40)).min(rest.len()));
        parts.push(part);
        rest = after;
    }
    parts
}

/// A reader finds the same in any pieces; the sieve forwards everything but whole usage events.
pub(crate) fn stream(bytes: &[u8], now: Instant) {
    for api in [Api::Chat, Api::Completions, Api::Responses, Api::Messages, Api::GenerateStream] {
        for clean in [true, false] {
            let whole = found(api, &[bytes], clean, now);
            assert_eq!(found(api, &cut(bytes), clean, now), whole, "{api:?}");
        }
    }
    for parts in [vec![bytes], cut(bytes)] {
        sieved(bytes, &parts, now);
    }
}

/// All that a reader says.
fn found(api: Api, parts: &[&[u8]], clean: bool, now: Instant) -> String {
    let mut reader = StreamReader::new(api, now);
    for part in parts {
        reader.observe(part, now);
        assert!(reader.marks().iter().all(|mark| mark.end <= part.len()));
    }
    reader.finish(clean, now);
    assert!(reader.ended().is_some());
    format!(
        "{:?}",
        (
            (reader.events(), reader.comments(), reader.content_responses(), reader.malformed_events()),
            (reader.usage(), reader.finish_reason(), reader.finish_seen(), reader.done_seen(), reader.error().copied()),
            (reader.ended(), reader.at_event_boundary(), reader.choices_seen(), reader.stored(), reader.timings()),
            (reader.first_event_tokens(), reader.latencies(), reader.gaps().map(super::gaps::GapHistogram::count)),
        )
    )
}

fn sieved(bytes: &[u8], parts: &[&[u8]], now: Instant) {
    let (mut reader, mut sieve, mut out) = (StreamReader::new(Api::Chat, now), UsageSieve::new(), Vec::new());
    for part in parts {
        reader.observe(part, now);
        sieve.pass(Bytes::copy_from_slice(part), reader.marks(), |piece| out.extend_from_slice(&piece));
        assert!(sieve.held() <= MAX_HELD);
    }
    sieve.flush(|piece| out.extend_from_slice(&piece));
    let (mut decoder, mut from, mut left) = (SseDecoder::new(), 0, out.as_slice());
    decoder.push(bytes, |boundary| {
        let block = bytes.get(from..boundary.end).unwrap_or_default();
        from = boundary.end;
        if let Some(after) = left.strip_prefix(block) {
            left = after;
        } else {
            let event = boundary.event.map(|event| read_chunk(Api::Chat, event.name, event.data));
            assert!(matches!(event, Some(Ok(read)) if read.usage_only), "only usage events go");
        }
    });
    assert_eq!(left, bytes.get(from..).unwrap_or_default(), "the rest stays");
}
