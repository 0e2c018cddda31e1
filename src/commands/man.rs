//! `headway man`: the manual page, or one page per command.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, CommandFactory};
use clap_mangen::Man;

use crate::cli::Cli;

/// Where the pages go.
#[derive(Debug, Args)]
pub struct ManArgs {
    /// A folder that gets headway.1 and a page for every command; without it, headway(1) is printed.
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
}

/// Writes the pages; the result is the exit code.
pub fn run(args: &ManArgs, out: &mut dyn Write) -> anyhow::Result<u8> {
    match &args.out {
        None => Man::new(Cli::command()).render(out)?,
        Some(folder) => {
            std::fs::create_dir_all(folder).with_context(|| format!("cannot make `{}`", folder.display()))?;
            clap_mangen::generate_to(Cli::command(), folder)
                .with_context(|| format!("cannot write to `{}`", folder.display()))?;
        }
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_its_page() {
        let mut out = Vec::new();
        run(&ManArgs { out: None }, &mut out).expect("output");
        assert!(String::from_utf8_lossy(&out).contains(".TH headway 1"));

        let folder = tempfile::tempdir().expect("folder");
        run(&ManArgs { out: Some(folder.path().to_owned()) }, &mut out).expect("pages");
        for command in Cli::command().get_subcommands() {
            let page = folder.path().join(format!("headway-{}.1", command.get_name()));
            assert!(page.is_file(), "{}", page.display());
        }
    }
}
