//! `headway simulate` as a user runs it: what it prints, that it prints the same again, and what it refuses.
//!
//! The golden table holds rivals only: their rules are settled, ours is tuned. Written anew with
//! `HEADWAY_UPDATE_GOLDEN=1 cargo test --test simulate`.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::unwrap_used, reason = "a test may panic")]

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/simulate/rivals.txt")
}

fn headway(arguments: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_headway"));
    command.arg("simulate").args(arguments.split_whitespace()).output().expect("headway runs")
}

#[track_caller]
fn printed(arguments: &str) -> String {
    let output = headway(arguments);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && said.is_empty(), "{arguments}: {:?} {said}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

fn parsed(arguments: &str) -> Value {
    serde_json::from_str(&printed(arguments)).expect("JSON")
}

#[test]
fn the_rivals_reach_what_they_always_did() {
    let table = printed("--scenario quiet --configurations 1 --policy rr,lr,p2c,prequal,pqrs,dynamo,sglang,spill8");
    if std::env::var_os("HEADWAY_UPDATE_GOLDEN").is_some() {
        std::fs::write(golden(), &table).unwrap();
    }
    assert_eq!(table, std::fs::read_to_string(golden()).expect("a golden file"));
}

#[test]
fn the_same_seed_prints_the_same_bytes_in_every_format() {
    for format in ["table", "json", "csv", "html"] {
        let line = format!("--scenario quiet --configurations 1 --policy ours,llmds --format {format}");
        let first = printed(&line);
        assert_eq!(first, printed(&line), "{format}");
        assert_ne!(first, printed(&format!("{line} --seed 7")), "{format}");
        assert!(!first.contains("NaN") && !first.contains("inf"), "{first}");
    }
}

/// Reading a float may cost its last bit.
#[track_caller]
fn same(cell: &str, value: &Value) {
    let (cell, value) = (cell.parse::<f64>().expect(cell), value.as_f64().expect("a number"));
    assert!((cell - value).abs() <= 1e-12 * value.abs(), "{cell} and {value}");
}

#[test]
fn json_and_csv_say_the_same() {
    let line = "--scenario quiet --configurations 1 --policy lr,ours+shed --format";
    let json = parsed(&format!("{line} json"));
    let csv = printed(&format!("{line} csv"));
    let head: Vec<&str> = csv.lines().next().unwrap().split(',').collect();
    let column = |name: &str| head.iter().position(|one| *one == name).expect(name);
    let rows: Vec<Vec<&str>> = csv.lines().skip(1).map(|line| line.split(',').collect()).collect();
    assert!(rows.iter().all(|row| row.len() == head.len()), "{csv}");
    assert_eq!(rows.len(), 8, "two policies, three routes and all of them together");
    for policy in json["groups"][0]["policies"].as_array().unwrap() {
        let run = &policy["runs"][0];
        let row = |route: &str| {
            let of = |row: &&Vec<&str>| row[column("policy")] == policy["policy"] && row[column("route")] == route;
            rows.iter().find(of).expect("a row")
        };
        assert_eq!(row("*")[column("good")], run["good"].to_string());
        same(row("*")[column("cost_per_kgood")], &run["cost_per_kgood"]);
        for route in run["routes"].as_array().unwrap() {
            let row = row(route["route"].as_str().unwrap());
            same(row[column("attainment")], &route["attainment"]);
            same(row[column("ttft_p95_s")], &route["ttft_s"]["p95"]);
            assert_eq!(row[column("itl_exceeded")], route["bounds"]["itl"]["exceeded"].to_string());
        }
    }
}

#[test]
fn every_request_is_counted_once() {
    let json = parsed("--scenario over --configurations 1 --policy ours+shed --format json");
    let run = &json["groups"][0]["policies"][0]["runs"][0];
    let sum =
        |key: &str| run["routes"].as_array().unwrap().iter().map(|route| route[key].as_u64().unwrap()).sum::<u64>();
    assert_eq!(sum("arrived"), run["arrived"].as_u64().unwrap());
    assert!(sum("shed") > 0 && sum("good") + sum("shed") + sum("lost") <= sum("arrived"));
    let decisions: u64 = run["decisions"].as_object().unwrap().values().map(|count| count.as_u64().unwrap()).sum();
    assert_eq!(decisions, sum("arrived"));
    let sent = run["sent"]["per_backend"].as_array().unwrap().iter().flat_map(|window| window.as_array().unwrap());
    assert_eq!(sent.map(|count| count.as_u64().unwrap()).sum::<u64>(), sum("arrived") - sum("shed"));
}

#[test]
fn the_page_needs_nothing_from_elsewhere() {
    let page = printed("--scenario quiet --configurations 2 --policy ours,lr --ablation probes --format html");
    for foreign in ["http:", "https:", "src=", "href=", "url(", "@import", "<script"] {
        assert!(!page.contains(foreign), "{foreign}");
    }
    for needed in ["prefers-color-scheme: dark", "<svg role=\"img\"", "<desc>", "lang=\"en\"", "without probes"] {
        assert!(page.contains(needed), "{needed}");
    }
    for tag in ["svg", "table", "figure", "section", "title", "text", "tr", "td", "th", "div"] {
        let (open, close) = (page.matches(&format!("<{tag}")).count(), page.matches(&format!("</{tag}>")).count());
        // `<th` also begins `<thead`, and `<t` none of the others.
        let open = if tag == "th" { open - page.matches("<thead").count() } else { open };
        assert_eq!(open, close, "{tag}");
    }
}

const CONFIGURATION: &str = "
listeners: [{ address: 127.0.0.1:8080 }]
backends:
  - { name: fast, url: http://10.0.0.1:8000, profile: tensorrt_llm-h100-fp8-tp1-throughput, price: { per_gpu_hour: 4.0, gpus: 1 } }
  - { name: cheap, url: http://10.0.0.2:8000, profile: vllm-l40s-bf16-tp1, price: { per_gpu_hour: 1.0, gpus: 1 } }
routes:
  - { name: chat, backends: [fast, cheap], slo: { ttft: { p95: 300ms }, itl: { p95: 40ms } } }
";

fn log() -> String {
    let mut log = String::new();
    for index in 0..300 {
        let (minute, second) = (index / 240, (index / 4) % 60);
        let _ = writeln!(
            log,
            "{{\"ts\":\"2026-03-01T10:{minute:02}:{second:02}.{:03}Z\",\"request_id\":\"r{index}\",\"route\":\"chat\",\
             \"outcome\":\"complete\",\"stream\":true,\"upload_ms\":0.1,\"input_tokens\":{},\"output_tokens\":80}}",
            (index % 4) * 250,
            400 + (index * 37) % 900,
        );
    }
    log
}

#[test]
fn an_access_log_is_replayed_under_a_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let (yaml, access) = (folder.path().join("headway.yaml"), folder.path().join("access.jsonl"));
    std::fs::write(&yaml, CONFIGURATION).unwrap();
    std::fs::write(&access, log()).unwrap();
    let line = format!("--trace {} --format json", access.display());
    let json = parsed(&format!("{line} --config {} --policy lr", yaml.display()));
    assert!(
        json["about"]
            .as_array()
            .unwrap()
            .iter()
            .any(|one| one == "backend `cheap` is modelled as tensorrt_llm-l40s-fp8-tp1-throughput")
    );
    let group = &json["groups"][0];
    assert_eq!(group["about"], "300 requests of the access log");
    assert_eq!(group["configurations"][0]["backends"], serde_json::json!(["fast", "cheap"]));
    let policies: Vec<&Value> = group["policies"].as_array().unwrap().iter().map(|one| &one["policy"]).collect();
    assert_eq!(policies, ["configured", "lr"]);
    let run = &group["policies"][0]["runs"][0];
    assert!(run["routes"][0]["attainment"].as_f64().unwrap() > 0.9, "{run}");
    // Five dollars an hour for 75 s, whoever serves.
    let hours = group["policies"].as_array().unwrap().iter().map(|one| one["runs"][0]["cost"].as_f64().unwrap());
    assert!(hours.into_iter().all(|cost| (cost - 5.0 / 48.0).abs() < 0.001));
    let refused = headway(&line);
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("--config"));
}

#[test]
fn a_configuration_hosts_the_traffic_of_a_scenario() {
    let folder = tempfile::tempdir().unwrap();
    let yaml = folder.path().join("headway.yaml");
    std::fs::write(&yaml, CONFIGURATION).unwrap();
    let json =
        parsed(&format!("--config {} --scenario quiet --configurations 1 --policy rr --format json", yaml.display()));
    let run = &json["groups"][0]["policies"][1]["runs"][0];
    assert_eq!(run["routes"].as_array().unwrap().len(), 1);
    std::fs::write(&yaml, CONFIGURATION.replace("h100", "b300")).unwrap();
    let refused = headway(&format!("--config {}", yaml.display()));
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        refused.status.code() == Some(1) && said.contains("`fast`") && said.contains("H100, A100, L40S, A10G"),
        "{said}"
    );
    std::fs::write(&yaml, "listners: []").unwrap();
    assert_eq!(headway(&format!("--config {}", yaml.display())).status.code(), Some(78));
}

#[test]
fn what_is_unknown_is_answered_with_what_is_known() {
    for (line, known) in [
        ("--policy fastest", "cheapest_within_slo+shed"),
        ("--scenario calm", "longslow"),
        ("--ablation hope", "censored_evidence"),
        ("--configurations 0", "1..=10000"),
    ] {
        let output = headway(line);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(2) && said.contains(known), "{line}: {said}");
    }
    let listed = printed("--list");
    assert!(["burst", "llmds", "spillN", "censored_evidence"].iter().all(|name| listed.contains(name)), "{listed}");
}

#[test]
fn traces_are_told_apart_by_their_content() {
    let traces = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/traces");
    let json =
        parsed(&format!("--trace {} --scenario quiet --configurations 1 --policy lr --format json", traces.display()));
    let about = json["about"].to_string();
    for kind in [
        "azure_code_excerpt.csv: code (Azure code)",
        "azure_conv_excerpt.csv: chat (Azure conversations)",
        "mooncake_conversation_excerpt.jsonl: batch and conversations",
        "mooncake_synthetic_excerpt.jsonl: synthetic",
    ] {
        assert!(about.contains(kind), "{about}");
    }
    let plain = parsed("--scenario quiet --configurations 1 --policy lr --format json");
    assert_eq!(json["groups"], plain["groups"], "the excerpts are what is built in");
}

#[test]
fn the_whole_traces_are_told_apart_and_offer_what_they_always_did() {
    let Some(folder) = std::env::var_os("HEADWAY_TRACES") else {
        eprintln!("skipped: HEADWAY_TRACES names no folder with the whole traces");
        return;
    };
    let folder = Path::new(&folder).display().to_string();
    let line = format!("--evaluation frozen --configurations 1 --policy lr --format json --trace {folder}");
    let json = parsed(&line);
    assert!(!json["about"].to_string().contains("excerpts"), "{}", json["about"]);
    let offered = json["groups"][0]["configurations"][0]["offered_per_s"].as_f64().unwrap();
    assert!((offered - 27.1).abs() < 0.05, "{offered}");
    let twice = headway(&format!("{line} --trace {folder}"));
    assert!(String::from_utf8_lossy(&twice.stderr).contains("a second trace of"));
}
