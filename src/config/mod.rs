//! Configuration: as written (`file`), as meant ([`settings`]), and kept current (`reload`).
//!
//! ```no_run
//! let loaded = headway::config::load("config/headway.yaml".as_ref())?;
//! println!("{} routes", loaded.settings.routes.len());
//! # Ok::<(), headway::config::Report>(())
//! ```

mod diagnostic;
mod environment;
mod file;
pub mod network;
pub mod settings;

use std::path::Path;

pub use self::diagnostic::{Code, Diagnostic, Report, Severity, Snippet};
pub use self::environment::{Contents, Environment, Lookup, NoEnvironment, SystemEnvironment};
use self::settings::Settings;

/// A configuration that can be used.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// What it means.
    pub settings: Settings,
    /// What looks like a mistake nevertheless.
    pub warnings: Vec<Diagnostic>,
}

/// Reads a configuration file, with the process's environment. Blocking: it reads files.
///
/// # Errors
/// Every mistake in the file, or that it cannot be read.
pub fn load(path: &Path) -> Result<Loaded, Report> {
    let name = path.to_string_lossy();
    let text = read(path).map_err(|diagnostic| Report(vec![diagnostic]))?;
    parse(&name, &text, &SystemEnvironment)
}

/// Reads a configuration from a text; `name` is the file's name in messages, and relative paths start from its folder.
///
/// # Errors
/// Every mistake in the text.
pub fn parse(name: &str, text: &str, environment: &dyn Environment) -> Result<Loaded, Report> {
    match file::judge(name, text, environment) {
        (Some(settings), warnings) => Ok(Loaded { settings, warnings }),
        (None, diagnostics) => Err(Report(diagnostics)),
    }
}

/// Everything to say about a configuration file, errors and warnings, in the order of the file.
pub fn check(path: &Path, environment: &dyn Environment) -> Vec<Diagnostic> {
    match read(path) {
        Ok(text) => file::judge(&path.to_string_lossy(), &text, environment).1,
        Err(diagnostic) => vec![diagnostic],
    }
}

fn read(path: &Path) -> Result<String, Diagnostic> {
    let refuse = |why: String| {
        let message = format!("the configuration cannot be read: {why}");
        Diagnostic::of_file(&path.to_string_lossy(), Code::Unreadable, message, "check the path and its permissions")
    };
    let contents = environment::read_bounded(path).map_err(|error| refuse(environment::reason(&error)))?;
    String::from_utf8(contents.bytes).map_err(|_| refuse("it is not UTF-8 text".to_owned()))
}
