//! Two simulated NIMs in this process, `headway serve` as one of its own, and a client.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use headway::bench::client::{Client, ClientOptions};
use headway::bench::drive::{Traffic, drive};
use headway::bench::record::{Phase, RequestRecord};
use headway::bench::request::{RequestBuilder, RequestShape};
use headway::bench::schedule::{Lengths, Limit, Load, Schedule};
use headway::bench::target::Target;
use headway::clock::{Clock, SystemClock};
use headway::config::{self, NoEnvironment};
use headway::engine::Profile;
use headway::measure::objective::Objectives;
use headway::nim_simulator::{DEFAULT_MODEL, Simulator, SimulatorOptions};
use headway::wire::Api;
use http::HeaderMap;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use crate::running::Running;

/// How long a proxy may take to find every backend ready.
const PATIENCE: Duration = Duration::from_secs(30);

/// Slow enough for a machine of two processors to carry three times what two of these can.
fn profile() -> Profile {
    let a100 = Profile::named("a100").expect("a profile");
    Profile {
        step_base: 40e-3,
        step_per_sequence: 0.5e-3,
        step_per_token: 0.0,
        prefill_rate: 8_000.0,
        max_sequences: 16,
        chunk: 1_024,
        ..a100
    }
}

/// Two prompts at once are one step late; sixteen sequences make a step of 48 ms.
const SLO: &str = "ttft: { p99: 400ms }, itl: { p99: 80ms }";

pub(crate) struct Stage {
    pub(crate) objectives: Objectives,
    _simulators: Vec<Simulator>,
    _proxy: Running,
    client: Arc<Client>,
    clock: Arc<dyn Clock>,
    seed: u64,
}

impl Stage {
    pub(crate) async fn set(on_overload: &str, max_in_flight: u32, seed: u64, folder: &Path) -> Self {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let mut simulators = Vec::new();
        for number in 0..2 {
            let options = SimulatorOptions { seed: seed + number, ..SimulatorOptions::new(profile()) };
            simulators.push(Simulator::start(options, Arc::clone(&clock)).await.expect("a simulator"));
        }
        let addresses = free_ports();
        let text = configuration(on_overload, max_in_flight, addresses, &simulators);
        let settings =
            config::parse("overload.yaml", &text, &NoEnvironment).unwrap_or_else(|report| panic!("{report}"));
        let path = folder.join("headway.yaml");
        std::fs::write(&path, text).expect("a configuration file");
        let command = [env!("CARGO_BIN_EXE_headway"), "serve", "--config", path.to_str().expect("a path")];
        let proxy = Running::spawn(&command.map(str::to_owned)).expect("headway runs");
        let target = Target::parse(&format!("http://{}", addresses.0), None, Api::Chat).expect("a target");
        let client = Arc::new(Client::new(ClientOptions::new(target), Arc::clone(&clock)).expect("a client"));
        tokio::time::timeout(PATIENCE, ready(addresses.1)).await.expect("every backend becomes ready");
        let objectives = settings.settings.routes[0].objectives;
        Self { objectives, _simulators: simulators, _proxy: proxy, client, clock, seed }
    }

    /// Sends for so long, and waits for every answer.
    pub(crate) async fn send(&self, name: &str, load: Load, length: Duration) -> Vec<RequestRecord> {
        let shape = RequestShape { exact_length: true, seed: self.seed, ..RequestShape::new(Api::Chat, DEFAULT_MODEL) };
        let (input, output) = (Lengths { mean: 128.0, stddev: 32.0 }, Lengths { mean: 32.0, stddev: 8.0 });
        let limit = Limit { count: None, duration: Some(length) };
        let traffic = Traffic {
            schedule: Schedule::new(load, input, Some(output), limit, self.seed),
            builder: RequestBuilder::new(shape),
            phase: Phase::Profiling,
            label: "all",
            headers: HeaderMap::new(),
            id_prefix: format!("{name}-{}", self.seed),
        };
        let (records, mut incoming) = mpsc::channel(1024);
        tokio::spawn(drive(Arc::clone(&self.client), traffic, Arc::clone(&self.clock), self.clock.now(), records));
        let mut all = Vec::new();
        while let Some(record) = incoming.recv().await {
            all.push(record);
        }
        all
    }
}

fn configuration(
    on_overload: &str,
    max_in_flight: u32,
    (data, admin): (SocketAddr, SocketAddr),
    simulators: &[Simulator],
) -> String {
    let most = if max_in_flight == 0 { String::new() } else { format!(", max_in_flight: {max_in_flight}") };
    let backend = |(number, one): (usize, &Simulator)| {
        format!("  - {{ name: nim-{number}, url: \"{}\", models: [{DEFAULT_MODEL}]{most} }}\n", one.url())
    };
    let backends: String = simulators.iter().enumerate().map(backend).collect();
    format!(
        "listeners: [{{ address: \"{data}\" }}]\nadmin: {{ address: \"{admin}\" }}\n\
         telemetry: {{ log: {{ level: warn }} }}\nbackends:\n{backends}routes:\n\
         \x20 - {{ name: all, backends: [nim-0, nim-1], slo: {{ {SLO} }}, on_overload: {on_overload} }}\n"
    )
}

/// Two, found at the same time so that they differ.
fn free_ports() -> (SocketAddr, SocketAddr) {
    let [one, other] = [(); 2].map(|()| std::net::TcpListener::bind("127.0.0.1:0").expect("a free port"));
    (one.local_addr().expect("its address"), other.local_addr().expect("its address"))
}

/// Waits until the admin API calls every backend ready.
async fn ready(admin: SocketAddr) {
    loop {
        let page = page(admin).await.unwrap_or_default();
        if page.matches("\"state\":\"ready\"").count() == 2 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn page(address: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET /api/v1/backends HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut page = String::new();
    stream.read_to_string(&mut page).await?;
    Ok(page)
}
