//! What a backend's model makes of one request at one instant: all that a decision and a ticket are drawn from.

use std::time::Instant;

use super::pair::Alphas;
use super::{Asking, BackendModel, features};
use crate::route::load::{Load, Rate, seconds};
use crate::route::predict::Features;
use crate::route::snapshot::{Forecast, Outlook, RouteSlot};

/// Prompt tokens that are computed even when the whole prompt is cached.
const LEAST_UNCACHED: f64 = 16.0;
/// Below so many observations a model is still its prior.
const PROVEN: u64 = 8;
/// Other routes' streams count as residents when so many arrive per second.
const RESIDENT: f64 = 0.2;
/// Streams that stand still for longer than so many gaps, and so many seconds, are late.
const STANDING: (f64, f64) = (6.0, 0.05);
/// Standing still multiplies the expected gap by no more than this.
const STANDING_MOST: f64 = 7.389;

/// Everything about one request at one backend, before it is sent.
#[derive(Debug, Clone, Copy)]
pub(super) struct View {
    pub(super) prompt_tokens: f64,
    pub(super) uncached_tokens: f64,
    pub(super) ttft_features: Features,
    pub(super) alphas: Alphas,
    /// Raw predictions of the two models.
    pub(super) ttft: f64,
    pub(super) itl: f64,
    pub(super) outlook: Outlook,
    /// What the bound of a whole answer is calibrated on.
    pub(super) whole_base: f64,
}

/// The factors on the two predictions, and what is added to a first token.
#[derive(Debug, Clone, Copy)]
struct Factors {
    ttft: f64,
    itl: f64,
    standing: f64,
}

impl BackendModel {
    pub(super) fn view(&self, asking: &Asking<'_>, now: Instant) -> View {
        let load = self.load.total(now);
        let alphas = Alphas::of(&asking.facts.objectives, &self.tuning);
        #[allow(clippy::cast_precision_loss, reason = "token counts are far below 2^52")]
        let prompt_tokens = asking.facts.input_tokens as f64;
        let cached_tokens = self.cached(asking).min(prompt_tokens - LEAST_UNCACHED).max(0.0);
        let uncached_tokens = (prompt_tokens - cached_tokens).max(LEAST_UNCACHED);
        let ttft_features = features::ttft(&load, uncached_tokens);
        let streams = load.streams + load.awaiting + 1.0;
        let prefill_rate = self.load.prefill_rate(now);
        let itl_features = features::itl(streams, load.kv_tokens + prompt_tokens, prefill_rate);
        let (ttft, itl) = (self.ttft.predict(&ttft_features), self.itl.predict(&itl_features));
        let factors = self.factors(alphas.ttft, now);
        let mut view = View {
            prompt_tokens,
            uncached_tokens,
            ttft_features,
            alphas,
            ttft,
            itl,
            outlook: Outlook { uncached_tokens, cached_tokens, ..self.state(asking, &alphas, &load, now) },
            whole_base: 0.0,
        };
        self.forecast(&mut view, asking, &factors, now);
        view
    }

    fn cached(&self, asking: &Asking<'_>) -> f64 {
        if !self.tuning.prefix || asking.prefix.blocks.is_empty() {
            return 0.0;
        }
        #[allow(clippy::cast_precision_loss, reason = "a few thousand blocks")]
        let blocks = self.prefix.leading(asking.prefix.blocks) as f64;
        blocks * asking.prefix.block_tokens.max(0.0)
    }

    /// Bias as old as it is, and what is known of answers that have not come yet.
    fn factors(&self, alpha: f64, now: Instant) -> Factors {
        let mut factors = Factors { ttft: 1.0, itl: 1.0, standing: 0.0 };
        if self.tuning.bias {
            let age = seconds(self.observed, now);
            factors.ttft = self.ttft_bias.factor(age);
            factors.itl = self.itl_bias.factor(age);
        }
        if !self.tuning.censored_evidence {
            return factors;
        }
        let bound = if self.tuning.calibration { self.ttft_bounds.factor(alpha) } else { 1.0 };
        factors.ttft *= (self.load.overdue(now) / bound).max(1.0);
        let usual = STANDING.0 * self.gap;
        if let Some(standing) = self.load.standing(now).filter(|standing| *standing > usual + STANDING.1) {
            factors.standing = standing;
            factors.itl = factors.itl.max((standing / usual).min(STANDING_MOST));
        }
        factors
    }

    /// What has nothing to do with predictions.
    fn state(&self, asking: &Asking<'_>, alphas: &Alphas, load: &Load, now: Instant) -> Outlook {
        let (observed, samples) = if asking.facts.stream {
            (self.observed, self.ttft.samples())
        } else {
            let pair = self.pair(asking.route, alphas);
            (pair.unstreamed_at, pair.unstreamed_samples)
        };
        let replicas = self.load.replicas();
        let idle = self.load.in_flight() == 0
            && now.saturating_duration_since(observed) > self.tuning.probe_idle.saturating_mul(replicas);
        let known = self.ttft.samples() >= PROVEN && self.itl.samples() >= PROVEN;
        let prefill = || self.ttft.weight(1) + self.ttft.weight(3) * features::crowding(load);
        Outlook {
            prefill_seconds: known.then(|| prefill() / features::PROMPT_UNIT),
            resident_itl: self.resident_itl(asking.route, now),
            awaiting: self.load.awaited(),
            probing: self.probing.is_under_way(now),
            probe_due: self.probing.is_due(observed, replicas, now),
            idle,
            unproven: samples < PROVEN,
            decode_seconds: known.then_some(load.streams + load.awaiting + 1.0),
            ..Outlook::default()
        }
    }

    fn resident_itl(&self, route: RouteSlot, now: Instant) -> Option<f64> {
        if !self.tuning.residents_guard {
            return None;
        }
        let others = self.pairs.iter().enumerate().filter(|(slot, _)| *slot != route.0);
        let residents =
            others.filter_map(|(_, pair)| pair.as_ref().and_then(|pair| Some((pair.promised_itl?, &pair.arrivals))));
        let here = |arrivals: &Rate| arrivals.may_reach(RESIDENT) && arrivals.per_second(now) >= RESIDENT;
        let mut least = None;
        for (itl, arrivals) in residents {
            if least.is_none_or(|least| itl < least) && here(arrivals) {
                least = Some(itl);
            }
        }
        least
    }

    fn forecast(&self, view: &mut View, asking: &Asking<'_>, factors: &Factors, now: Instant) {
        let pair = self.pair(asking.route, &view.alphas);
        let calibrated = |factor: f64| if self.tuning.calibration { factor } else { 1.0 };
        let ttft = Spread::new(view.ttft, factors.ttft, factors.standing);
        let itl = Spread::new(view.itl, factors.itl, 0.0);
        let ttft_bound = calibrated(self.ttft_bounds.factor(view.alphas.ttft));
        let itl_bound = calibrated(pair.itl.factor());
        let outlook = &mut view.outlook;
        outlook.ttft = ttft.bounded(ttft_bound);
        outlook.itl = itl.bounded(itl_bound);
        outlook.decode_seconds = outlook.decode_seconds.map(|batch| outlook.itl.central / batch);
        let (mean, upper) = (asking.output.mean.max(1.0), asking.output.upper);
        let whole = ttft.and(&itl, upper);
        let central = outlook.ttft.central + mean * outlook.itl.central;
        if !asking.facts.stream {
            let bias = pair.unstreamed_bias.factor(seconds(pair.unstreamed_at, now));
            view.whole_base = whole.expected * bias;
            let bound = calibrated(pair.unstreamed.factor());
            let hopeful = whole.hopeful * bias.min(1.0) * bound;
            outlook.e2e = Forecast { central: central * bias, bound: view.whole_base * bound, hopeful };
            return;
        }
        view.whole_base = whole.expected;
        outlook.e2e = if self.tuning.end_to_end_calibration {
            Forecast { central, ..whole.bounded(calibrated(pair.e2e.factor())) }
        } else {
            let sum = |ttft: f64, itl: f64| ttft + upper * itl;
            let bound = sum(outlook.ttft.bound, outlook.itl.bound);
            Forecast { central, bound, hopeful: sum(outlook.ttft.hopeful, outlook.itl.hopeful) }
        };
    }
}

/// A prediction with and without recent bad news.
#[derive(Debug, Clone, Copy)]
struct Spread {
    expected: f64,
    hopeful: f64,
}

impl Spread {
    fn new(raw: f64, factor: f64, more: f64) -> Self {
        Self { expected: raw * factor + more, hopeful: raw * factor.min(1.0) }
    }

    fn and(&self, one: &Self, times: f64) -> Self {
        Self { expected: self.expected + times * one.expected, hopeful: self.hopeful + times * one.hopeful }
    }

    fn bounded(&self, factor: f64) -> Forecast {
        Forecast { central: self.expected, bound: self.expected * factor, hopeful: self.hopeful * factor }
    }
}
