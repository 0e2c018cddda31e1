//! The report as one page without anything from elsewhere: plots drawn inline, light and dark, tables beside them.

mod plots;

use std::fmt::Write;

use super::super::contender::Role;
use super::table::{offered, percent, signed, times};
use super::{Column, Comparison, Group, Report};
use crate::svg::{STYLE, escaped};

/// The report as a page.
#[must_use]
pub fn html(report: &Report) -> String {
    let mut out = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <title>headway simulate</title><style>\n{STYLE}</style></head><body><main>\n<h1>Routing policies, simulated</h1>\n"
    );
    for line in &report.about {
        let _ = writeln!(out, "<p class=\"soft\">{}</p>", escaped(line));
    }
    for group in &report.groups {
        section(&mut out, group);
    }
    out.push_str("</main></body></html>\n");
    out
}

fn section(out: &mut String, group: &Group) {
    let _ = writeln!(out, "<section><h2>{}</h2><p>{}</p>", escaped(&group.name), escaped(&group.about));
    let _ = writeln!(out, "<p class=\"soft\">{}</p>", escaped(&offered(group)));
    summary(out, group);
    heading(out, "Attainment of each route", "A request counts when it kept every promise of its route.");
    routes_key(out, group);
    figure(out, &plots::attainment(group));
    heading(out, "Goodput against cost", "Upper left is better: more good requests for less money.");
    figure(out, &plots::goodput_against_cost(group));
    for ours in group.columns.iter().filter(|column| column.contender.role() == Role::Ours) {
        let title = format!("{} against each", ours.contender.name);
        heading(out, &title, "One dot for each configuration; the tick and the figure at the right are the median.");
        figure(out, &plots::gains(group, ours));
    }
    comparisons(out, group);
    if let Some(bounds) = plots::bounds(group) {
        heading(out, "Predicted bounds", "A bound at p95 should be exceeded by 5 %; the band is 4 to 6 %.");
        figure(out, &bounds);
    }
    shares(out, group);
    out.push_str("</section>\n");
}

fn heading(out: &mut String, title: &str, about: &str) {
    let _ = writeln!(out, "<h3>{}</h3><p class=\"soft\">{}</p>", escaped(title), escaped(about));
}

fn figure(out: &mut String, svg: &str) {
    let _ = writeln!(out, "<figure class=\"wide\">{svg}</figure>");
}

fn key<'a>(out: &mut String, names: impl Iterator<Item = &'a str>) {
    out.push_str("<ul class=\"key\">");
    for (colour, name) in names.enumerate() {
        let _ = write!(out, "<li><i style=\"background:var(--c{})\"></i>{}</li>", colour % 10, escaped(name));
    }
    out.push_str("</ul>\n");
}

fn routes_key(out: &mut String, group: &Group) {
    let first = group.columns.first().and_then(|column| column.scores.first());
    let routes = first.map(|score| score.routes.as_slice()).unwrap_or_default();
    key(out, routes.iter().map(|route| route.name.as_ref()));
}

fn summary(out: &mut String, group: &Group) {
    out.push_str("<div class=\"wide\"><table><thead><tr><th scope=\"col\">policy</th>");
    let first = group.columns.first().map(Column::summary);
    let routes = first.as_ref().map(|summary| summary.routes.as_slice()).unwrap_or_default();
    for route in routes {
        let _ = write!(out, "<th scope=\"col\">{} kept</th>", escaped(&route.name));
    }
    for head in ["good/s", "of offered", "$/kgood", "runs kept", "shares move", "vary", "memory", "longest run"] {
        let _ = write!(out, "<th scope=\"col\">{head}</th>");
    }
    out.push_str("</tr></thead><tbody>\n");
    for column in &group.columns {
        let summary = column.summary();
        let class = plots::class(column.contender.role());
        let _ = write!(out, "<tr class=\"{class}\"><th scope=\"row\">{}</th>", escaped(&column.contender.name));
        for route in &summary.routes {
            let _ = write!(out, "<td>{}</td>", percent(route.attainment));
        }
        let _ = writeln!(
            out,
            "<td>{:.2}</td><td>{}</td><td>{:.3}</td><td>{}/{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
            summary.goodput,
            percent(summary.attainment),
            summary.cost_per_kgood,
            summary.all_reached,
            summary.runs,
            percent(summary.movement),
            times(summary.dispersion),
            times(summary.autocorrelation),
            times(summary.run_ratio)
        );
    }
    out.push_str("</tbody></table></div>\n");
}

fn comparisons(out: &mut String, group: &Group) {
    let rows: Vec<Comparison<'_>> = group.comparisons().collect();
    if rows.is_empty() {
        return;
    }
    heading(out, "Configuration by configuration", "Median, how often better, and the worst case.");
    out.push_str("<div class=\"wide\"><table><thead><tr><th scope=\"col\">policy</th>");
    for head in ["against", "good/s median", "higher", "worst", "$/kgood median", "lower", "both"] {
        let _ = write!(out, "<th scope=\"col\">{head}</th>");
    }
    out.push_str("</tr></thead><tbody>\n");
    for row in &rows {
        let paired = row.paired;
        let runs = paired.runs;
        let _ = writeln!(
            out,
            "<tr><th scope=\"row\">{}</th><td>{}</td><td>{}</td><td>{}/{runs}</td><td>{}</td><td>{}</td>\
             <td>{}/{runs}</td><td>{}/{runs}</td></tr>",
            escaped(row.one),
            escaped(row.other),
            signed(paired.goodput_median),
            paired.goodput_wins,
            signed(paired.goodput_worst),
            signed(paired.cost_median),
            paired.cost_wins,
            paired.both
        );
    }
    out.push_str("</tbody></table></div>\n");
}

/// The first configuration is shown for every policy: all saw the same requests.
fn shares(out: &mut String, group: &Group) {
    let Some(configuration) = group.configurations.first() else { return };
    let about = format!("{}: share of requests sent to each backend, in windows of 10 s.", configuration.name);
    heading(out, "Where requests went over time", &about);
    key(out, configuration.backends.iter().map(String::as_str));
    out.push_str("<div class=\"small\">");
    for column in &group.columns {
        let Some(score) = column.scores.first() else { continue };
        let name = escaped(&column.contender.name);
        let _ = write!(
            out,
            "<figure>{}<figcaption>{name}</figcaption></figure>",
            plots::shares(column, configuration, score)
        );
    }
    out.push_str("</div>\n");
}
