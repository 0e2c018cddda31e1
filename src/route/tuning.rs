//! The rule's constants and switches, in one place: what is served is [`Tuning::default`], and whoever wants to know
//! what a part is worth switches it off and looks.

use std::time::Duration;

use super::calibrate::Stride;

/// Constants and switches of the prediction models and of the rule; see the fields.
#[derive(Debug, Clone, Copy, PartialEq)]
#[allow(clippy::struct_excessive_bools, reason = "each switches one independent part of the rule")]
pub struct Tuning {
    /// Share of requests that may exceed a calibrated bound; `None` takes it from the objective: 0.05 for p95.
    pub alpha: Option<f64>,
    /// Whether bounds are calibrated; without, a bound is the central prediction.
    pub calibration: bool,
    /// Step of the quantile trackers in log units; longer while a tracker is young.
    pub calibration_step: f64,
    /// Whether those steps are longer where residuals scatter wider.
    pub steps_by_spread: bool,
    /// Whether a route's bounds start from what all backends have shown, and each backend adds how it differs.
    pub pooling: bool,
    /// What the residual of a request counts that was sent although its bound missed the promise: a bound is to hold
    /// for those that it is relied on for.
    pub unpromised_weight: f64,
    /// Whether end-to-end bounds have a tracker of their own; without, they are the sum of the bounds of the parts.
    pub end_to_end_calibration: bool,
    /// Whether the fast log-bias corrects predictions.
    pub bias: bool,
    /// Gain of the fast bias of TTFT and of unstreamed answers.
    pub bias_gain: f64,
    /// Whether a first token that is overdue, or streams that stand still, raise predictions before anything arrives.
    pub censored_evidence: bool,
    /// Whether excluded backends are probed.
    pub probes: bool,
    /// Time between probes of a backend that keeps disappointing: from, to.
    pub probe_gap: (Duration, Duration),
    /// After so long without an answer a probe no longer stands in the way of the next.
    pub probe_life: Duration,
    /// After so long without an observation an idle excluded backend is probed.
    pub probe_idle: Duration,
    /// Whether a route that misses its promise keeps more distance from it.
    pub margin: bool,
    /// Whether a request that no bound can keep is given to a backend whose central prediction keeps it, before it is
    /// given up.
    pub median_fallback: bool,
    /// Whether a doomed request goes where it is cheapest, among those less than [`Self::sacrifice_most`] times as bad
    /// as the best; without, to the best.
    pub sacrifice: bool,
    /// See [`Self::sacrifice`].
    pub sacrifice_most: f64,
    /// Whether in overload the requests that need the most are turned away first.
    pub scarcity: bool,
    /// Whether a request keeps away from backends whose streams, promised a shorter ITL, it would slow too much.
    pub residents_guard: bool,
    /// Whether what is in a backend's prefix cache makes a prompt shorter and cheaper.
    pub prefix: bool,
    /// Tokens that a backend's key/value cache is taken to hold, until it says so itself.
    pub kv_capacity: f64,
    /// Whether cost decides among the backends that keep the promise; without, headroom does.
    pub cost: bool,
    /// Prices within this share of the cheapest count as the same.
    pub same_price: f64,
    /// Whether streams too short for a full sample of gaps teach the ITL model by their mean, at less weight.
    pub short_streams: bool,
    /// Whether what the engine reports beyond our own load is added to it.
    pub engine_correction: bool,
}

impl Tuning {
    /// How far quantile trackers move at once.
    #[must_use]
    pub fn stride(&self) -> Stride {
        Stride { step: self.calibration_step, by_spread: self.steps_by_spread }
    }
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            alpha: None,
            calibration: true,
            calibration_step: 0.05,
            steps_by_spread: true,
            pooling: true,
            unpromised_weight: 0.2,
            end_to_end_calibration: true,
            bias: true,
            bias_gain: 0.15,
            censored_evidence: true,
            probes: true,
            probe_gap: (Duration::from_secs(3), Duration::from_secs(30)),
            probe_life: Duration::from_secs(30),
            probe_idle: Duration::from_secs(10),
            margin: true,
            median_fallback: true,
            sacrifice: true,
            sacrifice_most: 20.0,
            scarcity: true,
            residents_guard: true,
            prefix: true,
            kv_capacity: 400_000.0,
            cost: true,
            same_price: 0.05,
            short_streams: true,
            engine_correction: true,
        }
    }
}
