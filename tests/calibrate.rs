//! `headway calibrate` as a user runs it, on simulated NIMs: what it writes and says, and whom it leaves alone.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use headway::clock::SystemClock;
use headway::engine::Profile;
use headway::nim_simulator::{DEFAULT_MODEL, Simulator, SimulatorOptions};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Small loads of short requests: a few seconds for two backends.
const SMALL: &str = "--concurrency 1,4 --input-tokens 50,400 --output-tokens 20 --requests 16 --between 0";

async fn simulator(profile: &str) -> Simulator {
    let options = SimulatorOptions { speed: 10.0, ..SimulatorOptions::new(Profile::named(profile).expect("known")) };
    Simulator::start(options, Arc::new(SystemClock)).await.expect("a free port")
}

/// A configuration of those backends: names, profiles, URLs, prices per hour.
fn configured(folder: &TempDir, admin: u16, backends: &[(&str, &str, &str, f64)]) -> PathBuf {
    let stanza = |(name, profile, url, price): &(&str, &str, &str, f64)| {
        format!(
            "  - {{ name: {name}, url: '{url}', profile: {profile}, models: [{DEFAULT_MODEL}], \
             price: {{ per_gpu_hour: {price} }}, health: {{ interval: 200ms }} }}\n"
        )
    };
    let (stanzas, names): (String, Vec<_>) =
        (backends.iter().map(stanza).collect(), backends.iter().map(|one| one.0).collect());
    let text = format!(
        "listeners: [{{ address: '127.0.0.1:0' }}]\nadmin: {{ address: '127.0.0.1:{admin}' }}\nbaselines: baselines.yaml\n\
         backends:\n{stanzas}routes:\n  - {{ name: chat, backends: [{}], slo: {{ ttft: {{ p95: 5s }}, itl: {{ p95: 1s }} }} }}\n",
        names.join(", ")
    );
    let file = folder.path().join("headway.yaml");
    fs::write(&file, text).expect("written");
    file
}

fn command(config: &Path, words: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_headway"));
    command.args(["calibrate", "--config"]).arg(config).args(words.split_whitespace());
    command
}

async fn calibrate(config: &Path, words: &str) -> Output {
    let mut command = command(config, words);
    tokio::task::spawn_blocking(move || command.output()).await.expect("a thread").expect("a process")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn found(output: &Output) -> Value {
    assert!(output.status.success(), "{}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", text(&output.stdout)))
}

#[tokio::test(flavor = "multi_thread")]
async fn backends_are_measured_compared_and_written_for_the_router() {
    let (fast, cheap) = (simulator("h100-latency").await, simulator("l40s").await);
    let folder = tempfile::tempdir().expect("a folder");
    let backends = [
        ("fast", "tensorrt_llm-h100-fp8-tp1-latency", &*fast.url(), 4.0),
        ("cheap", "tensorrt_llm-l40s-fp8-tp1-throughput", &*cheap.url(), 0.5),
    ];
    let config = configured(&folder, 0, &backends);
    let words = format!("{SMALL} --demand chat=30:60/24 --format json");
    let findings = found(&calibrate(&config, &words).await);

    let points = findings["backends"][0]["points"].as_array().expect("points");
    let shapes: Vec<_> = points
        .iter()
        .map(|one| {
            (one["shape"]["input_tokens"].as_u64(), one["shape"]["output_tokens"].as_u64(), one["concurrency"].as_u64())
        })
        .collect();
    let expected =
        [(50, 20), (60, 24), (400, 20)].into_iter().flat_map(|(i, o)| [1, 4].map(|c| (Some(i), Some(o), Some(c))));
    assert_eq!(shapes, expected.collect::<Vec<_>>(), "the lengths of the demand are measured too");
    assert!(
        points.iter().all(|one| one["errors"] == json!({}) && one["ttft_ms"]["p50"].as_f64().unwrap() > 0.0),
        "{points:?}"
    );
    let step = |place: usize| findings["backends"][place]["engine"]["step_ms"]["value"].as_f64().expect("a step");
    assert!(step(1) > 1.5 * step(0), "{} and {}: a step of the L40S takes 2.5 times as long", step(0), step(1));

    let route = &findings["routes"][0];
    assert_eq!((&route["route"], &route["use"], &route["why"]), (&"chat".into(), &"cheap".into(), &"cheapest".into()));
    assert_eq!(findings["routes"].as_array().map(Vec::len), Some(1), "a demand says what its route is like");
    let fleet = &findings["fleet"];
    let groups = fleet["groups"].as_array().expect("groups");
    let carried: f64 = groups.iter().map(|one| one["serves"][0]["requests_per_second"].as_f64().expect("a rate")).sum();
    assert_eq!(groups[0]["serves"][0]["shape"], json!({ "input_tokens": 60, "output_tokens": 24 }));
    assert!(carried >= 30.0 - 1e-6 && fleet["per_hour"].as_f64().unwrap() > 0.0, "{fleet}");

    let check = Command::new(env!("CARGO_BIN_EXE_headway")).args(["check", "--strict"]).arg(&config).output().unwrap();
    assert!(check.status.success(), "{}", text(&check.stdout));
    let written =
        fs::read_to_string(folder.path().join("baselines.yaml")).expect("written where the configuration reads");
    assert_eq!(written.matches("  - backend: ").count(), 2, "{written}");
    assert_eq!(written.matches("  - profile: ").count(), 2, "{written}");

    // Again, of one alone: the other keeps its own. In words this time.
    let output = calibrate(&config, &format!("{SMALL} --backend fast")).await;
    let (said, again) =
        (text(&output.stdout), fs::read_to_string(folder.path().join("baselines.yaml")).expect("written"));
    for part in [
        "The engine that fits",
        "The highest load at which a route's objectives hold",
        "chat, 50 in, 20 out: fast, the only one of those measured that keeps",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert_eq!(again.matches("  - backend: ").count(), 2, "{again}");
    let of_cheap = |all: &str| all.split("  - ").find(|entry| entry.starts_with("backend: cheap")).map(str::to_owned);
    assert_eq!((of_cheap(&again), again == written), (of_cheap(&written), false));
}

/// A request under way at a simulated NIM, until it is dropped.
async fn user(simulator: &Simulator) -> TcpStream {
    let authority = simulator.url().trim_start_matches("http://").to_owned();
    let mut stream = TcpStream::connect(&authority).await.expect("connected");
    let body = format!(
        "{{\"model\":\"{DEFAULT_MODEL}\",\"stream\":true,\"max_tokens\":100000,\"ignore_eos\":true,\
         \"messages\":[{{\"role\":\"user\",\"content\":\"hello\"}}]}}"
    );
    let head = format!("POST /v1/chat/completions HTTP/1.1\r\nhost: {authority}\r\ncontent-type: application/json\r\n");
    let request = format!("{head}content-length: {}\r\n\r\n{body}", body.len());
    stream.write_all(request.as_bytes()).await.expect("sent");
    stream.read_u8().await.expect("an answer begins");
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_with_users_is_left_alone_unless_told() {
    let busy = simulator("h100-latency").await;
    let user = user(&busy).await;
    let folder = tempfile::tempdir().expect("a folder");
    let config = configured(&folder, 0, &[("busy", "p", &*busy.url(), 1.0)]);
    let output = calibrate(&config, SMALL).await;
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("busy was not measured: its engine has 1 requests running"), "{said}");
    assert!(!folder.path().join("baselines.yaml").exists(), "nothing was measured");
    let findings = found(&calibrate(&config, &format!("{SMALL} --in-service --format json")).await);
    assert_eq!(findings["backends"][0]["name"], "busy");
    drop(user);
}

/// A server that answers GETs with those pages, and nothing else.
async fn pages(pages: &'static [(&'static str, &'static str)]) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = vec![0; 4096];
                let read = socket.read(&mut head).await.unwrap_or(0);
                let head = String::from_utf8_lossy(&head[..read]).into_owned();
                let path = head.split(' ').nth(1).unwrap_or_default();
                let found = pages.iter().find(|(page, _)| *page == path && head.starts_with("GET"));
                let (status, body) = found.map_or(("404 Not Found", ""), |(_, body)| ("200 OK", *body));
                let answer =
                    format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len());
                let _ = socket.write_all(answer.as_bytes()).await;
            });
        }
    });
    url
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_of_which_nothing_says_that_it_is_idle_is_left_alone() {
    let ready = ("/v1/health/ready", "ok");
    let silent = pages(Vec::leak(vec![ready])).await;
    let busy = pages(Vec::leak(vec![ready, ("/v1/metrics", "num_requests_running 3\nnum_requests_waiting 1\n")])).await;
    let folder = tempfile::tempdir().expect("a folder");
    let config = configured(&folder, 0, &[("silent", "p", &*silent, 1.0), ("busy", "p", &*busy, 1.0)]);
    let output = calibrate(&config, SMALL).await;
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("silent was not measured: nothing says whether it has users"), "{said}");
    assert!(said.contains("busy was not measured: its engine has 3 requests running and 1 waiting"), "{said}");
    let output = calibrate(&config, &format!("{SMALL} --backend silent --in-service")).await;
    let said = text(&output.stdout);
    assert!(said.contains("it does not answer a request for `meta/llama-3.1-8b-instruct`: http_404"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_fails_at_a_load_is_not_asked_more_and_is_said_to_fail() {
    // Two places; whoever comes beyond is refused.
    let profile = Profile { max_sequences: 2, ..Profile::named("h100-latency").expect("known") };
    let options = SimulatorOptions { speed: 10.0, max_queue: 0, ..SimulatorOptions::new(profile) };
    let full = Simulator::start(options, Arc::new(SystemClock)).await.expect("a free port");
    let folder = tempfile::tempdir().expect("a folder");
    let config = configured(&folder, 0, &[("full", "p", &*full.url(), 1.0)]);
    let words = "--concurrency 1,8,16 --input-tokens 50,60 --output-tokens 20 --requests 32 --format json";
    let findings = found(&calibrate(&config, words).await);
    let points = findings["backends"][0]["points"].as_array().expect("points");
    let loads: Vec<_> = points.iter().map(|one| one["concurrency"].as_u64().expect("a load")).collect();
    assert_eq!(loads, [1, 8, 1], "{points:?}");
    assert!(
        points[1]["errors"].as_object().is_some_and(|errors| errors.keys().any(|class| class.starts_with("http_")))
    );
    let capacity = &findings["routes"][0]["alternatives"][0]["capacity"];
    assert_eq!((&capacity["fails_above"], &capacity["concurrency"]), (&json!(true), &json!(1.0)));
    let written = fs::read_to_string(folder.path().join("baselines.yaml")).expect("written");
    assert!(!written.contains("concurrency: 8"), "{written}");
}

/// `headway serve`, ended when this is dropped.
struct Serving(Child);

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn ask(admin: u16, method: &str, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", admin)).await.ok()?;
    let request =
        format!("{method} {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.ok()?;
    Some(answer)
}

async fn until_ready(admin: u16) {
    let waiting = async {
        while !ask(admin, "GET", "/readyz").await.is_some_and(|answer| answer.starts_with("HTTP/1.1 200")) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), waiting).await.expect("ready");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_a_running_headway_uses_must_be_drained_first() {
    let backend = simulator("h100-latency").await;
    let folder = tempfile::tempdir().expect("a folder");
    let admin = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a free port").port();
    let config = configured(&folder, admin, &[("used", "p", &*backend.url(), 1.0)]);
    // A headway that serves insists on what its configuration names.
    let measured = "version: 1\nbaselines:\n  - backend: used\n    measured: 2026-01-31\n    origin: a guess\n    points: \
                    [{ concurrency: 1, input_tokens: 50, output_tokens: 20, ttft: 9ms, itl: 1ms }]\n";
    fs::write(folder.path().join("baselines.yaml"), measured).expect("written");
    let serving = Command::new(env!("CARGO_BIN_EXE_headway"))
        .args(["serve", "--config"])
        .arg(&config)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map(Serving)
        .expect("a process");
    until_ready(admin).await;
    let said = text(&calibrate(&config, SMALL).await.stdout);
    assert!(said.contains("has it in service (ready)") && said.contains("/api/v1/backends/used/drain"), "{said}");
    let drained = ask(admin, "POST", "/api/v1/backends/used/drain").await.expect("an answer");
    assert!(drained.starts_with("HTTP/1.1 2"), "{drained}");
    let output = calibrate(&config, SMALL).await;
    assert!(output.status.success(), "{}", text(&output.stdout));
    drop(serving);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_does_not_answer_is_skipped_with_the_reason() {
    let (up, folder) = (simulator("h100-latency").await, tempfile::tempdir().expect("a folder"));
    let free = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a free port");
    let config = configured(&folder, 0, &[("down", "p", &format!("http://{free}"), 1.0), ("up", "p", &*up.url(), 1.0)]);
    let findings = found(&calibrate(&config, &format!("{SMALL} --format json --no-write")).await);
    assert_eq!(findings["skipped"][0]["backend"], "down");
    assert_eq!(findings["skipped"][0]["why"], "it is not ready: no connection");
    assert_eq!(findings["backends"].as_array().map(Vec::len), Some(1));
    assert!(!folder.path().join("baselines.yaml").exists(), "--no-write");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_is_named_with_what_is() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = configured(&folder, 0, &[("only", "p", "http://127.0.0.1:1", 1.0)]);
    for (words, message) in [
        ("--backend other", "--backend other: no backend is called so; there are only"),
        ("--demand other=1", "--demand other: no route is called so; there are chat"),
    ] {
        let output = calibrate(&config, words).await;
        assert!(text(&output.stderr).contains(message), "{}", text(&output.stderr));
        assert_eq!(output.status.code(), Some(1));
    }
    fs::write(&config, "routes: []\n").expect("written");
    assert_eq!(calibrate(&config, "").await.status.code(), Some(78));
}

/// Interrupts a calibration once the backend of that name has answered five requests; what it says on both streams.
async fn interrupted(config: &Path, words: &str, backend: &Simulator) -> (Option<i32>, String) {
    let child = command(config, words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("a process");
    let waiting = async {
        while backend.stats().completed < 5 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), waiting).await.expect("it measures");
    Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("kill");
    let output = tokio::task::spawn_blocking(move || child.wait_with_output()).await.unwrap().unwrap();
    (output.status.code(), text(&output.stdout) + &text(&output.stderr))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interruption_keeps_the_backends_that_are_done_and_nothing_else() {
    let (first, last) = (simulator("h100-latency").await, simulator("l40s").await);
    let folder = tempfile::tempdir().expect("a folder");
    let config = configured(&folder, 0, &[("first", "p", &*first.url(), 1.0), ("last", "p", &*last.url(), 1.0)]);
    let words = "--concurrency 1 --input-tokens 50 --output-tokens 20 --requests 400 --point-time 1s";
    let (code, said) = interrupted(&config, words, &first).await;
    assert!(code == Some(130) && said.contains("interrupted: nothing is written"), "{said}");
    assert!(!folder.path().join("baselines.yaml").exists());
    let (code, said) = interrupted(&config, words, &last).await;
    assert!(code == Some(130) && said.contains("interrupted: this is of first alone"), "{said}");
    let written = fs::read_to_string(folder.path().join("baselines.yaml")).expect("written");
    assert!(written.contains("backend: first") && !written.contains("backend: last"), "{written}");
}
