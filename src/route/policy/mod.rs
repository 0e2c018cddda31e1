//! The routing rules, one file each.

mod assess;
mod cheapest_within_slo;
mod least;
mod least_in_flight;
mod lowest_latency;
mod power_of_two;
mod probe;
mod round_robin;
mod weighted;

#[cfg(test)]
mod tests;

use super::decision::Decision;
use super::slow_start;
use super::snapshot::{BackendIndex, Candidate, FleetSnapshot, RequestFacts};
use crate::random::Random;

pub use cheapest_within_slo::CheapestWithinSlo;
pub use least_in_flight::LeastInFlight;
pub use lowest_latency::LowestLatency;
pub use power_of_two::PowerOfTwo;
pub use round_robin::RoundRobin;
pub use weighted::Weighted;

/// Which rule a route uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum PolicyKind {
    /// The cheapest backend expected to keep the route's objectives.
    #[default]
    CheapestWithinSlo,
    /// The backend with the lowest expected latency.
    LowestLatency,
    /// The backend with the fewest requests in flight.
    LeastInFlight,
    /// Two at random, the less loaded wins.
    PowerOfTwo,
    /// One after the other.
    RoundRobin,
    /// In proportion to weights.
    Weighted,
}

impl PolicyKind {
    /// Every policy.
    pub const ALL: [Self; 6] = [
        Self::CheapestWithinSlo,
        Self::LowestLatency,
        Self::LeastInFlight,
        Self::PowerOfTwo,
        Self::RoundRobin,
        Self::Weighted,
    ];

    /// The name in the configuration.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::CheapestWithinSlo => "cheapest_within_slo",
            Self::LowestLatency => "lowest_latency",
            Self::LeastInFlight => "least_in_flight",
            Self::PowerOfTwo => "power_of_two",
            Self::RoundRobin => "round_robin",
            Self::Weighted => "weighted",
        }
    }

    /// Decides which of the candidates that began to serve not long ago the next request does not look at; answers
    /// whether there are any. Rules that weigh candidates count them for less instead, and look at all.
    pub fn hold_back(self, candidates: &mut [Candidate], state: &mut PolicyState) -> bool {
        match self {
            Self::CheapestWithinSlo | Self::LowestLatency | Self::RoundRobin => {
                slow_start::hold_back(candidates, &mut state.random)
            }
            Self::LeastInFlight | Self::PowerOfTwo | Self::Weighted => false,
        }
    }

    /// The rule of that name.
    #[must_use]
    pub fn rule(self) -> &'static dyn Policy {
        match self {
            Self::CheapestWithinSlo => &CheapestWithinSlo,
            Self::LowestLatency => &LowestLatency,
            Self::LeastInFlight => &LeastInFlight,
            Self::PowerOfTwo => &PowerOfTwo,
            Self::RoundRobin => &RoundRobin,
            Self::Weighted => &Weighted,
        }
    }
}

/// One routing rule. It reads nothing but its arguments, and allocates nothing once `decision` and `state` are warm.
pub trait Policy: Send + Sync {
    /// Chooses among the snapshot's candidates and writes the choice, with what it thought of each, to `decision`.
    fn choose(
        &self,
        request: &RequestFacts,
        fleet: &FleetSnapshot<'_>,
        state: &mut PolicyState,
        decision: &mut Decision,
    );
}

/// What a rule remembers from one request of a route to the next.
#[derive(Debug, Clone)]
pub struct PolicyState {
    /// Draws; the same seed makes the same choices.
    random: Random,
    /// Whose turn it was last.
    last: Option<BackendIndex>,
    /// Credit of smooth weighted round robin, by the backend's index: as long as the list of backends.
    credit: Vec<i64>,
}

impl PolicyState {
    /// Nothing remembered yet.
    #[must_use]
    pub fn seeded(seed: u64) -> Self {
        Self { random: Random::seeded(seed), last: None, credit: Vec::new() }
    }
}
