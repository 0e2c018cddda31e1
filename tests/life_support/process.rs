//! headway as a process of its own: for signals, exit codes and files.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};

use super::{page, patiently, until};

/// A running process; dropping it kills it.
pub(crate) struct Process {
    child: Child,
    log: Arc<Mutex<String>>,
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Process {
    /// Runs `headway serve` on that file.
    pub(crate) fn spawn(config: &Path) -> Self {
        Self::run(&["serve", "--config", config.to_str().expect("a path")])
    }

    /// Runs `headway` with these arguments.
    pub(crate) fn run(args: &[&str]) -> Self {
        Self::run_with(args, &[], Stdio::null())
    }

    /// Runs it with these variables and that standard output.
    pub(crate) fn run_with(args: &[&str], variables: &[(&str, &str)], stdout: Stdio) -> Self {
        Self::run_program(env!("CARGO_BIN_EXE_headway"), args, variables, stdout)
    }

    /// Runs that program in headway's place.
    pub(crate) fn run_program(program: &str, args: &[&str], variables: &[(&str, &str)], stdout: Stdio) -> Self {
        let mut command = Command::new(program);
        command.args(args).env("NO_COLOR", "1").stdin(Stdio::null()).envs(variables.iter().copied());
        let mut child = command.stdout(stdout).stderr(Stdio::piped()).spawn().expect("it runs");
        let log = Arc::new(Mutex::new(String::new()));
        let (into, from) = (Arc::clone(&log), child.stderr.take().expect("piped"));
        std::thread::spawn(move || {
            for line in BufReader::new(from).lines().map_while(Result::ok) {
                into.lock().unwrap().push_str(&(line + "\n"));
            }
        });
        Self { child, log }
    }

    /// Runs it, and waits until it is ready; its data and admin addresses.
    pub(crate) async fn serving(config: &Path) -> (Self, SocketAddr, SocketAddr) {
        let process = Self::spawn(config);
        let (data, admin) = process.ready().await;
        (process, data, admin)
    }

    /// Waits until it is ready; its data and admin addresses.
    pub(crate) async fn ready(&self) -> (SocketAddr, SocketAddr) {
        until("its addresses", || self.address(" admin ").is_some()).await;
        let (data, admin) = (self.address(" serving ").unwrap(), self.address(" admin ").unwrap());
        patiently("readiness", async {
            while page(admin, "GET", "/readyz").await.0 != 200 {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        })
        .await;
        (data, admin)
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    fn address(&self, what: &str) -> Option<SocketAddr> {
        let log = self.log();
        log.lines().find(|line| line.contains(what))?.rsplit("address=").next()?.trim().parse().ok()
    }

    /// Sends a signal, as `TERM`.
    pub(crate) fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        let sent = Command::new("kill").args(["-s", name, &id]).status().expect("kill runs");
        assert!(sent.success());
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("a child").is_some()
    }

    /// Waits for its end; its exit code.
    pub(crate) async fn code(&mut self) -> Option<i32> {
        let mut status: Option<ExitStatus> = None;
        let log = Arc::clone(&self.log);
        until(format!("the end of {}", self.child.id()), || {
            status = self.child.try_wait().expect("a child");
            status.is_some()
        })
        .await;
        let status = status.unwrap();
        status.code().or_else(|| panic!("{status}: {}", log.lock().unwrap()))
    }
}
