//! How the API shows a split route: its groups, what was measured of each, and how they compare with the baseline.

use std::collections::BTreeMap;
use std::time::Instant;

use serde::Serialize;

use super::view::{Name, millis};
use crate::fleet::{Fleet, GroupFigures, LiveRoute, RolledBack};
use crate::measure::attainment::Attainment;
use crate::measure::compare::{Difference, missed};
use crate::measure::group::{FellOver, GroupIndex};
use crate::measure::objective::Latency;
use crate::measure::trial::{MEMORY, Trial};
use crate::measure::window::Limits;
use crate::route::snapshot::BackendIndex;
use crate::telemetry::live::GroupFigure;
use crate::telemetry::time::rfc3339;
use crate::units::Quantile;

/// Which quantiles are compared.
const QUANTILES: [Quantile; 4] = [Quantile::P50, Quantile::P90, Quantile::P95, Quantile::P99];

/// By the quantile's name, in order.
type ByQuantile<T> = BTreeMap<String, T>;
/// By the latency's name.
type ByLatency<T> = BTreeMap<&'static str, T>;

/// `split` of a route.
#[derive(Debug, Serialize)]
pub(super) struct SplitView {
    /// How far back latencies are remembered.
    window_s: f64,
    /// The baseline first.
    groups: Vec<GroupView>,
}

#[derive(Debug, Serialize)]
struct GroupView {
    name: Name,
    backends: Vec<Name>,
    /// As configured, and by which requests are drawn now.
    share: f64,
    effective_share: f64,
    /// `baseline`, `running` or `rolled_back`.
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    rollback: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rolled_back: Option<RolledBackView>,
    /// Exchanges that were assigned to it and ended; all that follows is about them, whoever answered.
    requests: u64,
    fell_over: BTreeMap<&'static str, u64>,
    /// What clients felt, in the window; latencies without samples are left out.
    latencies: ByLatency<LatencyView>,
    /// By the promised latency: what was judged since the comparison began.
    missed: ByLatency<MissedView>,
    /// What it is more than the baseline; left out for the baseline, and where there are too few samples to tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    differences: Option<DifferencesView>,
}

#[derive(Debug, Serialize)]
struct RolledBackView {
    at: String,
    /// `broke_objective`, or `operator`.
    reason: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    broken: Option<BrokenView>,
}

#[derive(Debug, Serialize)]
struct BrokenView {
    latency: &'static str,
    allowed: f64,
    missed: u64,
    judged: u64,
    baseline_missed: u64,
    baseline_judged: u64,
}

#[derive(Debug, Serialize)]
struct LatencyView {
    samples: u64,
    #[serde(flatten)]
    quantiles: ByQuantile<QuantileView>,
}

/// A quantile, and between which values the true one lies with 95 % confidence.
#[derive(Debug, Serialize)]
#[allow(clippy::struct_field_names, reason = "the unit is part of the API's names")]
struct QuantileView {
    value_ms: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    low_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    high_ms: Option<f64>,
}

#[derive(Debug, Serialize)]
struct MissedView {
    judged: u64,
    missed: u64,
    allowed: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    share: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    low: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    high: Option<f64>,
    /// How sure it is that too many are missed, and more than by the baseline; rolled back when both reach `needed`.
    #[serde(skip_serializing_if = "Option::is_none")]
    evidence: Option<EvidenceView>,
}

#[derive(Debug, Serialize)]
struct EvidenceView {
    breaks: f64,
    worse: f64,
    needed: f64,
}

#[derive(Debug, Serialize)]
struct DifferencesView {
    latencies: ByLatency<ByQuantile<DifferenceView>>,
    missed: ByLatency<ShareDifferenceView>,
}

#[derive(Debug, Serialize)]
struct DifferenceView {
    value_ms: f64,
    low_ms: f64,
    high_ms: f64,
    /// Whether the interval leaves zero out.
    clear: bool,
}

#[derive(Debug, Serialize)]
struct ShareDifferenceView {
    value: f64,
    low: f64,
    high: f64,
    clear: bool,
}

impl SplitView {
    /// `None` where requests are not split.
    pub(super) fn new(route: &LiveRoute, fleet: &Fleet, now: Instant) -> Option<Self> {
        let figures = route.groups();
        let mut trial = route.trial()?;
        let mut of =
            |(place, one): (u8, &GroupFigures)| GroupView::new(route, fleet, (GroupIndex(place), one), &mut trial, now);
        let groups = (0..).zip(&figures).map(&mut of).collect();
        Some(Self { window_s: MEMORY.as_secs_f64(), groups })
    }
}

impl GroupView {
    fn new(
        route: &LiveRoute,
        fleet: &Fleet,
        (group, of): (GroupIndex, &GroupFigures),
        trial: &mut Trial,
        now: Instant,
    ) -> Self {
        let baseline = group == GroupIndex::BASELINE;
        let members = route.settings().members(group).filter_map(|&(index, _)| fleet.backends().get(index));
        Self {
            name: Name::new(&of.name),
            backends: members.map(|backend| Name::new(backend.name())).collect(),
            share: of.share,
            effective_share: of.drawn,
            state: match &of.rolled_back {
                _ if baseline => "baseline",
                Some(_) => "rolled_back",
                None => "running",
            },
            rollback: (!baseline).then(|| of.rollback.as_str()),
            rolled_back: of.rolled_back.as_deref().map(RolledBackView::new),
            requests: of.requests,
            fell_over: FellOver::ALL.iter().zip(of.fell_over).map(|(reason, count)| (reason.as_str(), count)).collect(),
            latencies: latencies(|latency, quantile| trial.limits(group, latency, quantile, now)),
            missed: by_latency(|latency| MissedView::new(trial, group, latency, route)),
            differences: (!baseline).then(|| DifferencesView::new(trial, group, now)),
        }
    }
}

fn by_latency<T>(mut of: impl FnMut(Latency) -> Option<T>) -> ByLatency<T> {
    Latency::PROMISED.into_iter().filter_map(|latency| Some((latency.as_str(), of(latency)?))).collect()
}

fn by_quantile<T>(mut of: impl FnMut(Quantile) -> Option<T>) -> ByQuantile<T> {
    QUANTILES.into_iter().filter_map(|quantile| Some((quantile.to_string(), of(quantile)?))).collect()
}

fn latencies(mut limits: impl FnMut(Latency, Quantile) -> Option<Limits>) -> ByLatency<LatencyView> {
    by_latency(|latency| {
        let samples = limits(latency, Quantile::P50)?.samples;
        Some(LatencyView {
            samples,
            quantiles: by_quantile(|quantile| limits(latency, quantile).map(QuantileView::new)),
        })
    })
}

impl QuantileView {
    fn new(limits: Limits) -> Self {
        let (low, high) = limits.between.unzip();
        Self { value_ms: millis(limits.estimate), low_ms: low.map(millis), high_ms: high.map(millis) }
    }
}

impl RolledBackView {
    fn new(of: &RolledBack) -> Self {
        let lost = |judged: &Attainment| judged.total.saturating_sub(judged.good);
        Self {
            at: rfc3339(of.at),
            reason: if of.why.is_some() { "broke_objective" } else { "operator" },
            broken: of.why.as_ref().map(|broken| BrokenView {
                latency: broken.latency.as_str(),
                allowed: in_full(broken.allowed),
                missed: lost(&broken.own),
                judged: broken.own.total,
                baseline_missed: lost(&broken.baseline),
                baseline_judged: broken.baseline.total,
            }),
        }
    }
}

impl MissedView {
    fn new(trial: &Trial, group: GroupIndex, latency: Latency, route: &LiveRoute) -> Option<Self> {
        let judged = trial.judged(group, latency)?;
        let objective = route.settings().objectives.iter().find(|objective| objective.latency == latency)?;
        let share = missed(&judged);
        let evidence = trial.certainty(group, latency);
        Some(Self {
            judged: judged.total,
            missed: judged.total.saturating_sub(judged.good),
            allowed: in_full(1.0 - objective.quantile.share()),
            share: share.map(|share| share.value),
            low: share.map(|share| share.low),
            high: share.map(|share| share.high),
            evidence: evidence.map(|of| EvidenceView { breaks: of.breaks, worse: of.worse, needed: of.needed }),
        })
    }
}

impl DifferencesView {
    fn new(trial: &mut Trial, group: GroupIndex, now: Instant) -> Self {
        let latencies = by_latency(|latency| {
            let all = by_quantile(|quantile| {
                trial.difference(group, latency, quantile, now).map(|one| DifferenceView::new(&one))
            });
            (!all.is_empty()).then_some(all)
        });
        let share = |one: Difference| {
            let clear = one.is_clear();
            ShareDifferenceView { value: one.value, low: one.low, high: one.high, clear }
        };
        Self { latencies, missed: by_latency(|latency| trial.miss_difference(group, latency).map(share)) }
    }
}

impl DifferenceView {
    fn new(of: &Difference) -> Self {
        let millis = |seconds: f64| (seconds * 1e6).round() / 1e3;
        Self { value_ms: millis(of.value), low_ms: millis(of.low), high_ms: millis(of.high), clear: of.is_clear() }
    }
}

/// Without the tail that a subtraction leaves: 0.05 and not 0.050000000000000044.
fn in_full(share: f64) -> f64 {
    (share * 1e9).round() / 1e9
}

/// The name of the group that a backend belongs to, where requests are split.
pub(super) fn group_of(route: &LiveRoute, backend: BackendIndex) -> Option<Name> {
    let place = route.group_of(backend).place();
    route.groups().get(place).map(|group| Name::new(&group.name))
}

/// The group of that name, or else the baseline; `None` where requests are not split.
pub(super) fn asked(route: &LiveRoute, name: Option<&str>) -> Result<Option<GroupIndex>, ()> {
    let groups = route.groups();
    let Some(name) = name else { return Ok((!groups.is_empty()).then_some(GroupIndex::BASELINE)) };
    let place = groups.iter().position(|group| &*group.name == name).ok_or(())?;
    Ok(u8::try_from(place).ok().map(GroupIndex))
}

/// The metrics page's figures of every group.
pub(super) fn figures(route: &LiveRoute) -> Vec<GroupFigure> {
    let trial = route.trial();
    let judged = |place: u8| {
        let of = |latency: Latency| Some((latency.as_str(), trial.as_ref()?.judged(GroupIndex(place), latency)?));
        Latency::PROMISED.into_iter().filter_map(of).collect()
    };
    let of = |(place, one): (u8, GroupFigures)| GroupFigure {
        route: route.name().clone(),
        group: one.name,
        requests: one.requests,
        fell_over: one.fell_over,
        share: one.drawn,
        rolled_back: one.rolled_back.is_some(),
        judged: judged(place),
    };
    (0..).zip(route.groups()).map(of).collect()
}
