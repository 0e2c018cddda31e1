//! Programs under test as processes, and the CPU time and memory that the kernel accounts to them.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A running program with its children; ended when dropped.
pub(crate) struct Running(Child);

impl Running {
    /// Starts a command, given as program and arguments; `None` when that cannot be.
    pub(crate) fn spawn(command: &[String]) -> Option<Self> {
        let (program, args) = command.split_first()?;
        let mut command = Command::new(program);
        command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().ok().map(Self)
    }

    /// The process and its children: nginx and haproxy work in theirs.
    fn all(&self) -> Vec<u32> {
        let parent = self.0.id();
        let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap_or_default();
        children.split_whitespace().filter_map(|pid| pid.parse().ok()).chain([parent]).collect()
    }

    /// CPU time used so far, by the scheduler's own nanosecond accounting.
    pub(crate) fn cpu(&self) -> Duration {
        self.all().into_iter().map(cpu_of).sum()
    }

    /// Resident memory.
    #[allow(dead_code, reason = "one benchmark of two looks at memory")]
    pub(crate) fn resident_kib(&self) -> u64 {
        self.all().into_iter().map(resident_of).sum()
    }
}

/// The CPU time that a process has used so far: the first figure of `schedstat` is nanoseconds on a processor, per thread.
pub(crate) fn cpu_of(pid: u32) -> Duration {
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
        let _ = Command::new("kill").args(["-TERM", &self.0.id().to_string()]).status();
        std::thread::sleep(Duration::from_millis(300));
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
