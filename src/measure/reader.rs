//! Reads a streamed answer as it passes by: what the proxy and the load generator share.
//!
//! Observing never fails and returns nothing, so a stream that cannot be understood is still forwarded; what was
//! understood is asked for afterwards. Finalised once, by [`StreamReader::finish`].

use std::time::Instant;

use super::exchange::Latencies;
use super::gaps::GapHistogram;
use super::outcome::Outcome;
use super::sse::{SseDecoder, SseEvent};
use super::timeline::{ChoiceClock, Stamp, Timeline};
use crate::wire::chunk::{ChunkKind, ChunkReading, read_chunk};
use crate::wire::error::StreamError;
use crate::wire::{Api, FinishReason, Usage};

/// Marks of one read; beyond it, events are no longer told apart, and so not removed.
const MAX_MARKS: usize = 64;

/// Where events end in the bytes last observed.
///
/// A mark covers everything since the mark before it (or since the front): either ordinary events and comments, any
/// number of them, or exactly one usage-only event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventMark {
    /// Offset in the bytes just after the blank line.
    pub end: usize,
    /// `choices` is empty and there is a `usage` object.
    pub usage_only: bool,
    /// A finish reason was seen, in this event or before it.
    pub finish_seen: bool,
}

/// Reads one streamed answer.
#[derive(Debug)]
pub struct StreamReader {
    decoder: SseDecoder,
    progress: Progress,
    marks: Vec<EventMark>,
    ended: Option<Outcome>,
}

/// What the events said so far.
#[derive(Debug)]
struct Progress {
    api: Api,
    timeline: Timeline,
    events: u64,
    usage: Usage,
    /// Cumulative output tokens stated on the first content event.
    first_event_tokens: Option<u64>,
    error: Option<StreamError>,
    /// `[DONE]`.
    done_marker: bool,
    /// The end in the API's own words.
    end_seen: bool,
    any_finish: bool,
    malformed: u64,
    /// Kinds whose deltas were seen, so that a text repeated whole is not content.
    deltas: [bool; 3],
}

impl StreamReader {
    /// A reader of an answer to a request that was complete at `start`.
    #[must_use]
    pub fn new(api: Api, start: Instant) -> Self {
        Self {
            decoder: SseDecoder::new(),
            progress: Progress {
                api,
                timeline: Timeline::new(start),
                events: 0,
                usage: Usage::default(),
                first_event_tokens: None,
                error: None,
                done_marker: false,
                end_seen: false,
                any_finish: false,
                malformed: 0,
                deltas: [false; 3],
            },
            marks: Vec::new(),
            ended: None,
        }
    }

    /// Bytes of the body that one read returned at `now`.
    pub fn observe(&mut self, bytes: &[u8], now: Instant) {
        self.marks.clear();
        if bytes.is_empty() || self.ended.is_some() {
            return;
        }
        let Self { decoder, progress, marks, .. } = self;
        progress.timeline.first_byte.get_or_insert(now);
        decoder.push(bytes, |boundary| {
            let usage_only = boundary.event.is_some_and(|event| progress.event(&event, now));
            mark(marks, EventMark { end: boundary.end, usage_only, finish_seen: progress.any_finish });
        });
    }

    /// The end of the body (`clean`) or its failure. A second call does nothing.
    pub fn finish(&mut self, clean: bool, now: Instant) {
        self.marks.clear();
        if self.ended.is_some() {
            return;
        }
        let Self { decoder, progress, .. } = self;
        decoder.finish(|event| {
            progress.event(&event, now);
        });
        self.ended = Some(progress.outcome(clean));
    }

    /// Where events ended in the bytes last observed.
    #[must_use]
    pub fn marks(&self) -> &[EventMark] {
        &self.marks
    }

    /// When the first body byte came.
    #[must_use]
    pub fn first_byte_at(&self) -> Option<Instant> {
        self.progress.timeline.first_byte
    }

    /// When the first content response came.
    #[must_use]
    pub fn first_token_at(&self) -> Option<Instant> {
        self.progress.timeline.first_token.map(|stamp| stamp.at)
    }

    /// When the latest content response came.
    #[must_use]
    pub fn last_token_at(&self) -> Option<Instant> {
        self.progress.timeline.last_token.map(|stamp| stamp.at)
    }

    /// Content responses so far: events, not tokens.
    #[must_use]
    pub fn content_responses(&self) -> u64 {
        self.progress.timeline.content
    }

    /// The first error in the stream.
    #[must_use]
    pub fn error(&self) -> Option<&StreamError> {
        self.progress.error.as_ref()
    }

    /// Why the model stopped: of choice 0, or of the only one there was.
    #[must_use]
    pub fn finish_reason(&self) -> Option<FinishReason> {
        let choices = self.choices();
        choices.iter().find(|clock| clock.index == 0).or(choices.first()).and_then(|clock| clock.finish)
    }

    /// Whether every choice has a finish reason.
    #[must_use]
    pub fn finish_seen(&self) -> bool {
        self.progress.all_finished()
    }

    /// Whether the API's own end was seen: `[DONE]`, `response.completed` or `.incomplete`, `message_stop`.
    #[must_use]
    pub fn done_seen(&self) -> bool {
        self.progress.done_marker || self.progress.end_seen
    }

    /// Whether the literal `[DONE]` was seen.
    #[must_use]
    pub fn done_marker_seen(&self) -> bool {
        self.progress.done_marker
    }

    /// How the stream ended, once it did: `Complete`, `Truncated`, `Empty` or `UpstreamError`.
    #[must_use]
    pub fn ended(&self) -> Option<Outcome> {
        self.ended
    }

    /// Whether the bytes so far end between two events.
    #[must_use]
    pub fn at_event_boundary(&self) -> bool {
        self.decoder.at_event_boundary()
    }

    /// The client does not keep up: gaps from now on are neither measured nor counted.
    pub fn suspend_gaps(&mut self) {
        self.progress.timeline.suspend_gaps();
    }

    /// The latencies so far; ITL is (end to end − TTFT) ÷ (output tokens − 1), absent with several choices.
    #[must_use]
    pub fn latencies(&self) -> Latencies {
        self.progress.timeline.latencies(self.progress.usage.output_tokens, None)
    }

    /// The same with ITL by per-chunk usage, where the first content response states its tokens.
    #[must_use]
    pub fn latencies_per_chunk_usage(&self) -> Latencies {
        let Progress { timeline, usage, first_event_tokens, .. } = &self.progress;
        timeline.latencies(usage.output_tokens, *first_event_tokens)
    }

    /// Token counts as stated last.
    #[must_use]
    pub fn usage(&self) -> Usage {
        self.progress.usage
    }

    /// Every gap between content responses of the same choice; `None` before the first.
    #[must_use]
    pub fn gaps(&self) -> Option<&GapHistogram> {
        self.progress.timeline.gaps()
    }

    /// The gaps, taken out.
    #[must_use]
    pub fn into_gaps(self) -> Option<Box<GapHistogram>> {
        self.progress.timeline.into_gaps()
    }

    /// Choices seen, at least 1.
    #[must_use]
    pub fn choices_seen(&self) -> u32 {
        u32::try_from(self.choices().len()).unwrap_or(u32::MAX).max(1)
    }

    /// The clock of each choice, in order of appearance.
    #[must_use]
    pub fn choices(&self) -> &[ChoiceClock] {
        self.progress.timeline.choices()
    }

    /// Events that were too long to be read: token counts may be missing.
    #[must_use]
    pub fn skipped_events(&self) -> u64 {
        self.decoder.skipped()
    }

    /// Events whose data is not JSON.
    #[must_use]
    pub fn malformed_events(&self) -> u64 {
        self.progress.malformed
    }

    /// Dispatched events so far.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.progress.events
    }

    /// Comment lines so far.
    #[must_use]
    pub fn comments(&self) -> u64 {
        self.decoder.comments()
    }

    /// The instants, with the events they were seen in.
    #[must_use]
    pub fn timeline(&self) -> &Timeline {
        &self.progress.timeline
    }

    /// Cumulative output tokens stated on the first content response.
    #[must_use]
    pub fn first_event_tokens(&self) -> Option<u64> {
        self.progress.first_event_tokens
    }
}

impl Progress {
    /// Takes one event in; whether it is the usage-only one.
    fn event(&mut self, event: &SseEvent<'_>, now: Instant) -> bool {
        let stamp = Stamp { at: now, event: self.events };
        self.events += 1;
        self.timeline.first_event.get_or_insert(now);
        match read_chunk(self.api, event.name, event.data) {
            Ok(reading) => {
                self.chunk(&reading, stamp);
                reading.usage_only
            }
            Err(_) => {
                self.malformed += 1;
                false
            }
        }
    }

    fn chunk(&mut self, reading: &ChunkReading, stamp: Stamp) {
        let before = self.timeline.content;
        if !self.repeated(reading) {
            self.timeline.event(reading.choices(), stamp);
        }
        if let Some(usage) = reading.usage {
            // The messages dialect states its counts in parts; elsewhere the last one is the whole.
            if self.api == Api::Messages {
                self.usage.update(usage)
            } else {
                self.usage = usage
            }
            if before == 0 && self.timeline.content == 1 {
                self.first_event_tokens = usage.output_tokens;
            }
        }
        self.any_finish |= reading.choices().iter().any(|choice| choice.finish.is_some());
        self.error = self.error.or(reading.error);
        if reading.done {
            self.done_marker |= reading.choices().is_empty();
            self.end_seen |= !self.api.has_choices();
        }
    }

    /// Whether the event repeats text whose deltas were content before.
    fn repeated(&mut self, reading: &ChunkReading) -> bool {
        let place = match reading.kind {
            ChunkKind::Content => 0,
            ChunkKind::ToolCall => 1,
            ChunkKind::Reasoning => 2,
            _ => return false,
        };
        let Some(seen) = self.deltas.get_mut(place) else { return false };
        *seen |= !reading.repeats;
        reading.repeats && *seen
    }

    fn all_finished(&self) -> bool {
        let choices = self.timeline.choices();
        !choices.is_empty() && choices.iter().all(|clock| clock.finish.is_some())
    }

    /// How a stream that ended now has ended.
    fn outcome(&self, clean: bool) -> Outcome {
        if self.error.is_some() {
            return Outcome::UpstreamError;
        }
        let end = match self.api {
            Api::Chat | Api::Completions => self.all_finished() && (clean || self.done_marker),
            Api::GenerateStream => clean && self.timeline.content > 0,
            _ => self.end_seen,
        };
        let nothing = self.timeline.content == 0 && !self.any_finish && self.malformed == 0;
        match (end && self.malformed == 0, clean && nothing) {
            (true, _) => Outcome::Complete,
            (false, true) => Outcome::Empty,
            (false, false) => Outcome::Truncated,
        }
    }
}

/// Adds a mark; ordinary ones next to each other are one.
fn mark(marks: &mut Vec<EventMark>, new: EventMark) {
    let full = marks.len() >= MAX_MARKS;
    match marks.last_mut() {
        Some(last) if full || !(last.usage_only || new.usage_only) => {
            *last = EventMark { usage_only: false, ..new };
        }
        _ => marks.push(new),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::clock::{Clock, ManualClock};

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn content(index: u8) -> String {
        format!(
            "data: {{\"choices\":[{{\"index\":{index},\"delta\":{{\"content\":\" a\"}},\"finish_reason\":null}}]}}\n\n"
        )
    }

    fn finish(index: u8) -> String {
        format!("data: {{\"choices\":[{{\"index\":{index},\"delta\":{{}},\"finish_reason\":\"stop\"}}]}}\n\n")
    }

    fn usage(tokens: u64) -> String {
        format!("data: {{\"choices\":[],\"usage\":{{\"prompt_tokens\":3,\"completion_tokens\":{tokens}}}}}\n\n")
    }

    /// A reader of these texts, each at its milliseconds after the start, not yet finished.
    fn at<S: AsRef<str>>(api: Api, texts: &[(u64, S)]) -> (StreamReader, Instant) {
        let start = ManualClock::new().now();
        let mut reader = StreamReader::new(api, start);
        for (millis, text) in texts {
            reader.observe(text.as_ref().as_bytes(), start + ms(*millis));
        }
        (reader, start)
    }

    #[track_caller]
    fn ends(api: Api, text: &str, clean: bool, expected: Outcome) {
        let (mut reader, start) = at(api, &[(1, text)]);
        assert_eq!(reader.ended(), None);
        reader.finish(clean, start);
        assert_eq!(reader.ended(), Some(expected), "{text}");
        reader.finish(!clean, start);
        reader.observe(b"data: {\"error\":{}}\n\n", start);
        assert_eq!(reader.ended(), Some(expected), "finalised once");
    }

    #[test]
    fn latencies_start_at_content_and_end_at_content() {
        let role = "data: {\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n";
        let texts = [
            (50, ": keep-alive\n\n".to_owned()),
            (100, role.to_owned()),
            (200, content(0)),
            (220, content(0)),
            (280, content(0)),
            (290, finish(0)),
            (330, usage(5)),
            (400, "data: [DONE]\n\n".to_owned()),
        ];
        let (mut reader, start) = at(Api::Chat, &texts);
        reader.finish(true, start + ms(500));
        let latencies = reader.latencies();
        assert_eq!(latencies.first_byte, Some(ms(50)));
        assert_eq!((latencies.first_token, latencies.first_output), (Some(ms(200)), Some(ms(200))));
        assert_eq!((latencies.second_token, latencies.end_to_end), (Some(ms(20)), Some(ms(280))));
        assert_eq!((latencies.inter_token, latencies.longest_stall), (Some(ms(20)), Some(ms(60))));
        assert_eq!(reader.timeline().first_event, Some(start + ms(100)));
        assert_eq!(reader.gaps().map(GapHistogram::count), Some(2));
        assert_eq!(reader.usage().input_tokens, Some(3));
        assert!(reader.finish_seen() && reader.done_seen());
    }

    #[test]
    fn several_tokens_per_chunk_are_divided_by_the_tokens_after_the_first_chunk() {
        let chunk =
            |tokens: u64| content(0).replace("]}", &format!("],\"usage\":{{\"completion_tokens\":{tokens}}}}}"));
        let (reader, _) = at(Api::Chat, &[(80, chunk(4)), (160, chunk(8)), (240, chunk(12))]);
        assert_eq!(reader.first_event_tokens(), Some(4));
        assert_eq!(reader.latencies().inter_token, Some(ms(160) / 11));
        assert_eq!(reader.latencies_per_chunk_usage().inter_token, Some(ms(20)));
    }

    #[test]
    fn one_token_has_no_inter_token_latency() {
        let (reader, _) = at(Api::Chat, &[(80, content(0)), (90, finish(0)), (91, usage(1))]);
        assert_eq!(reader.latencies().inter_token, None);
        assert_eq!(reader.latencies().end_to_end, Some(ms(80)));
        assert!(reader.gaps().is_none());
    }

    #[test]
    fn choices_have_clocks_of_their_own() {
        let (reader, _) = at(
            Api::Chat,
            &[(10, content(0)), (15, content(1)), (30, content(0)), (45, content(1)), (50, finish(0)), (51, usage(4))],
        );
        let latencies = reader.latencies();
        assert_eq!((latencies.inter_token, latencies.second_token), (None, None));
        assert_eq!(latencies.longest_stall, Some(ms(30)));
        assert_eq!(reader.gaps().map(GapHistogram::sum), Some(ms(50)));
        assert_eq!(reader.choices_seen(), 2);
        assert!(!reader.finish_seen());
        assert_eq!(reader.finish_reason(), Some(FinishReason::Stop));
    }

    #[test]
    fn gaps_under_back_pressure_are_not_counted() {
        let (mut reader, start) = at(Api::Chat, &[(10, content(0)), (20, content(0))]);
        reader.suspend_gaps();
        reader.observe(content(0).as_bytes(), start + ms(900));
        assert_eq!(reader.gaps().map(GapHistogram::count), Some(1));
        assert_eq!(reader.latencies().longest_stall, Some(ms(10)));
        assert_eq!(reader.latencies().end_to_end, Some(ms(900)));
        assert_eq!(reader.into_gaps().map(|gaps| gaps.sum()), Some(ms(10)));
    }

    #[test]
    fn how_a_stream_ends_follows_from_what_was_seen() {
        let whole = format!("{}{}", content(0), finish(0));
        let done = "data: [DONE]\n\n";
        ends(Api::Chat, &whole, true, Outcome::Complete);
        ends(Api::Chat, &whole, false, Outcome::Truncated);
        ends(Api::Chat, &format!("{whole}{done}"), false, Outcome::Complete);
        ends(Api::Chat, &finish(0), true, Outcome::Complete);
        ends(Api::Chat, &format!("{}{done}", content(0)), true, Outcome::Truncated);
        ends(Api::Chat, &format!("{}{}", content(1), whole), true, Outcome::Truncated);
        ends(Api::Chat, done, true, Outcome::Empty);
        ends(Api::Chat, "", true, Outcome::Empty);
        ends(Api::Chat, "", false, Outcome::Truncated);
        ends(Api::Chat, &format!("{whole}data: {{\n\n{done}"), true, Outcome::Truncated);
        ends(
            Api::Chat,
            &format!("{whole}data: {{\"error\":{{\"code\":500}}}}\n\n{done}"),
            true,
            Outcome::UpstreamError,
        );
        ends(Api::Messages, "data: {\"type\":\"message_stop\"}\n\n", false, Outcome::Complete);
        ends(Api::Messages, "data: {\"type\":\"ping\"}\n\n", true, Outcome::Empty);
        ends(Api::GenerateStream, "data: {\"text_output\":\"a\"}\n\n", true, Outcome::Complete);
        ends(Api::GenerateStream, "data: {\"text_output\":\"a\"}\n\n", false, Outcome::Truncated);
    }

    #[test]
    fn whole_texts_count_where_there_were_no_deltas() {
        let event = |kind: &str, key: &str| format!("data: {{\"type\":\"response.{kind}\",\"{key}\":\"a\"}}\n\n");
        let (delta, done) = (event("output_text.delta", "delta"), event("output_text.done", "text"));
        let reasoning = event("reasoning_text.delta", "delta");
        assert_eq!(at(Api::Responses, &[(1, delta), (2, done.clone())]).0.content_responses(), 1);
        assert_eq!(at(Api::Responses, &[(1, reasoning), (2, done)]).0.content_responses(), 2);
    }

    #[test]
    fn marks_set_usage_events_apart_from_the_rest() {
        let stream = format!(": c\n\n{}{}{}data: [DONE]\n\n{}", content(0), finish(0), usage(2), "data: x");
        let (reader, _) = at(Api::Chat, &[(1, stream.as_str())]);
        let ends = [&usage(2), "data: [DONE]"].map(|text| stream.find(text).unwrap());
        assert_eq!(
            reader.marks(),
            [
                EventMark { end: ends[0], usage_only: false, finish_seen: true },
                EventMark { end: ends[1], usage_only: true, finish_seen: true },
                EventMark { end: stream.len() - 7, usage_only: false, finish_seen: true },
            ]
        );
        assert!(!reader.at_event_boundary());
        let (reader, _) = at(Api::Chat, &[(1, usage(1).repeat(1000))]);
        assert!(reader.marks().len() <= MAX_MARKS);
        assert_eq!(
            reader.marks().last(),
            Some(&EventMark { end: usage(1).len() * 1000, usage_only: false, finish_seen: false })
        );
    }

    #[test]
    fn a_reader_is_small() {
        let gaps = size_of::<GapHistogram>();
        assert!(size_of::<StreamReader>() + gaps < 5 << 10, "{} + {gaps}", size_of::<StreamReader>());
    }

    proptest! {
        #[test]
        fn observing_never_fails(bytes in prop::collection::vec(any::<u8>(), 0..400), size in 1_usize..60, api in prop::sample::select(&Api::ALL[..])) {
            let now = ManualClock::new().now();
            let mut reader = StreamReader::new(api, now);
            for part in bytes.chunks(size) {
                reader.observe(part, now);
                prop_assert!(reader.marks().iter().all(|mark| mark.end <= part.len()));
            }
            reader.finish(true, now);
            prop_assert!(reader.ended().is_some());
        }
    }
}
