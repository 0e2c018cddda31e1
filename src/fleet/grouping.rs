//! Deciding on a split route: in the request's own group, and elsewhere only where that has no place for it.

use std::sync::Mutex;
use std::time::Instant;

use super::Fleet;
use super::backend::Admission;
use super::candidates::PassedOver;
use super::choosing::choose;
use super::dispatch::Request;
use super::route::LiveRoute;
use super::split::RouteSplit;
use crate::measure::group::{FellOver, GroupIndex};
use crate::route::decision::Decision;
use crate::route::model::Asking;
use crate::route::policy::PolicyState;
use crate::route::scarcity::Scarcity;
use crate::route::snapshot::{BackendIndex, Candidate};

/// Which of a route's backends a request is decided among.
#[derive(Debug, Clone, Copy)]
pub(super) enum Scope<'a> {
    /// All of them.
    Route,
    /// Those of one group, as long as it may get anything.
    Group(&'a RouteSplit, GroupIndex),
    /// Those of every group that may get anything.
    Serving(&'a RouteSplit),
}

impl Scope<'_> {
    pub(super) fn holds(&self, backend: BackendIndex) -> bool {
        match self {
            Self::Route => true,
            Self::Group(split, group) => split.group_of(backend) == *group && split.serves(*group),
            Self::Serving(split) => split.serves(split.group_of(backend)),
        }
    }

    /// Whom to look for, and then, where there was none. An ejected backend is asked where nobody else is left, which is
    /// not so while there are other groups.
    pub(super) fn wanted(&self) -> &'static [Admission] {
        match self {
            Self::Group(..) => &[Admission::Open],
            Self::Route | Self::Serving(_) => &[Admission::Open, Admission::Ejected],
        }
    }
}

/// What is filled in on the way to a decision.
pub(super) struct Papers<'a> {
    pub(super) candidates: &'a mut Vec<Candidate>,
    pub(super) decision: &'a mut Decision,
    pub(super) scarcity: Scarcity,
}

/// What is to be said besides the decision.
pub(super) struct Found {
    pub(super) passed_over: PassedOver,
    /// Why another group than the request's own was chosen.
    pub(super) fell_over: Option<FellOver>,
}

impl Fleet {
    /// Gathers the candidates and lets the route's policy decide. On a split route it decides among the backends of the
    /// request's group, and among all that may serve only where the request would go nowhere otherwise: the groups stay
    /// as they were drawn, and nothing is lost by a bad one.
    pub(super) fn decide(
        &self,
        route: &LiveRoute,
        asked: (&Request<'_>, &Asking<'_>),
        exclude: &[BackendIndex],
        papers: &mut Papers<'_>,
        now: Instant,
    ) -> Found {
        let of_route = &route.counts.policy;
        let Some((split, group)) = route.split.as_ref().zip(asked.0.group) else {
            let passed_over = self.decide_in(route, (Scope::Route, of_route), asked, exclude, papers, now);
            return Found { passed_over, fell_over: None };
        };
        let state = split.live.policy(group).unwrap_or(of_route);
        let own = self.decide_in(route, (Scope::Group(split, group), state), asked, exclude, papers, now);
        let decision = &papers.decision;
        // What would be sent a second time must have a place where it is in time.
        if decision.chosen.is_some() && !(asked.0.hedge && decision.is_doomed()) {
            return Found { passed_over: own, fell_over: None };
        }
        let refused = decision.turned_away.is_some() || own.is_full();
        let passed_over = self.decide_in(route, (Scope::Serving(split), of_route), asked, exclude, papers, now);
        let elsewhere = papers.decision.chosen.is_some_and(|(chosen, _)| split.group_of(chosen) != group);
        let tried = || exclude.iter().any(|one| split.group_of(*one) == group);
        let reason = || match () {
            () if asked.0.hedge && tried() => FellOver::Hedged,
            () if tried() => FellOver::Failed,
            () if refused => FellOver::Refused,
            () => FellOver::Unusable,
        };
        Found { passed_over, fell_over: elsewhere.then(reason) }
    }

    fn decide_in(
        &self,
        route: &LiveRoute,
        (scope, state): (Scope<'_>, &Mutex<PolicyState>),
        asked: (&Request<'_>, &Asking<'_>),
        exclude: &[BackendIndex],
        papers: &mut Papers<'_>,
        now: Instant,
    ) -> PassedOver {
        let passed_over = self.gather((route, scope), asked, exclude, papers.candidates, now);
        choose((route, state), asked.0, (papers.candidates.as_mut_slice(), papers.scarcity), papers.decision);
        passed_over
    }
}
