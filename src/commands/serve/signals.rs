//! The signals that a server listens to.

use std::process::ExitCode;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::commands::EXIT_INTERRUPTED;

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
    /// SIGHUP: the configuration, read again.
    Reload,
    /// SIGUSR1: the access log, opened again.
    Reopen,
    /// SIGQUIT: a new process in the place of this one.
    HandOver,
    /// SIGTERM or SIGINT: the end, when the last exchange has ended.
    End,
}

/// All of them, from now on.
pub(super) struct Signals {
    term: Signal,
    interrupt: Signal,
    hang_up: Signal,
    user: Signal,
    quit: Signal,
}

impl Signals {
    pub(super) fn new() -> std::io::Result<Self> {
        Ok(Self {
            term: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
            user: signal(SignalKind::user_defined1())?,
            quit: signal(SignalKind::quit())?,
        })
    }

    /// The next wish.
    pub(super) async fn next(&mut self) -> Wish {
        tokio::select! {
            _ = self.hang_up.recv() => Wish::Reload,
            _ = self.user.recv() => Wish::Reopen,
            _ = self.quit.recv() => Wish::HandOver,
            _ = self.term.recv() => Wish::End,
            _ = self.interrupt.recv() => Wish::End,
        }
    }

    /// A second signal does not wait.
    pub(super) async fn at_once(&mut self) -> ExitCode {
        tokio::select! {
            _ = self.term.recv() => ExitCode::SUCCESS,
            _ = self.interrupt.recv() => ExitCode::from(EXIT_INTERRUPTED),
        }
    }
}
