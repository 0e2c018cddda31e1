//! What is wrong with a configuration file, and where; every mistake of a file in one run.
//!
//! A diagnostic carries the lines around its place, so that it can be shown long after the file was changed again.
//! Whatever could be a credential is masked in those lines before they are kept.

use std::fmt;
use std::sync::Arc;

use serde_json::{Value, json};

/// One mistake, or one thing that looks like a mistake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// The file, as it was named.
    pub file: Arc<str>,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// The field, such as `routes[0].slo.ttft`; empty for the file as a whole.
    pub path: String,
    /// Whether the file can be used nevertheless.
    pub severity: Severity,
    /// What kind of mistake it is; stable, for machines.
    pub code: Code,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub hint: String,
    /// What was probably meant, when something is near enough.
    pub suggestion: Option<String>,
    /// The lines around the place.
    pub snippet: Snippet,
}

/// Whether a file can be used in spite of a diagnostic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// It cannot.
    Error,
    /// It can; `--strict` refuses it.
    Warning,
}

impl Severity {
    /// The name in the machine format.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
        }
    }
}

/// Kinds of mistakes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Code {
    /// The file cannot be read.
    Unreadable,
    /// No YAML, or more of it than any configuration needs.
    Syntax,
    /// A key that nothing reads.
    UnknownField,
    /// A key of a later version.
    NotBuilt,
    /// A key that must be there and is not.
    Missing,
    /// A list where a mapping should be, and the like.
    WrongType,
    /// A value that cannot be.
    InvalidValue,
    /// Something there twice.
    Duplicate,
    /// A name that nothing defines.
    UndefinedName,
    /// Two keys that exclude or need each other.
    Conflict,
    /// An environment variable that is not set.
    Environment,
    /// A file that the configuration names and that cannot be used.
    File,
    /// A certificate that has expired, or soon will.
    Expiring,
    /// Something that works, and should not be done.
    Unsafe,
    /// Something that has no effect.
    Unused,
}

impl Code {
    /// The name in the machine format.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unreadable => "unreadable",
            Self::Syntax => "syntax",
            Self::UnknownField => "unknown_field",
            Self::NotBuilt => "not_built",
            Self::Missing => "missing",
            Self::WrongType => "wrong_type",
            Self::InvalidValue => "invalid_value",
            Self::Duplicate => "duplicate",
            Self::UndefinedName => "undefined_name",
            Self::Conflict => "conflict",
            Self::Environment => "environment",
            Self::File => "file",
            Self::Expiring => "expiring",
            Self::Unsafe => "unsafe",
            Self::Unused => "unused",
        }
    }
}

/// The lines around a place, credentials masked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snippet {
    /// Line numbers and their text, at most three.
    pub lines: Vec<(usize, String)>,
    /// How many characters the caret line marks; 0 shows no caret.
    pub width: usize,
}

impl Diagnostic {
    /// A diagnostic about a file as a whole: it cannot be read, it is too large.
    #[must_use]
    pub fn of_file(file: &str, code: Code, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            file: file.into(),
            line: 1,
            column: 1,
            path: String::new(),
            severity: Severity::Error,
            code,
            message: message.into(),
            hint: hint.into(),
            suggestion: None,
            snippet: Snippet::default(),
        }
    }

    /// Whether the file cannot be used.
    #[must_use]
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }

    /// The machine format.
    #[must_use]
    pub fn to_json(&self) -> Value {
        json!({
            "file": &*self.file,
            "line": self.line,
            "column": self.column,
            "path": self.path,
            "severity": self.severity.as_str(),
            "code": self.code.as_str(),
            "message": self.message,
            "hint": self.hint,
            "suggestion": self.suggestion,
        })
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.is_error() { "" } else { "warning: " };
        write!(f, "{}:{}:{}: {kind}{}", self.file, self.line, self.column, self.message)?;
        match &self.suggestion {
            Some(suggestion) => writeln!(f, ", did you mean \"{suggestion}\"?")?,
            None => writeln!(f)?,
        }
        for (number, text) in &self.snippet.lines {
            writeln!(f, "{}", format!("{number:>5} | {text}").trim_end())?;
            if *number == self.line && self.snippet.width > 0 {
                let indent = " ".repeat(self.column.saturating_sub(1));
                writeln!(f, "      | {indent}{}", "^".repeat(self.snippet.width))?;
            }
        }
        if !self.path.is_empty() {
            writeln!(f, "  field: {}", self.path)?;
        }
        writeln!(f, "  hint: {}", self.hint)
    }
}

/// Why a configuration was refused: every error, and the warnings beside them. Never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report(pub Vec<Diagnostic>);

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, diagnostic) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}{diagnostic}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Report {}

impl Report {
    /// The machine format: an array.
    #[must_use]
    pub fn to_json(&self) -> Value {
        self.0.iter().map(Diagnostic::to_json).collect()
    }
}
