//! What the README says is what headway does: its tables against the code, its commands against the command line.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use clap::{CommandFactory, Parser};
use headway::cli::Cli;
use headway::config::{self, NoEnvironment};
use headway::measure::outcome::Outcome;
use headway::telemetry::families::{FAMILIES, Kind};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn readme() -> String {
    fs::read_to_string(root().join("README.md")).unwrap()
}

/// The fenced blocks of one language.
fn blocks(text: &str, language: &str) -> Vec<String> {
    let fence = format!("```{language}\n");
    text.split(&fence).skip(1).map(|rest| rest.split("```").next().unwrap().to_owned()).collect()
}

/// What stands in backquotes in the first column of tables.
fn first_column(text: &str) -> BTreeSet<&str> {
    let cells = text.lines().filter_map(|line| line.strip_prefix("| `")?.split(" | ").next());
    cells.flat_map(|cell| cell.split(['`', ',']).map(str::trim).filter(|name| !name.is_empty())).collect()
}

fn metrics_table() -> String {
    let mut table = "| family | kind | labels | meaning |\n|---|---|---|---|\n".to_owned();
    for family in FAMILIES {
        let kind = match family.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        writeln!(table, "| `{}` | {kind} | {} | {} |", family.name, family.labels.join(", "), family.help).unwrap();
    }
    table
}

/// Written anew with `HEADWAY_UPDATE_GOLDEN=1 cargo test --test readme`.
#[test]
fn the_metrics_table_is_the_table_of_families() {
    let (text, begin, end) = (readme(), "<!-- metrics -->\n", "<!-- /metrics -->");
    let (before, rest) = text.split_once(begin).expect("a place for the table");
    let (table, after) = rest.split_once(end).expect("its end");
    if std::env::var_os("HEADWAY_UPDATE_GOLDEN").is_some() {
        fs::write(root().join("README.md"), [before, begin, &metrics_table(), end, after].concat()).unwrap();
    } else {
        assert_eq!(table, metrics_table());
    }
}

#[test]
fn every_outcome_and_every_command_is_explained() {
    let text = readme();
    let explained = first_column(&text);
    for outcome in Outcome::ALL {
        assert!(explained.contains(outcome.as_str()), "{} is not explained", outcome.as_str());
    }
    for command in Cli::command().get_subcommands() {
        assert!(text.contains(&format!("| `headway {}", command.get_name())), "{} is not listed", command.get_name());
    }
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect()
}

#[test]
fn every_code_of_a_refused_request_is_explained_and_no_other() {
    let mut known = BTreeSet::new();
    for file in files_below(&root().join("src/proxy")) {
        let source: String = fs::read_to_string(file).unwrap().split_whitespace().collect();
        let source = source.split("#[cfg(test)]").next().unwrap();
        for call in source.split("Refusal::bad_request(").chain(source.split("Self::bad_request(")).skip(1) {
            known.extend(
                call.split('"').nth(1).filter(|_| call.starts_with(|c: char| c.is_ascii_digit())).map(str::to_owned),
            );
        }
    }
    known.extend(["not_found", "model_not_found", "malformed_request", "too_many_connections"].map(str::to_owned));
    let text = readme();
    let table = text.split("| `code` | status | cause |").nth(1).and_then(|rest| rest.split("\n\n").next()).unwrap();
    let explained = first_column(table).into_iter().map(str::to_owned).collect();
    assert_eq!(known, explained);
}

#[test]
fn every_configuration_shown_is_valid() {
    let shown = blocks(&readme(), "yaml");
    assert!(!shown.is_empty());
    for text in shown {
        let read = config::parse("README.md", &text, &NoEnvironment);
        assert!(read.is_ok_and(|loaded| loaded.warnings.is_empty()), "{text}");
    }
}

#[test]
fn every_command_line_shown_is_understood() {
    let lines: Vec<String> =
        blocks(&readme(), "sh").iter().flat_map(|block| block.lines().map(str::to_owned).collect::<Vec<_>>()).collect();
    let ours =
        lines.iter().filter_map(|line| line.strip_prefix("headway ").or(line.strip_prefix("cargo run --release -- ")));
    let mut count = 0;
    for arguments in ours {
        let words = ["headway"].into_iter().chain(arguments.split_whitespace());
        assert!(Cli::try_parse_from(words).is_ok(), "headway {arguments}");
        count += 1;
    }
    assert!(count >= 4, "where are the commands?");
}

#[test]
fn every_file_linked_is_there() {
    let text = readme();
    for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
        let there = target.starts_with('#') || target.starts_with("https://") || root().join(target).exists();
        assert!(there, "{target}");
    }
}
