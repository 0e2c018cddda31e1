//! What the demo remembers of its requests, to draw its table and write its report.

use std::collections::VecDeque;
use std::time::Duration;

use super::scene::{Act, BACKENDS, Plan, ROUTES};
use crate::bench::record::RequestRecord;
use crate::bench::report::Collector;
use crate::measure::attainment::Attainment;
use crate::measure::objective::{Objective, Objectives, Verdicts};
use crate::route::price::Price;

/// Requests remembered one by one; the oldest leave.
const KEPT: usize = 200_000;

/// One request.
#[derive(Debug, Clone)]
pub(super) struct Sample {
    /// Which of [`ROUTES`].
    pub(super) route: usize,
    /// Which of [`BACKENDS`] answered; `None` when none did.
    pub(super) backend: Option<usize>,
    /// When it was sent.
    pub(super) sent: Duration,
    /// When it ended.
    pub(super) ended: Duration,
    /// How the route's objectives judge what the client felt.
    pub(super) verdicts: Verdicts,
    /// Its prompt and answer, in tokens.
    pub(super) tokens: (u64, u64),
    /// TTFT.
    pub(super) first_token: Option<Duration>,
    /// ITL.
    pub(super) inter_token: Option<Duration>,
}

/// All requests of a run.
pub(super) struct Ledger {
    objectives: [Objectives; ROUTES.len()],
    prices: [Option<Price>; BACKENDS.len()],
    /// Per route, then per backend.
    pub(super) routes: [Collector; ROUTES.len()],
    pub(super) backends: [Collector; BACKENDS.len()],
    samples: VecDeque<Sample>,
}

impl Ledger {
    pub(super) fn new(objectives: [Objectives; ROUTES.len()], prices: [Option<Price>; BACKENDS.len()]) -> Self {
        Self { objectives, prices, routes: Default::default(), backends: Default::default(), samples: VecDeque::new() }
    }

    /// Takes one record in.
    pub(super) fn add(&mut self, record: &RequestRecord) {
        let Some(route) = ROUTES.iter().position(|route| *route == record.label) else { return };
        let backend =
            record.backend.as_deref().and_then(|name| BACKENDS.iter().position(|(backend, _)| *backend == name));
        if let Some(collector) = self.routes.get_mut(route) {
            collector.add(record);
        }
        if let Some(collector) = backend.and_then(|backend| self.backends.get_mut(backend)) {
            collector.add(record);
        }
        let verdicts = self.objectives.get(route).map(|objectives| record.verdicts(objectives)).unwrap_or_default();
        if self.samples.len() >= KEPT {
            self.samples.pop_front();
        }
        self.samples.push_back(Sample {
            route,
            backend,
            sent: record.offset,
            ended: record.offset.saturating_add(record.duration),
            verdicts,
            tokens: (record.input_tokens(), record.usage.output_tokens.unwrap_or(0)),
            first_token: record.latencies.first_token,
            inter_token: record.latencies.inter_token,
        });
    }

    /// The requests of a route, in the order in which they ended.
    pub(super) fn of_route(&self, route: usize) -> impl DoubleEndedIterator<Item = &Sample> {
        self.samples.iter().filter(move |sample| sample.route == route)
    }

    /// The requests that ended after `since`, the newest first.
    pub(super) fn recent(&self, since: Duration) -> impl Iterator<Item = &Sample> {
        // Ends are in order but for the channel's own reordering, which is far shorter than any window here.
        self.samples.iter().rev().take_while(move |sample| sample.ended >= since)
    }

    /// The promises of a route.
    pub(super) fn objectives(&self, route: usize) -> Vec<Objective> {
        self.objectives.get(route).map(|objectives| objectives.iter().copied().collect()).unwrap_or_default()
    }

    /// What a request costs at a backend, where there is a price by the token.
    pub(super) fn cost(&self, backend: usize, (input, output): (u64, u64)) -> Option<f64> {
        self.prices.get(backend)?.as_ref()?.by_the_token(input, output)
    }

    /// How a route kept its promises (one latency's, or all together) among the requests that `which` takes.
    pub(super) fn attainment(
        &self,
        route: usize,
        objective: Option<&Objective>,
        which: impl Fn(&Sample) -> bool,
    ) -> Attainment {
        let verdict = |sample: &Sample| match objective {
            Some(objective) => sample.verdicts.of(objective.latency),
            None => sample.verdicts.joint(),
        };
        let mut attainment = Attainment::default();
        for good in self.of_route(route).filter(|sample| which(sample)).filter_map(verdict) {
            attainment.good += u64::from(good);
            attainment.total += 1;
        }
        attainment
    }

    /// How many of a route's requests of an act each backend answered, and how many there were.
    pub(super) fn shares(&self, route: usize, plan: &Plan, act: Act) -> ([u64; BACKENDS.len()], u64) {
        let (mut counts, mut total) = ([0; BACKENDS.len()], 0);
        for sample in self.of_route(route).filter(|sample| plan.act(sample.sent) == act) {
            total += 1;
            if let Some(count) = sample.backend.and_then(|backend| counts.get_mut(backend)) {
                *count += 1;
            }
        }
        (counts, total)
    }
}
