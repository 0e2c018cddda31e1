//! What a rule is asked and told inside the simulator.
//!
//! One rule stands for one copy of the proxy: it sees the estimate of a prompt, its own book-keeping and what the
//! replicas told each other, never the engine. It is told what a proxy would notice: the first token, every sixteenth
//! gap, the end.

use std::time::Duration;

use super::scene::Spec;
use super::workload::Arrival;
use crate::engine::Model;
use crate::random::Random;
use crate::route::load::Load;

/// One request that a rule is asked about.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// The request; a rule looks at its estimate, never at its true lengths.
    pub arrival: &'a Arrival,
    /// Its prompt's blocks.
    pub blocks: &'a [u64],
    /// Its route.
    pub route: &'a Spec,
}

/// The fleet at the time of a decision.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// Now, from the start of the run.
    pub now: Duration,
    /// Which backends the health checks hold for healthy.
    pub healthy: &'a [bool],
    /// The engines themselves; only the oracle looks at them.
    pub engines: &'a [Model],
}

impl View<'_> {
    /// The healthy backends among those that the route may use, in the order of their index.
    pub fn open<'a>(&'a self, asked: &Asked<'a>) -> impl Iterator<Item = usize> + 'a {
        let healthy = |backend: &usize| self.healthy.get(*backend).copied().unwrap_or_default();
        asked.route.backends.iter().copied().filter(healthy)
    }
}

/// What a rule answers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Verdict {
    /// The request goes there.
    Serve(Choice),
    /// It is turned away, for this reason.
    Shed(&'static str),
    /// It waits until a backend can keep its promise.
    Wait {
        /// How many may wait.
        depth: usize,
        /// For how long.
        wait: Duration,
    },
}

/// Where a request goes, and what was said of it then.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Choice {
    /// Which backend, by index.
    pub backend: usize,
    /// Why.
    pub reason: &'static str,
    /// Whether it was sent there because every promise was expected to be kept.
    pub feasible: bool,
    /// The bounds that were compared with the promises.
    pub bounds: Bounds,
}

/// Upper bounds of latencies, where a rule predicts any.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Bounds {
    /// Of TTFT.
    pub ttft: Option<Duration>,
    /// Of the mean ITL.
    pub itl: Option<Duration>,
    /// Of the whole answer.
    pub e2e: Option<Duration>,
}

impl Choice {
    /// A choice of a rule that predicts nothing.
    #[must_use]
    pub fn plain(backend: usize, reason: &'static str) -> Self {
        Self { backend, reason, feasible: false, bounds: Bounds::default() }
    }
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// With its last token.
    Complete,
    /// The backend failed while it streamed.
    Failed,
    /// The backend failed before the first token; another attempt follows.
    Retried,
}

/// The end of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ending {
    /// How.
    pub how: How,
    /// Tokens that were delivered.
    pub output: u32,
    /// Mean gap between them; zero with fewer than two.
    pub mean_gap: Duration,
    /// From the request's arrival to now.
    pub end_to_end: Duration,
    /// Whether every promise was kept.
    pub kept: bool,
}

/// What a replica tells the others of one backend.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Shared {
    /// What it has in flight there, in tokens and streams.
    pub load: Load,
    /// And in requests.
    pub in_flight: f64,
}

/// What an engine's metrics say.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Said {
    /// Requests in its batch.
    pub running: usize,
    /// Requests in its queue.
    pub waiting: usize,
    /// The share of its key/value cache that is taken.
    pub kv_ratio: f64,
}

impl Shared {
    /// The sum.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        Self { load: self.load.plus(&other.load), in_flight: self.in_flight + other.in_flight }
    }
}

/// A routing rule with its own book-keeping.
pub trait Rule {
    /// What it remembers of a request in flight.
    type Ticket;

    /// Chooses a backend, or turns the request away.
    fn choose(&mut self, asked: &Asked<'_>, view: &View<'_>, random: &mut Random) -> Verdict;

    /// The request was turned away, by the rule's own verdict or because it waited for too long.
    fn turned_away(&mut self, _asked: &Asked<'_>) {}

    /// The request was sent where the rule chose.
    fn dispatched(&mut self, asked: &Asked<'_>, choice: &Choice, now: Duration) -> Self::Ticket;

    /// Its first token came.
    fn first_token(&mut self, ticket: &mut Self::Ticket, now: Duration);

    /// Any other token came from that backend.
    fn token(&mut self, _backend: usize, _now: Duration) {}

    /// Sixteen gaps of a stream are over.
    fn gaps(&mut self, ticket: &mut Self::Ticket, count: u32, mean: Duration, now: Duration);

    /// The attempt is over.
    fn ended(&mut self, ticket: Self::Ticket, ending: &Ending, now: Duration);

    /// Health checks gave a backend up; the attempts there have ended already.
    fn ejected(&mut self, backend: usize);

    /// What is told to the other replicas of a backend.
    fn shared(&self, backend: usize) -> Shared;

    /// What the other replicas told, summed.
    fn hear(&mut self, backend: usize, others: Shared, now: Duration);

    /// An engine's metrics were scraped.
    fn engine_said(&mut self, _backend: usize, _said: &Said, _now: Duration) {}
}
