//! `headway check`: judges configuration files without serving.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use serde_json::Value;

use super::EXIT_CONFIG;
use crate::config::{self, Diagnostic, Environment, NoEnvironment, SystemEnvironment};

/// What to check, and how to say it.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Configuration files.
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Let warnings fail.
    #[arg(long)]
    pub strict: bool,
    /// Ask for no environment variable and read no file that the configuration names.
    #[arg(long)]
    pub no_environment: bool,
    /// How to print what was found.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}

/// How to print what was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people: place, lines, hint.
    Text,
    /// For machines: one array of `{file, line, column, path, severity, code, message, hint, suggestion}`.
    Json,
}

/// Judges every file and prints what was found; the result is the exit code, 0 or 78.
pub fn run(args: &CheckArgs, out: &mut dyn Write) -> anyhow::Result<u8> {
    let environment: &dyn Environment = if args.no_environment { &NoEnvironment } else { &SystemEnvironment };
    let mut failed = false;
    let mut all = Vec::new();
    for file in &args.files {
        let found = config::check(file, environment);
        failed |= found.iter().any(|diagnostic| args.strict || diagnostic.is_error());
        match args.format {
            Format::Text => print(file, &found, out)?,
            Format::Json => all.extend(found.iter().map(Diagnostic::to_json)),
        }
    }
    if args.format == Format::Json {
        writeln!(out, "{:#}", Value::Array(all))?;
    }
    Ok(if failed { EXIT_CONFIG } else { 0 })
}

fn print(file: &Path, found: &[Diagnostic], out: &mut dyn Write) -> anyhow::Result<()> {
    for diagnostic in found {
        writeln!(out, "{diagnostic}")?;
    }
    let errors = found.iter().filter(|diagnostic| diagnostic.is_error()).count();
    let warnings = found.len().saturating_sub(errors);
    let verdict = match (errors, warnings) {
        (0, 0) => "ok".to_owned(),
        (0, warnings) => format!("ok, {}", count(warnings, "warning")),
        (errors, 0) => count(errors, "error"),
        (errors, warnings) => format!("{}, {}", count(errors, "error"), count(warnings, "warning")),
    };
    writeln!(out, "{}: {verdict}", file.display())?;
    Ok(())
}

fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNUSED: &str = "listeners: [{ address: 127.0.0.1:8080 }]
backends:
  - { name: a, url: http://10.0.0.1:8000 }
  - { name: b, url: http://10.0.0.2:8000 }
routes:
  - { name: chat, backends: [a] }
";

    fn check(text: &str, strict: bool, format: Format) -> (u8, String) {
        let folder = tempfile::tempdir().expect("folder");
        let file = folder.path().join("headway.yaml");
        std::fs::write(&file, text).expect("file");
        let mut out = Vec::new();
        let args = CheckArgs { files: vec![file], strict, no_environment: false, format };
        let code = run(&args, &mut out).expect("output");
        (code, String::from_utf8(out).expect("text"))
    }

    #[test]
    fn warnings_fail_only_when_strict() {
        let (code, text) = check(UNUSED, false, Format::Text);
        assert_eq!(code, 0, "{text}");
        assert!(text.contains("headway.yaml:4:13: warning: no route uses the backend `b`"), "{text}");
        assert!(text.ends_with("headway.yaml: ok, 1 warning\n"), "{text}");
        assert_eq!(check(UNUSED, true, Format::Text).0, EXIT_CONFIG);
    }

    #[test]
    fn errors_fail_and_machines_get_an_array() {
        let (code, text) = check("listners: []", false, Format::Json);
        assert_eq!(code, EXIT_CONFIG);
        let found: Value = serde_json::from_str(&text).expect("JSON");
        let codes: Vec<_> = found.as_array().expect("array").iter().map(|one| one["code"].as_str()).collect();
        assert_eq!(codes, [Some("unknown_field"), Some("missing"), Some("missing")]);
        assert_eq!(found[0]["suggestion"], "listeners");
    }

    #[test]
    fn a_file_that_is_not_there_is_an_error() {
        let args = CheckArgs {
            files: vec!["/nonexistent/headway.yaml".into()],
            strict: false,
            no_environment: false,
            format: Format::Text,
        };
        let mut out = Vec::new();
        assert_eq!(run(&args, &mut out).expect("output"), EXIT_CONFIG);
        assert!(String::from_utf8_lossy(&out).contains("it does not exist"));
    }
}
