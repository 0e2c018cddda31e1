//! How a run went over time: requests under way, tokens per second, tokens held, as AIPerf weighs them.
//!
//! Each is a step function of time, made of what every request adds while it lasts; what is reported of it is weighted by
//! time. *Effective* ones are weighed over the whole run, *active* ones only where the phase they are about went on. Tokens
//! of an answer come at its content responses, the same number with each; AIPerf does so when it keeps every gap.

use super::MOST_GAPS;
use crate::bench::record::RequestRecord;

/// What one request was and when, in nanoseconds.
#[derive(Debug, Clone)]
struct Span {
    start: f64,
    first: f64,
    end: f64,
    input: f64,
    output: f64,
    /// Between one content response and the next.
    gaps: Vec<f64>,
}

/// The requests of a run; one that has more gaps than are kept is not described over time.
#[derive(Debug, Clone, Default)]
pub(super) struct Course {
    spans: Vec<Span>,
    gaps: usize,
    overflown: bool,
}

/// Statistics that are weighted by time.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Weighted {
    pub(super) avg: f64,
    pub(super) min: f64,
    pub(super) max: f64,
    /// The 50th, 90th, 95th and 99th percentile.
    pub(super) percentiles: [f64; 4],
    pub(super) std: f64,
}

/// The percentiles of [`Weighted`].
pub(super) const SHARES: [u8; 4] = [50, 90, 95, 99];

/// One series: key, name in tables, unit, statistics.
#[derive(Debug, Clone, Copy)]
pub(super) struct Series {
    pub(super) tag: &'static str,
    pub(super) title: &'static str,
    pub(super) unit: &'static str,
    pub(super) weighted: Weighted,
}

/// A step function: from each time on, the value.
type Steps = Vec<(f64, f64)>;

impl Course {
    /// Takes in a request of the stretch that began after so many nanoseconds of measuring.
    #[allow(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
    pub(super) fn add(&mut self, record: &RequestRecord, base: f64) {
        let ns = |time: std::time::Duration| time.as_secs_f64() * 1e9;
        let latencies = &record.latencies;
        let (Some(first), Some(output)) = (latencies.first_token, record.usage.output_tokens) else { return };
        let gaps: Vec<f64> = record.gap_list.ms().map(|gaps| gaps.map(|ms| ms * 1e6).collect()).unwrap_or_default();
        self.gaps += gaps.len();
        if self.gaps > MOST_GAPS {
            *self = Self { overflown: true, gaps: self.gaps, spans: Vec::new() };
            return;
        }
        let start = base + ns(record.offset);
        self.spans.push(Span {
            start: start + ns(record.lag),
            first: start + ns(first),
            end: start + ns(record.duration),
            input: record.input_tokens() as f64,
            output: output as f64,
            gaps,
        });
    }

    /// All series; none when there were no streams, or too many gaps.
    pub(super) fn series(&self) -> Vec<Series> {
        if self.overflown || self.spans.is_empty() {
            return Vec::new();
        }
        let curves = Curves::of(&self.spans);
        let (Some(first), Some(last)) = (curves.all.first(), curves.all.last()) else { return Vec::new() };
        curves.series(first.0, last.0)
    }
}

struct Curves {
    all: Steps,
    decoding: Steps,
    prefilling: Steps,
    decode: Steps,
    prefill: Steps,
    total: Steps,
    decode_per_user: Steps,
    prefill_per_user: Steps,
    held: Steps,
}

impl Curves {
    fn of(spans: &[Span]) -> Self {
        let during = |from: fn(&Span) -> f64, to: fn(&Span) -> f64| {
            swept(spans.iter().flat_map(|span| [(from(span), 1.0), (to(span), -1.0)]).collect())
        };
        let decoding = during(|span| span.first, |span| span.end);
        let prefilling = during(|span| span.start, |span| span.first);
        let decode = swept(spans.iter().flat_map(decode_events).collect());
        let prefill = swept(spans.iter().flat_map(prefill_events).collect());
        Self {
            all: during(|span| span.start, |span| span.end),
            total: swept(spans.iter().flat_map(|span| prefill_events(span).chain(whole_decode(span))).collect()),
            decode_per_user: divided(&decode, &decoding),
            prefill_per_user: divided(&prefill, &prefilling),
            held: swept(spans.iter().flat_map(held_events).collect()),
            decoding,
            prefilling,
            decode,
            prefill,
        }
    }

    fn series(&self, from: f64, to: f64) -> Vec<Series> {
        let series = |tag, title, unit: &'static str, steps: &Steps, mask: Option<&Steps>| {
            // Rates are per nanosecond.
            let scale = if unit.starts_with("tokens/sec") { 1e9 } else { 1.0 };
            Series { tag, title, unit, weighted: weighted(&segments(steps, mask, from, to), scale) }
        };
        let (rate, user) = ("tokens/sec", "tokens/sec/user");
        let effective = [
            ("effective_concurrency", "Effective Concurrency", "requests", &self.all),
            ("effective_decode_throughput", "Effective Decode Throughput", rate, &self.decode),
            ("effective_prefill_throughput", "Effective Prefill Throughput", rate, &self.prefill),
            ("effective_decode_concurrency", "Effective Decode Concurrency", "requests", &self.decoding),
            ("effective_prefill_concurrency", "Effective Prefill Concurrency", "requests", &self.prefilling),
            ("effective_total_throughput", "Effective Total Throughput", rate, &self.total),
            (
                "effective_decode_throughput_per_user",
                "Effective Decode Throughput Per User",
                user,
                &self.decode_per_user,
            ),
            (
                "effective_prefill_throughput_per_user",
                "Effective Prefill Throughput Per User",
                user,
                &self.prefill_per_user,
            ),
            ("tokens_in_flight", "Tokens In Flight", "tokens", &self.held),
        ];
        let (decoding, prefilling) = (&self.decoding, &self.prefilling);
        let active = [
            ("active_decode_throughput", "Active Decode Throughput", rate, &self.decode, decoding),
            ("active_prefill_throughput", "Active Prefill Throughput", rate, &self.prefill, prefilling),
            (
                "active_decode_throughput_per_user",
                "Active Decode Throughput Per User",
                user,
                &self.decode_per_user,
                decoding,
            ),
            (
                "active_prefill_throughput_per_user",
                "Active Prefill Throughput Per User",
                user,
                &self.prefill_per_user,
                prefilling,
            ),
            ("active_total_throughput", "Active Total Throughput", rate, &self.total, &self.all),
        ];
        let effective = effective.map(|(tag, title, unit, steps)| series(tag, title, unit, steps, None));
        let active = active.map(|(tag, title, unit, steps, mask)| series(tag, title, unit, steps, Some(mask)));
        effective.into_iter().chain(active).collect()
    }
}

/// What the prompt adds while it is read.
fn prefill_events(span: &Span) -> impl Iterator<Item = (f64, f64)> + use<> {
    constant(span.input, span.start, span.first)
}

/// What the answer adds after its first token, the same all the time.
fn whole_decode(span: &Span) -> impl Iterator<Item = (f64, f64)> + use<> {
    constant(span.output - 1.0, span.first, span.end)
}

fn constant(tokens: f64, from: f64, to: f64) -> impl Iterator<Item = (f64, f64)> {
    let rate = (to > from && tokens >= 0.0).then(|| tokens / (to - from));
    rate.into_iter().flat_map(move |rate| [(from, rate), (to, -rate)])
}

/// What the answer adds between one content response and the next: as many tokens each time.
#[allow(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
fn decode_events(span: &Span) -> impl Iterator<Item = (f64, f64)> + use<'_> {
    let many = span.gaps.iter().filter(|gap| **gap > 0.0).count() as f64;
    let tokens = if many > 0.0 { (span.output - 1.0).max(0.0) / many } else { 0.0 };
    let mut at = span.first;
    span.gaps.iter().filter(|gap| **gap > 0.0).flat_map(move |gap| {
        let from = at;
        at += gap;
        [(from, tokens / gap), (at, -tokens / gap)]
    })
}

/// The tokens that the server holds for it: its prompt from the start, its answer as it comes, none at its end.
#[allow(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
fn held_events(span: &Span) -> Vec<(f64, f64)> {
    let tokens = (span.output - 1.0).max(0.0) / span.gaps.len().max(1) as f64;
    let one = if span.gaps.is_empty() { 0.0 } else { 1.0 };
    let mut events = vec![(span.start, span.input), (span.first, one)];
    let (mut at, mut held) = (span.first, span.input + one);
    for gap in &span.gaps {
        at += gap;
        held += tokens;
        // A token that came with the end came before it.
        events.push((at.min(span.end.next_down()), tokens));
    }
    events.push((span.end, -held));
    events
}

/// Events in the order of their times, summed up; at one time what ends goes before what begins.
fn swept(mut events: Vec<(f64, f64)>) -> Steps {
    events.sort_by(|one, other| one.0.total_cmp(&other.0).then(one.1.total_cmp(&other.1)));
    let mut value = 0.0;
    for event in &mut events {
        value += event.1;
        event.1 = value;
    }
    // What is left of large numbers that should cancel is nothing.
    let most = events.iter().fold(0.0_f64, |most, event| most.max(event.1.abs()));
    for event in &mut events {
        if event.1.abs() < 1e-9 * most {
            event.1 = 0.0;
        }
    }
    events
}

/// Both functions where either changes: time, and both values from then on.
fn merged(one: &Steps, other: &Steps) -> Vec<(f64, f64, f64)> {
    let (mut left, mut right) = (one.iter().peekable(), other.iter().peekable());
    let (mut values, mut merged) = ((0.0, 0.0), Vec::with_capacity(one.len() + other.len()));
    loop {
        let at = match (left.peek(), right.peek()) {
            (None, None) => return merged,
            (Some(step), None) | (None, Some(step)) => step.0,
            (Some(step), Some(other)) => step.0.min(other.0),
        };
        while let Some(step) = left.next_if(|step| step.0 <= at) {
            values.0 = step.1;
        }
        while let Some(step) = right.next_if(|step| step.0 <= at) {
            values.1 = step.1;
        }
        merged.push((at, values.0, values.1));
    }
}

/// A rate by those who share it; nothing where there are none.
fn divided(rate: &Steps, by: &Steps) -> Steps {
    let quotient = |rate: f64, by: f64| if by > 0.0 { rate / by } else { 0.0 };
    merged(rate, by).into_iter().map(|(at, rate, by)| (at, quotient(rate, by))).collect()
}

/// How long which value held between two times, where the mask, if there is one, is above nothing.
fn segments(steps: &Steps, mask: Option<&Steps>, from: f64, to: f64) -> Vec<(f64, f64)> {
    let nothing = Steps::new();
    let mut segments = Vec::new();
    let mut current = (from, 0.0, 0.0);
    let steps = merged(steps, mask.unwrap_or(&nothing));
    for (at, value, shown) in steps.into_iter().chain([(to, 0.0, 0.0)]) {
        let at = at.clamp(from, to);
        if at > current.0 && (mask.is_none() || current.2 > 0.0) {
            segments.push((at - current.0, current.1));
        }
        current = (at, value, shown);
    }
    segments
}

fn weighted(segments: &[(f64, f64)], scale: f64) -> Weighted {
    let time: f64 = segments.iter().map(|segment| segment.0).sum();
    if time <= 0.0 {
        return Weighted::default();
    }
    let mean = |of: &dyn Fn(f64) -> f64| segments.iter().map(|(time, value)| time * of(*value)).sum::<f64>() / time;
    let avg = mean(&|value| value);
    let std = mean(&|value| (value - avg).powi(2)).sqrt();
    let mut sorted = segments.to_vec();
    sorted.sort_by(|one, other| one.1.total_cmp(&other.1));
    let largest = sorted.last().map_or(0.0, |segment| segment.1);
    let percentile = |percent: u8| {
        let mut passed = 0.0;
        let reached = |segment: &&(f64, f64)| {
            passed += segment.0;
            passed >= f64::from(percent) / 100.0 * time
        };
        sorted.iter().find(reached).map_or(largest, |segment| segment.1) * scale
    };
    Weighted {
        avg: avg * scale,
        min: sorted.first().map_or(0.0, |segment| segment.1) * scale,
        max: largest * scale,
        percentiles: SHARES.map(percentile),
        std: std * scale,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::bench::record::testing::record;

    /// What AIPerf 0.13.0's own functions (`aiperf.analysis.sweepline`) make of the same three requests: average, least, most,
    /// p50, p90, p95, p99, standard deviation.
    #[rustfmt::skip]
    const AIPERFS: [(&str, [f64; 8]); 14] = [
        ("effective_concurrency", [1.642_857, 1.0, 2.0, 2.0, 2.0, 2.0, 2.0, 0.479_157]),
        ("effective_decode_throughput", [18.571_429, 0.0, 75.0, 25.0, 31.25, 56.25, 75.0, 19.56478]),
        ("effective_prefill_throughput", [242.857_143, 0.0, 1000.0, 0.0, 1000.0, 1000.0, 1000.0, 361.967_413]),
        ("effective_decode_concurrency", [1.142_857, 0.0, 2.0, 1.0, 2.0, 2.0, 2.0, 0.742_307]),
        ("effective_prefill_concurrency", [0.5, 0.0, 2.0, 0.0, 2.0, 2.0, 2.0, 0.731_925]),
        ("effective_total_throughput", [261.428_571, 0.0, 1000.0, 25.0, 1000.0, 1000.0, 1000.0, 353.691_899]),
        ("effective_decode_throughput_per_user", [14.241_071, 0.0, 75.0, 15.625, 31.25, 31.25, 75.0, 16.633_823]),
        ("effective_prefill_throughput_per_user", [171.428_571, 0.0, 500.0, 0.0, 500.0, 500.0, 500.0, 231.234_487]),
        ("tokens_in_flight", [116.542_857, 20.0, 157.5, 129.75, 154.0, 156.25, 157.5, 43.461_045]),
        ("active_decode_throughput", [23.636_364, 0.0, 75.0, 31.25, 31.25, 56.25, 75.0, 19.169_212]),
        ("active_prefill_throughput", [680.0, 400.0, 1000.0, 500.0, 1000.0, 1000.0, 1000.0, 263.818_119]),
        ("active_decode_throughput_per_user", [18.125, 0.0, 75.0, 15.625, 31.25, 31.25, 75.0, 16.785_326]),
        ("active_prefill_throughput_per_user", [480.0, 400.0, 500.0, 500.0, 500.0, 500.0, 500.0, 40.0]),
        ("active_total_throughput", [261.428_571, 0.0, 1000.0, 25.0, 1000.0, 1000.0, 1000.0, 353.691_899]),
    ];

    fn request(at: u64, ttft: u64, whole: u64, tokens: (u64, u64), gaps: &[u64]) -> RequestRecord {
        let ms = Duration::from_millis;
        let mut one = record(ttft, 1, tokens.1);
        (one.offset, one.duration) = (ms(at), ms(whole));
        one.usage.input_tokens = Some(tokens.0);
        let mut last = ms(ttft);
        one.gap_list.responses(1, last);
        for gap in gaps {
            last += ms(*gap);
            one.gap_list.responses(1, last);
        }
        one
    }

    #[test]
    fn a_run_goes_over_time_as_aiperf_sees_it() {
        let mut course = Course::default();
        course.add(&request(0, 200, 600, (100, 11), &[40; 8]), 0.0);
        course.add(&request(50, 100, 250, (50, 4), &[20, 0, 60]), 0.0);
        course.add(&request(0, 50, 300, (20, 1), &[]), 400e6);
        let series = course.series();
        assert_eq!(series.len(), AIPERFS.len());
        for (series, (tag, expected)) in series.iter().zip(AIPERFS) {
            let Weighted { avg, min, max, percentiles: [p50, p90, p95, p99], std } = series.weighted;
            let found = [avg, min, max, p50, p90, p95, p99, std];
            let near = found.iter().zip(expected).all(|(found, expected)| (found - expected).abs() < 1e-4);
            assert!(series.tag == tag && near, "{tag}: {found:?} is not {expected:?}");
        }
    }

    #[test]
    fn a_run_with_too_many_gaps_has_no_course() {
        let mut course = Course { gaps: MOST_GAPS - 2, ..Course::default() };
        course.add(&request(0, 200, 600, (100, 11), &[40; 2]), 0.0);
        assert_eq!(course.series().len(), 14);
        course.add(&request(0, 200, 600, (100, 11), &[40]), 0.0);
        assert!(course.series().is_empty());
    }
}
