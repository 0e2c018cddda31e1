//! Which backends may serve a request at all, before anything is predicted or priced.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::backend::{Admission, CheckOutcome, LiveBackend};
use super::dispatch::{Needs, NoCandidate, Request};
use super::grouping::Scope;
use super::models::Serves;
use super::route::LiveRoute;
use super::{Fleet, RETRY_AFTER};
use crate::config::settings::Features;
use crate::route::model::Asking;
use crate::route::snapshot::{BackendIndex, Candidate};

/// Why backends were passed over; decides what the client is told when none is left.
#[derive(Debug, Default)]
#[allow(clippy::struct_excessive_bools, reason = "each notes one fact, and all of them may hold")]
pub(super) struct PassedOver {
    serving: bool,
    missing: Option<&'static str>,
    longest: Option<u64>,
    suitable: bool,
    excluded: bool,
    loading: bool,
    full: bool,
    no_tls: bool,
    down: bool,
}

impl Fleet {
    /// Fills in the candidates. An ejected backend is one only when the others are all down: full
    /// ones will have room again, and excluded ones have just been tried.
    pub(super) fn gather(
        &self,
        (route, scope): (&LiveRoute, Scope<'_>),
        (request, asking): (&Request<'_>, &Asking<'_>),
        exclude: &[BackendIndex],
        candidates: &mut Vec<Candidate>,
        now: Instant,
    ) -> PassedOver {
        let mut passed_over = PassedOver::default();
        for &wanted in scope.wanted() {
            candidates.clear();
            for (backend, _, weight) in self.backends_of(route) {
                if weight > 0 && scope.holds(backend.index()) && passed_over.lets(backend, request, exclude, wanted) {
                    candidates.push(candidate(backend, weight, asking, now));
                }
            }
            if !candidates.is_empty() || passed_over.full || passed_over.excluded {
                break;
            }
        }
        passed_over
    }
}

/// What routing may know of a backend at this instant.
fn candidate(backend: &LiveBackend, weight: u32, asking: &Asking<'_>, now: Instant) -> Candidate {
    let settings = backend.settings();
    Candidate {
        backend: backend.index(),
        weight,
        in_flight: backend.in_flight(),
        max_in_flight: settings.max_in_flight,
        price: settings.price,
        outlook: backend.shared.outlook(asking, now),
        ramp: backend.ramp(now),
        held_back: false,
    }
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
        if let Some(context) = backend.context(name)
            && !context.holds(request.facts.input_tokens, request.facts.max_tokens)
        {
            self.longest = self.longest.max(Some(context.tokens));
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
        // What is late must not become the one request that a breaker waits for.
        if admission != wanted || (request.hedge && backend.shared.is_ejected()) {
            let no_tls = || backend.last_check().is_some_and(|check| matches!(check.outcome, CheckOutcome::NoTls(_)));
            if admission == Admission::Unusable && no_tls() {
                self.no_tls = true;
            } else {
                self.down = true;
            }
            return false;
        }
        let full = backend.settings().max_in_flight.is_some_and(|most| backend.in_flight() >= most);
        self.full |= full;
        !full
    }

    /// Whether a backend could have served the request, had it had a place left.
    pub(super) fn is_full(&self) -> bool {
        self.full
    }

    pub(super) fn reason(&self) -> NoCandidate {
        match self {
            Self { serving: false, .. } => NoCandidate::NoSuchModel,
            Self { suitable: false, longest: Some(limit), .. } => NoCandidate::TooLong { limit: *limit },
            Self { suitable: false, missing: Some(feature), .. } => NoCandidate::MissingFeature(feature),
            Self { full: true, .. } => NoCandidate::AllFull { retry_after: Duration::from_secs(1) },
            Self { excluded: true, .. } => NoCandidate::Excluded,
            Self { loading: true, .. } => NoCandidate::Loading { retry_after: RETRY_AFTER },
            Self { no_tls: true, down: false, .. } => NoCandidate::NoTls,
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
