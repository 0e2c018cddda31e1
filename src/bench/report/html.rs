//! The report as one page without anything from elsewhere: a table of all cases, distributions, and how latency grows
//! with load. Whatever a plot shows stands in the table or in the files.

use std::fmt::Write;

use super::{CURVE_POINTS, Report, number};
use crate::bench::record::Metric;
use crate::svg::{STYLE, Scale, Svg, escaped};

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 320.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 18.0;
const BOTTOM: f64 = 46.0;
/// Distributions drawn into one plot; more lines cannot be told apart.
const MOST_LINES: usize = 10;

/// One point of a sweep at one server.
#[derive(Debug, Clone)]
pub struct Case {
    /// What it is called: server, load, lengths.
    pub name: String,
    /// Which line of a plot over load it belongs to.
    pub series: String,
    /// Requests under way, or per second.
    pub load: f64,
    /// GPUs behind the server, where that is known.
    pub gpus: Option<u32>,
    /// What it measured.
    pub report: Report,
}

/// A run of one or more cases.
#[derive(Debug, Clone)]
pub struct Page<'a> {
    /// Paragraphs that say how it was measured.
    pub about: Vec<String>,
    /// What the load is called.
    pub load: &'static str,
    /// The cases, in the order in which they were asked for.
    pub cases: &'a [Case],
}

/// The page.
#[must_use]
pub fn html(page: &Page<'_>) -> String {
    let mut out = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <title>headway bench</title><style>\n{STYLE}</style></head><body><main>\n<h1>headway bench</h1>\n"
    );
    for line in &page.about {
        let _ = writeln!(out, "<p class=\"soft\">{}</p>", escaped(line));
    }
    table(&mut out, page);
    for metric in [Metric::TimeToFirstToken, Metric::InterTokenLatency, Metric::RequestLatency] {
        distribution(&mut out, page, metric);
    }
    let sweeps = page.cases.iter().any(|case| series(page, &case.series).len() > 1);
    if sweeps {
        for metric in [Metric::TimeToFirstToken, Metric::InterTokenLatency] {
            against_load(&mut out, page, metric);
        }
        throughput_against_latency(&mut out, page);
    }
    out.push_str("</main></body></html>\n");
    out
}

/// The columns of the table of cases: head, and what stands below it.
type Column = (&'static str, fn(&Case) -> Option<f64>);

/// What of each case is worth comparing, for the page and for the terminal.
pub const COLUMNS: [Column; 10] = [
    ("TTFT p50 ms", |case| case.report.summary(Metric::TimeToFirstToken)?.p(50)),
    ("TTFT p95 ms", |case| case.report.summary(Metric::TimeToFirstToken)?.p(95)),
    ("ITL p50 ms", |case| case.report.summary(Metric::InterTokenLatency)?.p(50)),
    ("ITL p95 ms", |case| case.report.summary(Metric::InterTokenLatency)?.p(95)),
    ("latency p95 ms", |case| case.report.summary(Metric::RequestLatency)?.p(95)),
    ("tokens/s", |case| Some(case.report.output_token_throughput())),
    ("tokens/s/GPU", |case| Some(case.report.output_token_throughput() / f64::from(case.gpus?))),
    ("requests/s", |case| Some(case.report.request_throughput())),
    ("good/s", |case| case.report.goodput()),
    ("errors", |case| Some(count(case.report.error_count()))),
];

#[allow(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
fn count(number: u64) -> f64 {
    number as f64
}

fn table(out: &mut String, page: &Page<'_>) {
    let shown: Vec<&Column> =
        COLUMNS.iter().filter(|(_, of)| page.cases.iter().any(|case| of(case).is_some())).collect();
    out.push_str("<div class=\"wide\"><table><thead><tr><th scope=\"col\">case</th>");
    for (head, _) in &shown {
        let _ = write!(out, "<th scope=\"col\">{head}</th>");
    }
    out.push_str("</tr></thead><tbody>\n");
    for case in page.cases {
        let _ = write!(out, "<tr><th scope=\"row\">{}</th>", escaped(&case.name));
        for (_, of) in &shown {
            let _ = write!(out, "<td>{}</td>", of(case).map_or_else(|| "–".to_owned(), number));
        }
        out.push_str("</tr>\n");
    }
    out.push_str("</tbody></table></div>\n");
}

fn heading(out: &mut String, title: &str, about: &str) {
    let _ = writeln!(out, "<h3>{}</h3><p class=\"soft\">{}</p>", escaped(title), escaped(about));
}

fn key<'a>(out: &mut String, names: impl Iterator<Item = &'a str>) {
    out.push_str("<ul class=\"key\">");
    for (colour, name) in names.enumerate() {
        let _ = write!(out, "<li><i style=\"background:var(--c{})\"></i>{}</li>", colour % 10, escaped(name));
    }
    out.push_str("</ul>\n");
}

/// The share of requests at or below each value, a line for each case.
fn distribution(out: &mut String, page: &Page<'_>, metric: Metric) {
    let drawn: Vec<&Case> =
        page.cases.iter().filter(|case| !case.report.curve(metric).is_empty()).take(MOST_LINES).collect();
    if drawn.is_empty() {
        return;
    }
    let title = format!("{} ({})", metric.title(), metric.unit());
    heading(out, &title, "The share of requests at or below each value.");
    key(out, drawn.iter().map(|case| case.name.as_str()));
    let most = drawn.iter().filter_map(|case| case.report.curve(metric).last()).copied().fold(0.0, f64::max);
    let mut plot = Plot::new((0.0, most), (0.0, 1.0));
    plot.axes(metric.unit(), "share of requests");
    for (colour, case) in drawn.iter().enumerate() {
        let points: Vec<(f64, f64)> =
            case.report.curve(metric).iter().zip(0_u32..).map(|(value, rank)| (*value, share(rank))).collect();
        plot.line(colour, false, &points, &case.name);
    }
    plot.done(out, &title, "Cumulative distribution; a steep line is a steady server.");
}

#[allow(clippy::cast_precision_loss, reason = "few points")]
fn share(rank: u32) -> f64 {
    f64::from(rank) / (CURVE_POINTS - 1) as f64
}

/// The names of the lines over load, in order of appearance.
fn lines<'a>(page: &Page<'a>) -> Vec<&'a str> {
    let mut names: Vec<&str> = Vec::new();
    for case in page.cases {
        if !names.contains(&case.series.as_str()) {
            names.push(&case.series);
        }
    }
    names
}

/// The cases of one line, by load.
fn series<'a>(page: &Page<'a>, name: &str) -> Vec<&'a Case> {
    let mut cases: Vec<&Case> = page.cases.iter().filter(|case| case.series == name).collect();
    cases.sort_by(|one, other| one.load.total_cmp(&other.load));
    cases
}

fn against_load(out: &mut String, page: &Page<'_>, metric: Metric) {
    let of = |percent: u8| move |case: &&Case| Some((case.load, case.report.summary(metric)?.p(percent)?));
    let all: Vec<(f64, f64)> = page.cases.iter().collect::<Vec<_>>().iter().filter_map(of(95)).collect();
    if all.is_empty() {
        return;
    }
    let title = format!("{} against load", metric.title());
    heading(out, &title, "Whole lines are p95, dashed ones the median.");
    let names = lines(page);
    key(out, names.iter().copied());
    let mut plot = Plot::around(&all);
    plot.axes(page.load, metric.unit());
    for (colour, name) in names.iter().enumerate() {
        let cases = series(page, name);
        for (percent, dashed) in [(50, true), (95, false)] {
            let points: Vec<_> = cases.iter().filter_map(of(percent)).collect();
            plot.line(colour, dashed, &points, name);
        }
        for case in &cases {
            if let Some(point) = of(95)(case) {
                plot.mark(colour, point, &format!("{}: p95 {} {}", case.name, number(point.1), metric.unit()));
            }
        }
    }
    plot.done(out, &title, "One mark for each case.");
}

fn throughput_against_latency(out: &mut String, page: &Page<'_>) {
    let of = |case: &&Case| {
        Some((case.report.summary(Metric::RequestLatency)?.p(95)?, case.report.output_token_throughput()))
    };
    let all: Vec<(f64, f64)> = page.cases.iter().collect::<Vec<_>>().iter().filter_map(of).collect();
    if all.is_empty() {
        return;
    }
    heading(
        out,
        "Throughput against latency",
        "Upper left is better; where a line turns right, load only makes requests wait.",
    );
    let names = lines(page);
    key(out, names.iter().copied());
    let mut plot = Plot::around(&all);
    plot.axes("request latency p95, ms", "output tokens per second");
    for (colour, name) in names.iter().enumerate() {
        let cases = series(page, name);
        let points: Vec<_> = cases.iter().filter_map(of).collect();
        plot.line(colour, false, &points, name);
        for case in &cases {
            if let Some(point) = of(case) {
                plot.mark(
                    colour,
                    point,
                    &format!("{}: {} tokens/s at {} ms", case.name, number(point.1), number(point.0)),
                );
                plot.label(point, &number(case.load).replace(".00", ""));
            }
        }
    }
    plot.done(out, "Throughput against latency", "One mark for each case, with its load beside it.");
}

/// A plane with two axes.
struct Plot {
    svg: Svg,
    across: Scale,
    up: Scale,
}

impl Plot {
    fn new(x: (f64, f64), y: (f64, f64)) -> Self {
        let across = Scale::new(x, (LEFT, WIDTH - RIGHT));
        let up = Scale::new(y, (HEIGHT - BOTTOM, TOP));
        Self { svg: Svg::new(WIDTH, HEIGHT), across, up }
    }

    /// From zero to a little beyond all points.
    fn around(points: &[(f64, f64)]) -> Self {
        let most = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).fold(0.0, f64::max) * 1.08;
        Self::new((0.0, most(|point| point.0)), (0.0, most(|point| point.1)))
    }

    fn axes(&mut self, x: &str, y: &str) {
        let (low, high) = (HEIGHT - BOTTOM, TOP);
        for tick in self.across.ticks(8.0) {
            let at = self.across.at(tick);
            self.svg.line("axis", (at, high), (at, low));
            self.svg.text("soft", "middle", (at, low + 16.0), &short(tick));
        }
        for tick in self.up.ticks(6.0) {
            let at = self.up.at(tick);
            self.svg.line("axis", (LEFT, at), (WIDTH - RIGHT, at));
            self.svg.text("soft", "end", (LEFT - 6.0, at + 4.0), &short(tick));
        }
        self.svg.text("soft", "middle", (f64::midpoint(LEFT, WIDTH - RIGHT), HEIGHT - 8.0), x);
        self.svg.text("soft", "start", (4.0, 11.0), y);
    }

    fn place(&self, point: (f64, f64)) -> (f64, f64) {
        (self.across.at(point.0), self.up.at(point.1))
    }

    fn line(&mut self, colour: usize, dashed: bool, points: &[(f64, f64)], title: &str) {
        let places: Vec<_> = points.iter().map(|point| self.place(*point)).collect();
        self.svg.path(colour, dashed, &places, title);
    }

    fn mark(&mut self, colour: usize, point: (f64, f64), title: &str) {
        let at = self.place(point);
        self.svg.mark(colour, at, title);
    }

    fn label(&mut self, point: (f64, f64), text: &str) {
        let at = self.place(point);
        self.svg.text("soft", "start", (at.0 + 7.0, at.1 - 5.0), text);
    }

    fn done(self, out: &mut String, title: &str, description: &str) {
        let _ = writeln!(out, "<figure class=\"wide\">{}</figure>", self.svg.done(title, description));
    }
}

fn short(tick: f64) -> String {
    let text = format!("{tick:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::super::Collector;
    use super::*;
    use crate::bench::record::testing::record;

    fn case(series: &str, load: u32) -> Case {
        let mut collector = Collector::new(None);
        for index in 0..10 {
            collector.add(&record(100 * u64::from(load) + index, 20, 101));
        }
        let name = format!("{series} at {load}");
        Case { name, series: series.to_owned(), load: f64::from(load), gpus: Some(2), report: collector.report() }
    }

    #[test]
    fn a_sweep_is_a_table_distributions_and_lines_over_load() {
        let cases = [case("a <b>", 4), case("a <b>", 1), case("other", 1)];
        let page = html(&Page { about: vec!["once".to_owned()], load: "concurrency", cases: &cases });
        assert_eq!(page.matches("<tr><th scope=\"row\">").count(), 3);
        assert_eq!(page.matches("<svg ").count(), 6, "three distributions, two over load, one of throughput");
        assert!(page.contains("a &lt;b&gt; at 4") && !page.contains("<b>"));
        assert!(page.contains("tokens/s/GPU") && !page.contains("good/s"), "a column without values is left out");
        assert!(!page.contains("NaN") && !page.contains("http"), "it needs nothing from elsewhere");
    }

    #[test]
    fn one_case_has_no_lines_over_load_and_one_without_answers_no_plot() {
        let one = [case("a", 1)];
        let page = html(&Page { about: Vec::new(), load: "concurrency", cases: &one });
        assert_eq!(page.matches("<svg ").count(), 3);
        let none = [Case { report: Collector::new(None).report(), ..case("a", 1) }];
        let page = html(&Page { about: Vec::new(), load: "concurrency", cases: &none });
        assert_eq!(page.matches("<svg ").count(), 0);
    }
}
