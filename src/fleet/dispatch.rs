//! Choosing a backend and counting the request in, as one critical section: two threads never see the same idle
//! backend.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::Fleet;
use super::backend::LiveBackend;
use super::choosing::{asking, summarise};
use super::decisions::{Circumstances, Decided, DecisionLog};
use super::endpoint::Endpoint;
use super::grouping::{Found, Papers};
use super::in_flight::InFlight;
use super::models::Serves;
use super::pace::Pace;
use super::route::LiveRoute;
use crate::measure::exchange::DecisionSummary;
use crate::measure::group::{FellOver, GroupIndex};
use crate::route::decision::{Cause, Decision, Reason, TurnedAway};
use crate::route::model::Asking;
use crate::route::prefix::Prefix;
use crate::route::price::Work;
use crate::route::scarcity::Scarcity;
use crate::route::snapshot::{BackendIndex, Candidate, RequestFacts};

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
#[derive(Debug, Clone, Copy, Default)]
pub struct Request<'a> {
    /// The model, as the client named it; empty when the request names none, and any backend of the route will do.
    pub model: &'a str,
    /// Sizes and objectives.
    pub facts: RequestFacts,
    /// Features.
    pub needs: Needs,
    /// The blocks of its prompt.
    pub prefix: Prefix<'a>,
    /// Under which name the decision is remembered.
    pub request_id: Option<&'a Arc<str>>,
    /// The group it was assigned to; `None` where the route has only one, and where only one backend will do.
    pub group: Option<GroupIndex>,
    /// It waits and was turned away before: being turned away again is nothing new.
    pub again: bool,
    /// It has been sent already, and is late: the other backend is no place to find out about, and proves nothing.
    pub hedge: bool,
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
    /// Why it is not one of the request's own group.
    pub fell_over: Option<FellOver>,
    /// Why this backend.
    pub summary: DecisionSummary,
    /// What this backend calls the model, when that is something else than the client's word.
    pub model_name: Option<Arc<str>>,
    /// When a first token that has not come is late enough to ask another backend too; `None` where the route does not
    /// hedge, or too little is known.
    pub hedge_after: Option<Duration>,
}

/// Why no backend could be given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoCandidate {
    /// No backend of the route serves the model.
    #[error("no backend of the route serves the model")]
    NoSuchModel,
    /// Those that serve it are still loading it.
    #[error("the model is still loading")]
    Loading {
        /// When to try again.
        retry_after: Duration,
    },
    /// Those that serve it are down, ejected or draining.
    #[error("no backend for this model is healthy")]
    NoneHealthy {
        /// When to try again.
        retry_after: Duration,
    },
    /// With those that serve it there is no TLS.
    #[error("no TLS with any backend of this model")]
    NoTls,
    /// Those that serve it have no place left.
    #[error("every backend for this model is full")]
    AllFull {
        /// When to try again.
        retry_after: Duration,
    },
    /// None of those that serve it is expected to keep the promise, and the route does not serve such requests.
    #[error("no backend is expected to answer in time")]
    WouldMiss {
        /// When to try again, by how long the backends take to drain.
        retry_after: Duration,
        /// The decision that says so; `None` where none was made anew.
        decision: Option<Away>,
    },
    /// Prompt and `max_tokens` together exceed every context.
    #[error("prompt and max_tokens together exceed the {limit} tokens that any backend takes")]
    TooLong {
        /// The longest context there is, in tokens.
        limit: u64,
    },
    /// No backend that serves it has this feature.
    #[error("no backend for this model supports {0}")]
    MissingFeature(&'static str),
    /// Only excluded ones were left.
    #[error("no other backend for this model is healthy")]
    Excluded,
}

/// A decision to send a request nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Away {
    /// Its number in the list of decisions.
    pub number: u64,
    /// Why.
    pub cause: Cause,
    /// How many backends there were to choose from.
    pub candidates: usize,
}

impl Away {
    /// The decision as the exchange's record has it.
    #[must_use]
    pub fn summary(self) -> DecisionSummary {
        let Self { number, cause, candidates } = self;
        DecisionSummary { number, reason: cause.as_str(), candidates, ..DecisionSummary::default() }
    }
}

/// What choosing needs, reused from request to request, under one lock.
#[derive(Debug, Default)]
pub(super) struct Desk {
    candidates: Vec<Candidate>,
    decision: Decision,
    shadow: Decision,
    /// Whether there is room for all, over all routes: they share the backends.
    pub(super) scarcity: Scarcity,
    pub(super) log: DecisionLog,
}

impl Fleet {
    /// Filters the route's backends (model, features, context, not excluded, healthy, room), lets the policy choose
    /// among the rest, and counts the request in.
    ///
    /// # Errors
    /// When no backend is left, or none is expected to keep the promise and the route wants to keep it; with the reason.
    pub fn dispatch(
        &self,
        route: usize,
        request: &Request<'_>,
        exclude: &[BackendIndex],
        now: Instant,
    ) -> Result<Dispatched, NoCandidate> {
        let route = self.routes().get(route).ok_or(NoCandidate::NoSuchModel)?;
        let asking = asking(route, request);
        // Every generation dispatches under this one lock, so a place that is free here is free when it is taken.
        let mut desk = self.desk();
        let Desk { candidates, decision, shadow, scarcity, log } = &mut *desk;
        let mut papers = Papers { candidates: &mut *candidates, decision: &mut *decision, scarcity: *scarcity };
        let Found { passed_over, fell_over } = self.decide(route, (request, &asking), exclude, &mut papers, now);
        // What a group that is tried out cannot hold is no shortage of the fleet's.
        let tried_out = request.group.is_some_and(|group| group != GroupIndex::BASELINE) && fell_over.is_none();
        if !request.again && exclude.is_empty() && !tried_out {
            scarcity.decided(decision);
            let found_no_place = decision.is_doomed() || decision.turned_away.is_some();
            route.counts.placing.decided(found_no_place, now);
        }
        if decision.turned_away.is_none() && decision.chosen.is_none() {
            return Err(passed_over.reason());
        }
        if request.hedge && decision.is_doomed() {
            return Err(NoCandidate::WouldMiss { retry_after: Duration::ZERO, decision: None });
        }
        if let Some(TurnedAway::Shed { retry_after, .. } | TurnedAway::Wait { retry_after, .. }) = decision.turned_away
            && request.again
        {
            return Err(NoCandidate::WouldMiss { retry_after, decision: None });
        }
        let shadow = self.shadow(route, &request.facts, (candidates, *scarcity), (decision, shadow));
        let names = |one: BackendIndex| self.backends().get(one.0).map(|backend| Arc::clone(backend.name()));
        let input_tokens = request.facts.input_tokens;
        let of_chosen = decision.chosen.and_then(|(one, _)| self.backends().get(one.0));
        let load = of_chosen.map(|backend| backend.shared.load(now)).unwrap_or_default();
        let group = route.split.as_ref().zip(request.group);
        let group = group.and_then(|(split, group)| Some((split.live.name(group)?, fell_over)));
        let of = Circumstances {
            route: route.name(),
            group,
            request_id: request.request_id,
            input_tokens,
            load,
            shadow,
            now,
        };
        let number = log.add(&of, decision, names);
        if let Some(TurnedAway::Shed { retry_after, cause } | TurnedAway::Wait { retry_after, cause }) =
            decision.turned_away
        {
            let away = Away { number, cause, candidates: decision.candidates.len() };
            return Err(NoCandidate::WouldMiss { retry_after, decision: Some(away) });
        }
        route.counts.saw(&request.facts);
        if route.settings().hedge.is_some() && exclude.is_empty() {
            route.counts.may_hedge_later(now);
        }
        let chosen = candidates.iter().find(|one| decision.chosen.is_some_and(|(index, _)| index == one.backend));
        let given = decision.chosen.zip(chosen);
        let given = given.and_then(|((_, reason), one)| self.count_in(route, (request, &asking), (one, reason), now));
        let mut dispatched = given.ok_or_else(|| passed_over.reason())?;
        dispatched.fell_over = fell_over;
        dispatched.summary = summarise(decision, number, load);
        Ok(dispatched)
    }

    fn shadow(
        &self,
        route: &LiveRoute,
        facts: &RequestFacts,
        candidates: (&[Candidate], Scarcity),
        (live, shadow): (&Decision, &mut Decision),
    ) -> Option<Decided> {
        let policy = route.shadow_policy()?;
        super::choosing::shadow(route, policy, facts, candidates, shadow);
        self.count_shadow(route, live, shadow);
        Some(Decided::of(shadow))
    }

    fn count_in(
        &self,
        route: &Arc<LiveRoute>,
        (request, asking): (&Request<'_>, &Asking<'_>),
        (chosen, reason): (&Candidate, Reason),
        now: Instant,
    ) -> Option<Dispatched> {
        let index = chosen.backend;
        let backend = Arc::clone(self.backends().get(index.0)?);
        let endpoint = backend.shared.next_endpoint()?;
        let hedge_after = hedge_after(&backend, route, asking, now);
        let in_flight = self.count(&backend, route, asking, (chosen, reason), now);
        backend.shared.owes(request.facts.stream, now);
        let model_name = match backend.serves(request.model) {
            Serves::Renamed(name) => Some(name),
            Serves::Yes | Serves::NotYetKnown | Serves::No => None,
        };
        let summary = DecisionSummary::default();
        Some(Dispatched { backend, index, endpoint, in_flight, fell_over: None, summary, model_name, hedge_after })
    }

    /// Another backend for a request whose first token is late, if the route's budget has room for one and there is one
    /// that would be given a new request: who is expected to miss the promise has no room for doubled work. While anybody
    /// waits in the route's line, there is no place for a request that has one already.
    pub fn hedge(
        &self,
        route: usize,
        request: &Request<'_>,
        exclude: &[BackendIndex],
        now: Instant,
    ) -> Option<Dispatched> {
        let live = self.routes().get(route)?;
        let share = live.settings().hedge?.budget;
        if self.common.line.has_any(live.counts.slot) {
            return None;
        }
        let taken = live.counts.hedges().as_mut().is_some_and(|budget| budget.take(share, now));
        if !taken {
            return None;
        }
        let request = Request { again: true, hedge: true, ..*request };
        let given = self.dispatch(route, &request, exclude, now).ok();
        if given.is_none()
            && let Some(budget) = live.counts.hedges().as_mut()
        {
            budget.returned(now);
        }
        given
    }

    /// From here on the guard's drop undoes each of these increments.
    fn count(
        &self,
        backend: &Arc<LiveBackend>,
        route: &LiveRoute,
        asking: &Asking<'_>,
        (chosen, reason): (&Candidate, Reason),
        now: Instant,
    ) -> InFlight {
        let (shared, stream) = (&backend.shared, asking.facts.stream);
        let ticket = shared.model().dispatched(asking, reason, now);
        shared.in_flight.fetch_add(1, Ordering::AcqRel);
        shared.streaming.fetch_add(u32::from(stream), Ordering::AcqRel);
        route.counts.active.fetch_add(1, Ordering::AcqRel);
        let outlook = &chosen.outlook;
        let work = Work {
            uncached_tokens: outlook.uncached_tokens,
            cached_tokens: outlook.cached_tokens,
            output_tokens: asking.output.mean,
            prefill_seconds: outlook.prefill_seconds,
            decode_seconds: outlook.decode_seconds,
        };
        InFlight {
            backend: Arc::clone(backend),
            counts: Arc::clone(&route.counts),
            line: Arc::clone(&self.common.line),
            stream,
            excused: false,
            probe: shared.sent(),
            ticket: Some(ticket),
            pace: Pace::default(),
            work,
            price: chosen.price,
        }
    }
}

/// When another backend may be asked for the same. Costs nothing on routes that do not hedge.
fn hedge_after(backend: &LiveBackend, route: &LiveRoute, asking: &Asking<'_>, now: Instant) -> Option<Duration> {
    let hedge = route.settings().hedge.filter(|_| asking.facts.stream)?;
    backend.shared.model().first_token_within(asking, hedge.after, now)
}
