//! Configuration: as written (`file`), as meant ([`settings`]), and kept current ([`Reloader`]).
//!
//! ```no_run
//! let loaded = headway::config::load("config/headway.yaml".as_ref())?;
//! println!("{} routes", loaded.settings.routes.len());
//! # Ok::<(), headway::config::Report>(())
//! ```

pub mod access;
mod atomically;
pub mod baselines;
pub mod certificates;
mod diagnostic;
mod dump;
mod environment;
mod file;
mod fingerprint;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
pub mod network;
pub mod otlp;
mod reload;
pub mod settings;
mod split;
mod watch;

use std::path::Path;

pub use self::atomically::replace_file;
pub use self::diagnostic::{Code, Diagnostic, Report, Severity, Snippet};
pub use self::dump::{dump, hash, price};
pub use self::environment::{BeforeBaselines, Contents, Environment, Lookup, NoEnvironment, SystemEnvironment};
use self::fingerprint::{Fingerprint, Recorder};
pub use self::reload::{LastReload, ReloadReport, Reloader, Trigger};
use self::settings::Settings;
pub use self::watch::Watch;

/// A configuration that can be used.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// What it means.
    pub settings: Settings,
    /// What looks like a mistake nevertheless.
    pub warnings: Vec<Diagnostic>,
    /// What was read, when it was read from files.
    fingerprint: Option<Fingerprint>,
}

/// Reads a configuration file, with the process's environment. Blocking: it reads files.
///
/// # Errors
/// Every mistake in the file, or that it cannot be read.
pub fn load(path: &Path) -> Result<Loaded, Report> {
    attempt(path).0
}

/// Reads a configuration file before anything was measured: the file that `baselines` names need not be there yet.
/// Blocking: it reads files.
///
/// # Errors
/// Every mistake in the file, or that it cannot be read.
pub fn load_before_baselines(path: &Path) -> Result<Loaded, Report> {
    let text = text(path, environment::read_bounded(path))?;
    parse(&path.to_string_lossy(), &text, &BeforeBaselines)
}

/// Reads a file of measurements.
///
/// # Errors
/// Every mistake in it, or that it cannot be read.
pub fn read_baselines(path: &Path) -> Result<Vec<baselines::Baseline>, Report> {
    let name = path.to_string_lossy();
    let (entries, found) = file::baselines::judge(&name, &text(path, environment::read_bounded(path))?);
    if found.iter().any(Diagnostic::is_error) { Err(Report(found)) } else { Ok(entries) }
}

/// Reads a configuration from a text; `name` is the file's name in messages, and relative paths start from its folder.
///
/// With [`NoEnvironment`] the settings lack whatever the environment would have given.
///
/// # Errors
/// Every mistake in the text.
pub fn parse(name: &str, text: &str, environment: &dyn Environment) -> Result<Loaded, Report> {
    match file::judge(name, text, environment) {
        (Some(settings), warnings) => Ok(Loaded { settings, warnings, fingerprint: None }),
        (None, diagnostics) => Err(Report(diagnostics)),
    }
}

/// Everything to say about a configuration file, errors and warnings, in the order of the file.
pub fn check(path: &Path, environment: &dyn Environment) -> Vec<Diagnostic> {
    match text(path, environment::read_bounded(path)) {
        Ok(text) => file::judge(&path.to_string_lossy(), &text, environment).1,
        Err(report) => report.0,
    }
}

/// The JSON Schema of the configuration.
#[must_use]
pub fn schema() -> serde_json::Value {
    file::schema::schema()
}

/// Loads, and says what was read, whatever came of it.
fn attempt(path: &Path) -> (Result<Loaded, Report>, Fingerprint) {
    let contents = environment::read_bounded(path);
    let recorder = Recorder::new(Fingerprint::of_file(path, &contents));
    let parsed = text(path, contents).and_then(|text| parse(&path.to_string_lossy(), &text, &recorder));
    let fingerprint = recorder.into_fingerprint();
    let loaded = parsed.map(|loaded| Loaded { fingerprint: Some(fingerprint.clone()), ..loaded });
    (loaded, fingerprint)
}

fn text(path: &Path, contents: std::io::Result<Contents>) -> Result<String, Report> {
    let refuse = |why: String| {
        let message = format!("the configuration cannot be read: {why}");
        let hint = "check the path and its permissions";
        Report(vec![Diagnostic::of_file(&path.to_string_lossy(), Code::Unreadable, message, hint)])
    };
    let contents = contents.map_err(|error| refuse(environment::reason(&error)))?;
    String::from_utf8(contents.bytes).map_err(|_| refuse("it is not UTF-8 text".to_owned()))
}
