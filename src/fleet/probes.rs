//! The background work: active checks, discovery, name resolution and questions to engines, a few tasks per backend, reconciled with every
//! new configuration generation; and the progress watchdog over all.

use std::sync::Arc;
use std::time::{Duration, Instant};

use pingora_core::connectors::http::Connector;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use super::backend::{CheckOutcome, Shared};
use super::resolve::{Names, keep_resolved};
use super::{Fleet, engine_metrics, gpu, health};
use crate::clock::Clock;

/// Between two looks of the progress watchdog.
const WATCH: Duration = Duration::from_secs(1);
/// Between two questions for the list of models.
const DISCOVER: Duration = Duration::from_secs(30);
/// How long the first check waits for an address.
const FIRST_ADDRESS: Duration = Duration::from_secs(5);

/// What every task needs.
#[derive(Clone)]
struct Tools {
    connector: Arc<Connector>,
    names: Arc<Names>,
    clock: Arc<dyn Clock>,
}

/// The tasks of one backend; they end when this is dropped.
struct Watched {
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

/// Watches the backends of the generation in force until `shutdown` turns true or a channel closes.
pub async fn run(
    mut generations: watch::Receiver<Arc<Fleet>>,
    connector: Arc<Connector>,
    clock: Arc<dyn Clock>,
    mut shutdown: watch::Receiver<bool>,
) {
    let tools = Tools { connector, names: Arc::new(Names::of_the_system()), clock };
    let mut watched = Vec::new();
    let mut fleet = Arc::clone(&generations.borrow_and_update());
    reconcile(&mut watched, &fleet, &tools);
    let mut tick = interval(WATCH);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !*shutdown.borrow() {
        tokio::select! {
            _ = tick.tick() => {
                let now = tools.clock.now();
                fleet.eject_stalled(now);
                fleet.watch_paces(now);
            }
            changed = generations.changed() => {
                if changed.is_err() {
                    return;
                }
                fleet = Arc::clone(&generations.borrow_and_update());
                reconcile(&mut watched, &fleet, &tools);
            }
            changed = shutdown.changed() => {
                if changed.is_err() {
                    return;
                }
            }
        }
    }
}

/// Starts what is new, ends what is gone, leaves the rest alone: a reload disturbs no check.
fn reconcile(watched: &mut Vec<Watched>, fleet: &Fleet, tools: &Tools) {
    let wanted = |shared: &Arc<Shared>| fleet.backends().iter().any(|one| Arc::ptr_eq(&one.shared, shared));
    watched.retain(|one| wanted(&one.shared));
    for backend in fleet.backends() {
        if !watched.iter().any(|one| Arc::ptr_eq(&one.shared, &backend.shared)) {
            watched.push(watch(&backend.shared, tools));
        }
    }
}

fn watch(shared: &Arc<Shared>, tools: &Tools) -> Watched {
    let mut tasks = JoinSet::new();
    let (own, own_tools) = (Arc::clone(shared), tools.clone());
    tasks.spawn(async move { keep_resolved(&own, &own_tools.names, &*own_tools.clock).await });
    let (own, own_tools) = (Arc::clone(shared), tools.clone());
    tasks.spawn(async move { keep_checked(&own, &own_tools).await });
    let (own, own_tools) = (Arc::clone(shared), tools.clone());
    tasks.spawn(async move { engine_metrics::keep_asking(&own, &own_tools.connector, &*own_tools.clock).await });
    let (own, own_tools) = (Arc::clone(shared), tools.clone());
    tasks.spawn(async move {
        let Tools { connector, names, clock } = own_tools;
        gpu::dcgm::keep_asking(&own, &connector, &names, &*clock).await;
    });
    Watched { shared: Arc::clone(shared), _tasks: tasks }
}

/// Checks a backend at its interval, the first time at once.
async fn keep_checked(shared: &Arc<Shared>, tools: &Tools) {
    if shared.endpoints().is_empty() {
        let _ = timeout(FIRST_ADDRESS, shared.resolved.notified()).await;
    }
    let mut asked: Option<Instant> = None;
    loop {
        let outcome = check_all(shared, tools).await;
        let now = tools.clock.now();
        let due = asked.is_none_or(|at| now.saturating_duration_since(at) >= DISCOVER);
        // A backend is called ready only after it was asked what it serves.
        if outcome == CheckOutcome::Passed && (due || !shared.is_ready() || !shared.discovered.load().known) {
            discover(shared, tools).await;
            asked = Some(now);
        }
        shared.checked(outcome, tools.clock.now());
        sleep(shared.latest.load().health.interval).await;
    }
}

/// Checks every address; the backend passes if one of them does.
async fn check_all(shared: &Arc<Shared>, tools: &Tools) -> CheckOutcome {
    let mut checks = JoinSet::new();
    for endpoint in shared.endpoints().iter().map(Arc::clone) {
        let (shared, connector) = (Arc::clone(shared), Arc::clone(&tools.connector));
        checks.spawn(async move {
            let outcome = health::check(&connector, &shared, &endpoint).await;
            endpoint.set_healthy(outcome == CheckOutcome::Passed);
            outcome
        });
    }
    let mut best = CheckOutcome::Unresolved;
    while let Some(outcome) = checks.join_next().await {
        best = better(best, outcome.unwrap_or(CheckOutcome::Unreachable));
    }
    best
}

fn better(one: CheckOutcome, other: CheckOutcome) -> CheckOutcome {
    let rank = |outcome: CheckOutcome| match outcome {
        CheckOutcome::Passed => 0,
        CheckOutcome::NotReady(_) => 1,
        CheckOutcome::TimedOut => 2,
        CheckOutcome::NoTls(_) => 3,
        CheckOutcome::Unreachable => 4,
        CheckOutcome::Unresolved => 5,
    };
    if rank(other) < rank(one) { other } else { one }
}

async fn discover(shared: &Shared, tools: &Tools) {
    for endpoint in shared.endpoints().iter().filter(|one| one.healthy()) {
        if let Some(found) = health::discover(&tools.connector, shared, endpoint).await {
            shared.discovered.store(Arc::new(found));
            // What is no NIM is not asked again while it stays up.
            if !shared.is_ready() || shared.running.load().is_some() {
                let running = health::running(&tools.connector, shared, endpoint).await;
                shared.running.store(running.map(Arc::new));
                shared.tell_mismatch();
            }
            return;
        }
    }
    let settings = shared.latest.load();
    if settings.models.is_none() && !shared.is_ready() {
        tracing::warn!(backend = %settings.name, "it does not list its models at /v1/models; name them under `models`");
    }
}
