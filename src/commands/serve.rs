//! `headway serve`: wires everything together, and nothing else does.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use clap::Args;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Notify, watch};

use super::EXIT_CONFIG;
use crate::admin::{self, ConfigStatus, ReloadOutcome, Services};
use crate::clock::{Clock, SystemClock};
use crate::config::settings::Settings;
use crate::config::{self, LastReload, Loaded, ReloadReport, Reloader, Report, Trigger, Watch};
use crate::fleet::gpu::{self, OpenGpuSource};
use crate::fleet::{Fleet, probes, state};
use crate::proxy::{self, BindError, Certificates, Connections, Lifecycle, Listeners, Proxy};
use crate::telemetry::{Telemetry, logs};

/// How long exchanges may take to hear that the drain deadline has passed.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// How long connections may take to write what is left and to close.
const LAST_BYTES: Duration = Duration::from_secs(1);

/// How long what was learned may take to be written.
const LAST_STATE: Duration = Duration::from_secs(5);

/// How long logs may take to be written out at the end.
const LOG_PATIENCE: Duration = Duration::from_secs(1);

/// Arguments of `headway serve`.
#[derive(Debug, Clone, Args)]
pub struct ServeArgs {
    /// The configuration file.
    #[arg(long, short, value_name = "FILE", default_value = "config/headway.yaml")]
    pub config: PathBuf,
}

/// A running headway.
pub struct Server {
    core: Arc<Core>,
    addresses: Vec<SocketAddr>,
    admin_address: SocketAddr,
    /// Dropping it ends probes and the admin listener.
    background: watch::Sender<bool>,
    /// Writes what was learned, at last when the background work ends.
    keeping: tokio::task::JoinHandle<()>,
    accepting: tokio::task::JoinHandle<Connections>,
}

/// What reloads, the admin listener and the data path share.
struct Core {
    fleet: Arc<ArcSwap<Fleet>>,
    generations: watch::Sender<Arc<Fleet>>,
    telemetry: Arc<Telemetry>,
    clock: Arc<dyn Clock>,
    lifecycle: Arc<Lifecycle>,
    /// What TLS listeners show and trust.
    certificates: Arc<Certificates>,
    /// Which configuration is in force.
    configuration: ArcSwap<ConfigStatus>,
    /// How to read the configuration again, where there is a file.
    reload: Mutex<Option<Arc<dyn Fn() -> ReloadOutcome + Send + Sync>>>,
    /// Asked to drain through the admin listener.
    drain: Notify,
}

impl Core {
    /// Puts a new configuration in force, keeping the state of what has not changed; all of it or nothing.
    fn apply(&self, settings: &Arc<Settings>) -> Result<(), String> {
        let prepared = self.telemetry.prepare(settings).map_err(|error| error.to_string())?;
        let certificates = self.certificates.prepare(settings).map_err(|error| error.to_string())?;
        let old = self.fleet.load_full();
        let fleet = old.rebuilt(Arc::clone(settings), self.clock.now()).map_err(|error| error.to_string())?;
        // Nothing fails from here on.
        state::restore_on_reload(&fleet, &old, &*self.clock);
        let fleet = Arc::new(fleet);
        fleet.settle();
        self.telemetry.apply(settings, prepared);
        self.certificates.apply(certificates);
        self.tell_expiries(&fleet);
        self.configuration.store(Arc::new(in_force(settings, &*self.clock)));
        self.fleet.store(Arc::clone(&fleet));
        self.generations.send_replace(fleet);
        Ok(())
    }

    /// Shows when the certificates in force stop working.
    fn tell_expiries(&self, fleet: &Fleet) {
        let listeners = self.certificates.expiries(fleet.settings());
        self.telemetry.metrics().certificates(listeners.into_iter().chain(fleet.expiries()).collect());
    }

    /// Shows what became of reading the configuration again.
    fn read_again(&self, last: &LastReload) {
        let (errors, notes) = match &last.result {
            Ok(report) => (Vec::new(), notes(report)),
            Err(report) => (report.0.iter().map(ToString::to_string).collect(), Vec::new()),
        };
        let (read_at, applied_at, trigger) = (last.at, last.applied_at, last.trigger.as_str());
        let hash = self.configuration.load().hash.clone();
        self.configuration.store(Arc::new(ConfigStatus { hash, applied_at, read_at, trigger, errors, notes }));
    }

    fn reload(&self) -> ReloadOutcome {
        let reload = self.reload.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match reload {
            Some(reload) => reload(),
            None => ReloadOutcome::Refused { errors: vec!["this headway was started without a file".to_owned()] },
        }
    }
}

/// What is known of settings that were just put in force.
fn in_force(settings: &Settings, clock: &dyn Clock) -> ConfigStatus {
    let (hash, now) = (config::hash(settings), clock.wall());
    let trigger = Trigger::Start.as_str();
    ConfigStatus { hash, applied_at: now, read_at: now, trigger, errors: Vec::new(), notes: Vec::new() }
}

/// What a person should know about an applied reload.
fn notes(report: &ReloadReport) -> Vec<String> {
    let restart = report.needs_restart.iter().map(|key| format!("`{key}` needs a restart"));
    report.warnings.iter().map(ToString::to_string).chain(restart).collect()
}

impl Core {
    /// Ends what still runs, with a last word to each client and a record of each exchange.
    async fn end_now(&self) {
        self.lifecycle.cut();
        let _ = tokio::time::timeout(LAST_WORDS, self.lifecycle.idle()).await;
        self.close().await;
    }

    /// Writes what the logs still hold.
    async fn close(&self) {
        tracing::info!(cut_off = self.lifecycle.active(), "ended");
        let telemetry = Arc::clone(&self.telemetry);
        let _ = tokio::task::spawn_blocking(move || telemetry.close(LOG_PATIENCE)).await;
    }
}

impl Server {
    /// Binds everything and starts it on the current runtime.
    ///
    /// # Errors
    /// When an address or a file cannot be used; then nothing has been started.
    pub async fn start(settings: Settings, clock: Arc<dyn Clock>) -> anyhow::Result<Self> {
        Self::start_with(settings, clock, None).await
    }

    /// Starts it with something in place of NVIDIA's driver.
    ///
    /// # Errors
    /// When an address or a file cannot be used; then nothing has been started.
    pub async fn start_with(
        settings: Settings,
        clock: Arc<dyn Clock>,
        gpus: Option<OpenGpuSource>,
    ) -> anyhow::Result<Self> {
        let settings = Arc::new(settings);
        let fleet = Arc::new(Fleet::new(Arc::clone(&settings), clock.now())?);
        state::restore(&fleet, &*clock);
        let telemetry = Arc::new(Telemetry::new(&settings)?);
        let listeners = Listeners::bind(&settings).await?;
        let admin_listener = std::net::TcpListener::bind(settings.admin.address)
            .map_err(|error| BindError::Bind { address: settings.admin.address, error })?;
        let addresses = listeners.addresses().to_vec();
        let admin_address = admin_listener.local_addr()?;

        let core = Arc::new(Core {
            fleet: Arc::new(ArcSwap::new(Arc::clone(&fleet))),
            generations: watch::channel(Arc::clone(&fleet)).0,
            telemetry,
            configuration: ArcSwap::from_pointee(in_force(&settings, &*clock)),
            clock,
            lifecycle: Lifecycle::new(),
            certificates: Arc::clone(listeners.certificates()),
            reload: Mutex::new(None),
            drain: Notify::new(),
        });
        core.telemetry.metrics().reload_succeeded(core.clock.wall());
        core.tell_expiries(&fleet);
        let background = watch::channel(false).0;
        admin::spawn(admin_listener, services(&core), background.subscribe())?;
        let connector = proxy::connector();
        tokio::spawn(probes::run(
            core.generations.subscribe(),
            Arc::clone(&connector),
            Arc::clone(&core.clock),
            background.subscribe(),
        ));
        let generations = core.generations.subscribe();
        tokio::spawn(gpu::run(generations, gpus, Arc::clone(&core.clock), background.subscribe()));
        let proxy = Proxy::new(
            Arc::clone(&core.fleet),
            Arc::clone(&core.telemetry),
            Arc::clone(&core.clock),
            connector,
            Arc::clone(&core.lifecycle),
        );
        let keeping =
            tokio::spawn(state::keep(core.generations.subscribe(), Arc::clone(&core.clock), background.subscribe()));
        let accepting = tokio::spawn(listeners.run(proxy));
        Ok(Self { core, addresses, admin_address, background, keeping, accepting })
    }

    /// Where clients connect, with real ports.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Where the admin listener is.
    #[must_use]
    pub fn admin_address(&self) -> SocketAddr {
        self.admin_address
    }

    /// The fleet in force.
    #[must_use]
    pub fn fleet(&self) -> Arc<Fleet> {
        self.core.fleet.load_full()
    }

    /// Metrics and recent exchanges.
    #[must_use]
    pub fn telemetry(&self) -> &Arc<Telemetry> {
        &self.core.telemetry
    }

    /// Exchanges under way.
    #[must_use]
    pub fn active(&self) -> usize {
        self.core.lifecycle.active()
    }

    /// Puts a new configuration in force.
    ///
    /// # Errors
    /// When a file it names cannot be used; then the old one goes on.
    pub fn apply(&self, settings: Settings) -> anyhow::Result<()> {
        self.core.apply(&Arc::new(settings)).map_err(anyhow::Error::msg)
    }

    /// Ends gracefully: not ready at once, connections refused, streams finished, at most `drain` long.
    pub async fn shutdown(self, drain: Duration) {
        self.core.lifecycle.start_draining();
        self.end(drain).await;
    }

    async fn end(self, drain: Duration) {
        let lifecycle = &self.core.lifecycle;
        lifecycle.close();
        let connections = self.accepting.await;
        if tokio::time::timeout(drain, lifecycle.idle()).await.is_err() {
            lifecycle.cut();
            let _ = tokio::time::timeout(LAST_WORDS, lifecycle.idle()).await;
        }
        // An exchange is over when its last bytes are handed to its connection, which has yet to write them.
        if let Ok(connections) = connections {
            let _ = tokio::time::timeout(LAST_BYTES, connections.closed()).await;
        }
        self.background.send_replace(true);
        let _ = tokio::time::timeout(LAST_STATE, self.keeping).await;
        self.core.close().await;
    }
}

fn services(core: &Arc<Core>) -> Services {
    let (fleet, reload, drain) = (Arc::clone(&core.fleet), Arc::clone(core), Arc::clone(core));
    let configuration = Arc::clone(core);
    Services {
        fleet: Arc::new(move || fleet.load_full()),
        telemetry: Arc::clone(&core.telemetry),
        clock: Arc::clone(&core.clock),
        configuration: Arc::new(move || configuration.configuration.load_full()),
        reload: Arc::new(move || reload.reload()),
        drain: Arc::new(move || {
            drain.lifecycle.start_draining();
            drain.drain.notify_one();
        }),
        draining: core.lifecycle.draining(),
    }
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
    let server = match Server::start(loaded.settings.clone(), Arc::new(SystemClock)).await {
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
    signals.until_asked_to_end(&server.core, &reloader).await;
    let shutdown = reloader.current().shutdown.clone();
    tracing::info!(active = server.active(), "draining");
    let core = Arc::clone(&server.core);
    let ending = async {
        tokio::time::sleep(shutdown.pre_drain).await;
        server.end(shutdown.drain).await;
    };
    tokio::select! {
        () = ending => Ok(ExitCode::SUCCESS),
        status = signals.at_once() => {
            tracing::warn!(active = core.lifecycle.active(), "asked a second time: ending what still runs");
            core.end_now().await;
            Ok(status)
        }
    }
}

fn reloader(args: &ServeArgs, loaded: Loaded, core: &Arc<Core>) -> Arc<Reloader> {
    let (wall, applying) = (Arc::clone(&core.clock), Arc::clone(core));
    let reloader =
        Arc::new(Reloader::new(&args.config, loaded, move || wall.wall(), move |settings| applying.apply(settings)));
    let (weak, core_of) = (Arc::downgrade(&reloader), Arc::downgrade(core));
    reloader.on_result(move |last| {
        let Some(core) = core_of.upgrade() else { return };
        core.read_again(last);
        if last.ok() {
            core.telemetry.metrics().reload_succeeded(last.at);
        } else {
            core.telemetry.metrics().reload_failed();
        }
    });
    let reload = move || match weak.upgrade().map(|reloader| reloader.reload(Trigger::Request)) {
        Some(Ok(report)) => ReloadOutcome::Applied { notes: notes(&report) },
        Some(Err(report)) => ReloadOutcome::Refused { errors: report.0.iter().map(ToString::to_string).collect() },
        None => ReloadOutcome::Refused { errors: vec!["headway is ending".to_owned()] },
    };
    core.read_again(&reloader.last());
    *core.reload.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(reload));
    reloader
}

/// The signals a server listens to.
struct Signals {
    term: Signal,
    interrupt: Signal,
    hang_up: Signal,
    user: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            term: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
            user: signal(SignalKind::user_defined1())?,
        })
    }

    /// Reloads and reopens logs until SIGTERM, SIGINT or `POST /-/drain`; readiness ends with it.
    async fn until_asked_to_end(&mut self, core: &Core, reloader: &Arc<Reloader>) {
        loop {
            tokio::select! {
                _ = self.hang_up.recv() => {
                    // The result is reported by the reloader itself.
                    let _ = Arc::clone(reloader).reload_in_background(Trigger::Signal).await;
                }
                _ = self.user.recv() => core.telemetry.reopen(),
                _ = self.term.recv() => break,
                _ = self.interrupt.recv() => break,
                () = core.drain.notified() => break,
            }
        }
        core.lifecycle.start_draining();
    }

    /// A second signal does not wait.
    async fn at_once(&mut self) -> ExitCode {
        tokio::select! {
            _ = self.term.recv() => ExitCode::SUCCESS,
            _ = self.interrupt.recv() => ExitCode::from(130),
        }
    }
}
