//! What a policy answers, with its reasons.

use std::time::Duration;

use super::snapshot::BackendIndex;

/// Why a backend was chosen; a closed set, so that it can be a metric's label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The cheapest of those expected to keep the objectives.
    CheapestWithinSlo,
    /// None is expected to keep them: the one that misses least.
    BestEffort,
    /// Too little is known of it: this request finds out.
    Explore,
    /// Excluded by what was seen there a while ago: this request finds out whether that still holds.
    Probe,
    /// No bound keeps the objectives, but the central prediction does.
    MedianWithinSlo,
    /// None keeps them: the cheapest of those that are not hopeless, so that the others stay fast.
    Sacrifice,
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
    pub const ALL: [Self; 12] = [
        Self::CheapestWithinSlo,
        Self::BestEffort,
        Self::Explore,
        Self::Probe,
        Self::MedianWithinSlo,
        Self::Sacrifice,
        Self::LowestLatency,
        Self::LeastInFlight,
        Self::PowerOfTwo,
        Self::RoundRobin,
        Self::Weighted,
        Self::OnlyCandidate,
    ];

    /// The name in logs and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::CheapestWithinSlo => "cheapest_within_slo",
            Self::BestEffort => "best_effort",
            Self::Explore => "explore",
            Self::Probe => "probe",
            Self::MedianWithinSlo => "median_within_slo",
            Self::Sacrifice => "sacrifice",
            Self::LowestLatency => "lowest_latency",
            Self::LeastInFlight => "least_in_flight",
            Self::PowerOfTwo => "power_of_two",
            Self::RoundRobin => "round_robin",
            Self::Weighted => "weighted",
            Self::OnlyCandidate => "only_candidate",
        }
    }
}

/// What the policy thought of one candidate.
#[derive(Debug, Clone, Copy)]
pub struct Assessment {
    /// Which backend.
    pub backend: BackendIndex,
    /// Expected TTFT and the bound that was compared with the objective.
    pub ttft: Option<(Duration, Duration)>,
    /// Expected ITL and its bound.
    pub itl: Option<(Duration, Duration)>,
    /// Expected end-to-end time and its bound.
    pub e2e: Option<(Duration, Duration)>,
    /// Largest ratio of bound to objective; at most 1 keeps them all. `None` when too little is known.
    pub load: Option<f64>,
    /// What the request would cost there, or a rank where prices by the token are not known.
    pub price: Option<f64>,
    /// Requests in flight there when the decision was made.
    pub in_flight: u32,
}

/// What becomes of a request that is not sent now, because no backend can keep its promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TurnedAway {
    /// It is refused; the predicted drain says when to try again, 1 to 60 s.
    Shed {
        /// When to try again.
        retry_after: Duration,
    },
    /// It may wait its turn; if there is no place to wait, it is refused.
    Wait {
        /// When to try again.
        retry_after: Duration,
    },
}

/// A choice, and what it was chosen from. Reused between requests: choosing allocates nothing once warm.
#[derive(Debug, Clone, Default)]
pub struct Decision {
    /// The backend, and why; `None` without candidates, and when the request is turned away.
    pub chosen: Option<(BackendIndex, Reason)>,
    /// Set when there are candidates and none is chosen.
    pub turned_away: Option<TurnedAway>,
    /// Every candidate, in the snapshot's order.
    pub candidates: Vec<Assessment>,
}
