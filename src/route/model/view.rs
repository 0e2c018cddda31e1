//! What a backend's model makes of one request at one instant.
//!
//! Asked once per candidate of every decision, so it copies little, and never takes the logarithm or exponential of what
//! can be kept as a factor.

use std::time::{Duration, Instant};

use super::pair::{Alphas, PairModel};
use super::{Asking, BackendModel, features, slot};
use crate::route::load::Load;
use crate::route::moment::Moment;
use crate::route::outlier::Pace;
use crate::route::predict::Features;
use crate::route::snapshot::{Forecast, Outlook, RouteSlot};
use crate::units::Quantile;

/// Prompt tokens that are computed even when the whole prompt is cached.
const LEAST_UNCACHED: f64 = 16.0;
/// Below so many observations a model is still its prior.
const PROVEN: u64 = 8;
/// From so many observations on, what is usual is known.
const KNOWN: u64 = 50;
/// What was seen within so many seconds was seen lately.
const LATELY: f64 = 30.0;
/// Other routes' streams count as residents when so many arrive per second.
const RESIDENT: f64 = 0.2;
/// Streams that stand still for longer than so many gaps, and so many seconds, are late.
const STANDING: (f64, f64) = (6.0, 0.05);
/// Standing still multiplies the expected gap by no more than this.
const STANDING_MOST: f64 = 7.389;

/// What is expected of one request at one backend: a decision's forecasts and a request's ticket are drawn from it.
#[derive(Debug, Clone, Copy)]
pub(super) struct View {
    pub(super) alphas: Alphas,
    pub(super) prompt_tokens: f64,
    cached_tokens: f64,
    pub(super) uncached_tokens: f64,
    pub(super) ttft_features: Features,
    /// The TTFT model's raw prediction.
    pub(super) ttft: f64,
    pub(super) first: Spread,
    /// From that to its bound.
    first_bound: f64,
    pub(super) gap: Spread,
    load: Load,
    /// How long ago a first token was last seen, in seconds.
    rested: f64,
}

/// A prediction, in seconds, with and without recent bad news.
#[derive(Debug, Clone, Copy)]
pub(super) struct Spread {
    pub(super) expected: f64,
    hopeful: f64,
}

/// From predictions to bounds, for one route.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    gap: f64,
    whole: f64,
    /// How much longer whole answers take than their parts say: of unstreamed ones, else 1.
    bias: f64,
}

impl BackendModel {
    /// What to expect of the backend if this request were sent there now. Allocates nothing.
    #[must_use]
    pub fn outlook(&self, asking: &Asking<'_>, now: Instant) -> Outlook {
        let now = self.moment(now);
        let view = self.view(asking, now);
        let bounds = self.bounds(asking, &view.alphas, now);
        let ttft = view.first.bounded(view.first_bound);
        let itl = view.gap.bounded(bounds.gap);
        let batch = view.load.streams + view.load.awaiting + 1.0;
        let known = self.ttft.samples() >= PROVEN && self.itl.samples() >= PROVEN;
        let prefill = || self.ttft.weight(1) + self.ttft.weight(3) * features::crowding(&view.load);
        let (rested, samples) = self.rested(asking, &view, now);
        let replicas = self.load.replicas();
        Outlook {
            ttft,
            itl,
            e2e: self.whole(asking, &view, &bounds, (&ttft, &itl)),
            uncached_tokens: view.uncached_tokens,
            cached_tokens: view.cached_tokens,
            prefill_seconds: known.then(|| prefill() * features::PER_TOKEN),
            decode_seconds: known.then(|| itl.central / batch),
            resident_itl: self.resident_itl(asking.route, now),
            awaiting: self.load.awaited(),
            queue: view.load.awaiting,
            // More of what is held back would prove nothing.
            unproven: samples < PROVEN && !self.held_back,
            probing: self.probing.is_under_way(now),
            probe_due: self.probing.is_due(rested, replicas, now),
            idle: self.load.in_flight() == 0 && rested > self.tuning.probe_idle.as_secs_f64() * f64::from(replicas),
        }
    }

    /// Within which time the first token of such a stream comes, for that share of them; `None` while so little was
    /// observed that it would be a guess.
    pub fn first_token_within(&mut self, asking: &Asking<'_>, quantile: Quantile, now: Instant) -> Option<Duration> {
        if self.ttft.samples() < PROVEN || self.held_back {
            return None;
        }
        let alpha = 1.0 - quantile.share();
        self.ttft_bounds.follow(alpha);
        let expected = self.view(asking, self.moment(now)).first.expected;
        Duration::try_from_secs_f64(expected * self.calibrated(self.ttft_bounds.factor(alpha))).ok()
    }

    /// What is expected now of one and the same usual request; `None` while too little is known, or nothing was seen
    /// lately.
    #[must_use]
    pub fn pace(&self, now: Instant) -> Option<Pace> {
        let rested = self.moment(now).since(self.observed);
        if self.ttft.samples() < KNOWN || rested > LATELY || self.held_back {
            return None;
        }
        let load = Load { streams: 4.0, kv_tokens: 4_000.0, ..Load::default() };
        let ttft = self.ttft.predict(&features::ttft(&load, 500.0)) * self.ttft_bias.value().exp();
        let itl = self.itl.predict(&features::itl(load.streams, load.kv_tokens, 0.0)) * self.itl_bias.value().exp();
        Some(Pace { ttft, itl })
    }

    pub(super) fn view(&self, asking: &Asking<'_>, now: Moment) -> View {
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
        let ttft = self.ttft.predict(&ttft_features);
        let rested = now.since(self.observed);
        let first_bound = self.calibrated(self.ttft_bounds.factor(alphas.ttft));
        let (first, gap) = self.believed(ttft, self.itl.predict(&itl_features), (first_bound, rested), now);
        View {
            alphas,
            prompt_tokens,
            cached_tokens,
            uncached_tokens,
            ttft_features,
            ttft,
            first,
            first_bound,
            gap,
            load,
            rested,
        }
    }

    /// What the bound of a whole answer is calibrated on: the longest of ten answers, as its parts say.
    pub(super) fn whole_base(&self, asking: &Asking<'_>, view: &View, now: Moment) -> f64 {
        let bias = self.bounds(asking, &view.alphas, now).bias;
        view.first.and(&view.gap, asking.output.upper).expected * bias
    }

    fn cached(&self, asking: &Asking<'_>) -> f64 {
        if !self.tuning.prefix || asking.prefix.blocks.is_empty() {
            return 0.0;
        }
        #[allow(clippy::cast_precision_loss, reason = "a few thousand blocks")]
        let blocks = self.prefix.leading(asking.prefix.blocks) as f64;
        blocks * asking.prefix.block_tokens.max(0.0)
    }

    /// The two predictions with their biases, as old as they are, and with what is known of answers that have not come.
    fn believed(&self, ttft: f64, itl: f64, (first_bound, rested): (f64, f64), now: Moment) -> (Spread, Spread) {
        let (mut slower, mut wider, mut standing) = (1.0, 1.0, 0.0);
        if self.tuning.bias {
            (slower, wider) = (self.ttft_bias.factor(rested), self.itl_bias.factor(rested));
        }
        if self.tuning.censored_evidence {
            if let Some(overdue) = self.load.overdue(now) {
                slower *= (overdue / first_bound).max(1.0);
            }
            let usual = STANDING.0 * self.gap;
            if let Some(still) = self.load.standing(now).filter(|still| *still > usual + STANDING.1) {
                standing = still;
                wider = wider.max((still / usual).min(STANDING_MOST));
            }
        }
        (Spread::new(ttft, slower, standing), Spread::new(itl, wider, 0.0))
    }

    fn calibrated(&self, factor: f64) -> f64 {
        if self.tuning.calibration { factor } else { 1.0 }
    }

    fn bounds(&self, asking: &Asking<'_>, alphas: &Alphas, now: Moment) -> Bounds {
        let Some(pair) = self.pair(asking.route) else {
            let fresh = PairModel::new(alphas, &self.tuning, now);
            return self.bounds_of(&fresh, asking, now);
        };
        self.bounds_of(pair, asking, now)
    }

    fn bounds_of(&self, pair: &PairModel, asking: &Asking<'_>, now: Moment) -> Bounds {
        let offsets = self.offsets(asking);
        let gap = self.calibrated(pair.itl.factor() * offsets.itl.factor);
        if asking.facts.stream {
            let whole = self.calibrated(pair.e2e.factor() * offsets.e2e.factor);
            return Bounds { gap, whole, bias: 1.0 };
        }
        let bias = if self.tuning.bias { pair.unstreamed_bias.factor(now.since(pair.unstreamed_at)) } else { 1.0 };
        Bounds { gap, whole: self.calibrated(pair.unstreamed.factor()), bias }
    }

    fn whole(
        &self,
        asking: &Asking<'_>,
        view: &View,
        bounds: &Bounds,
        (ttft, itl): (&Forecast, &Forecast),
    ) -> Forecast {
        let upper = asking.output.upper;
        let central = (ttft.central + asking.output.mean.max(1.0) * itl.central) * bounds.bias;
        if asking.facts.stream && !self.tuning.end_to_end_calibration {
            let sum = |ttft: f64, itl: f64| ttft + upper * itl;
            return Forecast { central, bound: sum(ttft.bound, itl.bound), hopeful: sum(ttft.hopeful, itl.hopeful) };
        }
        let longest = view.first.and(&view.gap, upper);
        let bound = longest.expected * bounds.bias * bounds.whole;
        Forecast { central, bound, hopeful: longest.hopeful * bounds.bias.min(1.0) * bounds.whole }
    }

    /// For how long, and how often, answers of the request's kind were observed.
    fn rested(&self, asking: &Asking<'_>, view: &View, now: Moment) -> (f64, u64) {
        if asking.facts.stream {
            return (view.rested, self.ttft.samples());
        }
        let seen = |pair: &PairModel| (now.since(pair.unstreamed_at), pair.unstreamed_samples);
        self.pair(asking.route).map_or((now.since(Moment::START), 0), seen)
    }

    fn resident_itl(&self, route: RouteSlot, now: Moment) -> Option<f64> {
        if !self.tuning.residents_guard {
            return None;
        }
        let (own, mut least) = (slot(route), None::<f64>);
        let others = self.pairs.iter().enumerate().filter(|(slot, _)| *slot != own);
        for pair in others.filter_map(|(_, pair)| pair.as_ref()) {
            if let Some(itl) = pair.promised_itl.filter(|itl| least.is_none_or(|least| *itl < least))
                && pair.arrivals.reaches(RESIDENT, now)
            {
                least = Some(itl);
            }
        }
        least
    }
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
