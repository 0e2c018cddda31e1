//! What kind of engine answers so: how fast it reads prompts, and what a step costs it.
//!
//! An engine that batches continuously works in steps, and a step's time is linear in its work: a base, so much per
//! stream that decodes, so much per token in the key/value cache, and the prompts that are read meanwhile. Each request's
//! inter-token latency is the mean of such steps, and who else was decoding, waiting and remembering meanwhile the client
//! knows, since it sent them all. First tokens of requests that were alone say what a prompt costs by itself.
//!
//! It is a picture, for people and for comparing; the router learns its own weights from the same measurements.

use std::time::Duration;

use super::least_squares::{Equation, Solution, UNKNOWNS, solve};
use super::point::{Point, Sample};

/// Answers shorter than this have an inter-token latency of few steps.
const FEWEST_TOKENS: u64 = 8;
/// Requests that are looked at; more of them say nothing new.
const MOST: usize = 4_000;
/// Errors that are so many times the usual one are hiccups of the machine and not the engine's.
const HICCUP: f64 = 4.0;

/// A number that was found, and its standard error where there is one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Fitted {
    /// The number.
    pub value: f64,
    /// Its standard error; `None` where it cannot be told, or is zero because it cannot be negative.
    pub error: Option<f64>,
    /// Whether what was measured tells it at all: one load alone says nothing of what a step grows with.
    pub told: bool,
}

/// An engine, as its clients can see it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EngineFit {
    /// To the first token, apart from the prompt: network, tokenizer, the first step. In seconds.
    pub overhead: Fitted,
    /// A step without work, in seconds.
    pub step: Fitted,
    /// What each decoding stream adds to a step, in seconds.
    pub per_stream: Fitted,
    /// What each token in the key/value cache adds to a step, in seconds.
    pub per_cached_token: Fitted,
    /// What each prompt token costs, in seconds.
    pub per_prompt_token: Fitted,
    /// The median relative error of what it says of the requests that it was found from.
    pub off_by: f64,
    /// Requests that it was found from.
    pub requests: usize,
}

impl EngineFit {
    /// The engine that fits best; `None` where too little was measured.
    #[must_use]
    pub fn of(points: &[Point]) -> Option<Self> {
        let each = MOST.div_ceil(points.len().max(1));
        let all: Vec<Equation> = points.iter().flat_map(|point| equations(point, each)).collect();
        let first = solve(&all)?;
        let usual = median(all.iter().map(|one| one.residual(&first.values).abs()))?;
        let sober: Vec<Equation> =
            all.into_iter().filter(|one| one.residual(&first.values).abs() <= HICCUP * usual.max(1e-6)).collect();
        let Solution { values, errors, told } = solve(&sober).filter(|_| sober.len() > UNKNOWNS)?;
        let [overhead, step, per_stream, per_cached_token, per_prompt_token] =
            std::array::from_fn(|place| fitted(&values, &errors, told, place));
        let off_by = median(sober.iter().map(|one| one.residual(&values).abs()))?;
        let requests = sober.len();
        Some(Self { overhead, step, per_stream, per_cached_token, per_prompt_token, off_by, requests })
    }

    /// Prompt tokens per second; `None` where prompts cost nothing that could be measured.
    #[must_use]
    pub fn prefill_rate(&self) -> Option<Fitted> {
        let Fitted { value, error, told } = self.per_prompt_token;
        (value > 0.0).then(|| Fitted { value: 1.0 / value, error: error.map(|error| error / (value * value)), told })
    }
}

fn fitted(values: &[f64; UNKNOWNS], errors: &[Option<f64>; UNKNOWNS], told: [bool; UNKNOWNS], place: usize) -> Fitted {
    Fitted {
        value: values.get(place).copied().unwrap_or_default(),
        error: errors.get(place).copied().flatten(),
        told: told.get(place).copied().unwrap_or_default(),
    }
}

/// What the requests of one load say: so many of them at most, all over its time.
fn equations(point: &Point, most: usize) -> Vec<Equation> {
    let step = point.answers().div_ceil(most.max(1)).max(1);
    let some = || point.steady().step_by(step);
    let mut all: Vec<Equation> = some().filter_map(|sample| between_tokens(sample, point)).collect();
    if point.concurrency == 1 {
        all.extend(some().filter_map(alone));
    }
    all
}

/// Of the first token of a request that was alone.
#[allow(clippy::cast_precision_loss, reason = "token counts are far below 2^53")]
fn alone(sample: &Sample) -> Option<Equation> {
    let input = sample.input_tokens as f64;
    Some(Equation { x: [1.0, 0.0, 0.0, input, input], y: sample.latencies.first_token?.as_secs_f64() })
}

/// Of the gaps of a request: who decoded, what was remembered, and what was read meanwhile, per step.
#[allow(clippy::cast_precision_loss, reason = "token counts are far below 2^53")]
fn between_tokens(sample: &Sample, point: &Point) -> Option<Equation> {
    let itl = sample.latencies.inter_token?.as_secs_f64();
    let span = Span::of(sample.first_token(), sample.ended())?;
    if sample.output_tokens < FEWEST_TOKENS {
        return None;
    }
    let (mut streams, mut cached, mut read) = (0.0, 0.0, 0.0);
    for other in point.samples.iter().filter(|other| !other.failed) {
        let input = other.input_tokens as f64;
        if let Some(decoding) = Span::of(other.first_token(), other.ended()) {
            let shared = decoding.share_of(&span);
            streams += shared;
            // By the middle of the time that they share, so much of its answer is there.
            cached += shared * (input + decoding.progress(&span) * other.output_tokens as f64);
        }
        if let Some(reading) = Span::of(other.started, other.first_token()) {
            cached += reading.share_of(&span) * input;
            read += reading.covered_by(&span) * input;
        }
    }
    let steps = (sample.output_tokens - 1) as f64;
    Some(Equation { x: [0.0, 1.0, streams, cached, read / steps], y: itl })
}

/// A time from and to, in seconds.
#[derive(Debug, Clone, Copy)]
struct Span {
    from: f64,
    to: f64,
}

impl Span {
    fn of(from: Duration, to: Duration) -> Option<Self> {
        let (from, to) = (from.as_secs_f64(), to.as_secs_f64());
        (to > from).then_some(Self { from, to })
    }

    fn length(&self) -> f64 {
        self.to - self.from
    }

    fn overlap(&self, other: &Self) -> f64 {
        (self.to.min(other.to) - self.from.max(other.from)).max(0.0)
    }

    /// For which share of the other's time it lasts.
    fn share_of(&self, other: &Self) -> f64 {
        self.overlap(other) / other.length()
    }

    /// Which share of it lies in the other's.
    fn covered_by(&self, other: &Self) -> f64 {
        self.overlap(other) / self.length()
    }

    /// How far it is in the middle of the time that it shares with another.
    fn progress(&self, other: &Self) -> f64 {
        let middle = f64::midpoint(self.from.max(other.from), self.to.min(other.to));
        ((middle - self.from) / self.length()).clamp(0.0, 1.0)
    }
}

fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    crate::measure::percentile::percentile(&sorted, 50.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::profiles::Profile;
    use crate::planner::Shape;
    use crate::planner::testing::{modelled, point};

    /// What a calibration measures of a profile.
    fn sweep(profile: &Profile) -> Vec<Point> {
        let shapes = [(200, 100), (1_000, 100)];
        let shapes = shapes.map(|(input_tokens, output_tokens)| Shape { input_tokens, output_tokens });
        shapes.iter().flat_map(|&shape| [1, 4, 16].map(|clients| modelled(profile, clients, shape))).collect()
    }

    #[track_caller]
    fn close(what: &str, profile: &Profile, found: f64, wanted: f64, within: f64) {
        let off = found / wanted - 1.0;
        println!("{}: {what} {found:.3e} where {wanted:.3e} is true, {:+.1} %", profile.alias, off * 100.0);
        assert!(off.abs() <= within, "{}: {what} is {found:e} and not {wanted:e}", profile.alias);
    }

    #[test]
    fn the_parameters_of_the_modelled_engines_are_recovered() {
        for profile in Profile::all() {
            let fit = EngineFit::of(&sweep(profile)).expect("enough");
            close("step", profile, fit.step.value, profile.step_base, 0.03);
            close("per prompt token", profile, fit.per_prompt_token.value, 1.0 / profile.prefill_rate, 0.05);
            close("per stream", profile, fit.per_stream.value, profile.step_per_sequence, 0.10);
            close("per cached token", profile, fit.per_cached_token.value, profile.step_per_token, 0.25);
            assert!(fit.off_by < 0.02, "{fit:?}");
        }
    }

    #[test]
    fn too_little_makes_no_engine() {
        assert_eq!(EngineFit::of(&[]), None);
        let mut one = point(1, 100, 10);
        one.samples.truncate(1);
        assert_eq!(EngineFit::of(&[one]), None);
    }

    #[test]
    fn one_load_tells_the_step_and_nothing_of_what_it_grows_with() {
        let fit = EngineFit::of(&[point(1, 100, 10)]).expect("twenty requests");
        let growing = [fit.step, fit.per_stream, fit.per_cached_token];
        assert!(fit.off_by < 1e-6 && !growing.iter().all(|one| one.told), "{fit:?}");
        let whole = EngineFit::of(&sweep(&Profile::all()[0])).expect("enough");
        assert!(
            [whole.step, whole.per_stream, whole.per_cached_token, whole.per_prompt_token].iter().all(|one| one.told)
        );
    }
}
