//! The event loop: arrivals, engine steps, incidents and gossip in virtual time.
//!
//! All draws come from one generator in the order of events, so a run follows from its scene alone. Events of the same
//! instant happen in the order in which they were known: arrivals, incidents, gossip, then engine steps as they began.

mod incidents;
mod queue;
mod serve;

#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

use self::queue::Queue;
use self::serve::close;
use super::fate::{End, Fate, Run};
use super::rule::Rule;
use super::scene::Scene;
use crate::engine::{Event, Model, Request};
use crate::random::Random;

/// How long a run goes on after its nominal end, so that what came late can finish.
const GRACE: Duration = Duration::from_secs(300);
/// Gaps that are reported together.
const GROUP: u32 = 16;
/// Requests of other clients have names from here on.
const HIDDEN: u64 = 1 << 40;

/// A request in flight.
struct Live<T> {
    fate: Fate,
    replica: usize,
    /// Whether the proxy sees its tokens.
    stream: bool,
    ticket: Option<T>,
    /// When the running group of gaps began.
    group: Duration,
}

struct World<'a, R: Rule> {
    scene: &'a Scene,
    /// Virtual time starts here.
    base: Instant,
    random: Random,
    engines: Vec<Model>,
    healthy: Vec<bool>,
    replicas: Vec<R>,
    live: Vec<Live<R::Ticket>>,
    /// Who waits at each replica, and when the next of them is turned away.
    queues: Vec<Queue>,
    expires: Duration,
    /// Replicas to which a first or a last token came in the running step.
    news: Vec<usize>,
    /// When each engine's step ends, and the order in which that was known.
    steps: Vec<(Duration, u64)>,
    order: u64,
    engine_events: Vec<Event>,
    request: Request,
    cost: f64,
    events: u64,
}

/// Plays a scene under a rule; `make` makes one for each replica. Virtual time starts at `base`, which may be any instant.
pub fn run<R: Rule>(scene: &Scene, base: Instant, make: impl Fn(usize) -> R) -> Run {
    let mut world = World::new(scene, base, make);
    world.play();
    let arrivals = scene.workload.arrivals.iter();
    for (live, arrival) in world.live.iter_mut().zip(arrivals).filter(|(live, _)| live.ticket.is_some()) {
        close(live, arrival.at, End::Unfinished);
    }
    let fates = world.live.into_iter().map(|live| live.fate).collect();
    Run { fates, cost: world.cost, events: world.events }
}

/// What is known to come, apart from engine steps: the next arrival and incident by index, and times.
struct Ahead {
    arrival: usize,
    incident: usize,
    gossip: Duration,
    scrape: Duration,
}

enum Next {
    Arrival,
    Incident,
    Gossip,
    Scrape,
    Expiry,
    Step(usize),
}

impl<'a, R: Rule> World<'a, R> {
    fn new(scene: &'a Scene, base: Instant, make: impl Fn(usize) -> R) -> Self {
        let mut random = Random::in_state(scene.state);
        let replicas = scene.replicas.max(1);
        #[allow(clippy::cast_possible_truncation, reason = "the remainder is below the number of replicas")]
        let mut replica = || (random.bits() % replicas as u64) as usize;
        let unborn = Fate {
            end: End::Unfinished,
            reason: "",
            choice: None,
            sent: Duration::ZERO,
            first: None,
            last: Duration::ZERO,
            output: 0,
            good: false,
            attempts: 0,
        };
        let live = scene.workload.arrivals.iter().map(|arrival| Live {
            fate: unborn,
            replica: replica(),
            stream: arrival.stream,
            ticket: None,
            group: Duration::ZERO,
        });
        let live = live.collect();
        Self {
            scene,
            base,
            random,
            engines: scene
                .backends
                .iter()
                .map(|machine| Model::new(machine.profile, Random::seeded(0)).stall(scene.stall))
                .collect(),
            healthy: vec![true; scene.backends.len()],
            replicas: (0..replicas).map(make).collect(),
            live,
            queues: vec![None; replicas],
            expires: Duration::MAX,
            news: Vec::new(),
            steps: vec![(Duration::MAX, 0); scene.backends.len()],
            order: 0,
            engine_events: Vec::new(),
            request: Request::default(),
            cost: 0.0,
            events: 0,
        }
    }

    fn play(&mut self) {
        let end = Duration::from_secs_f64(self.scene.duration) + GRACE;
        let (gossip, scrape) = (self.scene.gossip, self.scene.scrape);
        let mut ahead = Ahead {
            arrival: 0,
            incident: 0,
            gossip: gossip.unwrap_or(Duration::MAX),
            scrape: scrape.unwrap_or(Duration::MAX),
        };
        loop {
            let (at, next) = self.next(&ahead);
            if at > end {
                return;
            }
            self.events += 1;
            match next {
                Next::Arrival => {
                    ahead.arrival += 1;
                    self.arrive(ahead.arrival - 1, at);
                }
                Next::Incident => {
                    ahead.incident += 1;
                    self.befall(ahead.incident - 1, at);
                }
                Next::Gossip => {
                    ahead.gossip = at.saturating_add(gossip.unwrap_or(Duration::MAX));
                    self.gossip(at);
                }
                Next::Scrape => {
                    ahead.scrape = at.saturating_add(scrape.unwrap_or(Duration::MAX));
                    self.scrape(at);
                }
                Next::Expiry => self.expire(at),
                Next::Step(backend) => self.step(backend, at),
            }
        }
    }

    /// What happens next, and when.
    fn next(&self, ahead: &Ahead) -> (Duration, Next) {
        let arrival = self.scene.workload.arrivals.get(ahead.arrival).map_or(Duration::MAX, |arrival| arrival.at);
        let incident = self.scene.incidents.get(ahead.incident).map_or(Duration::MAX, |incident| incident.at);
        let mut best = (arrival, Next::Arrival);
        let known = [
            (incident, Next::Incident),
            (ahead.gossip, Next::Gossip),
            (ahead.scrape, Next::Scrape),
            (self.expires, Next::Expiry),
        ];
        for (at, next) in known {
            if at < best.0 {
                best = (at, next);
            }
        }
        let mut step = (Duration::MAX, u64::MAX);
        let mut place = 0;
        for (index, known) in self.steps.iter().enumerate() {
            if *known < step {
                (step, place) = (*known, index);
            }
        }
        if step.0 < best.0 { (step.0, Next::Step(place)) } else { best }
    }
}
