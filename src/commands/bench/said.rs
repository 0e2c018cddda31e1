//! What a run says at its end: the table of each case, the comparison of all, where the files are.

use std::io::{self, Write};
use std::time::Duration;

use anyhow::bail;

use super::args::BenchArgs;
use super::plan::Plan;
use super::sink::create;
use crate::bench::report::console::{Table, error_lines, metrics_table};
use crate::bench::report::html::{COLUMNS, Case, Page, html};
use crate::bench::report::{Report, number};

/// A lateness that is worth a word.
const LATE: Duration = Duration::from_millis(50);

pub(super) fn all(args: &BenchArgs, plan: &Plan, cases: &[Case], interrupted: bool) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    if interrupted {
        writeln!(out, "interrupted: what is under way is not counted")?;
    }
    if cases.iter().all(|case| case.report.valid() == 0 && case.report.error_count() == 0) {
        bail!("no request was answered");
    }
    for case in cases {
        let title = "headway bench | LLM Metrics";
        let title = if case.name.is_empty() || !plan.compares() {
            title.to_owned()
        } else {
            format!("{title} | {}", case.name)
        };
        one(args, &title, &case.report, &mut out)?;
    }
    if plan.compares() {
        write!(out, "{}", comparison(cases).render())?;
    }
    let page = args.artifact_dir.join("report.html");
    create(&page)?.write_all(html(&Page { about: about(args, plan), load: plan.load_name(), cases }).as_bytes())?;
    match (plan.points.first(), plan.compares()) {
        (Some(point), false) => writeln!(out, "Files: {}", plan.folder(args, 0, point).display())?,
        _ => writeln!(out, "Files: {}", args.artifact_dir.display())?,
    }
    writeln!(out, "Plots: {}", page.display())?;
    Ok(())
}

fn one(args: &BenchArgs, title: &str, report: &Report, out: &mut dyn Write) -> anyhow::Result<()> {
    write!(out, "{}", metrics_table(title, report).render())?;
    if report.error_count() > 0 {
        write!(out, "Errors:\n{}", error_lines(report))?;
    }
    if let (Some(good), Some(fraction)) = (report.good(), report.good_fraction()) {
        writeln!(out, "Good requests: {good} ({:.1} % of all, failed ones included)", fraction * 100.0)?;
    }
    if report.longest_lag() > LATE {
        let lag = report.longest_lag().as_secs_f64() * 1e3;
        writeln!(
            out,
            "Requests were sent up to {lag:.0} ms late, which their latencies include: this machine is the bottleneck."
        )?;
    }
    if args.verbose {
        let gaps = report.gaps();
        let (p50, p99) = (gaps.quantile(crate::units::Quantile::P50), gaps.quantile(crate::units::Quantile::P99));
        if let (Some(p50), Some(p99)) = (p50, p99) {
            let ms = |time: Duration| time.as_secs_f64() * 1e3;
            let (count, p50, p99) = (gaps.count(), ms(p50), ms(p99));
            writeln!(out, "Gaps between content responses: {count}, p50 {p50:.2} ms, p99 {p99:.2} ms")?;
        }
    }
    Ok(())
}

/// All cases side by side.
fn comparison(cases: &[Case]) -> Table {
    let shown: Vec<_> = COLUMNS.iter().filter(|(_, of)| cases.iter().any(|case| of(case).is_some())).collect();
    let heads = shown.iter().map(|(head, _)| (*head).to_owned());
    let mut table = Table::new("headway bench | side by side", std::iter::once("case".to_owned()).chain(heads));
    for case in cases {
        let cells = shown.iter().map(|(_, of)| of(case).map_or_else(|| "–".to_owned(), number));
        table.row(std::iter::once(case.name.clone()).chain(cells));
    }
    table
}

/// How it was measured, for the page.
fn about(args: &BenchArgs, plan: &Plan) -> Vec<String> {
    let kind = if args.streaming { "streamed" } else { "whole" };
    let mut about = vec![format!(
        "{}, {} API, {kind} answers, from {}.",
        args.model,
        args.endpoint_type.as_str(),
        plan.servers.join(" and ")
    )];
    if plan.servers.len() > 1 {
        about.push(format!("The servers took {} turns each, there and back again.", plan.rounds));
    }
    about.push("Percentiles are exact; in an open loop latencies count from when a request was to be sent.".to_owned());
    about
}
