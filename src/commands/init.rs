//! `headway init`: writes a commented configuration to start from.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::Args;

/// The file that is written: the shipped configuration itself, so that the two cannot differ.
pub const STARTER: &str = include_str!("../../config/headway.yaml");

/// Where to write.
#[derive(Debug, Args)]
pub struct InitArgs {
    /// File to write; `-` writes to standard output.
    #[arg(default_value = "headway.yaml", value_name = "FILE")]
    pub file: PathBuf,
    /// Replace a file that is there.
    #[arg(long)]
    pub force: bool,
}

/// Writes the starter file; the result is the exit code.
pub fn run(args: &InitArgs, out: &mut dyn Write) -> anyhow::Result<u8> {
    if args.file.as_os_str() == "-" {
        out.write_all(STARTER.as_bytes())?;
        return Ok(0);
    }
    let shown = args.file.display();
    let mut options = OpenOptions::new();
    options.write(true);
    if args.force {
        options.create(true).truncate(true)
    } else {
        options.create_new(true)
    };
    let mut file = match options.open(&args.file) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            bail!("`{shown}` is there already; `--force` replaces it, `headway init -` prints instead")
        }
        Err(error) => return Err(error).with_context(|| format!("cannot write `{shown}`")),
    };
    file.write_all(STARTER.as_bytes()).with_context(|| format!("cannot write `{shown}`"))?;
    writeln!(out, "wrote {shown}; edit its backends, then: headway check {shown} && headway serve --config {shown}")?;
    writeln!(out, "for completion in editors: headway schema > headway.schema.json, beside it")?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{SystemEnvironment, check, parse};

    #[test]
    fn the_starter_begins_with_the_modeline_and_passes_check_without_a_warning() {
        assert!(STARTER.starts_with("# yaml-language-server: $schema=./headway.schema.json\n"));
        let loaded = parse("headway.yaml", STARTER, &SystemEnvironment).unwrap_or_else(|report| panic!("{report}"));
        assert_eq!(loaded.warnings, []);
    }

    #[test]
    fn a_file_is_replaced_only_by_force() {
        let folder = tempfile::tempdir().expect("folder");
        let file = folder.path().join("headway.yaml");
        let run = |force| run(&InitArgs { file: file.clone(), force }, &mut Vec::new());
        assert_eq!(run(false).expect("new"), 0);
        std::fs::write(&file, "mine").expect("edit");
        assert!(run(false).expect_err("there").to_string().contains("--force"));
        assert_eq!(std::fs::read_to_string(&file).expect("file"), "mine");
        assert_eq!(run(true).expect("force"), 0);
        assert_eq!(check(&file, &SystemEnvironment), []);
    }

    #[test]
    fn a_dash_prints() {
        let mut out = Vec::new();
        run(&InitArgs { file: "-".into(), force: false }, &mut out).expect("output");
        assert_eq!(out, STARTER.as_bytes());
    }
}
