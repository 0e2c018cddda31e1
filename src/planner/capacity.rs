//! The highest load at which a route's objectives hold, and what a backend does there.

use crate::measure::objective::{Latency, Objectives};
use crate::route::price::{Price, Work};

use super::point::Point;

/// How far the objectives hold.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Extent {
    /// Up to here: a load above was measured and misses this objective.
    Until {
        /// What is missed first.
        breaks: Latency,
    },
    /// At the highest load that was measured, and perhaps beyond.
    AtLeast,
}

/// What a backend does at the highest load at which the objectives hold.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Capacity {
    /// How far.
    pub extent: Extent,
    /// Clients at once.
    pub concurrency: f64,
    /// Answers per second.
    pub requests_per_second: f64,
    /// Output tokens per second.
    pub tokens_per_second: f64,
    /// Prompt tokens of a request.
    pub input_tokens: f64,
    /// Output tokens of an answer.
    pub output_tokens: f64,
}

impl Capacity {
    /// Of the points of one shape, in any order.
    ///
    /// Between the highest load that keeps the objectives and the lowest above it that does not, loads are taken to lie
    /// on a line of log latency.
    ///
    /// # Errors
    /// What is missed at the lowest load already, and by which factor; `None` where nothing was measured that says.
    pub fn of(points: &[Point], objectives: &Objectives) -> Result<Self, Option<(Latency, f64)>> {
        let mut sorted: Vec<&Point> = points.iter().filter(|point| !point.samples.is_empty()).collect();
        sorted.sort_by_key(|point| point.concurrency);
        let missed = |point: &&&Point| point.tightest(objectives).is_some_and(|(_, ratio)| ratio > 1.0);
        let kept = sorted.iter().take_while(|point| !missed(point)).count();
        let Some(last) = kept.checked_sub(1).and_then(|place| sorted.get(place)) else {
            return Err(sorted.first().and_then(|lowest| lowest.tightest(objectives)));
        };
        let first_missed = sorted.get(kept).and_then(|point| Some((point, point.tightest(objectives)?)));
        let Some((above, (breaks, over))) = first_missed else { return Ok(Self::at(last, Extent::AtLeast)) };
        let under = last.tightest(objectives).map_or(1.0, |(_, ratio)| ratio);
        // How far the threshold lies from the load below to the load above; where that failed, nothing lies between.
        let share = (-under.ln() / (over.ln() - under.ln())).clamp(0.0, 1.0);
        let share = if share.is_finite() && over.is_finite() { share } else { 0.0 };
        let (low, high) = (Self::at(last, Extent::Until { breaks }), Self::at(above, Extent::AtLeast));
        Ok(low.towards(&high, share))
    }

    fn at(point: &Point, extent: Extent) -> Self {
        Self {
            extent,
            concurrency: f64::from(point.concurrency),
            requests_per_second: point.requests_per_second(),
            tokens_per_second: point.tokens_per_second(),
            input_tokens: point.mean_input(),
            output_tokens: point.mean_output(),
        }
    }

    fn towards(&self, other: &Self, share: f64) -> Self {
        // More clients on a saturated engine may get less out of it; who keeps the promise gets what was seen.
        let between = |low: f64, high: f64| low + (high - low) * share;
        Self {
            concurrency: between(self.concurrency, other.concurrency),
            requests_per_second: between(self.requests_per_second, other.requests_per_second),
            tokens_per_second: between(self.tokens_per_second, other.tokens_per_second),
            ..*self
        }
    }

    /// What a million output tokens cost there, prompts included; `None` without a price.
    #[must_use]
    pub fn cost_per_mtok(&self, price: Option<&Price>) -> Option<f64> {
        cost_per_mtok(price?, self.tokens_per_second, (self.input_tokens, self.output_tokens))
    }
}

/// What a million output tokens cost, prompts included: by the hour at the rate at which they come, by the token as
/// priced, nothing cached.
#[must_use]
pub fn cost_per_mtok(price: &Price, tokens_per_second: f64, (input, output): (f64, f64)) -> Option<f64> {
    let cost = match *price {
        Price::PerGpuHour { per_gpu_hour, gpus } => per_gpu_hour * f64::from(gpus) / 3_600.0 / tokens_per_second * 1e6,
        Price::PerToken { .. } => {
            let (prefill_seconds, decode_seconds) = (None, None);
            let work = Work {
                uncached_tokens: input,
                cached_tokens: 0.0,
                output_tokens: output,
                prefill_seconds,
                decode_seconds,
            };
            price.of(&work) / output * 1e6
        }
    };
    cost.is_finite().then_some(cost)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::measure::objective::Objective;
    use crate::planner::point::testing::point;
    use crate::units::Quantile;

    fn promise(ttft: u64) -> Objectives {
        let (quantile, threshold) = (Quantile::P95, Duration::from_millis(ttft));
        let ttft = Some(Objective { latency: Latency::TimeToFirstToken, quantile, threshold });
        Objectives { ttft, ..Objectives::default() }
    }

    /// TTFT of 100, 200 and 800 ms at 1, 4 and 16 clients.
    fn points() -> Vec<Point> {
        vec![point(16, 800, 10), point(1, 100, 10), point(4, 200, 10)]
    }

    #[track_caller]
    fn check(ttft: u64, extent: Extent, concurrency: f64) {
        let capacity = Capacity::of(&points(), &promise(ttft)).expect("kept");
        assert_eq!(capacity.extent, extent, "{ttft}");
        assert!((capacity.concurrency - concurrency).abs() < 1e-6, "{ttft}: {capacity:?}");
    }

    #[test]
    fn a_promise_holds_up_to_between_the_loads_that_were_measured() {
        let until = Extent::Until { breaks: Latency::TimeToFirstToken };
        // Halfway in log latency from 200 to 800 is 400.
        check(400, until, 10.0);
        check(200, until, 4.0);
        check(100, until, 1.0);
        check(800, Extent::AtLeast, 16.0);
    }

    #[test]
    fn a_promise_that_one_client_alone_misses_has_no_load() {
        assert_eq!(Capacity::of(&points(), &promise(50)), Err(Some((Latency::TimeToFirstToken, 2.0))));
        assert_eq!(Capacity::of(&[], &promise(50)), Err(None));
        let nothing = Capacity::of(&points(), &Objectives::default()).expect("nothing is promised");
        assert_eq!((nothing.extent, nothing.concurrency), (Extent::AtLeast, 16.0));
    }

    #[test]
    fn a_load_that_fails_is_not_reached() {
        let mut points = points();
        points[0].failed = 10;
        let capacity = Capacity::of(&points, &promise(400)).expect("kept");
        assert!((capacity.concurrency - 4.0).abs() < 1e-9, "{capacity:?}");
    }

    #[test]
    fn a_million_tokens_cost_the_hours_they_take_or_what_they_are_priced_at() {
        let hourly = Price::PerGpuHour { per_gpu_hour: 3.6, gpus: 2 };
        assert!((cost_per_mtok(&hourly, 1_000.0, (0.0, 1.0)).expect("a cost") - 2.0).abs() < 1e-9);
        let price = Price::PerToken { input_per_mtok: 0.2, cached_input_per_mtok: 0.1, output_per_mtok: 0.6 };
        assert!((cost_per_mtok(&price, 1.0, (300.0, 100.0)).expect("a cost") - 1.2).abs() < 1e-9);
        assert_eq!(cost_per_mtok(&hourly, 0.0, (0.0, 1.0)), None);
    }
}
