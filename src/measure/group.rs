//! Which group of backends an exchange belongs to, on a route that splits its requests among several.

use std::sync::Arc;

/// A group of a split route: 0 is the baseline, the others follow in the order of the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct GroupIndex(pub u8);

impl GroupIndex {
    /// The backends that no group names.
    pub const BASELINE: Self = Self(0);

    /// The group at that place of the configuration's list.
    #[must_use]
    pub fn of(place: usize) -> Self {
        Self(u8::try_from(place.saturating_add(1)).unwrap_or(u8::MAX))
    }

    /// Its place in a list that begins with the baseline.
    #[must_use]
    pub fn place(self) -> usize {
        usize::from(self.0)
    }
}

/// Why an exchange went to another group than it was assigned to; a closed set, so that it can be a metric's label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FellOver {
    /// No backend of its group could be asked: down, loading, rolled back, or without the model or a feature.
    Unusable,
    /// Its group would have turned it away for its load.
    Refused,
    /// Its group tried, and failed.
    Failed,
    /// Its group's first token was late, and another group that was asked beside it had one sooner.
    Hedged,
}

impl FellOver {
    /// Every reason, each at the place of its number.
    pub const ALL: [Self; 4] = [Self::Unusable, Self::Refused, Self::Failed, Self::Hedged];

    /// The name in metrics and in the API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unusable => "unusable",
            Self::Refused => "refused",
            Self::Failed => "failed",
            Self::Hedged => "hedged",
        }
    }
}

/// The group that an exchange was assigned to, by a draw that knew nothing of it: whatever became of the exchange
/// counts for this group, whoever answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    /// Which.
    pub group: GroupIndex,
    /// Its name in the configuration.
    pub name: Arc<str>,
    /// Why another group answered, or was the last to try.
    pub fell_over: Option<FellOver>,
    /// How often shares had changed when it was drawn: what was drawn by other shares cannot be compared by today's.
    pub epoch: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_is_at_the_place_of_its_number() {
        for (place, reason) in FellOver::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, place, "{}", reason.as_str());
        }
        assert_eq!((GroupIndex::of(0).place(), GroupIndex::BASELINE.place()), (1, 0));
    }
}
