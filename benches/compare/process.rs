//! Proxies as processes: started on one core, and asked for the CPU time and memory that the kernel accounts to them.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::net::TcpStream;

use crate::subjects::Subject;

/// The core that proxies run on.
const CORE: &str = "0";

/// A running proxy; killed when dropped. The direct connection has no process.
pub(crate) struct Running {
    child: Option<Child>,
}

impl Running {
    /// Starts a subject on its core and waits until it listens and serves.
    pub(crate) async fn start(subject: &Subject) -> Option<Self> {
        let child = match subject.command.split_first() {
            None => None,
            Some((program, args)) => Some(
                Command::new("taskset")
                    .args(["-c", CORE, program])
                    .args(args)
                    .stdout(Stdio::null())
                    .stderr(Stdio::null())
                    .spawn()
                    .ok()?,
            ),
        };
        let running = Self { child };
        for _ in 0..100 {
            if TcpStream::connect(subject.address).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(1500)).await;
                return Some(running);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        None
    }

    /// The process and its children: nginx and haproxy work in theirs.
    fn all(&self) -> Vec<u32> {
        let Some(parent) = self.child.as_ref().map(Child::id) else { return Vec::new() };
        let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap_or_default();
        children.split_whitespace().filter_map(|pid| pid.parse().ok()).chain([parent]).collect()
    }

    /// CPU time used so far, by the scheduler's own nanosecond accounting.
    pub(crate) fn cpu(&self) -> Duration {
        self.all().into_iter().map(cpu_of).sum()
    }

    /// Resident memory.
    pub(crate) fn resident_kib(&self) -> u64 {
        self.all().into_iter().map(resident_of).sum()
    }
}

/// The first figure of `schedstat` is nanoseconds on a processor, per thread.
fn cpu_of(pid: u32) -> Duration {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return Duration::ZERO };
    let nanos = threads.flatten().filter_map(|thread| {
        let text = fs::read_to_string(thread.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(nanos.sum())
}

fn resident_of(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = Command::new("kill").args(["-TERM", &child.id().to_string()]).status();
            std::thread::sleep(Duration::from_millis(300));
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Leaves the proxies' core to them.
pub(crate) fn bind_this_process_to_other_cores() {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    if cores > 1 {
        let own = std::process::id().to_string();
        let _ = Command::new("taskset")
            .args(["-a", "-c", "-p", &format!("1-{}", cores - 1), &own])
            .stdout(Stdio::null())
            .status();
    }
}
