//! What was found, for people.

use std::collections::BTreeMap;
use std::io::Write;

use super::args::Demand;
use super::findings::{Findings, ForDemand, ForRoute, Found, OnRoute};
use crate::bench::report::console::Table;
use crate::bench::report::number;
use crate::commands::words::{millis, promise, short, whole};
use crate::measure::objective::{Latency, Objectives};
use crate::planner::{Capacity, Choice, Extent, Fitted, FleetPlan, Missed, PlanError, Point, cost_per_mtok};
use crate::route::price::Price;
use crate::units::Quantile;

/// A p95 of fewer answers than this is the largest of them, or nearly.
const ENOUGH: usize = 59;
/// Answers that are so much longer or shorter than was asked for are worth a word.
const OFF: f64 = 0.1;
/// A model of an engine that is off by more than this says nothing.
const UNFIT: f64 = 0.15;

pub(super) fn print(findings: &Findings, out: &mut dyn Write) -> anyhow::Result<()> {
    for found in &findings.backends {
        backend(found, findings, out)?;
    }
    engines(&findings.backends, out)?;
    capacities(findings, out)?;
    for route in &findings.routes {
        writeln!(out, "{}", sentence(route, &findings.backends))?;
    }
    if let Some(demand) = &findings.fleet {
        fleet(demand, &findings.backends, out)?;
    }
    for (name, why) in &findings.skipped {
        writeln!(out, "{name} was not measured: {why}")?;
    }
    for found in &findings.backends {
        if let Some(why) = &found.stopped {
            writeln!(out, "{} was not measured to the end: {why}", found.target.name())?;
        }
    }
    Ok(())
}

/// Every load of one backend.
fn backend(found: &Found, findings: &Findings, out: &mut dyn Write) -> anyhow::Result<()> {
    let profile = found.target.settings.profile.as_deref().map(|profile| format!(" ({profile})")).unwrap_or_default();
    let mut columns: Vec<String> = [
        "in / out", "at once", "TTFT p50", "p95", "ITL p50", "p95", "E2E p95", "req/s", "tokens/s", "/GPU", "per Mtok",
    ]
    .map(str::to_owned)
    .to_vec();
    let promises = promises(found, findings);
    columns.extend(promises.iter().map(|(name, _)| name.clone()));
    let mut table = Table::new(format!("{}{profile}, {}", found.target.name(), found.target.model), columns);
    for point in &found.points {
        let mut cells = row(found, point);
        cells.extend(promises.iter().map(|(_, objectives)| kept(point, objectives)));
        table.row(cells);
    }
    write!(out, "{}", table.render())?;
    for note in notes(found) {
        writeln!(out, "{note}")?;
    }
    Ok(writeln!(out)?)
}

/// What to know before believing the table.
fn notes(found: &Found) -> Vec<String> {
    let mut notes = Vec::new();
    let all = found.points.len();
    let few = found.points.iter().filter(|point| point.answers() < ENOUGH).count();
    if few > 0 {
        notes.push(format!(
            "{few} of {all} loads have fewer than {ENOUGH} answers that count: their p95 is a guess. More: --requests, \
             --point-time."
        ));
    }
    let mut errors: BTreeMap<&str, u64> = BTreeMap::new();
    for (class, count) in found.points.iter().flat_map(|point| &point.errors) {
        *errors.entry(class).or_default() += count;
    }
    if !errors.is_empty() {
        let each: Vec<String> = errors.iter().map(|(class, count)| format!("{count} × {class}")).collect();
        notes.push(format!("Requests failed: {}.", each.join(", ")));
    }
    let off = found.points.iter().find(|point| point.answers() > 0 && is_off(point));
    if let Some(point) = off {
        let (asked, got) = (point.shape.output_tokens, point.mean_output());
        notes.push(format!(
            "Its answers have {got:.0} tokens where {asked} were asked for: what is said of that length holds for {got:.0}."
        ));
    }
    let in_one_piece =
        |point: &Point| point.answers() > 0 && point.quantile(Latency::InterToken, Quantile::P50).is_none();
    if found.points.iter().any(in_one_piece) {
        notes.push("Its answers come in one piece: no ITL can be seen, and no promise of one is kept.".to_owned());
    }
    for shape in &found.too_long {
        let (input, output) = (shape.input_tokens, shape.output_tokens);
        notes.push(format!(
            "{input} / {output} was left out: with room for longer answers it is more than its context."
        ));
    }
    notes
}

fn is_off(point: &Point) -> bool {
    (point.mean_output() / f64::from(point.shape.output_tokens) - 1.0).abs() > OFF
}

/// The promises of the routes that it is on.
fn promises(found: &Found, findings: &Findings) -> Vec<(String, Objectives)> {
    let mut all: Vec<(String, Objectives)> = Vec::new();
    let on = findings.routes.iter().filter(|route| {
        let here = |one: &OnRoute| findings.backends.get(one.place).is_some_and(|other| std::ptr::eq(other, found));
        route.alternatives.iter().any(here) && !route.objectives.is_empty()
    });
    for route in on {
        if !all.iter().any(|(name, _)| **name == *route.name) {
            all.push((route.name.to_string(), route.objectives));
        }
    }
    all
}

fn row(found: &Found, point: &Point) -> Vec<String> {
    let time = |latency, quantile| point.quantile(latency, quantile).map_or_else(dash, |seconds| millis(seconds * 1e3));
    let per_gpu = found.target.gpus().map(|gpus| point.tokens_per_second() / f64::from(gpus.max(1)));
    let lengths = (point.mean_input(), point.mean_output());
    let cost = found.target.price().and_then(|price| cost_per_mtok(price, point.tokens_per_second(), lengths));
    vec![
        format!("{} / {}", point.shape.input_tokens, point.shape.output_tokens),
        point.concurrency.to_string(),
        time(Latency::TimeToFirstToken, Quantile::P50),
        time(Latency::TimeToFirstToken, Quantile::P95),
        time(Latency::InterToken, Quantile::P50),
        time(Latency::InterToken, Quantile::P95),
        time(Latency::EndToEnd, Quantile::P95),
        number(point.requests_per_second()),
        number(point.tokens_per_second()),
        per_gpu.map_or_else(dash, number),
        cost.map_or_else(dash, number),
    ]
}

/// Whether a promise is kept at a load, and which part of it is the nearest to being missed.
fn kept(point: &Point, objectives: &Objectives) -> String {
    match point.tightest(objectives) {
        _ if point.fails() => format!("failed {}", whole(point.failure_share())),
        None => dash(),
        Some((latency, ratio)) if ratio.is_infinite() => format!("missed, {}", latency.as_str()),
        Some((latency, ratio)) => {
            let verdict = if ratio <= 1.0 { "kept" } else { "missed" };
            format!("{verdict}, {} {}", latency.as_str(), whole(ratio))
        }
    }
}

fn dash() -> String {
    "–".to_owned()
}

/// The engines behind the backends.
fn engines(backends: &[Found], out: &mut dyn Write) -> anyhow::Result<()> {
    if backends.iter().all(|found| found.fit.is_none()) {
        return Ok(());
    }
    let columns = [
        "backend",
        "prompts, tokens/s",
        "step, ms",
        "+ per stream, µs",
        "+ per 1,000 cached, µs",
        "before, ms",
        "off by",
    ];
    let mut table = Table::new("The engine that fits (± standard error)", columns);
    for found in backends {
        let Some(fit) = &found.fit else { continue };
        table.row(vec![
            found.target.name().to_owned(),
            fit.prefill_rate().map_or_else(dash, |rate| fitted(rate, 1.0, 0)),
            fitted(fit.step, 1e3, 2),
            fitted(fit.per_stream, 1e6, 0),
            fitted(fit.per_cached_token, 1e9, 0),
            fitted(fit.overhead, 1e3, 1),
            format!("{:.1} %", fit.off_by * 100.0),
        ]);
    }
    write!(out, "{}", table.render())?;
    for found in backends.iter().filter(|found| found.fit.is_some_and(|fit| fit.off_by > UNFIT)) {
        writeln!(
            out,
            "{} is not like an engine that batches continuously: take its row for nothing.",
            found.target.name()
        )?;
    }
    Ok(writeln!(out)?)
}

fn fitted(one: Fitted, scale: f64, digits: usize) -> String {
    let value = one.value * scale;
    match one.error.filter(|_| one.told) {
        Some(error) => format!("{value:.digits$} ± {:.digits$}", error * scale),
        None if one.told => "none seen".to_owned(),
        None => "not told".to_owned(),
    }
}

/// The highest load of every promise at every backend.
fn capacities(findings: &Findings, out: &mut dyn Write) -> anyhow::Result<()> {
    if findings.routes.is_empty() {
        return Ok(());
    }
    let columns = ["route", "in / out", "backend", "at once", "req/s", "tokens/s", "/GPU", "per Mtok", "then"];
    let mut table = Table::new("The highest load at which a route's objectives hold", columns);
    for route in &findings.routes {
        for one in &route.alternatives {
            let Some(found) = findings.backends.get(one.place) else { continue };
            table.row(capacity(route, one, found));
        }
    }
    write!(out, "{}", table.render())?;
    Ok(writeln!(out)?)
}

fn capacity(route: &ForRoute, one: &OnRoute, found: &Found) -> Vec<String> {
    let name =
        if one.configured { found.target.name().to_owned() } else { format!("{} (not on it)", found.target.name()) };
    let mut cells =
        vec![route.name.to_string(), format!("{} / {}", route.shape.input_tokens, route.shape.output_tokens), name];
    match &one.capacity {
        Ok(capacity) => {
            let per_gpu = found.target.gpus().map(|gpus| capacity.tokens_per_second / f64::from(gpus.max(1)));
            cells.extend([
                at_once(capacity),
                number(capacity.requests_per_second),
                number(capacity.tokens_per_second),
                per_gpu.map_or_else(dash, number),
                one.cost.map_or_else(dash, number),
                match capacity.extent {
                    Extent::Until { breaks } => format!("{} is missed", breaks.as_str()),
                    Extent::Fails => "requests fail".to_owned(),
                    Extent::AtLeast => "not tried".to_owned(),
                },
            ]);
        }
        Err(missed) => {
            cells.extend(std::iter::repeat_n(dash(), 5));
            cells.push(why_none(missed));
        }
    }
    cells
}

fn why_none(missed: &Missed) -> String {
    match *missed {
        Missed::Objective { latency, ratio, .. } if ratio.is_infinite() => format!("no {}", latency.as_str()),
        Missed::Objective { latency, ratio, concurrency } => {
            format!("{} {} at {concurrency}", latency.as_str(), whole(ratio))
        }
        Missed::Failures { share, concurrency } => format!("{} fail at {concurrency}", whole(share)),
        Missed::Unmeasured => "not measured".to_owned(),
    }
}

fn at_once(capacity: &Capacity) -> String {
    let least = if capacity.extent == Extent::AtLeast { "≥ " } else { "" };
    format!("{least}{:.0}", capacity.concurrency)
}

/// Which backend a route should use, and why.
fn sentence(route: &ForRoute, backends: &[Found]) -> String {
    let name = |place: usize| {
        let found = route.alternative(place).and_then(|one| backends.get(one.place));
        found.map_or("", |found| found.target.name())
    };
    let cost = |place: usize| route.alternative(place).and_then(|one| one.cost).map(number).unwrap_or_default();
    let head = format!("{}, {} in, {} out: ", route.name, route.shape.input_tokens, route.shape.output_tokens);
    let promises = words(&route.objectives);
    let holds = |place: usize| {
        let capacity = route.alternative(place).and_then(|one| one.capacity.as_ref().ok());
        capacity.map(until).unwrap_or_default()
    };
    head + &match route.choice {
        Choice::Only { place } => format!("{}, the only one that keeps {promises}. {}", name(place), holds(place)),
        Choice::Cheapest { place, next } => format!(
            "{}, the cheapest that keeps {promises}: {} per million tokens, where {} costs {}. {}",
            name(place),
            cost(place),
            name(next),
            cost(next),
            holds(place)
        ),
        Choice::MostPerGpu { place } => format!(
            "{}, which gives the most per GPU of those that keep {promises}; not all have a price. {}",
            name(place),
            holds(place)
        ),
        Choice::Undecided => {
            format!("several keep {promises}; without `price` there is no saying which to prefer.")
        }
        Choice::None { nearest: Some(place) } => {
            format!("none keeps {promises}, not even at the lowest load; {} is the nearest.", name(place))
        }
        Choice::None { nearest: None } => format!("none keeps {promises}."),
    }
}

fn words(objectives: &Objectives) -> String {
    let each = objectives
        .iter()
        .map(|one| promise(one.latency.as_str(), one.quantile.share(), one.threshold.as_secs_f64() * 1e3));
    let all: Vec<String> = each.collect();
    if all.is_empty() { "it, for nothing is promised".to_owned() } else { all.join(" and ") }
}

fn until(capacity: &Capacity) -> String {
    let (clients, rate) = (capacity.concurrency, capacity.requests_per_second);
    match capacity.extent {
        Extent::Until { breaks } => {
            format!("It does up to {clients:.0} at once, {rate:.1} requests/s; beyond, {} is missed.", breaks.as_str())
        }
        Extent::Fails => format!("It does up to {clients:.0} at once, {rate:.1} requests/s; beyond, requests fail."),
        Extent::AtLeast => format!("It does at {clients:.0} at once, {rate:.1} requests/s; more was not tried."),
    }
}

/// How many of each, and which serves what.
fn fleet(demand: &ForDemand, backends: &[Found], out: &mut dyn Write) -> anyhow::Result<()> {
    let wanted: Vec<String> = demand.demands.iter().map(|one| rate_of(one, one.per_second)).collect();
    write!(out, "\nThe cheapest fleet for {}, ", wanted.join(", "))?;
    write!(out, "{} of every replica left free: ", whole(demand.headroom))?;
    match &demand.plan {
        Ok(plan) => planned(plan, demand, backends, out),
        Err(PlanError::Unserved(route)) => {
            let route = demand.demands.get(*route).map_or("", |one| &one.route);
            Ok(writeln!(out, "there is none; no backend that has a price keeps the objectives of {route}.")?)
        }
        Err(why @ PlanError::Unsolved(_)) => Ok(writeln!(out, "{why}.")?),
    }
}

fn rate_of(demand: &Demand, rate: f64) -> String {
    let lengths = demand.shape.map(|shape| format!(" of {}/{}", shape.input_tokens, shape.output_tokens));
    format!("{} {}/s{}", demand.route, short((rate * 100.0).round() / 100.0), lengths.unwrap_or_default())
}

fn planned(plan: &FleetPlan, demand: &ForDemand, backends: &[Found], out: &mut dyn Write) -> anyhow::Result<()> {
    writeln!(out, "{} per hour", number(plan.per_hour))?;
    for ((replicas, rates), places) in plan.replicas.iter().zip(&plan.rates).zip(&demand.groups) {
        let members: Vec<&Found> = places.iter().filter_map(|place| backends.get(*place)).collect();
        let (true, Some(first)) = (*replicas > 0, members.first()) else { continue };
        let names: Vec<&str> = members.iter().map(|found| found.target.name()).collect();
        let shares = rates.iter().zip(&demand.demands).filter(|(rate, _)| **rate > 0.0);
        let shares: Vec<String> = shares.map(|(rate, one)| rate_of(one, *rate)).collect();
        let by_token = matches!(first.target.price(), Some(Price::PerToken { .. }));
        let paid = if by_token { ", paid by the token" } else { "" };
        writeln!(out, "  {replicas} × {}{paid}: {}", names.join(" or "), shares.join(", "))?;
    }
    Ok(())
}
