//! The command line as written; nothing is executed here. Each command's own arguments stand in its file.

use clap::{Parser, Subcommand};

use crate::commands::bench::BenchArgs;
use crate::commands::calibrate::CalibrateArgs;
use crate::commands::check::CheckArgs;
use crate::commands::completions::CompletionsArgs;
use crate::commands::conformance::ConformanceArgs;
use crate::commands::demo::DemoArgs;
use crate::commands::explain::ExplainArgs;
use crate::commands::init::InitArgs;
use crate::commands::man::ManArgs;
use crate::commands::nim::NimArgs;
use crate::commands::profiles::ProfilesArgs;
use crate::commands::schema::SchemaArgs;
use crate::commands::serve::ServeArgs;
use crate::commands::simulate::SimulateArgs;
use crate::commands::top::TopArgs;

/// Routes LLM requests to the cheapest backend that keeps the route's latency promise.
#[derive(Debug, Parser)]
#[command(name = "headway", version, propagate_version = true, arg_required_else_help = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
#[allow(clippy::large_enum_variant, reason = "there is one, for as long as the process starts")]
pub enum Command {
    /// See it all at once: simulated NIMs, the proxy, load, an incident and a report.
    #[command(after_help = "Examples:\n  headway demo\n  headway demo --duration 0 --listen 127.0.0.1:0")]
    Demo(DemoArgs),
    /// Run the proxy.
    #[command(after_help = "Example:\n  headway serve --config config/headway.yaml")]
    Serve(ServeArgs),
    /// Validate configuration files: every error at once, with its place and remedy.
    #[command(
        after_help = "Examples:\n  headway check config/headway.yaml\n  headway check --strict --format json *.yaml"
    )]
    Check(CheckArgs),
    /// Write a commented starter configuration.
    #[command(after_help = "Example:\n  headway init headway.yaml")]
    Init(InitArgs),
    /// Print the JSON Schema of the configuration.
    #[command(after_help = "Example:\n  headway schema > headway.schema.json")]
    Schema(SchemaArgs),
    /// Run one simulated NIM: OpenAI-compatible, with the timing of a continuous-batching engine.
    #[command(after_help = "Examples:\n  headway nim --profile l40s\n  headway nim --profile a100 --fault slow=3")]
    Nim(NimArgs),
    /// Measure a server under load, with GenAI-Perf's flags and report.
    #[command(
        after_help = "Examples:\n  headway bench -m meta/llama-3.1-8b-instruct -u localhost:8000 --streaming --concurrency 10 --request-count 100\n  headway bench profile -m ID --streaming --request-rate 20 --goodput \"time_to_first_token:300 inter_token_latency:40\""
    )]
    Bench(BenchArgs),
    /// Measure every backend of a configuration, gently: which profile for which route, up to which load, at which price.
    #[command(
        after_help = "Examples:\n  headway calibrate --config headway.yaml\n  headway calibrate --config headway.yaml --concurrency 1,8,32 --input-tokens 800 --output-tokens 150\n  headway calibrate --config headway.yaml --demand chat=20:800/150,batch=5:4000/300\n  headway calibrate --config headway.yaml --backend h100-latency --requests 200 --format json"
    )]
    Calibrate(CalibrateArgs),
    /// Read what NIM says of its model profiles; order them by NIM's rules, print backends, or a command that starts one.
    #[command(
        after_help = "Examples:\n  docker run --rm --gpus all IMAGE list-model-profiles | headway profiles --select\n  headway profiles list.txt --config-json config.json --gpu-memory 24\n  headway profiles list.txt --format backends --gpu-hour 4.00\n  headway profiles list.txt --format docker --profile 751382df --image IMAGE\n  curl -s http://127.0.0.1:8000/v1/metadata | headway profiles"
    )]
    Profiles(ProfilesArgs),
    /// Say why a request went where it went, or where one would go now.
    #[command(
        after_help = "Examples:\n  headway explain --request-id 6b1f0c9e\n  headway explain --route chat --input-tokens 2000 --max-tokens 300\n  headway explain --admin http://10.0.0.5:9090 --route chat --format json"
    )]
    Explain(ExplainArgs),
    /// Watch a running headway in the terminal: routes, backends, the last decisions.
    #[command(
        after_help = "Examples:\n  headway top\n  headway top --admin http://10.0.0.5:9090\n  headway top --once"
    )]
    Top(TopArgs),
    /// Replay a workload against several policies in virtual time, without a GPU.
    #[command(
        after_help = "Examples:\n  headway simulate\n  headway simulate --scenario over,burst --policy cheapest_within_slo+shed,llmds\n  headway simulate --evaluation frozen --trace FOLDER --format html > report.html\n  headway simulate --config headway.yaml --trace access.jsonl"
    )]
    Simulate(SimulateArgs),
    /// Find out what a proxy does right: streaming, leaving clients, breaking backends.
    #[command(
        after_help = "The proxy must send everything to the scripted backend, which this command runs itself.\n\nExamples:\n  headway conformance --url http://127.0.0.1:8080\n  headway conformance --url http://127.0.0.1:4000 --scripted-backend 127.0.0.1:18000 --model m --format markdown\n  headway conformance --list"
    )]
    Conformance(ConformanceArgs),
    /// Print a script that lets a shell complete headway's commands and flags.
    #[command(after_help = "Example:\n  source <(headway completions bash)")]
    Completions(CompletionsArgs),
    /// Print the manual page.
    #[command(after_help = "Examples:\n  headway man > headway.1\n  headway man --out man1")]
    Man(ManArgs),
}
