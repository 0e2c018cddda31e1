//! The cheapest fleet for a demand: how many of each profile, and which serves how much of which route.
//!
//! A replica that can serve 10 requests per second of one route or 4 of another is taken to serve any mix between: half
//! its time each, 5 and 2. Replicas come whole; a service that is paid by the token has as many as it takes. That makes
//! a small mixed-integer program, which a library solves to its optimum.

use std::time::Duration;

use microlp::{ComparisonOp, Error, LinearExpr, OptimizationDirection, Problem, Solution, Variable};

/// Most replicas of one profile in a plan.
const MOST_REPLICAS: i32 = 100_000;
/// Rates below this are rounding.
const LEAST_RATE: f64 = 1e-6;
/// The longest that a plan is looked for; a handful of profiles and routes take milliseconds.
const PATIENCE: Duration = Duration::from_secs(10);

/// One profile: what a replica of it costs, and what it can do for each route.
#[derive(Debug, Clone, PartialEq)]
pub struct Offer {
    /// What a replica costs per hour, busy or not; `None` for a service that is paid by the token.
    pub per_hour: Option<f64>,
    /// For each route: requests per second that a replica serves within the objectives, and what each costs by the
    /// token; `None` where it does not keep them.
    pub serves: Vec<Option<(f64, f64)>>,
}

/// The cheapest fleet.
#[derive(Debug, Clone, PartialEq)]
pub struct FleetPlan {
    /// Replicas of each profile.
    pub replicas: Vec<u32>,
    /// Requests per second: of each profile, for each route.
    pub rates: Vec<Vec<f64>>,
    /// What it costs per hour.
    pub per_hour: f64,
}

/// Why there is no plan.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// No profile keeps the objectives of a route, by its place.
    #[error("no profile keeps the objectives of route {0}")]
    Unserved(usize),
    /// The numbers are out of what can be computed.
    #[error("no plan was found: {0}")]
    Unsolved(String),
}

/// Finds it: the least cost at which every route gets the requests per second that are demanded of it.
///
/// # Errors
/// When a route that something is demanded of is kept by no profile.
pub fn cheapest(demands: &[f64], offers: &[Offer]) -> Result<FleetPlan, PlanError> {
    let serves = |offer: &Offer, route: usize| offer.serves.get(route).copied().flatten().filter(|of| of.0 > 0.0);
    let unserved = |(route, demand): (usize, &f64)| {
        (*demand > 0.0 && !offers.iter().any(|offer| serves(offer, route).is_some())).then_some(route)
    };
    if let Some(route) = demands.iter().enumerate().find_map(unserved) {
        return Err(PlanError::Unserved(route));
    }
    let mut problem = Problem::new(OptimizationDirection::Minimize);
    problem.set_time_limit(PATIENCE);
    let mut routes: Vec<LinearExpr> = demands.iter().map(|_| LinearExpr::empty()).collect();
    let mut variables = Vec::new();
    for offer in offers {
        let replicas = match offer.per_hour {
            Some(per_hour) => problem.add_integer_var(per_hour, (0, MOST_REPLICAS)),
            None => problem.add_var(0.0, (0.0, f64::from(MOST_REPLICAS))),
        };
        let (mut busy, mut rates) = (LinearExpr::empty(), vec![None; demands.len()]);
        for (route, demanded) in routes.iter_mut().enumerate() {
            let Some((rate, by_token)) = serves(offer, route) else { continue };
            let rate_of = problem.add_var(by_token * 3_600.0, (0.0, f64::INFINITY));
            busy.add(rate_of, 1.0 / rate);
            demanded.add(rate_of, 1.0);
            if let Some(place) = rates.get_mut(route) {
                *place = Some(rate_of);
            }
        }
        busy.add(replicas, -1.0);
        problem.add_constraint(busy, ComparisonOp::Le, 0.0);
        variables.push((replicas, rates));
    }
    for (demanded, demand) in routes.into_iter().zip(demands).filter(|(_, demand)| **demand > 0.0) {
        problem.add_constraint(demanded, ComparisonOp::Ge, *demand);
    }
    let outcome = problem.solve().map_err(|error: Error| PlanError::Unsolved(error.to_string()))?;
    let solution = outcome.into_solution().map_err(|_| PlanError::Unsolved("it took too long".to_owned()))?;
    Ok(read(&solution, &variables, offers))
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and the most replicas")]
fn read(solution: &Solution, variables: &[(Variable, Vec<Option<Variable>>)], offers: &[Offer]) -> FleetPlan {
    let value = |variable: Variable| solution.var_value(variable);
    let rate = |variable: &Option<Variable>| variable.map(value).filter(|rate| *rate > LEAST_RATE).unwrap_or(0.0);
    let rates: Vec<Vec<f64>> = variables.iter().map(|(_, rates)| rates.iter().map(rate).collect()).collect();
    // What costs nothing by itself may be any number above what is needed.
    let needed = |offer: &Offer, rates: &[f64]| -> f64 {
        let shares = offer.serves.iter().zip(rates).filter_map(|(serves, rate)| Some(rate / serves.as_ref()?.0));
        shares.sum()
    };
    let replicas = |((variable, _), (offer, rates)): (&(Variable, Vec<_>), (&Offer, &Vec<f64>))| {
        let count =
            if offer.per_hour.is_some() { value(*variable).round() } else { (needed(offer, rates) - 1e-6).ceil() };
        count.max(0.0) as u32
    };
    FleetPlan {
        replicas: variables.iter().zip(offers.iter().zip(&rates)).map(replicas).collect(),
        per_hour: solution.objective(),
        rates,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    fn hourly(per_hour: f64, rates: &[Option<f64>]) -> Offer {
        Offer { per_hour: Some(per_hour), serves: rates.iter().map(|rate| Some(((*rate)?, 0.0))).collect() }
    }

    #[track_caller]
    fn check(demands: &[f64], offers: &[Offer], replicas: &[u32], per_hour: f64) {
        let plan = cheapest(demands, offers).expect("a plan");
        assert_eq!(plan.replicas, replicas, "{plan:?}");
        assert!((plan.per_hour - per_hour).abs() < 1e-6, "{plan:?}");
        for (route, demand) in demands.iter().enumerate() {
            let served: f64 = plan.rates.iter().map(|rates| rates[route]).sum();
            assert!(served >= demand - 1e-6, "route {route} gets {served}");
        }
    }

    #[test]
    fn replicas_come_whole_and_the_last_one_may_be_a_smaller_profile() {
        // Four of the small one cost as much as the large one, and do less.
        let offers = [hourly(4.0, &[Some(10.0)]), hourly(1.0, &[Some(2.0)])];
        check(&[9.0], &offers, &[1, 0], 4.0);
        check(&[3.0], &offers, &[0, 2], 2.0);
        check(&[11.0], &offers, &[1, 1], 5.0);
        check(&[0.0], &offers, &[0, 0], 0.0);
    }

    #[test]
    fn routes_share_replicas_and_a_route_goes_where_its_objectives_hold() {
        // The cheap one is too slow for the first route.
        let offers = [hourly(4.0, &[Some(10.0), Some(8.0)]), hourly(1.0, &[None, Some(4.0)])];
        check(&[5.0, 4.0], &offers, &[1, 0], 4.0);
        check(&[5.0, 8.0], &offers, &[1, 1], 5.0);
        check(&[0.0, 8.0], &offers, &[0, 2], 2.0);
        assert_eq!(cheapest(&[1.0, 0.0], &offers[1..]), Err(PlanError::Unserved(0)));
    }

    #[test]
    fn what_is_paid_by_the_token_takes_what_a_whole_replica_would_be_too_much_for() {
        let by_token = Offer { per_hour: None, serves: vec![Some((5.0, 1e-3))] };
        // 1e-3 a request is 3.6 an hour at one request per second; a replica costs 5 and does ten.
        let offers = [hourly(5.0, &[Some(10.0)]), by_token];
        check(&[1.0], &offers, &[0, 1], 3.6);
        check(&[9.0], &offers, &[1, 0], 5.0);
        check(&[10.5], &offers, &[1, 1], 5.0 + 1.8);
    }

    #[test]
    fn no_mix_of_a_small_fleet_is_cheaper() {
        let mut random = Random::seeded(5);
        for _ in 0..200 {
            let price = |random: &mut Random| 0.5 + 4.0 * random.share();
            let offers: Vec<_> =
                (0..3).map(|_| hourly(price(&mut random), &[Some(1.0 + 9.0 * random.share())])).collect();
            let demand = 1.0 + 20.0 * random.share();
            let plan = cheapest(&[demand], &offers).expect("a plan");
            let rate = |offer: &Offer| offer.serves[0].expect("serves").0;
            let mut least = f64::INFINITY;
            for a in 0..=25 {
                for b in 0..=25 {
                    let rest = demand - f64::from(a) * rate(&offers[0]) - f64::from(b) * rate(&offers[1]);
                    let c = (rest / rate(&offers[2]) - 1e-9).ceil().max(0.0);
                    let cost = |offer: &Offer| offer.per_hour.expect("by the hour");
                    let sum = f64::from(a) * cost(&offers[0]) + f64::from(b) * cost(&offers[1]) + c * cost(&offers[2]);
                    least = least.min(sum);
                }
            }
            assert!((plan.per_hour - least).abs() < 1e-6, "{plan:?} where {least} is possible");
        }
    }
}
