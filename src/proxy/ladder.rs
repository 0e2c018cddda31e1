//! What headway does when it is about to run out of something it has only so much of: room for request bodies, client
//! connections, descriptors.
//!
//! In steps, as Envoy's overload manager does it. From [`NEARLY`] on, connections end with their answer, so that places
//! come back. When something is used up, new work is refused, and told when to come back. The admin listener lives on
//! descriptors that neither clients nor backends get (`docs/decisions/0027-shedding-ladder.md`).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::process::{Resource, getrlimit, setrlimit};

use super::body::MemoryBudget;
use crate::config::settings::Limits;

/// From this share on, in percent, connections do not outlive their answer.
const NEARLY: u64 = 92;

/// Most descriptors that are kept for everything else: the admin listener's connections, logs, timers, health checks.
const RESERVE: u64 = 96;

/// What is used of everything that there is only so much of.
#[derive(Debug)]
pub struct Ladder {
    pub(super) memory: Arc<MemoryBudget>,
    /// Descriptors for clients, and as many for backends.
    descriptors: usize,
    clients: AtomicUsize,
    backends: AtomicUsize,
}

/// What is used of one thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pressure {
    /// What it is.
    pub resource: &'static str,
    /// How much is in use.
    pub used: u64,
    /// How much there is.
    pub most: u64,
}

impl Pressure {
    /// Whether so much is in use that connections do not outlive their answer.
    #[must_use]
    pub fn is_high(&self) -> bool {
        self.used.saturating_mul(100) >= self.most.saturating_mul(NEARLY)
    }
}

/// A client's connection; given back by `Drop`.
#[derive(Debug)]
pub(super) struct Client(Arc<Ladder>);

/// A connection to a backend, for one exchange; given back by `Drop`.
#[derive(Debug)]
pub(super) struct Reach(Arc<Ladder>);

impl Ladder {
    /// With the descriptors that this process may have.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Self::with(getrlimit(Resource::Nofile).current)
    }

    /// With so many descriptors; `None` is without limit.
    fn with(descriptors: Option<u64>) -> Arc<Self> {
        let share = descriptors.map_or(u64::MAX, |all| (all / 2).saturating_sub(RESERVE.min(all / 4)).max(1));
        Arc::new(Self {
            memory: MemoryBudget::new(),
            descriptors: usize::try_from(share).unwrap_or(usize::MAX),
            clients: AtomicUsize::new(0),
            backends: AtomicUsize::new(0),
        })
    }

    /// Most client connections at once: as configured, and no more than there are descriptors for.
    fn most_clients(&self, limits: &Limits) -> usize {
        limits.connections.min(self.descriptors)
    }

    /// Whether another client's connection may be taken.
    pub(super) fn has_room(&self, limits: &Limits) -> bool {
        self.clients() < self.most_clients(limits)
    }

    /// Client connections that are open.
    pub(super) fn clients(&self) -> usize {
        self.clients.load(Ordering::Relaxed)
    }

    /// Counts a client's connection.
    pub(super) fn enter(self: &Arc<Self>) -> Client {
        self.clients.fetch_add(1, Ordering::Relaxed);
        Client(Arc::clone(self))
    }

    /// A descriptor for a connection to a backend; `None` when there is none left. `close_idle` closes a connection that
    /// is kept for later, if there is one; `idle` says how many there are.
    pub(super) fn reach(self: &Arc<Self>, idle: impl Fn() -> usize, close_idle: impl Fn() -> bool) -> Option<Reach> {
        let most = self.descriptors;
        let one_more = |count: usize| (count < most).then_some(count + 1);
        let before = self.backends.fetch_update(Ordering::AcqRel, Ordering::Acquire, one_more).ok()?;
        // From here on the guard's drop undoes the count.
        let reach = Reach(Arc::clone(self));
        // A kept one is as good as a new one: it is taken, or gives its descriptor up.
        let mut over = (before + 1).saturating_add(idle()).saturating_sub(most);
        while over > 0 && close_idle() {
            over -= 1;
        }
        Some(reach)
    }

    /// Whether connections may outlive their answer.
    pub(super) fn keeps_alive(&self, limits: &Limits) -> bool {
        !self.pressures(limits).iter().any(Pressure::is_high)
    }

    /// What is used of everything.
    #[must_use]
    pub fn pressures(&self, limits: &Limits) -> [Pressure; 3] {
        let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        [
            Pressure { resource: "memory", used: self.memory.used(), most: limits.memory },
            Pressure { resource: "connections", used: count(self.clients()), most: count(self.most_clients(limits)) },
            Pressure {
                resource: "descriptors",
                used: count(self.backends.load(Ordering::Relaxed)),
                most: count(self.descriptors),
            },
        ]
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.0.clients.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Reach {
    fn drop(&mut self) {
        self.0.backends.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Takes as many descriptors as the system lets this process have: the usual soft limit of 1024 is for programs that
/// cannot count further.
pub fn raise_descriptor_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        limit.current = limit.maximum;
        // Whoever forbids it has decided; the ladder goes by what there is.
        let _ = setrlimit(Resource::Nofile, limit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(descriptors: Option<u64>, clients: usize) {
        let ladder = Ladder::with(descriptors);
        assert_eq!(ladder.most_clients(&Limits { connections: usize::MAX, ..Limits::default() }), clients);
    }

    #[test]
    fn clients_get_half_of_the_descriptors_less_what_everything_else_needs() {
        check(Some(64), 16);
        check(Some(256), 64);
        check(Some(1024), 416);
        check(Some(65_536), 32_672);
        check(Some(0), 1);
        check(None, usize::MAX);
    }

    #[test]
    fn connections_end_with_their_answer_before_the_last_place_is_taken() {
        let limits = Limits { connections: 100, ..Limits::default() };
        let ladder = Ladder::with(None);
        let mut open: Vec<_> = (0..91).map(|_| ladder.enter()).collect();
        assert!(ladder.keeps_alive(&limits));
        open.push(ladder.enter());
        assert!(!ladder.keeps_alive(&limits) && ladder.has_room(&limits));
        open.extend((0..8).map(|_| ladder.enter()));
        assert!(!ladder.has_room(&limits));
        open.truncate(50);
        assert!(ladder.keeps_alive(&limits) && ladder.has_room(&limits) && ladder.clients() == 50);
    }

    #[test]
    fn what_is_kept_for_later_makes_way() {
        let ladder = Ladder::with(Some(16));
        let idle = std::cell::Cell::new(3);
        let close = || {
            idle.get() > 0 && {
                idle.set(idle.get() - 1);
                true
            }
        };
        let reach = || ladder.reach(|| idle.get(), close);
        let held: Vec<_> = std::iter::from_fn(reach).collect();
        assert_eq!((held.len(), idle.get()), (4, 0), "half of sixteen, less a quarter");
        drop(held);
        assert!(reach().is_some());
        assert_eq!(ladder.backends.load(Ordering::Relaxed), 0);
    }
}
