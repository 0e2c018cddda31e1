//! `headway explain`: why a request went where it went, or where one would go now.
//!
//! It asks the admin listener of a running headway, and says in a person's words what is there in numbers.

mod show;

use std::io::Write;

use anyhow::bail;
use clap::{Args, ValueEnum};
use serde_json::Value;

use super::ask::{self, Admin, AdminArgs};

/// Arguments of `headway explain`.
#[derive(Debug, Clone, Args)]
#[command(group = clap::ArgGroup::new("question").required(true))]
pub struct ExplainArgs {
    /// Whom to ask.
    #[command(flatten)]
    pub admin: AdminArgs,
    /// The request, by its `x-request-id`: why it went where it went.
    #[arg(long, value_name = "ID", group = "question")]
    pub request_id: Option<String>,
    /// A route: where a request would go now.
    #[arg(long, value_name = "NAME", group = "question")]
    pub route: Option<String>,
    /// How long the prompt would be; by default as long as usual on the route.
    #[arg(long, value_name = "N", requires = "route")]
    pub input_tokens: Option<u64>,
    /// The most tokens that would be asked for.
    #[arg(long, value_name = "N", requires = "route")]
    pub max_tokens: Option<u64>,
    /// Ask about an answer that is not streamed.
    #[arg(long, requires = "route")]
    pub unstreamed: bool,
    /// How to print it.
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub format: Format,
}

/// How to print an explanation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Table,
    /// For machines: what the admin listener answers.
    Json,
}

/// Asks, and prints the answer; the result is the exit code.
///
/// # Errors
/// When there is no such headway, request or route.
pub fn run(args: &ExplainArgs, out: &mut dyn Write) -> anyhow::Result<u8> {
    let admin = Admin::of(&args.admin)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let answer = runtime.block_on(admin.get(&question(args)))?;
    let text = if args.request_id.is_some() { past(args, &answer)? } else { present(args, &answer)? };
    out.write_all(text.as_bytes())?;
    Ok(0)
}

/// The path to ask for.
fn question(args: &ExplainArgs) -> String {
    if let Some(id) = &args.request_id {
        return format!("/api/v1/decisions?request_id={}", ask::encoded(id));
    }
    let mut path = format!("/api/v1/explain?route={}", ask::encoded(args.route.as_deref().unwrap_or_default()));
    let numbers = [("input_tokens", args.input_tokens), ("max_tokens", args.max_tokens)];
    for (name, number) in numbers.into_iter().filter_map(|(name, number)| Some((name, number?))) {
        path.extend(["&", name, "=", &number.to_string()]);
    }
    if args.unstreamed {
        path.push_str("&stream=false");
    }
    path
}

/// One decision per try, the first one first.
fn past(args: &ExplainArgs, answer: &Value) -> anyhow::Result<String> {
    let mut decisions = answer.get("decisions").and_then(Value::as_array).cloned().unwrap_or_default();
    if decisions.is_empty() {
        let id = args.request_id.as_deref().unwrap_or_default();
        bail!("no decision about the request `{id}` is remembered; the latest 1,000 are");
    }
    decisions.reverse();
    match args.format {
        Format::Json => Ok(format!("{:#}\n", Value::Array(decisions))),
        Format::Table => {
            let shown: Result<Vec<_>, _> = decisions.iter().map(show::decision).collect();
            Ok(shown?.join("\n"))
        }
    }
}

fn present(args: &ExplainArgs, answer: &Value) -> anyhow::Result<String> {
    match args.format {
        Format::Json => Ok(format!("{answer:#}\n")),
        Format::Table => Ok(show::explanation(answer)?),
    }
}
