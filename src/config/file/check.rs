//! Holds a tree against the table of keys: what is unknown, missing, of the wrong kind, or says nothing.

use super::scalar::Wrong;
use super::shape::{Key, Kind, Shape, Use};
use super::sink::{Sink, sounds_secret};
use super::suggest::nearest;
use crate::config::diagnostic::Code;
use crate::config::environment::{Environment, Lookup};
use crate::yaml::{At, Entry, Node, Scalar, Value, join};

/// Puts environment variables in: `${NAME}` in any value becomes the variable, `$${` becomes `${`.
pub(super) fn expand(node: &mut Node, path: &str, environment: &dyn Environment, sink: &mut Sink<'_>) {
    let at = node.at;
    match &mut node.value {
        Value::Scalar(scalar) if scalar.text.contains("${") => match expanded(&scalar.text, environment) {
            Ok(Some(text)) => scalar.written = Some(std::mem::replace(&mut scalar.text, text)),
            Ok(None) => node.value = Value::Unknown,
            Err(wrong) => {
                sink.error(at, path, Code::Environment, wrong);
                node.value = Value::Unknown;
            }
        },
        Value::List(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                expand(item, &format!("{path}[{index}]"), environment, sink);
            }
        }
        Value::Map(entries) => {
            for entry in entries {
                expand(&mut entry.value, &join(path, &entry.key), environment, sink);
            }
        }
        Value::Scalar(_) | Value::Null | Value::Unknown => {}
    }
}

/// The text with variables put in; `None` when the environment is not asked.
fn expanded(text: &str, environment: &dyn Environment) -> Result<Option<String>, Wrong> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let (before, after) = rest.split_at(at);
        let after = after.get(2..).unwrap_or_default();
        if let Some(before) = before.strip_suffix('$') {
            out.push_str(before);
            out.push_str("${");
            rest = after;
            continue;
        }
        out.push_str(before);
        let Some((name, after)) = after.split_once('}') else {
            return Err(Wrong::new("`${` without `}`", "write `${NAME}`, or `$${` for the characters themselves"));
        };
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if name.is_empty() || !name.chars().all(plain) {
            let hint = "a variable's name has letters, digits and `_`; write `$${` for the characters themselves";
            return Err(Wrong::new("`${…}` without the name of an environment variable", hint));
        }
        match environment.variable(name) {
            Lookup::Found(value) => out.push_str(&value),
            Lookup::Skipped => return Ok(None),
            Lookup::Missing(why) => {
                let hint = format!("set it before headway starts: `export {name}=…`");
                return Err(Wrong::new(format!("the environment variable `{name}` {why}"), hint));
            }
        }
        rest = after;
    }
    out.push_str(rest);
    Ok(Some(out))
}

/// Reports whatever in `node` does not fit `shape`.
pub(super) fn check(node: &Node, shape: &Shape, path: &str, sink: &mut Sink<'_>) {
    match (&node.value, shape) {
        (Value::Unknown, _) => {}
        (Value::Map(entries), Shape::Map(keys) | Shape::OneOrMap(_, keys)) => {
            check_map(entries, node.at, keys, path, sink);
        }
        (Value::Map(entries), Shape::Table(kind, inner)) => {
            for entry in entries {
                let path = join(path, &entry.key);
                if let Err(wrong) = kind.verify(&entry.key) {
                    sink.error(entry.at, &path, Code::InvalidValue, wrong);
                }
                check(&entry.value, inner, &path, sink);
            }
        }
        (Value::List(items), Shape::List(inner)) => {
            for (index, item) in items.iter().enumerate() {
                check(item, inner, &format!("{path}[{index}]"), sink);
            }
        }
        (Value::Scalar(scalar), Shape::One(kind) | Shape::OneOrMap(kind, _)) => {
            check_scalar(scalar, node.at, *kind, path, sink);
        }
        (Value::Null, shape) => {
            let name = last(path);
            let hint = format!("{}, or remove `{name}`", shape.example());
            sink.error(node.at, path, Code::Missing, Wrong::new(format!("`{name}` has no value"), hint));
        }
        (other, shape) => {
            let message = format!("`{}` must be {}, not {}", last(path), shape.expected(), other.kind());
            let hint = match (other, shape) {
                (Value::Scalar(scalar), Shape::List(_)) if !sounds_secret(path) && !sink.is_hidden(node.at) => {
                    format!("write `[{}]`", scalar.text)
                }
                _ => shape.example(),
            };
            sink.error(node.at, path, Code::WrongType, Wrong::new(message, hint));
        }
    }
}

fn check_scalar(scalar: &Scalar, at: At, kind: Kind, path: &str, sink: &mut Sink<'_>) {
    let Err(wrong) = kind.verify(&scalar.text) else { return };
    // What a variable holds may be a secret, so the message names the variable only.
    let wrong = match &scalar.written {
        Some(written) if !kind.is_secret() => {
            Wrong::new(format!("`{written}` stands for something that is not {}", kind.expected()), wrong.hint)
        }
        _ => wrong,
    };
    sink.error(at, path, Code::InvalidValue, wrong);
}

fn check_map(entries: &[Entry], at: At, keys: &'static [Key], path: &str, sink: &mut Sink<'_>) {
    let mut meant = Vec::new();
    for entry in entries {
        let path = join(path, &entry.key);
        match keys.iter().find(|key| key.name == entry.key) {
            None => {
                let wrong = unknown(&entry.key, keys, sink.root);
                meant.extend(wrong.suggestion.clone());
                sink.error(entry.at, &path, Code::UnknownField, wrong);
            }
            Some(key) if key.use_ == Use::NotBuilt => {
                let message = format!("`{}` is not built yet in this version", key.name);
                sink.error(entry.at, &path, Code::NotBuilt, Wrong::new(message, format!("remove `{}`", key.name)));
            }
            // `key:` without a value ends before its place; the key itself is what should be marked.
            Some(key) if matches!(entry.value.value, Value::Null) => {
                let null = Node { value: Value::Null, at: entry.at };
                check(&null, &key.shape, &path, sink);
            }
            Some(key) => check(&entry.value, &key.shape, &path, sink),
        }
    }
    for key in keys.iter().filter(|key| key.use_ == Use::Required) {
        // What was misspelt is not missing as well.
        if entries.iter().all(|entry| entry.key != key.name) && !meant.iter().any(|name| name == key.name) {
            let message = format!("`{}` is missing", key.name);
            let hint = format!("add `{}:` {}", key.name, key.shape.example());
            sink.error(at, &join(path, key.name), Code::Missing, Wrong::new(message, hint));
        }
    }
}

fn unknown(name: &str, keys: &'static [Key], root: &Shape) -> Wrong {
    let shown: String = name.chars().take(64).filter(|c| !c.is_control()).collect();
    let names = || keys.iter().filter(|key| key.use_ != Use::NotBuilt).map(|key| key.name);
    let known: Vec<_> = names().map(|known| format!("`{known}`")).collect();
    let mut wrong = Wrong::new(format!("unknown field \"{shown}\""), format!("fields here: {}", known.join(", ")));
    // A name that is right elsewhere is misplaced, not misspelt.
    if let Some(home) = home_of(name, root, "") {
        wrong.hint = if home.is_empty() {
            format!("`{shown}` belongs at the top level")
        } else {
            format!("`{shown}` belongs in `{home}`")
        };
    }
    wrong.suggestion = nearest(name, keys.iter().map(|key| key.name)).map(str::to_owned);
    wrong
}

/// Where a key of this very name may stand.
fn home_of(name: &str, shape: &Shape, path: &str) -> Option<String> {
    if let Shape::List(inner) = shape {
        return home_of(name, inner, &format!("{path}[]"));
    }
    if shape.keys().iter().any(|key| key.name == name) {
        return Some(path.to_owned());
    }
    shape.keys().iter().find_map(|key| home_of(name, &key.shape, &join(path, key.name)))
}

/// The last step of a path.
fn last(path: &str) -> &str {
    match path.rsplit('.').next() {
        None | Some("") => "the configuration",
        Some(step) => step,
    }
}
