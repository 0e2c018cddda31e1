//! The backends and routes of one configuration, alive: what is in flight, what was measured, who is healthy.
//!
//! A [`Fleet`] belongs to one configuration generation and its structure never changes; what it counts lies in parts
//! that the next generation shares wherever a backend or a route is still the same. An exchange loads the generation
//! once and keeps it for its life.

pub mod backend;
mod buffering;
pub mod callers;
pub mod choosing;
pub mod decisions;
mod demand;
pub mod dispatch;
pub mod endpoint;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
pub mod gpu;
pub mod in_flight;
pub mod line;
pub mod matching;
pub mod models;
pub mod probes;
pub mod route;
pub mod running;
pub mod shadow;
pub mod state;

mod candidates;
mod engine_metrics;
mod grouping;
mod health;
mod outliers;
mod pace;
mod prompt_sizes;
mod resolve;
mod split;
mod stored;
mod tls;
mod watchdog;
mod windows;

#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

pub use self::backend::{BackendState, LiveBackend};
pub use self::callers::{Admission, Allowance, Caller, Limit, Limited, MostOutput, Spent};
pub use self::choosing::Explanation;
pub use self::decisions::{Decided, DecisionRecord, Happened};
pub use self::dispatch::{Away, Dispatched, Needs, NoCandidate, Request};
pub use self::endpoint::Endpoint;
pub use self::in_flight::{InFlight, Progress, RetryPermit, Served};
pub use self::line::{Place, Turn};
pub use self::matching::RouteMatchResult;
pub use self::route::LiveRoute;
pub use self::shadow::ShadowFigures;
pub use self::split::{GroupFigures, NoGroup, RolledBack};
pub use self::tls::{TlsProblem, is_tls_failure};

use self::backend::Shared;
use self::callers::Callers;
use self::dispatch::Desk;
use self::line::Line;
use self::prompt_sizes::PromptSizes;
use self::route::{Pair, RouteCounts};
use self::split::RouteSplit;
use self::stored::StoredResponses;
use self::tls::TlsMaterial;
use crate::config::baselines::Baseline;
use crate::config::certificates::{Expiry, Owner};
use crate::config::settings::{Backend, Route, Settings, Timeouts};
use crate::measure::exchange::ExchangeRecord;
use crate::route::admission::OnOverload;
use crate::route::prefix::BlockHasher;
use crate::route::snapshot::{BackendIndex, RouteSlot};
use crate::wire::StoredId;

/// Why a fleet cannot be made of a configuration.
#[derive(Debug, thiserror::Error)]
pub enum FleetError {
    /// A certificate or key of a backend cannot be used.
    #[error("backend `{backend}`: {file}: {problem}")]
    Tls {
        /// The backend's name.
        backend: String,
        /// The file.
        file: String,
        /// What is wrong with it.
        problem: String,
    },
}

/// The backends and routes of one configuration generation.
#[derive(Debug)]
pub struct Fleet {
    settings: Arc<Settings>,
    backends: Vec<Arc<LiveBackend>>,
    routes: Vec<Arc<LiveRoute>>,
    callers: Callers,
    common: Arc<Common>,
}

/// What all generations share.
#[derive(Debug, Default)]
struct Common {
    desk: Mutex<Desk>,
    line: Arc<Line>,
    ejecting: Arc<Mutex<()>>,
    prompts: PromptSizes,
    /// Slots given to routes so far.
    slots: AtomicUsize,
    stored: StoredResponses,
    seed: Seed,
}

/// What nobody outside can know, so that a client cannot choose which prompts share a name.
#[derive(Debug)]
struct Seed(u64);

impl Seed {
    fn get(&self) -> u64 {
        self.0
    }
}

impl Default for Seed {
    fn default() -> Self {
        Self(std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0))
    }
}

/// Whether the fleet can serve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Readiness {
    /// Whether at least one route has a usable backend.
    pub ready: bool,
    /// A sentence for each route that has none, and for each backend that is not ready.
    pub reasons: Vec<String>,
}

impl Fleet {
    /// The fleet of the first configuration; nothing is known of any backend yet.
    ///
    /// # Errors
    /// When a backend's certificate or key cannot be used.
    pub fn new(settings: Arc<Settings>, now: Instant) -> Result<Self, FleetError> {
        let fleet = Self::build(settings, None, now)?;
        fleet.settle();
        Ok(fleet)
    }

    /// The fleet of a new configuration: a backend that is still the same server (name, URL, server name, h2, link-local or not) and a route of
    /// the same name keep what they counted and learned. What generations share changes only with [`Self::settle`].
    ///
    /// # Errors
    /// When a backend's certificate or key cannot be used.
    pub fn rebuilt(&self, settings: Arc<Settings>, now: Instant) -> Result<Self, FleetError> {
        Self::build(settings, Some(self), now)
    }

    /// The configuration.
    pub fn settings(&self) -> &Arc<Settings> {
        &self.settings
    }

    /// The backends, in the order of the settings.
    pub fn backends(&self) -> &[Arc<LiveBackend>] {
        &self.backends
    }

    /// The routes, in the order of the settings.
    pub fn routes(&self) -> &[Arc<LiveRoute>] {
        &self.routes
    }

    /// Learns from an ended exchange what its route and backends are like. To be called once per exchange.
    pub fn record(&self, record: &ExchangeRecord, now: Instant) {
        let name = record.route.as_ref();
        if let Some(route) = name.and_then(|name| self.routes.iter().find(|route| route.name() == name)) {
            route.record(record, now);
        }
        if record.attempts.iter().any(|attempt| attempt.decision.is_some()) {
            self.desk().log.ended(record);
        }
    }

    /// Leave to try a second backend, unless the route's retry budget is used up.
    pub fn retry_permit(&self, route: usize) -> Option<RetryPermit> {
        let route = self.routes.get(route)?;
        RetryPermit::take(&route.counts, route.settings().retry.budget)
    }

    /// Prompt tokens to expect of a text of so many bytes.
    pub fn estimate_tokens(&self, model: &str, prompt_bytes: u64) -> u64 {
        let known = || self.serves_model(model).and_then(|name| self.common.prompts.estimate(&name, prompt_bytes));
        self.common
            .prompts
            .estimate(model, prompt_bytes)
            .or_else(known)
            .unwrap_or_else(|| prompt_sizes::usual(prompt_bytes))
    }

    /// Names the blocks of prompts to this model: the same in all generations of this process, and unknown outside it.
    pub fn block_hasher(&self, model: &str) -> BlockHasher {
        BlockHasher::new(self.common.seed.get(), model)
    }

    /// Learns how many tokens a prompt of so many bytes had. Ignored for models that are neither configured nor
    /// discovered.
    pub fn learn_prompt_size(&self, model: &str, prompt_bytes: u64, input_tokens: u64) {
        if let Some(name) = self.serves_model(model) {
            self.common.prompts.learn(&name, prompt_bytes, input_tokens);
        }
    }

    /// Remembers which backend made a response that may be asked for again.
    pub fn remember_stored(&self, id: StoredId, backend: &Arc<str>) {
        self.common.stored.remember(id, backend);
    }

    /// The route's backends that do not hold a stored response; `None` when it is not known which one does.
    pub fn not_holding(&self, route: usize, id: StoredId) -> Option<Vec<BackendIndex>> {
        let route = self.routes.get(route)?;
        if route.pairs.len() == 1 {
            return Some(Vec::new());
        }
        let maker = self.common.stored.maker(id)?;
        let others: Vec<_> =
            self.backends_of(route).filter(|(one, _, _)| *one.name() != maker).map(|(one, _, _)| one.index()).collect();
        (others.len() < route.pairs.len()).then_some(others)
    }

    /// The latest decisions that are wanted, newest first; the last 1,000 are remembered.
    pub fn decisions(&self, most: usize, wanted: impl Fn(&DecisionRecord) -> bool) -> Vec<Arc<DecisionRecord>> {
        // Every request is decided on behind the same lock: what is wanted is found out after it.
        let remembered = self.desk().log.newest_first();
        remembered.into_iter().filter(|record| wanted(record)).take(most).collect()
    }

    /// Whether a request that must be sent by `deadline` has to wait because others of its route go first.
    pub fn must_wait(&self, route: usize, deadline: Instant) -> bool {
        let route = self.routes.get(route);
        route.is_some_and(|route| self.common.line.is_before(route.counts.slot, route.settings().priority, deadline))
    }

    /// A place in the line of a route that has one; `None` when it is full of requests that go first.
    pub fn join(&self, route: usize, deadline: Instant) -> Option<Place> {
        let route = self.routes.get(route)?;
        let OnOverload::Queue { depth, .. } = route.on_overload() else { return None };
        self.common.line.join(route.counts.slot, depth, route.settings().priority, deadline)
    }

    /// Requests that wait for a place, of all routes.
    pub fn queued(&self) -> usize {
        self.common.line.len()
    }

    /// A request was turned away at last, not only for now.
    pub fn shed(&self, route: usize) {
        if let Some(route) = self.routes.get(route) {
            route.counts.model().shed();
        }
    }

    /// Whether the fleet can serve, and what is missing.
    pub fn readiness(&self) -> Readiness {
        let servable = |route: &&Arc<LiveRoute>| self.backends_of(route).any(|(backend, _, _)| backend.usable());
        let ready = self.routes.iter().any(|route| servable(&route));
        let idle = self.routes.iter().filter(|route| !servable(route));
        let mut reasons: Vec<_> = idle.map(|route| format!("route `{}` has no usable backend", route.name())).collect();
        let unready = self.backends.iter().filter(|backend| !backend.usable());
        reasons.extend(unready.map(|backend| {
            let check = backend.last_check().map(|check| format!(" ({})", check.outcome.describe()));
            format!("backend `{}` is {}{}", backend.name(), backend.state().as_str(), check.unwrap_or_default())
        }));
        let mismatched = self.backends.iter().filter_map(|backend| Some((backend.name(), backend.profile_mismatch()?)));
        reasons.extend(mismatched.map(|(name, mismatch)| format!("backend `{name}` {mismatch}")));
        Readiness { ready, reasons }
    }

    /// A route's backends with their pair and weight.
    fn backends_of<'a>(
        &'a self,
        route: &'a LiveRoute,
    ) -> impl Iterator<Item = (&'a Arc<LiveBackend>, &'a Arc<Pair>, u32)> {
        let members = route.settings().backends.iter().zip(&route.pairs);
        members.filter_map(|(&(index, weight), pair)| Some((self.backends.get(index)?, pair, weight)))
    }

    /// When the certificates towards the backends stop working.
    pub fn expiries(&self) -> impl Iterator<Item = Expiry> {
        self.backends.iter().flat_map(|backend| {
            let owner = Owner::Backend(Arc::clone(backend.name()));
            backend.tls.expiries.iter().map(move |&(role, at)| Expiry { owner: owner.clone(), role, at })
        })
    }

    fn desk(&self) -> std::sync::MutexGuard<'_, Desk> {
        self.common.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn build(settings: Arc<Settings>, old: Option<&Self>, now: Instant) -> Result<Self, FleetError> {
        let common = old.map(|old| Arc::clone(&old.common)).unwrap_or_default();
        let mut backends = Vec::with_capacity(settings.backends.len());
        for (index, backend) in settings.backends.iter().enumerate() {
            let baseline = settings.baselines.as_ref().and_then(|baselines| baselines.of(backend));
            let tls = TlsMaterial::load(backend)?;
            let shared = Self::shared(backend, &tls, (old, &common), baseline, now);
            backends.push(Arc::new(LiveBackend::new(Arc::clone(backend), BackendIndex(index), tls, shared)));
        }
        let routes =
            settings.routes.iter().map(|route| live_route((route, &settings), &backends, old, &common)).collect();
        let callers = Callers::of(settings.access.keys.as_deref(), old.map(|old| &old.callers), now);
        Ok(Self { settings, backends, routes, callers, common })
    }

    fn shared(
        backend: &Arc<Backend>,
        tls: &TlsMaterial,
        (old, common): (Option<&Self>, &Common),
        baseline: Option<&Baseline>,
        now: Instant,
    ) -> Arc<Shared> {
        // A renewed certificate makes no other server of it. Addresses that it may not have any more do.
        let same = |other: &&Arc<LiveBackend>| {
            let settings = other.settings();
            settings.name == backend.name
                && settings.url == backend.url
                && settings.http2 == backend.http2
                && settings.allow_link_local == backend.allow_link_local
                && settings.tls.server_name == backend.tls.server_name
        };
        let kept = old.and_then(|old| old.backends.iter().find(same)).map(|kept| Arc::clone(&kept.shared));
        let fresh = || {
            let shared = Shared::new(Arc::clone(backend), tls.clone(), Arc::clone(&common.ejecting), now);
            shared.start_from(baseline, now);
            if old.is_none() {
                shared.is_from_the_start();
            }
            Arc::new(shared)
        };
        kept.unwrap_or_else(fresh)
    }

    /// Tells the shared parts about this generation. To be called once it is certain to be put in force, and before it
    /// is: until then anything else of the new configuration could still fail.
    pub fn settle(&self) {
        for (index, backend) in self.backends.iter().enumerate() {
            let routes =
                || self.settings.routes.iter().filter(|route| route.backends.iter().any(|&(one, _)| one == index));
            let connect = routes().map(|route| route.timeouts.connect).max().unwrap_or(Timeouts::default().connect);
            backend.shared.adopt(backend.settings(), &backend.tls, connect);
            let others = |route: &Arc<Route>| {
                let others = route.backends.iter().filter(|&&(one, _)| one != index);
                others.filter_map(|&(one, _)| self.backends.get(one)).map(|one| Arc::downgrade(&one.shared)).collect()
            };
            let pools: Vec<Vec<Weak<Shared>>> = routes().map(others).collect();
            backend.shared.set_pools(pools);
            backend.shared.resolve_literal();
        }
    }
}

fn live_route(
    (route, settings): (&Arc<Route>, &Settings),
    backends: &[Arc<LiveBackend>],
    old: Option<&Fleet>,
    common: &Common,
) -> Arc<LiveRoute> {
    let before = old.and_then(|old| Some((old, old.routes.iter().find(|one| one.name() == &route.name)?)));
    let pair = |&(index, _): &(usize, u32)| {
        let backend = backends.get(index)?;
        let kept = before.and_then(|(old, before)| {
            let same = |(one, _, _): &(&Arc<LiveBackend>, &Arc<Pair>, u32)| Arc::ptr_eq(&one.shared, &backend.shared);
            old.backends_of(before).find(same).map(|(_, pair, _)| Arc::clone(pair))
        });
        Some(kept.unwrap_or_else(|| Arc::new(Pair::new(Arc::clone(backend.name())))))
    };
    let pairs = route.backends.iter().filter_map(pair).collect();
    let counts = before.map(|(_, before)| Arc::clone(&before.counts));
    let seed = route
        .name
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    let slot = || RouteSlot(common.slots.fetch_add(1, Ordering::Relaxed));
    let counts = counts.unwrap_or_else(|| Arc::new(RouteCounts::new(seed, slot())));
    let before = before.map(|(_, before)| &**before);
    let split = RouteSplit::of(route, settings, before, seed ^ common.seed.get());
    Arc::new(LiveRoute::new(Arc::clone(route), pairs, counts, split))
}

/// Longest a client is told to wait before it tries again.
const RETRY_AFTER: Duration = Duration::from_secs(5);
