//! Choosing a backend and counting the request in, as one critical section: two threads never see the same idle
//! backend.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use super::backend::{Admission, LiveBackend};
use super::decisions::DecisionLog;
use super::endpoint::Endpoint;
use super::in_flight::InFlight;
use super::models::Serves;
use super::route::{LiveRoute, Pair};
use super::{Fleet, RETRY_AFTER};
use crate::config::settings::Features;
use crate::measure::exchange::DecisionSummary;
use crate::route::admission::OnOverload;
use crate::route::decision::{Decision, Reason};
use crate::route::model::Asking;
use crate::route::prefix::Prefix;
use crate::route::scarcity::Scarcity;
use crate::route::snapshot::{BackendIndex, Candidate, FleetSnapshot, Forecast, RequestFacts};
use crate::route::tuning::Tuning;

/// What a request asks of a backend's features.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Needs {
    /// Tool calls.
    pub tools: bool,
    /// Images in the prompt.
    pub vision: bool,
    /// `response_format` or guided decoding.
    pub structured_output: bool,
}

/// What dispatching looks at.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The model, as the client named it; empty when the request names none, and any backend of the route will do.
    pub model: &'a str,
    /// Sizes and objectives.
    pub facts: RequestFacts,
    /// Features.
    pub needs: Needs,
}

/// A request that was given a backend and is counted in there.
#[derive(Debug)]
pub struct Dispatched {
    /// The backend.
    pub backend: Arc<LiveBackend>,
    /// Its place in the settings.
    pub index: BackendIndex,
    /// The address to use.
    pub endpoint: Arc<Endpoint>,
    /// Counts the request until dropped.
    pub in_flight: InFlight,
    /// Why this backend.
    pub summary: DecisionSummary,
    /// What this backend calls the model, when that is something else than the client's word.
    pub model_name: Option<Arc<str>>,
}

/// Why no backend could be given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoCandidate {
    /// No backend of the route serves the model.
    NoSuchModel,
    /// Those that serve it are still loading it.
    Loading {
        /// When to try again.
        retry_after: Duration,
    },
    /// Those that serve it are down, ejected or draining.
    NoneHealthy {
        /// When to try again.
        retry_after: Duration,
    },
    /// Those that serve it have no place left.
    AllFull {
        /// When to try again.
        retry_after: Duration,
    },
    /// Prompt and `max_tokens` together exceed every context.
    TooLong {
        /// The longest context there is, in tokens.
        limit: u64,
    },
    /// No backend that serves it has this feature.
    MissingFeature(&'static str),
    /// Only excluded ones were left.
    Excluded,
}

/// What choosing needs, reused from request to request, under one lock.
#[derive(Debug, Default)]
pub(super) struct Desk {
    candidates: Vec<Candidate>,
    decision: Decision,
    pub(super) log: DecisionLog,
}

/// Why backends were passed over; decides what the client is told when none is left.
#[derive(Debug, Default)]
#[allow(clippy::struct_excessive_bools, reason = "each notes one fact, and all of them may hold")]
struct PassedOver {
    serving: bool,
    missing: Option<&'static str>,
    longest: Option<u64>,
    suitable: bool,
    excluded: bool,
    loading: bool,
    full: bool,
}

impl Fleet {
    /// Filters the route's backends (model, features, context, not excluded, healthy, room), lets the policy choose
    /// among the rest, and counts the request in.
    ///
    /// # Errors
    /// When no backend is left, with the reason.
    pub fn dispatch(
        &self,
        route: usize,
        request: &Request<'_>,
        exclude: &[BackendIndex],
        now: Instant,
    ) -> Result<Dispatched, NoCandidate> {
        let route = self.routes().get(route).ok_or(NoCandidate::NoSuchModel)?;
        // Every generation dispatches under this one lock, so a place that is free here is free when it is taken.
        let mut desk = self.desk();
        let passed_over = self.gather(route, request, exclude, &mut desk.candidates, now);
        let Desk { candidates, decision, log } = &mut *desk;
        let chosen = choose(route, &request.facts, candidates, decision);
        let given = chosen.and_then(|chosen| self.count_in(route, request, chosen, decision, now));
        let dispatched = given.ok_or_else(|| passed_over.reason())?;
        let names = |one: BackendIndex| self.backends().get(one.0).map(|backend| Arc::clone(backend.name()));
        log.add((route.name(), request.facts.input_tokens), decision, names, now);
        Ok(dispatched)
    }

    /// Fills in the candidates. An ejected backend is one only when the others are all down: full
    /// ones will have room again, and excluded ones have just been tried.
    fn gather(
        &self,
        route: &LiveRoute,
        request: &Request<'_>,
        exclude: &[BackendIndex],
        candidates: &mut Vec<Candidate>,
        now: Instant,
    ) -> PassedOver {
        let mut passed_over = PassedOver::default();
        let asking = asking(route, &request.facts);
        for wanted in [Admission::Open, Admission::Ejected] {
            candidates.clear();
            for (backend, _, weight) in self.backends_of(route) {
                if weight > 0 && passed_over.lets(backend, request, exclude, wanted) {
                    candidates.push(candidate(backend, weight, &asking, now));
                }
            }
            if !candidates.is_empty() || passed_over.full || passed_over.excluded {
                break;
            }
        }
        passed_over
    }

    fn count_in(
        &self,
        route: &Arc<LiveRoute>,
        request: &Request<'_>,
        (index, reason): (BackendIndex, Reason),
        decision: &Decision,
        now: Instant,
    ) -> Option<Dispatched> {
        let backend = Arc::clone(self.backends().get(index.0)?);
        let pair = Arc::clone(route.pair(backend.name())?);
        let endpoint = backend.shared.next_endpoint()?;
        let in_flight = count(&backend, pair, route, &request.facts, (reason, now));
        backend.shared.owes(request.facts.stream, now);
        let model_name = match backend.serves(request.model) {
            Serves::Renamed(name) => Some(name),
            Serves::Yes | Serves::NotYetKnown | Serves::No => None,
        };
        let summary = summarise(decision, index, reason);
        Some(Dispatched { backend, index, endpoint, in_flight, summary, model_name })
    }
}

fn asking<'a>(route: &LiveRoute, facts: &'a RequestFacts) -> Asking<'a> {
    let output = route.counts.model().output(facts.max_tokens);
    Asking { facts, route: route.counts.slot, prefix: Prefix::default(), output }
}

/// What routing may know of a backend at this instant.
fn candidate(backend: &LiveBackend, weight: u32, asking: &Asking<'_>, now: Instant) -> Candidate {
    let settings = backend.settings();
    let mut model = backend.shared.model();
    model.progressed(backend.shared.last_progress());
    Candidate {
        backend: backend.index(),
        weight,
        in_flight: backend.in_flight(),
        max_in_flight: settings.max_in_flight,
        price: settings.price,
        outlook: model.outlook(asking, now),
    }
}

fn choose(
    route: &LiveRoute,
    facts: &RequestFacts,
    candidates: &[Candidate],
    decision: &mut Decision,
) -> Option<(BackendIndex, Reason)> {
    let (learned, tuning) = (*route.counts.model(), Tuning::default());
    let snapshot = FleetSnapshot {
        candidates,
        route: &learned,
        on_overload: OnOverload::Sacrifice,
        priority: 0,
        scarcity: Scarcity::default(),
        tuning: &tuning,
    };
    let mut state = route.counts.policy.lock().unwrap_or_else(PoisonError::into_inner);
    route.settings().policy.rule().choose(facts, &snapshot, &mut state, decision);
    decision.chosen
}

/// From here on the guard's drop undoes each of these increments.
fn count(
    backend: &Arc<LiveBackend>,
    pair: Arc<Pair>,
    route: &LiveRoute,
    facts: &RequestFacts,
    (reason, now): (Reason, Instant),
) -> InFlight {
    let shared = &backend.shared;
    let ticket = shared.model().dispatched(&asking(route, facts), reason, now);
    shared.in_flight.fetch_add(1, Ordering::AcqRel);
    route.counts.active.fetch_add(1, Ordering::AcqRel);
    pair.awaiting.fetch_add(1, Ordering::AcqRel);
    shared.waiting_tokens.fetch_add(facts.input_tokens, Ordering::AcqRel);
    shared.streaming.fetch_add(u32::from(facts.stream), Ordering::AcqRel);
    InFlight {
        backend: Arc::clone(backend),
        pair,
        counts: Arc::clone(&route.counts),
        input_tokens: facts.input_tokens,
        stream: facts.stream,
        probe: shared.sent(),
        awaiting: true,
        ticket: Some(ticket),
    }
}

fn summarise(decision: &Decision, index: BackendIndex, reason: Reason) -> DecisionSummary {
    let reason = reason.as_str();
    let Some(chosen) = decision.candidates.iter().find(|one| one.backend == index) else {
        return DecisionSummary { reason, ..DecisionSummary::default() };
    };
    let split = |one: Option<Forecast>| (one.map(|one| one.expected()), one.map(|one| one.bound()));
    let ((predicted_ttft, bound_ttft), (predicted_itl, bound_itl)) = (split(chosen.ttft), split(chosen.itl));
    let (predicted_e2e, bound_e2e) = split(Some(chosen.e2e));
    let price = chosen.price;
    DecisionSummary { reason, predicted_ttft, bound_ttft, predicted_itl, bound_itl, predicted_e2e, bound_e2e, price }
}

impl PassedOver {
    /// Whether a backend may serve the request; if not, notes why.
    fn lets(
        &mut self,
        backend: &Arc<LiveBackend>,
        request: &Request<'_>,
        exclude: &[BackendIndex],
        wanted: Admission,
    ) -> bool {
        let serves = if request.model.is_empty() { Serves::Yes } else { backend.serves(request.model) };
        if serves == Serves::No {
            return false;
        }
        self.serving = true;
        if let Some(feature) = missing(request.needs, backend.settings().features) {
            self.missing = Some(feature);
            return false;
        }
        let name = if let Serves::Renamed(name) = &serves { name } else { request.model };
        if let Some(limit) = backend.context_length(name)
            && request.facts.input_tokens.saturating_add(request.facts.max_tokens.unwrap_or(0)) > limit
        {
            self.longest = self.longest.max(Some(limit));
            return false;
        }
        self.suitable = true;
        if exclude.contains(&backend.index()) {
            self.excluded = true;
            return false;
        }
        let admission = backend.shared.admission();
        if admission == Admission::Warming || (serves == Serves::NotYetKnown && admission == Admission::Open) {
            self.loading = true;
            return false;
        }
        if admission != wanted {
            return false;
        }
        let full = backend.settings().max_in_flight.is_some_and(|most| backend.in_flight() >= most);
        self.full |= full;
        !full
    }

    fn reason(&self) -> NoCandidate {
        match self {
            Self { serving: false, .. } => NoCandidate::NoSuchModel,
            Self { suitable: false, longest: Some(limit), .. } => NoCandidate::TooLong { limit: *limit },
            Self { suitable: false, missing: Some(feature), .. } => NoCandidate::MissingFeature(feature),
            Self { full: true, .. } => NoCandidate::AllFull { retry_after: Duration::from_secs(1) },
            Self { excluded: true, .. } => NoCandidate::Excluded,
            Self { loading: true, .. } => NoCandidate::Loading { retry_after: RETRY_AFTER },
            _ => NoCandidate::NoneHealthy { retry_after: RETRY_AFTER },
        }
    }
}

fn missing(needs: Needs, features: Features) -> Option<&'static str> {
    [
        (needs.tools && !features.tools, "tools"),
        (needs.vision && !features.vision, "vision"),
        (needs.structured_output && !features.structured_output, "structured_output"),
    ]
    .into_iter()
    .find_map(|(lacks, name)| lacks.then_some(name))
}
