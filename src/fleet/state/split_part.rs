//! Which groups of split routes were rolled back, as the file of what was learned has it.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::fleet::split::{KeptSplit, RolledBack};
use crate::measure::attainment::Attainment;
use crate::measure::group::GroupIndex;
use crate::measure::objective::Latency;
use crate::measure::trial::Broken;

/// The most groups of one split that are read.
const MOST: usize = 100;

#[derive(Serialize, Deserialize)]
pub(super) struct SplitPart {
    route: String,
    split: String,
    rolled_back: Vec<RolledBackPart>,
}

#[derive(Serialize, Deserialize)]
struct RolledBackPart {
    group: String,
    /// Seconds since 1970.
    at: u64,
    /// `None` when a person said so.
    broken: Option<BrokenPart>,
}

#[derive(Serialize, Deserialize)]
struct BrokenPart {
    place: u8,
    latency: String,
    allowed: f64,
    good: u64,
    judged: u64,
    baseline_good: u64,
    baseline_judged: u64,
}

impl SplitPart {
    pub(super) fn of(route: &Arc<str>, kept: &KeptSplit) -> Self {
        let rolled_back = kept.rolled_back.iter().map(|(group, of)| RolledBackPart {
            group: group.to_string(),
            at: of.at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
            broken: of.why.as_ref().map(BrokenPart::of),
        });
        Self { route: route.to_string(), split: kept.key.clone(), rolled_back: rolled_back.collect() }
    }

    pub(super) fn kept(self) -> (Arc<str>, KeptSplit) {
        let rolled_back = self.rolled_back.into_iter().take(MOST).filter_map(RolledBackPart::kept).collect();
        (self.route.into(), KeptSplit { key: self.split, rolled_back })
    }
}

impl RolledBackPart {
    fn kept(self) -> Option<(Arc<str>, RolledBack)> {
        let at: SystemTime = UNIX_EPOCH.checked_add(Duration::from_secs(self.at))?;
        let why = self.broken.and_then(BrokenPart::broken);
        Some((self.group.into(), RolledBack { at, why }))
    }
}

impl BrokenPart {
    fn of(broken: &Broken) -> Self {
        Self {
            place: broken.group.0,
            latency: broken.latency.as_str().to_owned(),
            allowed: broken.allowed,
            good: broken.own.good,
            judged: broken.own.total,
            baseline_good: broken.baseline.good,
            baseline_judged: broken.baseline.total,
        }
    }

    fn broken(self) -> Option<Broken> {
        let latency = Latency::PROMISED.into_iter().find(|latency| latency.as_str() == self.latency)?;
        Some(Broken {
            group: GroupIndex(self.place),
            latency,
            allowed: self.allowed,
            own: Attainment { good: self.good, total: self.judged },
            baseline: Attainment { good: self.baseline_good, total: self.baseline_judged },
        })
    }
}
