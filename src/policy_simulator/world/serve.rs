//! The life of a request: from the rule to an engine, token by token, to its end.

use std::time::Duration;

use super::{GROUP, HIDDEN, Live, World};
use crate::engine::{Event, Model};
use crate::policy_simulator::fate::{End, Fate};
use crate::policy_simulator::rule::{Asked, Choice, Ending, How, Rule, Verdict, View};
use crate::policy_simulator::scene::Scene;

impl<R: Rule> World<'_, R> {
    /// Asks the rule of the request's replica, and does what it says.
    pub(super) fn arrive(&mut self, index: usize, now: Duration) {
        match self.ask(index, now) {
            Some(Verdict::Serve(choice)) => self.send(index, &choice, now),
            Some(Verdict::Shed(reason)) => self.shed(index, reason),
            Some(Verdict::Wait { depth, wait }) => self.wait(index, depth, now + wait),
            None => {}
        }
    }

    /// What the rule of the request's replica says.
    pub(super) fn ask(&mut self, index: usize, now: Duration) -> Option<Verdict> {
        let asked = asked(self.scene, index)?;
        let rule = self.live.get(index).and_then(|live| self.replicas.get_mut(live.replica))?;
        let view = View { now, healthy: &self.healthy, engines: &self.engines };
        Some(rule.choose(&asked, &view, &mut self.random))
    }

    /// Turns a request away.
    pub(super) fn shed(&mut self, index: usize, reason: &'static str) {
        let (Some(asked), Some(live)) = (asked(self.scene, index), self.live.get_mut(index)) else { return };
        live.fate = Fate { end: End::Shed, reason, ..live.fate };
        if let Some(rule) = self.replicas.get_mut(live.replica) {
            rule.turned_away(&asked);
        }
    }

    /// Sends a request where the rule chose.
    pub(super) fn send(&mut self, index: usize, choice: &Choice, now: Duration) {
        let (Some(asked), Some(live)) = (asked(self.scene, index), self.live.get_mut(index)) else { return };
        let Some(rule) = self.replicas.get_mut(live.replica) else { return };
        live.ticket = Some(rule.dispatched(&asked, choice, now));
        let attempts = live.fate.attempts + 1;
        let sent = now.saturating_sub(asked.arrival.at);
        live.fate = Fate { choice: Some(*choice), reason: choice.reason, sent, attempts, ..live.fate };
        self.request.id = index as u64;
        self.request.input_tokens = asked.arrival.input;
        self.request.output_tokens = asked.arrival.output;
        self.request.blocks.clear();
        self.request.blocks.extend_from_slice(asked.blocks);
        let cached = self.hand_over(choice.backend, now);
        let uncached = asked.arrival.input.saturating_sub(cached);
        self.cost += self.scene.backends.get(choice.backend).map_or(0.0, |machine| machine.tokens_cost(uncached, 0));
    }

    /// Gives the prepared request to an engine; tells how much of its prompt was cached.
    pub(super) fn hand_over(&mut self, backend: usize, now: Duration) -> u32 {
        let Some(engine) = self.engines.get_mut(backend) else { return 0 };
        std::mem::swap(engine.random_mut(), &mut self.random);
        let cached = engine.arrive(now, &self.request).unwrap_or_default();
        std::mem::swap(engine.random_mut(), &mut self.random);
        self.known(backend);
        cached
    }

    /// Notes when an engine's step ends, if that is news.
    pub(super) fn known(&mut self, backend: usize) {
        let ends = self.engines.get(backend).and_then(Model::next_event_at).unwrap_or(Duration::MAX);
        if let Some(step) = self.steps.get_mut(backend).filter(|step| step.0 != ends) {
            self.order += 1;
            *step = (ends, self.order);
        }
    }

    pub(super) fn step(&mut self, backend: usize, now: Duration) {
        let Some(engine) = self.engines.get_mut(backend) else { return };
        let mut events = std::mem::take(&mut self.engine_events);
        std::mem::swap(engine.random_mut(), &mut self.random);
        engine.advance(now, &mut events);
        std::mem::swap(engine.random_mut(), &mut self.random);
        self.known(backend);
        self.news.clear();
        for event in events.drain(..) {
            match event {
                Event::Token { id, .. } | Event::Done { id, .. } if id >= HIDDEN => {}
                Event::Token { id, first, .. } => self.token(id, first, backend, now),
                Event::Done { id, .. } => self.done(id, now),
            }
        }
        self.engine_events = events;
        if self.expires < Duration::MAX {
            self.wake_those_with_news(now);
        }
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
            self.news.push(live.replica);
        }
        let Some(ticket) = live.ticket.as_mut().filter(|_| live.stream) else { return };
        if first {
            rule.first_token(ticket, now);
            return;
        }
        rule.token(backend, now);
        if (live.fate.output - 1) % GROUP == 0 {
            let mean = now.saturating_sub(live.group) / GROUP;
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

    pub(super) fn tell_end(&mut self, index: usize, how: How, now: Duration) {
        let (Some(live), Some(arrival)) = (self.live.get_mut(index), self.scene.workload.arrivals.get(index)) else {
            return;
        };
        let Some(rule) = self.replicas.get_mut(live.replica) else { return };
        let fate = &live.fate;
        let ending = Ending {
            how,
            output: fate.output,
            mean_gap: fate.mean_gap(),
            end_to_end: now.saturating_sub(arrival.at),
            kept: fate.good,
        };
        if let Some(ticket) = live.ticket.take() {
            rule.ended(ticket, &ending, now);
        }
        self.news.push(live.replica);
    }
}

/// A request as rules see it.
fn asked(scene: &Scene, index: usize) -> Option<Asked<'_>> {
    let arrival = scene.workload.arrivals.get(index)?;
    Some(Asked { arrival, blocks: scene.workload.blocks(arrival), route: scene.routes.get(arrival.route)? })
}

/// Makes a request's times relative to its arrival.
pub(super) fn close<T>(live: &mut Live<T>, arrived: Duration, end: End) {
    live.fate.end = end;
    live.fate.first = live.fate.first.map(|first| first.saturating_sub(arrived));
    live.fate.last = live.fate.last.saturating_sub(arrived);
}
