//! A headway in this process, and what it says about itself.

use std::net::SocketAddr;
use std::sync::Arc;

use headway::clock::SystemClock;
use headway::commands::serve::Server;
use headway::config::{self, SystemEnvironment};
use headway::measure::exchange::ExchangeRecord;

use super::backend::Scripted;
use super::client::{Client, Reply};
use super::until;

/// A configuration that is put together.
#[derive(Default)]
pub struct Setup {
    backends: Vec<String>,
    names: Vec<&'static str>,
    route: String,
    more: String,
}

impl Setup {
    /// Adds a backend that serves the model `m`, with `more` keys.
    pub fn backend(self, name: &'static str, backend: &Scripted, more: &str) -> Self {
        self.backend_at(name, backend.address, &format!("models: [m], {more}"))
    }

    /// Adds a backend.
    pub fn backend_at(mut self, name: &'static str, address: SocketAddr, more: &str) -> Self {
        let health = "health: { path: /health, interval: 60s }";
        self.backends.push(format!("  - {{ name: {name}, url: \"http://{address}\", {health}, {more} }}\n"));
        self.names.push(name);
        self
    }

    /// Keys of the only route.
    pub fn route(mut self, keys: &str) -> Self {
        keys.clone_into(&mut self.route);
        self
    }

    /// Lines beside listeners, admin, backends and routes.
    pub fn more(mut self, lines: &str) -> Self {
        lines.clone_into(&mut self.more);
        self
    }

    /// The configuration's text.
    pub fn text(&self) -> String {
        let Self { backends, names, route, more } = self;
        let (backends, names) = (backends.concat(), names.join(", "));
        let policy = if route.contains("policy:") { "" } else { "policy: round_robin, " };
        format!(
            "listeners:\n  - {{ address: \"127.0.0.1:0\" }}\nadmin: {{ address: \"127.0.0.1:0\" }}\n{more}\n\
             backends:\n{backends}routes:\n  - {{ name: r, backends: [{names}], {policy}{route} }}\n"
        )
    }

    /// Starts it, and waits until every backend is ready.
    pub async fn start(self) -> Headway {
        let headway = Headway::start(&self.text()).await;
        let fleet = headway.server.fleet();
        until("ready backends", || fleet.backends().iter().all(|backend| backend.usable())).await;
        headway
    }
}

/// A running headway.
pub struct Headway {
    pub server: Server,
}

impl Headway {
    /// Starts one of a configuration's text; waits for nothing.
    pub async fn start(text: &str) -> Self {
        let loaded = config::parse("test.yaml", text, &SystemEnvironment).unwrap_or_else(|report| panic!("{report}"));
        Self { server: Server::start(loaded.settings, Arc::new(SystemClock)).await.expect("it starts") }
    }

    /// Before one backend `a`.
    pub async fn before(a: &Scripted) -> Self {
        Setup::default().backend("a", a, "").start().await
    }

    pub fn address(&self) -> SocketAddr {
        self.server.addresses()[0]
    }

    pub async fn connect(&self) -> Client {
        Client::connect(self.address()).await
    }

    /// Sends exact bytes on a fresh connection, and reads one answer.
    pub async fn exchange(&self, request: impl AsRef<[u8]>) -> Reply {
        let mut client = self.connect().await;
        client.send(request).await;
        client.reply().await
    }

    /// Posts a JSON text on a fresh connection.
    pub async fn post(&self, path: &str, body: &str) -> Reply {
        self.exchange(super::texts::post(path, body)).await
    }

    /// Asks for a streamed chat completion.
    pub async fn stream(&self) -> Reply {
        self.post(super::texts::CHAT, super::texts::STREAM).await
    }

    /// Waits until that many exchanges have ended and nothing is under way; returns their records, oldest first.
    pub async fn records(&self, count: usize) -> Vec<Arc<ExchangeRecord>> {
        until("records", || self.server.telemetry().recent().newest(usize::MAX).len() >= count).await;
        self.idle().await;
        let mut records = self.server.telemetry().recent().newest(usize::MAX);
        assert_eq!(records.len(), count, "one record per exchange: {records:#?}");
        records.reverse();
        records
    }

    /// The record of the only exchange.
    pub async fn record(&self) -> Arc<ExchangeRecord> {
        Arc::clone(&self.records(1).await[0])
    }

    /// Waits until every gauge is back at zero.
    pub async fn idle(&self) {
        let fleet = self.server.fleet();
        until("gauges at zero", || {
            let routes = fleet.routes().iter().all(|route| route.active() + route.retrying() == 0);
            let idle = |backend: &Arc<headway::fleet::LiveBackend>| {
                backend.in_flight() == 0 && backend.waiting_tokens() == 0 && backend.awaiting_first_token() == 0
            };
            self.server.active() == 0 && fleet.queued() == 0 && routes && fleet.backends().iter().all(idle)
        })
        .await;
    }

    /// A page of the admin listener.
    pub async fn admin(&self, path: &str) -> Reply {
        let mut client = Client::connect(self.server.admin_address()).await;
        client.send(format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")).await;
        client.reply().await
    }
}
