//! What watches headway names only what headway exports: rules, their tests, the dashboard, and the pages about them.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test fails where what it needs is not there"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use headway::telemetry::families::{FAMILIES, Family, Kind};
use serde_json::Value;

/// Families that the contract with users names.
const CONTRACT: &str = "headway_requests_total headway_request_duration_seconds headway_time_to_first_token_seconds \
    headway_time_to_first_output_token_seconds headway_inter_token_latency_seconds headway_inter_chunk_latency_seconds \
    headway_longest_stall_seconds headway_time_to_first_byte_seconds headway_overhead_seconds headway_queue_seconds \
    headway_input_tokens_total headway_output_tokens_total headway_no_first_token_total headway_slo_requests_total \
    headway_slo_attainment_ratio headway_slo_burn_rate headway_decisions_total headway_predicted_seconds \
    headway_prediction_miss_ratio headway_cost_total headway_attempts_total headway_shed_total headway_backend_in_flight \
    headway_backend_state headway_backend_waiting_tokens headway_engine_running headway_engine_waiting \
    headway_engine_kv_cache_ratio headway_gpu_utilization_ratio headway_gpu_memory_used_bytes headway_gpu_power_watts \
    headway_gpu_temperature_celsius headway_gpu_clock_hertz headway_gpu_throttled headway_config_last_reload_successful \
    headway_config_last_reload_success_timestamp_seconds headway_build_info process_cpu_seconds_total \
    process_resident_memory_bytes";

/// Labels that a scrape adds.
const ADDED: [&str; 2] = ["job", "instance"];

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).expect(path)
}

/// Every name of a sample, with the labels it has.
fn samples() -> BTreeMap<String, BTreeSet<&'static str>> {
    let own = |family: &Family| {
        let labels: BTreeSet<_> = family.labels.iter().copied().chain(ADDED).collect();
        let suffixes: &[&str] = if family.kind == Kind::Histogram { &["_bucket", "_sum", "_count"] } else { &[""] };
        let le = (family.kind == Kind::Histogram).then_some("le");
        let labels: BTreeSet<_> = labels.into_iter().chain(le).collect();
        suffixes.iter().map(move |suffix| (format!("{}{suffix}", family.name), labels.clone())).collect::<Vec<_>>()
    };
    FAMILIES.iter().flat_map(own).collect()
}

/// The words of a query or a page, with what follows each.
fn words(text: &str) -> Vec<(&str, &str)> {
    let inside = |letter: char| letter.is_ascii_alphanumeric() || letter == '_' || letter == ':';
    let (mut words, mut rest) = (Vec::new(), text);
    while let Some(start) = rest.find(inside) {
        let tail = &rest[start..];
        let end = tail.find(|letter| !inside(letter)).unwrap_or(tail.len());
        words.push((&tail[..end], &tail[end..]));
        rest = &tail[end..];
    }
    words
}

/// The labels that a selector right after a name asks for.
fn asked(after: &str) -> Vec<&str> {
    let Some(selector) = after.strip_prefix('{').and_then(|rest| rest.split_once('}')).map(|(inner, _)| inner) else {
        return Vec::new();
    };
    // Values are quoted, and none here holds a comma.
    let label = |pair: &'_ str| pair.find(['=', '!']).map(|end| pair[..end].trim().len());
    selector
        .split(',')
        .filter_map(|pair| Some(&pair.trim()[..label(pair.trim())?]))
        .filter(|name| !name.is_empty())
        .collect()
}

/// Every metric that a text names is one of ours, with labels that it has, or a rule records it.
#[track_caller]
fn check(what: &str, text: &str) -> usize {
    let (samples, rules) = (samples(), read("config/prometheus/rules.yaml"));
    let mut count = 0;
    for (word, after) in words(text) {
        if word.contains(":headway_") {
            let recorded = rules.contains(&format!("record: {word}\n"));
            assert!(recorded, "{what}: no rule records {word}");
        } else if word.starts_with("headway_") || word.starts_with("process_") {
            let labels = samples.get(word).unwrap_or_else(|| panic!("{what}: there is no metric {word}"));
            for label in asked(after) {
                assert!(labels.contains(label), "{what}: {word} has no label {label}");
            }
            count += 1;
        }
    }
    count
}

/// Every query in a dashboard.
fn queries<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
    match value {
        Value::Object(fields) => fields.iter().for_each(|(name, field)| match field {
            Value::String(text) if matches!(name.as_str(), "expr" | "query" | "definition") => found.push(text),
            other => queries(other, found),
        }),
        Value::Array(all) => all.iter().for_each(|one| queries(one, found)),
        _ => {}
    }
}

fn dashboard() -> Value {
    serde_json::from_str(&read("config/grafana/headway.json")).expect("JSON")
}

#[test]
fn rules_name_metrics_that_there_are() {
    // Expressions alone: what stands in a comment or a sentence is for people.
    let rules = read("config/prometheus/rules.yaml");
    let expressions: String =
        rules.lines().filter(|line| !line.trim_start().starts_with('#')).collect::<Vec<_>>().join("\n");
    assert!(check("rules.yaml", &expressions) > 30);
    assert!(check("tests.yaml", &read("config/prometheus/tests.yaml")) > 30);
}

#[test]
fn the_dashboard_names_metrics_that_there_are() {
    let (dashboard, mut found) = (dashboard(), Vec::new());
    queries(&dashboard, &mut found);
    let count: usize = found.iter().map(|query| check("headway.json", query)).sum();
    assert!(count > 60, "{count} metrics in {} queries", found.len());
}

#[test]
fn the_dashboard_has_its_rows_and_asks_the_chosen_source() {
    let dashboard = dashboard();
    let panels = dashboard["panels"].as_array().expect("panels");
    let rows: Vec<_> = panels.iter().filter(|panel| panel["type"] == "row").map(|row| &row["title"]).collect();
    assert_eq!(rows, ["Overview", "Route: $route", "Backend: $backend", "GPU"]);
    let mut ids = BTreeSet::new();
    for panel in panels {
        let what = &panel["title"];
        assert!(ids.insert(panel["id"].as_u64().expect("an id")), "{what}: its id stands twice");
        for target in panel["targets"].as_array().into_iter().flatten() {
            assert_eq!(target["datasource"]["uid"], "${datasource}", "{what}");
            assert!(!target["expr"].as_str().expect("a query").is_empty(), "{what}");
        }
    }
    let variables: Vec<_> =
        dashboard["templating"]["list"].as_array().unwrap().iter().map(|one| &one["name"]).collect();
    assert_eq!(variables, ["datasource", "route", "backend"]);
    assert!(dashboard["schemaVersion"].as_u64().is_some_and(|version| version >= 38), "Grafana 10");
}

#[test]
fn every_alert_has_a_paragraph_and_a_case_each_way() {
    let (rules, tests, runbook) =
        (read("config/prometheus/rules.yaml"), read("config/prometheus/tests.yaml"), read("docs/runbook.md"));
    let alerts: Vec<_> = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(alerts.len() >= 15, "{alerts:?}");
    for alert in &alerts {
        let url = format!("runbook_url: docs/runbook.md#{}\n", alert.to_lowercase());
        assert!(rules.contains(&url), "{alert} does not say where its paragraph is");
        let paragraph =
            runbook.split(&format!("## {alert}\n")).nth(1).unwrap_or_else(|| panic!("{alert} has no paragraph"));
        let paragraph = paragraph.split("\n## ").next().unwrap();
        assert!(paragraph.contains("**Cause.**") && paragraph.contains("**Do"), "{alert}: {paragraph}");
        let cases: Vec<_> = tests.split(&format!("alertname: {alert}\n")).skip(1).collect();
        let quiet = |case: &&&str| case.trim_start().starts_with("exp_alerts: []");
        let silent = cases.iter().filter(quiet).count();
        assert!(silent > 0 && silent < cases.len(), "{alert}: {silent} of {} cases expect silence", cases.len());
    }
    for title in runbook.lines().filter_map(|line| line.strip_prefix("## ")) {
        assert!(alerts.contains(&title), "no alert is called {title}");
    }
}

#[test]
fn pages_name_metrics_that_there_are() {
    let families: BTreeSet<_> = FAMILIES.iter().map(|family| family.name).collect();
    let samples = samples();
    for page in ["README.md", "docs/runbook.md", "docs/autoscaling.md"] {
        for (word, _) in words(&read(page)) {
            let named = word.strip_prefix("headway_").is_some_and(|rest| !rest.is_empty() && !rest.ends_with('_'));
            assert!(
                !named || families.contains(word) || samples.contains_key(word),
                "{page}: there is no metric {word}"
            );
        }
    }
}

#[test]
fn every_family_of_the_contract_is_exported() {
    for name in CONTRACT.split_whitespace() {
        let exported = FAMILIES.iter().any(|family| family.name == name);
        assert!(exported, "{name}");
    }
}
