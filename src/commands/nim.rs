//! `headway nim`: one simulated NIM that runs until it is interrupted.

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};

use crate::clock::SystemClock;
use crate::engine::{Profile, UnknownProfile};
use crate::nim_simulator::{DEFAULT_MODEL, Fault, Faults, Simulator, SimulatorOptions};
use crate::units::parse_duration;

/// Arguments of `headway nim`.
#[derive(Debug, Clone, clap::Args)]
pub struct NimArgs {
    /// The profile whose timing is simulated, by name or alias: h100-latency, h100-throughput, a100, l40s, a10g.
    #[arg(long, value_name = "NAME", default_value = "h100-throughput", value_parser = parse_profile)]
    pub profile: Profile,
    /// Where to listen; port 0 takes a free one.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8000")]
    pub listen: SocketAddr,
    /// A model id to serve; repeatable.
    #[arg(long = "model", value_name = "ID", default_value = DEFAULT_MODEL)]
    pub models: Vec<String>,
    /// How many times faster than real time.
    #[arg(long, value_name = "N", default_value_t = 1.0)]
    pub speed: f64,
    /// What timing, answers and faults are drawn from.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// A fault, written `KIND[=VALUE][:PROBABILITY][:COUNTx]`, such as slow=3 or refuse:0.1; repeatable, first first.
    #[arg(long = "fault", value_name = "KIND", value_parser = str::parse::<Fault>)]
    pub faults: Vec<Fault>,
    /// A file that gets one JSON line per request: what the server itself did.
    #[arg(long, value_name = "FILE")]
    pub truth: Option<PathBuf>,
    /// Requests that may wait in the engine; beyond, they are refused with 503.
    #[arg(long, value_name = "N", default_value_t = 1024)]
    pub max_queue: usize,
    /// Sends comments in this interval on streams that wait for their first token, such as 1s.
    #[arg(long, value_name = "DUR", value_parser = parse_interval)]
    pub sse_keep_alive: Option<Duration>,
    /// Tells the engine's own queue and first-token times with each answer, as vLLM's `--enable-per-request-metrics`.
    #[arg(long)]
    pub request_metrics: bool,
    /// How long the server says it is not ready, such as 10s.
    #[arg(long, value_name = "DUR", default_value = "0s", value_parser = parse_interval)]
    pub warmup: Duration,
}

fn parse_profile(name: &str) -> Result<Profile, UnknownProfile> {
    Profile::named(name)
}

fn parse_interval(text: &str) -> Result<Duration, crate::units::ParseError> {
    parse_duration(text)
}

impl NimArgs {
    fn options(self) -> SimulatorOptions {
        SimulatorOptions {
            listen: self.listen,
            models: self.models,
            speed: self.speed,
            seed: self.seed,
            faults: Faults(self.faults),
            truth: self.truth,
            max_queue: self.max_queue,
            sse_keep_alive: self.sse_keep_alive,
            request_metrics: self.request_metrics,
            warmup: self.warmup,
            ..SimulatorOptions::new(self.profile)
        }
    }
}

/// Serves until SIGINT or SIGTERM.
///
/// # Errors
/// When the server cannot start.
pub async fn run(args: NimArgs) -> anyhow::Result<()> {
    let profile = args.profile;
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let simulator = Simulator::start(args.options(), Arc::new(SystemClock)).await?;
    announce(&simulator, &profile).context("cannot write to the terminal")?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted.context("cannot listen for SIGINT")?,
        _ = terminate.recv() => {}
    }
    simulator.shutdown().await;
    Ok(())
}

fn announce(simulator: &Simulator, profile: &Profile) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "simulated NIM listening on {}", simulator.url())?;
    writeln!(out, "profile {} (roofline arithmetic, not a measurement)", profile.name)?;
    let faults = simulator.faults();
    if !faults.0.is_empty() {
        let faults: Vec<String> = faults.0.iter().map(ToString::to_string).collect();
        writeln!(out, "faults {}", faults.join(", "))?;
    }
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(clap::Parser)]
    struct Command {
        #[command(flatten)]
        args: NimArgs,
    }

    #[test]
    fn the_arguments_become_the_options() {
        let line =
            "nim --profile a100 --model a --model b --speed 2 --fault slow=3 --fault refuse:0.1 --sse-keep-alive 2s";
        let options = Command::try_parse_from(line.split(' ')).expect("valid").args.options();
        assert_eq!(options.profile.name, "vllm-a100-fp16-tp1");
        assert_eq!((options.models, options.speed), (vec!["a".to_owned(), "b".to_owned()], 2.0));
        assert_eq!(options.faults, Faults::parse(&["slow=3", "refuse:0.1"]).expect("known"));
        assert_eq!(options.sse_keep_alive, Some(Duration::from_secs(2)));
    }

    #[test]
    fn what_is_unknown_is_answered_with_what_is_known() {
        for (line, known) in [("nim --profile h200", "a10g"), ("nim --fault explode", "hang-after-head")] {
            let error = Command::try_parse_from(line.split(' ')).map(|_| ()).expect_err("unknown").to_string();
            assert!(error.contains(known), "{error}");
        }
    }
}
