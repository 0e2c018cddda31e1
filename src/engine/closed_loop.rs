//! A closed loop of clients on the model of an engine, for tests: what a benchmark would see, without waiting for it.

use std::collections::HashMap;
use std::time::Duration;

use super::model::{Event, Model, Request};
use super::profiles::Profile;
use crate::random::Random;

/// One request of the loop, by the time since its start.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seen {
    pub(crate) started: Duration,
    pub(crate) first_token: Duration,
    pub(crate) ended: Duration,
    pub(crate) input_tokens: u32,
    pub(crate) output_tokens: u32,
}

impl Seen {
    pub(crate) fn ttft(&self) -> Duration {
        self.first_token.saturating_sub(self.started)
    }

    pub(crate) fn itl(&self) -> Duration {
        self.ended.saturating_sub(self.first_token) / self.output_tokens.saturating_sub(1).max(1)
    }

    pub(crate) fn end_to_end(&self) -> Duration {
        self.ended.saturating_sub(self.started)
    }
}

/// So many clients, each sending its next request when it has its answer; answers of different length, `output_tokens`
/// on average, keep them out of step. So many requests in all; in the order in which they end.
pub(crate) fn closed_loop(profile: &Profile, clients: u32, (input, output): (u32, u32), requests: u64) -> Vec<Seen> {
    let (mut engine, mut random) = (Model::new(*profile, Random::seeded(1)), Random::seeded(2));
    let mut under_way: HashMap<u64, Seen> = HashMap::new();
    let mut send = |engine: &mut Model, id: u64, at: Duration| {
        let spread = random.below(output as usize);
        let output_tokens = output / 2 + u32::try_from(spread).expect("small");
        engine.arrive(at, &Request { id, input_tokens: input, output_tokens, blocks: Vec::new() }).expect("room");
        Seen { started: at, first_token: at, ended: at, input_tokens: input, output_tokens }
    };
    for id in 0..u64::from(clients) {
        let seen = send(&mut engine, id, Duration::ZERO);
        under_way.insert(id, seen);
    }
    let (mut next, mut all, mut events) = (u64::from(clients), Vec::new(), Vec::new());
    while let Some(at) = engine.next_event_at() {
        events.clear();
        engine.advance(at, &mut events);
        for event in events.iter().copied() {
            match event {
                Event::Token { id, first: true, at, .. } => under_way.get_mut(&id).expect("sent").first_token = at,
                Event::Token { .. } => {}
                Event::Done { id, at } => {
                    all.push(Seen { ended: at, ..under_way.remove(&id).expect("sent") });
                    if next < requests {
                        let seen = send(&mut engine, next, at);
                        under_way.insert(next, seen);
                        next += 1;
                    }
                }
            }
        }
    }
    all
}
