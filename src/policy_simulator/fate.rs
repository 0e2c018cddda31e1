//! What became of the requests of a run.

use std::time::Duration;

use super::rule::Choice;

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It was cut off with the run.
    Unfinished,
    /// Its last token came.
    Complete,
    /// Its backend failed while it streamed.
    Failed,
    /// It was turned away.
    Shed,
}

/// What became of one request.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Fate {
    /// How it ended.
    pub end: End,
    /// Why it was turned away, or the reason of its last choice.
    pub reason: &'static str,
    /// Its last choice; `None` when it was turned away at once.
    pub choice: Option<Choice>,
    /// From its arrival to when it was last sent.
    pub sent: Duration,
    /// From its arrival to its first token.
    pub first: Option<Duration>,
    /// From its arrival to its latest token.
    pub last: Duration,
    /// Tokens delivered.
    pub output: u32,
    /// Whether it completed and kept every promise.
    pub good: bool,
    /// Times it was sent.
    pub attempts: u32,
}

impl Fate {
    /// Mean gap between its tokens; zero with fewer than two.
    #[must_use]
    pub fn mean_gap(&self) -> Duration {
        let gaps = self.output.saturating_sub(1);
        self.first.map_or(Duration::ZERO, |first| {
            if gaps == 0 { Duration::ZERO } else { self.last.saturating_sub(first) / gaps }
        })
    }
}

/// What a run shows: one fate for every arrival, and what was paid.
#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    /// In the order of the arrivals.
    pub fates: Vec<Fate>,
    /// What all that was served cost, in dollars.
    pub cost: f64,
    /// Engine steps and arrivals done.
    pub events: u64,
}
