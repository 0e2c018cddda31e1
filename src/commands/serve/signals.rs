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

    /// Serves what can be asked of a process that drains, until it is asked to end at once.
    ///
    /// A second SIGTERM or SIGINT does not wait. One that was `succeeded` drains without having been asked, and a service
    /// manager that stops the service signals it too, as often as it likes: no SIGTERM hurries it, and the first SIGINT
    /// neither.
    pub(super) async fn at_once(&mut self, succeeded: bool, reopen: impl Fn()) -> ExitCode {
        let mut interrupts = 0;
        loop {
            tokio::select! {
                _ = self.term.recv() => {
                    if !succeeded {
                        return ExitCode::SUCCESS;
                    }
                    tracing::info!("another process serves, and this one drains already");
                }
                _ = self.interrupt.recv() => {
                    interrupts += 1;
                    if !succeeded || interrupts > 1 {
                        return ExitCode::from(EXIT_INTERRUPTED);
                    }
                    tracing::info!("another process serves, and this one drains already: once more ends it at once");
                }
                _ = self.user.recv() => reopen(),
                _ = self.quit.recv() => tracing::warn!("not handed over: this process drains already"),
                _ = self.hang_up.recv() => tracing::warn!("not reloaded: this process drains already"),
            }
        }
    }
}
