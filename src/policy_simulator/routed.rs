//! Rules on the proxy's own code: the models of `route`, asked and told by the same calls as in the proxy.
//!
//! A [`Decide`] looks at the candidates that the models describe. The served policies are one; rivals that share our
//! predictor, and differ in what they do with it, are others.

use std::time::{Duration, Instant};

use super::rule::{Asked, Bounds, Choice, Ending, How, Rule, Said, Shared, Verdict, View};
use super::scene::{Machine, Scene};
use crate::measure::objective::Objectives;
use crate::random::Random;
use crate::route::admission::OnOverload;
use crate::route::decision::{Decision, Reason, TurnedAway};
use crate::route::load::{EngineReport, OtherLoad};
use crate::route::model::{self, Asking, BackendModel, RouteModel, Ticket};
use crate::route::policy::{PolicyKind, PolicyState};
use crate::route::prefix::Prefix;
use crate::route::scarcity::Scarcity;
use crate::route::snapshot::{BackendIndex, Candidate, FleetSnapshot, RequestFacts, RouteSlot};
use crate::route::tuning::Tuning;

/// Tokens of a prompt's block in the traces.
const BLOCK_TOKENS: f64 = 512.0;

/// What a rule that decides on the models' candidates is given.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// The request.
    pub facts: &'a RequestFacts,
    /// The candidates, and what the route learned.
    pub fleet: FleetSnapshot<'a>,
    /// The route, by index.
    pub route: usize,
}

/// Decides on what the models say.
pub trait Decide {
    /// Where the request goes.
    fn decide(&mut self, question: &Question<'_>, random: &mut Random) -> Verdict;

    /// What a policy of the proxy decided last.
    fn decided(&self) -> Option<&Decision> {
        None
    }
}

/// A policy of the proxy, as it is served.
#[derive(Debug)]
pub struct Served {
    policies: Vec<PolicyKind>,
    states: Vec<PolicyState>,
    decision: Decision,
}

impl Served {
    /// One policy for each route.
    #[must_use]
    pub fn new(policies: Vec<PolicyKind>, seed: u64) -> Self {
        let states = (0_u64..).take(policies.len()).map(|route| PolicyState::seeded(seed ^ (route << 32))).collect();
        Self { policies, states, decision: Decision::default() }
    }
}

impl Decide for Served {
    fn decide(&mut self, question: &Question<'_>, _random: &mut Random) -> Verdict {
        let place = question.route;
        let (Some(policy), Some(state)) = (self.policies.get(place), self.states.get_mut(place)) else {
            return Verdict::Shed("no_backend");
        };
        policy.rule().choose(question.facts, &question.fleet, state, &mut self.decision);
        let Some((backend, reason)) = self.decision.chosen else {
            return match (self.decision.turned_away, question.fleet.on_overload) {
                (Some(TurnedAway::Wait { .. }), OnOverload::Queue { depth, wait }) => Verdict::Wait { depth, wait },
                (Some(_), _) => Verdict::Shed("shed"),
                (None, _) => Verdict::Shed("no_backend"),
            };
        };
        let bounds = self.decision.of_chosen().map_or(Bounds::default(), |thought| Bounds {
            ttft: thought.ttft.map(|forecast| forecast.bound()),
            itl: thought.itl.map(|forecast| forecast.bound()),
            e2e: Some(thought.e2e.bound()),
        });
        let feasible = self.decision.is_feasible();
        Verdict::Serve(Choice { backend: backend.0, reason: reason.as_str(), feasible, bounds })
    }

    fn decided(&self) -> Option<&Decision> {
        Some(&self.decision)
    }
}

/// A rule on the proxy's models.
pub struct Routed<D> {
    /// Virtual time starts here.
    base: Instant,
    tuning: Tuning,
    decide: D,
    on_overload: Vec<OnOverload>,
    models: Vec<BackendModel>,
    machines: Vec<Machine>,
    routes: Vec<RouteModel>,
    scarcity: Scarcity,
    candidates: Vec<Candidate>,
    replicas: u32,
}

/// A request in flight.
#[derive(Debug)]
pub struct InFlight {
    ticket: Ticket,
    backend: usize,
    route: usize,
    objectives: Objectives,
    feasible: bool,
    stream: bool,
}

impl<D: Decide> Routed<D> {
    /// A copy of the proxy that has seen nothing yet, and knows of its backends what was measured before. `on_overload` is one for each route.
    #[must_use]
    pub fn new(scene: &Scene, base: Instant, tuning: Tuning, on_overload: Vec<OnOverload>, decide: D) -> Self {
        Self {
            base,
            tuning,
            decide,
            on_overload,
            models: scene.backends.iter().map(|machine| model(machine, tuning, base)).collect(),
            machines: scene.backends.clone(),
            routes: vec![RouteModel::default(); scene.routes.len()],
            scarcity: Scarcity::default(),
            candidates: Vec::new(),
            replicas: u32::try_from(scene.replicas).unwrap_or(u32::MAX),
        }
    }

    fn facts(asked: &Asked<'_>, now: Duration) -> RequestFacts {
        let arrival = asked.arrival;
        RequestFacts {
            input_tokens: u64::from(arrival.estimate),
            max_tokens: arrival.max_tokens.map(u64::from),
            stream: arrival.stream,
            objectives: asked.route.objectives,
            waited: now.saturating_sub(arrival.at),
        }
    }

    fn asking<'a>(&self, asked: &Asked<'a>, facts: &'a RequestFacts) -> Asking<'a> {
        let route = self.routes.get(asked.arrival.route).copied().unwrap_or_default();
        let (output, offsets) = (route.output(facts.max_tokens), route.offsets());
        let blocks = if asked.route.prefix_affinity { asked.blocks } else { &[] };
        let prefix = Prefix { blocks, block_tokens: BLOCK_TOKENS };
        Asking { facts, route: RouteSlot(asked.arrival.route), prefix, output, offsets }
    }

    /// Asks every open backend's model what it would make of the request, as `Fleet::dispatch` does.
    fn gather(&mut self, asked: &Asked<'_>, facts: &RequestFacts, view: &View<'_>) {
        let asking = self.asking(asked, facts);
        let now = self.base + view.now;
        let candidate = |backend: usize| {
            let (model, machine) = (self.models.get(backend)?, self.machines.get(backend)?);
            Some(Candidate {
                backend: BackendIndex(backend),
                weight: 1,
                in_flight: model.load().in_flight(),
                max_in_flight: machine.max_in_flight,
                price: Some(machine.price),
                outlook: model.outlook(&asking, now),
                ramp: 1.0,
                held_back: false,
            })
        };
        self.candidates.clear();
        self.candidates.extend(view.open(asked).filter_map(candidate));
    }
}

fn model(machine: &Machine, tuning: Tuning, base: Instant) -> BackendModel {
    let mut model = BackendModel::new(tuning, base);
    model.kv_capacity(f64::from(machine.profile.kv_capacity));
    if let Some(learned) = &machine.baseline {
        model.resume(learned, base);
    }
    model
}

impl<D: Decide> Rule for Routed<D> {
    type Ticket = Option<InFlight>;

    fn choose(&mut self, asked: &Asked<'_>, view: &View<'_>, random: &mut Random) -> Verdict {
        let facts = Self::facts(asked, view.now);
        self.gather(asked, &facts, view);
        let place = asked.arrival.route;
        let Some(route) = self.routes.get(place) else { return Verdict::Shed("no_backend") };
        let on_overload = self.on_overload.get(place).copied().unwrap_or_default();
        let fleet = FleetSnapshot {
            candidates: &self.candidates,
            route,
            on_overload,
            priority: asked.route.priority,
            scarcity: self.scarcity,
            tuning: &self.tuning,
        };
        let verdict = self.decide.decide(&Question { facts: &facts, fleet, route: place }, random);
        // One that waits, or is tried again, has been decided on before.
        if let Some(decision) = self.decide.decided().filter(|_| facts.waited.is_zero()) {
            self.scarcity.decided(decision);
        }
        verdict
    }

    fn turned_away(&mut self, asked: &Asked<'_>) {
        if let Some(route) = self.routes.get_mut(asked.arrival.route) {
            route.shed();
        }
    }

    fn dispatched(&mut self, asked: &Asked<'_>, choice: &Choice, now: Duration) -> Self::Ticket {
        let facts = Self::facts(asked, now);
        let asking = self.asking(asked, &facts);
        let reason = Reason::ALL.into_iter().find(|reason| reason.as_str() == choice.reason);
        let reason = reason.unwrap_or(Reason::CheapestWithinSlo);
        let ticket = self.models.get_mut(choice.backend)?.dispatched(&asking, reason, self.base + now);
        Some(InFlight {
            ticket,
            backend: choice.backend,
            route: asked.arrival.route,
            objectives: facts.objectives,
            feasible: choice.feasible,
            stream: facts.stream,
        })
    }

    fn first_token(&mut self, ticket: &mut Self::Ticket, now: Duration) {
        let Some(request) = ticket else { return };
        if let Some(model) = self.models.get_mut(request.backend) {
            model.first_token(&mut request.ticket, self.base + now);
        }
    }

    fn token(&mut self, backend: usize, now: Duration) {
        if let Some(model) = self.models.get_mut(backend) {
            model.progressed(self.base + now);
        }
    }

    fn gaps(&mut self, ticket: &mut Self::Ticket, count: u32, mean: Duration, now: Duration) {
        let Some(request) = ticket else { return };
        if let Some(model) = self.models.get_mut(request.backend) {
            model.tokens(&mut request.ticket, count, mean, self.base + now);
        }
    }

    fn ended(&mut self, ticket: Self::Ticket, ending: &Ending, now: Duration) {
        let Some(request) = ticket else { return };
        let how = match ending.how {
            How::Complete => model::How::Completed {
                output_tokens: Some(u64::from(ending.output)),
                mean_gap: (request.stream && ending.output >= 3).then_some(ending.mean_gap),
                paced_by_client: false,
            },
            How::Failed | How::Retried => model::How::Failed,
        };
        let mut fall = None;
        if let Some(model) = self.models.get_mut(request.backend) {
            fall = model.ended(request.ticket, how, self.base + now);
        }
        let Some(route) = self.routes.get_mut(request.route) else { return };
        if let Some(fall) = fall {
            route.fell(&fall);
        }
        if ending.how == How::Complete {
            route.answered(u64::from(ending.output));
        }
        if ending.how != How::Retried {
            route.judged(ending.kept, request.feasible, &request.objectives);
        }
    }

    fn ejected(&mut self, backend: usize) {
        if let Some(model) = self.models.get_mut(backend) {
            model.ejected();
        }
    }

    fn shared(&self, backend: usize) -> Shared {
        let Some(books) = self.models.get(backend).map(BackendModel::load) else { return Shared::default() };
        Shared { load: books.own(), in_flight: f64::from(books.in_flight()) }
    }

    fn hear(&mut self, backend: usize, others: Shared, _now: Duration) {
        if let Some(model) = self.models.get_mut(backend) {
            model.others(OtherLoad { load: others.load, replicas: self.replicas.saturating_sub(1) });
        }
    }

    fn engine_said(&mut self, backend: usize, said: &Said, now: Duration) {
        let (Some(model), Some(machine)) = (self.models.get_mut(backend), self.machines.get(backend)) else {
            return;
        };
        let report = EngineReport {
            running: u32::try_from(said.running).unwrap_or(u32::MAX),
            waiting: u32::try_from(said.waiting).unwrap_or(u32::MAX),
            kv_tokens: Some(said.kv_ratio * f64::from(machine.profile.kv_capacity)),
        };
        model.engine_reported(report, self.base + now);
    }
}

#[cfg(test)]
mod tests;
