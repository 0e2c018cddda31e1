//! The page in OpenMetrics 1.0, the text format that can carry exemplars, for scrapers that ask for it.
//!
//! <https://github.com/prometheus/OpenMetrics/blob/v1.0.0/specification/OpenMetrics.md>. Beside exemplars it differs from
//! Prometheus's own text in the names of counters (`_total` belongs to the sample, not to the family), in units, in how
//! numbers are written, and in the end mark, without which a page that was cut off is refused.

use std::fmt::{self, Write};
use std::time::SystemTime;

use prometheus::proto::{Histogram, LabelPair, Metric, MetricFamily, MetricType};

use super::exemplar::Exemplar;
use super::export::{Page, Samples};

/// What the page calls itself.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The last suffix of a family's name that is a unit.
const UNITS: [&str; 6] = ["_seconds", "_bytes", "_ratio", "_celsius", "_hertz", "_watts"];

/// Writes the page.
pub(super) fn encode(page: &Page) -> String {
    let mut text = String::new();
    for samples in page.samples() {
        // Writing to a string cannot fail.
        let _ = family(&mut text, samples);
    }
    text.push_str("# EOF\n");
    text
}

fn family(text: &mut String, samples: &Samples) -> fmt::Result {
    let of = &samples.family;
    let (name, kind) = named(of);
    writeln!(text, "# TYPE {name} {kind}")?;
    if let Some(unit) = UNITS.iter().find(|unit| name.ends_with(**unit)) {
        writeln!(text, "# UNIT {name} {}", unit.trim_start_matches('_'))?;
    }
    writeln!(text, "# HELP {name} {}", Escaped(of.help()))?;
    for (place, metric) in of.get_metric().iter().enumerate() {
        let labels = metric.get_label();
        match of.get_field_type() {
            MetricType::HISTOGRAM => {
                let exemplars = samples.exemplars.get(place).map(Vec::as_slice).unwrap_or_default();
                histogram(text, name, labels, metric.get_histogram(), exemplars)?;
            }
            _ => sample(text, of.name(), labels, None, Number(value(metric, of.get_field_type())))?,
        }
    }
    Ok(())
}

/// The family's name, and what it is, in the words of OpenMetrics.
fn named(family: &MetricFamily) -> (&str, &'static str) {
    let name = family.name();
    match family.get_field_type() {
        MetricType::COUNTER => (name.strip_suffix("_total").unwrap_or(name), "counter"),
        MetricType::HISTOGRAM => (name, "histogram"),
        _ => name.strip_suffix("_info").map_or((name, "gauge"), |name| (name, "info")),
    }
}

fn value(metric: &Metric, kind: MetricType) -> f64 {
    if kind == MetricType::COUNTER { metric.get_counter().get_value() } else { metric.get_gauge().get_value() }
}

fn histogram(
    text: &mut String,
    name: &str,
    labels: &[LabelPair],
    of: &Histogram,
    exemplars: &[Option<Exemplar>],
) -> fmt::Result {
    let bucket = format!("{name}_bucket");
    let beyond = (f64::INFINITY, of.get_sample_count());
    let edges = of.get_bucket().iter().map(|bucket| (bucket.upper_bound(), bucket.cumulative_count()));
    for (place, (edge, count)) in edges.chain([beyond]).enumerate() {
        sample(text, &bucket, labels, Some(edge), count)?;
        if let Some(Some(exemplar)) = exemplars.get(place) {
            text.pop();
            writeln!(
                text,
                " # {{trace_id=\"{}\"}} {} {:.3}",
                exemplar.trace(),
                Number(exemplar.value.as_secs_f64()),
                exemplar.at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
            )?;
        }
    }
    sample(text, &format!("{name}_sum"), labels, None, Number(of.get_sample_sum()))?;
    sample(text, &format!("{name}_count"), labels, None, of.get_sample_count())
}

fn sample(
    text: &mut String,
    name: &str,
    labels: &[LabelPair],
    le: Option<f64>,
    value: impl fmt::Display,
) -> fmt::Result {
    text.push_str(name);
    let mut before = '{';
    for label in labels {
        write!(text, "{before}{}=\"{}\"", label.name(), Escaped(label.value()))?;
        before = ',';
    }
    if let Some(edge) = le {
        write!(text, "{before}le=\"{}\"", Number(edge))?;
        before = ',';
    }
    writeln!(text, "{} {value}", if before == '{' { "" } else { "}" })
}

/// A number as OpenMetrics wants bucket edges: `1.0` and `1e-05`, not `1` and `0.00001`.
struct Number(f64);

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == f64::INFINITY {
            return f.write_str("+Inf");
        }
        let text = format!("{:?}", self.0);
        match text.split_once("e-") {
            Some((digits, exponent)) => write!(f, "{digits}e-{exponent:0>2}"),
            None => f.write_str(&text),
        }
    }
}

/// Text within quotes, or to the end of a line.
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for letter in self.0.chars() {
            match letter {
                '\\' => f.write_str("\\\\")?,
                '"' => f.write_str("\\\"")?,
                '\n' => f.write_str("\\n")?,
                other => f.write_char(other)?,
            }
        }
        Ok(())
    }
}

/// Whether a scraper that sends this `Accept` prefers OpenMetrics to Prometheus's own text.
#[must_use]
pub fn is_preferred(accept: &str) -> bool {
    let (mut open, mut text) = (0.0_f64, 0.0_f64);
    for range in accept.split(',') {
        let mut parts = range.split(';').map(str::trim);
        let kind = parts.next().unwrap_or_default();
        let (mut quality, mut known) = (1.0_f64, true);
        for (name, value) in parts.filter_map(|part| part.split_once('=')) {
            match name {
                "q" => quality = value.parse().ok().filter(|quality| (0.0..=1.0).contains(quality)).unwrap_or(0.0),
                "version" => known = kind != OPEN || matches!(value.trim_matches('"'), "1.0.0" | "0.0.1"),
                _ => {}
            }
        }
        match kind {
            OPEN if known => open = open.max(quality),
            "text/plain" | "text/*" | "*/*" => text = text.max(quality),
            _ => {}
        }
    }
    open > 0.0 && open >= text
}

const OPEN: &str = "application/openmetrics-text";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_canonical() {
        for (number, text) in [
            (1.0, "1.0"),
            (300.0, "300.0"),
            (0.00001, "1e-05"),
            (0.000_025, "2.5e-05"),
            (0.0001, "0.0001"),
            (0.137, "0.137"),
        ] {
            assert_eq!(Number(number).to_string(), text);
        }
        assert_eq!(Number(f64::INFINITY).to_string(), "+Inf");
    }

    #[test]
    fn scrapers_get_what_they_prefer() {
        let prometheus = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
                          text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        for (accept, open) in [
            (prometheus, true),
            ("application/openmetrics-text; version=\"1.0.0\"", true),
            ("application/openmetrics-text", true),
            ("text/plain;version=0.0.4;q=0.5,application/openmetrics-text;q=0.4", false),
            ("application/openmetrics-text;version=2.0.0, text/plain;q=0.1", false),
            ("application/openmetrics-text;q=0", false),
            ("application/openmetrics-text;q=many", false),
            ("text/html, */*", false),
            ("", false),
        ] {
            assert_eq!(is_preferred(accept), open, "{accept}");
        }
    }

    #[test]
    fn quotes_and_line_ends_are_escaped() {
        assert_eq!(Escaped("a\"b\\c\nd").to_string(), "a\\\"b\\\\c\\nd");
    }
}
