//! Rivals that use our predictor, and differ in what they do with it: so the comparison is of rules, not of models.

use super::routed::{Decide, Question};
use super::rule::{Bounds, Choice, Verdict};
use crate::measure::objective::Objective;
use crate::random::Random;
use crate::route::price::Price;
use crate::route::snapshot::{Candidate, Forecast};
use crate::route::tuning::Tuning;

/// Costs within this share of the cheapest count as the same, as they do in ours.
const SAME_COST: f64 = 1.05;
/// How often the llm-d-like rule explores.
const EXPLORE: f64 = 0.01;

/// Which rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Predicted {
    /// Least headroom first, at random by weight, as llm-d's latency-aware scorer does it.
    Llmd {
        /// Whether it sheds what no backend is expected to keep, as ours does.
        shed: bool,
    },
    /// The cheapest whose p90 keeps the promises; else the least violating.
    Cheapest,
    /// The fullest that still keeps them, whatever it costs.
    Fullest,
}

/// What is compared with 1: the largest ratio of a latency to its promise.
#[derive(Debug, Clone, Copy)]
struct Weighed {
    backend: usize,
    bound: f64,
    central: f64,
    cost: f64,
    bounds: Bounds,
}

impl Predicted {
    /// The predictor's settings for such a rule: p90, and none of what our rule adds.
    #[must_use]
    pub fn tuning(calibration: bool) -> Tuning {
        Tuning {
            alpha: Some(0.10),
            calibration,
            steps_by_spread: false,
            pooling: false,
            unpromised_weight: 1.0,
            end_to_end_calibration: false,
            bias: false,
            censored_evidence: false,
            probes: false,
            margin: false,
            median_fallback: false,
            sacrifice: false,
            residents_guard: false,
            short_streams: false,
            engine_correction: false,
            ..Tuning::default()
        }
    }

    fn serve(weighed: &Weighed, reason: &'static str) -> Verdict {
        let feasible = weighed.bound <= 1.0;
        Verdict::Serve(Choice { backend: weighed.backend, reason, feasible, bounds: weighed.bounds })
    }
}

impl Decide for Predicted {
    fn decide(&mut self, question: &Question<'_>, random: &mut Random) -> Verdict {
        let all: Vec<Weighed> = question.fleet.candidates.iter().map(|one| weigh(question, one)).collect();
        let feasible: Vec<&Weighed> = all.iter().filter(|one| one.bound <= 1.0).collect();
        if let (Self::Llmd { .. }, Some(explored)) = (*self, explore(&all, random)) {
            return Self::serve(explored, "explore");
        }
        let picked = match self {
            Self::Llmd { .. } => by_headroom(&feasible, random),
            Self::Cheapest => cheapest(&feasible, random),
            Self::Fullest => least(feasible.iter().copied(), |one| -one.bound, random),
        };
        if let Some(picked) = picked {
            return Self::serve(picked, "feasible");
        }
        let doomed = |one: &Weighed| if *self == Self::Cheapest { one.bound } else { one.central };
        match least(&all, doomed, random) {
            None => Verdict::Shed("no_backend"),
            Some(best) if *self == (Self::Llmd { shed: true }) && best.central > 1.0 => Verdict::Shed("shed"),
            Some(best) => Self::serve(best, "best_effort"),
        }
    }
}

fn weigh(question: &Question<'_>, candidate: &Candidate) -> Weighed {
    let outlook = &candidate.outlook;
    let (facts, objectives) = (question.facts, &question.facts.objectives);
    let waited = facts.waited.as_secs_f64();
    let ratios = |which: fn(&Forecast) -> f64| {
        let ratio = |objective: Option<Objective>, seconds: f64| {
            objective.map_or(0.0, |objective| seconds / objective.threshold.as_secs_f64().max(1e-9))
        };
        let streamed = |objective: Option<Objective>| objective.filter(|_| facts.stream);
        ratio(streamed(objectives.ttft), waited + which(&outlook.ttft))
            .max(ratio(streamed(objectives.itl), which(&outlook.itl)))
            .max(ratio(objectives.e2e, waited + which(&outlook.e2e)))
    };
    let duration = |seconds: f64| std::time::Duration::try_from_secs_f64(seconds).ok();
    let output = question.fleet.route.output(facts.max_tokens).mean;
    Weighed {
        backend: candidate.backend.0,
        bound: ratios(|forecast| forecast.bound),
        central: ratios(|forecast| forecast.central),
        cost: candidate.price.map_or(0.0, |price| cost(&price, outlook.uncached_tokens, output)),
        bounds: Bounds {
            ttft: duration(outlook.ttft.bound),
            itl: duration(outlook.itl.bound),
            e2e: duration(outlook.e2e.bound),
        },
    }
}

fn cost(price: &Price, uncached: f64, output: f64) -> f64 {
    match *price {
        Price::PerToken { input_per_mtok, output_per_mtok, .. } => uncached * input_per_mtok + output * output_per_mtok,
        Price::PerGpuHour { per_gpu_hour, gpus } => per_gpu_hour * f64::from(gpus),
    }
}

/// With a small probability, if some backends are expected to miss and some are not, one of those that are.
fn explore<'a>(all: &'a [Weighed], random: &mut Random) -> Option<&'a Weighed> {
    if random.share() >= EXPLORE {
        return None;
    }
    let missing: Vec<&Weighed> = all.iter().filter(|one| one.bound > 1.0).collect();
    let some = !missing.is_empty() && missing.len() < all.len();
    missing.get(random.below(missing.len())).copied().filter(|_| some)
}

/// At random, the less headroom the likelier.
fn by_headroom<'a>(feasible: &[&'a Weighed], random: &mut Random) -> Option<&'a Weighed> {
    let headroom = || feasible.iter().map(|one| 1.0 - one.bound);
    let (least, most) = (headroom().fold(f64::INFINITY, f64::min), headroom().fold(0.0, f64::max));
    let weight = |headroom: f64| {
        if most > least { (100.0 * (1.0 - (headroom - least) / (most - least))).floor() + 1.0 } else { 50.0 }
    };
    let mut left = random.share() * headroom().map(weight).sum::<f64>();
    for (one, headroom) in feasible.iter().zip(headroom()) {
        left -= weight(headroom);
        if left < 0.0 {
            return Some(one);
        }
    }
    feasible.last().copied()
}

/// The cheapest; of those that cost about the same the one with the most headroom.
fn cheapest<'a>(feasible: &[&'a Weighed], random: &mut Random) -> Option<&'a Weighed> {
    let least_cost = feasible.iter().map(|one| one.cost).fold(f64::INFINITY, f64::min);
    least(feasible.iter().copied().filter(|one| one.cost <= SAME_COST * least_cost), |one| one.bound, random)
}

fn least<'a>(
    all: impl IntoIterator<Item = &'a Weighed>,
    value: impl Fn(&Weighed) -> f64,
    random: &mut Random,
) -> Option<&'a Weighed> {
    let all: Vec<&Weighed> = all.into_iter().collect();
    let place = super::rivals::least(all.iter().map(|one| value(one)).enumerate(), random)?;
    all.get(place).copied()
}
