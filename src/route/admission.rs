//! What becomes of a request that no backend can keep the promise for, and in which order those that wait are served.

use std::time::{Duration, Instant};

/// What a route does with requests that it cannot keep the promise for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnOverload {
    /// Refuses them at once, so that the others stay fast.
    Shed,
    /// Serves them where that is cheapest, late.
    #[default]
    Sacrifice,
    /// Lets them wait for a place.
    Queue {
        /// How many may wait.
        depth: usize,
        /// How long one may wait.
        wait: Duration,
    },
}

impl OnOverload {
    /// The name in the configuration.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Shed => "shed",
            Self::Sacrifice => "sacrifice",
            Self::Queue { .. } => "queue",
        }
    }
}

/// The most requests that a queue may be configured to hold.
pub const DEEPEST: usize = 65_536;

/// One request that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waiting {
    /// Names the request; unique in its queue.
    pub id: u64,
    /// More important requests go first.
    pub priority: i32,
    /// When it must have been sent; of the same priority the earlier goes first, and of the same deadline the older.
    pub deadline: Instant,
}

impl Waiting {
    fn rank(&self) -> (std::cmp::Reverse<i32>, Instant, u64) {
        (std::cmp::Reverse(self.priority), self.deadline, self.id)
    }
}

/// Requests that wait, in the order in which they are to be served: by priority, then by deadline. Bounded.
///
/// Kept sorted with the next one last: taking it moves nothing, and a queue is short enough to shift.
#[derive(Debug, Clone)]
pub struct WaitQueue {
    depth: usize,
    /// The last is the next.
    waiting: Vec<Waiting>,
}

impl WaitQueue {
    /// A queue of at most `depth` requests.
    #[must_use]
    pub fn new(depth: usize) -> Self {
        Self { depth: depth.min(DEEPEST), waiting: Vec::new() }
    }

    /// Takes a request in. When the queue is full, whoever would be served last has no place, and is answered: the
    /// newcomer itself, or the one it displaced.
    pub fn push(&mut self, one: Waiting) -> Option<Waiting> {
        let place = self.waiting.partition_point(|other| other.rank() > one.rank());
        if self.waiting.len() < self.depth {
            self.waiting.insert(place, one);
            return None;
        }
        if place == 0 {
            return Some(one);
        }
        let last = self.waiting.remove(0);
        self.waiting.insert(place - 1, one);
        Some(last)
    }

    /// Who is to be served next.
    #[must_use]
    pub fn next(&self) -> Option<&Waiting> {
        self.waiting.last()
    }

    /// Takes out who is to be served next.
    pub fn pop(&mut self) -> Option<Waiting> {
        self.waiting.pop()
    }

    /// Takes out a request that waits no longer; answers whether it was there.
    pub fn remove(&mut self, id: u64) -> bool {
        let place = self.waiting.iter().position(|one| one.id == id);
        place.map(|place| self.waiting.remove(place)).is_some()
    }

    /// Takes out one whose deadline has passed, if there is any; to be called until there is none.
    pub fn expired(&mut self, now: Instant) -> Option<Waiting> {
        let place = self.waiting.iter().position(|one| one.deadline <= now)?;
        Some(self.waiting.remove(place))
    }

    /// How many would be served before a request of this priority and deadline.
    #[must_use]
    pub fn ahead_of(&self, priority: i32, deadline: Instant) -> usize {
        let rank = Waiting { id: u64::MAX, priority, deadline }.rank();
        self.waiting.len() - self.waiting.partition_point(|other| other.rank() > rank)
    }

    /// When the next deadline passes.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        self.waiting.iter().map(|one| one.deadline).min()
    }

    /// Requests that wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether nobody waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::clock::{Clock, ManualClock};

    const SECOND: Duration = Duration::from_secs(1);

    fn waiting(id: u64, priority: i32, deadline: u32) -> Waiting {
        Waiting { id, priority, deadline: ManualClock::new().now() + SECOND * deadline }
    }

    /// The same base for all instants of a test.
    fn at(base: Instant, (id, priority, deadline): (u64, i32, u32)) -> Waiting {
        Waiting { id, priority, deadline: base + SECOND * deadline }
    }

    #[test]
    fn the_important_go_first_then_the_urgent_then_the_old() {
        let base = ManualClock::new().now();
        let mut queue = WaitQueue::new(8);
        for one in [(1, 0, 9), (2, 5, 9), (3, 0, 1), (4, 5, 2), (5, 0, 1)] {
            assert_eq!(queue.push(at(base, one)), None);
        }
        let order: Vec<_> = std::iter::from_fn(|| queue.pop()).map(|one| one.id).collect();
        assert_eq!(order, [4, 2, 3, 5, 1]);
    }

    #[test]
    fn a_full_queue_turns_away_whoever_would_be_served_last() {
        let base = ManualClock::new().now();
        let mut queue = WaitQueue::new(2);
        assert_eq!(queue.push(at(base, (1, 0, 5))), None);
        assert_eq!(queue.push(at(base, (2, 0, 3))), None);
        assert_eq!(queue.push(at(base, (3, 0, 9))).map(|one| one.id), Some(3));
        assert_eq!(queue.push(at(base, (4, 0, 4))).map(|one| one.id), Some(1));
        assert_eq!(queue.push(at(base, (5, 7, 9))).map(|one| one.id), Some(4));
        assert_eq!((queue.ahead_of(0, base), queue.ahead_of(0, base + SECOND * 9)), (1, 2));
        assert_eq!(WaitQueue::new(0).push(waiting(1, 0, 1)).map(|one| one.id), Some(1));
    }

    #[test]
    fn whoever_waited_too_long_or_left_is_taken_out() {
        let base = ManualClock::new().now();
        let mut queue = WaitQueue::new(8);
        for one in [(1, 0, 1), (2, 5, 3), (3, 0, 9)] {
            queue.push(at(base, one));
        }
        assert!(queue.remove(3) && !queue.remove(3));
        assert_eq!(queue.next_deadline(), Some(base + SECOND));
        let late = base + SECOND * 2;
        assert_eq!((queue.expired(late).map(|one| one.id), queue.expired(late)), (Some(1), None));
        assert_eq!((queue.next().map(|one| one.id), queue.len(), queue.is_empty()), (Some(2), 1, false));
    }

    proptest! {
        #[test]
        fn it_serves_as_a_sorted_list_would(
            depth in 0_usize..6,
            arrivals in proptest::collection::vec((0_i32..3, 0_u32..5), 0..40),
        ) {
            let base = ManualClock::new().now();
            let (mut queue, mut list) = (WaitQueue::new(depth), Vec::new());
            for (id, (priority, deadline)) in (0_u64..).zip(arrivals) {
                let one = at(base, (id, priority, deadline));
                list.push(one);
                list.sort_by_key(Waiting::rank);
                let dropped = (list.len() > depth).then(|| list.pop()).flatten();
                prop_assert_eq!(queue.push(one), dropped);
                prop_assert_eq!((queue.len(), queue.next()), (list.len(), list.first()));
            }
        }
    }
}
