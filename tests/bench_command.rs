//! `headway bench` as a command: sweeps, servers in alternation, the files that other programs read.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    reason = "a test fails by panicking"
)]

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use headway::clock::{Clock, SystemClock};
use headway::engine::Profile;
use headway::nim_simulator::{DEFAULT_MODEL, Simulator, SimulatorOptions};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Barrier;

async fn simulator() -> Simulator {
    let options =
        SimulatorOptions { speed: 20.0, ..SimulatorOptions::new(Profile::named("h100-latency").expect("known")) };
    Simulator::start(options, Arc::new(SystemClock)).await.expect("a free port")
}

async fn bench(folder: &Path, words: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_headway"));
    command.args(["bench", "-m", DEFAULT_MODEL, "--streaming", "--artifact-dir"]).arg(folder).args(words.split(' '));
    let output = tokio::task::spawn_blocking(move || command.output()).await.expect("a thread").expect("a process");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output
}

fn json(path: &Path) -> Value {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).expect("JSON")
}

fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).expect("lines");
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sweep_of_two_servers_has_every_file_and_a_comparison() {
    let (one, other) = (simulator().await, simulator().await);
    let folder = tempfile::tempdir().expect("a folder");
    let words = format!(
        "--url {},{} --gpus 1,2 --concurrency 1,3 --isl 100 --osl 8,16 --request-count 7 --warmup-request-count 2 \
         --rounds 2 --goodput time_to_first_token:60000",
        one.url(),
        other.url()
    );
    let output = bench(folder.path(), &words).await;
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("headway bench | side by side") && text.contains("tokens/s/GPU"), "{text}");
    let model = DEFAULT_MODEL.replace('/', "_");
    for load in [1, 3] {
        for length in [8, 16] {
            for server in [1, 2] {
                let case =
                    folder.path().join(format!("{model}-openai-chat-concurrency{load}-osl{length}-server{server}"));
                let aiperf = json(&case.join("profile_export_aiperf.json"));
                assert_eq!(aiperf["request_count"]["avg"], 7.0);
                assert_eq!(aiperf["goodput"]["unit"], "requests/sec");
                let genai = json(&case.join("profile_export_genai_perf.json"));
                assert_eq!(genai["time_to_first_token"]["avg"], aiperf["time_to_first_token"]["avg"]);
                let csv = fs::read_to_string(case.join("profile_export_aiperf.csv")).expect("CSV");
                assert!(csv.contains("\r\nRequest Count,7.00\r\n"), "{csv}");
                let lines = lines(&case.join("profile_export.jsonl"));
                let phase =
                    |name: &str| lines.iter().filter(|line| line["metadata"]["benchmark_phase"] == name).count();
                assert_eq!((phase("warmup"), phase("profiling")), (2, 7));
            }
        }
    }
    let page = fs::read_to_string(folder.path().join("report.html")).expect("a page");
    assert_eq!(page.matches("<tr><th scope=\"row\">").count(), 8);
    assert!(page.contains("Throughput against latency"));
}

/// A server whose template has 12 tokens, and whose tokenizer makes three tokens of two words.
async fn count_otherwise(mut socket: TcpStream) {
    let mut request = Vec::new();
    loop {
        while !request.ends_with(b"}") {
            if socket.read_buf(&mut request).await.unwrap_or(0) == 0 {
                return;
            }
        }
        let text = String::from_utf8_lossy(&request);
        let prompt = text.split("\"content\":\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap_or_default();
        let counted = 12 + prompt.split(' ').count() * 3 / 2;
        let body = format!(
            "data: {{\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"a\"}},\"finish_reason\":\"length\"}}]}}\n\n\
             data: {{\"choices\":[],\"usage\":{{\"prompt_tokens\":{counted},\"completion_tokens\":1}}}}\n\ndata: [DONE]\n\n"
        );
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n";
        let answer = format!("{head}content-length: {}\r\n\r\n{body}", body.len());
        if socket.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
        request.clear();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tokenizers_file_decides_how_long_prompts_are() {
    let (server, folder) = (simulator().await, tempfile::tempdir().expect("a folder"));
    let file = folder.path().join("tokenizer.json");
    // Every letter is a token, and every space: four a word, where the simulated NIM counts one.
    let text = r#"{"version":"1.0","truncation":null,"padding":null,"added_tokens":[],"normalizer":null,
        "pre_tokenizer":{"type":"Split","pattern":{"Regex":"[a-z]"},"behavior":"Isolated","invert":false},
        "post_processor":null,"decoder":null,"model":{"type":"WordLevel","vocab":{"[UNK]":0},"unk_token":"[UNK]"}}"#;
    fs::write(&file, text).expect("written");
    let counted = |folder: &Path| {
        let case = folder.join(format!("{}-openai-chat-concurrency1", DEFAULT_MODEL.replace('/', "_")));
        json(&case.join("profile_export_aiperf.json"))["input_sequence_length"]["avg"].as_f64().expect("a length")
    };
    let words = |more: &str| format!("--url {} --isl 400 --osl 4 --request-count 2{more}", server.url());
    bench(folder.path(), &words("")).await;
    let asked = counted(folder.path());
    bench(folder.path(), &words(&format!(" --tokenizer {}", file.display()))).await;
    let sized = counted(folder.path());
    assert!((asked - 400.0).abs() < 3.0 && (sized - asked / 4.0).abs() < 15.0, "{asked} and {sized}");
    let missing = Command::new(env!("CARGO_BIN_EXE_headway"))
        .args(["bench", "-m", "m", "-u", &server.url(), "--tokenizer", "/nowhere/tokenizer.json"])
        .output()
        .expect("a process");
    assert!(!missing.status.success(), "a file that is not there is no name");
}

#[tokio::test(flavor = "multi_thread")]
async fn prompts_have_the_length_that_the_server_counts() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            tokio::spawn(count_otherwise(socket));
        }
    });
    for (flag, expected) in [("", 321.0), (" --no-prompt-calibration", 12.0 + 481.0)] {
        let folder = tempfile::tempdir().expect("a folder");
        let words = format!("--url {url} --task classification --isl 321 --request-count 3{flag}");
        bench(folder.path(), &words).await;
        let case = folder.path().join(format!("{}-openai-chat-concurrency1", DEFAULT_MODEL.replace('/', "_")));
        let report = json(&case.join("profile_export_aiperf.json"));
        let input = report["input_sequence_length"]["avg"].as_f64().expect("counted");
        assert!((input - expected).abs() <= 1.0, "{flag}: {input}");
    }
}

/// Streams that must be open at once; the measurement in the README was made with more tokens.
const STREAMS: usize = 2_000;
/// Between two tokens of each.
const GAP: Duration = Duration::from_millis(100);

/// What a server that answers all at once did: by request id, from its first token to its last, in milliseconds.
type Sent = Arc<Mutex<HashMap<String, f64>>>;

/// Answers nothing before every stream was asked for, and then all at once.
async fn answer_together(mut socket: TcpStream, all: Arc<Barrier>, tokens: usize, sent: Sent) {
    let mut request = Vec::new();
    while !request.ends_with(b"}") {
        if socket.read_buf(&mut request).await.unwrap_or(0) == 0 {
            return;
        }
    }
    let request = String::from_utf8_lossy(&request).into_owned();
    let id = request.split("x-request-id: ").nth(1).and_then(|rest| rest.split('\r').next()).expect("an id");
    all.wait().await;
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";
    let _ = socket.write_all(head.as_bytes()).await;
    let token = b"data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"},\"finish_reason\":null}]}\n\n";
    let mut ticks = tokio::time::interval(GAP);
    let (mut first, mut last) = (None, SystemClock.now());
    for _ in 0..tokens {
        ticks.tick().await;
        let _ = socket.write_all(token).await;
        last = SystemClock.now();
        first.get_or_insert(last);
    }
    let took = last.saturating_duration_since(first.unwrap_or(last)).as_secs_f64() * 1e3;
    sent.lock().expect("no panic").insert(id.to_owned(), took);
    let end = format!(
        "data: {{\"choices\":[{{\"index\":0,\"delta\":{{}},\"finish_reason\":\"length\"}}]}}\n\ndata: {{\"choices\":[],\
         \"usage\":{{\"prompt_tokens\":9,\"completion_tokens\":{tokens}}}}}\n\ndata: [DONE]\n\n"
    );
    let _ = socket.write_all(end.as_bytes()).await;
}

/// User and system time of processes that were started and have ended, in seconds.
fn spent_by_children() -> f64 {
    let text = fs::read_to_string("/proc/self/stat").expect("Linux");
    let fields: Vec<&str> = text.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |place: usize| fields[place].parse::<f64>().expect("ticks");
    (ticks(13) + ticks(14)) / 100.0
}

/// `HEADWAY_BENCH_TOKENS` makes the answers longer, `HEADWAY_BENCH_CORE` gives the load generator a core of its own, and
/// `HEADWAY_BENCH_PROGRAM` takes another build of it.
#[tokio::test(flavor = "multi_thread")]
async fn two_thousand_streams_are_open_at_once() {
    let asked = |name: &str| std::env::var(name).ok();
    let tokens = asked("HEADWAY_BENCH_TOKENS").and_then(|text| text.parse().ok()).unwrap_or(10);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    let (all, sent) = (Arc::new(Barrier::new(STREAMS)), Sent::default());
    let shared = Arc::clone(&sent);
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let _ = socket.set_nodelay(true);
            tokio::spawn(answer_together(socket, Arc::clone(&all), tokens, Arc::clone(&shared)));
        }
    });
    let folder = tempfile::tempdir().expect("a folder");
    let program = asked("HEADWAY_BENCH_PROGRAM").unwrap_or_else(|| env!("CARGO_BIN_EXE_headway").to_owned());
    let mut command = match asked("HEADWAY_BENCH_CORE") {
        Some(core) => {
            let mut pinned = Command::new("taskset");
            pinned.args(["-c", &core, &program]);
            pinned
        }
        None => Command::new(program),
    };
    command.args(["bench", "-m", DEFAULT_MODEL, "--streaming", "--url", &url, "--isl", "9", "--no-prompt-calibration"]);
    let many = STREAMS.to_string();
    command.args(["--concurrency", &many, "--request-count", &many, "--artifact-dir"]).arg(folder.path());
    let (before, began) = (spent_by_children(), SystemClock.now());
    let output = tokio::task::spawn_blocking(move || command.output()).await.expect("a thread").expect("a process");
    let (cpu, wall) = (spent_by_children() - before, SystemClock.now().saturating_duration_since(began).as_secs_f64());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let model = DEFAULT_MODEL.replace('/', "_");
    let case = folder.path().join(format!("{model}-openai-chat-concurrency{STREAMS}"));
    let report = json(&case.join("profile_export_aiperf.json"));
    assert_eq!(report["request_count"]["avg"], STREAMS as f64);
    assert_eq!(report["effective_concurrency"]["max"], STREAMS as f64);
    let (lines, sent) = (lines(&case.join("profile_export.jsonl")), sent.lock().expect("no panic"));
    let error = |line: &Value| {
        let measured = line["metrics"]["inter_token_latency"]["value"].as_f64().expect("measured");
        measured - sent[line["metadata"]["x_request_id"].as_str().expect("an id")] / (tokens - 1) as f64
    };
    let mut errors: Vec<f64> = lines.iter().map(error).collect();
    errors.sort_by(|one, other| one.abs().total_cmp(&other.abs()));
    let itl = &report["inter_token_latency"];
    println!(
        "{STREAMS} streams of {tokens} tokens at {GAP:?}: ITL avg {}, p99 {} ms; less what was sent, median {:.3}, p99 {:.3}, worst \
         {:.3} ms; {cpu:.2} s of CPU in {wall:.1} s, {:.1} s per million tokens",
        itl["avg"],
        itl["p99"],
        errors[STREAMS / 2],
        errors[STREAMS * 99 / 100],
        errors[STREAMS - 1],
        cpu / (STREAMS * tokens) as f64 * 1e6
    );
}
