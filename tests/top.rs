//! `headway top` in a pipe and in a real terminal.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]

#[path = "support/mod.rs"]
mod support;

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use support::backend::Scripted;
use support::headway::{Headway, Setup};
use support::{texts, until};

/// What a terminal is told at the beginning and at the end.
const ENTER: &str = "\x1b[?1049h";
const LEAVE: &str = "\x1b[?1049l";
const SHOW_CURSOR: &str = "\x1b[?25h";

async fn headway(engine: &Scripted) -> Headway {
    Setup::default().backend("only-one", engine, "").start().await
}

async fn run(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_headway"));
    command.arg("top").args(args).env_remove("HEADWAY_ADMIN_TOKEN");
    tokio::task::spawn_blocking(move || command.output()).await.expect("a thread").expect("a process")
}

#[tokio::test]
async fn a_pipe_gets_one_table() {
    let engine = Scripted::start(texts::streamed()).await;
    let headway = headway(&engine).await;
    assert_eq!(headway.stream().await.status, 200);
    headway.record().await;
    let output = run(&["--admin", &headway.server.admin_address().to_string()]).await;
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("1 of 1 backends ready") && !text.contains('\x1b'), "{text}");
    for (heading, row) in [("ROUTE", "r "), ("BACKEND", "only-one  ready"), ("DECIDED", "complete")] {
        let below: Vec<_> = text.lines().skip_while(|line| !line.starts_with(heading)).collect();
        assert!(below.get(1).is_some_and(|line| line.contains(row)), "{heading}: {row}\n{text}");
    }
}

#[tokio::test]
async fn nobody_there_is_an_error_and_a_token_is_shown_to_the_one_that_asks_for_it() {
    let output = run(&["--once", "--admin", "127.0.0.1:1"]).await;
    assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0));
    assert!(String::from_utf8_lossy(&output.stderr).contains("asking 127.0.0.1:1"), "{output:?}");
    let engine = Scripted::start(texts::streamed()).await;
    let text = Setup::default().backend("only-one", &engine, "").text();
    let text =
        text.replace("admin: { address: \"127.0.0.1:0\" }", "admin: { address: \"127.0.0.1:0\", token: canary }");
    let headway = Headway::start(&text).await;
    let admin = headway.server.admin_address().to_string();
    let refused = run(&["--once", "--admin", &admin]).await;
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("401"), "{refused:?}");
    assert!(run(&["--once", "--admin", &admin, "--token", "canary"]).await.status.success());
}

/// `headway top` in a terminal of 160 columns, which `script` provides.
struct InTerminal {
    script: Child,
    keys: Option<ChildStdin>,
    shown: Arc<Mutex<String>>,
}

impl Drop for InTerminal {
    fn drop(&mut self) {
        let _ = self.script.kill();
        let _ = self.script.wait();
    }
}

impl InTerminal {
    /// `None` where there is no `script` of util-linux.
    fn start(admin: SocketAddr) -> Option<Self> {
        let known = Command::new("script").arg("--version").output();
        if !known.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains("util-linux")) {
            assert!(std::env::var_os("CI").is_none(), "there is no `script` of util-linux");
            return None;
        }
        let headway = env!("CARGO_BIN_EXE_headway");
        let command = format!("stty rows 40 cols 160; exec {headway} top --admin {admin} --interval 100ms");
        let mut script = Command::new("script");
        script.args(["--quiet", "--flush", "--return", "--command", &command, "/dev/null"]);
        script.env("SHELL", "/bin/sh").env("TERM", "xterm-256color");
        let mut script = script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it runs");
        let (shown, mut from) = (Arc::<Mutex<String>>::default(), script.stdout.take().expect("piped"));
        let into = Arc::clone(&shown);
        std::thread::spawn(move || {
            let mut part = [0; 4096];
            while let Ok(count @ 1..) = from.read(&mut part) {
                into.lock().unwrap().push_str(&String::from_utf8_lossy(&part[..count]));
            }
        });
        let keys = script.stdin.take();
        Some(Self { script, keys, shown })
    }

    fn shown(&self) -> String {
        self.shown.lock().unwrap().clone()
    }

    /// Waits until something new is shown; a terminal is told only what changes, so words may come in pieces.
    async fn shows(&self, text: &str) {
        until(text, || self.shown().contains(text)).await;
    }

    fn forget(&self) {
        self.shown.lock().unwrap().clear();
    }

    fn press(&mut self, key: &str) {
        let keys = self.keys.as_mut().expect("not ended");
        keys.write_all(key.as_bytes()).expect("a terminal");
        keys.flush().expect("a terminal");
    }

    /// The process that `script` started, once it is no shell any more.
    fn pid(&self) -> String {
        let id = self.script.id();
        let children = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children")).expect("its children");
        children.split_whitespace().next().expect("one").to_owned()
    }

    /// Waits for the end; the exit code of `headway top`.
    async fn code(&mut self) -> Option<i32> {
        for _ in 0..2_000 {
            if let Some(status) = self.script.try_wait().expect("a child") {
                return status.code();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("it goes on:\n{}", self.shown());
    }
}

#[tokio::test]
async fn a_terminal_sees_it_live_and_is_left_as_it_was() {
    let engine = Scripted::start(texts::streamed()).await;
    let headway = headway(&engine).await;
    let Some(mut top) = InTerminal::start(headway.server.admin_address()) else { return };
    top.shows("1 of 1 backends ready").await;
    top.shows("no decision yet").await;
    assert!(top.shown().contains(ENTER));
    assert_eq!(headway.stream().await.status, 200);
    top.shows("DECIDED (UTC)").await;
    top.press("p");
    top.shows("PAUSED").await;
    top.press("p");
    top.press("q");
    assert_eq!(top.code().await, Some(0));
    let shown = top.shown();
    assert!(shown.contains(LEAVE) && shown.contains(SHOW_CURSOR), "{shown:?}");
}

#[tokio::test]
async fn a_proxy_that_restarts_is_found_again() {
    let engine = Scripted::start(texts::streamed()).await;
    let first = headway(&engine).await;
    let admin = first.server.admin_address();
    let Some(mut top) = InTerminal::start(admin) else { return };
    top.shows("1 of 1 backends ready").await;
    first.server.shutdown(Duration::ZERO).await;
    top.shows("no answer for").await;
    top.forget();
    let text = Setup::default().backend("another", &engine, "").text();
    let text = text.replace("admin: { address: \"127.0.0.1:0\" }", &format!("admin: {{ address: \"{admin}\" }}"));
    let _second = Headway::start(&text).await;
    top.shows("another").await;
    top.press("\x03");
    assert_eq!(top.code().await, Some(0));
}

#[tokio::test]
async fn a_signal_leaves_the_terminal_as_it_was() {
    let engine = Scripted::start(texts::streamed()).await;
    let headway = headway(&engine).await;
    for (signal, code) in [("TERM", 0), ("HUP", 0), ("INT", 130)] {
        let Some(mut top) = InTerminal::start(headway.server.admin_address()) else { return };
        top.shows("1 of 1 backends ready").await;
        assert!(Command::new("kill").args(["-s", signal, &top.pid()]).status().expect("kill runs").success());
        assert_eq!(top.code().await, Some(code), "{signal}");
        assert!(top.shown().contains(LEAVE), "{signal}");
    }
}
