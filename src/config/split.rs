//! How a route's requests are split among groups of its backends: a canary, or the arms of an A/B test.

use std::sync::Arc;

use crate::measure::group::GroupIndex;
use crate::route::split::Rollback;

/// The groups beside the baseline. A route's `backends` hold the members of all groups, the baseline's first.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Split {
    /// At least one, names unique, shares together at most 1.
    pub groups: Vec<SplitGroup>,
}

/// One group.
#[derive(Debug, Clone, PartialEq)]
pub struct SplitGroup {
    /// The name in metrics and logs; never [`Split::BASELINE`].
    pub name: Arc<str>,
    /// Its members, by their index in [`super::settings::Settings::backends`]; each in no other group of the route.
    pub backends: Vec<usize>,
    /// The share of the route's requests that are assigned to it.
    pub share: f64,
    /// What becomes of it when it breaks the route's promise.
    pub rollback: Rollback,
}

impl Split {
    /// What the backends that no group names are called.
    pub const BASELINE: &str = "baseline";
    /// Most groups beside the baseline: the comparison of each holds up to a megabyte.
    pub const MOST_GROUPS: usize = 8;

    /// The group that a backend belongs to.
    #[must_use]
    pub fn group_of(&self, backend: usize) -> GroupIndex {
        let place = self.groups.iter().position(|group| group.backends.contains(&backend));
        place.map_or(GroupIndex::BASELINE, GroupIndex::of)
    }

    /// The share that is left to the baseline.
    #[must_use]
    pub fn baseline_share(&self) -> f64 {
        (1.0 - self.groups.iter().map(|group| group.share).sum::<f64>()).max(0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(name: &str, backends: &[usize], share: f64) -> SplitGroup {
        SplitGroup { name: name.into(), backends: backends.to_vec(), share, rollback: Rollback::Auto }
    }

    #[test]
    fn what_no_group_names_is_the_baseline_and_gets_the_rest() {
        let split = Split { groups: vec![group("a", &[3], 0.25), group("b", &[1, 4], 0.5)] };
        let groups: Vec<_> = (0..5).map(|backend| split.group_of(backend).0).collect();
        assert_eq!((groups, split.baseline_share()), (vec![0, 2, 0, 1, 2], 0.25));
    }
}
