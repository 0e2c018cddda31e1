//! Which group of a split route a request is assigned to.
//!
//! The draw knows nothing of the request, of load or of predictions, so that the groups differ in their backends and in
//! nothing else: what is measured of them may be compared.

use crate::measure::group::GroupIndex;

/// What becomes of a group that breaks its route's promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Rollback {
    /// It gets nothing more.
    #[default]
    Auto,
    /// Nothing: a person looks after it.
    Never,
}

impl Rollback {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Auto, Self::Never];

    /// The name in the configuration.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Never => "never",
        }
    }
}

/// The group that a draw from `[0, 1)` falls into; the baseline has what the shares of the others leave.
#[must_use]
pub fn assign(shares: impl Iterator<Item = f64>, drawn: f64) -> GroupIndex {
    let mut left = drawn;
    for (place, share) in shares.enumerate() {
        if left < share {
            return GroupIndex::of(place);
        }
        left -= share;
    }
    GroupIndex::BASELINE
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    const DRAWS: u32 = 200_000;

    #[test]
    fn every_group_gets_its_share_and_the_baseline_the_rest() {
        let (mut random, mut counts) = (Random::seeded(11), [0_u32; 3]);
        for _ in 0..DRAWS {
            counts[assign([0.05, 0.3].into_iter(), random.share()).place()] += 1;
        }
        for (count, share) in counts.into_iter().zip([0.65, 0.05, 0.3]) {
            let deviation = (f64::from(DRAWS) * share * (1.0 - share)).sqrt();
            let apart = f64::from(count) - f64::from(DRAWS) * share;
            assert!(apart.abs() < 4.0 * deviation, "{counts:?}");
        }
    }

    #[test]
    fn the_ends_belong_where_they_should() {
        for (shares, drawn, group) in [
            ([0.0, 0.0], 0.0, 0),
            ([0.0, 0.5], 0.0, 2),
            ([0.5, 0.5], 0.5, 2),
            ([0.5, 0.5], 0.999_999, 2),
            ([0.5, 0.25], 0.75, 0),
            ([1.0, 0.0], 0.999_999, 1),
        ] {
            assert_eq!(assign(shares.into_iter(), drawn), GroupIndex(group), "{shares:?} {drawn}");
        }
    }

    #[test]
    fn the_names_are_those_of_the_configuration() {
        assert_eq!(Rollback::ALL.map(Rollback::as_str), ["auto", "never"]);
    }
}
