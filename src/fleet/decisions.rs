//! The latest decisions, with their candidates and reasons and with what happened then, for whoever asks why a request
//! went where it went.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::measure::exchange::{Attempt, BackendLoad, ExchangeRecord};
use crate::measure::group::FellOver;
use crate::measure::objective::Latency;
use crate::measure::outcome::Outcome;
use crate::route::decision::{Assessment, Decision, Reason, TurnedAway};
use crate::route::snapshot::BackendIndex;

/// How many decisions are remembered.
pub const REMEMBERED: usize = 1_000;

/// One decision.
#[derive(Debug, Clone)]
pub struct DecisionRecord {
    /// Counts all decisions of the process.
    pub number: u64,
    /// When it was made.
    pub at: Instant,
    /// On which route.
    pub route: Arc<str>,
    /// The group that the request was assigned to, and why another one was chosen; `None` where it has none.
    pub group: Option<(Arc<str>, Option<FellOver>)>,
    /// For which request; `None` where nobody named one.
    pub request_id: Option<Arc<str>>,
    /// Estimated prompt tokens of the request.
    pub input_tokens: u64,
    /// What was decided.
    pub verdict: Decided,
    /// What it was chosen from, in the order of the configuration.
    pub candidates: Vec<(Arc<str>, Assessment)>,
    /// How busy the chosen backend was.
    pub load: BackendLoad,
    /// What the route's shadow would have decided.
    pub shadow: Option<Decided>,
    /// What happened then; `None` while it has not ended.
    pub happened: Option<Happened>,
}

/// What was decided; indices are those of the generation that decided.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Decided {
    /// Which backend, and why.
    pub chosen: Option<(BackendIndex, Reason)>,
    /// Set when the request was turned away instead.
    pub turned_away: Option<TurnedAway>,
}

impl Decided {
    /// What a decision came to.
    #[must_use]
    pub fn of(decision: &Decision) -> Self {
        Self { chosen: decision.chosen, turned_away: decision.turned_away }
    }
}

/// What came of a decision, each latency from the beginning of the try, as it was predicted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Happened {
    /// How the try ended.
    pub outcome: Outcome,
    /// To the first token.
    pub ttft: Option<Duration>,
    /// Between tokens.
    pub itl: Option<Duration>,
    /// The whole try.
    pub e2e: Option<Duration>,
    /// Whether the exchange kept its objectives; `None` where nothing was promised, and for a try that was not the last.
    pub kept: Option<bool>,
}

impl Happened {
    fn of(attempt: &Attempt) -> Self {
        let (outcome, ttft, e2e) = (attempt.outcome, attempt.first_token, Some(attempt.duration));
        Self { outcome, ttft, itl: None, e2e, kept: None }
    }

    fn of_last(attempt: &Attempt, record: &ExchangeRecord) -> Self {
        let itl = record.taken(Latency::InterToken);
        Self { itl, kept: record.verdicts.joint(), ..Self::of(attempt) }
    }
}

/// What is remembered besides the decision itself.
#[derive(Debug, Clone, Copy)]
pub(super) struct Circumstances<'a> {
    pub(super) route: &'a Arc<str>,
    pub(super) group: Option<(&'a Arc<str>, Option<FellOver>)>,
    pub(super) request_id: Option<&'a Arc<str>>,
    pub(super) input_tokens: u64,
    pub(super) load: BackendLoad,
    pub(super) shadow: Option<Decided>,
    pub(super) now: Instant,
}

/// A ring that allocates nothing once it has been round, but for records that somebody still looks at.
#[derive(Debug, Default)]
pub(super) struct DecisionLog {
    ring: Vec<Arc<DecisionRecord>>,
    made: u64,
}

impl DecisionLog {
    /// Remembers a decision; answers its number.
    pub(super) fn add(
        &mut self,
        of: &Circumstances<'_>,
        decision: &Decision,
        name: impl Fn(BackendIndex) -> Option<Arc<str>>,
    ) -> u64 {
        let place = place(self.made);
        self.made += 1;
        let named = decision.candidates.iter().filter_map(|one| Some((name(one.backend)?, *one)));
        let mut record = DecisionRecord {
            number: self.made,
            at: of.now,
            route: Arc::clone(of.route),
            group: of.group.map(|(name, fell_over)| (Arc::clone(name), fell_over)),
            request_id: of.request_id.cloned(),
            input_tokens: of.input_tokens,
            verdict: Decided::of(decision),
            candidates: Vec::new(),
            load: of.load,
            shadow: of.shadow,
            happened: None,
        };
        let old = self.ring.get_mut(place);
        if let Some(old) = old.and_then(Arc::get_mut) {
            record.candidates = std::mem::take(&mut old.candidates);
            record.candidates.clear();
            record.candidates.extend(named);
            *old = record;
            return self.made;
        }
        record.candidates.extend(named);
        match self.ring.get_mut(place) {
            Some(looked_at) => *looked_at = Arc::new(record),
            None => self.ring.push(Arc::new(record)),
        }
        self.made
    }

    /// Notes what became of the decisions that an exchange was due to, as far as they are still remembered.
    pub(super) fn ended(&mut self, exchange: &ExchangeRecord) {
        let Some((last, before)) = exchange.attempts.split_last() else { return };
        for attempt in before {
            self.happened(attempt, Happened::of(attempt));
        }
        self.happened(last, Happened::of_last(last, exchange));
    }

    fn happened(&mut self, attempt: &Attempt, happened: Happened) {
        let Some(number) = attempt.decision else { return };
        let place = place(number.wrapping_sub(1));
        if let Some(record) = self.ring.get_mut(place).filter(|record| record.number == number) {
            // Who looks at it keeps what it was.
            Arc::make_mut(record).happened = Some(happened);
        }
    }

    /// All that are remembered, the newest first: pointers only, for this is done while no other decision can be made.
    pub(super) fn newest_first(&self) -> Vec<Arc<DecisionRecord>> {
        // The place that is written next holds the oldest.
        let (latest, before) = self.ring.split_at(place(self.made).min(self.ring.len()));
        latest.iter().rev().chain(before.iter().rev()).cloned().collect()
    }
}

fn place(number: u64) -> usize {
    usize::try_from(number % REMEMBERED as u64).unwrap_or_default()
}
