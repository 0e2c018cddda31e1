//! `headway schema`: prints the JSON Schema of the configuration.

use std::io::Write;

use clap::Args;

use crate::config;

/// Nothing to choose.
#[derive(Debug, Args)]
pub struct SchemaArgs {}

/// Prints the schema; the result is the exit code.
pub fn run(_: &SchemaArgs, out: &mut dyn Write) -> anyhow::Result<u8> {
    writeln!(out, "{:#}", config::schema())?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Written anew with `headway schema > config/headway.schema.json`.
    #[test]
    fn the_published_schema_is_current() {
        let mut out = Vec::new();
        run(&SchemaArgs {}, &mut out).expect("output");
        let published = include_str!("../../config/headway.schema.json");
        if std::env::var_os("HEADWAY_UPDATE_GOLDEN").is_some() {
            let path = concat!(env!("CARGO_MANIFEST_DIR"), "/config/headway.schema.json");
            std::fs::write(path, &out).expect("schema");
        } else {
            assert!(String::from_utf8_lossy(&out) == published, "run `headway schema > config/headway.schema.json`");
        }
    }
}
