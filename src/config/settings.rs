//! The configuration as meant: typed, checked, defaults filled in. Whoever holds a [`Settings`] need not check it again.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;

use super::access::Access;
use super::baselines::Baselines;
use super::network::Network;
use super::otlp::Otlp;
pub use super::split::{Split, SplitGroup};
use crate::measure::group::GroupIndex;
use crate::measure::objective::Objectives;
use crate::nim::ProfileId;
use crate::route::{admission::OnOverload, hedge::Hedge, policy::PolicyKind, price::Price};

/// Everything a running headway does, as one value that is swapped whole.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where clients connect; fixed until restart, but for the files of their TLS.
    pub listeners: Vec<Listener>,
    /// Networks whose `X-Forwarded-*` fields are believed.
    pub trusted_proxies: Vec<Network>,
    /// What one client may use.
    pub limits: Limits,
    /// How headway ends.
    pub shutdown: Shutdown,
    /// Data-path workers; fixed until restart.
    pub threads: usize,
    /// The admin listener; its address is fixed until restart.
    pub admin: Admin,
    /// Logs and traces.
    pub telemetry: Telemetry,
    /// Where what was learned is kept across restarts; `None` forgets it.
    pub state: Option<StateFile>,
    /// Measurements that backends start from; `None` starts from neutral guesses.
    pub baselines: Option<Arc<Baselines>>,
    /// Who may call, how much, and from which web pages.
    pub access: Access,
    /// The model servers, names unique.
    pub backends: Vec<Arc<Backend>>,
    /// The routes, in order; the first that matches serves.
    pub routes: Vec<Arc<Route>>,
}

/// One data listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// Address to bind; port 0 takes a free one.
    pub address: SocketAddr,
    /// Certificate and key, when it speaks TLS (h1 and h2 by ALPN).
    pub tls: Option<ListenerTls>,
    /// Whether HTTP/2 with prior knowledge is accepted on plain TCP.
    pub h2c: bool,
}

/// Files of a TLS listener, PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerTls {
    /// Certificate chain.
    pub certificate: PathBuf,
    /// Private key.
    pub key: PathBuf,
    /// Authority that client certificates must chain to, when they are required.
    pub client_ca: Option<PathBuf>,
}

/// Bounds on what clients may use; each has a default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Largest request body.
    pub body: u64,
    /// Largest request head.
    pub header: u64,
    /// Most header fields.
    pub headers: usize,
    /// From the connection (or the last response) to a complete request head.
    pub header_deadline: Duration,
    /// Longest pause while a request body arrives.
    pub body_idle: Duration,
    /// Most client connections at once.
    pub connections: usize,
    /// Longest time a client may leave a pending write unread.
    pub write_idle: Duration,
    /// Most bytes held by all request bodies together.
    pub memory: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body: 32 << 20,
            header: 64 << 10,
            headers: 100,
            header_deadline: Duration::from_secs(10),
            body_idle: Duration::from_secs(30),
            connections: 10_000,
            write_idle: Duration::from_secs(60),
            memory: 2 << 30,
        }
    }
}

/// How headway ends after SIGTERM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shutdown {
    /// Not ready, but still accepting: time for load balancers to notice.
    pub pre_drain: Duration,
    /// Longest wait for running streams.
    pub drain: Duration,
}

impl Default for Shutdown {
    fn default() -> Self {
        Self { pre_drain: Duration::ZERO, drain: Duration::from_secs(600) }
    }
}

/// The admin listener.
#[derive(Debug, Clone)]
pub struct Admin {
    /// Address to bind.
    pub address: SocketAddr,
    /// Token that callers must bring; required unless the address is loopback.
    pub token: Option<SecretString>,
    /// Whether `/metrics` needs no token.
    pub open_metrics: bool,
    /// Where a trace can be looked at, with [`TRACE_ID`] in the place of its id.
    pub trace_url: Option<String>,
}

/// What stands for the trace's id in [`Admin::trace_url`].
pub const TRACE_ID: &str = "{trace_id}";

/// Logs and traces.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Telemetry {
    /// Where traces go; `None` makes none.
    pub otlp: Option<Otlp>,
    /// Where the access log goes; `None` when it is off.
    pub access_log: Option<AccessLog>,
    /// Level of headway's own log.
    pub level: Level,
    /// How the GPUs of this host are asked.
    pub gpu: GpuTelemetry,
}

/// How the GPUs of this host are asked, where backends name some.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GpuTelemetry {
    /// The driver's library.
    pub nvml: NvmlLibrary,
    /// Time between two questions.
    pub interval: Duration,
}

impl GpuTelemetry {
    /// The bounds of the interval: NVML's own counters move no faster than once a second, and what is older than a
    /// minute says nothing of a request.
    pub const INTERVALS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
}

impl Default for GpuTelemetry {
    fn default() -> Self {
        Self { nvml: NvmlLibrary::Auto, interval: Self::INTERVALS.0 }
    }
}

/// Where NVIDIA's management library is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NvmlLibrary {
    /// Where the system's loader finds it.
    Auto,
    /// It is not loaded.
    Off,
    /// In this file.
    File(PathBuf),
}

/// Where access-log lines go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccessLog {
    /// Standard output.
    Stdout,
    /// A file, appended to, reopened on SIGUSR1.
    File(PathBuf),
}

/// The file that keeps what was learned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateFile {
    /// Where it is.
    pub path: PathBuf,
    /// How often it is written, besides at the end.
    pub interval: Duration,
}

impl StateFile {
    /// How often it is written unless the configuration says otherwise.
    pub const INTERVAL: Duration = Duration::from_secs(30);
}

/// Level of headway's own log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Level {
    /// Only what needs a person.
    Error,
    /// What may need one.
    Warn,
    /// What an operator wants to know.
    #[default]
    Info,
    /// What a developer wants to know.
    Debug,
    /// Everything.
    Trace,
}

impl Level {
    /// All, the quietest first.
    pub const ALL: [Self; 5] = [Self::Error, Self::Warn, Self::Info, Self::Debug, Self::Trace];

    /// The name in the configuration and in the API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }

    /// The level of a name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|level| level.as_str() == name)
    }
}

/// One model server.
#[derive(Debug, Clone)]
pub struct Backend {
    /// The name in metrics and logs.
    pub name: Arc<str>,
    /// Where it answers.
    pub url: BackendUrl,
    /// Whether it may be at a link-local address, where clouds keep credentials.
    pub allow_link_local: bool,
    /// For https: what is trusted and shown.
    pub tls: BackendTls,
    /// Whether h2 is spoken to it.
    pub http2: bool,
    /// Its NIM profile, as shown: the name, or else the id.
    pub profile: Option<Arc<str>>,
    /// The id of its NIM profile, where the configuration says it.
    pub profile_id: Option<ProfileId>,
    /// The models it serves; `None` asks its `/v1/models`.
    pub models: Option<Vec<ModelPattern>>,
    /// Alias → what this backend calls the model.
    pub rename: Vec<(Arc<str>, Arc<str>)>,
    /// What it costs.
    pub price: Option<Price>,
    /// Most requests at once.
    pub max_in_flight: Option<u32>,
    /// Longest context; `None` asks its `/v1/models` (`max_model_len`).
    pub context_length: Option<u64>,
    /// What it can do.
    pub features: Features,
    /// Which credential it gets.
    pub credential: Credential,
    /// How its health is asked.
    pub health: Health,
    /// Where the engine tells how busy it is; `None` does not ask.
    pub metrics: Option<EngineMetrics>,
    /// The GPUs it runs on: of this host, or of those that `dcgm` shows; empty where they are not watched, or all that
    /// `dcgm` shows are its own.
    pub gpus: Vec<GpuId>,
    /// The DCGM exporter of the host it runs on.
    pub dcgm: Option<DcgmExporter>,
}

/// A GPU, or a part of one, as the configuration names it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct GpuId(pub Arc<str>);

impl GpuId {
    /// What the name means; `None` where it means nothing.
    #[must_use]
    pub fn named(&self) -> Option<NamedGpu<'_>> {
        let text = &*self.0;
        let number = |text: &str| text.parse::<u32>().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()));
        if text.starts_with("GPU-") || text.starts_with("MIG-") {
            return Some(NamedGpu::Uuid(text));
        }
        match text.split_once('/') {
            None => number(text).map(NamedGpu::Index),
            Some((gpu, instance)) => Some(NamedGpu::Instance { gpu: number(gpu)?, instance: number(instance)? }),
        }
    }
}

/// What a GPU's name means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NamedGpu<'a> {
    /// The driver's number of it.
    Index(u32),
    /// `GPU-…` or `MIG-…`.
    Uuid(&'a str),
    /// A GPU instance (MIG) of a numbered GPU, as DCGM counts them.
    Instance {
        /// The GPU's number.
        gpu: u32,
        /// The instance's number.
        instance: u32,
    },
}

/// Where a host tells of its GPUs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DcgmExporter {
    /// Its address; the base path is the whole path of the page.
    pub url: BackendUrl,
}

/// A backend's address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackendUrl {
    /// Whether TLS is spoken.
    pub https: bool,
    /// Host name or address, brackets of IPv6 removed.
    pub host: Arc<str>,
    /// Port.
    pub port: u16,
    /// Path before the API's own, without a trailing slash; usually empty.
    pub base_path: Arc<str>,
}

impl BackendUrl {
    /// The `Host` field: the port is left out when it is the scheme's own.
    #[must_use]
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.to_string() };
        let default = if self.https { 443 } else { 80 };
        if self.port == default { host } else { format!("{host}:{}", self.port) }
    }
}

/// TLS towards a backend.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BackendTls {
    /// Authority to trust instead of the built-in ones, PEM.
    pub ca: Option<PathBuf>,
    /// Our own certificate and key, PEM.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// Name to verify instead of the host.
    pub server_name: Option<Arc<str>>,
}

/// A model name, or a pattern with `*`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ModelPattern(pub Arc<str>);

impl ModelPattern {
    /// Whether `model` is meant; `*` stands for any run of characters.
    #[must_use]
    pub fn matches(&self, model: &str) -> bool {
        let mut parts = self.0.split('*');
        let Some(first) = parts.next() else { return false };
        let Some(mut rest) = model.strip_prefix(first) else { return false };
        let Some(last) = parts.next_back() else { return rest.is_empty() };
        for part in parts {
            let Some(at) = rest.find(part) else { return false };
            rest = rest.get(at + part.len()..).unwrap_or_default();
        }
        rest.ends_with(last)
    }

    /// Whether it is a plain name.
    #[must_use]
    pub fn is_literal(&self) -> bool {
        !self.0.contains('*')
    }
}

/// What a backend can do; all, unless the configuration says otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Features {
    /// Tool calls.
    pub tools: bool,
    /// Images in the prompt.
    pub vision: bool,
    /// `response_format` and guided decoding.
    pub structured_output: bool,
}

impl Default for Features {
    fn default() -> Self {
        Self { tools: true, vision: true, structured_output: true }
    }
}

/// Which credential a backend gets.
#[derive(Debug, Clone, Default)]
pub enum Credential {
    /// None; the client's own is removed.
    #[default]
    None,
    /// `Authorization: Bearer KEY`.
    ApiKey(SecretString),
    /// The client's own.
    ForwardClient,
}

/// How a backend's health is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// Path to ask; `None` tries `/v1/health/ready`, then `/health`.
    pub path: Option<Arc<str>>,
    /// Time between two questions.
    pub interval: Duration,
    /// How long it takes a backend that is new, or back, to get its whole share; zero gives it at once.
    pub slow_start: Duration,
    /// Whether it is taken out when it stays much slower than it used to be, while the others do not.
    pub eject_slow: bool,
}

impl Default for Health {
    fn default() -> Self {
        Self { path: None, interval: Duration::from_secs(2), slow_start: Duration::from_secs(60), eject_slow: true }
    }
}

/// Where and how often an engine is asked how busy it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineMetrics {
    /// Path of its Prometheus page.
    pub path: Arc<str>,
    /// Time between two questions.
    pub interval: Duration,
}

impl EngineMetrics {
    /// Time between two questions unless the configuration says otherwise.
    pub const INTERVAL: Duration = Duration::from_secs(1);
    /// The longest that makes sense: the router believes two reports in a row, and none that is older than five seconds.
    pub const SLOWEST: Duration = Duration::from_secs(4);
}

/// Named timers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// To a connection, TLS included.
    pub connect: Duration,
    /// Per attempt, from the request being sent to the first token of a stream.
    pub first_token: Duration,
    /// Between two bytes of a stream.
    pub idle: Duration,
    /// Over all attempts.
    pub total: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(2),
            first_token: Duration::from_secs(120),
            idle: Duration::from_secs(60),
            total: Duration::from_secs(3_600),
        }
    }
}

/// When a second backend is tried.
#[derive(Debug, Clone, PartialEq)]
pub struct Retry {
    /// Most tries of one request, the first included; 1 or 2.
    pub attempts: u32,
    /// Most retries, as a share of active requests.
    pub budget: f64,
    /// What may be retried.
    pub causes: Vec<RetryCause>,
}

impl Default for Retry {
    fn default() -> Self {
        Self { attempts: 2, budget: 0.20, causes: RetryCause::DEFAULT.to_vec() }
    }
}

/// A failure before the first token that another backend may make good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RetryCause {
    /// No connection, or no TLS on it.
    Connect,
    /// Status 429.
    Status429,
    /// Status 503.
    Status503,
    /// Any other 5xx.
    Status5xx,
    /// No first token in time.
    FirstTokenTimeout,
    /// The connection broke.
    Reset,
    /// An error event in place of the first token.
    ErrorEvent,
    /// The answer ended without content.
    Empty,
}

impl RetryCause {
    /// What is retried unless the configuration says otherwise.
    pub const DEFAULT: [Self; 7] = [
        Self::Connect,
        Self::Status429,
        Self::Status503,
        Self::FirstTokenTimeout,
        Self::Reset,
        Self::ErrorEvent,
        Self::Empty,
    ];

    /// The name in the configuration.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Status429 => "status_429",
            Self::Status503 => "status_503",
            Self::Status5xx => "status_5xx",
            Self::FirstTokenTimeout => "first_token_timeout",
            Self::Reset => "reset",
            Self::ErrorEvent => "error_event",
            Self::Empty => "empty",
        }
    }
}

/// A route: which requests, to which backends, with which promise.
#[derive(Debug, Clone)]
pub struct Route {
    /// The name in metrics and logs.
    pub name: Arc<str>,
    /// Which requests it serves.
    pub matches: RouteMatch,
    /// The backends, by their index in [`Settings::backends`], with a weight; those of all groups of a split.
    pub backends: Vec<(usize, u32)>,
    /// How requests are split among them; `None` where they are one group.
    pub split: Option<Split>,
    /// What it promises.
    pub objectives: Objectives,
    /// Over which window attainment is shown.
    pub window: Duration,
    /// Over which period the error budget is reckoned.
    pub budget_period: Duration,
    /// How it chooses.
    pub policy: PolicyKind,
    /// What else chooses beside it, for comparison, and is not obeyed.
    pub shadow_policy: Option<PolicyKind>,
    /// Among requests that wait, those of a route with a higher priority go first.
    pub priority: i32,
    /// What becomes of requests that the promise cannot be kept for.
    pub on_overload: OnOverload,
    /// Whether prompts go where their beginning was seen before.
    pub prefix_affinity: PrefixAffinity,
    /// Timers, where the route sets its own.
    pub timeouts: Timeouts,
    /// When a second backend is tried.
    pub retry: Retry,
    /// When the response head goes to the client.
    pub commit: Commit,
    /// When a second backend is asked for the same; `None` never.
    pub hedge: Option<Hedge>,
    /// How often a client that waits for the first token of a stream is sent a comment; `None` never.
    pub heartbeat: Option<Duration>,
    /// Whether responses name the backend and the decision.
    pub expose: bool,
    /// What becomes of `x-slo-*`.
    pub client_slo: ClientSlo,
}

impl Route {
    /// The group that a backend belongs to.
    #[must_use]
    pub fn group_of(&self, backend: usize) -> GroupIndex {
        self.split.as_ref().map_or(GroupIndex::BASELINE, |split| split.group_of(backend))
    }

    /// Its backends of one group, with their weights.
    pub fn members(&self, group: GroupIndex) -> impl Iterator<Item = &(usize, u32)> {
        self.backends.iter().filter(move |&&(index, _)| self.group_of(index) == group)
    }
}

/// Which requests a route serves; an empty list serves any.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RouteMatch {
    /// Models, patterns allowed.
    pub models: Vec<ModelPattern>,
    /// Exact paths.
    pub paths: Vec<Arc<str>>,
    /// Header fields (lower-case names) and their values.
    pub headers: Vec<(Arc<str>, Arc<str>)>,
}

/// Whether prompts go where their beginning was seen before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PrefixAffinity {
    /// As far as that makes them faster or cheaper.
    #[default]
    Auto,
    /// What backends may have cached is not looked at.
    Off,
}

impl PrefixAffinity {
    /// The name in the configuration.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Off => "off",
        }
    }
}

/// When the response head goes to the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Commit {
    /// With the first content response, so that failover before it is invisible.
    #[default]
    FirstToken,
    /// As soon as the backend's head is there.
    Headers,
}

/// What becomes of a client's own objective.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientSlo {
    /// Not looked at.
    Ignore,
    /// It may tighten the route's, down to a floor.
    Tighten {
        /// Smallest TTFT that a client may ask.
        ttft_floor: Duration,
        /// Smallest ITL that a client may ask.
        itl_floor: Duration,
    },
}

impl Default for ClientSlo {
    fn default() -> Self {
        Self::Tighten { ttft_floor: Duration::from_millis(100), itl_floor: Duration::from_millis(10) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(pattern: &str, model: &str, expected: bool) {
        assert_eq!(ModelPattern(pattern.into()).matches(model), expected, "{pattern} on {model}");
    }

    #[test]
    fn a_star_stands_for_any_run() {
        check("meta/llama", "meta/llama", true);
        check("meta/llama", "meta/llama-3", false);
        check("meta/*", "meta/llama-3", true);
        check("*", "", true);
        check("*-instruct", "llama-3.1-8b-instruct", true);
        check("meta/*-8b-*", "meta/llama-3.1-8b-instruct", true);
        check("meta/*-8b-*", "meta/llama-3.1-70b-instruct", false);
        check("a*a", "a", false);
    }
}
