//! One model server, alive: its health, its breaker, its addresses, and what is in flight there.
//!
//! A [`LiveBackend`] belongs to one configuration generation; what it counts and has learned lies in a part that the
//! next generation shares when the backend is still the same server.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::sync::Notify;

use super::buffering::Buffering;
use super::endpoint::Endpoint;
use super::engine_metrics::Reported;
use super::gpu::GpuReport;
use super::models::{Context, Discovered, Serves};
use super::running::Running;
use super::tls::{TlsMaterial, TlsProblem};
use crate::config::baselines::Baseline;
use crate::config::settings::Backend;
use crate::measure::outcome::Blame;
use crate::random::Random;
use crate::route::ejection::{Ejection, Standing};
use crate::route::model::{Asking, BackendModel};
use crate::route::outlier::Outlier;
use crate::route::slow_start;
use crate::route::snapshot::{BackendIndex, Outlook};
use crate::route::tuning::Tuning;

/// Failed checks in a row that take a ready backend down; one may be a hiccup of a busy server.
const FAILURES_TO_DOWN: u32 = 2;

/// What a backend is good for now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BackendState {
    /// It serves.
    Ready,
    /// It answers, but has not been ready yet: the model is loading.
    Warming,
    /// It does not answer, or says that it is not ready.
    Down,
    /// Left alone after faults.
    Ejected,
    /// Back after an ejection, one request at a time.
    Probing,
    /// Gets nothing new, by an operator's wish.
    Draining,
    /// Not checked yet.
    Unknown,
}

impl BackendState {
    /// Every state.
    pub const ALL: [Self; 7] =
        [Self::Ready, Self::Warming, Self::Down, Self::Ejected, Self::Probing, Self::Draining, Self::Unknown];

    /// The name in metrics and the API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Warming => "warming",
            Self::Down => "down",
            Self::Ejected => "ejected",
            Self::Probing => "probing",
            Self::Draining => "draining",
            Self::Unknown => "unknown",
        }
    }
}

/// What an active check found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckOutcome {
    /// It is ready.
    Passed,
    /// It answered with this status instead of a 2xx.
    NotReady(u16),
    /// No connection.
    Unreachable,
    /// A connection, and no TLS on it.
    NoTls(TlsProblem),
    /// No answer in time.
    TimedOut,
    /// The name has no address.
    Unresolved,
}

impl CheckOutcome {
    /// In words, for people.
    #[must_use]
    pub fn describe(self) -> String {
        match self {
            Self::Passed => "ready".to_owned(),
            Self::NotReady(status) => format!("health check answered {status}"),
            Self::Unreachable => "no connection".to_owned(),
            Self::NoTls(problem) => problem.describe().to_owned(),
            Self::TimedOut => "health check timed out".to_owned(),
            Self::Unresolved => "the host name has no address".to_owned(),
        }
    }
}

/// The latest active check.
#[derive(Debug, Clone, Copy)]
pub struct LastCheck {
    /// When it ended.
    pub at: Instant,
    /// What it found.
    pub outcome: CheckOutcome,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Health {
    Unknown,
    Warming,
    Ready,
    Down,
}

#[derive(Debug)]
struct Judged {
    health: Health,
    /// Whether it was ready since it was last unreachable: a server that starts anew loads its model anew.
    was_ready: bool,
    failures: u32,
    /// Whether headway itself has just begun, so that a backend which is ready at once is not new.
    from_the_start: bool,
    last_check: Option<LastCheck>,
    ejection: Ejection,
    random: Random,
}

/// What outlives a configuration generation.
#[derive(Debug)]
pub(super) struct Shared {
    /// Where `progress`, in milliseconds, and `token_at` count from.
    base: Instant,
    /// The settings in force, for the background tasks, which outlive generations too.
    pub(super) latest: ArcSwap<Backend>,
    pub(super) in_flight: AtomicU32,
    pub(super) streaming: AtomicU32,
    /// Of those in flight, the ones that wait for their clients: the backend owes them nothing now.
    pub(super) excused: AtomicU32,
    pub(super) output_tokens: AtomicU64,
    progress: AtomicU64,
    /// Microseconds since `base` at which a token of any stream last came.
    token_at: AtomicU64,
    draining: AtomicBool,
    /// Microseconds since `base`, plus one, at which it began to serve or came back; 0 when it was there from the start.
    returned_at: AtomicU64,
    connecting: Mutex<Connecting>,
    endpoints: ArcSwap<Vec<Arc<Endpoint>>>,
    turn: AtomicUsize,
    /// Told whenever the name has been looked up.
    pub(super) resolved: Notify,
    /// Which of the usual health paths answered last.
    pub(super) health_path: AtomicUsize,
    pub(super) discovered: ArcSwap<Discovered>,
    /// What a NIM said of its profile.
    pub(super) running: ArcSwapOption<Running>,
    /// The mismatch of profiles that was last logged: each is logged once.
    pub(super) told: Mutex<Option<String>>,
    judged: Mutex<Judged>,
    pub(super) outlier: Mutex<Outlier>,
    model: Mutex<BackendModel>,
    /// Whether its tokens are held back on their way.
    pub(super) buffering: Buffering,
    /// What its engines last said, where they are asked.
    engine: Mutex<Option<Reported>>,
    /// What was last heard of its GPUs, where they are watched.
    pub(super) gpus: ArcSwapOption<GpuReport>,
    /// The other members of each route's pool.
    pools: ArcSwap<Vec<Vec<Weak<Shared>>>>,
    /// Held while a backend is taken out of its pools, so that two at once cannot empty one.
    ejecting: Arc<Mutex<()>>,
}

/// How its addresses are connected to. Its lock is held while they change, so that none is left with what was before.
#[derive(Debug)]
struct Connecting {
    within: Duration,
    tls: TlsMaterial,
}

/// One model server, in one configuration generation.
#[derive(Debug)]
pub struct LiveBackend {
    settings: Arc<Backend>,
    index: BackendIndex,
    /// What this generation's files hold; the shared part gets it with [`Shared::adopt`].
    pub(super) tls: TlsMaterial,
    pub(super) shared: Arc<Shared>,
}

/// Whether a backend may be given a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Admission {
    Open,
    /// Only if nothing better is left.
    Ejected,
    Warming,
    Unusable,
}

impl LiveBackend {
    pub(super) fn new(settings: Arc<Backend>, index: BackendIndex, tls: TlsMaterial, shared: Arc<Shared>) -> Self {
        Self { settings, index, tls, shared }
    }

    /// Its name in metrics and logs.
    pub fn name(&self) -> &Arc<str> {
        &self.settings.name
    }

    /// Its settings in this generation.
    pub fn settings(&self) -> &Arc<Backend> {
        &self.settings
    }

    /// Its place in the settings.
    pub fn index(&self) -> BackendIndex {
        self.index
    }

    /// Requests in flight, from all routes and generations.
    pub fn in_flight(&self) -> u32 {
        self.shared.in_flight.load(Ordering::Relaxed)
    }

    /// Estimated prompt tokens that it must compute for requests that await their first token.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "not negative, and far below 2^52")]
    pub fn waiting_tokens(&self) -> u64 {
        self.shared.model().load().own().waiting_tokens.round() as u64
    }

    /// Streams there that await their first token.
    pub fn awaiting_first_token(&self) -> u32 {
        self.shared.model().load().awaited()
    }

    /// Output tokens reported through in-flight guards since the start.
    pub fn output_tokens(&self) -> u64 {
        self.shared.output_tokens.load(Ordering::Relaxed)
    }

    /// Whether something on the way holds its tokens back, by its latest streams.
    pub fn is_buffering(&self) -> bool {
        self.shared.buffering.is_confirmed()
    }

    /// Streams whose tokens were held back, since the start.
    pub fn buffered_streams(&self) -> u64 {
        self.shared.buffering.streams()
    }

    /// What it is good for now.
    pub fn state(&self) -> BackendState {
        self.shared.state()
    }

    /// The latest active check, if there was one.
    pub fn last_check(&self) -> Option<LastCheck> {
        self.shared.judged().last_check
    }

    /// Where the breaker stands, and the faults in a row.
    pub fn ejection(&self) -> (Standing, u32) {
        let judged = self.shared.judged();
        (judged.ejection.standing(), judged.ejection.consecutive_faults())
    }

    /// Its addresses.
    pub fn endpoints(&self) -> Arc<Vec<Arc<Endpoint>>> {
        self.shared.endpoints.load_full()
    }

    /// What it said it serves, when asked.
    pub fn discovered(&self) -> Arc<Discovered> {
        self.shared.discovered.load_full()
    }

    /// What it says of the profile it runs, where it is a NIM that was asked.
    pub fn running(&self) -> Option<Arc<Running>> {
        self.shared.running.load_full()
    }

    /// How the profile it runs differs from the one that is configured; `None` when nothing is known to.
    pub fn profile_mismatch(&self) -> Option<String> {
        self.running()?.mismatch(&self.settings)
    }

    /// What it takes for a model, as configured or discovered.
    pub fn context(&self, model: &str) -> Option<Context> {
        let found = self.shared.discovered.load().context(model);
        let cuts_answers = found.is_some_and(|found| found.cuts_answers);
        self.settings.context_length.map(|tokens| Context { tokens, cuts_answers }).or(found)
    }

    /// Gives it nothing new until [`Self::undrain`]; a reload does not change that.
    pub fn drain(&self) {
        self.shared.draining.store(true, Ordering::Relaxed);
    }

    /// Takes [`Self::drain`] back.
    pub fn undrain(&self) {
        self.shared.draining.store(false, Ordering::Relaxed);
    }

    /// Whether it serves a model, under which name, or might.
    pub fn serves(&self, model: &str) -> Serves {
        super::models::serves(&self.settings, &self.shared.discovered.load(), model)
    }

    /// Learns what an active check found, from whoever checked.
    pub fn checked(&self, outcome: CheckOutcome, now: Instant) {
        self.shared.checked(outcome, now);
    }

    /// Whether it has become much slower than it used to be, while the others have not.
    pub fn is_slow(&self) -> bool {
        self.shared.outlier().is_slow()
    }

    /// How far it has come since it began to serve, or came back: a tenth at first, 1 once it has its whole share.
    pub fn ramp(&self, now: Instant) -> f64 {
        let returned = self.shared.returned_at.load(Ordering::Relaxed).checked_sub(1);
        let returned = returned.map(|micros| self.shared.base + Duration::from_micros(micros));
        let ramp = |at| slow_start::ramp(now.saturating_duration_since(at), self.settings.health.slow_start);
        returned.map_or(1.0, ramp)
    }

    /// Whether it could take a request now, room apart.
    pub fn usable(&self) -> bool {
        self.shared.admission() == Admission::Open
    }
}

impl Shared {
    pub(super) fn new(settings: Arc<Backend>, tls: TlsMaterial, ejecting: Arc<Mutex<()>>, now: Instant) -> Self {
        let seed = tls.group;
        let judged = Judged {
            health: Health::Unknown,
            was_ready: false,
            failures: 0,
            from_the_start: false,
            last_check: None,
            ejection: Ejection::new(now),
            random: Random::seeded(seed),
        };
        Self {
            base: now,
            latest: ArcSwap::new(settings),
            in_flight: AtomicU32::new(0),
            streaming: AtomicU32::new(0),
            excused: AtomicU32::new(0),
            output_tokens: AtomicU64::new(0),
            progress: AtomicU64::new(0),
            token_at: AtomicU64::new(0),
            draining: AtomicBool::new(false),
            returned_at: AtomicU64::new(0),
            connecting: Mutex::new(Connecting { within: Duration::from_secs(2), tls }),
            endpoints: ArcSwap::default(),
            turn: AtomicUsize::new(0),
            resolved: Notify::new(),
            health_path: AtomicUsize::new(0),
            discovered: ArcSwap::default(),
            running: ArcSwapOption::empty(),
            told: Mutex::new(None),
            judged: Mutex::new(judged),
            outlier: Mutex::default(),
            model: Mutex::new(BackendModel::new(Tuning::default(), now)),
            buffering: Buffering::default(),
            engine: Mutex::new(None),
            gpus: ArcSwapOption::empty(),
            pools: ArcSwap::default(),
            ejecting,
        }
    }

    /// It belongs to the first configuration: if it is ready at its first check, it was there before headway.
    pub(super) fn is_from_the_start(&self) {
        self.judged().from_the_start = true;
    }

    /// Starts from what was measured before it served.
    pub(super) fn start_from(&self, baseline: Option<&Baseline>, now: Instant) {
        let Some(baseline) = baseline else { return };
        let mut model = self.model();
        if let Some(learned) = baseline.learned() {
            model.resume(&learned, now);
        }
        #[allow(clippy::cast_precision_loss, reason = "token counts are far below 2^52")]
        if let Some(tokens) = baseline.kv_cache_tokens {
            model.kv_capacity(tokens as f64);
        }
    }

    fn judged(&self) -> MutexGuard<'_, Judged> {
        self.judged.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What it would make of a request, by what is known of it now.
    pub(super) fn outlook(&self, asking: &Asking<'_>, now: Instant) -> Outlook {
        // Streams that wait for their clients alone do not stand still for the backend's sake.
        let seen = self.base + Duration::from_micros(self.token_at.load(Ordering::Relaxed));
        let token_at = if self.is_owing() { seen } else { now };
        let mut model = self.model();
        model.progressed(token_at);
        model.outlook(asking, now)
    }

    /// What is known of its load and latencies.
    pub(super) fn model(&self) -> MutexGuard<'_, BackendModel> {
        self.model.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What its engines last said.
    pub(super) fn engine(&self) -> MutexGuard<'_, Option<Reported>> {
        self.engine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn state(&self) -> BackendState {
        if self.draining.load(Ordering::Relaxed) {
            return BackendState::Draining;
        }
        let judged = self.judged();
        match (judged.health, judged.ejection.standing()) {
            (Health::Unknown, _) => BackendState::Unknown,
            (Health::Warming, _) => BackendState::Warming,
            (Health::Down, _) => BackendState::Down,
            (Health::Ready, Standing::Closed) => BackendState::Ready,
            (Health::Ready, Standing::Ejected { .. }) => BackendState::Ejected,
            (Health::Ready, Standing::Probing { .. }) => BackendState::Probing,
        }
    }

    pub(super) fn admission(&self) -> Admission {
        if self.draining.load(Ordering::Relaxed) {
            return Admission::Unusable;
        }
        let judged = self.judged();
        match judged.health {
            Health::Ready if judged.ejection.admits() => Admission::Open,
            Health::Ready => Admission::Ejected,
            Health::Warming | Health::Unknown => Admission::Warming,
            Health::Down => Admission::Unusable,
        }
    }

    /// A request was chosen for this backend; answers whether it is the breaker's probe.
    pub(super) fn sent(&self) -> bool {
        self.judged().ejection.sent()
    }

    pub(super) fn progressed(&self, now: Instant) {
        let since = now.saturating_duration_since(self.base).as_millis();
        self.progress.store(u64::try_from(since).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Tokens of a stream came. One relaxed store.
    pub(super) fn token_seen(&self, now: Instant) {
        let since = now.saturating_duration_since(self.base).as_micros();
        self.token_at.store(u64::try_from(since).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// A request was sent that is counted in already: the clock of the watchdog starts with the first that is owed an
    /// answer, and with the first that is owed a stream.
    pub(super) fn owes(&self, stream: bool, now: Instant) {
        let first = self.owing() <= 1;
        if first || (stream && self.streaming.load(Ordering::Relaxed) <= 1) {
            self.progressed(now);
        }
    }

    fn owing(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed).saturating_sub(self.excused.load(Ordering::Relaxed))
    }

    /// Whether it owes any answer.
    pub(super) fn is_owing(&self) -> bool {
        self.owing() > 0
    }

    /// When a byte last came from it, or it began to owe one.
    pub(super) fn last_progress(&self) -> Instant {
        self.base + Duration::from_millis(self.progress.load(Ordering::Relaxed))
    }

    /// Learns from a request's end.
    pub(super) fn ended(&self, blame: Blame, probe: bool, now: Instant) {
        if probe {
            let mut judged = self.judged();
            let Judged { ejection, random, .. } = &mut *judged;
            ejection.probe_ended(blame, now, random);
            if blame == Blame::Success {
                self.returns(now);
                tracing::info!(backend = %self.latest.load().name, "back in service");
            }
            return;
        }
        if blame != Blame::Fault {
            let mut judged = self.judged();
            let Judged { ejection, random, .. } = &mut *judged;
            ejection.ended(blame, now, random, || false);
            return;
        }
        self.take_out(|ejection, random, spare| ejection.ended(Blame::Fault, now, random, spare));
    }

    /// It serves from now on, and did not before.
    fn returns(&self, now: Instant) {
        let since = now.saturating_duration_since(self.base).as_micros();
        let micros = u64::try_from(since).unwrap_or(u64::MAX).saturating_add(1);
        self.returned_at.store(micros, Ordering::Relaxed);
    }

    /// A probe that ended without anybody saying how.
    pub(super) fn probe_lost(&self) {
        let now = self.base;
        self.ended(Blame::Neutral, true, now);
    }

    /// Ejects it for making no progress; answers whether it did.
    pub(super) fn trip(&self, now: Instant) -> bool {
        self.take_out(|ejection, random, spare| ejection.trip(now, random, spare))
    }

    /// The lock over all ejections is taken before any backend's own, and others' are taken only under it.
    fn take_out(&self, act: impl FnOnce(&mut Ejection, &mut Random, &dyn Fn() -> bool) -> bool) -> bool {
        let one_at_a_time = self.ejecting.lock().unwrap_or_else(PoisonError::into_inner);
        let mut judged = self.judged();
        let Judged { ejection, random, .. } = &mut *judged;
        let ejected = act(ejection, random, &|| self.can_be_spared());
        drop(judged);
        drop(one_at_a_time);
        if ejected {
            self.model().ejected();
            tracing::warn!(backend = %self.latest.load().name, "ejected");
        }
        ejected
    }

    /// At most half of a pool is ejected, and never its last usable backend.
    fn can_be_spared(&self) -> bool {
        self.pools.load().iter().all(|others| {
            let others = || others.iter().filter_map(Weak::upgrade);
            let ejected = others().filter(|other| other.is_ejected()).count();
            let usable = others().any(|other| other.admission() == Admission::Open);
            usable && (ejected + 1) * 2 <= others().count() + 1
        })
    }

    pub(super) fn is_ready(&self) -> bool {
        self.judged().health == Health::Ready
    }

    /// Whether its breaker is open, or waits for a probe.
    pub(super) fn is_ejected(&self) -> bool {
        self.judged().ejection.standing() != Standing::Closed
    }

    pub(super) fn set_pools(&self, pools: Vec<Vec<Weak<Shared>>>) {
        self.pools.store(Arc::new(pools));
    }

    /// Learns what an active check found.
    pub(super) fn checked(&self, outcome: CheckOutcome, now: Instant) {
        let mut judged = self.judged();
        let before = judged.health;
        judged.last_check = Some(LastCheck { at: now, outcome });
        if outcome == CheckOutcome::Passed {
            judged.failures = 0;
            judged.was_ready = true;
            judged.health = Health::Ready;
            judged.ejection.check_passed(now);
        } else {
            judged.failed(outcome);
        }
        let after = judged.health;
        let found_at_the_start = judged.from_the_start && before == Health::Unknown;
        judged.from_the_start = false;
        drop(judged);
        if before != Health::Ready && after == Health::Ready && !found_at_the_start {
            self.returns(now);
        }
        if before == Health::Ready && after != Health::Ready {
            self.model().ejected();
        }
        if before != after {
            let name = &self.latest.load().name;
            tracing::info!(backend = %name, ready = after == Health::Ready, reason = %outcome.describe(), "health changed");
        }
    }

    pub(super) fn endpoints(&self) -> Arc<Vec<Arc<Endpoint>>> {
        self.endpoints.load_full()
    }

    /// Takes new addresses; those that stay keep their state.
    pub(super) fn set_addresses(&self, addresses: &[std::net::SocketAddr]) {
        let connecting = self.connecting();
        let (old, settings) = (self.endpoints.load(), self.latest.load());
        if old.iter().map(|one| one.address()).eq(addresses.iter().copied()) {
            return;
        }
        let kept = |address| old.iter().find(|one| one.address() == address).cloned();
        let fresh = |address| Arc::new(Endpoint::new(address, &settings, &connecting.tls, connecting.within));
        let new = addresses.iter().map(|&address| kept(address).unwrap_or_else(|| fresh(address))).collect();
        self.endpoints.store(Arc::new(new));
    }

    fn connecting(&self) -> MutexGuard<'_, Connecting> {
        self.connecting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the settings of a new generation of the same backend. Connections that are open go on as they are.
    pub(super) fn adopt(&self, settings: &Arc<Backend>, tls: &TlsMaterial, connect: Duration) {
        self.latest.store(Arc::clone(settings));
        let mut connecting = self.connecting();
        if connecting.within == connect && connecting.tls.group == tls.group {
            return;
        }
        if connecting.tls.group != tls.group {
            tracing::info!(backend = %settings.name, "new connections use its new certificates");
        }
        *connecting = Connecting { within: connect, tls: tls.clone() };
        let renew = |old: &Arc<Endpoint>| {
            let new = Endpoint::new(old.address(), settings, tls, connect);
            new.set_healthy(old.healthy());
            Arc::new(new)
        };
        let endpoints = self.endpoints.load().iter().map(renew).collect();
        self.endpoints.store(Arc::new(endpoints));
    }

    /// The next of its addresses, healthy ones first.
    pub(super) fn next_endpoint(&self) -> Option<Arc<Endpoint>> {
        let endpoints = self.endpoints.load();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let count = endpoints.len().max(1);
        let in_turn = || (0..endpoints.len()).filter_map(|step| endpoints.get(turn.wrapping_add(step) % count));
        in_turn().find(|one| one.healthy()).or_else(|| in_turn().next()).cloned()
    }
}

impl Judged {
    fn failed(&mut self, outcome: CheckOutcome) {
        self.failures = self.failures.saturating_add(1);
        self.ejection.check_failed();
        let loading = matches!(outcome, CheckOutcome::NotReady(_)) && !self.was_ready;
        let hiccup = self.health == Health::Ready
            && self.failures < FAILURES_TO_DOWN
            && !matches!(outcome, CheckOutcome::Unreachable | CheckOutcome::NoTls(_) | CheckOutcome::Unresolved);
        if loading {
            self.health = Health::Warming;
        } else if !hiccup {
            self.health = Health::Down;
        }
        if matches!(outcome, CheckOutcome::Unreachable) {
            self.was_ready = false;
        }
    }
}
