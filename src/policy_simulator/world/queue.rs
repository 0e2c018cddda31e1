//! Requests that wait because no backend can keep their promise now: each replica's queue, as the proxy keeps it.
//!
//! Whoever is next is asked for again whenever something came back from a backend, and turned away when its time is up.

use std::time::{Duration, Instant};

use super::World;
use crate::policy_simulator::rule::{Rule, Verdict};
use crate::route::admission::{WaitQueue, Waiting};

/// Why a request is turned away that has waited for nothing.
const EXPIRED: &str = "queue_expired";
/// Why a request is turned away that finds no place to wait.
const FULL: &str = "queue_full";

/// The queue of one replica; it is made when the first request waits.
pub(super) type Queue = Option<WaitQueue>;

impl<R: Rule> World<'_, R> {
    /// Lets a request wait, if there is a place.
    #[allow(clippy::cast_possible_truncation, reason = "the id is an index")]
    pub(super) fn wait(&mut self, index: usize, depth: usize, deadline: Duration) {
        let priority = self.scene.routes.get(self.route_of(index)).map_or(0, |route| route.priority);
        let waiting = Waiting { id: index as u64, priority, deadline: self.base + deadline };
        let queue = self.live.get(index).and_then(|live| self.queues.get_mut(live.replica));
        let displaced = queue.and_then(|queue| queue.get_or_insert_with(|| WaitQueue::new(depth)).push(waiting));
        if let Some(displaced) = displaced {
            self.shed(displaced.id as usize, FULL);
        }
        self.deadline();
    }

    /// After a step: every replica to which a first or a last token came looks at its queue.
    pub(super) fn wake_those_with_news(&mut self, now: Duration) {
        let mut news = std::mem::take(&mut self.news);
        news.sort_unstable();
        news.dedup();
        for replica in news.drain(..) {
            self.wake(replica, now);
        }
        self.news = news;
    }

    /// Something came back to a replica: those who wait may go now, in their order.
    #[allow(clippy::cast_possible_truncation, reason = "the id is an index")]
    fn wake(&mut self, replica: usize, now: Duration) {
        while let Some(next) = self.queues.get(replica).and_then(|queue| queue.as_ref()?.next()) {
            let id = next.id;
            match self.ask(id as usize, now) {
                Some(Verdict::Wait { .. }) => return,
                verdict => {
                    self.queues.get_mut(replica).and_then(|queue| queue.as_mut()?.pop());
                    match verdict {
                        Some(Verdict::Serve(choice)) => self.send(id as usize, &choice, now),
                        Some(Verdict::Shed(reason)) => self.shed(id as usize, reason),
                        _ => {}
                    }
                }
            }
            self.deadline();
        }
    }

    /// Turns away whose time is up.
    #[allow(clippy::cast_possible_truncation, reason = "the id is an index")]
    pub(super) fn expire(&mut self, now: Duration) {
        let now = self.base + now;
        for replica in 0..self.queues.len() {
            while let Some(late) = self.queues.get_mut(replica).and_then(|queue| queue.as_mut()?.expired(now)) {
                self.shed(late.id as usize, EXPIRED);
            }
        }
        self.deadline();
    }

    /// Notes when the next of all who wait has to be turned away.
    fn deadline(&mut self) {
        let next = self.queues.iter().filter_map(|queue| queue.as_ref()?.next_deadline()).min();
        let since = |at: Instant| at.saturating_duration_since(self.base);
        self.expires = next.map_or(Duration::MAX, since);
    }

    fn route_of(&self, index: usize) -> usize {
        self.scene.workload.arrivals.get(index).map_or(usize::MAX, |arrival| arrival.route)
    }
}
