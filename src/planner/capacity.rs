//! The highest load at which a route's objectives hold, and what a backend does there.

use crate::measure::objective::{Latency, Objective, Objectives};
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
    /// Up to here: at a load above too many requests failed.
    Fails,
    /// At the highest load that was measured, and perhaps beyond.
    AtLeast,
}

/// Why the objectives hold at no load.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Missed {
    /// At the lowest load already, one is missed.
    Objective {
        /// Which.
        latency: Latency,
        /// What came out, as a share of the threshold; infinite where none showed it.
        ratio: f64,
        /// The load.
        concurrency: u32,
    },
    /// At the lowest load already, too many requests failed.
    Failures {
        /// Their share.
        share: f64,
        /// The load.
        concurrency: u32,
    },
    /// Nothing was measured.
    Unmeasured,
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
    /// Between the highest load that keeps the objectives and the lowest above it that does not, each objective's log
    /// latency is taken to lie on a line; the one that crosses its threshold first counts.
    ///
    /// # Errors
    /// What is missed at the lowest load already.
    pub fn of(points: &[Point], objectives: &Objectives) -> Result<Self, Missed> {
        let mut sorted: Vec<&Point> = points.iter().filter(|point| !point.samples.is_empty()).collect();
        sorted.sort_by_key(|point| point.concurrency);
        let misses =
            |point: &&&Point| point.fails() || point.tightest(objectives).is_some_and(|(_, ratio)| ratio > 1.0);
        let kept = sorted.iter().take_while(|point| !misses(point)).count();
        let Some(last) = kept.checked_sub(1).and_then(|place| sorted.get(place)) else {
            return Err(sorted.first().map_or(Missed::Unmeasured, |lowest| Missed::at(lowest, objectives)));
        };
        let Some(above) = sorted.get(kept) else { return Ok(Self::at(last, Extent::AtLeast)) };
        if above.fails() {
            return Ok(Self::at(last, Extent::Fails));
        }
        let crossings = objectives.iter().filter_map(|one| Some((one.latency, crossing(one, last, above)?)));
        let Some((breaks, share)) = crossings.min_by(|one, other| one.1.total_cmp(&other.1)) else {
            return Ok(Self::at(last, Extent::AtLeast));
        };
        Ok(Self::at(last, Extent::Until { breaks }).towards(&Self::at(above, Extent::AtLeast), share))
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

impl Missed {
    fn at(lowest: &Point, objectives: &Objectives) -> Self {
        let concurrency = lowest.concurrency;
        match lowest.tightest(objectives) {
            Some((latency, ratio)) if !lowest.fails() => Self::Objective { latency, ratio, concurrency },
            _ => Self::Failures { share: lowest.failure_share(), concurrency },
        }
    }
}

/// How far from the load below to the load above an objective's threshold lies; `None` where it is kept above, too. A
/// latency that nobody shows above is crossed at once.
fn crossing(objective: &Objective, below: &Point, above: &Point) -> Option<f64> {
    let over = above.ratio(objective).filter(|over| *over > 1.0)?;
    let under = below.ratio(objective).filter(|under| *under > 0.0)?;
    let share = -under.ln() / (over.ln() - under.ln());
    Some(if share.is_finite() { share.clamp(0.0, 1.0) } else { 0.0 })
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
    use super::*;
    use crate::planner::testing::{failure, point, promise};

    /// TTFT of 100, 200 and 800 ms at 1, 4 and 16 clients.
    fn points() -> Vec<Point> {
        vec![point(16, 800, 10), point(1, 100, 10), point(4, 200, 10)]
    }

    #[track_caller]
    fn check(ttft: u64, extent: Extent, concurrency: f64) {
        let capacity = Capacity::of(&points(), &promise(ttft, 1_000)).expect("kept");
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
        let missed = Missed::Objective { latency: Latency::TimeToFirstToken, ratio: 2.0, concurrency: 1 };
        assert_eq!(Capacity::of(&points(), &promise(50, 1_000)), Err(missed));
        assert_eq!(Capacity::of(&[], &promise(50, 1_000)), Err(Missed::Unmeasured));
        let nothing = Capacity::of(&points(), &Objectives::default()).expect("nothing is promised");
        assert_eq!((nothing.extent, nothing.concurrency), (Extent::AtLeast, 16.0));
    }

    #[test]
    fn the_objective_that_is_crossed_first_says_where() {
        // TTFT crosses 400 halfway up, ITL 20 already after a third of the way from 16 to 31.3 on a log scale.
        let points = [point(4, 200, 16), point(16, 800, 31)];
        let capacity = Capacity::of(&points, &promise(400, 20)).expect("kept");
        assert_eq!(capacity.extent, Extent::Until { breaks: Latency::InterToken });
        let share = (20.0_f64 / 16.0).ln() / (31.0_f64 / 16.0).ln();
        assert!((capacity.concurrency - (4.0 + 12.0 * share)).abs() < 1e-6, "{capacity:?}");
    }

    #[test]
    fn a_load_that_fails_is_not_reached_whatever_is_promised() {
        for (promised, some) in [(promise(400, 1_000), 10), (Objectives::default(), 10), (Objectives::default(), 0)] {
            let mut points = points();
            // All of them, or half.
            points[0].samples.truncate(some);
            points[0].samples.extend(vec![failure(1); 10]);
            let capacity = Capacity::of(&points, &promised).expect("kept");
            assert_eq!((capacity.extent, capacity.concurrency), (Extent::Fails, 4.0), "{capacity:?}");
        }
        let mut lowest = point(1, 100, 10);
        lowest.samples = vec![failure(1); 4];
        assert_eq!(Capacity::of(&[lowest], &promise(400, 40)), Err(Missed::Failures { share: 1.0, concurrency: 1 }));
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
