//! For spreadsheets: one line for each configuration, policy and route, and one for all its routes together.

use std::fmt::Write;

use super::super::score::{Quantiles, RouteScore, Score};
use super::Report;

const HEAD: &str = "group,configuration,policy,route,offered_per_s,arrived,good,shed,lost,attainment,target,kept,\
good_per_s,cost_per_kgood,ttft_p50_s,ttft_p95_s,ttft_p99_s,itl_p50_s,itl_p95_s,itl_p99_s,e2e_p50_s,e2e_p95_s,e2e_p99_s,\
ttft_predicted,ttft_exceeded,itl_predicted,itl_exceeded,e2e_predicted,e2e_exceeded";

/// The report as CSV. Cells are empty where nothing is defined; the route `*` is all routes together.
#[must_use]
pub fn csv(report: &Report) -> String {
    let mut out = format!("{HEAD}\n");
    for group in &report.groups {
        for column in &group.columns {
            for (configuration, score) in group.configurations.iter().zip(&column.scores) {
                let names = [&group.name, &configuration.name, &column.contender.name].map(|name| quoted(name));
                let start = names.join(",");
                all_routes(&mut out, &start, configuration.offered, score);
                for route in &score.routes {
                    one_route(&mut out, &start, configuration.offered, score, route);
                }
            }
        }
    }
    out
}

fn all_routes(out: &mut String, start: &str, offered: f64, score: &Score) {
    let sum = |of: fn(&RouteScore) -> u64| score.routes.iter().map(of).sum::<u64>();
    let (shed, lost) = (sum(|route| route.shed), sum(|route| route.lost));
    let attainment = super::super::score::ratio(score.good(), score.arrived().max(1));
    let _ = writeln!(
        out,
        "{start},*,{offered},{},{},{shed},{lost},{attainment},,{},{},{},,,,,,,,,,,,,,,",
        score.arrived(),
        score.good(),
        score.all_reached(),
        score.goodput(),
        number(Some(score.cost_per_kgood())),
    );
}

fn one_route(out: &mut String, start: &str, offered: f64, score: &Score, route: &RouteScore) {
    let quantiles = |of: &Quantiles| [of.p50, of.p95, of.p99].map(number).join(",");
    let bounds = route.coverage.map(|coverage| format!("{},{}", coverage.predicted, coverage.exceeded)).join(",");
    #[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
    let goodput = route.good as f64 / score.duration;
    let _ = writeln!(
        out,
        "{start},{},{offered},{},{},{},{},{},{},{},{goodput},,{},{},{},{bounds}",
        quoted(&route.name),
        route.arrived,
        route.good,
        route.shed,
        route.lost,
        route.attainment(),
        route.target,
        route.reached(),
        quantiles(&route.ttft),
        quantiles(&route.itl),
        quantiles(&route.e2e),
    );
}

fn number(value: Option<f64>) -> String {
    value.filter(|value| value.is_finite()).map_or_else(String::new, |value| value.to_string())
}

/// Quoted where it must be (RFC 4180).
fn quoted(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text.to_owned() }
}
