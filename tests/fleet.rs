//! The fleet's background work against real sockets: health, discovery, names, ejection, TLS, generations.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test fails by panicking, in its helpers too"
)]

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use headway::clock::{Clock, ManualClock};
use headway::config::access::Access;
use headway::config::settings::*;
use headway::fleet::{BackendState, Fleet, NoCandidate, Request, probes};
use headway::measure::objective::Objectives;
use headway::measure::outcome::Blame;
use headway::route::admission::OnOverload;
use headway::route::policy::PolicyKind;
use headway::route::snapshot::{BackendIndex, RequestFacts};
use pingora_core::connectors::http::Connector;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

const MODELS: &str = r#"{"object":"list","data":[{"id":"m","object":"model","max_model_len":4096}]}"#;
const SECOND: Duration = Duration::from_secs(1);

/// Status and body per path; anything else is 404.
type Pages = Arc<Mutex<Vec<(&'static str, u16, String)>>>;

/// A server that answers each request with its page; dropping it closes the port and every connection.
struct Server {
    address: SocketAddr,
    pages: Pages,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    async fn start(pages: &[(&'static str, u16, &str)]) -> Self {
        Self::start_at("127.0.0.1:0", pages, None).await
    }

    async fn start_at(
        address: &str,
        pages: &[(&'static str, u16, &str)],
        tls: Option<tokio_rustls::TlsAcceptor>,
    ) -> Self {
        let pages = pages.iter().map(|&(path, status, body)| (path, status, body.to_owned())).collect();
        let pages: Pages = Arc::new(Mutex::new(pages));
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let shown = Arc::clone(&pages);
        let task = tokio::spawn(async move {
            let mut open = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (shown, tls) = (Arc::clone(&shown), tls.clone());
                open.spawn(async move {
                    match tls {
                        None => answer(stream, shown).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                answer(stream, shown).await;
                            }
                        }
                    }
                });
            }
        });
        Self { address, pages, task }
    }

    fn show(&self, path: &'static str, status: u16, body: &str) {
        let mut pages = self.pages.lock().unwrap();
        pages.retain(|(one, _, _)| *one != path);
        pages.push((path, status, body.to_owned()));
    }
}

async fn answer(mut stream: impl AsyncRead + AsyncWrite + Unpin, pages: Pages) {
    let mut head = Vec::new();
    while let Ok(byte) = stream.read_u8().await {
        head.push(byte);
        if !head.ends_with(b"\r\n\r\n") {
            continue;
        }
        let text = String::from_utf8_lossy(&head).into_owned();
        let path = text.split(' ').nth(1).unwrap_or_default();
        let page = pages.lock().unwrap().iter().find(|(one, _, _)| *one == path).cloned();
        let (_, status, body) = page.unwrap_or(("", 404, String::new()));
        let response = format!("HTTP/1.1 {status} x\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        if stream.write_all(response.as_bytes()).await.is_err() {
            return;
        }
        head.clear();
    }
}

fn backend(name: &str, host: &str, port: u16) -> Backend {
    Backend {
        name: name.into(),
        url: BackendUrl { https: false, host: host.into(), port, base_path: "".into() },
        allow_link_local: false,
        tls: BackendTls::default(),
        http2: false,
        profile: None,
        profile_id: None,
        models: None,
        rename: Vec::new(),
        price: None,
        max_in_flight: None,
        context_length: None,
        features: Features::default(),
        credential: Credential::None,
        health: Health { interval: Duration::from_millis(10), ..Health::default() },
        metrics: None,
        gpus: Vec::new(),
        dcgm: None,
    }
}

fn at(name: &str, server: &Server) -> Backend {
    backend(name, "127.0.0.1", server.address.port())
}

fn settings(backends: Vec<Backend>) -> Arc<Settings> {
    let route = Route {
        name: "r".into(),
        matches: RouteMatch::default(),
        backends: (0..backends.len()).map(|index| (index, 1)).collect(),
        objectives: Objectives::default(),
        window: SECOND * 300,
        budget_period: SECOND * 86_400,
        policy: PolicyKind::LeastInFlight,
        split: None,
        shadow_policy: None,
        priority: 0,
        on_overload: OnOverload::default(),
        prefix_affinity: PrefixAffinity::default(),
        timeouts: Timeouts::default(),
        retry: Retry::default(),
        commit: Commit::default(),
        expose: false,
        hedge: None,
        heartbeat: None,
        client_slo: ClientSlo::default(),
    };
    Arc::new(Settings {
        listeners: Vec::new(),
        limits: Limits::default(),
        shutdown: Shutdown::default(),
        threads: 1,
        trusted_proxies: Vec::new(),
        admin: Admin { address: ([127, 0, 0, 1], 0).into(), token: None, open_metrics: true, trace_url: None },
        telemetry: Telemetry::default(),
        state: None,
        baselines: None,
        access: Access::default(),
        backends: backends.into_iter().map(Arc::new).collect(),
        routes: vec![Arc::new(route)],
    })
}

/// A fleet whose background work runs until this is dropped.
struct Running {
    clock: Arc<ManualClock>,
    generations: watch::Sender<Arc<Fleet>>,
    shutdown: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Running {
    fn start(backends: Vec<Backend>) -> Self {
        let clock = Arc::new(ManualClock::new());
        let fleet = Arc::new(Fleet::new(settings(backends), clock.now()).unwrap());
        let (generations, fleets) = watch::channel(fleet);
        let (shutdown, ending) = watch::channel(false);
        let connector = Arc::new(Connector::new(None));
        let task = tokio::spawn(probes::run(fleets, connector, Arc::clone(&clock) as Arc<dyn Clock>, ending));
        Self { clock, generations, shutdown, task }
    }

    fn fleet(&self) -> Arc<Fleet> {
        Arc::clone(&self.generations.borrow())
    }

    fn reload(&self, backends: Vec<Backend>) {
        let new = self.fleet().rebuilt(settings(backends), self.clock.now()).unwrap();
        new.settle();
        self.generations.send_replace(Arc::new(new));
    }

    /// Waits until a backend is in a state.
    #[track_caller]
    fn becomes(&self, index: usize, state: BackendState) -> impl Future<Output = ()> {
        self.until(move |fleet| fleet.backends()[index].state() == state)
    }

    #[track_caller]
    fn until(&self, fact: impl Fn(&Fleet) -> bool) -> impl Future<Output = ()> {
        let caller = std::panic::Location::caller();
        async move {
            let poll = async {
                while !fact(&self.fleet()) {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            };
            if tokio::time::timeout(SECOND * 20, poll).await.is_err() {
                let states: Vec<_> = self.fleet().backends().iter().map(|one| one.state()).collect();
                panic!("{caller}: never came true; {states:?}, {:?}", self.fleet().readiness());
            }
        }
    }

    fn dispatch(&self, exclude: &[BackendIndex]) -> Result<headway::fleet::Dispatched, NoCandidate> {
        let facts = RequestFacts { input_tokens: 10, stream: true, ..RequestFacts::default() };
        let request = Request { model: "m", facts, ..Request::default() };
        self.fleet().dispatch(0, &request, exclude, self.clock.now())
    }
}

#[tokio::test]
async fn a_nim_is_found_ready_and_its_models_are_learned() {
    let server = Server::start(&[("/v1/health/ready", 200, ""), ("/v1/models", 200, MODELS)]).await;
    let running = Running::start(vec![at("a", &server)]);
    running.becomes(0, BackendState::Ready).await;
    let fleet = running.fleet();
    assert_eq!(
        (fleet.models(|_| None, None), fleet.backends()[0].context("m").map(|one| one.tokens)),
        (vec!["m".into()], Some(4096))
    );
    let given = running.dispatch(&[]).unwrap();
    assert_eq!(given.endpoint.address(), server.address);
}

#[tokio::test]
async fn a_server_without_nims_path_is_asked_at_health() {
    let server = Server::start(&[("/health", 200, ""), ("/v1/models", 200, MODELS)]).await;
    Running::start(vec![at("a", &server)]).becomes(0, BackendState::Ready).await;
}

#[tokio::test]
async fn listing_models_is_not_being_healthy() {
    let server = Server::start(&[("/v1/health/ready", 500, ""), ("/v1/models", 200, MODELS)]).await;
    let running = Running::start(vec![at("a", &server)]);
    running.becomes(0, BackendState::Warming).await;
    assert!(!running.fleet().readiness().ready);
}

#[tokio::test]
async fn a_backend_loads_serves_dies_and_comes_back() {
    let server = Server::start(&[("/v1/health/ready", 503, ""), ("/v1/models", 200, MODELS)]).await;
    let (address, running) = (server.address, Running::start(vec![at("a", &server)]));
    running.becomes(0, BackendState::Warming).await;
    assert!(matches!(running.dispatch(&[]), Err(NoCandidate::Loading { .. })));
    server.show("/v1/health/ready", 200, "");
    running.becomes(0, BackendState::Ready).await;
    running.dispatch(&[]).unwrap();
    drop(server);
    running.becomes(0, BackendState::Down).await;
    assert!(matches!(running.dispatch(&[]), Err(NoCandidate::NoneHealthy { .. })));
    let pages: [(&str, u16, &str); 2] = [("/v1/health/ready", 200, ""), ("/v1/models", 200, MODELS)];
    let _again = Server::start_at(&address.to_string(), &pages, None).await;
    running.becomes(0, BackendState::Ready).await;
}

#[tokio::test]
async fn an_ejected_backend_comes_back_after_its_time_two_checks_and_a_probe() {
    let pages: [(&str, u16, &str); 2] = [("/v1/health/ready", 200, ""), ("/v1/models", 200, MODELS)];
    let (one, other) = (Server::start(&pages).await, Server::start(&pages).await);
    let running = Running::start(vec![at("a", &one), at("b", &other)]);
    running.becomes(0, BackendState::Ready).await;
    running.becomes(1, BackendState::Ready).await;
    for _ in 0..5 {
        running.dispatch(&[BackendIndex(1)]).unwrap().in_flight.ended(Blame::Fault, running.clock.now());
    }
    assert_eq!(running.fleet().backends()[0].state(), BackendState::Ejected);
    running.clock.advance(SECOND * 7);
    running.becomes(0, BackendState::Probing).await;
    running.dispatch(&[BackendIndex(1)]).unwrap().in_flight.ended(Blame::Success, running.clock.now());
    assert_eq!(running.fleet().backends()[0].state(), BackendState::Ready);
}

#[tokio::test]
async fn the_watchdog_ejects_a_backend_that_is_healthy_and_silent() {
    let pages: [(&str, u16, &str); 2] = [("/v1/health/ready", 200, ""), ("/v1/models", 200, MODELS)];
    let (one, other) = (Server::start(&pages).await, Server::start(&pages).await);
    let running = Running::start(vec![at("a", &one), at("b", &other)]);
    running.becomes(0, BackendState::Ready).await;
    running.becomes(1, BackendState::Ready).await;
    let _owed = running.dispatch(&[BackendIndex(1)]).unwrap();
    running.clock.advance(SECOND * 21);
    running.becomes(0, BackendState::Ejected).await;
}

#[tokio::test]
async fn a_name_is_resolved_to_its_addresses() {
    let server = Server::start(&[("/v1/health/ready", 200, ""), ("/v1/models", 200, MODELS)]).await;
    let running = Running::start(vec![backend("a", "localhost", server.address.port())]);
    running.becomes(0, BackendState::Ready).await;
    assert_eq!(running.dispatch(&[]).unwrap().endpoint.address(), server.address, "the address that answers");
}

#[tokio::test]
async fn reloading_without_pause_disturbs_no_check() {
    let server = Server::start(&[("/v1/health/ready", 503, ""), ("/v1/models", 200, MODELS)]).await;
    let running = Running::start(vec![at("a", &server)]);
    let mut ticks = tokio::time::interval(Duration::from_millis(1));
    for round in 0..300 {
        ticks.tick().await;
        running.reload(vec![at("a", &server)]);
        if round == 20 {
            server.show("/v1/health/ready", 200, "");
        }
    }
    running.becomes(0, BackendState::Ready).await;
    let moved = Server::start(&[("/health", 200, ""), ("/v1/models", 200, MODELS)]).await;
    running.reload(vec![at("a", &moved)]);
    running.becomes(0, BackendState::Ready).await;
    assert_eq!(running.dispatch(&[]).unwrap().endpoint.address(), moved.address);
}

#[tokio::test]
async fn shutting_down_ends_the_background_work() {
    let mut running = Running::start(Vec::new());
    running.shutdown.send_replace(true);
    tokio::time::timeout(SECOND * 20, &mut running.task).await.unwrap().unwrap();
}

/// A self-signed certificate for `localhost`, as PEM files, and an acceptor that shows it.
fn certificate(folder: &Path) -> tokio_rustls::TlsAcceptor {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(folder.join("ca.pem"), made.cert.pem()).unwrap();
    std::fs::write(folder.join("key.pem"), made.signing_key.serialize_pem()).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_no_client_auth().with_single_cert(vec![made.cert.der().clone()], key).unwrap();
    tokio_rustls::TlsAcceptor::from(Arc::new(config))
}

#[tokio::test]
async fn a_backends_certificate_is_verified_against_its_own_authority_and_name() {
    let folder = tempfile::tempdir().unwrap();
    let acceptor = certificate(folder.path());
    let pages: [(&str, u16, &str); 2] = [("/v1/health/ready", 200, ""), ("/v1/models", 200, MODELS)];
    let server = Server::start_at("127.0.0.1:0", &pages, Some(acceptor)).await;
    let tls = |ca: bool, name: &str| {
        let ca = ca.then(|| folder.path().join("ca.pem"));
        BackendTls { ca, identity: None, server_name: Some(name.into()) }
    };
    let secured = |name: &str, tls| {
        let mut one = at(name, &server);
        (one.url.https, one.tls) = (true, tls);
        one
    };
    let good = secured("good", tls(true, "localhost"));
    let identity = Some((folder.path().join("ca.pem"), folder.path().join("key.pem")));
    let shown = secured("shown", BackendTls { identity, ..tls(true, "localhost") });
    let stranger = secured("stranger", tls(false, "localhost"));
    let other = secured("other", tls(true, "example.com"));
    let running = Running::start(vec![good, shown, stranger, other]);
    running.becomes(0, BackendState::Ready).await;
    running.becomes(1, BackendState::Ready).await;
    running.becomes(2, BackendState::Down).await;
    running.becomes(3, BackendState::Down).await;
}

#[tokio::test]
async fn an_h2_backend_is_asked_over_h2() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let page = |request: http::Request<hyper::body::Incoming>| async move {
        let body = match request.uri().path() {
            "/v1/models" => MODELS,
            _ => "",
        };
        assert_eq!(request.version(), http::Version::HTTP_2);
        Ok::<_, std::convert::Infallible>(http::Response::new(http_body_util::Full::new(bytes::Bytes::from(body))))
    };
    let serving = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let io = hyper_util::rt::TokioIo::new(stream);
            let service = hyper::service::service_fn(page);
            let server = hyper::server::conn::http2::Builder::new(hyper_util::rt::TokioExecutor::new());
            tokio::spawn(async move { server.serve_connection(io, service).await });
        }
    });
    let running = Running::start(vec![Backend { http2: true, ..backend("a", "127.0.0.1", port) }]);
    running.becomes(0, BackendState::Ready).await;
    assert_eq!(running.fleet().models(|_| None, None), ["m".into()]);
    serving.abort();
}
