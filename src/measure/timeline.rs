//! The instants of one streamed answer, and the latencies they make.
//!
//! Each choice has a clock of its own; gaps are between content responses of the same choice, so that interleaved
//! choices do not look twice as fast. The rules are sections 1 to 3 of the measurement reference.

use std::time::{Duration, Instant};

use super::bursts::{Bursts, Delivery};
use super::exchange::Latencies;
use super::gaps::GapHistogram;
use crate::wire::FinishReason;
use crate::wire::chunk::{ChoiceReading, MAX_CHOICES};

/// When something was seen, and in which event (counted from 0).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// The read that completed the event.
    pub at: Instant,
    /// The event's place in the stream.
    pub event: u64,
}

/// The clock of one choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChoiceClock {
    /// The choice's index.
    pub index: u8,
    /// Its first content response.
    pub first: Option<Stamp>,
    /// Its latest content response.
    pub last: Option<Stamp>,
    /// Its content responses.
    pub content: u64,
    /// Why it ended, once it did.
    pub finish: Option<FinishReason>,
}

/// The instants of one answer.
#[derive(Debug)]
pub struct Timeline {
    start: Instant,
    /// First body byte.
    pub first_byte: Option<Instant>,
    /// First event of any kind; comments are none.
    pub first_event: Option<Instant>,
    /// First content response.
    pub first_token: Option<Stamp>,
    /// Second content response.
    pub second_token: Option<Stamp>,
    /// First content response that is not reasoning alone.
    pub first_output: Option<Stamp>,
    /// Latest content response.
    pub last_token: Option<Stamp>,
    /// Events that are content responses.
    pub content: u64,
    /// At most [`MAX_CHOICES`], in order of appearance.
    choices: Vec<ChoiceClock>,
    /// Allocated at the first gap.
    gaps: Option<Box<GapHistogram>>,
    longest: Option<Duration>,
    bursts: Bursts,
    suspended: bool,
}

impl Timeline {
    /// A timeline that starts at `start`.
    #[must_use]
    pub fn new(start: Instant) -> Self {
        Self {
            start,
            first_byte: None,
            first_event: None,
            first_token: None,
            second_token: None,
            first_output: None,
            last_token: None,
            content: 0,
            choices: Vec::new(),
            gaps: None,
            longest: None,
            bursts: Bursts::default(),
            suspended: false,
        }
    }

    /// Gaps from now on are neither measured nor counted.
    pub fn suspend_gaps(&mut self) {
        self.suspended = true;
    }

    /// One event, with what it says about each choice.
    pub fn event(&mut self, choices: &[ChoiceReading], stamp: Stamp) {
        let (mut content, mut output) = (false, false);
        for choice in choices {
            content |= choice.is_content();
            output |= choice.is_output();
            self.choice(*choice, stamp);
        }
        if !content {
            return;
        }
        self.content += 1;
        if self.first_token.is_none() {
            self.first_token = Some(stamp);
        } else if self.second_token.is_none() {
            self.second_token = Some(stamp);
        }
        if output && self.first_output.is_none() {
            self.first_output = Some(stamp);
        }
        self.last_token = Some(stamp);
    }

    /// The clock of each choice seen.
    #[must_use]
    pub fn choices(&self) -> &[ChoiceClock] {
        &self.choices
    }

    /// The gaps so far.
    #[must_use]
    pub fn gaps(&self) -> Option<&GapHistogram> {
        self.gaps.as_deref()
    }

    /// The gaps, taken out.
    #[must_use]
    pub fn into_gaps(self) -> Option<Box<GapHistogram>> {
        self.gaps
    }

    /// How the tokens came, of a try that began then; `None` when they were too few to tell.
    #[must_use]
    pub fn delivery(&self, began: Instant) -> Option<Delivery> {
        self.bursts.delivery(self.first_token?.at.saturating_duration_since(began))
    }

    /// The latencies; ITL from the output tokens stated.
    ///
    /// `first_event_tokens` are the tokens that the first content response carried, where stated: with them ITL is
    /// per-chunk-usage ITL, which falls back to the plain one when they make no sense.
    #[must_use]
    pub fn latencies(&self, output_tokens: Option<u64>, first_event_tokens: Option<u64>) -> Latencies {
        let since_start = |at: Instant| at.saturating_duration_since(self.start);
        let between = |from: Option<Stamp>, to: Option<Stamp>| Some(to?.at.saturating_duration_since(from?.at));
        let single = self.choices.len() <= 1;
        let decode = between(self.first_token, self.last_token).filter(|_| single);
        Latencies {
            first_byte: self.first_byte.map(since_start),
            first_token: self.first_token.map(|stamp| since_start(stamp.at)),
            first_output: self.first_output.map(|stamp| since_start(stamp.at)),
            second_token: between(self.first_token, self.second_token).filter(|_| single),
            inter_token: decode
                .zip(output_tokens)
                .and_then(|(decode, tokens)| per_token(decode, tokens, first_event_tokens)),
            end_to_end: self.last_token.map(|stamp| since_start(stamp.at)),
            longest_stall: self.longest,
        }
    }

    fn choice(&mut self, reading: ChoiceReading, stamp: Stamp) {
        let Some(clock) = self.clock(reading.index) else { return };
        clock.finish = clock.finish.or(reading.finish);
        if !reading.is_content() {
            return;
        }
        clock.content += 1;
        clock.first.get_or_insert(stamp);
        let Some(before) = clock.last.replace(stamp) else { return };
        if !self.suspended {
            let gap = stamp.at.saturating_duration_since(before.at);
            self.gaps.get_or_insert_default().record(gap);
            self.longest = self.longest.max(Some(gap));
            self.bursts.gap(gap);
        }
    }

    fn clock(&mut self, index: u8) -> Option<&mut ChoiceClock> {
        let place = match self.choices.iter().position(|clock| clock.index == index) {
            Some(place) => place,
            None if self.choices.len() < MAX_CHOICES => {
                self.choices.push(ChoiceClock { index, first: None, last: None, content: 0, finish: None });
                self.choices.len() - 1
            }
            None => return None,
        };
        self.choices.get_mut(place)
    }
}

/// The time of one token after the first; `None` when there is no second token.
fn per_token(decode: Duration, tokens: u64, in_first_event: Option<u64>) -> Option<Duration> {
    let divisor = match in_first_event {
        Some(first) if first > 0 && first < tokens => tokens - first,
        _ => tokens.checked_sub(1).filter(|rest| *rest > 0)?,
    };
    let nanos = decode.as_nanos() / u128::from(divisor);
    u64::try_from(nanos).ok().map(Duration::from_nanos)
}
