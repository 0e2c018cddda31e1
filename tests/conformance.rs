//! headway before the scripted backend of `headway conformance`: it does everything right.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail so")]

use std::net::SocketAddr;
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::Duration;

use headway::clock::SystemClock;
use headway::commands::serve::Server;
use headway::config::{NoEnvironment, parse};
use headway::conformance::{self, Options, Verdict};

/// A port that is free now, and that nobody is likely to take in the next moment.
fn free() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address")
}

async fn headway(backend: SocketAddr, first_token: &str) -> Server {
    let text = format!(
        "listeners: [{{ address: 127.0.0.1:0, h2c: true }}]\nadmin: {{ address: 127.0.0.1:0 }}\nthreads: 2\nbackends:\n\
         \x20 - {{ name: scripted, url: 'http://{backend}', models: ['*'], health: {{ interval: 200ms }} }}\n\
         routes:\n  - {{ name: all, backends: [scripted], timeouts: {{ first_token: {first_token} }} }}\n"
    );
    let settings =
        parse("conformance.yaml", &text, &NoEnvironment).unwrap_or_else(|report| panic!("{report}")).settings;
    Server::start(settings, Arc::new(SystemClock)).await.expect("it starts")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headway_does_everything_right() {
    let backend = free();
    let server = headway(backend, "2s").await;
    let proxy = server.addresses()[0];
    let options = Options {
        proxy,
        authority: proxy.to_string(),
        base_path: String::new(),
        backend,
        model: "conformance".to_owned(),
        key: None,
        first_token: Some(Duration::from_secs(2)),
        only: Vec::new(),
    };
    let mut table = Vec::new();
    let rows = conformance::run(&options, |row| {
        table.push(format!("{} {:<26} {}", row.verdict.as_str(), row.case, row.seen));
    });
    let rows = rows.await.expect("the proxy sends to the backend");
    assert!(rows.iter().all(|row| row.verdict == Verdict::Pass), "\n{}", table.join("\n"));
    assert_eq!(rows.len(), conformance::names().count());
}

fn command(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_headway"))
        .arg("conformance")
        .args(args)
        .env("NO_COLOR", "1")
        .output()
        .expect("it runs")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_prints_a_table_and_its_exit_code_is_the_verdict() {
    let backend = free();
    let server = headway(backend, "30s").await;
    let (url, address) = (format!("http://{}", server.addresses()[0]), backend.to_string());
    let run = |args: Vec<String>| {
        let (url, address) = (url.clone(), address.clone());
        tokio::task::spawn_blocking(move || {
            let mut all = vec!["--url", &url, "--scripted-backend", &address];
            all.extend(args.iter().map(String::as_str));
            command(&all)
        })
    };
    let output = run(vec!["--only".into(), "bytes-plain,two-lengths".into()]).await.unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success()
            && text.contains("pass bytes-plain")
            && text.ends_with("2 right, 0 wrong, 0 not tried\n"),
        "{text}"
    );
    // It gives up much later than it is said to.
    let args = ["--only", "hang", "--first-token-timeout", "200ms", "--format", "json"].map(str::to_owned);
    let output = run(args.to_vec()).await.unwrap();
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(output.status.code(), Some(1), "{document}");
    assert_eq!(document["cases"][0]["verdict"], "fail", "{document}");
}

#[test]
fn a_proxy_that_does_not_send_there_is_named() {
    let output = command(&["--url", "https://127.0.0.1:1"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("not of the form http://HOST:PORT"));
    let listed = command(&["--list"]);
    assert_eq!(String::from_utf8_lossy(&listed.stdout).lines().count(), conformance::names().count());
}
