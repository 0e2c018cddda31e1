//! What happens to backends, and what replicas and scrapes tell of them.

use std::time::Duration;

use super::serve::close;
use super::{HIDDEN, Live, World};
use crate::engine::{Model, Request};
use crate::policy_simulator::fate::End;
use crate::policy_simulator::rule::{How, Rule, Said, Shared};
use crate::policy_simulator::scene::Change;
use crate::random::Random;

impl<R: Rule> World<'_, R> {
    pub(super) fn befall(&mut self, index: usize, now: Duration) {
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

    pub(super) fn gossip(&mut self, now: Duration) {
        for backend in 0..self.engines.len() {
            let told: Vec<Shared> = self.replicas.iter().map(|rule| rule.shared(backend)).collect();
            for (own, rule) in self.replicas.iter_mut().enumerate() {
                let others = told.iter().enumerate().filter(|(place, _)| *place != own);
                rule.hear(backend, others.fold(Shared::default(), |sum, (_, one)| sum.plus(one)), now);
            }
        }
    }

    /// Asks every engine how it is, as a scrape of its metrics would.
    pub(super) fn scrape(&mut self, now: Duration) {
        let scraped = |backend: &usize| self.scene.backends.get(*backend).is_some_and(|machine| machine.scraped);
        for (backend, engine) in self.engines.iter().enumerate().filter(|(backend, _)| scraped(backend)) {
            let said = Said { running: engine.running(), waiting: engine.waiting(), kv_ratio: engine.kv_ratio() };
            for rule in &mut self.replicas {
                rule.engine_said(backend, &said, now);
            }
        }
    }
}
