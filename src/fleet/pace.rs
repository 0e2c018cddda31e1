//! How fast one stream's tokens come, gathered so that a backend's model hears of them once in a while.
//!
//! Per read it is an addition; only a full sample takes the model's lock.

use std::time::{Duration, Instant};

/// Gaps in a full sample.
const SAMPLE: u32 = 16;

/// Tokens that came since the model was last told, and since when.
#[derive(Debug, Default)]
pub(super) struct Pace {
    tokens: u32,
    gaps: u32,
    /// When the token before these came; `None` while there was none, or when the client's reading sets the pace.
    since: Option<Instant>,
    /// The first token ends no gap.
    first: bool,
    by_client: bool,
}

/// Gaps between the tokens of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sample {
    pub(super) tokens: u32,
    /// `None` where the client's reading set the pace.
    pub(super) mean_gap: Option<Duration>,
}

impl Pace {
    /// The first token came.
    pub(super) fn begin(&mut self, at: Instant) {
        (self.since, self.first) = (Some(at), true);
    }

    /// From now on the client's reading, and not the backend, sets the pace.
    pub(super) fn set_by_client(&mut self) {
        self.by_client = true;
    }

    pub(super) fn is_set_by_client(&self) -> bool {
        self.by_client
    }

    /// So many tokens came with one read. Answers the sample that is full now.
    pub(super) fn add(&mut self, tokens: u32, now: Instant) -> Option<Sample> {
        let ends_none = u32::from(std::mem::take(&mut self.first) && tokens > 0);
        self.tokens = self.tokens.saturating_add(tokens);
        self.gaps = self.gaps.saturating_add(tokens - ends_none);
        if self.gaps < SAMPLE {
            return None;
        }
        let (tokens, gaps) = (std::mem::take(&mut self.tokens), std::mem::take(&mut self.gaps));
        let since = self.since.replace(now).filter(|_| !self.by_client);
        Some(Sample { tokens, mean_gap: since.map(|since| now.saturating_duration_since(since) / gaps) })
    }

    /// Tokens that no sample has told of.
    pub(super) fn rest(&self) -> u32 {
        self.tokens
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock, ManualClock};

    const GAP: Duration = Duration::from_millis(20);

    #[test]
    fn sixteen_gaps_are_a_sample_however_they_are_read() {
        for reads in [vec![1; 17], vec![17], vec![3, 7, 7]] {
            let start = ManualClock::new().now();
            let (mut pace, mut came, mut samples) = (Pace::default(), 0, Vec::new());
            pace.begin(start);
            for read in &reads {
                came += read;
                samples.extend(pace.add(*read, start + GAP * (came - 1)));
            }
            assert_eq!(samples, [Sample { tokens: 17, mean_gap: Some(GAP) }], "{reads:?}");
            assert_eq!(pace.rest(), 0);
        }
    }

    #[test]
    fn a_pace_that_the_client_sets_is_none() {
        let start = ManualClock::new().now();
        let mut pace = Pace::default();
        pace.begin(start);
        assert_eq!(pace.add(9, start), None);
        pace.set_by_client();
        assert_eq!(pace.add(9, start + GAP), Some(Sample { tokens: 18, mean_gap: None }));
    }
}
