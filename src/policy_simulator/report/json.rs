//! For machines: everything, unrounded.

use serde_json::{Value, json};

use super::super::score::{Coverage, Quantiles, RouteScore, SHARE_WINDOW, Score};
use super::super::summary::{RouteSummary, Summary};
use super::{Column, Comparison, Configuration, Group, Report};

/// The report as one JSON object. Latencies are in seconds; what is infinite or undefined is `null`.
#[must_use]
pub fn json(report: &Report) -> Value {
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "about": report.about,
        "groups": report.groups.iter().map(group).collect::<Vec<_>>(),
    })
}

fn group(group: &Group) -> Value {
    json!({
        "name": group.name,
        "about": group.about,
        "configurations": group.configurations.iter().map(configuration).collect::<Vec<_>>(),
        "policies": group.columns.iter().map(column).collect::<Vec<_>>(),
        "paired": group.comparisons().map(|one| comparison(&one)).collect::<Vec<_>>(),
    })
}

fn configuration(configuration: &Configuration) -> Value {
    json!({
        "name": configuration.name,
        "offered_per_s": configuration.offered,
        "backends": configuration.backends,
    })
}

fn column(column: &Column) -> Value {
    json!({
        "policy": column.contender.name,
        "summary": summary(&column.summary()),
        "runs": column.scores.iter().map(score).collect::<Vec<_>>(),
    })
}

fn summary(summary: &Summary) -> Value {
    json!({
        "runs": summary.runs,
        "good_per_s": summary.goodput,
        "attainment": summary.attainment,
        "cost_per_kgood": finite(summary.cost_per_kgood),
        "runs_kept": summary.all_reached,
        "movement": summary.movement,
        "dispersion": summary.dispersion,
        "autocorrelation": summary.autocorrelation,
        "run_ratio": summary.run_ratio,
        "routes": summary.routes.iter().map(route_summary).collect::<Vec<_>>(),
    })
}

fn route_summary(route: &RouteSummary) -> Value {
    let [ttft, itl, e2e] =
        [route.ttft, route.itl, route.e2e].map(|[p50, p95, p99]| json!({ "p50": p50, "p95": p95, "p99": p99 }));
    json!({
        "route": route.name.as_ref(),
        "attainment": route.attainment,
        "runs_kept": route.reached,
        "shed": route.shed,
        "ttft_s": ttft,
        "itl_s": itl,
        "e2e_s": e2e,
        "bounds": bounds(&route.coverage),
    })
}

fn score(score: &Score) -> Value {
    json!({
        "good_per_s": score.goodput(),
        "arrived": score.arrived(),
        "good": score.good(),
        "cost": score.cost,
        "cost_per_kgood": finite(score.cost_per_kgood()),
        "kept": score.all_reached(),
        "movement": score.movement(),
        "dispersion": score.restlessness.dispersion,
        "autocorrelation": score.restlessness.autocorrelation,
        "longest_run": score.restlessness.longest_run,
        "longest_run_of_draws": score.restlessness.expected_run,
        "routes": score.routes.iter().map(route).collect::<Vec<_>>(),
        "decisions": score.reasons,
        "sent": { "window_s": SHARE_WINDOW.as_secs(), "per_backend": score.shares },
    })
}

fn route(route: &RouteScore) -> Value {
    json!({
        "route": route.name.as_ref(),
        "target": route.target,
        "arrived": route.arrived,
        "good": route.good,
        "shed": route.shed,
        "lost": route.lost,
        "attainment": route.attainment(),
        "ttft_s": quantiles(&route.ttft),
        "itl_s": quantiles(&route.itl),
        "e2e_s": quantiles(&route.e2e),
        "bounds": bounds(&route.coverage),
        "minutes_kept": [route.windows.0, route.windows.1],
        "minute_after_incident": [route.aftermath.0, route.aftermath.1],
    })
}

fn quantiles(quantiles: &Quantiles) -> Value {
    let each = |value: Option<f64>| value.and_then(finite);
    json!({ "p50": each(quantiles.p50), "p95": each(quantiles.p95), "p99": each(quantiles.p99) })
}

fn bounds([ttft, itl, e2e]: &[Coverage; 3]) -> Value {
    let one = |coverage: &Coverage| json!({ "predicted": coverage.predicted, "exceeded": coverage.exceeded, "share": coverage.miss() });
    json!({ "ttft": one(ttft), "itl": one(itl), "e2e": one(e2e) })
}

fn comparison(comparison: &Comparison<'_>) -> Value {
    let paired = comparison.paired;
    json!({
        "policy": comparison.one,
        "against": comparison.other,
        "runs": paired.runs,
        "good_per_s": {
            "median": finite(paired.goodput_median),
            "higher": paired.goodput_wins,
            "worst": finite(paired.goodput_worst),
        },
        "cost_per_kgood": { "median": finite(paired.cost_median), "lower": paired.cost_wins },
        "both": paired.both,
    })
}

fn finite(value: f64) -> Option<f64> {
    Some(value).filter(|value| value.is_finite())
}
