//! The configuration as written: from YAML to [`Settings`], or to every mistake in it.
//!
//! [`yaml`] reads the YAML into values that know their place. `keys` is the one table of what there is; `check` holds the
//! tree against it, [`schema`] prints it. `build` fills in defaults and judges what no single value can tell. A value
//! that is wrong is reported once and then treated as absent, so one run finds everything.

pub(super) mod baselines;
mod build;
mod check;
mod keys;
mod route_keys;
mod scalar;
pub(super) mod schema;
mod shape;
mod sink;
mod suggest;
#[cfg(test)]
mod tests;
mod view;

use std::path::Path;

use self::build::Builder;
use self::scalar::Wrong;
use self::sink::Sink;
use self::view::View;
use super::diagnostic::{Code, Diagnostic};
use super::environment::{Environment, MAX_FILE};
use super::settings::Settings;
use crate::yaml;

/// Judges a text. Settings come along when there is no error, and nothing that was left out of the judging.
pub(super) fn judge(name: &str, text: &str, environment: &dyn Environment) -> (Option<Settings>, Vec<Diagnostic>) {
    if text.len() as u64 > MAX_FILE {
        let hint = "a configuration is a few hundred lines; is this the right file?";
        return (None, vec![Diagnostic::of_file(name, Code::Unreadable, "the file is larger than 1 MiB", hint)]);
    }
    let mut sink = Sink::new(name, text, &keys::ROOT);
    let (root, faults) = yaml::read(text);
    let root = root.filter(|root| !matches!(root.value, yaml::Value::Null));
    if let Some(root) = &root {
        sink.hide_secrets(root);
    }
    let empty = faults.is_empty();
    for fault in faults {
        sink.syntax(fault.at, &fault.path, Wrong::new(fault.message, fault.hint));
    }
    let Some(mut root) = root else {
        if empty {
            let hint = "`headway init` writes a file to start from";
            return (None, vec![Diagnostic::of_file(name, Code::Missing, "the configuration is empty", hint)]);
        }
        return (None, sink.finish());
    };
    check::expand(&mut root, "", environment, &mut sink);
    check::check(&root, &keys::ROOT, "", &mut sink);
    let base = Path::new(name).parent().unwrap_or(Path::new(""));
    let settings = build::settings(&View::root(&root), &mut Builder { sink: &mut sink, environment, base });
    let usable = !sink.has_errors();
    (usable.then_some(settings), sink.finish())
}
