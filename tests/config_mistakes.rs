//! Seeded mistakes: each is found at its place, with its field, a remedy, and what was probably meant.

#![allow(clippy::expect_used, clippy::panic, reason = "a test says what it expected by failing")]

use std::path::Path;

use headway::config::{Contents, Diagnostic, Environment, Lookup, NoEnvironment, parse};
use headway::route::price::Price;

const GOOD: &str = "\
listeners:
  - address: 127.0.0.1:8080
limits: { body: 32MiB, headers: 100 }
threads: auto
admin:
  address: 127.0.0.1:9090
  token: \"${ADMIN}\"
defaults:
  timeouts: { connect: 2s, idle: 60s }
  retry: { attempts: 2, budget: 20%, causes: [connect, reset] }
backends:
  - name: fast
    url: http://10.0.0.11:8000
    models: [meta/llama]
    price: { per_gpu_hour: 4.00, gpus: 2 }
    features: [tools, vision]
    api_key: { file: key }
  - name: cheap
    url: https://nim.internal
    tls: { server_name: nim.internal }
    forward_authorization: true
routes:
  - name: chat
    match: { models: [meta/llama], paths: [/v1/chat/completions], headers: { x-tier: fast } }
    backends: [fast, { name: cheap, weight: 2 }]
    slo: { ttft: { p95: 300ms }, itl: { p95: 40ms }, window: 5m }
    policy: cheapest_within_slo
    commit: first_token
    client_slo: tighten
  - name: rest
    backends: [cheap]
    shadow_policy: power_of_two
    priority: 10
    on_overload: { queue: { depth: 64, wait: 2s } }
    prefix_affinity: auto
state: { path: state.json, interval: 30s }
";

struct Fake;

impl Environment for Fake {
    fn variable(&self, name: &str) -> Lookup<String> {
        match name {
            "ADMIN" => Lookup::Found("hunter2".to_owned()),
            "WORD" => Lookup::Found("canary-word".to_owned()),
            _ => Lookup::Missing("is not set".to_owned()),
        }
    }

    fn file(&self, path: &Path) -> Lookup<Contents> {
        match path.to_str() {
            Some("key") => Lookup::Found(Contents { bytes: b"sk-1\n".to_vec(), mode: Some(0o600) }),
            Some("loose") => Lookup::Found(Contents { bytes: b"sk-1\n".to_vec(), mode: Some(0o644) }),
            Some("empty") => Lookup::Found(Contents { bytes: b"\n".to_vec(), mode: Some(0o600) }),
            Some("measured.yaml") => Lookup::Found(Contents { bytes: MEASURED.into(), mode: Some(0o644) }),
            Some("mistaken.yaml") => {
                let mistaken = MEASURED.replace("concurrency", "concurency").replace("9ms", "9");
                Lookup::Found(Contents { bytes: mistaken.into_bytes(), mode: Some(0o644) })
            }
            Some("binary.yaml") => Lookup::Found(Contents { bytes: vec![0xff], mode: Some(0o644) }),
            _ => Lookup::Missing("it does not exist".to_owned()),
        }
    }
}

const MEASURED: &str = "\
version: 1
baselines:
  - backend: fast
    measured: 2026-01-31
    origin: a test
    points: [{ concurrency: 1, input_tokens: 512, output_tokens: 128, ttft: 25ms, itl: 9ms }]
";

/// What was written instead of what, and what should be said about it.
struct Mistake {
    right: &'static str,
    wrong: &'static str,
    place: (usize, usize),
    field: &'static str,
    says: &'static str,
    meant: Option<&'static str>,
}

const fn mistake(
    right: &'static str,
    wrong: &'static str,
    place: (usize, usize),
    field: &'static str,
    says: &'static str,
    meant: Option<&'static str>,
) -> Mistake {
    Mistake { right, wrong, place, field, says, meant }
}

#[rustfmt::skip]
const MISTAKES: &[Mistake] = &[
    // Keys.
    mistake("  token: \"${ADMIN}\"", "  trace_url: jaeger/trace", (7, 14), "admin.trace_url", "begins with `http://`", None),
    mistake("  address: 127.0.0.1:9090", "  trace_url: \"javascript://x/{trace_id}\"", (6, 14), "admin.trace_url", "begins with `http://`", None),
    mistake("  address: 127.0.0.1:9090", "  trace_url: http://jaeger:16686/", (6, 14), "admin.trace_url", "`{trace_id}` is missing", None),
    mistake("listeners:", "listners:", (1, 1), "listners", "unknown field", Some("listeners")),
    mistake("limits:", "limit:", (3, 1), "limit", "unknown field", Some("limits")),
    mistake("headers: 100", "max_headers: 100", (3, 24), "limits.max_headers", "unknown field", Some("headers")),
    mistake("defaults:", "default:", (8, 1), "default", "unknown field", Some("defaults")),
    mistake("timeouts:", "timeout:", (9, 3), "defaults.timeout", "unknown field", Some("timeouts")),
    mistake("connect: 2s", "conect: 2s", (9, 15), "defaults.timeouts.conect", "unknown field", Some("connect")),
    mistake("attempts: 2", "atempts: 2", (10, 12), "defaults.retry.atempts", "unknown field", Some("attempts")),
    mistake("    url: http:", "    uri: http:", (13, 5), "backends[0].uri", "unknown field", Some("url")),
    mistake("    models: [meta/llama]\n    price", "    model: [meta/llama]\n    price", (14, 5), "backends[0].model", "unknown field", Some("models")),
    mistake("per_gpu_hour", "per-gpu-hour", (15, 14), "backends[0].price.per-gpu-hour", "unknown field", Some("per_gpu_hour")),
    mistake("api_key", "apiKey", (17, 5), "backends[0].apiKey", "unknown field", Some("api_key")),
    mistake("server_name", "servername", (20, 12), "backends[1].tls.servername", "unknown field", Some("server_name")),
    mistake("forward_authorization", "forward_auth", (21, 5), "backends[1].forward_auth", "unknown field", Some("forward_authorization")),
    mistake("    match:", "    matches:", (24, 5), "routes[0].matches", "unknown field", Some("match")),
    mistake("paths:", "path:", (24, 36), "routes[0].match.path", "unknown field", Some("paths")),
    mistake("weight: 2", "wieght: 2", (25, 37), "routes[0].backends[1].wieght", "unknown field", Some("weight")),
    mistake("    slo: {", "    slos: {", (26, 5), "routes[0].slos", "unknown field", Some("slo")),
    mistake("ttft: {", "tftt: {", (26, 12), "routes[0].slo.tftt", "unknown field", Some("ttft")),
    mistake("    slo: {", "    ttft_slo: 500ms\n    slo: {", (26, 5), "routes[0].ttft_slo", "unknown field", None),
    mistake("policy:", "polciy:", (27, 5), "routes[0].polciy", "unknown field", Some("policy")),
    mistake("client_slo:", "client_slos:", (29, 5), "routes[0].client_slos", "unknown field", Some("client_slo")),
    mistake("    policy:", "    split: { canary: {} }\n    policy:", (27, 22), "routes[0].split.canary.backends", "`backends` is missing", None),
    mistake("shadow_policy:", "shadow:", (32, 5), "routes[1].shadow", "unknown field", Some("shadow_policy")),
    mistake("on_overload:", "on_overlaod:", (34, 5), "routes[1].on_overlaod", "unknown field", Some("on_overload")),
    mistake("queue:", "que:", (34, 20), "routes[1].on_overload.que", "unknown field", Some("queue")),
    mistake("depth:", "dept:", (34, 29), "routes[1].on_overload.queue.dept", "unknown field", Some("depth")),
    mistake("prefix_affinity:", "prefix_afinity:", (35, 5), "routes[1].prefix_afinity", "unknown field", Some("prefix_affinity")),
    mistake("state:", "stat:", (36, 1), "stat", "unknown field", Some("state")),
    mistake("path: state.json, ", "", (36, 8), "state.path", "`path` is missing", None),
    mistake("    url: http://10", "    metrics: { pth: /v1/metrics }\n    url: http://10", (13, 16), "backends[0].metrics.pth", "unknown field", Some("path")),
    mistake("threads: auto", "cluster: { redis: {} }", (4, 1), "cluster", "not built yet", None),
    mistake("threads: auto", "keys: [{ name: a, sha: abc }]", (4, 19), "keys[0].sha", "unknown field", Some("sha256")),
    mistake("threads: auto", "keys: [{ name: a, sha256: abc, rpm: 9 }]", (4, 32), "keys[0].rpm", "unknown field", None),
    mistake("threads: auto", "cors: { origin: https://a.test }", (4, 9), "cors.origin", "unknown field", Some("origins")),
    // Values.
    mistake("threads: auto", "keys: [{ name: a, sha256: hunter2 }]", (4, 27), "keys[0].sha256", "no SHA-256", None),
    mistake("threads: auto", "keys: [{ name: a, sha256: abc, requests_per_minute: 0 }]", (4, 53), "keys[0].requests_per_minute", "not a number", None),
    mistake("threads: auto", "keys: [{ name: a, sha256: abc, tokens_per_minute: 200x }]", (4, 51), "keys[0].tokens_per_minute", "not a number", None),
    mistake("threads: auto", "keys: []", (4, 7), "keys", "there is no key", None),
    mistake("threads: auto", "cors: { origins: [app.test] }", (4, 19), "cors.origins[0]", "no scheme", Some("https://app.test")),
    mistake("threads: auto", "cors: { origins: [https://app.test/] }", (4, 19), "cors.origins[0]", "no browser", Some("https://app.test")),
    mistake("127.0.0.1:8080", ":8080", (2, 14), "listeners[0].address", "not an address", Some("0.0.0.0:8080")),
    mistake("127.0.0.1:8080", "localhost:8080", (2, 14), "listeners[0].address", "not an address", Some("127.0.0.1:8080")),
    mistake("32MiB", "32", (3, 17), "limits.body", "has no unit", None),
    mistake("headers: 100", "headers: many", (3, 33), "limits.headers", "not a whole number", None),
    mistake("threads: auto", "threads: atuo", (4, 10), "threads", "not a number of threads", Some("auto")),
    mistake("connect: 2s", "connect: 2", (9, 24), "defaults.timeouts.connect", "has no unit", None),
    mistake("idle: 60s", "idle: 60 seconds", (9, 34), "defaults.timeouts.idle", "has no unit", None),
    mistake("attempts: 2", "attempts: 5", (10, 22), "defaults.retry.attempts", "outside 1 to 2", None),
    mistake("20%", "20", (10, 33), "defaults.retry.budget", "not a share", None),
    mistake("[connect, reset]", "[connect, rest]", (10, 56), "defaults.retry.causes[1]", "not a choice", Some("reset")),
    mistake("http://10", "htp://10", (13, 10), "backends[0].url", "not a scheme", Some("http")),
    mistake("http://10.0.0.11:8000", "10.0.0.11:8000", (13, 10), "backends[0].url", "no scheme", Some("http://10.0.0.11:8000")),
    mistake("http://10.0.0.11:8000", "http://169.254.169.254", (13, 10), "backends[0].url", "link-local", None),
    mistake("http://10.0.0.11:8000", "http://me:hunter2@10.0.0.11", (13, 10), "backends[0].url", "credentials", None),
    mistake("models: [meta/llama]\n    price", "models: meta/llama\n    price", (14, 13), "backends[0].models", "must be a list", None),
    mistake("4.00", "four", (15, 28), "backends[0].price.per_gpu_hour", "not an amount", None),
    mistake("[tools, vision]", "[tools, visoin]", (16, 23), "backends[0].features[1]", "not a choice", Some("vision")),
    mistake("forward_authorization: true", "forward_authorization: yes", (21, 28), "backends[1].forward_authorization", "neither", Some("true")),
    mistake("/v1/chat/completions]", "v1/chat/completions]", (24, 44), "routes[0].match.paths[0]", "not a URL path", Some("/v1/chat/completions")),
    mistake("p95: 300ms", "95: 300ms", (26, 20), "routes[0].slo.ttft.95", "not a quantile", Some("p95")),
    mistake("p95: 300ms", "p95: 300", (26, 25), "routes[0].slo.ttft.p95", "has no unit", None),
    mistake("cheapest_within_slo", "cheapest_in_slo", (27, 13), "routes[0].policy", "not a choice", Some("cheapest_within_slo")),
    mistake("cheapest_within_slo", "least_inflight", (27, 13), "routes[0].policy", "not a choice", Some("least_in_flight")),
    mistake("first_token\n", "first_tokens\n", (28, 13), "routes[0].commit", "not a choice", Some("first_token")),
    mistake("power_of_two", "power_of_tow", (32, 20), "routes[1].shadow_policy", "not a choice", Some("power_of_two")),
    mistake("priority: 10", "priority: -1", (33, 15), "routes[1].priority", "not a whole number from 0 to 1000", None),
    mistake("{ queue: { depth: 64, wait: 2s } }", "shedd", (34, 18), "routes[1].on_overload", "not a choice", Some("shed")),
    mistake("{ queue: { depth: 64, wait: 2s } }", "{ shed: true }", (34, 20), "routes[1].on_overload.shed", "unknown field", None),
    mistake("depth: 64", "depth: 100000", (34, 36), "routes[1].on_overload.queue.depth", "outside 1 to 65536", None),
    mistake("wait: 2s", "wait: 2", (34, 46), "routes[1].on_overload.queue.wait", "has no unit", None),
    mistake("prefix_affinity: auto", "prefix_affinity: on", (35, 22), "routes[1].prefix_affinity", "not a choice", None),
    mistake("interval: 30s", "interval: 0s", (36, 38), "state.interval", "zero makes no sense", None),
    mistake("    url: http://10", "    metrics: { path: /v1/metrics, interval: 5s }\n    url: http://10", (13, 45), "backends[0].metrics.interval", "longer than 4s", None),
    mistake("    url: http://10", "    gpus: [gpu0]\n    url: http://10", (13, 12), "backends[0].gpus[0]", "names no GPU", None),
    mistake("    url: http://10", "    gpus: [-1]\n    url: http://10", (13, 12), "backends[0].gpus[0]", "names no GPU", None),
    mistake("    url: http://10", "    gpus: 0\n    url: http://10", (13, 11), "backends[0].gpus", "must be a list", None),
    mistake("    url: http://10", "    gpus: []\n    url: http://10", (13, 11), "backends[0].gpus", "there is no GPU", None),
    mistake("    url: http://10", "    gpus: [0, 0]\n    url: http://10", (13, 15), "backends[0].gpus[1]", "there twice", None),
    mistake("    url: http://10", "    gpus: [0/7]\n    url: http://10", (13, 12), "backends[0].gpus[0]", "only a DCGM exporter", None),
    mistake("    url: http://10", "    dcgm: http://a:9400\n    url: http://10", (13, 11), "backends[0].dcgm", "names no page", None),
    mistake("    url: http://10", "    dcgm: a:9400/metrics\n    url: http://10", (13, 11), "backends[0].dcgm", "no scheme", Some("http://a:9400/metrics")),
    mistake("threads: auto", "telemetry: { gpu: { interval: 100ms } }", (4, 31), "telemetry.gpu.interval", "every 1s to 1m", None),
    mistake("threads: auto", "telemetry: { gpu: { nvlm: auto } }", (4, 21), "telemetry.gpu.nvlm", "unknown field", Some("nvml")),
    mistake("    url: http://10", "    metrics: { path: http://a/metrics }\n    url: http://10", (13, 22), "backends[0].metrics.path", "not a URL path", None),
    mistake("${ADMIN}", "${ADMINN}", (7, 10), "admin.token", "`ADMINN` is not set", None),
    mistake("policy: cheapest_within_slo", "policy:", (27, 5), "routes[0].policy", "has no value", None),
    // What no single value can tell.
    mistake("threads: auto", "keys: [{ name: a, sha256: ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad, routes: [chta] }]", (4, 102), "keys[0].routes[0]", "no route is called", Some("chat")),
    mistake("threads: auto", "keys: [{ name: a, sha256: ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad, routes: [] }]", (4, 101), "keys[0].routes", "there is no route", None),
    mistake("threads: auto", "keys:\n  - { name: a, sha256: ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad }\n  - { name: b, sha256: ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad }", (6, 24), "keys[1].sha256", "`b` has the same key as `a`", None),
    mistake("threads: auto", "keys:\n  - { name: a, sha256: ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad }\n  - { name: a, sha256: abc }", (6, 13), "keys[1].name", "there twice", None),
    mistake("  - name: rest\n    backends: [cheap]", "  - name: rest\n    backends: [chaep]", (31, 16), "routes[1].backends[0]", "no backend is called", Some("cheap")),
    mistake("name: rest", "name: chat", (30, 11), "routes[1].name", "there twice", None),
    mistake("  - name: cheap", "  - name: fast", (18, 11), "backends[1].name", "there twice", None),
    mistake("[cheap]", "[cheap, cheap]", (31, 23), "routes[1].backends[1]", "there twice", None),
    mistake("[cheap]", "[{ name: cheap, weight: 0 }]", (31, 15), "routes[1].backends", "sum to 0", None),
    mistake("[cheap]", "[]", (31, 15), "routes[1].backends", "there is no backend", None),
    mistake("p95: 300ms", "p95: 300ms, p99: 1s", (26, 32), "routes[0].slo.ttft.p99", "more than one objective", None),
    mistake("gpus: 2", "gpus: 2, input_per_mtok: 1", (15, 12), "backends[0].price", "not both", None),
    mistake("https://nim.internal\n    tls: { server_name: nim.internal }", "https://10.0.0.12", (19, 10), "backends[1].url", "certificate's name", None),
    mistake("tls: { server_name: nim.internal }", "tls: { key: key }", (20, 17), "backends[1].tls.key", "`certificate` is missing", None),
    mistake("127.0.0.1:9090\n  token: \"${ADMIN}\"", "0.0.0.0:9090", (6, 12), "admin.address", "needs a `token`", None),
    mistake("127.0.0.1:9090", "127.0.0.1:8080", (6, 12), "admin.address", "taken by a data listener", None),
    mistake("limits:", "  - address: 127.0.0.1:8080\nlimits:", (3, 14), "listeners[1].address", "already taken", None),
    mistake("body: 32MiB", "body: 32MiB, memory: 1MiB", (3, 32), "limits.memory", "smaller than one `body`", None),
    mistake("state: {", "baselines: state.json\nstate: {", (37, 16), "state.path", "written over `baselines`", None),
    mistake("path: state.json, interval: 30s", "path: a.log }\ntelemetry: { access_log: { path: a.log }, log: { level: info }", (36, 16), "state.path", "written over the access log", None),
    mistake("state: {", "baselines: nowhere.yaml\nstate: {", (36, 12), "baselines", "does not exist", None),
    mistake("state: {", "baselines: binary.yaml\nstate: {", (36, 12), "baselines", "not UTF-8", None),
    mistake("{ file: key }", "{ file: nowhere }", (17, 22), "backends[0].api_key.file", "does not exist", None),
    mistake("{ file: key }", "{ file: empty }", (17, 22), "backends[0].api_key.file", "empty", None),
    mistake("{ file: key }\n", "{ file: key }\n    forward_authorization: true\n", (18, 28), "backends[0].forward_authorization", "not both", None),
    mistake("    url: http://10.0.0.11:8000\n", "", (12, 5), "backends[0].url", "`url` is missing", None),
    mistake("threads: auto", "threads: auto\nthreads: 2", (5, 1), "threads", "there twice", None),
    mistake("  token: \"${ADMIN}\"", "  token: \"${ADMIN}", (8, 1), "admin.token", "not valid YAML", None),
    mistake("threads: auto", "threads: [auto", (5, 6), "threads", "not valid YAML", None),
];

fn found(text: &str) -> Vec<Diagnostic> {
    parse("headway.yaml", text, &Fake).map_or_else(|report| report.0, |loaded| loaded.warnings)
}

#[test]
fn the_file_without_mistakes_is_good() {
    assert_eq!(found(GOOD), []);
}

#[test]
fn every_seeded_mistake_is_found_at_its_place_with_a_remedy() {
    let (mut suggestions, mut right) = (0, 0);
    let mut failures = Vec::new();
    for mistake in MISTAKES {
        assert!(GOOD.contains(mistake.right), "`{}` is not in the good file", mistake.right);
        let found = found(&GOOD.replacen(mistake.right, mistake.wrong, 1));
        let told = found.iter().find(|one| {
            (one.line, one.column) == mistake.place && one.path == mistake.field && one.message.contains(mistake.says)
        });
        let Some(told) = told else {
            failures.push(format!("`{}`, expected at {:?}:\n{found:#?}", mistake.wrong, mistake.place));
            continue;
        };
        assert!(told.is_error() && !told.hint.is_empty(), "{told}");
        assert!(!told.to_string().contains("hunter2"), "{told}");
        if let Some(meant) = mistake.meant {
            suggestions += 1;
            right += usize::from(told.suggestion.as_deref() == Some(meant));
            if told.suggestion.as_deref() != Some(meant) {
                println!("`{}`: suggested {:?}, meant {meant}", mistake.wrong, told.suggestion);
            }
        }
    }
    assert!(failures.is_empty(), "{} of {}:\n{}", failures.len(), MISTAKES.len(), failures.join("\n"));
    assert!(MISTAKES.len() >= 40 && suggestions >= 20);
    assert!(right * 10 >= suggestions * 9, "{right} of {suggestions} suggestions are right");
}

#[test]
fn one_run_finds_them_all() {
    let all = GOOD
        .replace("headers: 100", "headers: many")
        .replace("connect: 2s", "connect: 2")
        .replace("first_token\n", "first_tokens\n")
        .replace("backends: [cheap]", "backends: [chaep]")
        .replace("    policy:", "    polciy:");
    assert_eq!(found(&all).iter().filter(|one| one.is_error()).count(), 5);
}

#[test]
fn errors_look_like_this() {
    let text = GOOD.replace("    slo: {", "    ttft_slo: 500ms\n    slos: {");
    let shown: Vec<_> = found(&text).iter().map(ToString::to_string).collect();
    let expected = "\
headway.yaml:26:5: unknown field \"ttft_slo\", did you mean \"slo\"?
   25 |     backends: [fast, { name: cheap, weight: 2 }]
   26 |     ttft_slo: 500ms
      |     ^^^^^^^^
   27 |     slos: { ttft: { p95: 300ms }, itl: { p95: 40ms }, window: 5m }
  field: routes[0].ttft_slo
  hint: fields here: `name`, `match`, `backends`, `slo`, `policy`, `shadow_policy`, `priority`, `on_overload`, `prefix_affinity`, `timeouts`, `retry`, `commit`, `hedge`, `heartbeat`, `expose`, `client_slo`, `client_slo_floor`, `split`

headway.yaml:27:5: unknown field \"slos\", did you mean \"slo\"?
   26 |     ttft_slo: 500ms
   27 |     slos: { ttft: { p95: 300ms }, itl: { p95: 40ms }, window: 5m }
      |     ^^^^
   28 |     policy: cheapest_within_slo
  field: routes[0].slos
  hint: fields here: `name`, `match`, `backends`, `slo`, `policy`, `shadow_policy`, `priority`, `on_overload`, `prefix_affinity`, `timeouts`, `retry`, `commit`, `hedge`, `heartbeat`, `expose`, `client_slo`, `client_slo_floor`, `split`
";
    assert_eq!(shown.join("\n"), expected);
}

#[test]
fn what_works_but_should_not_be_done_is_a_warning() {
    #[track_caller]
    fn warns(right: &str, wrong: &str, says: &str) {
        let found = found(&GOOD.replacen(right, wrong, 1));
        let told = found.iter().find(|one| one.message.contains(says)).unwrap_or_else(|| panic!("{found:#?}"));
        assert!(!told.is_error() && !told.hint.is_empty() && told.line > 1, "{told}");
        assert!(!told.to_string().contains("hunter2"), "{told}");
    }
    warns("{ file: key }", "hunter2", "a secret stands in the configuration");
    warns("\"${ADMIN}\"", "hunter2", "a secret stands in the configuration");
    warns("{ file: key }", "{ file: loose }", "mode 0644");
    warns("  - name: chat", "  - { name: all, backends: [fast] }\n  - name: chat", "`chat` is never reached");
    warns("[fast, { name: cheap, weight: 2 }]", "[cheap]", "no route uses the backend `fast`");
    warns("power_of_two", "cheapest_within_slo", "in its own shadow");
    warns("gpus: 2 }", "gpus: 2 }\n    profile: vllm-fp8-tp4", "the price is for 2 GPUs, and the profile uses 4");
}

#[test]
fn a_profile_is_a_name_an_id_both_or_its_parts() {
    const ID: &str = "751382df4272eafc83f541f364d61b35aed9cce8c7b0c869269cea5a366cd08c";
    let text = |profile: &str| {
        format!(
            "listeners: [{{ address: 127.0.0.1:1 }}]\nbackends:\n  - {{ name: a, url: http://a, price: {{ per_gpu_hour: 1 }}, \
             profile: {profile} }}\nroutes: [{{ name: r, backends: [a] }}]\n"
        )
    };
    let read = |profile: &str| {
        let loaded = parse("headway.yaml", &text(profile), &NoEnvironment).unwrap_or_else(|report| panic!("{report}"));
        let backend = loaded.settings.backends.first().expect("one");
        let gpus = match backend.price {
            Some(Price::PerGpuHour { gpus, .. }) => gpus,
            _ => 0,
        };
        (backend.profile.as_deref().unwrap_or_default().to_owned(), backend.profile_id.is_some(), gpus)
    };
    let named = |name: &str, id, gpus| (name.to_owned(), id, gpus);
    assert_eq!(read("tensorrt_llm-h100-fp8-tp2-latency"), named("tensorrt_llm-h100-fp8-tp2-latency", false, 2));
    assert_eq!(read(ID), named(ID, true, 1));
    assert_eq!(read(&format!("{{ id: {ID}, name: vllm-tp4 }}")), named("vllm-tp4", true, 4));
    let parts = "{ engine: tensorrt_llm, gpu: H100, precision: fp8, tp: 2, pp: 2, target: latency }";
    assert_eq!(read(parts), named("tensorrt_llm-h100-fp8-tp2-pp2-latency", false, 4));
    for (wrong, says) in [
        (format!("\"{ID} (vllm-fp16-tp1)\""), "an id and a name together"),
        ("{ id: 751382df }".to_owned(), "`751382df` is not the id of a profile"),
        ("{ name: vllm, tp: 2 }".to_owned(), "a name or parts, not both"),
        ("{ lora: false }".to_owned(), "says nothing"),
        ("{ tp: 0 }".to_owned(), "0 is outside 1 to 1024"),
    ] {
        let found = found(&text(&wrong));
        assert!(found.iter().any(|one| one.is_error() && one.message.contains(says)), "{wrong}: {found:#?}");
    }
}

#[test]
fn a_narrower_route_after_a_wider_one_is_not_reached_and_a_different_one_is() {
    #[track_caller]
    fn check(earlier: &str, later: &str, unreachable: bool) {
        let text = format!(
            "listeners: [{{ address: 127.0.0.1:1 }}]\nbackends: [{{ name: a, url: http://a }}]\nroutes:\n  \
             - {{ name: one, match: {earlier}, backends: [a] }}\n  - {{ name: two, match: {later}, backends: [a] }}\n"
        );
        let found = found(&text);
        assert_eq!(found.iter().any(|one| one.message.contains("never reached")), unreachable, "{found:#?}");
        assert!(found.iter().all(|one| !one.is_error()), "{found:#?}");
    }
    check("{ models: ['meta/*'] }", "{ models: [meta/llama] }", true);
    check("{ models: ['meta/*'] }", "{ models: ['meta/*-8b'] }", true);
    check("{ models: ['meta/*-8b'] }", "{ models: ['meta/*'] }", false);
    check("{ models: [meta/llama] }", "{}", false);
    check("{ models: ['*'] }", "{}", true);
    check("{ paths: [/v1/embeddings] }", "{ models: [a] }", false);
    check("{ headers: { x-a: b } }", "{ headers: { X-A: b, x-c: d } }", true);
    check("{ headers: { x-a: b } }", "{ headers: { x-a: c } }", false);
}

#[test]
fn variables_are_put_in_and_never_shown() {
    let good = GOOD.replace("meta/llama], paths", "\"${WORD}/x\", 'a$${b}'], paths");
    let loaded = parse("headway.yaml", &good, &Fake).unwrap_or_else(|report| panic!("{report}"));
    let models: Vec<_> = loaded.settings.routes.iter().flat_map(|route| &route.matches.models).collect();
    let models: Vec<_> = models.iter().map(|model| &*model.0).collect();
    assert_eq!(models, ["canary-word/x", "a${b}"]);
    let found = found(&GOOD.replace("connect: 2s", "connect: \"${WORD}\""));
    assert!(found.iter().any(|one| one.message.contains("`${WORD}` stands for something")), "{found:#?}");
    assert!(found.iter().all(|one| !format!("{one}{one:?}{}", one.to_json()).contains("canary")), "{found:#?}");
}

#[test]
fn a_secret_is_shown_nowhere() {
    let mut texts = vec![
        GOOD.replace("{ file: key }", "sk-canary"),
        GOOD.replace("\"${ADMIN}\"", "sk-canary"),
        GOOD.replace("api_key: { file: key }", "apikey: sk-canary"),
        GOOD.replace("api_key: { file: key }", "api_kye: sk-canary"),
        GOOD.replace("api_key: { file: key }", "key: sk-canary"),
        GOOD.replace("api_key: { file: key }", "api_key: [sk-canary]"),
        GOOD.replace("api_key: { file: key }", "api_key: { fiel: sk-canary }"),
        GOOD.replace("{ file: key }", "\"sk-canary with\\nnew lines\""),
        GOOD.replace("{ file: key }", "|\n      more\n      sk-canary"),
        GOOD.replace("http://10", "http://user:sk-canary@10"),
        GOOD.replace("{ file: key }", "sk-canary\n    url: [broken"),
        GOOD.replace("{ file: key }", "\"sk-canary"),
        GOOD.replace("{ file: key }", "sk-canary\n    name: fast"),
    ];
    // Under `keys` belong digests, and somebody wrote the keys.
    for keys in [
        "keys: [sk-canary]",
        "keys: [\"sk-canary\", abc]",
        "keys:\n  - sk-canary\n  - abc",
        "keys: sk-canary",
        "keys: { a: sk-canary }",
        "keys: { name: sk-canary }",
        "keys: { a: { b: [sk-canary] } }",
        "keys: [[sk-canary]]",
        "keys: [{ name: a, value: sk-canary }]",
        "keys: [{ name: a, sha256: sk-canary, rpm: 9 }]",
        "keys: [{ name: a, sha256: { of: sk-canary } }]",
        "kyes: [sk-canary]",
        "keys:\n  - sk-canary\nthreads: [broken",
        "keys:\n  - sk-canary\n  a: [broken",
    ] {
        texts.push(GOOD.replace("threads: auto", keys));
    }
    texts.push(texts[0].replace("policy:", "polciy:").replace("features", "faetures"));
    for text in texts {
        let (loaded, found) = match parse("headway.yaml", &text, &Fake) {
            Ok(loaded) => (format!("{loaded:?}{}", headway::config::dump(&loaded.settings)), loaded.warnings),
            Err(report) => (format!("{report}{report:?}{}", report.to_json()), report.0),
        };
        assert!(!found.is_empty(), "{text}");
        assert!(!loaded.contains("canary"), "{loaded}");
        assert!(found.iter().all(|one| !format!("{one}{one:?}{}", one.to_json()).contains("canary")), "{found:#?}");
    }
}

#[test]
fn bombs_are_refused_at_once() {
    #[track_caller]
    fn refused(bomb: &str, says: &str) {
        let report = parse("headway.yaml", bomb, &Fake).expect_err("a bomb");
        assert!(report.0.len() <= 500 && report.0.iter().all(|one| !one.hint.is_empty()));
        assert!(report.0.iter().any(|one| one.message.contains(says)), "{report}");
    }
    let mut laughs = vec!["a: &a [x, x, x, x, x, x, x, x, x, x]".to_owned()];
    for (name, before) in ('b'..='k').zip('a'..) {
        let ten = [before; 10].map(|before| format!("*{before}")).join(", ");
        laughs.push(format!("{name}: &{name} [{ten}]"));
    }
    refused(&laughs.join("\n"), "more than 50000 values");
    refused(&format!("a: {}", "[".repeat(100_000)), "not valid YAML");
    refused(&(0..60).map(|depth| " ".repeat(depth) + "a:\n").collect::<String>(), "nested more than 32 deep");
    refused(&"# ".repeat(1 << 20), "larger than 1 MiB");
    refused(&"a\n".repeat(100_000).replace('a', "- x"), "more than 50000 values");
    refused("a: &a [*a]", "inside what it refers to");
    refused("---\na: b\n---\n", "a second document");
    refused("", "the configuration is empty");
    refused("just words", "must be a mapping");
}

#[test]
fn certificates_and_keys_must_belong_together() {
    let folder = tempfile::tempdir().expect("folder");
    for name in ["ours", "other"] {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        std::fs::write(folder.path().join(format!("{name}.crt")), made.cert.pem()).expect("certificate");
        std::fs::write(folder.path().join(format!("{name}.key")), made.signing_key.serialize_pem()).expect("key");
    }
    let check = |tls: &str, says: Option<&str>| {
        let file = folder.path().join("headway.yaml");
        let text = GOOD.replace("127.0.0.1:8080", &format!("127.0.0.1:8080\n    tls: {{ {tls} }}"));
        let text = text.replace("  token: \"${ADMIN}\"\n", "").replace("    api_key: { file: key }\n", "");
        std::fs::write(&file, text).expect("file");
        let found = headway::config::check(&file, &headway::config::SystemEnvironment);
        let errors: Vec<_> = found.iter().filter(|one| one.is_error()).collect();
        match says {
            None => assert!(errors.is_empty(), "{errors:#?}"),
            Some(says) => assert!(errors.iter().any(|one| one.message.contains(says)), "{errors:#?}"),
        }
    };
    check("certificate: ours.crt, key: ours.key, client_ca: other.crt", None);
    check("certificate: ours.crt, key: other.key", Some("cannot be used together"));
    check("certificate: ours.key, key: ours.key", Some("holds no certificate"));
    check("certificate: ours.crt, key: ours.crt", Some("holds no private key"));
    check("certificate: ours.crt, key: gone.key", Some("it does not exist"));
}

#[test]
fn files_of_other_editors_are_read() {
    assert_eq!(found(&GOOD.replace('\n', "\r\n")), []);
    assert_eq!(found(&format!("\u{feff}{GOOD}")), []);
    assert_eq!(found(&format!("---\n{GOOD}...\n")), []);
    let shared = GOOD.replace("price: {", "price: &price {").replace("    forward_", "    price: *price\n    forward_");
    assert_eq!(found(&shared), []);
}

#[test]
fn what_becomes_of_requests_that_are_too_many_is_written_in_three_ways() {
    use headway::route::admission::OnOverload::{self, Queue, Sacrifice, Shed};

    #[track_caller]
    fn check(written: &str, expected: OnOverload) {
        let text = GOOD.replace("    on_overload: { queue: { depth: 64, wait: 2s } }\n", written);
        let loaded = parse("headway.yaml", &text, &Fake).unwrap_or_else(|report| panic!("{report}"));
        assert_eq!(loaded.settings.routes.last().map(|route| route.on_overload), Some(expected), "{written}");
    }
    let queue = |depth, millis| Queue { depth, wait: std::time::Duration::from_millis(millis) };
    check("", Sacrifice);
    check("    on_overload: shed\n", Shed);
    check("    on_overload: sacrifice\n", Sacrifice);
    check("    on_overload: queue\n", queue(64, 2_000));
    check("    on_overload: { queue: {} }\n", queue(64, 2_000));
    check("    on_overload: { queue: { depth: 3 } }\n", queue(3, 2_000));
    check("    on_overload:\n      queue: { wait: 500ms }\n", queue(64, 500));
}

#[test]
fn a_file_of_measurements_is_judged_in_the_same_run_at_its_own_places() {
    let with = |name: &str| GOOD.replace("state: {", &format!("baselines: {name}\nstate: {{"));
    let loaded = parse("headway.yaml", &with("measured.yaml"), &Fake).unwrap_or_else(|report| panic!("{report}"));
    let baselines = loaded.settings.baselines.expect("measurements");
    let of = |name: &str| {
        loaded.settings.backends.iter().find(|backend| &*backend.name == name).and_then(|one| baselines.of(one))
    };
    assert!(of("fast").is_some() && of("cheap").is_none() && loaded.warnings.is_empty());

    let found = found(&with("mistaken.yaml").replace("threads: auto", "threads: atuo"));
    let places: Vec<_> = found.iter().map(|one| (&*one.file, one.line, one.suggestion.as_deref())).collect();
    let expected =
        [("headway.yaml", 4, Some("auto")), ("mistaken.yaml", 6, Some("concurrency")), ("mistaken.yaml", 6, None)];
    assert_eq!(places, expected, "{found:#?}");

    let renamed = with("measured.yaml").replace("name: fast", "name: quick").replace("[fast,", "[quick,");
    let found = self::found(&renamed);
    assert!(found.iter().any(|one| !one.is_error() && one.message.contains("measurements of `fast`")), "{found:#?}");
}

#[test]
fn traces_are_judged_with_everything_else() {
    let with = |otlp: &str| GOOD.replace("defaults:", &format!("telemetry:\n  otlp: {otlp}\ndefaults:"));
    let check = |otlp: &str, field: &str, says: &str| {
        let found = found(&with(otlp));
        let is = |one: &Diagnostic| one.path == field && one.message.contains(says) && one.is_error();
        assert!(found.iter().any(is), "{otlp}: {found:#?}");
    };
    check("{ endpoint: collector:4318 }", "telemetry.otlp.endpoint", "has no scheme");
    check("{ protocol: http/json }", "telemetry.otlp.protocol", "http/json");
    check("{ sample_ratio: 2 }", "telemetry.otlp.sample_ratio", "2");
    check("{ always_sample: [slow] }", "telemetry.otlp.always_sample[0]", "slow");
    check("{ endpoint: http://c, tls: { ca: ca.crt } }", "telemetry.otlp.tls", "no meaning");
    check("{ endpoint: https://c, tls: { key: us.key } }", "telemetry.otlp.tls.key", "`certificate` is missing");
    check("{ headers: { x y: { file: key } } }", "telemetry.otlp.headers.x y", "cannot be a header name");
    for otlp in ["{}", "{ endpoint: http://c:4318, sample_ratio: 5%, always_sample: [] }"] {
        assert!(parse("headway.yaml", &with(otlp), &Fake).is_ok_and(|loaded| loaded.settings.telemetry.otlp.is_some()));
    }
    assert!(parse("headway.yaml", GOOD, &Fake).is_ok_and(|loaded| loaded.settings.telemetry.otlp.is_none()));
    let shown = format!("{:#?}", found(&with("{ endpoint: ftp://c, headers: { x-tenant: hunter2 } }")));
    assert!(!shown.contains("hunter2") && shown.contains("x-tenant"), "{shown}");
}

/// What is said of a configuration with one change.
fn said(from: &str, to: &str) -> String {
    let text = GOOD.replacen(from, to, 1);
    assert_ne!(text, GOOD);
    let all = match parse("headway.yaml", &text, &Fake) {
        Ok(loaded) => loaded.warnings,
        Err(report) => report.0,
    };
    all.iter().map(|one| format!("{}: {}", one.path, one.message)).collect::<Vec<_>>().join("\n")
}

#[test]
fn link_local_addresses_are_refused_in_any_clothes_unless_they_are_meant() {
    let allowed = "\n    allow_link_local: true";
    for host in ["169.254.169.254", "[fe80::1]:8000", "[::ffff:169.254.169.254]", "[fd00:ec2::254]"] {
        let url = format!("http://{host}");
        let refused = said("http://10.0.0.11:8000", &url);
        assert!(refused.contains("backends[0].url") && refused.contains("link-local"), "{host}: {refused}");
        let meant = said("http://10.0.0.11:8000", &format!("{url}{allowed}"));
        assert!(!meant.contains("link-local"), "{host}: {meant}");
    }
    let dcgm = |more: &str| {
        said("http://10.0.0.11:8000", &format!("http://10.0.0.11:8000\n    dcgm: http://169.254.1.1/metrics{more}"))
    };
    assert!(dcgm("").contains("backends[0].dcgm: `169.254.1.1` is a link-local"), "{}", dcgm(""));
    assert!(!dcgm(allowed).contains("link-local"));
    let otlp = said("threads: auto", "telemetry: { otlp: { endpoint: http://169.254.1.1 } }");
    assert!(otlp.contains("telemetry.otlp.endpoint") && otlp.contains("link-local"), "{otlp}");
}

/// The good file's world, at the end of a certificate's time.
struct Ending(&'static str);

impl Environment for Ending {
    fn variable(&self, name: &str) -> Lookup<String> {
        Fake.variable(name)
    }

    fn file(&self, path: &Path) -> Lookup<Contents> {
        if path.to_str() != Some("ca.pem") {
            return Fake.file(path);
        }
        let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).expect("names");
        params.not_after = rcgen::date_time_ymd(2030, 1, 31);
        let key = rcgen::KeyPair::generate().expect("a key");
        let pem = params.self_signed(&key).expect("a certificate").pem();
        Lookup::Found(Contents { bytes: pem.into_bytes(), mode: Some(0o644) })
    }

    fn wall(&self) -> Option<std::time::SystemTime> {
        let day = if self.0 == "after" { 22_000 } else { 21_935 };
        let today = std::time::UNIX_EPOCH + std::time::Duration::from_secs(day * 86_400);
        (self.0 != "unknown").then_some(today)
    }
}

#[test]
fn a_certificate_that_has_expired_or_soon_will_is_warned_of_at_its_place() {
    let text = GOOD.replacen("{ server_name: nim.internal }", "{ server_name: nim.internal, ca: ca.pem }", 1);
    let said = |when: &'static str| {
        let loaded = parse("headway.yaml", &text, &Ending(when)).unwrap_or_else(|report| panic!("{report}"));
        let mut all = loaded.warnings.iter().map(|one| format!("{}: {} {}", one.path, one.code.as_str(), one.message));
        all.next().unwrap_or_default()
    };
    let ca = "backends[1].tls.ca: expiring the certificate in `ca.pem`";
    assert_eq!(said("before"), format!("{ca} expires in 10 days"));
    assert_eq!(said("after"), format!("{ca} expired 55 days ago"));
    assert_eq!(said("unknown"), "");
}

const WITH_KEYS: &str = "\
listeners: [{ address: 127.0.0.1:1 }]
backends: [{ name: a, url: http://a, forward_authorization: true }]
routes: [{ name: r, match: { paths: [/r] }, backends: [a] }, { name: s, match: { paths: [/s] }, backends: [a] }]
cors: { origins: ['*'] }
";

#[test]
fn what_lets_in_more_than_is_meant_is_warned_of() {
    let says = |text: &str| found(text).into_iter().map(|one| (one.path.clone(), one.is_error())).collect::<Vec<_>>();
    assert_eq!(says(WITH_KEYS), [("cors.origins".to_owned(), false)]);
    // `test`, and `test` with the line end that `echo` adds.
    for guessed in [
        "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        "f2ca1bb6c7e907d06dafe4687e579fce76b37e4e93b7605022da52e6ccc26fd2",
    ] {
        let text = format!("{WITH_KEYS}keys: [{{ name: k, sha256: {guessed}, routes: [r] }}]\n");
        let expected = ["backends[0].forward_authorization", "routes[1].name", "keys[0].sha256"];
        assert_eq!(says(&text), expected.map(|path| (path.to_owned(), false)));
        assert!(found(&text).iter().all(|one| !one.to_string().contains(guessed)), "a digest of a word is the word");
    }
}
