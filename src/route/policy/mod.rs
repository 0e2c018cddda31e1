//! The routing rules, one file each.

use super::decision::Decision;
use super::snapshot::{FleetSnapshot, RequestFacts};
use crate::random::Random;

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
}

impl PolicyKind {
    /// The rule of that name.
    #[must_use]
    pub fn rule(self) -> &'static dyn Policy {
        &FirstCandidate
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
    pub random: Random,
}

impl PolicyState {
    /// Nothing remembered yet.
    #[must_use]
    pub fn seeded(seed: u64) -> Self {
        Self { random: Random::seeded(seed) }
    }
}

struct FirstCandidate;

impl Policy for FirstCandidate {
    fn choose(&self, _: &RequestFacts, fleet: &FleetSnapshot<'_>, _: &mut PolicyState, decision: &mut Decision) {
        decision.candidates.clear();
        decision.chosen =
            fleet.candidates.first().map(|one| (one.backend, crate::route::decision::Reason::OnlyCandidate));
    }
}
