//! A clairvoyant: it runs a copy of each true engine ahead, with the request's true length, free of noise and without
//! later arrivals, and takes the one that violates the promises least.
//!
//! A reference, not an upper bound: it is greedy, and pays no heed to those who come after.

use super::{Asked, Books, Pick, Random, View};
use crate::engine::Request;
use crate::engine::model::Foreseen;
use crate::measure::objective::Objective;

#[derive(Debug)]
pub(super) struct Oracle;

impl Pick for Oracle {
    fn pick(&mut self, asked: &Asked<'_>, view: &View<'_>, _: &Books, random: &mut Random) -> Option<usize> {
        let request = Request {
            id: u64::MAX,
            input_tokens: asked.arrival.input,
            output_tokens: asked.arrival.output,
            blocks: asked.blocks.to_vec(),
        };
        let violation = |backend: usize| {
            let foreseen = view.engines.get(backend)?.foresee(view.now, &request);
            Some((backend, foreseen.map_or(f64::MAX, |foreseen| violation(asked, &foreseen))))
        };
        super::books::least(view.open(asked).filter_map(violation), random)
    }
}

/// Largest ratio of what is foreseen to what is promised.
fn violation(asked: &Asked<'_>, foreseen: &Foreseen) -> f64 {
    let objectives = &asked.route.objectives;
    let gaps = asked.arrival.output.saturating_sub(1).max(1);
    let whole = foreseen.last.as_secs_f64();
    let gap = (whole - foreseen.first.as_secs_f64()) / f64::from(gaps);
    let ratio = |objective: Option<Objective>, seconds: f64| {
        objective.map_or(0.0, |objective| seconds / objective.threshold.as_secs_f64().max(1e-9))
    };
    let streamed = |objective: Option<Objective>| objective.filter(|_| asked.arrival.stream);
    ratio(streamed(objectives.ttft), foreseen.first.as_secs_f64())
        .max(ratio(streamed(objectives.itl), gap))
        .max(ratio(objectives.e2e, whole))
}
