//! One policy with a proxy and simulated NIMs of its own, which live as long as the benchmark: what a proxy has learned,
//! it keeps from round to round.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use headway::bench::client::{Client, ClientOptions};
use headway::bench::drive::{Traffic, drive};
use headway::bench::record::RequestRecord;
use headway::bench::target::Target;
use headway::clock::{Clock, SystemClock};
use headway::config::settings::Settings;
use headway::config::{self, NoEnvironment};
use headway::engine::Profile;
use headway::nim_simulator::{FaultKind, Faults, Simulator, SimulatorOptions};
use headway::wire::Api;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::plan::{LEAD_IN, LEAD_OUT, Plan};
use crate::run::{Cpu, Run};
use crate::running::Running;
use crate::scene::{self, BACKENDS, SLOWNESS};

/// How long a proxy may take to find every backend ready.
const PATIENCE: Duration = Duration::from_secs(30);
/// The longest wait for an answer; the proxy gives up earlier.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(120);

/// The warm-up has requests that no round has.
const WARM_UP: u64 = 999;

/// A run of which everything is sent.
pub(crate) struct Sent {
    pub(crate) round: u64,
    records: JoinHandle<Vec<RequestRecord>>,
    cpu: Cpu,
}

pub(crate) struct Stage {
    pub(crate) policy: String,
    simulators: Vec<Simulator>,
    proxy: Running,
    client: Arc<Client>,
    settings: Settings,
    clock: Arc<dyn Clock>,
}

impl Stage {
    /// Starts the simulated NIMs in this process and `headway serve` as one of its own.
    pub(crate) async fn set(plan: &Plan, policy: &str, folder: &Path) -> Self {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let mut simulators = Vec::new();
        for (seed, (_, profile)) in (1..).zip(BACKENDS) {
            let profile = Profile::named(profile).expect("a profile");
            let options = SimulatorOptions { seed, ..SimulatorOptions::new(profile) };
            simulators.push(Simulator::start(options, Arc::clone(&clock)).await.expect("a simulator"));
        }
        let urls: Vec<String> = simulators.iter().map(Simulator::url).collect();
        let addresses = free_ports();
        let text = scene::configuration(plan, policy, addresses, &urls);
        let settings =
            config::parse("policies.yaml", &text, &NoEnvironment).unwrap_or_else(|report| panic!("{report}"));
        let path = folder.join(format!("{policy}.yaml"));
        std::fs::write(&path, text).expect("a configuration file");
        let command = [env!("CARGO_BIN_EXE_headway"), "serve", "--config", path.to_str().expect("a path")];
        let proxy = Running::spawn(&command.map(str::to_owned)).expect("headway runs");
        let target = Target::parse(&format!("http://{}", addresses.0), None, Api::Chat).expect("a target");
        let options = ClientOptions { request_timeout: REQUEST_TIMEOUT, ..ClientOptions::new(target) };
        let client = Arc::new(Client::new(options, Arc::clone(&clock)).expect("a client"));
        let stage = Self { policy: policy.to_owned(), simulators, proxy, client, settings: settings.settings, clock };
        tokio::time::timeout(PATIENCE, ready(addresses.1)).await.expect("every backend becomes ready");
        stage
    }

    /// Traffic that is counted nowhere; begins at once.
    pub(crate) fn warm_up(&self, plan: &Plan) -> JoinHandle<Vec<RequestRecord>> {
        let traffic = scene::traffic(plan, plan.seed_of(WARM_UP), plan.warm_up, &format!("{}-warm", self.policy));
        self.send(traffic, self.clock.now())
    }

    /// One run; it returns when everything is sent, and the answers that are still to come are in what it returns.
    pub(crate) async fn run(&self, plan: &Plan, round: u64) -> Sent {
        let length = LEAD_IN + plan.counted + LEAD_OUT;
        let traffic = scene::traffic(plan, plan.seed_of(round), length, &format!("{}-{round}", self.policy));
        let start = self.clock.now();
        let before = Cpu::now(&self.proxy, start);
        let records = self.send(traffic, start);
        tokio::join!(self.incident(plan, start), tokio::time::sleep_until((start + length).into()));
        Sent { round, records, cpu: Cpu::now(&self.proxy, self.clock.now()).since(&before) }
    }

    /// Waits for every answer.
    pub(crate) async fn answered(&self, plan: &Plan, sent: Sent) -> Run {
        let records = sent.records.await.expect("no request panics");
        let truth = self.simulators.iter().map(Simulator::truth_log).collect::<Vec<_>>();
        Run::of(plan, &records, &self.settings, &truth, sent.cpu)
    }

    /// Sends in the background; records gather until the last answer.
    fn send(&self, traffic: Vec<Traffic>, start: Instant) -> JoinHandle<Vec<RequestRecord>> {
        let (records, mut incoming) = mpsc::channel(1024);
        for traffic in traffic {
            let client = Arc::clone(&self.client);
            tokio::spawn(drive(client, traffic, Arc::clone(&self.clock), start, records.clone()));
        }
        tokio::spawn(async move {
            drop(records);
            let mut all = Vec::new();
            while let Some(record) = incoming.recv().await {
                all.push(record);
            }
            all
        })
    }

    /// Slows one backend for its time.
    async fn incident(&self, plan: &Plan, start: Instant) {
        let Some((begin, end)) = plan.incident() else { return };
        tokio::time::sleep_until((start + begin).into()).await;
        self.simulators[plan.struck].set_faults(Faults::from(vec![FaultKind::Slow(SLOWNESS)]));
        tokio::time::sleep_until((start + end).into()).await;
        self.simulators[plan.struck].set_faults(Faults::none());
    }
}

/// Two, found at the same time so that they differ.
fn free_ports() -> (SocketAddr, SocketAddr) {
    let [one, other] = [(); 2].map(|()| std::net::TcpListener::bind("127.0.0.1:0").expect("a free port"));
    (one.local_addr().expect("its address"), other.local_addr().expect("its address"))
}

/// Waits until the admin API calls every backend ready.
async fn ready(admin: SocketAddr) {
    loop {
        let page = page(admin, "/api/v1/backends").await.unwrap_or_default();
        if page.matches("\"state\":\"ready\"").count() == BACKENDS.len() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn page(address: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut page = String::new();
    stream.read_to_string(&mut page).await?;
    Ok(page)
}
