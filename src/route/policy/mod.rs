//! The routing rules, one file each.

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
