//! What follows from the measurements, for every route and for the whole fleet.

use std::sync::Arc;

use super::args::{CalibrateArgs, Demand};
use super::target::Target;
use crate::config::settings::{Route, Settings};
use crate::measure::objective::Objectives;
use crate::planner::{
    Alternative, Capacity, Choice, EngineFit, FleetPlan, Missed, Offer, PlanError, Point, Shape, cheapest, choose,
    cost_per_mtok,
};
use crate::route::price::Price;

/// One backend, measured.
pub(super) struct Found {
    pub(super) target: Target,
    pub(super) points: Vec<Point>,
    pub(super) fit: Option<EngineFit>,
    /// Tokens that its engine's key/value cache holds, where it says.
    pub(super) kv_cache_tokens: Option<u64>,
    /// Why its sweep ended early.
    pub(super) stopped: Option<String>,
    /// Lengths that are more than it takes.
    pub(super) too_long: Vec<Shape>,
}

/// Everything that was found.
pub(super) struct Findings {
    pub(super) backends: Vec<Found>,
    /// Backends that were not measured, and why.
    pub(super) skipped: Vec<(Arc<str>, String)>,
    pub(super) routes: Vec<ForRoute>,
    pub(super) fleet: Option<ForDemand>,
}

/// What is known of one route and one shape of its requests.
pub(super) struct ForRoute {
    pub(super) name: Arc<str>,
    pub(super) objectives: Objectives,
    pub(super) shape: Shape,
    pub(super) alternatives: Vec<OnRoute>,
    pub(super) choice: Choice,
}

/// One backend, as it would serve a route.
pub(super) struct OnRoute {
    /// Its place among the measured ones.
    pub(super) place: usize,
    pub(super) capacity: Result<Capacity, Missed>,
    pub(super) cost: Option<f64>,
    /// Whether the route names it today.
    pub(super) configured: bool,
}

/// The cheapest fleet for what is demanded.
pub(super) struct ForDemand {
    pub(super) demands: Vec<Demand>,
    pub(super) headroom: f64,
    /// What its offers stand for: for each, places among the measured backends that are alike.
    pub(super) groups: Vec<Vec<usize>>,
    pub(super) plan: Result<FleetPlan, PlanError>,
}

impl Findings {
    pub(super) fn of(
        backends: Vec<Found>,
        skipped: Vec<(Arc<str>, String)>,
        settings: &Settings,
        args: &CalibrateArgs,
    ) -> Self {
        let mut routes = Vec::new();
        for route in &settings.routes {
            for shape in args.shapes_of(&route.name) {
                routes.push(ForRoute::of(route, shape, &backends, settings));
            }
        }
        routes.retain(|route| !route.alternatives.is_empty());
        let fleet = (!args.demand.is_empty()).then(|| ForDemand::of(args, &routes, &backends));
        Self { backends, skipped, routes, fleet }
    }
}

impl ForRoute {
    fn of(route: &Route, shape: Shape, backends: &[Found], settings: &Settings) -> Self {
        let alternatives: Vec<OnRoute> = backends
            .iter()
            .enumerate()
            .filter(|(_, found)| may_serve(route, found, backends, settings))
            .filter_map(|(place, found)| OnRoute::of(route, place, shape, found, settings))
            .collect();
        let options: Vec<Alternative> = alternatives
            .iter()
            .filter_map(|one| {
                let gpus = backends.get(one.place)?.target.gpus();
                Some(Alternative { capacity: one.capacity, cost: one.cost, gpus })
            })
            .collect();
        let choice = choose(&options);
        Self { name: Arc::clone(&route.name), objectives: route.objectives, shape, alternatives, choice }
    }

    pub(super) fn alternative(&self, place: usize) -> Option<&OnRoute> {
        self.alternatives.get(place)
    }
}

impl OnRoute {
    fn of(route: &Route, place: usize, shape: Shape, found: &Found, settings: &Settings) -> Option<Self> {
        let points: Vec<Point> = found.points.iter().filter(|point| point.shape == shape).cloned().collect();
        if points.is_empty() {
            return None;
        }
        let capacity = Capacity::of(&points, &route.objectives);
        let cost = capacity.as_ref().ok().and_then(|capacity| capacity.cost_per_mtok(found.target.price()));
        Some(Self { place, capacity, cost, configured: names(route, found, settings) })
    }
}

fn names(route: &Route, found: &Found, settings: &Settings) -> bool {
    let named = |index: &usize| settings.backends.get(*index).is_some_and(|one| one.name == found.target.settings.name);
    route.backends.iter().any(|(index, _)| named(index))
}

/// Whether what was measured of a backend is what the route is for, and the backend is on it, or serves the same.
fn may_serve(route: &Route, found: &Found, backends: &[Found], settings: &Settings) -> bool {
    let same = |other: &Found| names(route, other, settings) && other.target.model == found.target.model;
    let on_it = names(route, found, settings) || !route.matches.models.is_empty() || backends.iter().any(same);
    on_it && found.target.answers_to(&route.matches.models)
}

impl ForDemand {
    fn of(args: &CalibrateArgs, routes: &[ForRoute], backends: &[Found]) -> Self {
        let groups = alike(backends);
        let offer = |places: &Vec<usize>| {
            let price = places.first().and_then(|place| backends.get(*place)).and_then(|found| found.target.price());
            let of_demand = |demand: &Demand| {
                let each = places.iter().map(|place| serves(demand, *place, backends.get(*place)?, routes));
                // Of backends that are alike the one that does the least stands for all.
                let all: Vec<(f64, f64)> = each.collect::<Option<_>>()?;
                let least = all.into_iter().min_by(|one, other| one.0.total_cmp(&other.0))?;
                Some((least.0 * (1.0 - args.headroom), least.1))
            };
            Offer { per_hour: price.and_then(per_hour), serves: args.demand.iter().map(of_demand).collect() }
        };
        let offers: Vec<Offer> = groups.iter().map(offer).collect();
        let rates: Vec<f64> = args.demand.iter().map(|demand| demand.per_second).collect();
        let plan = cheapest(&rates, &offers);
        Self { demands: args.demand.clone(), headroom: args.headroom, groups, plan }
    }
}

/// Backends of one profile, model and price: replicas of each other.
fn alike(backends: &[Found]) -> Vec<Vec<usize>> {
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for (place, found) in backends.iter().enumerate() {
        let same = |group: &&mut Vec<usize>| {
            let other = group.first().and_then(|place| backends.get(*place));
            other.is_some_and(|other| {
                let (own, other) = (&found.target, &other.target);
                own.settings.profile.is_some()
                    && own.settings.profile == other.settings.profile
                    && own.model == other.model
                    && own.price() == other.price()
            })
        };
        match groups.iter_mut().find(same) {
            Some(group) => group.push(place),
            None => groups.push(vec![place]),
        }
    }
    groups
}

fn per_hour(price: &Price) -> Option<f64> {
    match *price {
        Price::PerGpuHour { per_gpu_hour, gpus } => Some(per_gpu_hour * f64::from(gpus)),
        Price::PerToken { .. } => None,
    }
}

/// Requests per second of a demand that a replica carries, and what each costs by the token. A backend without a price
/// is in no plan; of several shapes the one that it carries the least of counts.
fn serves(demand: &Demand, place: usize, found: &Found, routes: &[ForRoute]) -> Option<(f64, f64)> {
    let price = found.target.price()?;
    let of_demand = routes
        .iter()
        .filter(|route| *route.name == *demand.route && demand.shape.is_none_or(|shape| shape == route.shape));
    let mut least: Option<Capacity> = None;
    for route in of_demand {
        let one = route.alternatives.iter().find(|one| one.place == place)?;
        let capacity = one.capacity.as_ref().ok()?;
        if least.is_none_or(|least| capacity.requests_per_second < least.requests_per_second) {
            least = Some(*capacity);
        }
    }
    let least = least?;
    let by_token = match price {
        Price::PerToken { .. } => {
            let lengths = (least.input_tokens, least.output_tokens);
            cost_per_mtok(price, least.tokens_per_second, lengths)? * least.output_tokens / 1e6
        }
        Price::PerGpuHour { .. } => 0.0,
    };
    Some((least.requests_per_second, by_token))
}
