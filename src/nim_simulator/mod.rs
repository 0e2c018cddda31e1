//! An OpenAI-compatible server with the timing of a real engine, and faults on request.
//!
//! It answers as NIM and vLLM do, byte shapes included, at the pace of an [`engine::Model`](crate::engine::Model): so
//! the proxy, the load generator and whoever tries headway need no GPU. It is honest about clients that leave: the
//! engine forgets them in the same instant, and [`TruthLog`] says when. `headway nim`, the demo and the integration
//! tests all embed the same [`Simulator`].

mod connection;
mod dialect;
mod faults;
mod metrics;
mod pace;
mod pages;
mod problem;
mod request;
mod routes;
mod state;
mod stream;
mod text;
mod ticket;
mod truth;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{Notify, Semaphore};
use tokio::task::{JoinHandle, JoinSet};

pub use faults::{Fault, FaultError, FaultKind, Faults};
pub use state::SimulatorStats;
pub use truth::{TruthLog, TruthRecord};

use crate::clock::{ACCEPT_PAUSE, Clock};
use crate::engine::{Model, Profile};
use crate::random::Random;
use faults::Armed;
use metrics::Metrics;
use pace::Engine;
use request::Limits;
use state::{Counts, State};

/// The model that is served when none is named.
pub const DEFAULT_MODEL: &str = "meta/llama-3.1-8b-instruct";
/// Connections served at once; more are closed.
const MOST_CONNECTIONS: usize = 16_384;
/// Tokens of prompt and answer together, at most.
const LONGEST_CONTEXT: u32 = 131_072;

/// How a simulated NIM is to be.
#[derive(Debug, Clone)]
pub struct SimulatorOptions {
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The engine's speed and size.
    pub profile: Profile,
    /// Model ids that are served; the first answers requests that name none.
    pub models: Vec<String>,
    /// How many times faster than real time the engine runs.
    pub speed: f64,
    /// What the random draws of timing, answers and faults follow from.
    pub seed: u64,
    /// Relative standard deviation of a step's duration.
    pub noise: f64,
    /// What goes wrong.
    pub faults: Faults,
    /// A file that gets one JSON line per request.
    pub truth: Option<PathBuf>,
    /// Requests that may wait in the engine; beyond, they are refused with 503.
    pub max_queue: usize,
    /// Comments on streams that wait for their first token, in this interval.
    pub sse_keep_alive: Option<Duration>,
    /// How long the server says it is not ready.
    pub warmup: Duration,
    /// Tokens of prompt and answer together, beyond which a request is rejected.
    pub context: u32,
}

impl SimulatorOptions {
    /// A faultless server of that profile on a free loopback port, in real time.
    #[must_use]
    pub fn new(profile: Profile) -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            profile,
            models: vec![DEFAULT_MODEL.to_owned()],
            speed: 1.0,
            seed: 1,
            noise: 0.05,
            faults: Faults::none(),
            truth: None,
            max_queue: 1024,
            sse_keep_alive: None,
            warmup: Duration::ZERO,
            context: LONGEST_CONTEXT.min(profile.kv_capacity),
        }
    }
}

/// Why a simulator cannot start.
#[derive(Debug, thiserror::Error)]
pub enum SimulatorError {
    /// The address is taken or not ours.
    #[error("cannot listen on {address}")]
    Bind {
        /// Where it was to listen.
        address: SocketAddr,
        /// What the system says.
        source: std::io::Error,
    },
    /// The truth log cannot be opened.
    #[error("cannot write {}: {source}", path.display())]
    Truth {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// There is no model to serve.
    #[error("name at least one model")]
    NoModel,
    /// The speed is not a number of the kind.
    #[error("the speed is {0}; it must be from 0.001 to 1000")]
    Speed(f64),
    /// The metrics page cannot be built.
    #[error("cannot build the metrics page: {0}")]
    Metrics(#[from] prometheus::Error),
}

/// A running server; dropping it stops it at once.
pub struct Simulator {
    /// Where it listens.
    pub address: SocketAddr,
    state: Arc<State>,
    stop: Arc<Notify>,
    accepting: JoinHandle<()>,
    pacing: JoinHandle<()>,
    writer: Option<truth::Writer>,
}

impl Simulator {
    /// Binds the address and starts to serve. The clock must run as the runtime's timers do: the machine's clock.
    ///
    /// # Errors
    /// When an option makes no sense, the address cannot be bound or the truth log cannot be opened.
    pub async fn start(options: SimulatorOptions, clock: Arc<dyn Clock>) -> Result<Self, SimulatorError> {
        let listener = bind(options.listen).await?;
        let address =
            listener.local_addr().map_err(|source| SimulatorError::Bind { address: options.listen, source })?;
        let path = options.truth.clone();
        let state = Arc::new(build(options, clock)?);
        let writer = match path {
            None => None,
            Some(path) => {
                let opened = state.truth.open(&path).await;
                Some(opened.map_err(|source| SimulatorError::Truth { path, source })?)
            }
        };
        let pacing = tokio::spawn({
            let state = Arc::clone(&state);
            async move { state.engine.run().await }
        });
        let stop = Arc::new(Notify::new());
        let accepting = tokio::spawn(accept(listener, Arc::clone(&state), Arc::clone(&stop)));
        Ok(Self { address, state, stop, accepting, pacing, writer })
    }

    /// `http://` and the address.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Replaces the faults; those of requests under way stay.
    pub fn set_faults(&self, faults: Faults) {
        self.state.set_faults(faults);
    }

    /// The faults, with the counts that are left.
    #[must_use]
    pub fn faults(&self) -> Faults {
        self.state.armed().faults().clone()
    }

    /// What it has done and is doing.
    #[must_use]
    pub fn stats(&self) -> SimulatorStats {
        self.state.stats()
    }

    /// Tells what it has done and is doing, from any thread and for as long as it is asked.
    pub fn watch(&self) -> impl Fn() -> SimulatorStats + Send + Sync + use<> {
        let state = Arc::clone(&self.state);
        move || state.stats()
    }

    /// The records of its requests.
    #[must_use]
    pub fn truth_log(&self) -> TruthLog {
        self.state.truth.clone()
    }

    /// Closes every connection, then finishes the truth log.
    pub async fn shutdown(mut self) {
        self.stop.notify_one();
        let _ = (&mut self.accepting).await;
        self.state.truth.close();
        if let Some(writer) = self.writer.take() {
            writer.finished().await;
        }
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        self.accepting.abort();
        self.pacing.abort();
        self.state.truth.close();
    }
}

async fn bind(address: SocketAddr) -> Result<TcpListener, SimulatorError> {
    TcpListener::bind(address).await.map_err(|source| SimulatorError::Bind { address, source })
}

fn build(options: SimulatorOptions, clock: Arc<dyn Clock>) -> Result<State, SimulatorError> {
    if options.models.is_empty() {
        return Err(SimulatorError::NoModel);
    }
    if !(0.001..=1000.0).contains(&options.speed) {
        return Err(SimulatorError::Speed(options.speed));
    }
    let model =
        Model::new(options.profile, Random::seeded(options.seed)).queue_limit(options.max_queue).noise(options.noise);
    let metrics = Metrics::new()?;
    for name in &options.models {
        metrics.serve(name, options.profile.max_sequences);
    }
    let engine = Engine::new(model, Arc::clone(&clock), options.speed);
    engine.set_slow(options.faults.slow());
    Ok(State {
        started: clock.now(),
        clock,
        warmup: options.warmup,
        profile: options.profile,
        limits: Limits { models: options.models, context: options.context, seed: options.seed },
        keep_alive: options.sse_keep_alive,
        engine,
        faults: Mutex::new(Armed::new(options.faults, options.seed)),
        truth: TruthLog::default(),
        metrics,
        counts: Counts::default(),
    })
}

/// Accepts until told to stop; the connections end with this task.
async fn accept(listener: TcpListener, state: Arc<State>, stop: Arc<Notify>) {
    let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            () = stop.notified() => break,
        };
        match accepted {
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
            Ok((stream, _)) if state.armed().strike_connection() => connection::reset_on_close(&stream),
            Ok((stream, _)) => {
                let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
                state.counts.connections.fetch_add(1, Ordering::Relaxed);
                let state = Arc::clone(&state);
                connections.spawn(async move {
                    connection::serve(stream, state).await;
                    drop(place);
                });
            }
        }
    }
    connections.shutdown().await;
}
