//! Proxies on a core of their own.

use std::process::{Command, Stdio};
use std::time::Duration;

use tokio::net::TcpStream;

use crate::running::Running;
use crate::subjects::Subject;

/// The core that proxies run on.
const CORE: &str = "0";

/// A subject at work. The direct connection has no process.
pub(crate) struct Started(Option<Running>);

impl Started {
    /// Starts a subject on its core and waits until it listens and serves.
    pub(crate) async fn start(subject: &Subject) -> Option<Self> {
        let bound = ["taskset", "-c", CORE].map(str::to_owned);
        let command: Vec<String> = bound.into_iter().chain(subject.command.iter().cloned()).collect();
        let started = Self(if subject.command.is_empty() { None } else { Some(Running::spawn(&command)?) });
        for _ in 0..100 {
            if TcpStream::connect(subject.address).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(1500)).await;
                return Some(started);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        None
    }

    /// CPU time used so far.
    pub(crate) fn cpu(&self) -> Duration {
        self.0.as_ref().map(Running::cpu).unwrap_or_default()
    }

    /// Resident memory.
    pub(crate) fn resident_kib(&self) -> u64 {
        self.0.as_ref().map(Running::resident_kib).unwrap_or_default()
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
