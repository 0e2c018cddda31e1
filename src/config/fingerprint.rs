//! Whether a configuration's files are still the ones that were read: the file itself and all it refers to.

use std::cell::RefCell;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::environment::{Contents, Environment, Lookup, read_bounded, reason};

/// The files of one attempt to load, and what was in them. A file that could not be read counts with the reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fingerprint(Vec<(PathBuf, u64)>);

impl Fingerprint {
    /// Of the configuration file alone; what it refers to is added as it is read.
    pub(super) fn of_file(path: &Path, contents: &io::Result<Contents>) -> Self {
        Self(vec![(path.to_owned(), digest(contents))])
    }

    /// Of a configuration that was not read from its file: never current.
    pub(super) fn empty(path: &Path) -> Self {
        Self(vec![(path.to_owned(), 0)])
    }

    /// Whether every file still holds what it held. Blocking.
    pub(super) fn is_current(&self) -> bool {
        self.0.iter().all(|(path, held)| digest(&read_bounded(path)) == *held)
    }
}

/// The process's environment, taking note of every file that is read.
pub(super) struct Recorder(RefCell<Fingerprint>);

impl Recorder {
    pub(super) fn new(fingerprint: Fingerprint) -> Self {
        Self(RefCell::new(fingerprint))
    }

    pub(super) fn into_fingerprint(self) -> Fingerprint {
        self.0.into_inner()
    }
}

impl Environment for Recorder {
    fn variable(&self, name: &str) -> Lookup<String> {
        super::SystemEnvironment.variable(name)
    }

    fn file(&self, path: &Path) -> Lookup<Contents> {
        let contents = read_bounded(path);
        self.0.borrow_mut().0.push((path.to_owned(), digest(&contents)));
        match contents {
            Ok(contents) => Lookup::Found(contents),
            Err(error) => Lookup::Missing(reason(&error)),
        }
    }

    fn wall(&self) -> Option<SystemTime> {
        super::SystemEnvironment.wall()
    }
}

fn digest(contents: &io::Result<Contents>) -> u64 {
    let mut hasher = DefaultHasher::new();
    match contents {
        Ok(contents) => contents.bytes.hash(&mut hasher),
        Err(error) => reason(error).hash(&mut hasher),
    }
    hasher.finish()
}
