//! The report: what a run measured, as a table for people and as files for programs.
//!
//! Statistics are over valid requests only and exact. Definitions are those of AIPerf (measurement reference, section
//! 2), names and layout those of GenAI-Perf.

mod aiperf;
mod columns;
pub mod console;
mod entries;
mod files;
pub mod html;
mod json_line;
mod over_time;

use std::collections::BTreeMap;
use std::time::Duration;

pub use aiperf::{RunInfo, csv as aiperf_csv, json as aiperf_json};
pub use files::{csv, json};
pub use json_line::{Place, write_json_line};

use self::columns::{COLUMNS, MANY, is_mismatched};
use self::over_time::{Course, Series};

use crate::bench::goodput::Goodput;
use crate::bench::record::{Metric, Phase, RequestRecord};
use crate::bench::statistics::{Adjusted, Summary};
use crate::measure::gaps::GapHistogram;
use crate::measure::percentile::percentile;

/// Records kept for the exact percentiles of one report; beyond it, further ones only count.
const MOST_RECORDS: usize = 1_000_000;

/// Gaps between content responses that are kept of a run.
const MOST_GAPS: usize = 1 << 21;

/// The metrics that are also reported with failures counted as endless.
const ADJUSTED: [Metric; 4] =
    [Metric::RequestLatency, Metric::TimeToFirstToken, Metric::DecodeDuration, Metric::InterTokenLatency];

/// Gathers records; what it keeps of each is a row of numbers.
#[derive(Debug, Default)]
pub struct Collector {
    goodput: Option<Goodput>,
    /// What AIPerf reports besides, where it was asked for.
    details: Option<Details>,
    warmup: bool,
    rows: Vec<[f64; Metric::ALL.len()]>,
    good: u64,
    valid: u64,
    output_tokens: u64,
    reasoning_tokens: u64,
    input_tokens: u64,
    errors: BTreeMap<String, u64>,
    gaps: GapHistogram,
    first: Option<Duration>,
    last: Duration,
    /// Of the segments that have ended.
    before: Duration,
    longest_lag: Duration,
}

#[derive(Debug, Default)]
struct Details {
    rows: Vec<[f64; MANY]>,
    mismatched: u64,
    course: Course,
    gaps: Gaps,
}

/// Every gap of every answer in milliseconds, for exact percentiles; none beyond a bound, where a histogram has to do.
#[derive(Debug, Default)]
struct Gaps {
    ms: Vec<f64>,
    overflown: bool,
}

impl Gaps {
    fn add(&mut self, record: &RequestRecord) {
        let Some(gaps) = record.gap_list.ms() else {
            self.overflown |= record.gap_list.is_overflown();
            return;
        };
        self.overflown |= self.ms.len() + gaps.len() > MOST_GAPS;
        if self.overflown {
            self.ms = Vec::new();
        } else {
            self.ms.extend(gaps);
        }
    }

    fn summary(&self) -> Option<Summary> {
        if self.overflown { None } else { Summary::of(&self.ms) }
    }
}

/// Points of a distribution that a report keeps, evenly spaced by rank.
pub const CURVE_POINTS: usize = 201;

impl Collector {
    /// An empty collector; with bounds it counts good requests too.
    #[must_use]
    pub fn new(goodput: Option<Goodput>) -> Self {
        Self { goodput, ..Self::default() }
    }

    /// One that also keeps what the files of AIPerf have besides.
    #[must_use]
    pub fn detailed(goodput: Option<Goodput>) -> Self {
        Self { details: Some(Details::default()), ..Self::new(goodput) }
    }

    /// The same, of the warm-up.
    #[must_use]
    pub fn of_warmup(goodput: Option<Goodput>) -> Self {
        Self { warmup: true, ..Self::detailed(goodput) }
    }

    /// Whether a request is good; `None` where there are no bounds.
    #[must_use]
    pub fn is_good(&self, record: &RequestRecord) -> Option<bool> {
        self.goodput.as_ref().map(|goodput| goodput.is_good(record))
    }

    /// Takes one record in; one of the other phase changes nothing.
    pub fn add(&mut self, record: &RequestRecord) {
        if (record.phase == Phase::Warmup) != self.warmup {
            return;
        }
        self.longest_lag = self.longest_lag.max(record.lag);
        if let Some(error) = &record.error {
            *self.errors.entry(error.to_string()).or_default() += 1;
            return;
        }
        self.valid += 1;
        self.good += u64::from(self.is_good(record) == Some(true));
        self.output_tokens += record.usage.output_tokens.unwrap_or(0);
        self.reasoning_tokens += record.usage.reasoning_tokens.unwrap_or(0);
        self.input_tokens += record.input_tokens();
        if let Some(gaps) = &record.gaps {
            self.gaps.merge(gaps);
        }
        let end = record.offset.saturating_add(record.latencies.end_to_end.unwrap_or_default());
        self.first = Some(self.first.map_or(record.offset, |first| first.min(record.offset)));
        self.last = self.last.max(end);
        if self.rows.len() < MOST_RECORDS {
            self.rows.push(Metric::ALL.map(|metric| record.metric(metric).unwrap_or(f64::NAN)));
            if let Some(details) = &mut self.details {
                details.rows.push(COLUMNS.each_ref().map(|column| column.value(record).unwrap_or(f64::NAN)));
                details.mismatched += u64::from(is_mismatched(record));
                details.course.add(record, self.before.as_secs_f64() * 1e9);
                details.gaps.add(record);
            }
        }
    }

    /// Ends a stretch of measuring: what passes until the next request is no part of the duration. A run that
    /// alternates between servers has several.
    pub fn pause(&mut self) {
        self.before = self.before.saturating_add(self.stretch());
        (self.first, self.last) = (None, Duration::ZERO);
    }

    fn stretch(&self) -> Duration {
        self.first.map(|first| self.last.saturating_sub(first)).unwrap_or_default()
    }

    /// Requests so far: valid ones and errors.
    #[must_use]
    pub fn counts(&self) -> (u64, u64) {
        (self.valid, self.errors.values().sum())
    }

    /// The report of what was gathered.
    #[must_use]
    pub fn report(&self) -> Report {
        let values = |place: usize| self.rows.iter().filter_map(|row| row.get(place).copied()).collect::<Vec<f64>>();
        let details = self.details.as_ref();
        let failures = usize::try_from(self.errors.values().sum::<u64>()).unwrap_or(usize::MAX);
        let adjusted = |metric: Metric| -> Option<Adjusted> {
            let place = Metric::ALL.iter().position(|one| *one == metric).filter(|_| details.is_some())?;
            Adjusted::of(&values(place), failures)
        };
        let detail = |place: usize| -> Option<Summary> {
            Summary::of(&details?.rows.iter().filter_map(|row| row.get(place).copied()).collect::<Vec<f64>>())
        };
        let summaries = (0..Metric::ALL.len()).map(|place| Summary::of(&values(place))).collect();
        let curves = std::array::from_fn(|place| curve(values(place)));
        let duration = self.before.saturating_add(self.stretch()).as_secs_f64();
        Report {
            summaries,
            curves,
            duration,
            valid: self.valid,
            good: self.goodput.is_some().then_some(self.good),
            errors: self.errors.clone(),
            output_tokens: self.output_tokens,
            reasoning_tokens: self.reasoning_tokens,
            input_tokens: self.input_tokens,
            columns: (0..MANY).map(detail).collect(),
            mismatched: details.map_or(0, |details| details.mismatched),
            adjusted: ADJUSTED.into_iter().map(adjusted).collect(),
            exact_gaps: details.and_then(|details| details.gaps.summary()),
            series: details.map(|details| details.course.series()).unwrap_or_default(),
            gaps: self.gaps.clone(),
            longest_lag: self.longest_lag,
        }
    }
}

/// What a run measured.
#[derive(Debug, Clone)]
pub struct Report {
    /// One for each of [`Metric::ALL`].
    summaries: Vec<Option<Summary>>,
    curves: [Vec<f64>; Metric::ALL.len()],
    duration: f64,
    valid: u64,
    good: Option<u64>,
    errors: BTreeMap<String, u64>,
    output_tokens: u64,
    reasoning_tokens: u64,
    input_tokens: u64,
    /// One for each of [`COLUMNS`].
    columns: Vec<Option<Summary>>,
    mismatched: u64,
    series: Vec<Series>,
    exact_gaps: Option<Summary>,
    /// One for each of [`ADJUSTED`].
    adjusted: Vec<Option<Adjusted>>,
    gaps: GapHistogram,
    longest_lag: Duration,
}

#[allow(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
impl Report {
    /// The statistics of one metric; `None` when no request has it.
    #[must_use]
    pub fn summary(&self, metric: Metric) -> Option<&Summary> {
        let place = Metric::ALL.iter().position(|one| *one == metric)?;
        self.summaries.get(place)?.as_ref()
    }

    /// The distribution of one metric: its values at 201 evenly spaced ranks, ascending; empty when no request has it.
    #[must_use]
    pub fn curve(&self, metric: Metric) -> &[f64] {
        let place = Metric::ALL.iter().position(|one| *one == metric);
        place.and_then(|place| self.curves.get(place)).map(Vec::as_slice).unwrap_or_default()
    }

    /// From the first valid request's start to the end of the last one's last token, in seconds.
    #[must_use]
    pub fn duration(&self) -> f64 {
        self.duration
    }

    /// Valid requests.
    #[must_use]
    pub fn valid(&self) -> u64 {
        self.valid
    }

    /// Good requests, when there were bounds.
    #[must_use]
    pub fn good(&self) -> Option<u64> {
        self.good
    }

    /// Failed requests by class.
    #[must_use]
    pub fn errors(&self) -> &BTreeMap<String, u64> {
        &self.errors
    }

    /// Failed requests.
    #[must_use]
    pub fn error_count(&self) -> u64 {
        self.errors.values().sum()
    }

    /// Output tokens of all valid requests.
    #[must_use]
    pub fn output_tokens(&self) -> u64 {
        self.output_tokens
    }

    /// Output tokens of all valid requests, those of reasoning left out.
    #[must_use]
    pub fn visible_tokens(&self) -> u64 {
        self.output_tokens.saturating_sub(self.reasoning_tokens)
    }

    /// Input tokens of all valid requests.
    #[must_use]
    pub fn input_tokens(&self) -> u64 {
        self.input_tokens
    }

    /// Output tokens per second.
    #[must_use]
    pub fn output_token_throughput(&self) -> f64 {
        self.per_second(self.output_tokens as f64)
    }

    /// Valid requests per second.
    #[must_use]
    pub fn request_throughput(&self) -> f64 {
        self.per_second(self.valid as f64)
    }

    /// Good requests per second.
    #[must_use]
    pub fn goodput(&self) -> Option<f64> {
        self.good.map(|good| self.per_second(good as f64))
    }

    /// Good requests of all, failed ones included.
    #[must_use]
    pub fn good_fraction(&self) -> Option<f64> {
        let all = self.valid + self.error_count();
        self.good.filter(|_| all > 0).map(|good| good as f64 / all as f64)
    }

    /// Every gap between content responses.
    #[must_use]
    pub fn gaps(&self) -> &GapHistogram {
        &self.gaps
    }

    /// How late the latest request was sent.
    #[must_use]
    pub fn longest_lag(&self) -> Duration {
        self.longest_lag
    }

    /// Input tokens per second.
    #[must_use]
    pub fn input_token_throughput(&self) -> f64 {
        self.per_second(self.input_tokens as f64)
    }

    /// What is one number for the whole run: title, unit of the console and CSV, value.
    #[must_use]
    pub fn aggregates(&self) -> Vec<(&'static str, &'static str, f64)> {
        let mut aggregates = vec![
            ("Output Token Throughput", "tokens/sec", self.output_token_throughput()),
            ("Request Throughput", "per sec", self.request_throughput()),
        ];
        if let Some(goodput) = self.goodput() {
            aggregates.push(("Request Goodput", "per sec", goodput));
        }
        aggregates.push(("Request Count", "count", self.valid as f64));
        if self.error_count() > 0 {
            aggregates.push(("Error Request Count", "count", self.error_count() as f64));
        }
        aggregates
    }

    fn per_second(&self, amount: f64) -> f64 {
        if self.duration > 0.0 { amount / self.duration } else { 0.0 }
    }
}

/// The values of a sample at evenly spaced ranks.
#[allow(clippy::cast_precision_loss, reason = "few points")]
fn curve(values: Vec<f64>) -> Vec<f64> {
    let mut sorted: Vec<f64> = values.into_iter().filter(|value| value.is_finite()).collect();
    sorted.sort_by(f64::total_cmp);
    let rank = |point: usize| 100.0 * point as f64 / (CURVE_POINTS - 1) as f64;
    (0..CURVE_POINTS).filter_map(|point| percentile(&sorted, rank(point))).collect()
}

/// A number with two decimals and commas between thousands, as GenAI-Perf writes it.
#[must_use]
pub fn number(value: f64) -> String {
    let text = format!("{:.2}", value.abs());
    let (whole, decimals) = text.split_once('.').unwrap_or((&text, "00"));
    let mut grouped = String::new();
    for (place, digit) in whole.chars().enumerate() {
        if place > 0 && (whole.len() - place).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    let sign = if value < 0.0 && text.contains(|digit| ('1'..='9').contains(&digit)) { "-" } else { "" };
    format!("{sign}{grouped}.{decimals}")
}

#[cfg(test)]
#[allow(clippy::cast_precision_loss, reason = "small numbers")]
mod tests {
    use super::*;
    use crate::bench::record::testing::record;

    #[track_caller]
    fn near(found: f64, expected: f64) {
        assert!((found - expected).abs() < 1e-6 * expected.abs().max(1.0), "{found} is not {expected}");
    }

    /// Ten places of a closed loop, five rounds: 50 requests of 30.69 ms per token.
    #[test]
    fn the_aggregates_follow_from_the_records_as_in_the_published_sample() {
        // The sample's own consistency: (3191.04 - 188.31) / (98.84 - 1) = 30.69; 303.66 / 98.84 = 3.07; 50 / 3.07 = 16.3 s.
        let mut collector = Collector::new(None);
        for index in 0..50_u64 {
            let mut one = record(188, 30, 99);
            let decode = Duration::from_micros(3_191_040 - 188_310);
            one.offset = Duration::from_micros(index / 10 * 3_257_300);
            one.latencies.first_token = Some(Duration::from_micros(188_310));
            one.latencies.end_to_end = Some(Duration::from_micros(3_191_040));
            one.latencies.inter_token = Some(decode / 98);
            collector.add(&one);
        }
        let report = collector.report();
        let avg = |metric| report.summary(metric).expect("measured").avg;
        let tokens = avg(Metric::OutputSequenceLength);
        near(
            avg(Metric::InterTokenLatency),
            (avg(Metric::RequestLatency) - avg(Metric::TimeToFirstToken)) / (tokens - 1.0),
        );
        near(report.output_token_throughput() / tokens, report.request_throughput());
        near(report.valid() as f64 / report.request_throughput(), report.duration());
        near(report.duration(), 4.0 * 3.2573 + 3.19104);
    }

    #[test]
    fn failures_and_the_warm_up_are_in_no_statistic() {
        let mut collector = Collector::new(Some("time_to_first_token:300".parse().expect("bounds")));
        collector.add(&record(200, 20, 100));
        collector.add(&record(400, 20, 100));
        collector.add(&RequestRecord { error: Some("http_503".into()), ..record(1, 1, 100) });
        collector.add(&RequestRecord { phase: Phase::Warmup, ..record(9000, 20, 100) });
        let report = collector.report();
        assert_eq!((report.valid(), report.error_count(), report.good()), (2, 1, Some(1)));
        near(report.summary(Metric::TimeToFirstToken).expect("measured").avg, 300.0);
        near(report.good_fraction().expect("bounds"), 1.0 / 3.0);
        near(report.duration(), 2.38);
    }

    #[test]
    fn what_passes_between_two_stretches_is_no_part_of_the_duration() {
        let mut collector = Collector::new(None);
        collector.add(&record(200, 20, 91)); // 2 s
        collector.pause();
        collector.add(&RequestRecord { offset: Duration::from_secs(1000), ..record(200, 20, 91) });
        let report = collector.report();
        near(report.duration(), 4.0);
        near(report.request_throughput(), 0.5);
        let curve = report.curve(Metric::RequestLatency);
        assert_eq!(
            (curve.len(), curve.first().copied(), curve.last().copied()),
            (CURVE_POINTS, Some(2000.0), Some(2000.0))
        );
    }

    #[test]
    fn the_mean_of_the_inverse_is_not_the_inverse_of_the_mean() {
        let mut collector = Collector::new(None);
        collector.add(&record(100, 10, 11));
        collector.add(&record(100, 40, 11));
        let report = collector.report();
        near(report.summary(Metric::OutputTokenThroughputPerUser).expect("measured").avg, 62.5);
        near(report.summary(Metric::InterTokenLatency).expect("measured").avg, 25.0);
    }

    #[test]
    fn gaps_are_exact_up_to_a_bound_and_never_of_a_part() {
        let mut one = record(200, 20, 4);
        for at in [200, 221, 243] {
            one.gap_list.responses(1, Duration::from_millis(at));
        }
        let mut gaps = Gaps::default();
        gaps.add(&one);
        near(gaps.summary().expect("few").percentiles[4], 21.5);
        gaps.ms.resize(MOST_GAPS - 1, 1.0);
        gaps.add(&one);
        gaps.add(&record(200, 20, 4));
        assert!(gaps.summary().is_none() && gaps.ms.is_empty());
    }

    #[test]
    fn numbers_have_two_decimals_and_commas() {
        for (value, text) in [
            (0.0, "0.00"),
            (999.999, "1,000.00"),
            (3191.04, "3,191.04"),
            (1_234_567.5, "1,234,567.50"),
            (-0.001, "0.00"),
        ] {
            assert_eq!(number(value), text);
        }
    }
}
