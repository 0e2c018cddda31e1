//! GPUs of this host.

use std::process::{Command, Stdio};
use std::time::Duration;

use headway::config::{self, SystemEnvironment};
use serde_json::{Value, json};

use crate::library::{INSTANCE, Library, SECOND};
use crate::support::backend::Scripted;
use crate::support::headway::{Headway, Setup};
use crate::support::{PATIENCE, texts, until};

/// The configuration of two backends on the library's GPUs: one on both, one on an instance.
fn setup(library: &Library, a: &Scripted, b: &Scripted) -> Setup {
    Setup::default()
        .backend("whole", a, &format!("gpus: [0, {SECOND}]"))
        .backend("part", b, &format!("gpus: [{INSTANCE}]"))
        .more(&format!("telemetry: {{ gpu: {{ nvml: {}, interval: 1s }} }}", library.path().display()))
}

async fn start(library: &Library) -> (Scripted, Scripted, Headway) {
    let (a, b) = (Scripted::start(texts::streamed()).await, Scripted::start(texts::streamed()).await);
    let headway = setup(library, &a, &b).start().await;
    (a, b, headway)
}

async fn backend(headway: &Headway, name: &str) -> Value {
    let all = headway.admin("/api/v1/backends").await.json();
    all["backends"].as_array().unwrap().iter().find(|one| one["name"] == name).expect("a backend").clone()
}

/// Waits until a backend is shown as is wanted.
async fn shown(headway: &Headway, name: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let waiting = async {
        loop {
            let view = backend(headway, name).await;
            if wanted(&view) {
                return view;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    match tokio::time::timeout(PATIENCE, waiting).await {
        Ok(view) => view,
        Err(late) => panic!("{late}: {:#}", backend(headway, name).await),
    }
}

/// The lines of the metrics page about GPUs, without their common beginning.
async fn gpu_lines(headway: &Headway) -> Vec<String> {
    let page = headway.admin("/metrics").await.text();
    page.lines().filter_map(|line| line.strip_prefix("headway_gpu_")).map(str::to_owned).collect()
}

#[tokio::test]
async fn what_the_driver_says_is_in_the_api_and_on_the_metrics_page() {
    let library = Library::new();
    let (_a, _b, headway) = start(&library).await;
    let whole = shown(&headway, "whole", |view| view["gpu"] == "nvml").await;
    let first = json!({
        "gpu": "0", "model": "Fake H100", "utilization": 0.87,
        "memory_used_bytes": 75_161_927_680_u64, "memory_total_bytes": 85_899_345_920_u64,
        "power_watts": 512.25, "temperature_celsius": 61.0, "clock_hertz": 1.98e9,
        "throttled": false, "slowdowns": ["sw_power_cap"],
    });
    // In MIG mode a GPU tells neither how busy it is nor, here, its memory.
    let second = json!({
        "gpu": SECOND, "model": "Fake A100",
        "power_watts": 300.0, "temperature_celsius": 50.0, "clock_hertz": 1.41e9, "throttled": false,
    });
    assert_eq!(whole["gpus"], json!([first, second]));
    // An instance has memory of its own, shares its GPU's heat and clock, and has no power of its own.
    let part = shown(&headway, "part", |view| view["gpu"] == "nvml").await;
    let instance = json!({
        "gpu": INSTANCE, "model": "Fake A100 MIG 3g.20gb",
        "memory_used_bytes": 15_728_640_000_u64, "memory_total_bytes": 20_937_965_568_u64,
        "temperature_celsius": 50.0, "clock_hertz": 1.41e9, "throttled": false,
    });
    assert_eq!(part["gpus"], json!([instance]));

    let mut expected: Vec<String> = [
        ("utilization_ratio", "0", "whole", "0.87"),
        ("memory_used_bytes", "0", "whole", "75161927680"),
        ("memory_used_bytes", INSTANCE, "part", "15728640000"),
        ("memory_total_bytes", "0", "whole", "85899345920"),
        ("memory_total_bytes", INSTANCE, "part", "20937965568"),
        ("power_watts", "0", "whole", "512.25"),
        ("power_watts", SECOND, "whole", "300"),
        ("temperature_celsius", "0", "whole", "61"),
        ("temperature_celsius", SECOND, "whole", "50"),
        ("temperature_celsius", INSTANCE, "part", "50"),
        ("clock_hertz", "0", "whole", "1980000000"),
        ("clock_hertz", SECOND, "whole", "1410000000"),
        ("clock_hertz", INSTANCE, "part", "1410000000"),
        ("throttled", "0", "whole", "0"),
        ("throttled", SECOND, "whole", "0"),
        ("throttled", INSTANCE, "part", "0"),
    ]
    .map(|(family, gpu, backend, value)| format!("{family}{{gpu=\"{gpu}\",backend=\"{backend}\"}} {value}"))
    .into();
    let mut lines = gpu_lines(&headway).await;
    expected.sort();
    lines.sort();
    assert_eq!(lines, expected);

    // It follows; heat throttles.
    library.set(&[("0.util", "12"), ("1.throttle", "64")]);
    let whole = shown(&headway, "whole", |view| view["gpus"][0]["utilization"] == 0.12).await;
    assert_eq!(whole["gpus"][1]["slowdowns"], json!(["hw_thermal_slowdown"]));
    let throttled = format!("throttled{{gpu=\"{SECOND}\",backend=\"whole\"}} 1");
    assert!(gpu_lines(&headway).await.contains(&throttled));
}

#[tokio::test]
async fn a_decision_carries_how_busy_its_backend_was() {
    let library = Library::new();
    let (_a, _b, headway) = start(&library).await;
    shown(&headway, "whole", |view| view["gpu"] == "nvml").await;
    let (one, other) = (headway.stream().await, headway.stream().await);
    assert_eq!((one.status, other.status), (200, 200));
    let records = headway.records(2).await;
    let busy = |name: &str| {
        let record = records.iter().find(|record| record.backend().unwrap().as_ref() == name).expect("its turn");
        record.decision.as_ref().unwrap().load
    };
    // The mean of those that tell it; nobody asks these engines.
    assert_eq!((busy("whole").gpu_utilization, busy("whole").running), (Some(0.87), None));
    assert!(busy("part").is_unknown());
    let decisions = headway.admin("/api/v1/decisions").await.json();
    for decision in decisions["decisions"].as_array().unwrap() {
        let expected = if decision["backend"] == "whole" { json!({ "gpu_utilization": 0.87 }) } else { Value::Null };
        assert_eq!(decision["load"], expected, "{decision:#}");
    }
    let requests = headway.admin("/api/v1/requests").await.json();
    let mut logged = requests["requests"].as_array().unwrap().iter();
    assert!(logged.any(|one| one["decision"]["gpu_utilization"] == 0.87), "{requests:#}");
}

#[tokio::test]
async fn a_lost_gpu_is_a_problem_of_its_own_and_may_come_back() {
    let library = Library::new();
    let (_a, _b, headway) = start(&library).await;
    shown(&headway, "whole", |view| view["gpu"] == "nvml").await;
    library.set(&[("0.temp", "-15")]);
    let whole = shown(&headway, "whole", |view| view["gpus"][0]["problem"].is_string()).await;
    let lost = json!({ "gpu": "0", "problem": "it has fallen off the bus" });
    assert_eq!((&whole["gpus"][0], &whole["gpus"][1]["temperature_celsius"]), (&lost, &json!(50.0)));
    assert!(!gpu_lines(&headway).await.iter().any(|line| line.contains("gpu=\"0\"")));
    library.set(&[("0.temp", "60")]);
    shown(&headway, "whole", |view| view["gpus"][0]["temperature_celsius"] == 60.0).await;
}

#[tokio::test]
async fn a_gpu_that_is_not_there_and_one_that_may_not_be_asked_are_told_apart() {
    let library = Library::new();
    let engine = Scripted::start(texts::streamed()).await;
    library.set(&[("0.used", "-4"), ("0.temp", "-4")]);
    let headway = Setup::default()
        .backend("a", &engine, "gpus: [0, 7]")
        .more(&format!("telemetry: {{ gpu: {{ nvml: {} }} }}", library.path().display()))
        .start()
        .await;
    let view = shown(&headway, "a", |view| view["gpu"] == "nvml").await;
    let (first, absent) = (&view["gpus"][0], &view["gpus"][1]);
    assert_eq!(absent, &json!({ "gpu": "7", "problem": "there is no such GPU on this host" }));
    assert!(first["utilization"] == 0.87 && first.get("memory_used_bytes").is_none(), "{first}");
}

#[tokio::test]
async fn a_driver_that_hangs_holds_up_nothing() {
    let library = Library::new();
    let (a, b, headway) = start(&library).await;
    shown(&headway, "whole", |view| view["gpu"] == "nvml").await;
    library.set(&[("0.util", "hang")]);
    // What it said grows too old.
    let whole = shown(&headway, "whole", |view| view["gpu"] == "unavailable").await;
    assert_eq!((&whole["gpu_problem"], whole.get("gpus")), (&json!("no answer"), None));
    assert_eq!(gpu_lines(&headway).await, Vec::<String>::new());
    // A reload and requests go on.
    let text = setup(&library, &a, &b).text().replace("interval: 1s", "interval: 2s");
    let loaded = config::parse("test.yaml", &text, &SystemEnvironment).unwrap();
    headway.server.apply(loaded.settings).expect("a reload");
    assert_eq!(headway.stream().await.status, 200);
    assert!(headway.record().await.decision.as_ref().unwrap().load.is_unknown());
    // So does another library, and the end.
    let other = Library::new();
    let text = setup(&other, &a, &b).text();
    headway.server.apply(config::parse("test.yaml", &text, &SystemEnvironment).unwrap().settings).expect("a reload");
    shown(&headway, "whole", |view| view["gpu"] == "nvml").await;
    other.set(&[("1.temp", "hang")]);
    shown(&headway, "part", |view| view["gpu"] == "unavailable").await;
    let ending = headway.server.shutdown(Duration::from_secs(1));
    assert!(tokio::time::timeout(Duration::from_secs(5), ending).await.is_ok(), "the end waits for the driver");
}

#[tokio::test]
async fn a_reload_turns_gpus_on_and_off() {
    let library = Library::new();
    let (a, b, headway) = start(&library).await;
    shown(&headway, "whole", |view| view["gpu"] == "nvml").await;
    let text = setup(&library, &a, &b).text();
    let apply = |text: &str| {
        let loaded = config::parse("test.yaml", text, &SystemEnvironment).unwrap();
        headway.server.apply(loaded.settings).expect("a reload");
    };
    apply(&text.replace(&format!("gpus: [0, {SECOND}]"), "http2: false"));
    let whole = backend(&headway, "whole").await;
    assert!(whole.get("gpu").is_none() && whole.get("gpus").is_none(), "{whole:#}");
    apply(&text.replace(&library.path().display().to_string(), "off"));
    shown(&headway, "whole", |view| view["gpu"] == "unavailable").await;
    apply(&text);
    shown(&headway, "whole", |view| view["gpu"] == "nvml").await;
}

/// A process of its own, for its log.
#[tokio::test]
async fn without_a_driver_there_is_one_line_in_the_log_and_nothing_else() {
    let engine = Scripted::start(texts::streamed()).await;
    let setup = Setup::default().backend("a", &engine, "gpus: [0]").backend("b", &engine, "gpus: [1]");
    let text = setup.more("telemetry: { gpu: { nvml: /nowhere/libnvidia-ml.so.1 } }").text();
    let headway = Headway::start(&text).await;
    let view = shown(&headway, "a", |view| view["gpu_problem"] != "no answer").await;
    assert_eq!(view["gpu"], "unavailable");
    let problem = view["gpu_problem"].as_str().unwrap();
    assert!(problem.starts_with("NVIDIA's driver library cannot be loaded: "), "{problem}");
    assert_eq!((view.get("gpus"), gpu_lines(&headway).await), (None, Vec::new()));

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("headway.yaml");
    std::fs::write(&file, &text).unwrap();
    let log = std::fs::File::create(folder.path().join("log")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_headway"));
    command.args(["serve", "--config"]).arg(&file).env("NO_COLOR", "1");
    let mut process = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().expect("a process");
    let lines = || std::fs::read_to_string(folder.path().join("log")).unwrap_or_default();
    until("the line", || lines().contains("GPU")).await;
    // Three rounds later it has not been said again.
    tokio::time::sleep(Duration::from_millis(3_500)).await;
    process.kill().unwrap();
    process.wait().unwrap();
    let about: Vec<_> = lines().lines().filter(|line| line.contains("GPU")).map(str::to_owned).collect();
    assert_eq!(about.len(), 1, "{about:#?}");
    assert!(about[0].contains("no GPU of this host can be watched") && about[0].contains("WARN"), "{about:?}");
}
