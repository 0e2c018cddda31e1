//! The table of keys against everything that should agree with it.

use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use serde_json::Value as Json;

use super::shape::{Key, Shape, Use};
use super::{keys, schema};
use crate::config::{Contents, Environment, Lookup, NoEnvironment, SystemEnvironment, dump, parse};
use crate::yaml::{self, Node, Value};

/// Uses every key there is, with values that differ from the defaults.
const FULL: &str = r#"
listeners:
  - address: 127.0.0.1:8443
    tls: { certificate: tls.crt, key: tls.key, client_ca: ca.crt }
  - { address: 127.0.0.1:8080, h2c: true }
trusted_proxies: [10.0.0.0/8]
limits: { body: 1MiB, header: 8KiB, headers: 50, header_deadline: 1s, body_idle: 2s, connections: 5, write_idle: 3s, memory: 1GiB }
shutdown: { pre_drain: 5s, drain: 1m }
threads: 777
admin: { address: 127.0.0.1:9191, token: { file: token }, open_metrics: false, trace_url: "http://jaeger:16686/trace/{trace_id}" }
telemetry:
  otlp:
    endpoint: https://collector.internal:4317
    protocol: grpc
    sample_ratio: 5%
    always_sample: [error]
    headers: { x-tenant: { file: tenant } }
    tls: { ca: ca.crt, certificate: us.crt, key: us.key }
  access_log: { format: json, path: access.log }
  log: { level: debug }
  gpu: { nvml: libnvidia-ml.so.1, interval: 5s }
state: { path: state.json, interval: 9s }
baselines: baselines.yaml
defaults:
  timeouts: { connect: 3s, first_token: 4s, idle: 5s, total: 6s }
  retry: { attempts: 1, budget: 5%, causes: [connect, status_5xx] }
keys:
  - { name: team, sha256: ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad, routes: [chat, rest], requests_per_minute: 600, tokens_per_minute: 200k, concurrency: 64 }
cors: { origins: ["https://app.example.com"] }
backends:
  - name: a
    url: https://a.internal/base
    allow_link_local: true
    tls: { ca: ca.crt, certificate: us.crt, key: us.key, server_name: other.internal }
    http2: true
    profile: { name: tensorrt_llm-h100-fp8-tp2-latency, id: 751382df4272eafc83f541f364d61b35aed9cce8c7b0c869269cea5a366cd08c }
    models: [meta/*]
    rename: { small: meta/llama }
    price: { per_gpu_hour: 4.00, gpus: 3 }
    max_in_flight: 7
    context_length: 8192
    features: [tools]
    api_key: { file: nim }
    health: { path: /ready, interval: 9s, slow_start: 8s, eject_slow: false }
    metrics: { path: /v1/metrics, interval: 3s }
    gpus: [0, MIG-5c89852c-d268-c3f3-1b07-005d5ae1dc3f, 1/2]
    dcgm: http://a.internal:9400/metrics
  - name: b
    url: http://b
    profile: { engine: vllm, gpu: l40s, precision: fp8, tp: 2, pp: 2, target: latency, lora: true }
    price: { input_per_mtok: 1, cached_input_per_mtok: 0.5, output_per_mtok: 2 }
    forward_authorization: true
routes:
  - name: chat
    match: { models: [meta/*], paths: [/v1/chat/completions], headers: { x-tier: fast } }
    backends: [{ name: a, weight: 3 }]
    split: { canary: { backends: [{ name: b, weight: 2 }], share: 5%, rollback: never } }
    slo: { ttft: { p95: 300ms }, itl: { p95: 40ms }, e2e: { p99: 30s }, window: 1m, budget_period: 7d }
    policy: weighted
    shadow_policy: power_of_two
    priority: 10
    on_overload: { queue: { depth: 9, wait: 3s } }
    prefix_affinity: off
    timeouts: { connect: 1s, first_token: 2s, idle: 3s, total: 4s }
    retry: { attempts: 2, budget: 50%, causes: [reset] }
    commit: headers
    expose: true
    client_slo: tighten
    client_slo_floor: { ttft: 1s, itl: 1ms }
  - { name: rest, backends: [b], client_slo: ignore, hedge: { after: p90, budget: 3% }, heartbeat: 7s }
"#;

/// Keys whose only value is their default.
const WITHOUT_EFFECT: &[&str] = &["telemetry.access_log.format"];

/// Every file holds a secret, except those that should hold certificates.
struct Given;

impl Environment for Given {
    fn variable(&self, _: &str) -> Lookup<String> {
        Lookup::Skipped
    }

    fn file(&self, path: &Path) -> Lookup<Contents> {
        match path.extension() {
            Some(_) => Lookup::Skipped,
            None => Lookup::Found(Contents { bytes: b"sk-1".to_vec(), mode: Some(0o600) }),
        }
    }
}

#[test]
fn every_key_of_the_table_is_read_and_has_an_effect() {
    let (root, faults) = yaml::read(FULL);
    assert!(faults.is_empty());
    let root = root.expect("a tree");
    let whole = effect(&root).expect("the full file is good");
    let mut paths = Vec::new();
    key_paths(&keys::ROOT, "", &mut paths);
    for path in paths {
        let mut less = root.clone();
        assert!(remove(&mut less, &path) > 0, "the full file does not use `{path}`");
        let known = WITHOUT_EFFECT.contains(&path.as_str());
        assert!(known || effect(&less) != Some(whole.clone()), "nothing reads `{path}`");
    }
}

/// What a file comes to; `None` when it is refused.
fn effect(root: &Node) -> Option<Json> {
    let text = json(root).to_string();
    parse("headway.yaml", &text, &Given).ok().map(|loaded| dump(&loaded.settings))
}

fn key_paths(shape: &Shape, path: &str, paths: &mut Vec<String>) {
    if let Shape::List(inner) = shape {
        return key_paths(inner, &format!("{path}[]"), paths);
    }
    for Key { name, shape, .. } in shape.keys().iter().filter(|key| key.use_ != Use::NotBuilt) {
        let path = yaml::join(path, name);
        key_paths(shape, &path, paths);
        paths.push(path);
    }
}

/// Removes a key wherever it is; how often it was there.
fn remove(node: &mut Node, path: &str) -> usize {
    let (step, rest) = path.split_once('.').map_or((path, None), |(step, rest)| (step, Some(rest)));
    let (name, list) = step.strip_suffix("[]").map_or((step, false), |name| (name, true));
    let Value::Map(entries) = &mut node.value else { return 0 };
    let Some(rest) = rest else {
        let before = entries.len();
        entries.retain(|entry| entry.key != name);
        return before - entries.len();
    };
    let Some(entry) = entries.iter_mut().find(|entry| entry.key == name) else { return 0 };
    match &mut entry.value.value {
        Value::List(items) if list => items.iter_mut().map(|item| remove(item, rest)).sum(),
        _ => remove(&mut entry.value, rest),
    }
}

/// The tree as JSON, plain words read as YAML reads them.
fn json(node: &Node) -> Json {
    match &node.value {
        Value::Null | Value::Unknown => Json::Null,
        Value::Scalar(scalar) => match serde_json::from_str(&scalar.text) {
            Ok(plain @ (Json::Bool(_) | Json::Number(_))) => plain,
            _ => scalar.text.clone().into(),
        },
        Value::List(items) => items.iter().map(json).collect(),
        Value::Map(entries) => entries.iter().map(|entry| (entry.key.clone(), json(&entry.value))).collect(),
    }
}

/// What in `value` breaks `schema`; the part of JSON Schema that our schema uses, patterns apart.
fn breaks(schema: &Json, value: &Json, path: &str) -> Option<String> {
    if let Some(any) = schema["anyOf"].as_array() {
        let all: Option<Vec<_>> = any.iter().map(|one| breaks(one, value, path)).collect();
        return all.map(|all| all.join(" and "));
    }
    if let Some(words) = schema["enum"].as_array() {
        return (!words.contains(value)).then(|| format!("{path}: {value} is not in {words:?}"));
    }
    let fits = match schema["type"].as_str() {
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("boolean") => value.is_boolean(),
        Some("integer") => value.is_u64(),
        Some("number") => value.is_number(),
        Some(other) => return Some(format!("{path}: the checker does not know {other}")),
        None => schema["const"] == *value,
    };
    if !fits {
        return Some(format!("{path}: {value} is not {schema}"));
    }
    if let Some(items) = value.as_array() {
        return items.iter().find_map(|item| breaks(&schema["items"], item, &format!("{path}[]")));
    }
    let fields = value.as_object()?;
    let required = schema["required"].as_array().into_iter().flatten().filter_map(Json::as_str);
    if let Some(missing) = required.into_iter().find(|name| !fields.contains_key(*name)) {
        return Some(format!("{path}: {missing} is missing"));
    }
    fields.iter().find_map(|(name, value)| {
        let path = format!("{path}.{name}");
        match (&schema["properties"][name], &schema["additionalProperties"]) {
            (Json::Null, Json::Bool(false)) => Some(format!("{path} is not known")),
            (Json::Null, inner) | (inner, _) => breaks(inner, value, &path),
        }
    })
}

fn shipped() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = ["config", "examples"].into_iter().flat_map(|folder| fs::read_dir(root.join(folder)).expect(folder));
    let files = files.map(|file| file.expect("a file").path());
    files.filter(|path| path.extension().is_some_and(|extension| extension == "yaml")).collect()
}

#[test]
fn every_shipped_file_passes_check_and_schema() {
    let schema = schema::schema();
    let files = shipped();
    assert!(files.len() >= 6, "{files:?}");
    for path in files {
        let text = fs::read_to_string(&path).expect("a text");
        let tls = path.ends_with("tls-listener.yaml");
        let name = path.to_string_lossy();
        let loaded = if tls { parse(&name, &text, &NoEnvironment) } else { parse(&name, &text, &SystemEnvironment) };
        let loaded = loaded.unwrap_or_else(|report| panic!("{report}"));
        assert_eq!(loaded.warnings, [], "{name}");
        assert!(text.starts_with("# yaml-language-server: $schema="), "{name}");
        let value = json(&yaml::read(&text).0.expect("a tree"));
        assert_eq!(breaks(&schema, &value, ""), None, "{name}");
    }
}

#[test]
fn the_schema_takes_every_key_and_no_other() {
    let schema = schema::schema();
    let full = json(&yaml::read(FULL).0.expect("a tree"));
    assert_eq!(breaks(&schema, &full, ""), None);
    let mut wrong = full.clone();
    wrong["cluster"] = "p95".into();
    assert_eq!(breaks(&schema, &wrong, "").as_deref(), Some(".cluster is not known"));
    wrong = full;
    wrong["backends"][0].as_object_mut().expect("a mapping").remove("url");
    assert_eq!(breaks(&schema, &wrong, "").as_deref(), Some(".backends[]: url is missing"));
}

/// Lines of the full file, some of them mixed up, cut or doubled.
fn mutated() -> impl Strategy<Value = String> {
    let cuts = prop::collection::vec((0..FULL.len(), 0..40_usize, "[a-z:{}\\[\\]&*|>\"'#%\\-, \n${}é]{0,6}"), 1..6);
    cuts.prop_map(|cuts| {
        let mut text: Vec<char> = FULL.chars().collect();
        for (at, length, put) in cuts {
            let at = at.min(text.len());
            let end = (at + length).min(text.len());
            text.splice(at..end, put.chars());
        }
        text.into_iter().collect()
    })
}

fn never_panics(text: &str) {
    let found = match parse("headway.yaml", text, &NoEnvironment) {
        Ok(loaded) => {
            let _ = dump(&loaded.settings);
            loaded.warnings
        }
        Err(report) => {
            assert!(report.0.iter().any(crate::config::Diagnostic::is_error));
            report.0
        }
    };
    for one in found {
        assert!(one.line > 0 && one.column > 0 && !one.hint.is_empty() && !one.to_string().is_empty());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn mutated_files_are_judged_without_a_panic(text in mutated()) {
        never_panics(&text);
    }

    #[test]
    fn random_texts_are_judged_without_a_panic(text in "[a-z0-9:{}\\[\\]&*|>\"'#%!?\\-, \n\t${}é\u{0}]{0,200}") {
        never_panics(&text);
    }
}
