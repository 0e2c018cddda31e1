//! `headway simulate`: policies against each other on the same traffic, in virtual time, without a GPU.

mod configured;
mod play;
mod traffic;

use std::io::Write;
use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, ValueEnum};

use self::configured::Configured;
use self::traffic::{Files, Plan};
use super::EXIT_CONFIG;
use crate::config;
use crate::policy_simulator::ablation::{SWITCHES, UnknownAblation, ablated};
use crate::policy_simulator::contender::{Contender, RIVALS, UnknownContender, names};
use crate::policy_simulator::frozen::{CONFIGURATIONS, Evaluation};
use crate::policy_simulator::report::{self, Report};
use crate::policy_simulator::scenario::{SCENARIOS, Scenario};

/// Runs of a scenario, unless told otherwise.
const RUNS: u64 = 5;
/// The policies that play, unless told otherwise.
const USUAL: [&str; 9] =
    ["cheapest_within_slo", "cheapest_within_slo+shed", "lr", "p2c", "prequal", "pqrs", "llmd", "llmds", "cheapq"];

/// Arguments of `headway simulate`.
#[derive(Debug, Args)]
pub struct SimulateArgs {
    /// A configuration whose backends (by their profiles) and routes are simulated, instead of the built-in fleet.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Recorded traffic: headway's own access log, Azure's CSV or Mooncake's JSON lines; a folder of the latter; repeatable.
    #[arg(long = "trace", value_name = "FILE")]
    pub traces: Vec<PathBuf>,
    /// A policy, `cheapest_within_slo+shed`, or a rival (`--list` names them); repeatable.
    #[arg(long = "policy", value_name = "NAME", value_delimiter = ',', value_parser = contender)]
    pub policies: Vec<Contender>,
    /// A scenario, or `all` (`--list` names them); repeatable.
    #[arg(long = "scenario", value_name = "NAME", value_delimiter = ',', value_parser = scenarios)]
    pub scenarios: Vec<Chosen>,
    /// Random configurations instead of scenarios: `frozen` are those that rules are compared on, `second` are run once,
    /// when a rule is final.
    #[arg(long, value_enum, conflicts_with_all = ["scenarios", "config"])]
    pub evaluation: Option<EvaluationName>,
    /// Configurations of the evaluation (60), or runs of each scenario (5).
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub configurations: Option<u64>,
    /// Our rule without a part (`probes`), with a constant (`alpha=0.1`) or both, by commas; `all` leaves out each part in
    /// turn; repeatable.
    #[arg(long = "ablation", value_name = "NAME", value_parser = ablation)]
    pub ablations: Vec<String>,
    /// Other draws of the engines and policies on the same traffic.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// How to print what was found.
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub format: Format,
    /// Name the scenarios and policies, and simulate nothing.
    #[arg(long)]
    pub list: bool,
}

/// How to print what was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people at a terminal.
    Table,
    /// Everything, unrounded.
    Json,
    /// One line for each configuration, policy and route.
    Csv,
    /// A page with plots, without anything from elsewhere.
    Html,
}

/// A set of random configurations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum EvaluationName {
    /// Those that rules are compared on.
    Frozen,
    /// Those that are run once.
    Second,
}

/// Scenarios that one argument names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chosen(Vec<Scenario>);

fn contender(name: &str) -> Result<Contender, UnknownContender> {
    Contender::named(name)
}

fn scenarios(name: &str) -> Result<Chosen, String> {
    if name == "all" {
        return Ok(Chosen(SCENARIOS.to_vec()));
    }
    let known = || SCENARIOS.iter().map(|one| one.name).collect::<Vec<_>>().join(", ");
    let unknown = || format!("no scenario is named `{name}`; there are {}", known());
    Scenario::named(name).map(|one| Chosen(vec![one])).ok_or_else(unknown)
}

fn ablation(text: &str) -> Result<String, UnknownAblation> {
    if text != "all" {
        ablated(text)?;
    }
    Ok(text.to_owned())
}

/// Simulates and prints; the result is the exit code.
///
/// # Errors
/// When a trace cannot be read, the configuration cannot be modelled, or nothing can be written.
pub fn run(args: &SimulateArgs, out: &mut dyn Write) -> anyhow::Result<u8> {
    if args.list {
        list(out)?;
        return Ok(0);
    }
    let configured = match &args.config {
        None => None,
        Some(file) => match config::load(file) {
            Ok(loaded) => {
                let model = || format!("{} cannot be simulated", file.display());
                Some(Configured::of(&loaded.settings).with_context(model)?)
            }
            Err(report) => return refuse(&report),
        },
    };
    let files = Files::read(&args.traces)?;
    let plan = Plan { args, files: &files, configured: configured.as_ref() };
    let groups = play::play(plan.games()?, &contenders(args, configured.is_some())?);
    let report = Report { about: plan.about(), groups };
    match args.format {
        Format::Table => write!(out, "{}", report::table(&report))?,
        Format::Json => writeln!(out, "{:#}", report::json(&report))?,
        Format::Csv => write!(out, "{}", report::csv(&report))?,
        Format::Html => write!(out, "{}", report::html(&report))?,
    }
    Ok(0)
}

#[allow(clippy::print_stderr, reason = "the command line is where errors are read")]
#[allow(clippy::unnecessary_wraps, reason = "an exit code, as the other ends of `run` have it")]
fn refuse(report: &config::Report) -> anyhow::Result<u8> {
    eprintln!("{report}");
    Ok(EXIT_CONFIG)
}

/// Who plays: who was named, or the usual ones; what is configured comes first.
fn contenders(args: &SimulateArgs, configured: bool) -> anyhow::Result<Vec<Contender>> {
    let mut all: Vec<Contender> = configured.then(Contender::configured).into_iter().collect();
    if args.policies.is_empty() {
        let usual = if args.ablations.is_empty() { USUAL.as_slice() } else { USUAL.get(..2).unwrap_or_default() };
        for name in usual {
            all.push(Contender::named(name)?);
        }
    } else {
        all.extend_from_slice(&args.policies);
    }
    let parts = |text: &String| match text.as_str() {
        "all" => SWITCHES.map(str::to_owned).to_vec(),
        _ => vec![text.clone()],
    };
    for text in args.ablations.iter().flat_map(parts) {
        for shed in [false, true] {
            if all.iter().any(|one| one.name == Contender::ours(shed).name) {
                all.push(Contender::ablation(&text, shed)?);
            }
        }
    }
    Ok(all)
}

fn list(out: &mut dyn Write) -> std::io::Result<()> {
    writeln!(out, "scenarios")?;
    for scenario in SCENARIOS {
        writeln!(out, "  {:<10} {}", scenario.name, scenario.about)?;
    }
    writeln!(out, "\npolicies of the proxy")?;
    let served = names().into_iter().filter(|name| RIVALS.iter().all(|(rival, _)| rival != name));
    for name in served.filter(|name| name != "spillN") {
        writeln!(out, "  {name}")?;
    }
    writeln!(out, "\nrivals")?;
    for (name, about) in RIVALS {
        writeln!(out, "  {name:<10} {about}")?;
    }
    writeln!(out, "  {:<10} the cheapest with fewer than N in flight, such as spill16", "spillN")?;
    writeln!(out, "\nparts of our rule (--ablation)\n  {}", SWITCHES.join(", "))
}

impl From<EvaluationName> for Evaluation {
    fn from(name: EvaluationName) -> Self {
        match name {
            EvaluationName::Frozen => Self::Frozen,
            EvaluationName::Second => Self::Second,
        }
    }
}

impl SimulateArgs {
    /// How many configurations each group has.
    fn count(&self) -> u64 {
        self.configurations.unwrap_or(if self.evaluation.is_some() { CONFIGURATIONS } else { RUNS })
    }
}
