//! What one route has learned, whatever the backend: how long its answers are, and how well it keeps its promise.

use crate::measure::objective::Objectives;

/// Output tokens to expect.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Output {
    /// On average.
    pub mean: f64,
    /// Exceeded by one answer in ten.
    pub upper: f64,
}

impl Output {
    /// No more than were asked for.
    #[must_use]
    pub fn at_most(self, max_tokens: Option<u64>) -> Self {
        #[allow(clippy::cast_precision_loss, reason = "token counts are far below 2^52")]
        let most = max_tokens.map_or(f64::INFINITY, |most| most.max(1) as f64);
        Self { mean: self.mean.min(most), upper: self.upper.min(most) }
    }
}

impl Default for Output {
    fn default() -> Self {
        Self { mean: 100.0, upper: 200.0 }
    }
}

/// What one route has learned.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct RouteModel {
    output: Output,
    margin: f64,
    fast_misses: f64,
    slow_misses: f64,
}

impl RouteModel {
    /// Output tokens to expect of a request.
    #[must_use]
    pub fn output(&self, max_tokens: Option<u64>) -> Output {
        self.output.at_most(max_tokens)
    }

    /// How much more distance than calibrated the route keeps from its objectives, in log units.
    #[must_use]
    pub fn margin(&self) -> f64 {
        self.margin
    }

    /// Share of misses over about the last 20 requests.
    #[must_use]
    pub fn fast_misses(&self) -> f64 {
        self.fast_misses
    }

    /// Share of misses over about the last 100 requests.
    #[must_use]
    pub fn slow_misses(&self) -> f64 {
        self.slow_misses
    }

    /// An answer was whole, and this long.
    pub fn answered(&mut self, output_tokens: u64) {
        let _ = output_tokens;
    }

    /// A request was judged by the objectives (not: cancelled, refused). `feasible` says whether it was sent where it
    /// was predicted to keep them: only such requests move the margin, or overload would wind it up.
    pub fn judged(&mut self, good: bool, feasible: bool, objectives: &Objectives) {
        let _ = (good, feasible, objectives);
    }

    /// A request was turned away.
    pub fn shed(&mut self) {
        self.fast_misses += 0.05 * (1.0 - self.fast_misses);
    }
}
