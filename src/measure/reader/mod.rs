//! Reads a streamed answer as it passes by: what the proxy and the load generator share.
//!
//! Observing never fails and returns nothing, so a stream that cannot be understood is still forwarded; what was
//! understood is asked for afterwards. Finalised once, by [`StreamReader::finish`].

use std::time::Instant;

use crate::measure::bursts::Delivery;
use crate::measure::exchange::Latencies;
use crate::measure::gaps::GapHistogram;
use crate::measure::outcome::Outcome;
use crate::measure::sse::{SseDecoder, SseEvent};
use crate::measure::timeline::{ChoiceClock, Stamp, Timeline};
use crate::wire::chunk::{ChunkKind, ChunkReading, read_chunk};
use crate::wire::error::StreamError;
use crate::wire::{Api, FinishReason, StoredId, Usage};

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
    /// The body ended within an event.
    cut: bool,
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
    stored: Option<StoredId>,
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
                stored: None,
            },
            marks: Vec::new(),
            ended: None,
            cut: false,
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
        self.cut = !self.decoder.at_event_boundary();
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
        !self.cut && self.decoder.at_event_boundary()
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

    /// How the tokens came, of a try that began then; `None` when they were too few to tell.
    #[must_use]
    pub fn delivery(&self, began: Instant) -> Option<Delivery> {
        self.progress.timeline.delivery(began)
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

    /// The name under which the answer may be stored (responses).
    #[must_use]
    pub fn stored(&self) -> Option<StoredId> {
        self.progress.stored
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
        let Ok(reading) = read_chunk(self.api, event.name, event.data) else {
            self.malformed += 1;
            return false;
        };
        self.chunk(&reading, stamp);
        reading.usage_only
    }

    fn chunk(&mut self, reading: &ChunkReading, stamp: Stamp) {
        let before = self.timeline.content;
        if !self.repeated(reading) {
            self.timeline.event(reading.choices(), stamp);
        }
        if let Some(usage) = reading.usage {
            // The messages dialect states its counts in parts; elsewhere the last one is the whole.
            if self.api == Api::Messages {
                self.usage.update(usage);
            } else {
                self.usage = usage;
            }
            if before == 0 && self.timeline.content == 1 {
                self.first_event_tokens = usage.output_tokens;
            }
        }
        self.any_finish |= reading.choices().iter().any(|choice| choice.finish.is_some());
        self.error = self.error.or(reading.error);
        self.stored = self.stored.or(reading.stored);
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
mod tests;
