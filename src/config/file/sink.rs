//! Where mistakes are collected, and where credentials are masked before a line is ever shown.

use std::collections::HashSet;
use std::sync::Arc;

use super::scalar::Wrong;
use super::shape::Shape;
use super::suggest::nearest;
use crate::config::diagnostic::{Code, Diagnostic, Severity, Snippet};
use crate::yaml::{At, Node, Value};

/// Most diagnostics of one file; a person stops reading long before.
const MAX_DIAGNOSTICS: usize = 500;
/// Longest line that is shown.
const MAX_LINE: usize = 200;

/// Collects what is wrong with one file.
pub(super) struct Sink<'a> {
    file: Arc<str>,
    lines: Vec<&'a str>,
    hidden: Vec<At>,
    seen: HashSet<(usize, usize, String)>,
    diagnostics: Vec<Diagnostic>,
    /// What was found in files that this one names.
    elsewhere: Vec<Diagnostic>,
    /// What the whole file may look like.
    pub(super) root: &'static Shape,
}

impl<'a> Sink<'a> {
    pub(super) fn new(file: &str, text: &'a str, root: &'static Shape) -> Self {
        Self {
            file: file.into(),
            lines: text.lines().collect(),
            hidden: Vec::new(),
            seen: HashSet::new(),
            diagnostics: Vec::new(),
            elsewhere: Vec::new(),
            root,
        }
    }

    /// Whether the value there must not be shown.
    pub(super) fn is_hidden(&self, at: At) -> bool {
        self.hidden.contains(&at)
    }

    /// Notes which values must never be shown; to be called before anything is reported about them.
    pub(super) fn hide_secrets(&mut self, root: &Node) {
        hide(root, false, &mut self.hidden);
    }

    pub(super) fn error(&mut self, at: At, path: &str, code: Code, wrong: Wrong) {
        self.add(at, path, Severity::Error, code, wrong);
    }

    pub(super) fn warning(&mut self, at: At, path: &str, code: Code, wrong: Wrong) {
        self.add(at, path, Severity::Warning, code, wrong);
    }

    /// A mistake in the YAML itself; no tree tells what is secret, so whatever looks like it is hidden.
    pub(super) fn syntax(&mut self, at: At, path: &str, wrong: Wrong) {
        let before = self.diagnostics.len();
        self.error(at, path, Code::Syntax, wrong);
        for diagnostic in self.diagnostics.iter_mut().skip(before) {
            for (_, line) in &mut diagnostic.snippet.lines {
                *line = mask_by_look(line);
            }
        }
    }

    /// Takes in what was found in a file that this one names.
    pub(super) fn elsewhere(&mut self, found: Vec<Diagnostic>) {
        self.elsewhere.extend(found);
    }

    pub(super) fn has_errors(&self) -> bool {
        self.diagnostics.iter().chain(&self.elsewhere).any(Diagnostic::is_error)
    }

    /// Everything found, in the order of the file; then what was found in the files it names.
    pub(super) fn finish(mut self) -> Vec<Diagnostic> {
        self.diagnostics.sort_by_key(|diagnostic| (diagnostic.line, diagnostic.column));
        self.diagnostics.append(&mut self.elsewhere);
        self.diagnostics
    }

    fn add(&mut self, at: At, path: &str, severity: Severity, code: Code, wrong: Wrong) {
        let Wrong { message, hint, suggestion } = wrong;
        // An alias repeats its original, mistakes included; once is enough.
        let new = self.seen.insert((at.line, at.column, message.clone()));
        if !new || self.diagnostics.len() >= MAX_DIAGNOSTICS {
            return;
        }
        self.diagnostics.push(Diagnostic {
            file: Arc::clone(&self.file),
            line: at.line,
            column: at.column,
            path: path.to_owned(),
            severity,
            code,
            message,
            hint,
            suggestion,
            snippet: self.snippet(at),
        });
    }

    fn snippet(&self, at: At) -> Snippet {
        let numbers = at.line.saturating_sub(1).max(1)..=at.line.saturating_add(1);
        let lines = numbers.filter_map(|number| Some((number, self.shown(number)?))).collect();
        Snippet { lines, width: at.width.min(MAX_LINE.saturating_sub(at.column)) }
    }

    fn shown(&self, number: usize) -> Option<String> {
        let line = self.lines.get(number.checked_sub(1)?)?;
        let mut shown: Vec<char> = line.chars().take(MAX_LINE).collect();
        for at in self.hidden.iter().filter(|at| (at.line..=at.last).contains(&number)) {
            let (from, to) = match (at.line == number, at.line == at.last) {
                (true, true) => (at.column.saturating_sub(1), at.column.saturating_sub(1) + at.width),
                (true, false) => (at.column.saturating_sub(1), usize::MAX),
                (false, _) => (0, usize::MAX),
            };
            let hidden = shown.iter_mut().enumerate().filter(|(index, _)| (from..to).contains(index));
            hidden.for_each(|(_, character)| *character = '*');
        }
        // A control character could move a terminal's cursor; a tab would move the caret.
        Some(shown.into_iter().map(|c| if c.is_control() { ' ' } else { c }).collect())
    }
}

/// Collects the places of values that may be credentials: under keys that say so, misspelt ones included.
fn hide(node: &Node, secret: bool, hidden: &mut Vec<At>) {
    match &node.value {
        Value::Scalar(scalar) => {
            let reference = scalar.text.starts_with("${") && scalar.text.ends_with('}');
            let in_url = scalar.text.contains("://") && scalar.text.contains('@');
            if (secret && !reference) || in_url {
                hidden.push(node.at);
            }
        }
        Value::List(items) => items.iter().for_each(|item| hide(item, secret, hidden)),
        Value::Map(entries) => {
            let tls = entries.iter().any(|entry| entry.key == "certificate");
            for entry in entries {
                let path = entry.key == "file" || (entry.key == "key" && tls);
                if !path && !secret && leads_to_callers(&entry.key) {
                    hide_callers(&entry.value, hidden);
                    continue;
                }
                hide(&entry.value, !path && (secret || sounds_secret(&entry.key)), hidden);
                if let ("otlp", Value::Map(keys)) = (&*entry.key, &entry.value.value) {
                    // Whatever they are called: collectors know their callers by such fields.
                    keys.iter().filter(|key| key.key == "headers").for_each(|key| hide(&key.value, true, hidden));
                }
            }
        }
        Value::Null | Value::Unknown => {}
    }
}

/// What a caller's entry says that is no secret.
const HARMLESS: [&str; 5] = ["name", "routes", "requests_per_minute", "tokens_per_minute", "concurrency"];

fn leads_to_callers(key: &str) -> bool {
    key == "keys" || (!sounds_secret(key) && nearest(key, ["keys"]).is_some())
}

/// Under `keys` belong digests; whoever misunderstands that writes the keys themselves, in whatever form.
fn hide_callers(node: &Node, hidden: &mut Vec<At>) {
    let Value::List(items) = &node.value else { return hide(node, true, hidden) };
    for item in items {
        match &item.value {
            Value::Map(entries) => {
                for entry in entries {
                    hide(&entry.value, !HARMLESS.contains(&&*entry.key), hidden);
                }
            }
            _ => hide(item, true, hidden),
        }
    }
}

/// Whether values under this key should not be shown.
pub(super) fn sounds_secret(key: &str) -> bool {
    let key = key.to_lowercase();
    let open = ["keys", "first_token", "routes", "tokens_per_minute"].contains(&key.as_str());
    let says_so = ["key", "token", "secret", "passw", "auth", "credential", "bearer", "sha256"]
        .iter()
        .any(|word| key.contains(word));
    !open && (says_so || nearest(&key, ["api_key", "token"]).is_some())
}

/// Whether a word of a line is like the keys that services give out.
fn looks_like_a_key(line: &str) -> bool {
    line.split([' ', '"', '\'', '[', ']', '{', '}', ',']).any(|word| word.starts_with("sk-"))
}

/// Masks a line without knowing what is in it.
fn mask_by_look(line: &str) -> String {
    let words = line.trim_start();
    let stars = |text: &str| text.chars().map(|c| if c == ' ' { ' ' } else { '*' }).collect::<String>();
    let Some(colon) = line.find(':') else {
        let harmless = (words.starts_with(['-', '#']) && !looks_like_a_key(words)) || words.len() < 3;
        return if harmless { line.to_owned() } else { stars(line) };
    };
    let lower = line.to_lowercase();
    let secret = ["key", "token", "secret", "passw", "auth", "@"].iter().any(|word| lower.contains(word));
    if !secret && !looks_like_a_key(words) {
        return line.to_owned();
    }
    let (key, value) = line.split_at(colon + 1);
    format!("{key}{}", stars(value))
}
