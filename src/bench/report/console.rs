//! Tables for people, in GenAI-Perf's form.

use std::fmt::Write;

use super::{Report, number};
use crate::bench::record::Metric;

/// The columns of the table.
const COLUMNS: [&str; 7] = ["Statistic", "avg", "min", "max", "p99", "p90", "p75"];

/// A table with a title: the first column to the left, the others to the right.
#[derive(Debug, Clone)]
pub struct Table {
    title: String,
    columns: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table without rows.
    #[must_use]
    pub fn new<T: Into<String>>(title: impl Into<String>, columns: impl IntoIterator<Item = T>) -> Self {
        Self { title: title.into(), columns: columns.into_iter().map(Into::into).collect(), rows: Vec::new() }
    }

    /// Adds a row; cells beyond the columns are not shown.
    pub fn row<T: Into<String>>(&mut self, cells: impl IntoIterator<Item = T>) {
        self.rows.push(cells.into_iter().map(Into::into).collect());
    }

    /// The table as text, each line ended; a long first cell is continued on lines of its own.
    #[must_use]
    pub fn render(&self) -> String {
        let rows: Vec<Vec<String>> = self.rows.iter().flat_map(|row| continued(row)).collect();
        let widths: Vec<usize> = self
            .columns
            .iter()
            .enumerate()
            .map(|(place, title)| {
                let cells = rows.iter().filter_map(|row| row.get(place)).map(|cell| cell.chars().count());
                cells.chain([title.chars().count()]).max().unwrap_or(0)
            })
            .collect();
        let mut text = String::new();
        let whole: usize = widths.iter().map(|width| width + 3).sum::<usize>() + 1;
        let indent = whole.saturating_sub(self.title.chars().count()) / 2;
        let _ = writeln!(text, "{:indent$}{}", "", self.title);
        text.push_str(&rule(&widths, ['┏', '━', '┳', '┓']));
        text.push_str(&line(&self.columns, &widths, '┃'));
        text.push_str(&rule(&widths, ['┡', '━', '╇', '┩']));
        for row in &rows {
            text.push_str(&line(row, &widths, '│'));
        }
        text.push_str(&rule(&widths, ['└', '─', '┴', '┘']));
        text
    }
}

/// Widest first cell: the seven columns of statistics then fit into a hundred.
const FIRST: usize = 26;

/// The row, and the lines that its first cell needs beyond it.
fn continued(row: &[String]) -> Vec<Vec<String>> {
    let Some((first, rest)) = row.split_first() else { return Vec::new() };
    let mut lines = vec![String::new()];
    for word in first.split(' ') {
        match lines.last_mut() {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) if line.chars().count() + 1 + word.chars().count() <= FIRST => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    let mut rest = Some(rest.to_vec());
    lines.into_iter().map(|line| [line].into_iter().chain(rest.take().unwrap_or_default()).collect()).collect()
}

fn rule(widths: &[usize], [left, line, between, right]: [char; 4]) -> String {
    let parts: Vec<String> = widths.iter().map(|width| line.to_string().repeat(width + 2)).collect();
    format!("{left}{}{right}\n", parts.join(&between.to_string()))
}

fn line(cells: &[String], widths: &[usize], border: char) -> String {
    let mut text = String::from(border);
    for (place, width) in widths.iter().enumerate() {
        let cell = cells.get(place).map_or("", String::as_str);
        let _ = if place == 0 {
            write!(text, " {cell:<width$} {border}")
        } else {
            write!(text, " {cell:>width$} {border}")
        };
    }
    text.push('\n');
    text
}

/// The metrics table of a report. What no request has is left out, as GenAI-Perf does.
#[must_use]
pub fn metrics_table(title: &str, report: &Report) -> Table {
    let mut table = Table::new(title, COLUMNS);
    for metric in Metric::GENAI_PERF {
        let Some(summary) = report.summary(metric) else { continue };
        let percentile = |percent| summary.p(percent).unwrap_or(summary.max);
        let values = [summary.avg, summary.min, summary.max, percentile(99), percentile(90), percentile(75)];
        let name = format!("{} ({})", metric.title(), metric.unit());
        table.row([name].into_iter().chain(values.map(number)));
    }
    for (name, unit, value) in report.aggregates() {
        let not_defined = std::iter::repeat_n("N/A".to_owned(), COLUMNS.len() - 2);
        table.row([format!("{name} ({unit})"), number(value)].into_iter().chain(not_defined));
    }
    table
}

/// The errors of a report by class, a line each; empty without any.
#[must_use]
pub fn error_lines(report: &Report) -> String {
    report.errors().iter().fold(String::new(), |mut text, (class, count)| {
        let _ = writeln!(text, "  {count} × {class}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::super::Collector;
    use super::*;
    use crate::bench::record::testing::record;

    #[test]
    fn the_table_has_genai_perfs_rows_and_columns() {
        let mut collector = Collector::new(Some("time_to_first_token:300".parse().expect("bounds")));
        for (index, ttft) in [200, 210, 220, 400].into_iter().enumerate() {
            let mut one = record(ttft, 20, 101);
            one.offset = std::time::Duration::from_secs(index as u64);
            collector.add(&one);
        }
        let text = metrics_table("headway bench | LLM Metrics", &collector.report()).render();
        let expected = "\
headway bench | LLM Metrics
┏━━━━━━━━━━━━━━━━━━━━━━━━━━━━┳━━━━━━━━━━┳━━━━━━━━━━┳━━━━━━━━━━┳━━━━━━━━━━┳━━━━━━━━━━┳━━━━━━━━━━┓
┃ Statistic                  ┃      avg ┃      min ┃      max ┃      p99 ┃      p90 ┃      p75 ┃
┡━━━━━━━━━━━━━━━━━━━━━━━━━━━━╇━━━━━━━━━━╇━━━━━━━━━━╇━━━━━━━━━━╇━━━━━━━━━━╇━━━━━━━━━━╇━━━━━━━━━━┩
│ Time To First Token (ms)   │   257.50 │   200.00 │   400.00 │   394.60 │   346.00 │   265.00 │
│ Time To Second Token (ms)  │    20.00 │    20.00 │    20.00 │    20.00 │    20.00 │    20.00 │
│ Request Latency (ms)       │ 2,257.50 │ 2,200.00 │ 2,400.00 │ 2,394.60 │ 2,346.00 │ 2,265.00 │
│ Inter Token Latency (ms)   │    20.00 │    20.00 │    20.00 │    20.00 │    20.00 │    20.00 │
│ Output Token Throughput    │    50.00 │    50.00 │    50.00 │    50.00 │    50.00 │    50.00 │
│ Per User (tokens/sec/user) │          │          │          │          │          │          │
│ Output Sequence Length     │   101.00 │   101.00 │   101.00 │   101.00 │   101.00 │   101.00 │
│ (tokens)                   │          │          │          │          │          │          │
│ Input Sequence Length      │   200.00 │   200.00 │   200.00 │   200.00 │   200.00 │   200.00 │
│ (tokens)                   │          │          │          │          │          │          │
│ Output Token Throughput    │    74.81 │      N/A │      N/A │      N/A │      N/A │      N/A │
│ (tokens/sec)               │          │          │          │          │          │          │
│ Request Throughput (per    │     0.74 │      N/A │      N/A │      N/A │      N/A │      N/A │
│ sec)                       │          │          │          │          │          │          │
│ Request Goodput (per sec)  │     0.56 │      N/A │      N/A │      N/A │      N/A │      N/A │
│ Request Count (count)      │     4.00 │      N/A │      N/A │      N/A │      N/A │      N/A │
└────────────────────────────┴──────────┴──────────┴──────────┴──────────┴──────────┴──────────┘
";
        assert_eq!(text.trim_start(), expected, "\n{text}");
        assert!(text.starts_with(&" ".repeat(34)), "the title stands in the middle");
    }
}
