//! `headway demo`: everything in one process, nothing else needed.
//!
//! Three simulated NIMs of different profiles, the proxy before them, the load of a public trace on two routes, and an
//! incident halfway. What is measured is what a client feels: the load generator's records, joined with the backend
//! that the proxy names in its answers.

mod fake_gpu;
mod ledger;
mod live;
mod report;
mod scene;

use std::io::{self, IsTerminal, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use self::ledger::Ledger;
use self::live::Live;
use self::scene::{Act, BACKENDS, Plan, ROUTES, SLOWNESS, STRUCK};
use super::EXIT_INTERRUPTED;
use super::serve::Server;
use crate::bench::client::{Client, ClientOptions};
use crate::bench::drive::drive;
use crate::bench::record::RequestRecord;
use crate::bench::target::Target;
use crate::clock::{Clock, SystemClock};
use crate::config::{self, NoEnvironment};
use crate::engine::Profile;
use crate::fleet::{BackendState, Fleet};
use crate::nim_simulator::{FaultKind, Faults, Simulator, SimulatorOptions};
use crate::telemetry::logs;
use crate::trace::{TraceRow, read_trace};
use crate::units::{format_duration, parse_duration};
use crate::wire::Api;

/// Records on their way from the requests to the ledger.
const RECORDS_UNDER_WAY: usize = 1024;
/// How long the backends may take to be ready.
const READY_WITHIN: Duration = Duration::from_secs(10);
/// How long a request may take; the proxy gives up earlier.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// How long streams may run on when the proxy ends.
const DRAIN: Duration = Duration::from_secs(1);

/// Arguments of `headway demo`.
#[derive(Debug, Clone, clap::Args)]
pub struct DemoArgs {
    /// How long to send requests, such as 60s; 0 goes on until interrupted.
    #[arg(long, value_name = "DUR", default_value = "60s", value_parser = duration)]
    pub duration: Duration,
    /// Where the proxy listens; port 0 takes a free one.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080")]
    pub listen: SocketAddr,
    /// Where metrics and the API are; port 0 takes a free one.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9090")]
    pub admin: SocketAddr,
    /// Arrivals and lengths to replay instead of the built-in ones: Azure's CSV or Mooncake's JSON lines.
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,
    /// Show GPUs that do not exist, each at work as its simulated engine is.
    #[arg(long)]
    pub fake_gpu: bool,
}

fn duration(text: &str) -> Result<Duration, crate::units::ParseError> {
    parse_duration(text)
}

/// Runs the demo.
///
/// # Errors
/// When an address is taken, or the trace cannot be read.
pub async fn run(args: DemoArgs) -> anyhow::Result<ExitCode> {
    let rows = trace(&args)?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let plan = Plan::new(args.duration);
    let stage = Stage::set(&args, &clock).await?;
    stage.ready().await?;
    introduce(&stage, &plan, rows.len())?;
    let (ledger, interrupted) = Box::pin(play(&stage, &rows, plan, &clock)).await?;
    let mut out = io::stdout().lock();
    writeln!(out, "\n{}", report::closing(&ledger, &plan))?;
    write!(out, "{}", report::look_further(stage.data, stage.server.admin_address(), true))?;
    out.flush()?;
    drop(out);
    stage.server.shutdown(DRAIN).await;
    let answered = ledger.routes.iter().any(|route| route.counts().0 > 0);
    Ok(match interrupted {
        true => ExitCode::from(EXIT_INTERRUPTED),
        false if answered => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

fn trace(args: &DemoArgs) -> anyhow::Result<Vec<TraceRow>> {
    let Some(file) = &args.trace else { return Ok(scene::excerpt()?) };
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    read_trace(&text).with_context(|| format!("{} is no trace", file.display()))
}

/// The simulated NIMs and the proxy.
struct Stage {
    simulators: Vec<Simulator>,
    server: Server,
    data: SocketAddr,
    fake_gpu: bool,
}

impl Stage {
    async fn set(args: &DemoArgs, clock: &Arc<dyn Clock>) -> anyhow::Result<Self> {
        let (mut simulators, mut backends) = (Vec::new(), Vec::new());
        for (seed, (_, profile)) in (1..).zip(BACKENDS) {
            let profile = Profile::named(profile)?;
            let options = SimulatorOptions { seed, ..SimulatorOptions::new(profile) };
            let simulator = Simulator::start(options, Arc::clone(clock)).await?;
            backends.push((profile, simulator.url()));
            simulators.push(simulator);
        }
        let text = scene::configuration(args.listen, args.admin, &backends, args.fake_gpu);
        let loaded = config::parse("demo.yaml", &text, &NoEnvironment).map_err(|report| anyhow::anyhow!("{report}"))?;
        logs::init(loaded.settings.telemetry.level)?;
        let gpus = args.fake_gpu.then(|| fake_gpu::opener(&simulators, &backends, clock));
        let server = Server::start_with(loaded.settings, Arc::clone(clock), gpus).await?;
        let data = server.addresses().first().copied().context("the proxy has no address")?;
        Ok(Self { simulators, server, data, fake_gpu: args.fake_gpu })
    }

    /// Waits until the proxy has found every backend ready.
    async fn ready(&self) -> anyhow::Result<()> {
        let all_ready = || {
            let fleet = self.server.fleet();
            fleet.backends().iter().all(|backend| backend.state() == BackendState::Ready)
        };
        let ready = async {
            while !all_ready() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(READY_WITHIN, ready).await.context("the simulated NIMs did not become ready")
    }

    /// Slows the cheapest backend during incidents, for ever.
    async fn incidents(&self, plan: Plan, clock: &dyn Clock, start: Instant) {
        loop {
            let at = clock.now().saturating_duration_since(start);
            let faults = match plan.act(at) {
                Act::Incident => Faults::from(vec![FaultKind::Slow(SLOWNESS)]),
                Act::Before | Act::After => Faults::none(),
            };
            if let Some(struck) = self.simulators.get(STRUCK) {
                struck.set_faults(faults);
            }
            tokio::time::sleep(plan.until_change(at).max(Duration::from_millis(1))).await;
        }
    }

    fn fleet(&self) -> Arc<Fleet> {
        self.server.fleet()
    }
}

fn introduce(stage: &Stage, plan: &Plan, rows: usize) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    let length =
        plan.duration.map_or("until Ctrl-C".to_owned(), |duration| format!("for {}", format_duration(duration)));
    let fleet = BACKENDS.map(|(name, _)| name).join(", ");
    writeln!(out, "headway demo: proxy at http://{}, admin at http://{}", stage.data, stage.server.admin_address())?;
    writeln!(out, "Three simulated NIMs ({fleet}), a trace of {rows} requests on {} routes, {length}.", ROUTES.len())?;
    if stage.fake_gpu {
        writeln!(out, "Its GPUs are fake: figures made of what the simulated engines do.")?;
    }
    write!(out, "{}", report::look_further(stage.data, stage.server.admin_address(), false))?;
    writeln!(out)?;
    Ok(out.flush()?)
}

/// Sends the traffic and shows what becomes of it; whether it was interrupted.
async fn play(stage: &Stage, rows: &[TraceRow], plan: Plan, clock: &Arc<dyn Clock>) -> anyhow::Result<(Ledger, bool)> {
    let mut ledger = ledger(&stage.fleet())?;
    let target = Target::parse(&format!("http://{}", stage.data), None, Api::Chat)?;
    let options = ClientOptions { request_timeout: REQUEST_TIMEOUT, ..ClientOptions::new(target) };
    let client = Arc::new(Client::new(options, Arc::clone(clock))?);
    let (records, mut incoming) = mpsc::channel(RECORDS_UNDER_WAY);
    let start = clock.now();
    // Tasks of their own: drawing must not delay a request.
    let mut streams = JoinSet::new();
    for traffic in scene::traffic(rows, &plan) {
        streams.spawn(drive(Arc::clone(&client), traffic, Arc::clone(clock), start, records.clone()));
    }
    drop(records);
    let mut live = Live::new(io::stdout().is_terminal(), plan);
    let watching = watch(stage, &mut incoming, &mut ledger, &mut live, &**clock, start);
    let interrupted = tokio::select! {
        watched = watching => { watched?; false }
        () = stage.incidents(plan, &**clock, start) => false,
        signal = tokio::signal::ctrl_c() => { signal?; true }
    };
    live.clear(&mut io::stdout().lock())?;
    Ok((ledger, interrupted))
}

/// Takes records in and draws, until no more come.
async fn watch(
    stage: &Stage,
    incoming: &mut mpsc::Receiver<RequestRecord>,
    ledger: &mut Ledger,
    live: &mut Live,
    clock: &dyn Clock,
    start: Instant,
) -> anyhow::Result<()> {
    let mut next = start + live.pause();
    loop {
        let now = clock.now();
        if now >= next {
            live.draw(&mut io::stdout().lock(), ledger, &stage.fleet(), (start, now))?;
            next = now + live.pause();
        }
        tokio::select! {
            record = incoming.recv() => match record {
                Some(record) => ledger.add(&record),
                None => return Ok(()),
            },
            () = tokio::time::sleep(next.saturating_duration_since(now)) => {}
        }
    }
}

/// An empty ledger with the promises and prices of the configuration in force.
fn ledger(fleet: &Fleet) -> anyhow::Result<Ledger> {
    let settings = fleet.settings();
    let mut objectives = [crate::measure::objective::Objectives::default(); ROUTES.len()];
    for (place, name) in objectives.iter_mut().zip(ROUTES) {
        let route = settings.routes.iter().find(|route| &*route.name == name);
        *place = route.with_context(|| format!("route {name} is missing"))?.objectives;
    }
    let prices = BACKENDS.map(|(name, _)| {
        let backend = settings.backends.iter().find(|backend| &*backend.name == name);
        backend.and_then(|backend| backend.price)
    });
    Ok(Ledger::new(objectives, prices))
}
