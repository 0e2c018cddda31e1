//! `headway serve`: wires everything together, and nothing else does.

mod core;
mod hand_over;
mod notify;
mod server;
mod signals;
mod sockets;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use tokio::task::JoinHandle;

use self::core::{Core, reloader};
use self::hand_over::{HandOverError, Predecessor, Program, to_new_process};
use self::notify::Notifier;
pub use self::server::Server;
use self::signals::{Signals, Wish};
use self::sockets::Sockets;
use super::EXIT_CONFIG;
use crate::clock::{SystemClock, monotonic_micros};
use crate::config::{self, Loaded, Reloader, Report, Trigger, Watch};
use crate::fleet::state;
use crate::proxy;
use crate::telemetry::logs;

/// How long logs may take to be written out at the end.
const LOG_PATIENCE: Duration = Duration::from_secs(1);

/// How often the service manager is told what has changed.
const STATUS_CHECK: Duration = Duration::from_secs(1);

/// Arguments of `headway serve`.
#[derive(Debug, Clone, Args)]
pub struct ServeArgs {
    /// The configuration file.
    #[arg(long, short, value_name = "FILE", default_value = "config/headway.yaml")]
    pub config: PathBuf,
    /// Take over from the process that started this one: it sends its listening sockets on standard input.
    #[arg(long, hide = true)]
    pub take_over: bool,
}

/// Runs `headway serve` until a signal ends it.
///
/// # Errors
/// When the runtime cannot be had, or the data path ends by itself.
pub fn run(args: &ServeArgs) -> anyhow::Result<ExitCode> {
    let loaded = match config::load(&args.config) {
        Ok(loaded) => loaded,
        Err(report) => return Ok(refuse(&report)),
    };
    logs::init(loaded.settings.telemetry.level)?;
    proxy::raise_descriptor_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(loaded.settings.threads)
        .thread_name("data")
        .enable_all()
        .build()?;
    runtime.block_on(serve(args, loaded))
}

#[allow(clippy::print_stderr, reason = "no log is set up before the configuration is read")]
fn refuse(report: &Report) -> ExitCode {
    eprintln!("{report}");
    ExitCode::from(EXIT_CONFIG)
}

async fn serve(args: &ServeArgs, loaded: Loaded) -> anyhow::Result<ExitCode> {
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    // Before anything is ready: a signal that nobody listens to yet would end the process without a drain.
    let mut signals = Signals::new()?;
    let program = Program::of(args)?;
    let (predecessor, inherited) = predecessor(args)?;
    let relieve = || predecessor.map_or((), Predecessor::relieve);
    let server = match Server::start_on(loaded.settings.clone(), Arc::new(SystemClock), None, inherited, relieve).await
    {
        Ok(server) => server,
        Err(error) => {
            tracing::error!("{error:#}");
            logs::close(LOG_PATIENCE);
            return Ok(super::failure(&error));
        }
    };
    let reloader = reloader(args, loaded, &server.core);
    let _watch = Watch::start(Arc::clone(&reloader))
        .inspect_err(|error| tracing::warn!(%error, "the configuration file is not watched; SIGHUP still reloads it"));
    for address in server.addresses() {
        tracing::info!(%address, "serving");
    }
    tracing::info!(address = %server.admin_address(), "admin");
    let notifier = Arc::new(Notifier::from_environment());
    notifier.say("READY=1");
    let telling = tokio::spawn(tell(Arc::clone(&notifier), Arc::clone(&server.core)));
    let life = Life { program, server, reloader, notifier, telling, succession: None };
    Ok(life.live(&mut signals).await)
}

fn predecessor(args: &ServeArgs) -> anyhow::Result<(Option<Predecessor>, Sockets)> {
    if !args.take_over {
        return Ok((None, Sockets::default()));
    }
    let (predecessor, sockets) = Predecessor::greet().context("no process hands its listeners over to this one")?;
    Ok((Some(predecessor), sockets))
}

/// Keeps the service manager up to date.
async fn tell(notifier: Arc<Notifier>, core: Arc<Core>) {
    let sign = notifier.sign_of_life();
    let every = sign.map_or(STATUS_CHECK, |sign| sign.min(STATUS_CHECK));
    let mut told = String::new();
    loop {
        let status = core.status();
        if status != told {
            notifier.say(&format!("STATUS={status}"));
            told = status;
        }
        if sign.is_some() {
            notifier.say("WATCHDOG=1");
        }
        tokio::time::sleep(every).await;
    }
}

/// Why a server ends.
enum End {
    /// Somebody asked for it.
    Asked,
    /// This process serves in its place.
    Succeeded(u32),
}

/// A server's life as a process.
struct Life {
    program: Program,
    server: Server,
    reloader: Arc<Reloader>,
    notifier: Arc<Notifier>,
    /// Tells the service manager how it goes.
    telling: JoinHandle<()>,
    /// A hand-over under way.
    succession: Option<JoinHandle<Result<u32, HandOverError>>>,
}

impl Life {
    async fn live(mut self, signals: &mut Signals) -> ExitCode {
        let end = self.until_it_ends(signals).await;
        let Self { server, reloader, notifier, telling, .. } = self;
        let core = Arc::clone(&server.core);
        let successor = match end {
            End::Asked => None,
            End::Succeeded(process) => {
                // From here on the new process speaks of this service, and nobody else.
                telling.abort();
                let _ = telling.await;
                notifier.insist(&format!("MAINPID={process}\nREADY=1")).await;
                Some(process)
            }
        };
        let shutdown = reloader.current().shutdown.clone();
        let ending = async {
            match successor {
                None => {
                    core.lifecycle.start_draining();
                    notifier.say("STOPPING=1");
                    tracing::info!(active = core.lifecycle.active(), "draining");
                    tokio::time::sleep(shutdown.pre_drain).await;
                    server.end(shutdown.drain).await;
                }
                Some(process) => {
                    tracing::info!(process, active = core.lifecycle.active(), "handed over, draining");
                    server.step_back(shutdown.drain).await;
                }
            }
        };
        tokio::select! {
            () = ending => ExitCode::SUCCESS,
            status = signals.at_once(successor.is_some(), || core.telemetry.reopen()) => {
                tracing::warn!(active = core.lifecycle.active(), "asked again: ending what still runs");
                core.end_now().await;
                status
            }
        }
    }

    /// Reloads, reopens logs and hands over until SIGTERM, SIGINT or `POST /-/drain`.
    async fn until_it_ends(&mut self, signals: &mut Signals) -> End {
        loop {
            tokio::select! {
                wish = signals.next() => match wish {
                    Wish::Reload => self.reload().await,
                    Wish::Reopen => self.server.core.telemetry.reopen(),
                    Wish::HandOver => self.hand_over(),
                    Wish::End => return self.asked(),
                },
                () = self.server.core.drain.notified() => return self.asked(),
                result = succeeded(&mut self.succession) => match result {
                    Ok(process) => return End::Succeeded(process),
                    Err(error) => {
                        tracing::error!("not handed over, this process goes on: {error}");
                        self.notifier.say("READY=1");
                    }
                },
            }
        }
    }

    /// A process that was about to take over is not wanted any more.
    fn asked(&mut self) -> End {
        if let Some(succession) = self.succession.take() {
            succession.abort();
        }
        End::Asked
    }

    async fn reload(&self) {
        self.notifier.say(&format!("RELOADING=1\nMONOTONIC_USEC={}", monotonic_micros()));
        // The result is reported by the reloader itself.
        let _ = Arc::clone(&self.reloader).reload_in_background(Trigger::Signal).await;
        self.notifier.say("READY=1");
    }

    /// Begins a hand-over, unless there is one.
    fn hand_over(&mut self) {
        if self.succession.is_some() {
            tracing::warn!("a new process is being started already");
            return;
        }
        tracing::info!("starting a new process to hand over to");
        let (program, core) = (self.program.clone(), Arc::clone(&self.server.core));
        let sockets = self.server.sockets();
        self.succession = Some(tokio::spawn(async move {
            // The new one starts from what is known now.
            state::keep_now(core.fleet.load_full(), Arc::clone(&core.clock)).await;
            to_new_process(program, sockets?).await
        }));
    }
}

/// What became of a hand-over; for ever where there is none.
async fn succeeded(succession: &mut Option<JoinHandle<Result<u32, HandOverError>>>) -> Result<u32, HandOverError> {
    let Some(task) = succession.as_mut() else { return std::future::pending().await };
    let result = task.await;
    *succession = None;
    result.unwrap_or_else(|error| Err(HandOverError::Ended(error.to_string())))
}
