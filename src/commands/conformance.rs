//! `headway conformance`: what a proxy does right, before a scripted backend.

use std::io::{IsTerminal, Write};
use std::net::{SocketAddr, ToSocketAddrs};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum};
use serde_json::json;

use crate::conformance::{self, Options, Row, Verdict};
use crate::units::parse_duration;

/// Arguments of `headway conformance`.
#[derive(Debug, Clone, Args)]
pub struct ConformanceArgs {
    /// The proxy under test: `http://HOST:PORT`, with whatever stands before `/v1` in its paths.
    #[arg(long, value_name = "URL", required_unless_present = "list")]
    pub url: Option<String>,
    /// Where the scripted backend listens; the proxy must be configured to send everything there.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:18000")]
    pub scripted_backend: SocketAddr,
    /// The model to ask for.
    #[arg(long, value_name = "ID", default_value = "conformance")]
    pub model: String,
    /// The environment variable with a key for the proxy.
    #[arg(long, value_name = "NAME")]
    pub key_env: Option<String>,
    /// After how long without a token the proxy gives up, as it is configured; without it, that is not tried.
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub first_token_timeout: Option<Duration>,
    /// Only cases whose name contains one of these.
    #[arg(long, value_name = "PART", value_delimiter = ',')]
    pub only: Vec<String>,
    /// How to print the table.
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
    /// Print the names of the cases and what each expects, and nothing else.
    #[arg(long)]
    pub list: bool,
}

/// How the table is printed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Table,
    /// For documents.
    Markdown,
    /// For machines.
    Json,
}

/// Runs the cases and prints what came of them; exits with 1 when one failed.
///
/// # Errors
/// When the proxy or the backend's address cannot be used, or the output not be written.
pub async fn run(args: ConformanceArgs) -> anyhow::Result<ExitCode> {
    let mut out = std::io::stdout();
    if args.list {
        for (name, expected) in conformance::names() {
            writeln!(out, "{name:<26} {expected}")?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let options = options(&args)?;
    let follow = args.format == Format::Table;
    let rows = conformance::run(&options, |row| {
        if follow {
            let _ = writeln!(std::io::stdout(), "{}", line(row));
        }
    })
    .await?;
    let failed = rows.iter().filter(|row| row.verdict == Verdict::Fail).count();
    print(&mut out, &args, &rows)?;
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn options(args: &ConformanceArgs) -> anyhow::Result<Options> {
    let url = args.url.as_deref().unwrap_or_default();
    let uri: http::Uri = url.parse().with_context(|| format!("`{url}` is no URL"))?;
    let (Some("http"), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        bail!("`{url}` is not of the form http://HOST:PORT");
    };
    let port = authority.port_u16().unwrap_or(80);
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    let proxy = (host, port).to_socket_addrs().ok().and_then(|mut all| all.next());
    let key = args.key_env.as_ref().map(|name| std::env::var(name).with_context(|| format!("{name} is not set")));
    Ok(Options {
        proxy: proxy.with_context(|| format!("`{host}` has no address"))?,
        authority: authority.to_string(),
        base_path: uri.path().trim_end_matches('/').trim_end_matches("/v1").to_owned(),
        backend: args.scripted_backend,
        model: args.model.clone(),
        key: key.transpose()?,
        first_token: args.first_token_timeout,
        only: args.only.clone(),
    })
}

fn line(row: &Row) -> String {
    let colour = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let code = match row.verdict {
        Verdict::Pass => "32",
        Verdict::Fail => "31",
        Verdict::Skip => "2",
    };
    let verdict = row.verdict.as_str();
    let verdict = if colour { format!("\x1b[{code}m{verdict}\x1b[0m") } else { verdict.to_owned() };
    let expected =
        if row.verdict == Verdict::Fail { format!("\n     expected: {}", row.expected) } else { String::new() };
    format!("{verdict} {:<26} {}{expected}", row.case, row.seen)
}

fn print(out: &mut impl Write, args: &ConformanceArgs, rows: &[Row]) -> std::io::Result<()> {
    let count = |verdict| rows.iter().filter(|row| row.verdict == verdict).count();
    let (passed, failed, skipped) = (count(Verdict::Pass), count(Verdict::Fail), count(Verdict::Skip));
    match args.format {
        Format::Table => writeln!(out, "{passed} right, {failed} wrong, {skipped} not tried"),
        Format::Markdown => {
            writeln!(out, "| case | verdict | seen |\n|---|---|---|")?;
            for row in rows {
                writeln!(out, "| `{}` | {} | {} |", row.case, row.verdict.as_str(), row.seen)?;
            }
            writeln!(out, "\n{passed} right, {failed} wrong, {skipped} not tried")
        }
        Format::Json => {
            let row = |row: &Row| {
                let verdict = row.verdict.as_str().to_lowercase();
                json!({ "case": row.case, "expected": row.expected, "seen": row.seen, "verdict": verdict })
            };
            let rows: Vec<_> = rows.iter().map(row).collect();
            let document =
                json!({ "url": args.url, "passed": passed, "failed": failed, "skipped": skipped, "cases": rows });
            serde_json::to_writer_pretty(&mut *out, &document)?;
            writeln!(out)
        }
    }
}
