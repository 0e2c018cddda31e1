//! For people at a terminal.

use std::fmt::Write;

use super::super::score::Coverage;
use super::super::summary::RouteSummary;
use super::{Group, Report};

/// What the columns mean.
const LEGEND: [&str; 5] = [
    "runs kept: every route kept its share. moves: how much the backends' shares change between windows of 10 s.",
    "varies: how much shares vary between seconds, where independent draws have 1. memory: of a share from one second to",
    "the next, where they have 0; a herd swings and is below. run: the longest run to one backend, where they have 1.",
    "bounds missed: of requests sent where every promise was expected to be kept, those slower than the bound predicted",
    "for them; a bound at p95 should be missed by 5 %.",
];

/// The report as text; lines stay within about 120 columns.
#[must_use]
pub fn table(report: &Report) -> String {
    let mut out = String::new();
    for line in &report.about {
        let _ = writeln!(out, "{line}");
    }
    for line in LEGEND {
        let _ = writeln!(out, "{line}");
    }
    for group in &report.groups {
        let _ = writeln!(out, "\n{}: {}", group.name, group.about);
        let _ = writeln!(out, "{}\n", offered(group));
        for lines in [attainment(group), latency(group), decisions(group), paired(group)] {
            if !lines.is_empty() {
                let _ = writeln!(out, "{}", aligned(&lines));
            }
        }
    }
    out
}

/// How much came, in words.
pub(super) fn offered(group: &Group) -> String {
    let mut rates: Vec<f64> = group.configurations.iter().map(|one| one.offered).collect();
    rates.sort_unstable_by(f64::total_cmp);
    let (least, most) = (rates.first().copied().unwrap_or_default(), rates.last().copied().unwrap_or_default());
    match rates.len() {
        1 => format!("1 run, {least:.1} requests per second"),
        runs => format!("{runs} runs, {least:.1} to {most:.1} requests per second"),
    }
}

type Lines = Vec<Vec<String>>;

fn attainment(group: &Group) -> Lines {
    let mut lines = vec![vec!["policy".to_owned()]];
    for (place, column) in group.columns.iter().enumerate() {
        let summary = column.summary();
        if let (0, Some(head)) = (place, lines.first_mut()) {
            head.extend(summary.routes.iter().map(|route| format!("{} kept", route.name)));
            head.extend(
                ["good/s", "of offered", "$/kgood", "shed", "runs kept", "moves", "varies", "memory", "run"]
                    .map(str::to_owned),
            );
        }
        let mut line = vec![column.contender.name.clone()];
        line.extend(summary.routes.iter().map(|route| percent(route.attainment)));
        let arrived: u64 = column.scores.iter().map(super::Score::arrived).sum();
        let shed: u64 = column.scores.iter().flat_map(|score| &score.routes).map(|route| route.shed).sum();
        line.push(format!("{:.2}", summary.goodput));
        line.push(percent(summary.attainment));
        line.push(format!("{:.3}", summary.cost_per_kgood));
        line.push(percent(super::super::score::ratio(shed, arrived.max(1))));
        line.push(format!("{}/{}", summary.all_reached, summary.runs));
        line.push(percent(summary.movement));
        line.extend([summary.dispersion, summary.autocorrelation, summary.run_ratio].map(times));
        lines.push(line);
    }
    lines
}

fn latency(group: &Group) -> Lines {
    let head = [
        "policy",
        "route",
        "TTFT p50",
        "p95",
        "p99 s",
        "ITL p50",
        "p95",
        "p99 ms",
        "bounds missed: TTFT",
        "ITL",
        "E2E",
    ];
    let mut lines = vec![head.map(str::to_owned).to_vec()];
    for column in &group.columns {
        for route in &column.summary().routes {
            lines.push(latency_of(&column.contender.name, route));
        }
    }
    lines
}

fn latency_of(policy: &str, route: &RouteSummary) -> Vec<String> {
    let mut line = vec![policy.to_owned(), route.name.to_string()];
    line.extend(route.ttft.map(|value| value.map_or("-".to_owned(), |value| format!("{value:.2}"))));
    line.extend(route.itl.map(|value| value.map_or("-".to_owned(), |value| format!("{:.1}", value * 1e3))));
    line.extend(route.coverage.map(|coverage: Coverage| coverage.miss().map_or("-".to_owned(), percent)));
    line
}

/// Why requests went where they went, where there is more than one reason.
fn decisions(group: &Group) -> Lines {
    let mut lines = Lines::new();
    for column in &group.columns {
        let mut counts: std::collections::BTreeMap<&str, u64> = std::collections::BTreeMap::new();
        for (reason, count) in column.scores.iter().flat_map(|score| &score.reasons) {
            *counts.entry(reason).or_default() += count;
        }
        if counts.len() > 1 {
            let all: u64 = counts.values().sum();
            let share = |(reason, count): (&&str, &u64)| {
                format!("{reason} {}", percent(super::super::score::ratio(*count, all)))
            };
            let reasons: Vec<String> = counts.iter().map(share).collect();
            lines.push(vec![column.contender.name.clone(), format!("  {}", reasons.join(", "))]);
        }
    }
    if !lines.is_empty() {
        lines.insert(0, vec!["decisions".to_owned()]);
    }
    lines
}

fn paired(group: &Group) -> Lines {
    let mut lines = Lines::new();
    for comparison in group.comparisons() {
        if lines.is_empty() {
            let head =
                ["per configuration", "against", "good/s median", "higher", "worst", "$/kgood median", "lower", "both"];
            lines.push(head.map(str::to_owned).to_vec());
        }
        let paired = comparison.paired;
        let of = |count: usize| format!("{count}/{}", paired.runs);
        lines.push(vec![
            comparison.one.to_owned(),
            comparison.other.to_owned(),
            signed(paired.goodput_median),
            of(paired.goodput_wins),
            signed(paired.goodput_worst),
            signed(paired.cost_median),
            of(paired.cost_wins),
            of(paired.both),
        ]);
    }
    lines
}

/// `90.3 %`
pub(super) fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

/// `1.25`
pub(super) fn times(factor: Option<f64>) -> String {
    factor.map_or_else(|| "-".to_owned(), |factor| format!("{factor:.2}"))
}

/// `+3.9 %`
pub(super) fn signed(gain: f64) -> String {
    // Adding nothing makes a negative nought positive.
    format!("{:+.1} %", (gain * 1000.0).round() / 10.0 + 0.0)
}

/// Columns two spaces apart; names to the left, figures to the right.
fn aligned(lines: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = Vec::new();
    for line in lines.iter().filter(|line| line.len() > 2) {
        widths.resize(widths.len().max(line.len()), 0);
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let named = lines.get(1).map_or(0, |line| line.iter().take_while(|cell| !is_figure(cell)).count());
    let mut out = String::new();
    for line in lines {
        let mut text = String::new();
        for (place, cell) in line.iter().enumerate() {
            let width = widths.get(place).copied().unwrap_or_default();
            let gap = if place == 0 { "" } else { "  " };
            let _ =
                if place < named { write!(text, "{gap}{cell:<width$}") } else { write!(text, "{gap}{cell:>width$}") };
        }
        let _ = writeln!(out, "{}", text.trim_end());
    }
    out
}

fn is_figure(cell: &str) -> bool {
    cell.starts_with(|first: char| first.is_ascii_digit() || "+-.".contains(first))
}
