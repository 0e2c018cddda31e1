//! The event loop: arrivals, engine steps, incidents and gossip in virtual time.
//!
//! All draws come from one generator in the order of events, so a run follows from its scene alone. Events of the same
//! instant happen in the order in which they were known: arrivals, incidents, gossip, then engine steps as they began.

use std::time::Duration;

use super::rule::{Asked, Choice, Ending, How, Rule, Said, Shared, Verdict, View};
use super::scene::{Change, Scene};
use crate::engine::{Event, Model, Request};
use crate::random::Random;

/// How long a run goes on after its nominal end, so that what came late can finish.
const GRACE: Duration = Duration::from_secs(300);
/// Gaps that are reported together.
const GROUP: u32 = 16;
/// Requests of other clients have names from here on.
const HIDDEN: u64 = 1 << 40;

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It was cut off with the run.
    Unfinished,
    /// Its last token came.
    Complete,
    /// Its backend failed while it streamed.
    Failed,
    /// It was turned away.
    Shed,
}

/// What became of one request.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Fate {
    /// How it ended.
    pub end: End,
    /// Why it was turned away, or the reason of its last choice.
    pub reason: &'static str,
    /// Its last choice; `None` when it was turned away at once.
    pub choice: Option<Choice>,
    /// From its arrival to when it was last sent.
    pub sent: Duration,
    /// From its arrival to its first token.
    pub first: Option<Duration>,
    /// From its arrival to its latest token.
    pub last: Duration,
    /// Tokens delivered.
    pub output: u32,
    /// Whether it completed and kept every promise.
    pub good: bool,
    /// Times it was sent.
    pub attempts: u32,
}

impl Fate {
    /// Mean gap between its tokens; zero with fewer than two.
    #[must_use]
    pub fn mean_gap(&self) -> Duration {
        let gaps = self.output.saturating_sub(1);
        self.first.map_or(Duration::ZERO, |first| if gaps == 0 { Duration::ZERO } else { (self.last - first) / gaps })
    }
}

/// What a run shows: one fate for every arrival, and what was paid.
#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    /// In the order of the arrivals.
    pub fates: Vec<Fate>,
    /// What all that was served cost, in dollars.
    pub cost: f64,
    /// Engine steps and arrivals done.
    pub events: u64,
}

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
    random: Random,
    engines: Vec<Model>,
    healthy: Vec<bool>,
    replicas: Vec<R>,
    live: Vec<Live<R::Ticket>>,
    /// When each engine's step ends, and the order in which that was known.
    steps: Vec<(Duration, u64)>,
    order: u64,
    engine_events: Vec<Event>,
    request: Request,
    cost: f64,
    events: u64,
}

/// Plays a scene under a rule; `make` makes one for each replica.
pub fn run<R: Rule>(scene: &Scene, make: impl Fn(usize) -> R) -> Run {
    let mut world = World::new(scene, make);
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
    Step(usize),
}

impl<'a, R: Rule> World<'a, R> {
    fn new(scene: &'a Scene, make: impl Fn(usize) -> R) -> Self {
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
            random,
            engines: scene.backends.iter().map(|machine| Model::new(machine.profile, Random::seeded(0)).stall(scene.stall)).collect(),
            healthy: vec![true; scene.backends.len()],
            replicas: (0..replicas).map(make).collect(),
            live,
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
                Next::Step(backend) => self.step(backend, at),
            }
        }
    }

    /// What happens next, and when.
    fn next(&self, ahead: &Ahead) -> (Duration, Next) {
        let arrival = self.scene.workload.arrivals.get(ahead.arrival).map_or(Duration::MAX, |arrival| arrival.at);
        let incident = self.scene.incidents.get(ahead.incident).map_or(Duration::MAX, |incident| incident.at);
        let mut best = (arrival, Next::Arrival);
        let known = [(incident, Next::Incident), (ahead.gossip, Next::Gossip), (ahead.scrape, Next::Scrape)];
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

    /// Asks the rule of the request's replica, and sends the request where it says.
    fn arrive(&mut self, index: usize, now: Duration) {
        let scene = self.scene;
        let (Some(arrival), Some(live)) = (scene.workload.arrivals.get(index), self.live.get_mut(index)) else { return };
        let Some(route) = scene.routes.get(arrival.route) else { return };
        let Some(rule) = self.replicas.get_mut(live.replica) else { return };
        let asked = Asked { arrival, blocks: scene.workload.blocks(arrival), route };
        let view = View { now, healthy: &self.healthy, engines: &self.engines };
        let choice = match rule.choose(&asked, &view, &mut self.random) {
            Verdict::Serve(choice) => choice,
            Verdict::Shed(reason) => {
                live.fate = Fate { end: End::Shed, reason, ..live.fate };
                return;
            }
        };
        live.ticket = Some(rule.dispatched(&asked, &choice, now));
        let attempts = live.fate.attempts + 1;
        let sent = now - arrival.at;
        live.fate = Fate { choice: Some(choice), reason: choice.reason, sent, attempts, ..live.fate };
        self.request.id = index as u64;
        self.request.input_tokens = arrival.input;
        self.request.output_tokens = arrival.output;
        self.request.blocks.clear();
        self.request.blocks.extend_from_slice(asked.blocks);
        let cached = self.hand_over(choice.backend, now);
        let uncached = arrival.input.saturating_sub(cached);
        self.cost += scene.backends.get(choice.backend).map_or(0.0, |machine| machine.tokens_cost(uncached, 0));
    }

    /// Asks every engine how it is, as a scrape of its metrics would.
    fn scrape(&mut self, now: Duration) {
        for (backend, engine) in self.engines.iter().enumerate() {
            let said = Said { running: engine.running(), waiting: engine.waiting(), kv_ratio: engine.kv_ratio() };
            for rule in &mut self.replicas {
                rule.engine_said(backend, &said, now);
            }
        }
    }

    /// Gives the prepared request to an engine; tells how much of its prompt was cached.
    fn hand_over(&mut self, backend: usize, now: Duration) -> u32 {
        let Some(engine) = self.engines.get_mut(backend) else { return 0 };
        std::mem::swap(engine.random_mut(), &mut self.random);
        let cached = engine.arrive(now, &self.request).unwrap_or_default();
        std::mem::swap(engine.random_mut(), &mut self.random);
        self.known(backend);
        cached
    }

    /// Notes when an engine's step ends, if that is news.
    fn known(&mut self, backend: usize) {
        let ends = self.engines.get(backend).and_then(Model::next_event_at).unwrap_or(Duration::MAX);
        if let Some(step) = self.steps.get_mut(backend).filter(|step| step.0 != ends) {
            self.order += 1;
            *step = (ends, self.order);
        }
    }

    fn step(&mut self, backend: usize, now: Duration) {
        let Some(engine) = self.engines.get_mut(backend) else { return };
        let mut events = std::mem::take(&mut self.engine_events);
        std::mem::swap(engine.random_mut(), &mut self.random);
        engine.advance(now, &mut events);
        std::mem::swap(engine.random_mut(), &mut self.random);
        self.known(backend);
        for event in events.drain(..) {
            match event {
                Event::Token { id, .. } | Event::Done { id, .. } if id >= HIDDEN => {}
                Event::Token { id, first, .. } => self.token(id, first, backend, now),
                Event::Done { id, .. } => self.done(id, now),
            }
        }
        self.engine_events = events;
    }

    #[allow(clippy::cast_possible_truncation, reason = "the id is an index")]
    fn token(&mut self, id: u64, first: bool, backend: usize, now: Duration) {
        let Some(live) = self.live.get_mut(id as usize) else { return };
        let Some(rule) = self.replicas.get_mut(live.replica) else { return };
        live.fate.output += 1;
        // Absolute while in flight; `close` makes it relative to the arrival.
        live.fate.last = now;
        if first {
            live.fate.first = Some(now);
            live.group = now;
        }
        let Some(ticket) = live.ticket.as_mut().filter(|_| live.stream) else { return };
        if first {
            rule.first_token(ticket, now);
            return;
        }
        rule.token(backend, now);
        if (live.fate.output - 1) % GROUP == 0 {
            let mean = (now - live.group) / GROUP;
            live.group = now;
            rule.gaps(ticket, GROUP, mean, now);
        }
    }

    #[allow(clippy::cast_possible_truncation, reason = "the id is an index")]
    fn done(&mut self, id: u64, now: Duration) {
        let index = id as usize;
        let Some(arrival) = self.scene.workload.arrivals.get(index) else { return };
        let Some(live) = self.live.get_mut(index) else { return };
        close(live, arrival.at, End::Complete);
        live.fate.good = self.scene.routes.get(arrival.route).is_some_and(|route| route.kept_by(arrival, &live.fate));
        if let Some(machine) = live.fate.choice.and_then(|choice| self.scene.backends.get(choice.backend)) {
            self.cost += machine.tokens_cost(0, live.fate.output);
        }
        self.tell_end(index, How::Complete, now);
    }

    fn tell_end(&mut self, index: usize, how: How, now: Duration) {
        let (Some(live), Some(arrival)) = (self.live.get_mut(index), self.scene.workload.arrivals.get(index)) else {
            return;
        };
        let Some(rule) = self.replicas.get_mut(live.replica) else { return };
        let fate = &live.fate;
        let ending = Ending {
            how,
            output: fate.output,
            mean_gap: fate.mean_gap(),
            end_to_end: now - arrival.at,
            kept: fate.good,
        };
        if let Some(ticket) = live.ticket.take() {
            rule.ended(ticket, &ending, now);
        }
    }

    fn befall(&mut self, index: usize, now: Duration) {
        let Some(incident) = self.scene.incidents.get(index) else { return };
        let backend = incident.backend;
        let Some(engine) = self.engines.get_mut(backend) else { return };
        match incident.change {
            Change::Slow(factor) => engine.set_slow(factor),
            Change::Dies => engine.set_dead(true, now),
            Change::Ejected => self.eject(backend, now),
            Change::Returns => {
                if let Some(healthy) = self.healthy.get_mut(backend) {
                    *healthy = true;
                }
                std::mem::swap(engine.random_mut(), &mut self.random);
                engine.set_dead(false, now);
                std::mem::swap(engine.random_mut(), &mut self.random);
                self.known(backend);
            }
            Change::Hidden { input, output } => {
                let blocks = std::mem::take(&mut self.request.blocks);
                self.request =
                    Request { id: HIDDEN + index as u64, input_tokens: input, output_tokens: output, blocks };
                self.request.blocks.clear();
                self.hand_over(backend, now);
            }
        }
    }

    /// The health check gave a backend up: its engine starts over empty, what streamed has failed, what waited is sent
    /// elsewhere at once.
    fn eject(&mut self, backend: usize, now: Duration) {
        let (Some(engine), Some(machine)) = (self.engines.get_mut(backend), self.scene.backends.get(backend)) else {
            return;
        };
        *engine = Model::new(machine.profile, Random::seeded(0)).stall(self.scene.stall);
        engine.set_dead(true, now);
        self.known(backend);
        if let Some(healthy) = self.healthy.get_mut(backend) {
            *healthy = false;
        }
        let here = |live: &Live<R::Ticket>| {
            live.ticket.is_some() && live.fate.choice.is_some_and(|choice| choice.backend == backend)
        };
        let stranded: Vec<usize> =
            self.live.iter().enumerate().filter(|(_, live)| here(live)).map(|(index, _)| index).collect();
        let mut again = Vec::new();
        for index in stranded {
            let (Some(live), Some(arrival)) = (self.live.get_mut(index), self.scene.workload.arrivals.get(index))
            else {
                continue;
            };
            if live.fate.first.is_some() {
                close(live, arrival.at, End::Failed);
                self.tell_end(index, How::Failed, now);
            } else {
                again.push(index);
                self.tell_end(index, How::Retried, now);
            }
        }
        for rule in &mut self.replicas {
            rule.ejected(backend);
        }
        for index in again {
            self.arrive(index, now);
        }
    }

    fn gossip(&mut self, now: Duration) {
        for backend in 0..self.engines.len() {
            let told: Vec<Shared> = self.replicas.iter().map(|rule| rule.shared(backend)).collect();
            for (own, rule) in self.replicas.iter_mut().enumerate() {
                let others = told.iter().enumerate().filter(|(place, _)| *place != own);
                rule.hear(backend, others.fold(Shared::default(), |sum, (_, one)| sum.plus(one)), now);
            }
        }
    }
}

/// Makes a request's times relative to its arrival.
fn close<T>(live: &mut Live<T>, arrived: Duration, end: End) {
    live.fate.end = end;
    live.fate.first = live.fate.first.map(|first| first - arrived);
    live.fate.last = live.fate.last.saturating_sub(arrived);
}
