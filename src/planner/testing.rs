//! Points of round numbers, and of the model of an engine.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Point, Sample, Shape};
use crate::engine::closed_loop::{Seen, closed_loop};
use crate::engine::profiles::Profile;
use crate::measure::exchange::Latencies;
use crate::measure::objective::{Latency, Objective, Objectives};
use crate::units::Quantile;

const MS: fn(u64) -> Duration = Duration::from_millis;

/// An answer of 101 tokens, sent at the beginning.
pub(super) fn sample(ttft: u64, itl: u64) -> Sample {
    let (ttft, itl) = (MS(ttft), MS(itl));
    let took = ttft + itl * 100;
    let latencies =
        Latencies { first_token: Some(ttft), inter_token: Some(itl), end_to_end: Some(took), ..Latencies::default() };
    Sample { latencies, took, input_tokens: 200, output_tokens: 101, steady: true, ..Sample::default() }
}

/// A request that failed after so long.
pub(super) fn failure(took: u64) -> Sample {
    Sample { took: MS(took), failed: true, steady: true, ..Sample::default() }
}

/// Twenty answers alike.
pub(super) fn point(concurrency: u32, ttft: u64, itl: u64) -> Point {
    let shape = Shape { input_tokens: 200, output_tokens: 101 };
    Point { shape, concurrency, samples: vec![sample(ttft, itl); 20], errors: BTreeMap::new() }
}

/// The p95 of both, in milliseconds.
pub(super) fn promise(ttft: u64, itl: u64) -> Objectives {
    let of = |latency, threshold| Some(Objective { latency, quantile: Quantile::P95, threshold: MS(threshold) });
    Objectives { ttft: of(Latency::TimeToFirstToken, ttft), itl: of(Latency::InterToken, itl), e2e: None }
}

/// A closed loop on the model of an engine.
pub(crate) fn modelled(profile: &Profile, concurrency: u32, shape: Shape) -> Point {
    let Shape { input_tokens, output_tokens } = shape;
    let requests = u64::from(concurrency) * 6 + 24;
    let seen = closed_loop(profile, concurrency, (input_tokens, output_tokens), requests);
    let mut samples: Vec<Sample> = seen.iter().map(of).collect();
    samples.sort_by_key(|sample| sample.started);
    Point::new(shape, concurrency, samples, BTreeMap::new())
}

fn of(seen: &Seen) -> Sample {
    let latencies = Latencies {
        first_token: Some(seen.ttft()),
        inter_token: (seen.output_tokens > 1).then(|| seen.itl()),
        end_to_end: Some(seen.end_to_end()),
        ..Latencies::default()
    };
    let (input_tokens, output_tokens) = (seen.input_tokens.into(), seen.output_tokens.into());
    let took = seen.end_to_end();
    Sample { started: seen.started, latencies, took, input_tokens, output_tokens, failed: false, steady: true }
}
