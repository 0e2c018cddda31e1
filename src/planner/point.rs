//! One load, and every request that was measured at it.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::measure::exchange::Latencies;
use crate::measure::objective::{Latency, Objective, Objectives};
use crate::measure::percentile::percentile;
use crate::route::model::Measured;
use crate::units::Quantile;

/// Requests that may fail at a load that a backend can be said to carry.
pub(super) const MOST_FAILED: f64 = 0.1;
/// Gaps below this are none that a clock could tell: the answer came in one piece.
const LEAST_GAP: Duration = Duration::from_micros(1);

/// What requests look like: tokens of prompt and of answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Shape {
    /// Prompt tokens.
    pub input_tokens: u32,
    /// Output tokens.
    pub output_tokens: u32,
}

/// One request.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Sample {
    /// When it was sent, from the beginning of its point.
    pub started: Duration,
    /// What its client felt; nothing where it failed.
    pub latencies: Latencies,
    /// How long its client was busy with it: to the end of the answer, which may be after the last token.
    pub took: Duration,
    /// Prompt tokens.
    pub input_tokens: u64,
    /// Output tokens.
    pub output_tokens: u64,
    /// Whether it failed.
    pub failed: bool,
    /// Whether it is of the steady middle of its point. Those that all came at once at the beginning, or were left alone
    /// at the end, are company of the others and nothing else.
    pub steady: bool,
}

/// So many clients in a closed loop, and what they felt.
#[derive(Debug, Clone, PartialEq)]
pub struct Point {
    /// What was asked for.
    pub shape: Shape,
    /// Clients at once.
    pub concurrency: u32,
    /// The requests, in the order in which they were sent.
    pub samples: Vec<Sample>,
    /// Those that failed, by what was wrong with them.
    pub errors: BTreeMap<String, u64>,
}

impl Sample {
    /// When its first token came, from the beginning of its point.
    #[must_use]
    pub fn first_token(&self) -> Duration {
        self.started.saturating_add(self.latencies.first_token.unwrap_or_default())
    }

    /// When its last token came, from the beginning of its point.
    #[must_use]
    pub fn ended(&self) -> Duration {
        self.started.saturating_add(self.latencies.end_to_end.unwrap_or_default())
    }

    fn latency(&self, latency: Latency) -> Option<Duration> {
        match latency {
            Latency::TimeToFirstToken => self.latencies.first_token,
            Latency::TimeToFirstOutputToken => self.latencies.first_output,
            Latency::InterToken => self.latencies.inter_token.filter(|itl| *itl >= LEAST_GAP),
            Latency::InterChunk => None,
            Latency::EndToEnd => self.latencies.end_to_end,
        }
    }
}

#[allow(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
impl Point {
    /// Of requests in the order in which they were sent: as many as there are clients came at once at the beginning, and as
    /// many were left alone at the end. Where the rest would be few, those count too.
    #[must_use]
    pub fn new(shape: Shape, concurrency: u32, mut samples: Vec<Sample>, errors: BTreeMap<String, u64>) -> Self {
        let (all, clients) = (samples.len(), concurrency as usize);
        let steady = match all {
            _ if clients <= 1 => 0..all,
            _ if all >= 3 * clients => clients..all - clients,
            _ if all >= 2 * clients => clients..all,
            _ => 0..all,
        };
        for (place, sample) in samples.iter_mut().enumerate() {
            sample.steady = steady.contains(&place);
        }
        Self { shape, concurrency, samples, errors }
    }

    /// The answers that count.
    pub(super) fn steady(&self) -> impl Iterator<Item = &Sample> {
        self.samples.iter().filter(|sample| sample.steady && !sample.failed)
    }

    /// A quantile of a latency over the answers that have it, in seconds.
    #[must_use]
    pub fn quantile(&self, latency: Latency, quantile: Quantile) -> Option<f64> {
        self.quantile_of(latency, quantile, 0)
    }

    /// What comes out at a quantile of an objective, as a share of its threshold. A request that failed took forever, and
    /// so did all where none of them shows the latency; `None` where nothing was answered.
    #[must_use]
    pub fn ratio(&self, objective: &Objective) -> Option<f64> {
        let value = self.quantile_of(objective.latency, objective.quantile, self.failed());
        let value = value.or((!self.samples.is_empty()).then_some(f64::INFINITY))?;
        Some(value / objective.threshold.as_secs_f64())
    }

    /// The objective that is the nearest to being missed, or missed by the most, and by how much: above 1 it is missed.
    #[must_use]
    pub fn tightest(&self, objectives: &Objectives) -> Option<(Latency, f64)> {
        let ratios = objectives.iter().filter_map(|one| Some((one.latency, self.ratio(one)?)));
        ratios.max_by(|one, other| one.1.total_cmp(&other.1))
    }

    /// Whether too many of its requests failed for it to be a load that is carried.
    #[must_use]
    pub fn fails(&self) -> bool {
        self.failure_share() > MOST_FAILED
    }

    /// Output tokens per second of all clients together.
    #[must_use]
    pub fn tokens_per_second(&self) -> f64 {
        self.per_second(self.steady().map(|sample| sample.output_tokens).sum::<u64>() as f64)
    }

    /// Answers per second of all clients together.
    #[must_use]
    pub fn requests_per_second(&self) -> f64 {
        self.per_second(self.answers() as f64)
    }

    /// Prompt tokens of a request, on average.
    #[must_use]
    pub fn mean_input(&self) -> f64 {
        self.mean(|sample| sample.input_tokens)
    }

    /// Output tokens of an answer, on average.
    #[must_use]
    pub fn mean_output(&self) -> f64 {
        self.mean(|sample| sample.output_tokens)
    }

    /// Answers that count.
    #[must_use]
    pub fn answers(&self) -> usize {
        self.steady().count()
    }

    /// Share of requests that failed, of those that count.
    #[must_use]
    pub fn failure_share(&self) -> f64 {
        let failed = self.failed();
        failed as f64 / ((self.answers() + failed).max(1) as f64)
    }

    /// What the router starts from; `None` where it would learn from those that happened to be answered, or where tokens
    /// came in one piece.
    #[must_use]
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "means of token counts")]
    pub fn measured(&self) -> Option<Measured> {
        let median = |latency| {
            let time = Duration::try_from_secs_f64(self.quantile(latency, Quantile::P50)?).ok()?;
            (time >= LEAST_GAP).then_some(time)
        };
        Some(Measured {
            concurrency: self.concurrency,
            input_tokens: (self.mean_input().round() as u32).max(1),
            output_tokens: (self.mean_output().round() as u32).max(1),
            ttft: median(Latency::TimeToFirstToken)?,
            itl: median(Latency::InterToken)?,
        })
        .filter(|_| !self.fails())
    }

    fn failed(&self) -> usize {
        self.samples.iter().filter(|sample| sample.steady && sample.failed).count()
    }

    /// Clients of a closed loop, each sending when it has its answer: the rate follows from how long an answer takes, and
    /// a failure, so that neither the end of a run, when clients leave one by one, nor its beginning counts.
    fn per_second(&self, amount: f64) -> f64 {
        let steady = self.samples.iter().filter(|sample| sample.steady);
        let busy: f64 = steady.map(|sample| sample.took.as_secs_f64()).sum();
        if busy > 0.0 { amount * f64::from(self.concurrency) / busy } else { 0.0 }
    }

    fn mean(&self, of: impl Fn(&Sample) -> u64) -> f64 {
        self.steady().map(of).sum::<u64>() as f64 / (self.answers().max(1) as f64)
    }

    fn quantile_of(&self, latency: Latency, quantile: Quantile, failed: usize) -> Option<f64> {
        let answered = self.steady().filter_map(|sample| sample.latency(latency)).map(|time| time.as_secs_f64());
        let mut sorted: Vec<f64> = answered.chain(std::iter::repeat_n(f64::INFINITY, failed)).collect();
        sorted.sort_by(f64::total_cmp);
        percentile(&sorted, quantile.share() * 100.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::planner::testing::{failure, point, promise, sample};

    #[test]
    fn the_rate_of_a_closed_loop_is_its_clients_over_the_time_of_an_answer() {
        // Two seconds and 101 tokens each.
        let mut point = point(8, 1_000, 10);
        assert!((point.requests_per_second() - 4.0).abs() < 1e-9);
        assert!((point.tokens_per_second() - 404.0).abs() < 1e-9);
        assert_eq!((point.mean_input(), point.mean_output()), (200.0, 101.0));
        // Whoever fails for as long gives nothing in that time.
        point.samples.extend(vec![failure(2_000); 20]);
        assert!((point.requests_per_second() - 2.0).abs() < 1e-9);
    }

    #[test]
    fn the_tightest_objective_is_found_and_a_failure_is_a_miss_of_all() {
        let mut point = point(8, 100, 10);
        assert_eq!(point.tightest(&promise(200, 40)), Some((Latency::TimeToFirstToken, 0.5)));
        assert_eq!(point.tightest(&promise(400, 20)), Some((Latency::InterToken, 0.5)));
        assert_eq!(point.tightest(&Objectives::default()), None);
        point.samples.extend(vec![failure(1); 2]);
        assert_eq!(point.tightest(&promise(200, 40)).map(|(_, ratio)| ratio), Some(f64::INFINITY));
        assert!((point.failure_share() - 2.0 / 22.0).abs() < 1e-12 && !point.fails());
        point.samples.extend(vec![failure(1); 2]);
        assert!(point.fails() && point.measured().is_none());
    }

    #[test]
    fn failures_of_the_first_and_last_round_do_not_count() {
        let requests = [vec![failure(1); 4], vec![sample(100, 10); 12], vec![failure(1); 4]].concat();
        let shape = Shape { input_tokens: 200, output_tokens: 101 };
        let point = Point::new(shape, 4, requests, BTreeMap::new());
        assert_eq!((point.answers(), point.failure_share()), (12, 0.0));
    }

    #[test]
    fn tokens_that_come_in_one_piece_have_no_gap_and_keep_no_promise_of_one() {
        let mut point = point(1, 100, 10);
        point.samples.iter_mut().for_each(|sample| sample.latencies.inter_token = Some(Duration::ZERO));
        assert_eq!(point.tightest(&promise(200, 40)), Some((Latency::InterToken, f64::INFINITY)));
        assert_eq!((point.measured(), point.quantile(Latency::InterToken, Quantile::P50)), (None, None));
    }

    #[track_caller]
    fn counted(clients: u32, answers: usize, expected: core::ops::Range<usize>) {
        let shape = Shape { input_tokens: 200, output_tokens: 101 };
        let point = Point::new(shape, clients, vec![sample(1, 1); answers], BTreeMap::new());
        let steady: Vec<usize> = (0..answers).filter(|place| point.samples[*place].steady).collect();
        assert_eq!(steady, expected.collect::<Vec<_>>(), "{clients} clients, {answers} answers");
    }

    #[test]
    fn the_first_and_the_last_round_are_company_and_do_not_count() {
        counted(1, 5, 0..5);
        counted(4, 20, 4..16);
        counted(4, 12, 4..8);
        counted(4, 11, 4..11);
        counted(4, 7, 0..7);
    }

    #[test]
    fn the_router_starts_from_medians() {
        let mut point = point(4, 100, 10);
        point.samples.push(sample(900, 90));
        let ms = Duration::from_millis;
        let expected = Measured { concurrency: 4, input_tokens: 200, output_tokens: 101, ttft: ms(100), itl: ms(10) };
        assert_eq!(point.measured(), Some(expected));
        point.samples.clear();
        assert_eq!((point.measured(), point.tokens_per_second()), (None, 0.0));
    }
}
