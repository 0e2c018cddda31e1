//! What becomes of a request that no backend can keep the promise for.

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

/// One request that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waiting {
    /// Names the request.
    pub id: u64,
    /// More important requests go first.
    pub priority: i32,
    /// When it must have been sent; of the same priority the earlier goes first.
    pub deadline: Instant,
}

/// Requests that wait, the next one first. Bounded.
#[derive(Debug, Clone)]
pub struct WaitQueue {
    depth: usize,
    waiting: Vec<Waiting>,
}

impl WaitQueue {
    /// A queue of at most `depth` requests.
    #[must_use]
    pub fn new(depth: usize) -> Self {
        Self { depth, waiting: Vec::new() }
    }

    /// Takes a request in. Answers who has no place: itself, or whoever it displaced.
    pub fn push(&mut self, one: Waiting) -> Option<Waiting> {
        let _ = (self.depth, &mut self.waiting);
        Some(one)
    }
}
