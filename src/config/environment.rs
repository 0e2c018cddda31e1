//! What a configuration takes from outside its file: environment variables, secret files, certificates.
//!
//! Behind a trait, so that a file can be checked on a machine that has none of them, and tests need no variables.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::time::SystemTime;

use crate::clock::{Clock as _, SystemClock};

/// Largest file that a configuration may name, or be.
pub(crate) const MAX_FILE: u64 = 1 << 20;

/// What became of a question to the environment.
#[derive(Debug)]
pub enum Lookup<T> {
    /// The answer.
    Found(T),
    /// There is none, and why.
    Missing(String),
    /// The question is not asked here; whatever depends on it is not judged.
    Skipped,
}

/// A file's bytes and permissions.
#[derive(Debug)]
pub struct Contents {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Its permission bits, where there are any.
    pub mode: Option<u32>,
}

/// Where variables and files come from.
pub trait Environment {
    /// The environment variable of this name.
    fn variable(&self, name: &str) -> Lookup<String>;
    /// The file at this path, at most 1 MiB.
    fn file(&self, path: &Path) -> Lookup<Contents>;
    /// The file of measurements at this path.
    fn baselines(&self, path: &Path) -> Lookup<Contents> {
        self.file(path)
    }
    /// The time of day, which says whether a certificate still works; `None` where that is not judged.
    fn wall(&self) -> Option<SystemTime> {
        None
    }
}

/// The process's variables and the machine's files.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemEnvironment;

impl Environment for SystemEnvironment {
    fn variable(&self, name: &str) -> Lookup<String> {
        match std::env::var(name) {
            Ok(value) => Lookup::Found(value),
            Err(std::env::VarError::NotPresent) => Lookup::Missing("is not set".to_owned()),
            Err(std::env::VarError::NotUnicode(_)) => Lookup::Missing("is no text".to_owned()),
        }
    }

    fn file(&self, path: &Path) -> Lookup<Contents> {
        match read_bounded(path) {
            Ok(contents) => Lookup::Found(contents),
            Err(error) => Lookup::Missing(reason(&error)),
        }
    }

    fn wall(&self) -> Option<SystemTime> {
        Some(SystemClock.wall())
    }
}

/// The system's, before anything was measured: a file of measurements that does not exist yet is none.
#[derive(Debug, Clone, Copy, Default)]
pub struct BeforeBaselines;

impl Environment for BeforeBaselines {
    fn variable(&self, name: &str) -> Lookup<String> {
        SystemEnvironment.variable(name)
    }

    fn file(&self, path: &Path) -> Lookup<Contents> {
        SystemEnvironment.file(path)
    }

    fn baselines(&self, path: &Path) -> Lookup<Contents> {
        if path.exists() { SystemEnvironment.file(path) } else { Lookup::Skipped }
    }

    fn wall(&self) -> Option<SystemTime> {
        SystemEnvironment.wall()
    }
}

/// No variables and no files: whatever needs them is taken on trust.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoEnvironment;

impl Environment for NoEnvironment {
    fn variable(&self, _: &str) -> Lookup<String> {
        Lookup::Skipped
    }

    fn file(&self, _: &Path) -> Lookup<Contents> {
        Lookup::Skipped
    }
}

/// Reads a regular file of at most [`MAX_FILE`] bytes.
pub(crate) fn read_bounded(path: &Path) -> io::Result<Contents> {
    // Looking before opening: opening a pipe would wait for its writer.
    let metadata = std::fs::metadata(path)?;
    if !metadata.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is larger than 1 MiB"));
    }
    Ok(Contents { bytes, mode: mode(&metadata) })
}

/// Why a file cannot be read, in words that fit after "cannot be read:".
pub(crate) fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "it does not exist".to_owned(),
        io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        _ => error.to_string(),
    }
}

#[cfg(unix)]
#[allow(clippy::unnecessary_wraps, reason = "other systems have no permission bits")]
fn mode(metadata: &std::fs::Metadata) -> Option<u32> {
    use std::os::unix::fs::PermissionsExt;
    Some(metadata.permissions().mode() & 0o777)
}

#[cfg(not(unix))]
fn mode(_: &std::fs::Metadata) -> Option<u32> {
    None
}
