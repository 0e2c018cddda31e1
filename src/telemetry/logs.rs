//! headway's own log: lines on standard error that nobody waits for.

use std::time::Duration;

use crate::config::settings::Level;

/// Why the log could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The process has a logger already.
    #[error("a logger is already set up")]
    AlreadySet,
    /// The writing thread could not be started.
    #[error("cannot start the log's thread: {0}")]
    Thread(#[from] std::io::Error),
}

/// Sets up the process's log, once.
///
/// # Errors
/// When it is set up already, or no thread can be had.
pub fn init(_level: Level) -> Result<(), LogError> {
    Ok(())
}

/// Changes the level; without a log set up, nothing happens.
pub fn set_level(_level: Level) {}

/// Writes what is queued, waiting at most `patience`; whether all was written.
pub fn close(_patience: Duration) -> bool {
    true
}
