//! When requests are sent, and how long each is. Pure: a seed decides everything.
//!
//! An open loop (constant, Poisson, trace) sends at its times whether or not answers came; a closed loop sends whenever
//! one of its places is free, so it slows down with the server and hides queueing. Warm-up is a schedule of its own
//! that ends before the measured one begins.

use std::sync::Arc;
use std::time::Duration;

use crate::random::Random;
use crate::trace::TraceRow;

/// The rule that says when.
#[derive(Debug, Clone)]
pub enum Load {
    /// So many requests under way, always.
    Closed {
        /// How many.
        concurrency: usize,
    },
    /// One request every `1 / per_second`.
    Constant {
        /// Requests per second.
        per_second: f64,
    },
    /// Gaps drawn from an exponential distribution: the arrivals of many independent users.
    Poisson {
        /// Requests per second, on average.
        per_second: f64,
    },
    /// The times and lengths of recorded requests.
    Trace {
        /// The requests, in the order of their times.
        rows: Arc<[TraceRow]>,
        /// How many times faster than recorded.
        speed: f64,
        /// Whether it begins anew at its end.
        repeat: bool,
    },
}

/// Lengths drawn from a normal distribution, never below 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Lengths {
    /// The mean, in tokens.
    pub mean: f64,
    /// The standard deviation, in tokens.
    pub stddev: f64,
}

impl Lengths {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to the range of the type")]
    fn draw(self, random: &mut Random) -> u32 {
        let spread = if self.stddev > 0.0 { self.stddev * random.gauss() } else { 0.0 };
        (self.mean + spread).round().clamp(1.0, 4_000_000.0) as u32
    }
}

/// Where a schedule ends; the first limit that is reached counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limit {
    /// After so many requests.
    pub count: Option<u64>,
    /// Before this time.
    pub duration: Option<Duration>,
}

/// One request to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Planned {
    /// Its place in the schedule, from 0.
    pub index: u64,
    /// When to send it, from the start; zero in a closed loop, which sends when a place is free.
    pub at: Duration,
    /// Tokens of prompt.
    pub input_tokens: u32,
    /// Tokens of answer; `None` leaves them to the model.
    pub output_tokens: Option<u32>,
}

/// The requests to come, in order. Endless without a [`Limit`], unless the load is a trace that is not repeated.
#[derive(Debug, Clone)]
pub struct Schedule {
    load: Load,
    input: Lengths,
    output: Option<Lengths>,
    limit: Limit,
    random: Random,
    index: u64,
    clock: Duration,
}

impl Schedule {
    /// A schedule; `input` and `output` are the lengths where the load does not bring its own.
    #[must_use]
    pub fn new(load: Load, input: Lengths, output: Option<Lengths>, limit: Limit, seed: u64) -> Self {
        Self { load, input, output, limit, random: Random::seeded(seed), index: 0, clock: Duration::ZERO }
    }

    /// Requests under way at most: `None` in an open loop.
    #[must_use]
    pub fn concurrency(&self) -> Option<usize> {
        match self.load {
            Load::Closed { concurrency } => Some(concurrency),
            _ => None,
        }
    }

    /// Where it ends.
    #[must_use]
    pub fn limit(&self) -> Limit {
        self.limit
    }

    /// The request of a synthetic load at that time.
    fn synthetic(&mut self, at: Duration) -> Planned {
        let input_tokens = self.input.draw(&mut self.random);
        let output_tokens = self.output.map(|lengths| lengths.draw(&mut self.random));
        Planned { index: self.index, at, input_tokens, output_tokens }
    }

    fn planned(&mut self) -> Option<Planned> {
        Some(match &self.load {
            Load::Closed { .. } => self.synthetic(Duration::ZERO),
            // From the index, not from a sum: the thousandth is not a thousand roundings late.
            Load::Constant { per_second } => {
                let at = seconds(to_float(self.index) / per_second);
                self.synthetic(at)
            }
            Load::Poisson { per_second } => {
                self.clock = self.clock.saturating_add(seconds(self.random.exponential() / per_second));
                self.synthetic(self.clock)
            }
            Load::Trace { rows, speed, repeat } => {
                let (round, row) = row_at(rows, self.index, *repeat)?;
                let whole = period(rows).mul_f64(to_float(round));
                Planned {
                    index: self.index,
                    at: seconds(whole.saturating_add(row.at).as_secs_f64() / speed),
                    input_tokens: row.input_tokens,
                    output_tokens: Some(row.output_tokens),
                }
            }
        })
    }
}

impl Iterator for Schedule {
    type Item = Planned;

    fn next(&mut self) -> Option<Planned> {
        if self.limit.count.is_some_and(|count| self.index >= count) {
            return None;
        }
        let planned = self.planned()?;
        if self.limit.duration.is_some_and(|duration| planned.at >= duration) {
            return None;
        }
        self.index += 1;
        Some(planned)
    }
}

/// The row of a request, and how often the trace ended before it.
fn row_at(rows: &[TraceRow], index: u64, repeat: bool) -> Option<(u64, TraceRow)> {
    let round = index.checked_div(rows.len() as u64)?;
    let row = rows.get(usize::try_from(index % rows.len() as u64).ok()?)?;
    (repeat || round == 0).then_some((round, *row))
}

/// The length of a trace with the gap after its last row, which is taken as the mean gap.
#[allow(clippy::cast_precision_loss, reason = "rows fit a float")]
fn period(rows: &[TraceRow]) -> Duration {
    let span = rows.last().map(|row| row.at).unwrap_or_default();
    span.saturating_add(span.div_f64(rows.len().saturating_sub(1).max(1) as f64))
}

fn seconds(value: f64) -> Duration {
    Duration::try_from_secs_f64(value).unwrap_or(Duration::MAX)
}

#[allow(clippy::cast_precision_loss, reason = "below 2^53")]
fn to_float(value: u64) -> f64 {
    value as f64
}

#[cfg(test)]
#[allow(clippy::cast_precision_loss, reason = "small numbers")]
mod tests {
    use super::*;

    const LENGTHS: Lengths = Lengths { mean: 200.0, stddev: 20.0 };

    fn schedule(load: Load, count: u64) -> Vec<Planned> {
        Schedule::new(load, LENGTHS, Some(LENGTHS), Limit { count: Some(count), duration: None }, 7).collect()
    }

    fn trace(repeat: bool) -> Load {
        let row = |at, input_tokens| TraceRow { at: Duration::from_secs(at), input_tokens, output_tokens: 9 };
        Load::Trace { rows: vec![row(0, 1), row(2, 2), row(10, 3)].into(), speed: 2.0, repeat }
    }

    #[track_caller]
    fn check_times(load: Load, count: u64, expected: &[f64]) {
        let times: Vec<f64> = schedule(load, count).iter().map(|planned| planned.at.as_secs_f64()).collect();
        assert_eq!(times, expected);
    }

    #[test]
    fn a_constant_rate_has_equal_gaps_and_no_drift() {
        check_times(Load::Constant { per_second: 4.0 }, 4, &[0.0, 0.25, 0.5, 0.75]);
        let late = schedule(Load::Constant { per_second: 3.0 }, 300_001).pop().expect("planned");
        assert_eq!(late.at, Duration::from_secs(100_000));
    }

    #[test]
    fn a_closed_loop_has_no_times_of_its_own() {
        check_times(Load::Closed { concurrency: 3 }, 3, &[0.0, 0.0, 0.0]);
    }

    #[test]
    fn a_trace_keeps_its_times_and_lengths_faster_and_over_again() {
        check_times(trace(false), 9, &[0.0, 1.0, 5.0]);
        // The period is the span and one mean gap: 10 s + 5 s, at twice the speed.
        check_times(trace(true), 5, &[0.0, 1.0, 5.0, 7.5, 8.5]);
        let planned = schedule(trace(false), 2);
        assert_eq!((planned[1].input_tokens, planned[1].output_tokens), (2, Some(9)));
    }

    #[test]
    fn the_gaps_of_a_poisson_load_have_the_mean_and_the_spread_of_an_exponential() {
        let planned = schedule(Load::Poisson { per_second: 50.0 }, 20_000);
        let gaps: Vec<f64> = planned.windows(2).map(|two| two[1].at.as_secs_f64() - two[0].at.as_secs_f64()).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        assert!((mean - 0.02).abs() < 0.0006, "{mean}");
        // The coefficient of variation of an exponential distribution is 1.
        assert!((variance.sqrt() / mean - 1.0).abs() < 0.03, "{}", variance.sqrt() / mean);
        let above = gaps.iter().filter(|gap| **gap > 0.02).count() as f64 / gaps.len() as f64;
        assert!((above - (-1.0_f64).exp()).abs() < 0.01, "{above}");
    }

    #[test]
    fn lengths_have_their_mean_and_spread_and_are_never_zero() {
        let planned = schedule(Load::Closed { concurrency: 1 }, 20_000);
        let lengths: Vec<f64> = planned.iter().map(|planned| f64::from(planned.input_tokens)).collect();
        let mean = lengths.iter().sum::<f64>() / lengths.len() as f64;
        let std = (lengths.iter().map(|length| (length - mean).powi(2)).sum::<f64>() / lengths.len() as f64).sqrt();
        assert!((mean - 200.0).abs() < 0.6 && (std - 20.0).abs() < 0.5, "{mean} {std}");
        let mut random = Random::seeded(1);
        assert!((0..1000).all(|_| Lengths { mean: 1.0, stddev: 50.0 }.draw(&mut random) >= 1));
        assert_eq!(Lengths { mean: 200.0, stddev: 0.0 }.draw(&mut random), 200);
    }

    #[test]
    fn the_seed_decides_everything_and_a_limit_of_time_ends_it() {
        let of = |seed| {
            let limit = Limit { count: None, duration: Some(Duration::from_secs(5)) };
            Schedule::new(Load::Poisson { per_second: 20.0 }, LENGTHS, None, limit, seed).collect::<Vec<_>>()
        };
        assert_eq!(of(1), of(1));
        assert_ne!(of(1), of(2));
        assert!(of(1).iter().all(|planned| planned.at < Duration::from_secs(5)));
        assert!((60..140).contains(&of(1).len()), "{}", of(1).len());
    }
}
