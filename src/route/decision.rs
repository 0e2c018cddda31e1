//! What a policy answers, with its reasons.

use std::time::Duration;

use super::snapshot::{BackendIndex, Forecast};

/// Why a backend was chosen; a closed set, so that it can be a metric's label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The cheapest of those whose bounds keep the objectives.
    CheapestWithinSlo,
    /// No bound keeps them, but the central prediction does.
    MedianWithinSlo,
    /// None is expected to keep them: the one that misses least.
    BestEffort,
    /// None is expected to keep them: the cheapest of those that are not hopeless, so that the others stay fast.
    Sacrifice,
    /// Passed over for long, or not known yet: this request finds out.
    Probe,
    /// Lowest expected latency.
    LowestLatency,
    /// Fewest requests in flight.
    LeastInFlight,
    /// The better of two drawn at random.
    PowerOfTwo,
    /// Its turn.
    RoundRobin,
    /// Its weight.
    Weighted,
    /// There was only this one.
    OnlyCandidate,
}

impl Reason {
    /// Every reason.
    pub const ALL: [Self; 11] = [
        Self::CheapestWithinSlo,
        Self::MedianWithinSlo,
        Self::BestEffort,
        Self::Sacrifice,
        Self::Probe,
        Self::LowestLatency,
        Self::LeastInFlight,
        Self::PowerOfTwo,
        Self::RoundRobin,
        Self::Weighted,
        Self::OnlyCandidate,
    ];

    /// Whether a request is sent for it although a bound misses the promise.
    #[must_use]
    pub fn is_unpromised(self) -> bool {
        matches!(self, Self::MedianWithinSlo | Self::BestEffort | Self::Sacrifice | Self::Probe)
    }

    /// The name in logs and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::CheapestWithinSlo => "cheapest_within_slo",
            Self::MedianWithinSlo => "median_within_slo",
            Self::BestEffort => "best_effort",
            Self::Sacrifice => "sacrifice",
            Self::Probe => "probe",
            Self::LowestLatency => "lowest_latency",
            Self::LeastInFlight => "least_in_flight",
            Self::PowerOfTwo => "power_of_two",
            Self::RoundRobin => "round_robin",
            Self::Weighted => "weighted",
            Self::OnlyCandidate => "only_candidate",
        }
    }
}

/// What is expected of one candidate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Its bounds keep the objectives.
    Keeps,
    /// Its central prediction keeps them, its bounds do not.
    MayKeep,
    /// Even its central prediction misses them.
    Misses,
    /// It has no place left.
    Full,
    /// It began to serve not long ago, and this is one of the requests that do not look at it.
    SlowStart,
}

impl Verdict {
    /// Whether the request may be sent there.
    #[must_use]
    pub fn is_open(self) -> bool {
        !matches!(self, Self::Full | Self::SlowStart)
    }

    /// The name in logs and the API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Keeps => "keeps",
            Self::MayKeep => "may_keep",
            Self::Misses => "misses",
            Self::Full => "full",
            Self::SlowStart => "slow_start",
        }
    }
}

/// What the policy thought of one candidate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Assessment {
    /// Which backend.
    pub backend: BackendIndex,
    /// To the first token; `None` when the answer is not streamed.
    pub ttft: Option<Forecast>,
    /// Between tokens; likewise.
    pub itl: Option<Forecast>,
    /// The whole answer.
    pub e2e: Forecast,
    /// Largest ratio of a bound to its objective, margin included: at most 1 keeps them all, 0 when nothing is promised.
    pub pressure: f64,
    /// The same of the central predictions, without margin.
    pub central_pressure: f64,
    /// The same of the bounds without recent bad news.
    pub hopeful_pressure: f64,
    /// What the request would cost there; `None` without a price.
    pub price: Option<f64>,
    /// Prompt tokens that its prefix cache holds.
    pub prefix_tokens: f64,
    /// Requests in flight there when the decision was made.
    pub in_flight: u32,
    /// What is expected.
    pub verdict: Verdict,
}

impl Assessment {
    /// How far the tightest bound stays within its objective: the share of it that is left, below 0 when it is missed.
    #[must_use]
    pub fn headroom(&self) -> f64 {
        1.0 - self.pressure
    }
}

/// Why a request is turned away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    /// No backend can keep its promise.
    Doomed,
    /// Room is scarce, and it needs so much that several smaller ones can be served in its place, or would keep its
    /// promise only just; see [`Scarcity`](super::scarcity::Scarcity).
    MakesRoom,
}

impl Cause {
    /// The name in metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Doomed => "doomed",
            Self::MakesRoom => "makes_room",
        }
    }
}

/// What becomes of a request that is not sent now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TurnedAway {
    /// It is refused; the predicted drain says when to try again, 1 to 60 s.
    Shed {
        /// Why.
        cause: Cause,
        /// When to try again.
        retry_after: Duration,
    },
    /// It may wait its turn; if there is no place to wait, it is refused.
    Wait {
        /// Why.
        cause: Cause,
        /// When to try again.
        retry_after: Duration,
    },
}

/// A choice, and what it was chosen from. Reused between requests: choosing allocates nothing once warm.
#[derive(Debug, Clone, Default)]
pub struct Decision {
    /// The backend, and why; `None` when no candidate has room, and when the request is turned away.
    pub chosen: Option<(BackendIndex, Reason)>,
    /// Set when there is a candidate with room and none is chosen.
    pub turned_away: Option<TurnedAway>,
    /// What the request needs, in seconds of the whole fastest backend and weighed by priority; `None` while no backend
    /// is known well enough, and for rules that do not ask.
    pub need: Option<f64>,
    /// Every candidate, in the snapshot's order.
    pub candidates: Vec<Assessment>,
}

impl Decision {
    /// What was thought of the chosen one.
    #[must_use]
    pub fn of_chosen(&self) -> Option<&Assessment> {
        let (chosen, _) = self.chosen?;
        self.candidates.iter().find(|one| one.backend == chosen)
    }

    /// Whether nobody could keep the request's promise, whatever became of it.
    #[must_use]
    pub fn is_doomed(&self) -> bool {
        match (self.chosen, self.turned_away) {
            (Some((_, reason)), _) => matches!(reason, Reason::Sacrifice | Reason::BestEffort),
            (None, Some(TurnedAway::Shed { cause, .. } | TurnedAway::Wait { cause, .. })) => cause == Cause::Doomed,
            (None, None) => true,
        }
    }

    /// Whether the request is sent nowhere, or where it is expected to miss.
    #[must_use]
    pub fn is_doomed_or_turned_away(&self) -> bool {
        self.turned_away.is_some() || self.is_doomed()
    }

    /// Whether the chosen one is expected to keep the objectives: such a request moves its route's margin by how it
    /// ends. A probe does not.
    #[must_use]
    pub fn is_feasible(&self) -> bool {
        let probe = self.chosen.is_some_and(|(_, reason)| reason == Reason::Probe);
        !probe && self.of_chosen().is_some_and(|one| one.verdict == Verdict::Keeps)
    }
}
