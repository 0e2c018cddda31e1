//! Which route serves a request: the first in the configuration whose path, header fields and model all fit.

use std::sync::Arc;

use super::Fleet;
use super::callers::Caller;
use super::models::Serves;
use crate::config::settings::Route;
use crate::wire::Api;

/// What became of looking for a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RouteMatchResult {
    /// This one, by its place in the settings.
    Found(usize),
    /// No route serves this path (with these header fields).
    NoRoute,
    /// Routes serve this path, but none of them the model.
    NoSuchModel,
    /// Routes serve the request, but none of them this caller.
    NotAllowed,
}

impl Fleet {
    /// The first route that serves the request. A route without `paths` serves the inference APIs; any other path must
    /// be named. `model` is `None` for requests that name none. What the caller may not use is passed over.
    pub fn match_route<'h>(
        &self,
        path: &str,
        headers: impl Fn(&str) -> Option<&'h str>,
        model: Option<&str>,
        caller: Option<&Caller>,
    ) -> RouteMatchResult {
        let (mut reached, mut forbidden) = (false, false);
        for (index, route) in self.settings().routes.iter().enumerate() {
            if !takes_path(route, path) || !takes_headers(route, &headers) {
                continue;
            }
            reached = true;
            if model.is_none_or(|model| self.takes_model(index, route, model)) {
                if may_use(caller, index) {
                    return RouteMatchResult::Found(index);
                }
                forbidden = true;
            }
        }
        match (forbidden, reached) {
            (true, _) => RouteMatchResult::NotAllowed,
            (false, true) => RouteMatchResult::NoSuchModel,
            (false, false) => RouteMatchResult::NoRoute,
        }
    }

    /// Every route, by its place in the settings, that takes this path and these header fields for some model, and this
    /// caller.
    pub fn routes_for<'h>(
        &self,
        path: &str,
        headers: impl Fn(&str) -> Option<&'h str>,
        caller: Option<&Caller>,
    ) -> Vec<usize> {
        let takes = |(index, route): &(usize, &Arc<Route>)| {
            takes_path(route, path) && takes_headers(route, &headers) && may_use(caller, *index)
        };
        self.settings().routes.iter().enumerate().filter(takes).map(|(index, _)| index).collect()
    }

    /// The models that this caller, with these header fields, may ask for (`GET /v1/models`), sorted, each once: what is
    /// configured by name, aliases, and what backends say themselves.
    pub fn models<'h>(&self, headers: impl Fn(&str) -> Option<&'h str>, caller: Option<&Caller>) -> Vec<Arc<str>> {
        let mut all: Vec<Arc<str>> = Vec::new();
        let routes = self.settings().routes.iter().enumerate();
        for (_, route) in routes.filter(|(index, route)| takes_headers(route, &headers) && may_use(caller, *index)) {
            for backend in route.backends.iter().filter_map(|&(index, _)| self.backends().get(index)) {
                let settings = backend.settings();
                all.extend(settings.rename.iter().map(|(alias, _)| Arc::clone(alias)).filter(|one| named(route, one)));
                let literals = settings.models.iter().flatten().chain(&route.matches.models);
                let literals = literals.filter(|one| one.is_literal()).map(|one| Arc::clone(&one.0));
                let discovered = backend.discovered();
                let known = literals.chain(discovered.models.iter().map(|one| Arc::clone(&one.id)));
                let served = |one: &Arc<str>| named(route, one) && backend.serves(one) == Serves::Yes;
                all.extend(known.filter(served));
            }
        }
        all.sort_unstable();
        all.dedup();
        all
    }

    /// The name under which logs and metrics may show a model: as configured (a pattern stands for all it matches), or
    /// as a backend lists it. `None` is shown as `other`, so that clients cannot grow the set of names.
    pub fn serves_model(&self, model: &str) -> Option<Arc<str>> {
        let discovered = || {
            let find =
                |backend: &Arc<super::LiveBackend>| backend.discovered().find(model).map(|one| Arc::clone(&one.id));
            self.backends().iter().find_map(find)
        };
        let settings = self.settings();
        let aliases = settings.backends.iter().flat_map(|one| &one.rename).map(|(alias, _)| alias);
        let patterns = || {
            let backends = settings.backends.iter().flat_map(|one| one.models.iter().flatten());
            backends.chain(settings.routes.iter().flat_map(|one| &one.matches.models))
        };
        let exact = aliases.chain(patterns().map(|one| &one.0)).find(|one| &***one == model).cloned();
        let pattern = || patterns().find(|one| one.matches(model)).map(|one| Arc::clone(&one.0));
        exact.or_else(discovered).or_else(pattern)
    }

    fn takes_model(&self, index: usize, route: &Route, model: &str) -> bool {
        let backends = || self.routes().get(index).into_iter().flat_map(|route| self.backends_of(route));
        named(route, model) && backends().any(|(backend, _, _)| backend.serves(model) != Serves::No)
    }
}

/// Where no keys are asked for, everyone may use everything.
fn may_use(caller: Option<&Caller>, route: usize) -> bool {
    caller.is_none_or(|caller| caller.may_use(route))
}

fn named(route: &Route, model: &str) -> bool {
    let patterns = &route.matches.models;
    patterns.is_empty() || patterns.iter().any(|pattern| pattern.matches(model))
}

fn takes_path(route: &Route, path: &str) -> bool {
    let paths = &route.matches.paths;
    if paths.is_empty() { Api::from_path(path).is_some() } else { paths.iter().any(|one| &**one == path) }
}

fn takes_headers<'h>(route: &Route, headers: impl Fn(&str) -> Option<&'h str>) -> bool {
    route.matches.headers.iter().all(|(name, value)| headers(name) == Some(value))
}
