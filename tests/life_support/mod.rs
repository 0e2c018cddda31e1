//! What the tests of headway's life share: a running headway, backends that tell all, clients of plain sockets.

pub(crate) mod authority;
pub(crate) mod backend;
pub(crate) mod client;
pub(crate) mod h2_client;
pub(crate) mod process;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use headway::clock::{Clock, SystemClock};
use headway::commands::serve::Server;
use headway::config::settings::Settings;
use headway::config::{NoEnvironment, parse};
use headway::measure::exchange::ExchangeRecord;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Longest wait for anything: a loaded machine is slow, a hang is for ever.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn now() -> Instant {
    SystemClock.now()
}

/// Waits, with patience.
#[track_caller]
pub(crate) fn patiently<T>(what: impl Into<String>, future: impl Future<Output = T>) -> impl Future<Output = T> {
    let (what, caller) = (what.into(), std::panic::Location::caller());
    async move {
        let waited = tokio::time::timeout(PATIENCE, future).await;
        waited.unwrap_or_else(|_| panic!("waited in vain for {what}, at {caller}"))
    }
}

/// Waits until something holds that can only be asked.
#[track_caller]
pub(crate) fn until(what: impl Into<String>, mut holds: impl FnMut() -> bool) -> impl Future<Output = ()> {
    patiently(what, async move {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
}

/// The text of a configuration: one plain listener that speaks h2c too, and one route over these backends.
pub(crate) fn config(backends: &[String], route: &str, rest: &str) -> String {
    let mut text = String::new();
    if !rest.contains("listeners:") {
        text.push_str("listeners: [{ address: 127.0.0.1:0, h2c: true }]\n");
    }
    text.push_str("admin: { address: 127.0.0.1:0 }\nthreads: 2\nbackends:\n");
    for backend in backends {
        text += &format!("  - {{ {backend} }}\n");
    }
    let names: Vec<_> = backends.iter().filter_map(|text| text.split([',', ' ']).nth(1)).collect();
    text += &format!("routes:\n  - {{ name: all, backends: [{}]{route} }}\n{rest}\n", names.join(", "));
    text
}

/// A backend of that name and address, that serves the model of its own name.
pub(crate) fn backend(name: &str, address: SocketAddr) -> String {
    format!("name: {name}, url: \"http://{address}\", models: [{name}], health: {{ interval: 60s }}")
}

#[track_caller]
pub(crate) fn settings(text: &str) -> Settings {
    parse("life.yaml", text, &NoEnvironment).unwrap_or_else(|report| panic!("{report}")).settings
}

/// A running headway.
pub(crate) struct Headway {
    pub(crate) server: Server,
    pub(crate) address: SocketAddr,
}

impl Headway {
    pub(crate) async fn start(text: &str) -> Self {
        Self::with_clock(text, Arc::new(SystemClock)).await
    }

    pub(crate) async fn with_clock(text: &str, clock: Arc<dyn Clock>) -> Self {
        let headway = Self::unready(text, clock).await;
        let fleet = headway.server.fleet();
        until("healthy backends", || fleet.backends().iter().all(|backend| backend.usable())).await;
        headway
    }

    /// Does not wait until the backends are known to be healthy.
    pub(crate) async fn unready(text: &str, clock: Arc<dyn Clock>) -> Self {
        let server = Server::start(settings(text), clock).await.expect("it starts");
        let address = server.addresses()[0];
        Self { server, address }
    }

    /// The records of that request.
    pub(crate) fn records(&self, id: &str) -> Vec<Arc<ExchangeRecord>> {
        let all = self.server.telemetry().recent().newest(usize::MAX);
        all.into_iter().filter(|record| &*record.request_id == id).collect()
    }

    /// The one record of that request, once it is written.
    #[track_caller]
    pub(crate) fn record(&self, id: &str) -> impl Future<Output = Arc<ExchangeRecord>> {
        let waiting = until(format!("the record of {id}"), || !self.records(id).is_empty());
        async move {
            waiting.await;
            let mut records = self.records(id);
            assert_eq!(records.len(), 1, "one request, one record: {records:?}");
            records.remove(0)
        }
    }

    /// Requests in flight at backends.
    pub(crate) fn in_flight(&self) -> u32 {
        self.server.fleet().backends().iter().map(|backend| backend.in_flight()).sum()
    }

    /// Waits until nothing is under way, by every count.
    #[track_caller]
    pub(crate) fn idle(&self) -> impl Future<Output = ()> {
        until("an idle headway", || self.server.active() == 0 && self.in_flight() == 0)
    }

    /// The sum of a counter's series whose labels contain all of these.
    pub(crate) async fn metric(&self, family: &str, labels: &[&str]) -> f64 {
        metric(&page(self.server.admin_address(), "GET", "/metrics").await.1, family, labels)
    }
}

/// The sum of a family's series whose labels contain all of these. A family without a series yet has none on the page;
/// one that there is not at all would be 0 for ever.
#[track_caller]
pub(crate) fn metric(text: &str, family: &str, labels: &[&str]) -> f64 {
    let whole = ["_sum", "_count", "_bucket"].iter().find_map(|end| family.strip_suffix(end)).unwrap_or(family);
    assert!(include_str!("../../README.md").contains(&format!("`{whole}`")), "README knows no {family}");
    assert!(text.contains("\n# TYPE headway_build_info "), "no page of metrics: {text}");
    let of = |line: &&str| line.starts_with(family) && line[family.len()..].starts_with(['{', ' ']);
    let lines = text.lines().filter(of).filter(|line| labels.iter().all(|label| line.contains(label)));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

/// Status and body of a page of the admin listener.
pub(crate) async fn page(address: SocketAddr, method: &str, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).await.expect("the admin listener");
    let head = format!("{method} {path} HTTP/1.1\r\nhost: {address}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await.expect("it reads");
    let mut answer = Vec::new();
    patiently(path, stream.read_to_end(&mut answer)).await.expect("an answer");
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    (status, answer)
}
