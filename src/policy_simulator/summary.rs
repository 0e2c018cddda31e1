//! Many runs in one figure each, and rules against each other configuration by configuration.
//!
//! Configurations differ far more from each other than rules do, so means hide what a paired comparison shows: by how
//! much one rule beats another on the same traffic, how often, and how badly it can lose.

use std::sync::Arc;

use super::score::{Coverage, Quantiles, RouteScore, Score, mean};

/// One rule on several configurations.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    /// Configurations.
    pub runs: usize,
    /// Of each route, in the order of the first run.
    pub routes: Vec<RouteSummary>,
    /// Mean of good requests per second.
    pub goodput: f64,
    /// Mean of good ÷ arrived, over all routes.
    pub attainment: f64,
    /// Mean of dollars per thousand good requests.
    pub cost_per_kgood: f64,
    /// Configurations in which every route kept its promise.
    pub all_reached: usize,
    /// Mean of how much backends' shares move between windows of 10 s.
    pub movement: f64,
    /// Mean of how much shares vary from second to second ÷ how much independent draws do.
    pub dispersion: Option<f64>,
    /// Mean of the correlation of a share with that of the next second.
    pub autocorrelation: Option<f64>,
    /// Mean of the longest run to one backend ÷ that of independent draws.
    pub run_ratio: Option<f64>,
}

/// One route on several configurations.
#[derive(Debug, Clone, PartialEq)]
pub struct RouteSummary {
    /// Its name.
    pub name: Arc<str>,
    /// Mean of good ÷ arrived.
    pub attainment: f64,
    /// Configurations in which it kept its promise.
    pub reached: usize,
    /// Mean of the share that was turned away.
    pub shed: f64,
    /// Means of quantiles of TTFT in seconds, p50, p95, p99; `None` where some run has none or an infinite one.
    pub ttft: [Option<f64>; 3],
    /// Means of quantiles of ITL in seconds, likewise.
    pub itl: [Option<f64>; 3],
    /// Means of quantiles of the whole answer in seconds, likewise.
    pub e2e: [Option<f64>; 3],
    /// How predicted bounds held, all configurations together: TTFT, ITL, whole answer.
    pub coverage: [Coverage; 3],
}

/// One rule against another, configuration by configuration.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Paired {
    /// Configurations.
    pub runs: usize,
    /// Median of goodput ÷ the rival's − 1.
    pub goodput_median: f64,
    /// Configurations with a higher goodput.
    pub goodput_wins: usize,
    /// The smallest goodput ÷ the rival's − 1.
    pub goodput_worst: f64,
    /// Median of cost per good request ÷ the rival's − 1.
    pub cost_median: f64,
    /// Configurations with a lower cost per good request.
    pub cost_wins: usize,
    /// Configurations with both.
    pub both: usize,
}

impl Summary {
    /// Summarises runs of one rule; their routes are the same.
    #[must_use]
    pub fn of(scores: &[&Score]) -> Self {
        let over = |value: fn(&Score) -> f64| mean(scores.iter().map(|score| value(score)));
        let routes = scores.first().map_or(0, |score| score.routes.len());
        Self {
            runs: scores.len(),
            routes: (0..routes).filter_map(|index| RouteSummary::of(scores, index)).collect(),
            goodput: over(Score::goodput),
            attainment: over(|score| super::score::ratio(score.good(), score.arrived().max(1))),
            cost_per_kgood: over(Score::cost_per_kgood),
            all_reached: scores.iter().filter(|score| score.all_reached()).count(),
            movement: over(Score::movement),
            dispersion: defined(scores, |score| score.restlessness.dispersion),
            autocorrelation: defined(scores, |score| score.restlessness.autocorrelation),
            run_ratio: defined(scores, |score| score.restlessness.run_ratio()),
        }
    }
}

/// The mean of those that have it.
fn defined(scores: &[&Score], value: fn(&Score) -> Option<f64>) -> Option<f64> {
    let values: Vec<f64> = scores.iter().filter_map(|score| value(score)).collect();
    (!values.is_empty()).then(|| mean(values.into_iter()))
}

impl RouteSummary {
    fn of(scores: &[&Score], index: usize) -> Option<Self> {
        let routes: Vec<_> = scores.iter().filter_map(|score| score.routes.get(index)).collect();
        let coverage = |place: usize| {
            let each = routes.iter().filter_map(|route| route.coverage.get(place).copied());
            each.fold(Coverage::default(), Coverage::plus)
        };
        let each = |of: fn(&RouteScore) -> Quantiles| routes.iter().map(|route| of(route)).collect::<Vec<_>>();
        Some(Self {
            name: Arc::clone(&routes.first()?.name),
            attainment: mean(routes.iter().map(|route| route.attainment())),
            reached: routes.iter().filter(|route| route.reached()).count(),
            shed: mean(routes.iter().map(|route| super::score::ratio(route.shed, route.arrived.max(1)))),
            ttft: quantiles(&each(|route| route.ttft)),
            itl: quantiles(&each(|route| route.itl)),
            e2e: quantiles(&each(|route| route.e2e)),
            coverage: [coverage(0), coverage(1), coverage(2)],
        })
    }
}

fn quantiles(all: &[Quantiles]) -> [Option<f64>; 3] {
    let each = |which: fn(&Quantiles) -> Option<f64>| {
        let values: Option<Vec<f64>> = all.iter().map(|one| which(one).filter(|value| value.is_finite())).collect();
        values.filter(|values| !values.is_empty()).map(|values| mean(values.into_iter()))
    };
    [each(|one| one.p50), each(|one| one.p95), each(|one| one.p99)]
}

impl Paired {
    /// Compares runs of two rules on the same configurations; `None` without any.
    #[must_use]
    pub fn of(ours: &[&Score], theirs: &[&Score]) -> Option<Self> {
        let pairs = || ours.iter().zip(theirs);
        let goodput: Vec<f64> = pairs().map(|(one, other)| gain(one.goodput(), other.goodput())).collect();
        let cost: Vec<f64> = pairs().map(|(one, other)| gain(one.cost_per_kgood(), other.cost_per_kgood())).collect();
        let both = goodput.iter().zip(&cost).filter(|(goodput, cost)| **goodput > 0.0 && **cost < 0.0).count();
        Some(Self {
            runs: goodput.len(),
            goodput_median: median(&goodput)?,
            goodput_wins: goodput.iter().filter(|gain| **gain > 0.0).count(),
            goodput_worst: goodput.iter().copied().reduce(f64::min)?,
            cost_median: median(&cost)?,
            cost_wins: cost.iter().filter(|gain| **gain < 0.0).count(),
            both,
        })
    }
}

/// One ÷ other − 1; two nothings are equal.
pub(super) fn gain(one: f64, other: f64) -> f64 {
    if one.total_cmp(&other).is_eq() { 0.0 } else { one / other - 1.0 }
}

/// The middle value, or the mean of the two middle ones.
fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    let upper = *sorted.get(middle)?;
    let lower = if sorted.len().is_multiple_of(2) { *sorted.get(middle - 1)? } else { upper };
    Some(f64::midpoint(lower, upper))
}
