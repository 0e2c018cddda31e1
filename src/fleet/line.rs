//! Those that wait for a place: one queue per route, and the order between them.
//!
//! Whoever frees a place calls the line. The most important of those that are first on their routes tries then, and when
//! it finds none it hands the call on to the next. The first of each route also tries now and then by itself, for
//! predictions change with time alone.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::route::admission::{WaitQueue, Waiting};
use crate::route::snapshot::RouteSlot;

/// How often the first of a route tries without being called.
const TICK: Duration = Duration::from_millis(50);

/// Everyone that waits, in all generations.
#[derive(Debug, Default)]
pub(super) struct Line {
    /// How many; looked at by everyone that frees a place.
    waiting: AtomicUsize,
    lanes: Mutex<Lanes>,
}

#[derive(Debug, Default)]
struct Lanes {
    /// Only routes on which somebody waits.
    all: Vec<Lane>,
    /// Numbers those that wait.
    joined: u64,
}

#[derive(Debug)]
struct Lane {
    route: RouteSlot,
    queue: WaitQueue,
    bells: HashMap<u64, Arc<Notify>>,
}

/// A place in the line, given up when dropped.
#[derive(Debug)]
pub struct Place {
    line: Arc<Line>,
    route: RouteSlot,
    one: Waiting,
    bell: Arc<Notify>,
}

/// What became of waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// There may be a place: try.
    Try,
    /// The deadline has passed.
    Late,
    /// A more important request took the place in a full line.
    Displaced,
}

type Rank = (Reverse<i32>, Instant, u64);

fn rank(one: &Waiting) -> Rank {
    (Reverse(one.priority), one.deadline, one.id)
}

impl Line {
    fn lanes(&self) -> MutexGuard<'_, Lanes> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Whether somebody of the route would be served before a newcomer with this deadline.
    pub(super) fn is_before(&self, route: RouteSlot, priority: i32, deadline: Instant) -> bool {
        self.len() > 0 && self.lanes().lane(route).is_some_and(|lane| lane.queue.ahead_of(priority, deadline) > 0)
    }

    /// Whether somebody of the route waits.
    pub(super) fn has_any(&self, route: RouteSlot) -> bool {
        self.len() > 0 && self.lanes().lane(route).is_some_and(|lane| !lane.bells.is_empty())
    }

    /// There may be a place. Costs one relaxed load while nobody waits.
    pub(super) fn call(&self) {
        if self.len() > 0 {
            self.lanes().ring_after(None);
        }
    }

    /// Takes a place in the line of at most `depth`; `None` when all are taken by others that go first.
    pub(super) fn join(
        self: &Arc<Self>,
        route: RouteSlot,
        depth: usize,
        priority: i32,
        deadline: Instant,
    ) -> Option<Place> {
        let bell = Arc::new(Notify::new());
        let mut lanes = self.lanes();
        lanes.joined += 1;
        let one = Waiting { id: lanes.joined, priority, deadline };
        let lane = lanes.open(route, depth)?;
        let out = lane.queue.push(one);
        if out != Some(one) {
            lane.bells.insert(one.id, Arc::clone(&bell));
            self.waiting.fetch_add(1, Ordering::Relaxed);
        }
        if let Some(displaced) = out.filter(|out| *out != one) {
            self.take(lane, displaced.id);
        }
        lanes.close_empty();
        drop(lanes);
        (out != Some(one)).then(|| Place { line: Arc::clone(self), route, one, bell })
    }

    /// Whoever is out is told, so that it looks.
    fn take(&self, lane: &mut Lane, id: u64) {
        lane.queue.remove(id);
        if let Some(bell) = lane.bells.remove(&id) {
            bell.notify_one();
            self.waiting.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Lanes {
    fn lane(&self, route: RouteSlot) -> Option<&Lane> {
        self.all.iter().find(|lane| lane.route == route)
    }

    fn open(&mut self, route: RouteSlot, depth: usize) -> Option<&mut Lane> {
        if self.lane(route).is_none() {
            self.all.push(Lane { route, queue: WaitQueue::new(depth), bells: HashMap::new() });
        }
        self.all.iter_mut().find(|lane| lane.route == route)
    }

    fn close_empty(&mut self) {
        self.all.retain(|lane| !lane.queue.is_empty());
    }

    /// Calls the first after `rank` of those that are first on their routes.
    fn ring_after(&self, after: Option<Rank>) {
        let firsts = self.all.iter().filter_map(|lane| Some((rank(lane.queue.next()?), lane)));
        let next = firsts.filter(|(rank, _)| after.is_none_or(|after| *rank > after)).min_by_key(|(rank, _)| *rank);
        if let Some(((.., id), lane)) = next
            && let Some(bell) = lane.bells.get(&id)
        {
            bell.notify_one();
        }
    }
}

impl Place {
    /// Waits until there may be a place, or no hope is left.
    pub async fn turn(&self) -> Turn {
        loop {
            let (first, there) = self.stands();
            if !there {
                return Turn::Displaced;
            }
            tokio::select! {
                biased;
                () = tokio::time::sleep_until(self.one.deadline.into()) => return Turn::Late,
                () = self.bell.notified() => {}
                () = tokio::time::sleep(TICK), if first => {}
            }
            if self.stands().0 {
                return Turn::Try;
            }
        }
    }

    /// Tried in vain: the call goes on to the first of the next route.
    pub fn pass(&self) {
        self.line.lanes().ring_after(Some(rank(&self.one)));
    }

    /// Whether it is the first of its route, and whether it is there at all.
    fn stands(&self) -> (bool, bool) {
        let lanes = self.line.lanes();
        let Some(lane) = lanes.lane(self.route) else { return (false, false) };
        let first = lane.queue.next().is_some_and(|next| next.id == self.one.id);
        (first, lane.bells.contains_key(&self.one.id))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut lanes = self.line.lanes();
        let Some(lane) = lanes.all.iter_mut().find(|lane| lane.route == self.route) else { return };
        self.line.take(lane, self.one.id);
        // Whoever is first now keeps an eye on its chance.
        if let Some(bell) = lane.queue.next().and_then(|next| lane.bells.get(&next.id)) {
            bell.notify_one();
        }
        lanes.close_empty();
    }
}
