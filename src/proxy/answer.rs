//! A backend's answer under way: what is read of it is observed, held until it may be shown, and handed on.

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use super::attempt::Failure;
use super::headers::BodyKind;
use super::upstream::Upstream;
use crate::measure::bursts::Delivery;
use crate::measure::course::TryCourse;
use crate::measure::exchange::{ExchangeRecord, Latencies};
use crate::measure::outcome::Outcome;
use crate::measure::reader::StreamReader;
use crate::measure::sieve::UsageSieve;
use crate::wire::answer::read_answer;
use crate::wire::error::StreamError;
use crate::wire::{Api, FinishReason, StoredId, Usage};

/// Most of a whole answer that is kept to be read: token counts stand at its end.
const CAPTURED: usize = 1 << 20;

/// How an answer's body is understood.
pub(super) enum Reading {
    /// Event by event.
    Stream { api: Api, reader: Box<StreamReader>, sieve: Option<UsageSieve> },
    /// At its end.
    Whole(WholeReading),
    /// Not at all: a coding that was not asked for.
    Opaque { first_byte: Option<Instant>, last_byte: Option<Instant> },
}

/// An answer that is read at its end.
pub(super) struct WholeReading {
    api: Api,
    /// Whether the client asked for a stream.
    stream: bool,
    captured: BytesMut,
    overflown: bool,
    first_byte: Option<Instant>,
    last_byte: Option<Instant>,
}

impl WholeReading {
    pub(super) fn new(api: Api, stream: bool) -> Self {
        Self { api, stream, captured: BytesMut::new(), overflown: false, first_byte: None, last_byte: None }
    }

    fn observe(&mut self, bytes: &[u8], now: Instant) {
        self.first_byte.get_or_insert(now);
        self.last_byte = Some(now);
        if self.captured.len() + bytes.len() > CAPTURED {
            self.overflown = true;
            self.captured = BytesMut::new();
        } else if !self.overflown {
            self.captured.extend_from_slice(bytes);
        }
    }

    /// How an answer that has arrived whole has ended.
    fn outcome(&self) -> Outcome {
        if self.first_byte.is_none() {
            return Outcome::Empty;
        }
        if self.overflown {
            return Outcome::Complete;
        }
        match self.read() {
            // A page of HTML, say, with which something between headway and the model answers.
            None => Outcome::UpstreamError,
            Some(answer) if answer.error.is_some() => Outcome::UpstreamError,
            Some(answer) => {
                let nothing = !answer.content && answer.finish_reason.is_none();
                if nothing && self.stream && self.api.generates() { Outcome::Empty } else { Outcome::Complete }
            }
        }
    }

    /// What the captured body says, if all of it was captured and makes sense.
    fn read(&self) -> Option<crate::wire::answer::Answer> {
        if self.overflown {
            return None;
        }
        read_answer(self.api, &self.captured).ok()
    }
}

impl Reading {
    /// Takes in what was read; says which bytes go on to the client.
    pub(super) fn take(&mut self, bytes: Bytes, now: Instant, mut on: impl FnMut(Bytes)) {
        match self {
            Self::Stream { reader, sieve, .. } => {
                reader.observe(&bytes, now);
                match sieve {
                    Some(sieve) => sieve.pass(bytes, reader.marks(), &mut on),
                    None => on(bytes),
                }
            }
            Self::Whole(whole) => {
                whole.observe(&bytes, now);
                on(bytes);
            }
            Self::Opaque { first_byte, last_byte } => {
                first_byte.get_or_insert(now);
                *last_byte = Some(now);
                on(bytes);
            }
        }
    }

    /// The body ended, cleanly or not; says which held bytes go on to the client.
    pub(super) fn finish(&mut self, clean: bool, now: Instant, mut on: impl FnMut(Bytes)) {
        if let Self::Stream { reader, sieve, .. } = self {
            reader.finish(clean, now);
            if let Some(sieve) = sieve {
                sieve.flush(&mut on);
            }
        }
    }

    /// Whether the client may be shown the answer: a token was generated, or the answer is over without one.
    pub(super) fn has_token(&self) -> bool {
        match self {
            Self::Stream { reader, .. } => reader.first_token_at().is_some() || reader.finish_seen(),
            Self::Whole(_) => false,
            // Its tokens cannot be seen; waiting for them would be waiting for the end.
            Self::Opaque { first_byte, .. } => first_byte.is_some(),
        }
    }

    /// The backend's own error so far.
    pub(super) fn error(&self) -> Option<StreamError> {
        match self {
            Self::Stream { reader, .. } => reader.error().copied(),
            Self::Whole(whole) => whole.read().and_then(|answer| answer.error),
            Self::Opaque { .. } => None,
        }
    }

    /// The name under which the backend may have stored it.
    pub(super) fn stored(&self) -> Option<StoredId> {
        match self {
            Self::Stream { reader, .. } => reader.stored(),
            Self::Whole(whole) if whole.api == Api::Responses => whole.read()?.stored,
            Self::Whole(_) | Self::Opaque { .. } => None,
        }
    }

    /// Whether the API's own end was seen: whatever happens to the connection now is no failure.
    pub(super) fn done_seen(&self) -> bool {
        match self {
            Self::Stream { reader, .. } => {
                let answered = reader.content_responses() > 0 || reader.finish_reason().is_some();
                reader.done_seen() && reader.error().is_none() && (answered || !reader.done_marker_seen())
            }
            Self::Whole(_) | Self::Opaque { .. } => false,
        }
    }

    /// Whether what the client has been sent so far ends with a whole event.
    pub(super) fn at_event_boundary(&self) -> bool {
        match self {
            Self::Stream { reader, sieve, .. } => {
                reader.at_event_boundary() || sieve.as_ref().is_some_and(|sieve| sieve.held() > 0)
            }
            Self::Whole(_) | Self::Opaque { .. } => false,
        }
    }

    /// How the answer ended, once its body has.
    pub(super) fn outcome(&self, clean: bool) -> Outcome {
        match self {
            Self::Stream { reader, .. } => reader.ended().unwrap_or(Outcome::Truncated),
            Self::Whole(whole) if clean => whole.outcome(),
            Self::Opaque { .. } if clean => Outcome::Complete,
            Self::Whole(_) | Self::Opaque { .. } => Outcome::Truncated,
        }
    }

    /// Whether a body that ended cleanly is whole for the client, whatever is thought of it here, an event that could
    /// not be read included: measuring must not break what it cannot judge.
    pub(super) fn whole_to_client(&self) -> bool {
        let Self::Stream { api, reader, .. } = self else { return true };
        let ended = match api {
            Api::GenerateStream => reader.content_responses() > 0,
            _ => reader.done_seen() || reader.finish_seen(),
        };
        reader.malformed_events() > 0 && reader.error().is_none() && reader.at_event_boundary() && ended
    }

    /// Content responses so far.
    pub(super) fn tokens(&self) -> u64 {
        match self {
            Self::Stream { reader, .. } => reader.content_responses(),
            Self::Whole(_) | Self::Opaque { .. } => 0,
        }
    }

    /// Events that could not be read: too large, or no JSON.
    pub(super) fn unread(&self) -> u64 {
        match self {
            Self::Stream { reader, .. } => reader.skipped_events() + reader.malformed_events(),
            Self::Whole(_) | Self::Opaque { .. } => 0,
        }
    }

    /// When the first token came.
    pub(super) fn first_token_at(&self) -> Option<Instant> {
        match self {
            Self::Stream { reader, .. } => reader.first_token_at(),
            Self::Whole(_) | Self::Opaque { .. } => None,
        }
    }

    /// How the tokens came, of a try that began then, where that can be told.
    pub(super) fn delivery(&self, began: Instant) -> Option<Delivery> {
        match self {
            Self::Stream { reader, .. } => reader.delivery(began),
            Self::Whole(_) | Self::Opaque { .. } => None,
        }
    }

    /// From now on the client's pace disturbs the gaps.
    pub(super) fn suspend_gaps(&mut self) {
        if let Self::Stream { reader, .. } = self {
            reader.suspend_gaps();
        }
    }

    /// Notes when the answer's parts came; `started` is when the request was complete.
    pub(super) fn note_course(&self, course: &mut TryCourse, started: Instant) {
        let since = |at: Option<Instant>| at.map(|at| at.saturating_duration_since(started));
        match self {
            Self::Stream { reader, .. } => {
                course.first_event = since(reader.timeline().first_event);
                course.first_token = since(reader.first_token_at());
                course.last_token = since(reader.last_token_at());
            }
            Self::Whole(WholeReading { first_byte, last_byte, .. }) | Self::Opaque { first_byte, last_byte } => {
                course.first_event = since(*first_byte);
                course.last_token = since(*last_byte);
            }
        }
    }

    /// Writes what was measured into the record; `started` is when the request was complete.
    pub(super) fn report(&self, record: &mut ExchangeRecord, started: Instant) {
        let since = |at: Option<Instant>| at.map(|at| at.saturating_duration_since(started));
        let whole = |first, last| Latencies { first_byte: since(first), end_to_end: since(last), ..Default::default() };
        match self {
            Self::Stream { reader, .. } => {
                record.latencies = reader.latencies();
                // Several choices may come unasked; what was timed across them is no one's experience.
                record.choices = record.choices.max(reader.choices_seen());
                record.usage = reader.usage();
                record.finish_reason = reader.finish_reason();
                record.gaps = reader.gaps().cloned().map(Box::new);
                record.engine = reader.timings();
                record.course.stall_ended = since(reader.timeline().longest_gap_ended());
            }
            Self::Whole(reading) => {
                record.latencies = whole(reading.first_byte, reading.last_byte);
                if let Some(answer) = reading.read() {
                    (record.usage, record.finish_reason) = (answer.usage, answer.finish_reason);
                    record.engine = answer.timings;
                }
            }
            Self::Opaque { first_byte, last_byte } => {
                record.latencies = whole(*first_byte, *last_byte);
                (record.usage, record.finish_reason) = (Usage::default(), None::<FinishReason>);
            }
        }
    }
}

impl Answer {
    /// An answer, unless it is a refusal.
    pub(super) fn unless_rejected(self: Box<Self>) -> Result<Box<Self>, Failure> {
        if self.rejected { Err(Failure::rejected(self.status)) } else { Ok(self) }
    }

    /// Whether it can follow comments that were sent before it.
    pub(super) fn follows_comments(&self) -> bool {
        matches!(self.reading, Reading::Stream { .. })
    }
}

/// An answer that the client may be shown.
pub(super) struct Answer {
    /// Where the rest of it comes from.
    pub(super) upstream: Upstream,
    /// The status it is shown with.
    pub(super) status: u16,
    /// Whether it is an event stream.
    pub(super) kind: BodyKind,
    /// What was understood of it.
    pub(super) reading: Reading,
    /// What was read and not yet sent.
    pub(super) held: Vec<Bytes>,
    /// Whether the body has ended already, and cleanly.
    pub(super) ended: Option<bool>,
    /// The backend's own refusal, passed on as it is.
    pub(super) rejected: bool,
    /// When the try began.
    pub(super) began: Instant,
    /// Getting the connection took this long.
    pub(super) connect: Duration,
    /// From the request being sent to the response's head.
    pub(super) backend_wait: Duration,
}
