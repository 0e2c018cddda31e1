//! A running headway: everything bound, started, and in the end stopped.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{Notify, watch};

use super::core::{Core, in_force, services};
use super::sockets::Sockets;
use crate::admin;
use crate::clock::Clock;
use crate::config::settings::Settings;
use crate::fleet::gpu::{self, OpenGpuSource};
use crate::fleet::{Fleet, probes, state};
use crate::proxy::{self, BindError, Connections, Ladder, Lifecycle, Listeners, Proxy};
use crate::telemetry::Telemetry;

/// How long exchanges may take to hear that the drain deadline has passed.
pub(super) const LAST_WORDS: Duration = Duration::from_secs(1);

/// How long connections may take to write what is left and to close.
const LAST_BYTES: Duration = Duration::from_secs(1);

/// How long what was learned may take to be written.
const LAST_STATE: Duration = Duration::from_secs(5);

/// How long a process that takes over waits until its backends are known to be healthy: the old one serves meanwhile.
const WARM_UP: Duration = Duration::from_secs(10);

/// How often it looks.
const LOOK: Duration = Duration::from_millis(10);

/// How long answers of the admin listener may take after a hand-over.
const LAST_ANSWERS: Duration = Duration::from_secs(2);

/// How long idle connections stay open after a hand-over: whoever was about to ask on one gets an answer.
const HANG_UP_AFTER: Duration = Duration::from_secs(2);

/// A running headway.
pub struct Server {
    pub(super) core: Arc<Core>,
    addresses: Vec<SocketAddr>,
    admin_address: SocketAddr,
    /// Its listening sockets, to hand over; while they are held, connections queue.
    sockets: Sockets,
    /// Ends the admin listener.
    admin: watch::Sender<bool>,
    /// Serves it.
    admin_thread: std::thread::JoinHandle<()>,
    /// Dropping it ends probes.
    background: watch::Sender<bool>,
    /// Writes what was learned, at last when the background work ends.
    keeping: tokio::task::JoinHandle<()>,
    accepting: tokio::task::JoinHandle<Connections>,
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
        Self::start_on(settings, clock, gpus, Sockets::default(), || ()).await
    }

    /// Starts it on sockets of another process; those that the configuration does not name are closed. Until it is
    /// warm, it accepts on none of them, the admin listener's included: the other process answers, which serves. Once
    /// nothing can fail any more, and before it accepts from clients, `relieve` is to tell the other one.
    pub(super) async fn start_on(
        settings: Settings,
        clock: Arc<dyn Clock>,
        gpus: Option<OpenGpuSource>,
        mut inherited: Sockets,
        relieve: impl FnOnce(),
    ) -> anyhow::Result<Self> {
        let settings = Arc::new(settings);
        let takes_over = !inherited.is_empty();
        let fleet = Arc::new(Fleet::new(Arc::clone(&settings), clock.now())?);
        state::restore(&fleet, &*clock);
        let telemetry = Arc::new(Telemetry::new(&settings)?);
        let listeners = Listeners::bind(&settings, |address| inherited.take_data(address)).await?;
        let admin_listener = match inherited.take_admin(settings.admin.address) {
            Some(listener) => listener,
            None => std::net::TcpListener::bind(settings.admin.address)
                .map_err(|error| BindError::Bind { address: settings.admin.address, error })?,
        };
        drop(inherited);
        let addresses = listeners.addresses().to_vec();
        let admin_address = admin_listener.local_addr()?;
        let sockets = Sockets::of(
            listeners.handles()?,
            (settings.admin.address, std::os::fd::OwnedFd::from(admin_listener.try_clone()?)),
        );

        let core = Arc::new(Core {
            fleet: Arc::new(ArcSwap::new(Arc::clone(&fleet))),
            generations: watch::channel(Arc::clone(&fleet)).0,
            telemetry,
            configuration: ArcSwap::from_pointee(in_force(&settings, &*clock)),
            clock,
            lifecycle: Lifecycle::new(),
            ladder: Ladder::new(),
            certificates: Arc::clone(listeners.certificates()),
            reload: Mutex::new(None),
            drain: Notify::new(),
        });
        core.telemetry.metrics().reload_succeeded(core.clock.wall());
        core.tell_expiries(&fleet);
        let (admin, background) = (watch::channel(false).0, watch::channel(false).0);
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
            Arc::clone(&core.ladder),
        );
        let keeping =
            tokio::spawn(state::keep(core.generations.subscribe(), Arc::clone(&core.clock), background.subscribe()));
        if takes_over {
            warm_up(&core).await;
        }
        let admin_thread = admin::spawn(admin_listener, services(&core), admin.subscribe())?;
        relieve();
        let accepting = tokio::spawn(listeners.run(proxy));
        Ok(Self { core, addresses, admin_address, sockets, admin, admin_thread, background, keeping, accepting })
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

    /// Its listening sockets once more, for another process.
    pub(super) fn sockets(&self) -> io::Result<Sockets> {
        self.sockets.again()
    }

    /// Ends gracefully: not ready at once, connections refused, streams finished, at most `drain` long.
    pub async fn shutdown(self, drain: Duration) {
        self.core.lifecycle.start_draining();
        self.end(drain).await;
    }

    pub(super) async fn end(self, drain: Duration) {
        self.core.lifecycle.close();
        self.finish(drain, true).await;
    }

    /// Ends after another process has taken over: what still runs is finished, nothing that the other one does is
    /// touched.
    pub(super) async fn step_back(self, drain: Duration) {
        self.admin.send_replace(true);
        self.keeping.abort();
        // Whoever asked this one whether it is ready is not to hear of a drain: the service goes on.
        let asked = async {
            while !self.admin_thread.is_finished() {
                tokio::time::sleep(LOOK).await;
            }
        };
        let _ = tokio::time::timeout(LAST_ANSWERS, asked).await;
        self.core.lifecycle.stop_accepting();
        tokio::time::sleep(HANG_UP_AFTER).await;
        self.core.lifecycle.close();
        self.finish(drain, false).await;
    }

    async fn finish(self, drain: Duration, keep: bool) {
        let Self { core, sockets, accepting, admin, background, keeping, .. } = self;
        // The last handles on the listening sockets: from here on, connections are refused, unless another has them.
        drop(sockets);
        let lifecycle = &core.lifecycle;
        let connections = accepting.await;
        if tokio::time::timeout(drain, lifecycle.idle()).await.is_err() {
            lifecycle.cut();
            let _ = tokio::time::timeout(LAST_WORDS, lifecycle.idle()).await;
        }
        // An exchange is over when its last bytes are handed to its connection, which has yet to write them.
        if let Ok(connections) = connections {
            let _ = tokio::time::timeout(LAST_BYTES, connections.closed()).await;
        }
        background.send_replace(true);
        if keep {
            let _ = tokio::time::timeout(LAST_STATE, keeping).await;
        }
        admin.send_replace(true);
        core.close().await;
    }
}

/// Waits until there is a backend to serve with.
async fn warm_up(core: &Core) {
    let ready = async {
        while !core.fleet.load().readiness().ready {
            tokio::time::sleep(LOOK).await;
        }
    };
    let _ = tokio::time::timeout(WARM_UP, ready).await;
}
