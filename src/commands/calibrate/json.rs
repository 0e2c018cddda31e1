//! What was found, for machines: times in milliseconds, rates per second.

use serde_json::{Value, json};

use super::findings::{Findings, ForDemand, ForRoute, Found};
use crate::measure::objective::Latency;
use crate::planner::{Capacity, Choice, EngineFit, Extent, Fitted, Missed, PlanError, Point, Shape, cost_per_mtok};
use crate::units::Quantile;

pub(super) fn of(findings: &Findings) -> Value {
    json!({
        "backends": findings.backends.iter().map(backend).collect::<Vec<_>>(),
        "routes": findings.routes.iter().map(|one| route(one, &findings.backends)).collect::<Vec<_>>(),
        "fleet": findings.fleet.as_ref().map(|one| fleet(one, &findings.backends)),
        "skipped": findings.skipped.iter().map(|(name, why)| json!({ "backend": &**name, "why": why })).collect::<Vec<_>>(),
    })
}

fn backend(found: &Found) -> Value {
    json!({
        "name": found.target.name(),
        "profile": found.target.settings.profile.as_deref(),
        "model": found.target.model,
        "gpus": found.target.gpus(),
        "kv_cache_tokens": found.kv_cache_tokens,
        "points": found.points.iter().map(|one| point(one, found)).collect::<Vec<_>>(),
        "engine": found.fit.as_ref().map(engine),
        "stopped": found.stopped,
    })
}

fn shape(shape: Shape) -> Value {
    json!({ "input_tokens": shape.input_tokens, "output_tokens": shape.output_tokens })
}

fn point(point: &Point, found: &Found) -> Value {
    let ms = |latency, quantile| point.quantile(latency, quantile).map(|seconds| seconds * 1e3);
    let quantiles = |latency| json!({ "p50": ms(latency, Quantile::P50), "p95": ms(latency, Quantile::P95), "p99": ms(latency, Quantile::P99) });
    let (tokens, lengths) = (point.tokens_per_second(), (point.mean_input(), point.mean_output()));
    json!({
        "shape": shape(point.shape),
        "concurrency": point.concurrency,
        "mean_input_tokens": point.mean_input(),
        "mean_output_tokens": point.mean_output(),
        "answers": point.answers(),
        "errors": point.errors,
        "ttft_ms": quantiles(Latency::TimeToFirstToken),
        "itl_ms": quantiles(Latency::InterToken),
        "e2e_ms": quantiles(Latency::EndToEnd),
        "requests_per_second": point.requests_per_second(),
        "tokens_per_second": tokens,
        "tokens_per_second_per_gpu": found.target.gpus().map(|gpus| tokens / f64::from(gpus.max(1))),
        "cost_per_mtok": found.target.price().and_then(|price| cost_per_mtok(price, tokens, lengths)),
    })
}

fn engine(fit: &EngineFit) -> Value {
    let fitted =
        |one: Fitted, scale: f64| json!({ "value": one.value * scale, "error": one.error.map(|error| error * scale) });
    json!({
        "prefill_tokens_per_second": fit.prefill_rate().map(|rate| fitted(rate, 1.0)),
        "step_ms": fitted(fit.step, 1e3),
        "step_ms_per_stream": fitted(fit.per_stream, 1e3),
        "step_ms_per_cached_token": fitted(fit.per_cached_token, 1e3),
        "overhead_ms": fitted(fit.overhead, 1e3),
        "median_relative_error": fit.off_by,
        "requests": fit.requests,
    })
}

fn route(route: &ForRoute, backends: &[Found]) -> Value {
    let name = |place: usize| {
        let found = route.alternative(place).and_then(|one| backends.get(one.place));
        found.map(|found| found.target.name().to_owned())
    };
    let alternatives: Vec<Value> = route
        .alternatives
        .iter()
        .map(|one| {
            json!({
                "backend": backends.get(one.place).map(|found| found.target.name()),
                "configured": one.configured,
                "capacity": one.capacity.as_ref().ok().map(capacity),
                "missed": one.capacity.as_ref().err().map(missed),
                "cost_per_mtok": one.cost,
            })
        })
        .collect();
    let (chosen, why) = match route.choice {
        Choice::Only { place } => (name(place), "only"),
        Choice::Cheapest { place, .. } => (name(place), "cheapest"),
        Choice::MostPerGpu { place } => (name(place), "most_per_gpu"),
        Choice::Undecided => (None, "neither_prices_nor_gpus_are_known"),
        Choice::None { .. } => (None, "none_keeps_the_objectives"),
    };
    json!({ "route": &*route.name, "shape": shape(route.shape), "alternatives": alternatives, "use": chosen, "why": why })
}

fn capacity(capacity: &Capacity) -> Value {
    let breaks = match capacity.extent {
        Extent::Until { breaks } => Some(breaks.as_str()),
        Extent::Fails | Extent::AtLeast => None,
    };
    json!({
        "concurrency": capacity.concurrency,
        "requests_per_second": capacity.requests_per_second,
        "tokens_per_second": capacity.tokens_per_second,
        "breaks": breaks,
        "fails_above": capacity.extent == Extent::Fails,
        "at_least": capacity.extent == Extent::AtLeast,
    })
}

fn missed(missed: &Missed) -> Value {
    match *missed {
        Missed::Objective { latency, ratio, concurrency } => {
            json!({ "latency": latency.as_str(), "ratio": ratio.is_finite().then_some(ratio), "concurrency": concurrency })
        }
        Missed::Failures { share, concurrency } => json!({ "failed": share, "concurrency": concurrency }),
        Missed::Unmeasured => Value::Null,
    }
}

fn fleet(demand: &ForDemand, backends: &[Found]) -> Value {
    let plan = match &demand.plan {
        Ok(plan) => plan,
        Err(PlanError::Unserved(place)) => {
            return json!({ "unserved": demand.demands.get(*place).map(|one| &one.route) });
        }
        Err(why @ PlanError::Unsolved(_)) => return json!({ "error": why.to_string() }),
    };
    let groups = plan.replicas.iter().zip(&plan.rates).zip(&demand.groups).filter(|((replicas, _), _)| **replicas > 0);
    let groups: Vec<Value> = groups
        .map(|((replicas, rates), places)| {
            let names: Vec<&str> =
                places.iter().filter_map(|place| Some(backends.get(*place)?.target.name())).collect();
            let first = places.first().and_then(|place| backends.get(*place));
            let shares = rates.iter().zip(&demand.demands).filter(|(rate, _)| **rate > 0.0);
            let shares: Vec<Value> = shares
                .map(|(rate, one)| {
                    json!({ "route": one.route, "shape": one.shape.map(shape), "requests_per_second": rate })
                })
                .collect();
            json!({
                "backends": names,
                "profile": first.and_then(|found| found.target.settings.profile.as_deref()),
                "replicas": replicas,
                "serves": shares,
            })
        })
        .collect();
    json!({ "per_hour": plan.per_hour, "headroom": demand.headroom, "groups": groups })
}
