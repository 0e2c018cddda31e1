//! `headway bench`: a load generator with GenAI-Perf's flags and report.
//!
//! The command lines in GenAI-Perf's documentation work after `headway bench`, also with the word `profile`. What has
//! no meaning here (a tokenizer's name, stability windows, arguments of the perf analyzer) is accepted and said to be ignored.
//! Lists make sweeps, several servers are measured in alternation, and every case has the files of both NVIDIA programs.

mod args;
mod asked;
mod plan;
mod progress;
pub(super) mod prompts;
mod said;
mod sink;
mod tasks;

use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use tokio::sync::mpsc;

pub use self::args::BenchArgs;
pub(super) use self::args::positive;
use self::plan::{Plan, Point};
use self::progress::Progress;
use self::sink::Sink;
use super::EXIT_INTERRUPTED;
use crate::bench::client::{Client, ClientOptions};
use crate::bench::drive::{Traffic, drive};
use crate::bench::record::{Phase, RequestRecord};
use crate::bench::report::html::Case;
use crate::bench::request::{PromptScale, RequestBuilder, prompts_of};
use crate::bench::schedule::{Limit, Schedule};
use crate::bench::target::Target;
use crate::bench::tls::{TlsOptions, read_certificates};
use crate::clock::{Clock, SystemClock};

/// Records on their way from the requests to the report.
const RECORDS_UNDER_WAY: usize = 4096;

/// A server under load.
struct Server {
    client: Arc<Client>,
    /// How many words make so many tokens there.
    scale: PromptScale,
}

/// One run: what is measured, and with what.
struct Bench {
    args: BenchArgs,
    plan: Plan,
    servers: Vec<Server>,
    clock: Arc<dyn Clock>,
    /// What the ids of its requests begin with.
    run: String,
    progress: Progress,
}

/// Runs the benchmark and prints its report; the exit code is 1 when every request failed.
///
/// # Errors
/// When an argument makes no sense, or a file cannot be read or written.
pub async fn run(args: BenchArgs) -> anyhow::Result<ExitCode> {
    let mut bench = Bench::new(args)?;
    note(&bench.args.ignored())?;
    bench.measure_prompts().await?;
    let mut cases = Vec::new();
    let mut interrupted = false;
    for point in bench.plan.points.clone() {
        interrupted = bench.measure(&point, &mut cases).await?;
        if interrupted {
            break;
        }
    }
    bench.progress.end()?;
    said::all(&bench.args, &bench.plan, &cases, interrupted)?;
    Ok(match () {
        () if interrupted => ExitCode::from(EXIT_INTERRUPTED),
        () if cases.iter().all(|case| case.report.valid() == 0) => ExitCode::FAILURE,
        () => ExitCode::SUCCESS,
    })
}

fn note(ignored: &[String]) -> io::Result<()> {
    let mut out = io::stderr().lock();
    ignored.iter().try_for_each(|one| writeln!(out, "note: ignored: {one}"))
}

impl Bench {
    fn new(args: BenchArgs) -> anyhow::Result<Self> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let plan = Plan::of(&args)?;
        let server = |url: &String| -> anyhow::Result<Server> {
            let client = Arc::new(Client::new(client_options(&args, url)?, Arc::clone(&clock))?);
            Ok(Server { client, scale: PromptScale::default() })
        };
        let servers = plan.servers.iter().map(server).collect::<Result<_, _>>()?;
        let unix = clock.wall().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let run = format!("bench-{:x}", unix.as_nanos());
        let progress = Progress::new(plan.expected(&args), clock.now());
        Ok(Self { args, plan, servers, clock, run, progress })
    }

    /// Measures one point of the sweep at every server, in turns; whether it was interrupted.
    async fn measure(&mut self, point: &Point, cases: &mut Vec<Case>) -> anyhow::Result<bool> {
        let goodput = self.args.goodput()?;
        let sink =
            |server| Sink::create(&self.args, &self.plan, server, point, goodput.clone(), &self.run, &*self.clock);
        let mut sinks = (0..self.servers.len()).map(sink).collect::<anyhow::Result<Vec<_>>>()?;
        let mut interrupted = false;
        'rounds: for round in 0..self.plan.rounds {
            // There and back again, so that what drifts with time is the same for all.
            let mut turns: Vec<usize> = (0..sinks.len()).collect();
            if round % 2 == 1 {
                turns.reverse();
            }
            for server in turns {
                let Some(sink) = sinks.get_mut(server) else { continue };
                if self.stretch(point, server, round, sink).await? {
                    interrupted = true;
                    break 'rounds;
                }
            }
        }
        for (server, sink) in sinks.into_iter().enumerate() {
            cases.push(sink.finish(&self.args, &self.plan, server, point, interrupted, &*self.clock)?);
        }
        Ok(interrupted)
    }

    /// One turn of one server; whether it was interrupted.
    async fn stretch(&mut self, point: &Point, server: usize, round: u32, sink: &mut Sink) -> anyhow::Result<bool> {
        let Some(traffic) = self.traffic(point, server, round) else { return Ok(false) };
        let Some(client) = self.servers.get(server).map(|server| Arc::clone(&server.client)) else { return Ok(false) };
        let clock = Arc::clone(&self.clock);
        let (records, mut incoming) = mpsc::channel::<RequestRecord>(RECORDS_UNDER_WAY);
        let running = async {
            for one in traffic {
                drive(Arc::clone(&client), one, Arc::clone(&clock), clock.now(), records.clone()).await;
            }
            drop(records);
        };
        let progress = &mut self.progress;
        let taking = async {
            while let Some(record) = incoming.recv().await {
                sink.take(&record)?;
                progress.record(record.error.is_some(), clock.now())?;
            }
            anyhow::Ok(())
        };
        let interrupted = tokio::select! {
            taken = async { tokio::join!(running, taking).1 } => { taken?; false }
            _ = tokio::signal::ctrl_c() => true,
        };
        sink.pause();
        Ok(interrupted)
    }

    /// The warm-up, where there is one and it is the first turn, and the measured traffic.
    fn traffic(&self, point: &Point, server: usize, round: u32) -> Option<Vec<Traffic>> {
        let (args, scale) = (&self.args, self.servers.get(server)?.scale);
        // Every turn has prompts of its own, the same for all servers.
        let seed = prompts_of(args.random_seed, &point.part(round));
        let prefix = |phase: Phase| format!("{}-{server}-{}-{round}-{}", self.run, plan::tag(point), phase.as_str());
        let traffic = |phase: Phase, limit: Limit, seed: u64| Traffic {
            schedule: Schedule::new(self.plan.load(args, point), point.input, point.output, limit, seed),
            builder: RequestBuilder::new(plan::shape(args, seed, scale)),
            phase,
            label: "",
            headers: HeaderMap::new(),
            id_prefix: prefix(phase),
        };
        let mut all = Vec::new();
        if args.warmup_request_count > 0 && round == 0 {
            let limit = Limit { count: Some(args.warmup_request_count), duration: None };
            all.push(traffic(Phase::Warmup, limit, !seed));
        }
        all.push(traffic(Phase::Profiling, self.plan.limit(args, point, round), seed));
        Some(all)
    }
}

fn client_options(args: &BenchArgs, url: &str) -> anyhow::Result<ClientOptions> {
    let target = Target::parse(url, args.endpoint.as_deref(), args.endpoint_type.api())?;
    let extra_roots = args.ca_file.as_deref().map(read_certificates).transpose()?.unwrap_or_default();
    let request_timeout = Duration::try_from_secs_f64(args.request_timeout)?;
    let headers = args.header.iter().cloned().collect();
    let tls = TlsOptions { extra_roots, ..TlsOptions::default() };
    Ok(ClientOptions { headers, request_timeout, tls, ..ClientOptions::new(target) })
}
