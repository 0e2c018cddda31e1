//! The plots. Whatever a plot shows stands in a table or in the JSON as well.

use super::super::super::contender::Role;
use super::super::super::score::{SHARE_WINDOW, Score, ratio};
use super::super::table::{percent, signed};
use super::super::{Column, Configuration, Group};
use crate::svg::{Scale, Svg};

const WIDTH: f64 = 860.0;
const ROW: f64 = 22.0;
/// Room for names on the left.
const NAMES: f64 = 310.0;
const RIGHT: f64 = 70.0;
const TOP: f64 = 30.0;

pub(super) fn class(role: Role) -> &'static str {
    match role {
        Role::Ours => "ours",
        Role::Ablation => "ablation",
        Role::Rival => "rival",
    }
}

/// Good requests per second against dollars per thousand of them.
pub(super) fn goodput_against_cost(group: &Group) -> String {
    let points: Vec<(&Column, f64, f64)> = group
        .columns
        .iter()
        .map(|column| (column, column.summary()))
        .map(|(column, summary)| (column, summary.goodput, summary.cost_per_kgood))
        .filter(|(_, goodput, cost)| goodput.is_finite() && cost.is_finite())
        .collect();
    let range = |of: fn(&(&Column, f64, f64)) -> f64| {
        let least = points.iter().map(of).fold(f64::INFINITY, f64::min);
        let most = points.iter().map(of).fold(0.0, f64::max);
        (least - 0.08 * (most - least), most + 0.08 * (most - least))
    };
    let height = 360.0;
    let across = Scale::new(range(|point| point.2), (60.0, WIDTH - 230.0));
    let up = Scale::new(range(|point| point.1), (height - 40.0, 15.0));
    let mut svg = Svg::new(WIDTH, height);
    for tick in across.ticks(6.0) {
        svg.line("axis", (across.at(tick), 15.0), (across.at(tick), height - 40.0));
        svg.text("soft", "middle", (across.at(tick), height - 24.0), &format!("{tick:.3}"));
    }
    for tick in up.ticks(6.0) {
        svg.line("axis", (60.0, up.at(tick)), (WIDTH - 230.0, up.at(tick)));
        svg.text("soft", "end", (54.0, up.at(tick) + 4.0), &format!("{tick:.1}"));
    }
    svg.text("soft", "middle", (f64::midpoint(60.0, WIDTH - 230.0), height - 6.0), "dollars per 1,000 good requests");
    svg.text("soft", "start", (4.0, 11.0), "good/s");
    let mut labels: Vec<(f64, f64)> = Vec::new();
    for (column, goodput, cost) in &points {
        let at = (across.at(*cost), up.at(*goodput));
        let name = &column.contender.name;
        svg.dot(class(column.contender.role()), at, 5.0, 1.0, &format!("{name}: {goodput:.2} good/s at {cost:.3}"));
        // A label that would lie on another goes below it.
        let mut label = (at.0 + 8.0, at.1 + 4.0);
        while labels.iter().any(|other| (other.1 - label.1).abs() < 12.0 && (other.0 - label.0).abs() < 160.0) {
            label.1 += 4.0;
        }
        labels.push(label);
        svg.text("", "start", label, name);
    }
    let about = "Upper left is better: more good requests for less money.";
    svg.done("Goodput against cost", about)
}

/// Share of requests that kept every promise, one row for each policy and route.
pub(super) fn attainment(group: &Group) -> String {
    let rows: Vec<_> = group.columns.iter().map(|column| (column, column.summary())).collect();
    let routes = rows.first().map_or(0, |(_, summary)| summary.routes.len());
    let least = rows.iter().flat_map(|(_, summary)| &summary.routes).map(|route| route.attainment);
    let least = (least.fold(0.95, f64::min) * 20.0).floor() / 20.0;
    let target = group.columns.first().and_then(|column| column.scores.first()?.routes.first());
    let target = target.map_or(0.95, |route| route.target);
    let count = f64::from(u32::try_from(rows.len()).unwrap_or(u32::MAX));
    let mut svg = Svg::new(WIDTH, TOP + ROW * count + 24.0);
    let across = Scale::new((least, 1.0), (NAMES, WIDTH - RIGHT));
    axis(&mut svg, &across, TOP, TOP + ROW * count, percent);
    svg.line("target", (across.at(target), TOP - 8.0), (across.at(target), TOP + ROW * count));
    svg.text("soft", "middle", (across.at(target), TOP - 12.0), "promised");
    for (place, (column, summary)) in (0_u32..).zip(&rows) {
        let y = TOP + ROW * (f64::from(place) + 0.5);
        svg.text("", "end", (NAMES - 10.0, y + 4.0), &column.contender.name);
        for (colour, route) in summary.routes.iter().enumerate() {
            let title = format!("{}, {}: {}", column.contender.name, route.name, percent(route.attainment));
            let x = across.at(route.attainment);
            svg.area(colour, &[(x - 4.0, y), (x, y - 5.0), (x + 4.0, y), (x, y + 5.0)], &title);
        }
    }
    let about = format!("{routes} routes for each policy; right of the dashed line the promise is kept.");
    svg.done("Attainment of each route", &about)
}

fn axis(svg: &mut Svg, across: &Scale, top: f64, bottom: f64, label: impl Fn(f64) -> String) {
    for tick in across.ticks(7.0) {
        svg.line("axis", (across.at(tick), top), (across.at(tick), bottom));
        svg.text("soft", "middle", (across.at(tick), bottom + 16.0), &label(tick));
    }
}

/// Gain in goodput over each rival, one dot for each configuration.
pub(super) fn gains(group: &Group, ours: &Column) -> String {
    let rivals: Vec<(&Column, Vec<f64>)> = group
        .columns
        .iter()
        .filter(|column| column.contender.name != ours.contender.name)
        .map(|rival| (rival, gains_over(ours, rival)))
        .collect();
    let all = || rivals.iter().flat_map(|(_, gains)| gains.iter().copied());
    let (least, most) = (all().fold(-0.02, f64::min).max(-0.6), all().fold(0.02, f64::max).min(1.0));
    let count = f64::from(u32::try_from(rivals.len()).unwrap_or(u32::MAX));
    let mut svg = Svg::new(WIDTH, TOP + ROW * count + 24.0);
    let across = Scale::new((least, most), (NAMES, WIDTH - RIGHT));
    axis(&mut svg, &across, TOP, TOP + ROW * count, signed);
    svg.line("target", (across.at(0.0), TOP - 8.0), (across.at(0.0), TOP + ROW * count));
    svg.text("soft", "middle", (across.at(0.0), TOP - 12.0), "equal");
    for (place, (rival, gains)) in (0_u32..).zip(&rivals) {
        let y = TOP + ROW * (f64::from(place) + 0.5);
        svg.text("", "end", (NAMES - 10.0, y + 4.0), &format!("over {}", rival.contender.name));
        for (gain, configuration) in gains.iter().zip(&group.configurations) {
            let title = format!("{}: {}", configuration.name, signed(*gain));
            svg.dot(class(rival.contender.role()), (across.at(*gain), y), 3.5, 0.5, &title);
        }
        if let Some(comparison) = ours.against(rival) {
            let median = comparison.paired.goodput_median;
            svg.line("median", (across.at(median), y - 8.0), (across.at(median), y + 8.0));
            svg.text("", "start", (WIDTH - RIGHT + 8.0, y + 4.0), &signed(median));
        }
    }
    let title = format!("Goodput of {} over each other policy", ours.contender.name);
    svg.done(&title, "One dot for each configuration; the tick and the figure at the right are the median.")
}

fn gains_over(ours: &Column, rival: &Column) -> Vec<f64> {
    let pairs = ours.scores.iter().zip(&rival.scores);
    pairs.map(|(one, other)| super::super::super::summary::gain(one.goodput(), other.goodput())).collect()
}

/// Share of requests that exceeded the bound that was predicted for them.
pub(super) fn bounds(group: &Group) -> Option<String> {
    let mut rows = Vec::new();
    for column in &group.columns {
        for route in &column.summary().routes {
            for (latency, coverage) in ["TTFT", "ITL", "E2E"].iter().zip(route.coverage) {
                let name = format!("{} {} {latency}", column.contender.name, route.name);
                rows.extend(coverage.miss().map(|miss| (column, name, miss)));
            }
        }
    }
    if rows.is_empty() {
        return None;
    }
    let most = rows.iter().map(|(_, _, miss)| *miss).fold(0.12, f64::max);
    let count = f64::from(u32::try_from(rows.len()).unwrap_or(u32::MAX));
    let names = NAMES + 70.0;
    let mut svg = Svg::new(WIDTH, TOP + ROW * count + 24.0);
    let across = Scale::new((0.0, most), (names, WIDTH - RIGHT));
    svg.bar("band", (across.at(0.04), TOP), (across.at(0.06), TOP + ROW * count), "4 to 6 %");
    axis(&mut svg, &across, TOP, TOP + ROW * count, percent);
    for (place, (column, name, miss)) in (0_u32..).zip(&rows) {
        let y = TOP + ROW * (f64::from(place) + 0.5);
        svg.text("", "end", (names - 10.0, y + 4.0), name);
        svg.bar(class(column.contender.role()), (names, y - 5.0), (across.at(*miss), y + 5.0), &percent(*miss));
        svg.text("", "start", (WIDTH - RIGHT + 8.0, y + 4.0), &percent(*miss));
    }
    let about = "A bound at p95 should be exceeded by 5 % of the requests; the band is 4 to 6 %.";
    Some(svg.done("How often predicted bounds were exceeded", about))
}

/// Where requests went over time, as a share of each window.
pub(super) fn shares(column: &Column, configuration: &Configuration, score: &Score) -> String {
    let (width, height) = (360.0, 130.0);
    let mut svg = Svg::new(width, height);
    let windows = u32::try_from(score.shares.len()).unwrap_or(u32::MAX);
    let across = Scale::new((0.0, f64::from(windows)), (6.0, width - 6.0));
    let up = Scale::new((0.0, 1.0), (height - 20.0, 6.0));
    let mut floor = vec![0.0; score.shares.len()];
    for (colour, backend) in configuration.backends.iter().enumerate() {
        let mut ceiling = floor.clone();
        for (level, counts) in ceiling.iter_mut().zip(&score.shares) {
            let all: u32 = counts.iter().sum();
            *level += ratio(counts.get(colour).copied().unwrap_or_default().into(), all.max(1).into());
        }
        let point = |(window, level): (u32, &f64)| (across.at(f64::from(window) + 0.5), up.at(*level));
        let mut outline: Vec<_> = (0..).zip(&ceiling).map(point).collect();
        outline.extend((0..windows).zip(&floor).map(point).rev());
        svg.area(colour, &outline, backend);
        floor = ceiling;
    }
    let minutes = f64::from(windows) * SHARE_WINDOW.as_secs_f64() / 60.0;
    svg.text("soft", "start", (6.0, height - 5.0), "0");
    svg.text("soft", "end", (width - 6.0, height - 5.0), &format!("{minutes:.0} min"));
    let title = format!("{}: share of requests per backend", column.contender.name);
    svg.done(
        &title,
        &format!("Stacked shares in windows of 10 s; they move by {} on average.", percent(score.movement())),
    )
}
