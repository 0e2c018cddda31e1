//! From a benchmark to priors: what a model would have learned, had it watched the benchmark.
//!
//! Each point is turned into the features that a request of such a closed loop meets on average, and learned by the very
//! models that learn from traffic later. So a few points fix what they can and leave the rest as doubtful as it was.

use std::time::Duration;

use super::learned::BackendLearned;
use super::observe::first_token_weight;
use super::{USUAL_GAP, features};
use crate::route::load::Load;
use crate::route::predict::Rls;

/// All points together count for so many samples of traffic, for TTFT and for ITL: about what a model remembers, and
/// ten times that for gaps, whose model starts with less doubt and is taught many times by each request.
const WORTH: (f64, f64) = (400.0, 4_000.0);
/// The points are gone through so often, so that none is learned as the latest.
const ROUNDS: u32 = 20;
/// Latencies below this are measurement noise, in seconds.
const LEAST: f64 = 1e-4;

/// What a benchmark measured at one load: so many clients, each sending its next request when it has its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Measured {
    /// Clients at once, at least 1.
    pub concurrency: u32,
    /// Tokens of a prompt, none of them cached.
    pub input_tokens: u32,
    /// Tokens of an answer.
    pub output_tokens: u32,
    /// The median time to first token.
    pub ttft: Duration,
    /// The median gap between tokens.
    pub itl: Duration,
}

impl BackendLearned {
    /// What a benchmark teaches; `None` when it measured nothing.
    #[must_use]
    pub fn measured(points: &[Measured]) -> Option<Self> {
        let gap = points.iter().map(|point| point.itl.as_secs_f64()).reduce(f64::min)?;
        let (mut ttft, mut itl) = (Rls::new(features::TTFT), Rls::new(features::ITL));
        #[allow(clippy::cast_precision_loss, reason = "a few points")]
        let share = 1.0 / (f64::from(ROUNDS) * points.len() as f64);
        let worth = (WORTH.0 * share, WORTH.1 * share);
        for _ in 0..ROUNDS {
            for point in points {
                let Met { load, prefill_rate } = Met::of(point);
                let actual = point.ttft.as_secs_f64().max(LEAST);
                let x = features::ttft(&load, f64::from(point.input_tokens));
                ttft.learn(&x, actual, worth.0 * first_token_weight(actual));
                let actual = point.itl.as_secs_f64().max(LEAST);
                let whole = f64::from(point.input_tokens) + f64::from(point.output_tokens) / 2.0;
                let x = features::itl(load.streams + 1.0, load.kv_tokens + whole, prefill_rate);
                itl.learn(&x, actual, worth.1 * 1e-4 / (actual * actual));
            }
        }
        Some(Self {
            ttft: ttft.learned(),
            itl: itl.learned(),
            ttft_bias: 0.0,
            itl_bias: 0.0,
            ttft_bounds: Vec::new(),
            gap: if gap > 0.0 { gap } else { USUAL_GAP },
            pairs: Vec::new(),
        })
    }
}

/// What one request of a closed loop meets: the other clients, each waiting or decoding for the usual share of its time.
struct Met {
    load: Load,
    prefill_rate: f64,
}

impl Met {
    fn of(point: &Measured) -> Self {
        let Measured { concurrency, input_tokens, output_tokens, ttft, itl } = *point;
        let (input, output) = (f64::from(input_tokens), f64::from(output_tokens));
        let waits = ttft.as_secs_f64().max(LEAST);
        let takes = waits + (output - 1.0).max(0.0) * itl.as_secs_f64();
        let others = f64::from(concurrency.saturating_sub(1));
        let (awaiting, streams) = (others * waits / takes, others * (1.0 - waits / takes));
        let load = Load {
            waiting_tokens: awaiting * input,
            awaiting,
            streams,
            kv_tokens: others * input + streams * output / 2.0,
        };
        Self { load, prefill_rate: f64::from(concurrency) * input / takes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::closed_loop::{Seen, closed_loop};
    use crate::engine::profiles::Profile;

    /// A closed loop on the model of an engine.
    fn bench(profile: &Profile, concurrency: u32, input_tokens: u32) -> Measured {
        let seen = closed_loop(profile, concurrency, (input_tokens, 100), u64::from(concurrency) * 10 + 20);
        // The first arrive at once, as none later do.
        let seen = seen.get(concurrency.min(20) as usize..).expect("more than that");
        let median = |mut all: Vec<Duration>| {
            all.sort();
            all[all.len() / 2]
        };
        let ttft = median(seen.iter().map(Seen::ttft).collect());
        let itl = median(seen.iter().map(Seen::itl).collect());
        Measured { concurrency, input_tokens, output_tokens: 100, ttft, itl }
    }

    /// How far off, in log units, what is expected of TTFT and ITL at a load.
    fn off(ttft: &Rls, itl: &Rls, point: &Measured) -> (f64, f64) {
        let Met { load, prefill_rate } = Met::of(point);
        let first = ttft.predict(&features::ttft(&load, f64::from(point.input_tokens)));
        let kv_tokens = load.kv_tokens + f64::from(point.input_tokens) + f64::from(point.output_tokens) / 2.0;
        let gap = itl.predict(&features::itl(load.streams + 1.0, kv_tokens, prefill_rate));
        let log = |expected: f64, actual: Duration| (expected / actual.as_secs_f64()).ln().abs();
        (log(first, point.ttft), log(gap, point.itl))
    }

    fn models(learned: Option<&BackendLearned>) -> (Rls, Rls) {
        let (mut ttft, mut itl) = (Rls::new(features::TTFT), Rls::new(features::ITL));
        if let Some(learned) = learned {
            ttft.resume(learned.ttft);
            itl.resume(learned.itl);
        }
        (ttft, itl)
    }

    #[test]
    fn loads_between_those_that_were_measured_are_predicted_and_a_neutral_start_is_far_off() {
        let (mut known, mut neutral) = ((0.0, 0.0), (0.0, 0.0));
        for profile in Profile::all() {
            let loads = [1, 4, 16, 48].into_iter().flat_map(|load| [(load, 300), (load, 2_000)]);
            let points: Vec<_> = loads.map(|(load, input)| bench(profile, load, input)).collect();
            let (ttft, itl) = models(BackendLearned::measured(&points).as_ref());
            for (load, input) in [(2, 600), (8, 1_000), (32, 400)] {
                let point = bench(profile, load, input);
                let own = off(&ttft, &itl, &point);
                // The slowest is past what it can take at the larger of these, where nothing is linear any more.
                assert!(own.0 < 0.25 && own.1 < 0.5, "{}, {point:?}: {own:?}", profile.name);
                let (ttft, itl) = models(None);
                let other = off(&ttft, &itl, &point);
                known = (known.0 + own.0, known.1 + own.1);
                neutral = (neutral.0 + other.0, neutral.1 + other.1);
            }
        }
        println!("{known:?} {neutral:?}");
        assert!(known.0 < 0.25 * neutral.0 && known.1 < 0.25 * neutral.1, "{known:?} and {neutral:?}");
    }

    #[test]
    fn one_point_teaches_what_it_can_and_nothing_teaches_nothing() {
        let ms = Duration::from_millis;
        let point = Measured { concurrency: 1, input_tokens: 1_000, output_tokens: 100, ttft: ms(65), itl: ms(8) };
        let (ttft, itl) = models(BackendLearned::measured(&[point]).as_ref());
        let off = off(&ttft, &itl, &point);
        assert!(off.0 < 0.1 && off.1 < 0.1, "{off:?}");
        assert!(BackendLearned::measured(&[]).is_none());
    }

    #[test]
    fn nonsense_leaves_the_models_finite() {
        let point = |number, time| Measured {
            concurrency: number,
            input_tokens: number,
            output_tokens: number,
            ttft: time,
            itl: time,
        };
        let (zero, huge) = (point(0, Duration::ZERO), point(u32::MAX, Duration::MAX));
        for points in [[zero, huge], [huge, zero], [zero, zero]] {
            let learned = BackendLearned::measured(&points).expect("points");
            assert!(learned.ttft.weights.iter().chain(&learned.itl.weights).all(|weight| weight.is_finite()));
        }
    }

    #[test]
    fn a_request_of_a_closed_loop_meets_the_others_waiting_and_decoding_for_their_shares_of_the_time() {
        let (ttft, itl) = (Duration::from_secs(1), Duration::from_millis(100));
        // Two seconds each, half of them until the first token: of four others two wait and two decode.
        let point = Measured { concurrency: 5, input_tokens: 100, output_tokens: 11, ttft, itl };
        let Met { load, prefill_rate } = Met::of(&point);
        let found = [load.awaiting, load.waiting_tokens, load.streams, load.kv_tokens, prefill_rate];
        let expected = [2.0, 200.0, 2.0, 4.0 * 100.0 + 2.0 * 5.5, 5.0 * 100.0 / 2.0];
        assert!(found.iter().zip(expected).all(|(one, other)| (one - other).abs() < 1e-9), "{found:?}");
    }
}
