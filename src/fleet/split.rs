//! A split route, alive: who is drawn for which group, what was measured of the groups, and which of them get nothing
//! more because they broke the promise.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

use arc_swap::ArcSwapOption;

use super::Fleet;
use super::route::LiveRoute;
use crate::config::settings::{Route, Settings, Split};
use crate::measure::attainment::Attainment;
use crate::measure::exchange::ExchangeRecord;
use crate::measure::group::{Assignment, FellOver, GroupIndex};
use crate::measure::objective::Objectives;
use crate::measure::trial::{Broken, Trial};
use crate::random::Random;
use crate::route::policy::PolicyState;
use crate::route::snapshot::BackendIndex;
use crate::route::split::{self, Rollback};

/// All groups of a route, the baseline among them.
const MOST: usize = Split::MOST_GROUPS + 1;

/// How the route of one configuration generation is split.
#[derive(Debug)]
pub(super) struct RouteSplit {
    pub(super) live: Arc<LiveSplit>,
    /// By the backend's place in the settings.
    groups: Vec<GroupIndex>,
}

/// A split, for as long as the configuration says the same of it.
#[derive(Debug)]
pub(super) struct LiveSplit {
    /// What makes it the same one.
    key: String,
    /// What serves it: other engines are not compared with those that were there before.
    engines: String,
    /// How often its shares have changed.
    epoch: AtomicU64,
    objectives: Objectives,
    random: Mutex<Random>,
    /// The baseline first.
    groups: Vec<LiveGroup>,
    trial: Mutex<Trial>,
}

#[derive(Debug)]
struct LiveGroup {
    name: Arc<str>,
    /// As configured; of the baseline, what the others leave.
    share: f64,
    rollback: Rollback,
    rolled_back: ArcSwapOption<RolledBack>,
    /// What the route's policy remembers of this group.
    policy: Mutex<PolicyState>,
    requests: AtomicU64,
    fell_over: [AtomicU64; FellOver::ALL.len()],
}

/// Since when, and why, a group gets nothing more.
#[derive(Debug, Clone, PartialEq)]
pub struct RolledBack {
    /// Since when.
    pub at: SystemTime,
    /// Which promise it broke; `None` when a person said so.
    pub why: Option<Broken>,
}

/// What is kept of a split across restarts.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct KeptSplit {
    /// What makes it the same one.
    pub(super) key: String,
    /// By the names of the groups.
    pub(super) rolled_back: Vec<(Arc<str>, RolledBack)>,
}

/// One group of a split route.
#[derive(Debug, Clone, PartialEq)]
pub struct GroupFigures {
    /// Its name; the first is the baseline.
    pub name: Arc<str>,
    /// The share that is configured.
    pub share: f64,
    /// The share that requests are drawn by now.
    pub drawn: f64,
    /// What becomes of it when it breaks the promise.
    pub rollback: Rollback,
    /// Since when, and why, it gets nothing more.
    pub rolled_back: Option<Arc<RolledBack>>,
    /// Exchanges that were assigned to it and ended.
    pub requests: u64,
    /// Those of them that another group answered, each reason at the place of its number.
    pub fell_over: [u64; FellOver::ALL.len()],
}

/// There is no such group to do that with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoGroup {
    /// No route of that name.
    #[error("no route of that name")]
    Route,
    /// The route has no group of that name beside its baseline.
    #[error("the route has no group of that name beside its baseline")]
    Group,
}

impl RouteSplit {
    /// The split of a route, if it has one; what was learned of the same split before stays.
    pub(super) fn of(route: &Route, settings: &Settings, before: Option<&LiveRoute>, seed: u64) -> Option<Self> {
        let split = route.split.as_ref()?;
        let key = key(route, split, settings);
        let before = before.and_then(|before| before.split.as_ref()).map(|before| &before.live);
        let before = before.filter(|before| before.key == key);
        let engines = engines(route, settings);
        let kept = before.filter(|before| before.objectives == route.objectives && before.engines == engines);
        let keys = || (key.clone(), engines.clone());
        let fresh = || Arc::new(LiveSplit::new(keys(), split, route.objectives, seed).continuing(before));
        let live = kept.map_or_else(fresh, Arc::clone);
        Some(Self { live, groups: (0..settings.backends.len()).map(|backend| split.group_of(backend)).collect() })
    }

    pub(super) fn group_of(&self, backend: BackendIndex) -> GroupIndex {
        self.groups.get(backend.0).copied().unwrap_or_default()
    }

    /// Whether a group may get anything: the baseline may always, the others while they have a share.
    pub(super) fn serves(&self, group: GroupIndex) -> bool {
        let share = || self.live.groups.get(group.place()).map_or(0.0, LiveGroup::drawn);
        group == GroupIndex::BASELINE || share() > 0.0
    }
}

/// A split in words: its groups, their members with their weights, shares, and what becomes of them.
fn key(route: &Route, split: &Split, settings: &Settings) -> String {
    let groups = split.groups.iter().enumerate().map(|(place, group)| {
        let members = route.members(GroupIndex::of(place)).filter_map(|&(index, weight)| {
            let backend = settings.backends.get(index)?;
            Some(format!("{}*{weight}", backend.name))
        });
        let members: Vec<_> = members.collect();
        format!("{}: {} of {} ({})", group.name, group.share, members.join(", "), group.rollback.as_str())
    });
    groups.collect::<Vec<_>>().join("; ")
}

/// What the backends of all its groups are.
fn engines(route: &Route, settings: &Settings) -> String {
    let engine = |&(index, _): &(usize, u32)| {
        let backend = settings.backends.get(index)?;
        let (url, profile) = (&backend.url, backend.profile.as_deref().unwrap_or_default());
        Some(format!("{} {}{} {profile}", backend.name, url.authority(), url.base_path))
    };
    route.backends.iter().filter_map(engine).collect::<Vec<_>>().join("; ")
}

impl LiveGroup {
    fn new(name: Arc<str>, share: f64, rollback: Rollback, seed: u64) -> Self {
        Self {
            name,
            share,
            rollback,
            rolled_back: ArcSwapOption::empty(),
            policy: Mutex::new(PolicyState::seeded(seed)),
            requests: AtomicU64::new(0),
            fell_over: Default::default(),
        }
    }

    fn drawn(&self) -> f64 {
        if self.rolled_back.load().is_some() { 0.0 } else { self.share }
    }

    fn copy_counts(&self, of: &Self) {
        self.rolled_back.store(of.rolled_back.load_full());
        self.requests.store(of.requests.load(Ordering::Relaxed), Ordering::Relaxed);
        for (own, other) in self.fell_over.iter().zip(&of.fell_over) {
            own.store(other.load(Ordering::Relaxed), Ordering::Relaxed);
        }
    }
}

impl LiveSplit {
    fn new((key, engines): (String, String), split: &Split, objectives: Objectives, seed: u64) -> Self {
        let baseline = LiveGroup::new(Split::BASELINE.into(), split.baseline_share(), Rollback::Never, seed);
        let others = split.groups.iter().zip(1..).map(|(group, place)| {
            LiveGroup::new(Arc::clone(&group.name), group.share, group.rollback, seed.wrapping_add(place))
        });
        Self {
            key,
            engines,
            epoch: AtomicU64::new(0),
            objectives,
            random: Mutex::new(Random::seeded(seed)),
            groups: std::iter::once(baseline).chain(others).take(MOST).collect(),
            trial: Mutex::new(Trial::new(split.groups.len(), objectives)),
        }
    }

    /// The promise is another one, or who keeps it, so what was measured before is of no use; the rest stays.
    fn continuing(self, before: Option<&Arc<Self>>) -> Self {
        for (group, before) in self.groups.iter().zip(before.iter().flat_map(|before| &before.groups)) {
            group.copy_counts(before);
        }
        self.epoch.store(before.map_or(0, |before| before.epoch.load(Ordering::Relaxed) + 1), Ordering::Relaxed);
        self
    }

    fn trial(&self) -> MutexGuard<'_, Trial> {
        self.trial.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// By which requests are drawn now, the baseline's first.
    fn shares(&self) -> [f64; MOST] {
        let mut shares = [0.0; MOST];
        for (share, group) in shares.iter_mut().zip(&self.groups).skip(1) {
            *share = group.drawn();
        }
        let others: f64 = shares.iter().sum();
        if let Some(baseline) = shares.first_mut() {
            *baseline = (1.0 - others).max(0.0);
        }
        shares
    }

    fn assign(&self) -> Option<Assignment> {
        let drawn = self.random.lock().unwrap_or_else(PoisonError::into_inner).share();
        let group = split::assign(self.groups.iter().skip(1).map(LiveGroup::drawn), drawn);
        let name = Arc::clone(&self.groups.get(group.place())?.name);
        Some(Assignment { group, name, fell_over: None, epoch: self.epoch.load(Ordering::Relaxed) })
    }

    pub(super) fn name(&self, group: GroupIndex) -> Option<&Arc<str>> {
        self.groups.get(group.place()).map(|group| &group.name)
    }

    /// What the route's policy remembers of a group; the baseline's is the route's own.
    pub(super) fn policy(&self, group: GroupIndex) -> Option<&Mutex<PolicyState>> {
        let group = self.groups.get(group.place()).filter(|_| group != GroupIndex::BASELINE)?;
        Some(&group.policy)
    }

    /// Learns from an exchange that ended; a group that has broken the promise by it gets nothing more.
    pub(super) fn record(&self, route: &str, record: &ExchangeRecord, now: Instant) {
        let Some(assignment) = &record.group else { return };
        let Some(group) = self.groups.get(assignment.group.place()) else { return };
        group.requests.fetch_add(1, Ordering::Relaxed);
        if let Some(counter) = assignment.fell_over.and_then(|reason| group.fell_over.get(reason as usize)) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
        let shares = self.shares();
        let others = shares.iter().skip(1).sum::<f64>();
        // While nothing is tried any more, what was compared stays as it was; and what was drawn by other shares says
        // nothing by these.
        if others <= 0.0 || assignment.epoch != self.epoch.load(Ordering::Relaxed) {
            return;
        }
        let mut trial = self.trial();
        let Some(broken) = trial.record(record, assignment, &shares, now) else { return };
        let at = record.started.checked_add(record.course.ended).unwrap_or(record.started);
        self.broke(route, &broken, at);
    }

    /// Called under the trial's lock, so that a group is rolled back once.
    fn broke(&self, route: &str, broken: &Broken, at: SystemTime) {
        let Some(group) = self.groups.get(broken.group.place()) else { return };
        if group.rollback == Rollback::Never || group.drawn() <= 0.0 {
            return;
        }
        group.rolled_back.store(Some(Arc::new(RolledBack { at, why: Some(*broken) })));
        self.epoch.fetch_add(1, Ordering::Relaxed);
        let missed = |judged: &Attainment| judged.total.saturating_sub(judged.good);
        tracing::warn!(
            route,
            group = %group.name,
            latency = broken.latency.as_str(),
            allowed = format_args!("{:.4}", broken.allowed),
            missed = missed(&broken.own),
            judged = broken.own.total,
            baseline_missed = missed(&broken.baseline),
            baseline_judged = broken.baseline.total,
            failed = group.fell_over.get(FellOver::Failed as usize).map_or(0, |count| count.load(Ordering::Relaxed)),
            "rolled back: the group has broken the route's promise, and gets nothing more until POST \
             /api/v1/routes/{route}/split/{}/resume on the admin port", group.name
        );
    }

    fn named(&self, name: &str) -> Result<&LiveGroup, NoGroup> {
        Ok(self.placed(name)?.1)
    }

    fn placed(&self, name: &str) -> Result<(GroupIndex, &LiveGroup), NoGroup> {
        let mut groups = self.groups.iter().skip(1).enumerate();
        let found = groups.find(|(_, group)| &*group.name == name).ok_or(NoGroup::Group)?;
        Ok((GroupIndex::of(found.0), found.1))
    }

    /// What is kept across restarts: which groups were rolled back, by their names.
    pub(super) fn kept(&self) -> KeptSplit {
        let rolled_back = self.groups.iter().filter_map(|group| {
            let rolled_back = group.rolled_back.load_full()?;
            Some((Arc::clone(&group.name), RolledBack::clone(&rolled_back)))
        });
        KeptSplit { key: self.key.clone(), rolled_back: rolled_back.collect() }
    }

    /// Goes on from what was kept of the same split.
    pub(super) fn resume(&self, kept: &KeptSplit) {
        if kept.key != self.key {
            return;
        }
        for (name, rolled_back) in &kept.rolled_back {
            if let Ok(group) = self.named(name)
                && group.rolled_back.load().is_none()
            {
                group.rolled_back.store(Some(Arc::new(rolled_back.clone())));
            }
        }
    }

    fn figures(&self) -> Vec<GroupFigures> {
        let figures = |(group, drawn): (&LiveGroup, f64)| GroupFigures {
            name: Arc::clone(&group.name),
            share: group.share,
            drawn,
            rollback: group.rollback,
            rolled_back: group.rolled_back.load_full(),
            requests: group.requests.load(Ordering::Relaxed),
            fell_over: group.fell_over.each_ref().map(|count| count.load(Ordering::Relaxed)),
        };
        self.groups.iter().zip(self.shares()).map(figures).collect()
    }
}

impl LiveRoute {
    /// Its groups, the baseline first; none where requests are not split.
    #[must_use]
    pub fn groups(&self) -> Vec<GroupFigures> {
        self.split.as_ref().map(|split| split.live.figures()).unwrap_or_default()
    }

    /// The group that a backend belongs to.
    #[must_use]
    pub fn group_of(&self, backend: BackendIndex) -> GroupIndex {
        self.split.as_ref().map(|split| split.group_of(backend)).unwrap_or_default()
    }

    /// What was measured of its groups, as a copy: comparing takes longer than exchanges that end should wait. `None` where
    /// requests are not split.
    pub fn trial(&self) -> Option<Trial> {
        Some(self.split.as_ref()?.live.trial().clone())
    }
}

impl Fleet {
    /// Draws the group that a request belongs to, once and for all; `None` where the route has only one.
    #[must_use]
    pub fn assign(&self, route: usize) -> Option<Assignment> {
        self.routes().get(route)?.split.as_ref()?.live.assign()
    }

    /// Gives a group nothing more, until it is resumed or the configuration says something else of the split.
    ///
    /// # Errors
    /// When there is no such group.
    pub fn roll_back(&self, route: &str, group: &str, at: SystemTime) -> Result<(), NoGroup> {
        let split = self.split(route)?;
        let group = split.named(group)?;
        let _trial = split.trial();
        if group.rolled_back.load().is_none() {
            group.rolled_back.store(Some(Arc::new(RolledBack { at, why: None })));
            split.epoch.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(route, group = %group.name, "rolled back on the admin port: the group gets nothing more");
        }
        Ok(())
    }

    /// Gives a group its share again, and begins its comparison anew.
    ///
    /// # Errors
    /// When there is no such group.
    pub fn resume_group(&self, route: &str, group: &str) -> Result<(), NoGroup> {
        let split = self.split(route)?;
        let (place, group) = split.placed(group)?;
        let mut trial = split.trial();
        if group.rolled_back.swap(None).is_some() {
            split.epoch.fetch_add(1, Ordering::Relaxed);
            trial.restart(place);
            tracing::info!(route, group = %group.name, share = group.share, "resumed on the admin port");
        }
        Ok(())
    }

    fn split(&self, route: &str) -> Result<&LiveSplit, NoGroup> {
        let route = self.routes().iter().find(|one| &**one.name() == route).ok_or(NoGroup::Route)?;
        Ok(&route.split.as_ref().ok_or(NoGroup::Group)?.live)
    }
}
