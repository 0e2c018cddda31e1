//! One process hands its listening sockets to the next, so that no connection is refused in between.
//!
//! On SIGQUIT the old process starts its own program again, as the file is now, and sends it the sockets over the
//! new one's standard input. The new one reads its configuration, serves on the same sockets, and says so; only then
//! does the old one stop accepting, and drains. Whatever goes wrong before that leaves the old one as it was.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::io::AsyncReadExt;

use super::ServeArgs;
use super::sockets::Sockets;

/// How long the new process may take to be ready.
const PATIENCE: Duration = Duration::from_secs(60);
/// What the new process says when it serves.
const READY: &[u8] = b"ready\n";

/// Why a hand-over came to nothing; the old process goes on.
#[derive(Debug, thiserror::Error)]
pub(super) enum HandOverError {
    /// The first process of a container ends the container with itself.
    #[error("process 1 cannot be succeeded: its container ends with it")]
    First,
    /// The program cannot be run, or talked to.
    #[error("the new process cannot be started: {0}")]
    Start(#[from] io::Error),
    /// It ended, or said something else.
    #[error("the new process ended before it was ready ({0}); its own words stand above")]
    Ended(String),
    /// It takes too long.
    #[error("the new process was not ready within {}s", PATIENCE.as_secs())]
    Late,
}

/// The program to run again. Asked for at the start: later, the file may be another one, and that is the one to run.
#[derive(Debug, Clone)]
pub(super) struct Program {
    file: PathBuf,
    config: PathBuf,
}

impl Program {
    /// This process's own.
    pub(super) fn of(args: &ServeArgs) -> io::Result<Self> {
        Ok(Self { file: std::env::current_exe()?, config: args.config.clone() })
    }

    fn start(&self, sockets: &Sockets) -> io::Result<(Started, UnixStream)> {
        let (ours, theirs) = UnixStream::pair()?;
        let mut command = Command::new(&self.file);
        command.arg("serve").arg("--config").arg(&self.config).arg("--take-over");
        // The watchdog of the service manager named this process; whoever comes next is meant too.
        command.env_remove("WATCHDOG_PID").stdin(Stdio::from(OwnedFd::from(theirs)));
        let child = Started(Some(command.spawn()?));
        // The command holds the other end; only the new process is to.
        drop(command);
        sockets.send(&ours)?;
        ours.set_nonblocking(true)?;
        Ok((child, ours))
    }
}

/// A process that is not ready yet; dropping it ends it.
struct Started(Option<Child>);

impl Started {
    fn id(&self) -> u32 {
        self.0.as_ref().map_or(0, Child::id)
    }

    /// It stands on its own feet from now on.
    fn let_go(mut self) {
        self.0 = None;
    }

    /// How it ended, given that it did or is about to.
    fn end(mut self) -> String {
        let Some(mut child) = self.0.take() else { return String::new() };
        let _ = child.kill();
        child.wait().map_or_else(|error| error.to_string(), |status| status.to_string())
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Starts a new process on these sockets and waits until it serves; its process id.
pub(super) async fn to_new_process(program: Program, sockets: Sockets) -> Result<u32, HandOverError> {
    if std::process::id() == 1 {
        return Err(HandOverError::First);
    }
    let (child, ours) = program.start(&sockets)?;
    drop(sockets);
    let mut ours = tokio::net::UnixStream::from_std(ours)?;
    let mut said = [0; READY.len()];
    match tokio::time::timeout(PATIENCE, ours.read_exact(&mut said)).await {
        Ok(Ok(_)) if said == READY => {
            let id = child.id();
            child.let_go();
            Ok(id)
        }
        Ok(_) => Err(HandOverError::Ended(child.end())),
        Err(_) => Err(HandOverError::Late),
    }
}

/// The process that this one takes over from.
pub(super) struct Predecessor(UnixStream);

impl Predecessor {
    /// Receives its sockets. Blocking, and not for long: they were sent before this process began.
    pub(super) fn greet() -> io::Result<(Self, Sockets)> {
        let stream = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
        stream.set_read_timeout(Some(PATIENCE))?;
        let sockets = Sockets::receive(&stream)?;
        Ok((Self(stream), sockets))
    }

    /// Tells it that this process serves. One that is gone need not be told, and this one is all the more needed.
    pub(super) fn relieve(self) {
        if let Err(error) = io::Write::write_all(&mut &self.0, READY) {
            tracing::warn!(%error, "the process that handed over is gone; this one serves");
        }
    }
}
