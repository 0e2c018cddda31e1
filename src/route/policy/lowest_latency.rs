//! The backend with the lowest expected latency, whatever it costs.
//!
//! Expected is the whole answer: TTFT and the output's inter-token latencies where streaming has shown them, else the
//! window of whole answers.

use std::time::Duration;

use super::assess::{assess_all, expected_output, idlest, trivial};
use super::{Policy, PolicyState, explore};
use crate::route::decision::{Assessment, Decision, Reason};
use crate::route::snapshot::{BackendIndex, FleetSnapshot, RequestFacts};

/// The rule.
#[derive(Debug, Clone, Copy)]
pub struct LowestLatency;

impl Policy for LowestLatency {
    fn choose(
        &self,
        request: &RequestFacts,
        fleet: &FleetSnapshot<'_>,
        state: &mut PolicyState,
        decision: &mut Decision,
    ) {
        assess_all(request, fleet, decision);
        if trivial(fleet, decision) {
            return;
        }
        let output = u32::try_from(expected_output(request, fleet)).unwrap_or(u32::MAX);
        // To this rule a backend is unknown when its latency is, whatever is promised.
        for thought in &mut decision.candidates {
            if expected(thought, output).is_none() {
                thought.load = None;
            } else if thought.load.is_none() {
                thought.load = Some(0.0);
            }
        }
        let fastest = decision.candidates.iter().filter_map(|one| Some((expected(one, output)?, one.backend))).min();
        decision.chosen = explore::turn(fleet, decision, state, |_: BackendIndex| true)
            .map(|backend| (backend, Reason::Explore))
            .or(fastest.map(|(_, backend)| (backend, Reason::LowestLatency)))
            .or_else(|| idlest(fleet).map(|backend| (backend, Reason::Explore)));
    }
}

fn expected(thought: &Assessment, output: u32) -> Option<Duration> {
    let streamed = thought.ttft.zip(thought.itl).map(|((ttft, _), (itl, _))| ttft + itl.saturating_mul(output));
    streamed.or(thought.e2e.map(|(e2e, _)| e2e))
}
