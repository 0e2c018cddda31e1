//! The admin listener over real sockets: what it answers, to whom, and what it never shows.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails where what it needs is not there"
)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use headway::admin::{self, ConfigStatus, ReloadOutcome, ResourceUse, Services};
use headway::clock::{Clock, SystemClock};
use headway::config::access::Access;
use headway::config::otlp::{AlwaysSample, Otlp, OtlpProtocol, OtlpTls, Sampler, SpanLimits, SpanQueue};
use headway::config::settings::{
    Admin, Backend, BackendTls, BackendUrl, ClientSlo, Commit, Credential, Features, Health, Limits, PrefixAffinity,
    Retry, Route, RouteMatch, Settings, Shutdown, Telemetry as TelemetrySettings, Timeouts,
};
use headway::fleet::Fleet;
use headway::measure::course::TryCourse;
use headway::measure::exchange::{Attempt, ExchangeRecord, Latencies};
use headway::measure::objective::{Latency, Objective, Objectives, Verdicts};
use headway::measure::outcome::{Blame, Outcome};
use headway::route::admission::OnOverload;
use headway::route::policy::PolicyKind;
use headway::telemetry::Telemetry;
use headway::units::Quantile;
use headway::wire::Api;
use tokio::sync::watch;

const CANARY_KEY: &str = "canary-backend-key";
const CANARY_TOKEN: &str = "canary-admin-token";

/// A running admin listener, and what it was asked to do.
struct Running {
    address: SocketAddr,
    fleet: Arc<Fleet>,
    telemetry: Arc<Telemetry>,
    draining: Arc<AtomicBool>,
    drains: Arc<AtomicU32>,
    outcome: Arc<Mutex<ReloadOutcome>>,
    configuration: Arc<Mutex<Arc<ConfigStatus>>>,
    _shutdown: watch::Sender<bool>,
}

fn settings(token: Option<&str>, open_metrics: bool) -> Settings {
    let ttft = Objective {
        latency: Latency::TimeToFirstToken,
        quantile: Quantile::P95,
        threshold: Duration::from_millis(300),
    };
    let backend = Backend {
        name: "h100".into(),
        url: BackendUrl { https: false, host: "127.0.0.1".into(), port: 9, base_path: "".into() },
        allow_link_local: false,
        tls: BackendTls::default(),
        http2: false,
        profile: Some("vllm-h100-bf16-tp1-latency".into()),
        profile_id: None,
        models: None,
        rename: Vec::new(),
        price: None,
        max_in_flight: Some(8),
        context_length: None,
        features: Features::default(),
        credential: Credential::ApiKey(CANARY_KEY.into()),
        health: Health::default(),
        metrics: None,
        gpus: Vec::new(),
        dcgm: None,
    };
    let route = Route {
        name: "chat".into(),
        matches: RouteMatch::default(),
        backends: vec![(0, 1)],
        objectives: Objectives { ttft: Some(ttft), ..Objectives::default() },
        window: Duration::from_secs(300),
        budget_period: Duration::from_secs(86_400),
        policy: PolicyKind::default(),
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
    Settings {
        listeners: Vec::new(),
        limits: Limits::default(),
        shutdown: Shutdown::default(),
        threads: 1,
        trusted_proxies: Vec::new(),
        admin: Admin {
            address: ([127, 0, 0, 1], 0).into(),
            token: token.map(Into::into),
            open_metrics,
            trace_url: Some("http://jaeger.internal/trace/{trace_id}".to_owned()),
        },
        telemetry: TelemetrySettings::default(),
        state: None,
        baselines: None,
        access: Access::default(),
        backends: vec![Arc::new(backend)],
        routes: vec![Arc::new(route)],
    }
}

fn otlp() -> Otlp {
    Otlp {
        endpoint: BackendUrl { https: false, host: "127.0.0.1".into(), port: 9, base_path: "/v1/traces".into() },
        protocol: OtlpProtocol::HttpProtobuf,
        headers: vec![("authorization".into(), "canary-collector-token".into())],
        tls: OtlpTls::default(),
        timeout: Duration::from_secs(10),
        sampler: Sampler { follows_parent: false, ratio: 0.25 },
        always_sample: AlwaysSample { slo_miss: true, error: false },
        queue: SpanQueue::default(),
        limits: SpanLimits::default(),
        gzip: false,
        propagates: true,
        resource: vec![("team".to_owned(), "canary-team".to_owned())],
    }
}

fn exchange(request_id: &str) -> ExchangeRecord {
    ExchangeRecord {
        route: Some("chat".into()),
        api: Some(Api::Chat),
        attempts: vec![Attempt {
            backend: "h100".into(),
            profile: None,
            reason: None,
            decision: None,
            outcome: Outcome::Complete,
            blame: Blame::Success,
            duration: Duration::from_millis(900),
            first_token: Some(Duration::from_millis(120)),
            hedge: false,
            cost: None,
            course: TryCourse::default(),
        }],
        status: 200,
        outcome: Outcome::Complete,
        stream: true,
        latencies: Latencies { first_token: Some(Duration::from_millis(123)), ..Latencies::default() },
        bytes_in: 1,
        bytes_out: 2,
        verdicts: Verdicts { ttft: Some(true), ..Verdicts::default() },
        ..ExchangeRecord::begun(SystemTime::UNIX_EPOCH, request_id.into())
    }
}

fn start(settings: Settings) -> Running {
    let telemetry = Arc::new(Telemetry::new(&settings).expect("no file to open"));
    let fleet = Arc::new(Fleet::new(Arc::new(settings), SystemClock.now()).expect("no certificates"));
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    let (shutdown, receiver) = watch::channel(false);
    let (draining, drains) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
    let outcome = Arc::new(Mutex::new(ReloadOutcome::Applied { notes: Vec::new() }));
    let configuration = Arc::new(Mutex::new(Arc::new(ConfigStatus {
        hash: "cafe".to_owned(),
        applied_at: SystemTime::UNIX_EPOCH,
        read_at: SystemTime::UNIX_EPOCH,
        trigger: "start",
        errors: Vec::new(),
        notes: Vec::new(),
    })));
    let services = Services {
        fleet: {
            let fleet = Arc::clone(&fleet);
            Arc::new(move || Arc::clone(&fleet))
        },
        telemetry: Arc::clone(&telemetry),
        clock: Arc::new(SystemClock),
        configuration: {
            let configuration = Arc::clone(&configuration);
            Arc::new(move || Arc::clone(&configuration.lock().unwrap()))
        },
        reload: {
            let outcome = Arc::clone(&outcome);
            Arc::new(move || outcome.lock().unwrap().clone())
        },
        drain: {
            let drains = Arc::clone(&drains);
            Arc::new(move || {
                drains.fetch_add(1, Ordering::Relaxed);
            })
        },
        resources: Arc::new(|| vec![ResourceUse { resource: "connections", used: 93, most: 100, high: true }]),
        draining: Arc::clone(&draining),
    };
    let _thread = admin::spawn(listener, services, receiver).expect("a thread");
    Running { address, fleet, telemetry, draining, drains, outcome, configuration, _shutdown: shutdown }
}

struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }
}

impl Running {
    /// Sends `METHOD PATH`, the fields and the body on a connection of its own.
    fn ask(&self, request: &str, fields: &[&str], body: &str) -> Answer {
        let mut text = format!("{request} HTTP/1.1\r\nConnection: close\r\nContent-Length: {}\r\n", body.len());
        if !fields.iter().any(|field| field.starts_with("Host:")) {
            text.push_str("Host: localhost\r\n");
        }
        for field in fields {
            text.extend([field, "\r\n"]);
        }
        let mut stream = TcpStream::connect(self.address).expect("it listens");
        stream.write_all(format!("{text}\r\n{body}").as_bytes()).expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("it answers");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        Answer { status, head: head.to_lowercase(), body: body.to_owned() }
    }

    fn get(&self, path: &str) -> Answer {
        self.ask(&format!("GET {path}"), &[], "")
    }
}

const BEARER: &str = "Authorization: Bearer canary-admin-token";
const EVERY_PATH: [&str; 12] = [
    "/",
    "/api",
    "/metrics",
    "/healthz",
    "/readyz?verbose",
    "/api/v1/backends",
    "/api/v1/routes",
    "/api/v1/decisions",
    "/api/v1/requests",
    "/api/v1/requests?id=a",
    "/api/v1/config",
    "/api/v1/version",
];

#[test]
fn it_is_alive_but_not_ready_without_a_usable_backend() {
    let running = start(settings(None, true));
    assert_eq!(running.get("/healthz").status, 200);
    assert_eq!(running.get("/readyz").status, 503);
    let verbose = running.get("/readyz?verbose");
    assert_eq!((verbose.status, &verbose.json()["ready"]), (503, &false.into()));
    assert!(verbose.body.contains("h100"), "{}", verbose.body);
    running.draining.store(true, Ordering::Relaxed);
    assert!(running.get("/readyz?verbose").body.contains("headway is draining"));
}

#[test]
fn exchanges_show_in_metrics_and_in_the_list_of_requests() {
    let running = start(settings(None, true));
    for id in ["a", "b"] {
        running.telemetry.record(Arc::new(exchange(id)), SystemClock.now());
    }
    let page = running.get("/metrics");
    assert!(page.head.contains("content-type: text/plain; version=0.0.4"), "{}", page.head);
    let counted = "headway_requests_total{route=\"chat\",backend=\"h100\",api=\"chat\",outcome=\"complete\"} 2\n";
    assert!(page.body.contains(counted), "{}", page.body);
    assert!(page.body.contains("headway_backend_state{backend=\"h100\",state=\"unknown\"} 1\n"), "{}", page.body);
    assert!(page.body.contains("headway_slo_attainment_ratio{route=\"chat\",latency=\"ttft\"} 1\n"), "{}", page.body);
    let all = running.get("/api/v1/requests").json();
    let ids: Vec<_> = all["requests"].as_array().expect("a list").iter().map(|one| one["request_id"].clone()).collect();
    assert_eq!(ids, ["b", "a"], "newest first");
    let one = running.get("/api/v1/requests?id=a").json();
    assert_eq!((one["requests"].as_array().map(Vec::len), &one["requests"][0]["ttft_ms"]), (Some(1), &123.into()));
    assert_eq!(running.get("/api/v1/requests?limit=1").json()["requests"].as_array().map(Vec::len), Some(1));
}

#[test]
fn head_is_get_without_the_body() {
    let running = start(settings(None, true));
    let head = running.ask("HEAD /api/v1/config", &[], "");
    let length = format!("content-length: {}", running.get("/api/v1/config").body.len());
    assert!((head.status, head.body.as_str()) == (200, "") && head.head.contains(&length), "{}", head.head);
}

#[test]
fn errors_are_json_and_say_what_is_allowed() {
    let running = start(settings(None, true));
    for (request, status, code) in [
        ("GET /api/v1/nothing", 404, "not_found"),
        ("POST /metrics", 405, "method_not_allowed"),
        ("GET /-/reload", 405, "method_not_allowed"),
        ("POST /api/v1/backends/none/drain", 404, "no_such_backend"),
    ] {
        let answer = running.ask(request, &[], "");
        assert_eq!((answer.status, &answer.json()["error"]["code"]), (status, &code.into()), "{request}");
    }
    assert!(running.ask("GET /-/reload", &[], "").head.contains("\r\nallow: post"));
}

#[test]
fn the_token_opens_everything_and_probes_need_none() {
    let running = start(settings(Some(CANARY_TOKEN), false));
    for path in EVERY_PATH {
        let expected = if path == "/healthz" || path == "/" {
            200
        } else if path.starts_with("/readyz") {
            503
        } else {
            401
        };
        assert_eq!(running.get(path).status, expected, "{path}");
        let expected = if expected == 401 { 200 } else { expected };
        assert_eq!(running.ask(&format!("GET {path}"), &[BEARER], "").status, expected, "{path}");
    }
    assert_eq!(running.ask("POST /-/drain", &["Authorization: Bearer wrong"], "").status, 401);
    assert_eq!(running.drains.load(Ordering::Relaxed), 0);
    assert_eq!(start(settings(Some(CANARY_TOKEN), true)).get("/metrics").status, 200);
}

#[test]
fn no_secret_is_in_any_answer() {
    let mut settings = settings(Some(CANARY_TOKEN), true);
    settings.telemetry.otlp = Some(otlp());
    let running = start(settings);
    running.telemetry.record(Arc::new(exchange("a")), SystemClock.now());
    for path in EVERY_PATH.iter().chain(&["/nothing", "/api/v1/log-level"]) {
        for token in [BEARER, "Authorization: Bearer canary-wrong-token", "X-Canary: canary-header"] {
            let answer = running.ask(&format!("GET {path}"), &[token], "");
            assert!(!answer.head.contains("canary") && !answer.body.contains("canary"), "{path}: {}", answer.body);
        }
    }
    let config = running.ask("GET /api/v1/config", &[BEARER], "").json();
    assert_eq!(config["backends"][0]["api_key"], "[redacted]");
    assert_eq!(config["admin"]["token"], "[redacted]");
    let otlp = &config["telemetry"]["otlp"];
    assert_eq!(otlp["headers"], serde_json::json!({ "authorization": "[redacted]" }));
    assert_eq!(config["routes"][0]["slo"]["ttft"]["p95"], "300ms");
}

#[test]
fn the_configuration_shows_where_traces_go_and_which() {
    let mut with = settings(None, true);
    let shown = |settings| start(settings).ask("GET /api/v1/config", &[], "").json()["telemetry"]["otlp"].clone();
    assert!(shown(with.clone()).is_null(), "there are none");
    with.telemetry.otlp = Some(otlp());
    let expected = serde_json::json!({
        "endpoint": "http://127.0.0.1:9/v1/traces",
        "protocol": "http/protobuf",
        "follows_parent": false,
        "sample_ratio": 0.25,
        "always_sample": ["slo_miss"],
        "headers": { "authorization": "[redacted]" },
        "tls": {},
        "timeout": "10s",
        "queue": { "spans": 2_048, "batch": 512, "delay": "5s" },
        "limits": { "attributes": 128, "events": 128, "event_attributes": 128 },
        "gzip": false,
        "propagates": true,
        "resource": ["team"],
    });
    assert_eq!(shown(with), expected);
}

#[test]
fn foreign_pages_are_refused() {
    let running = start(settings(None, true));
    let rebound = running.ask("GET /api/v1/config", &["Host: evil.example"], "");
    assert_eq!((rebound.status, &rebound.json()["error"]["code"]), (403, &"foreign_host".into()));
    let posted = running.ask("POST /-/drain", &["Origin: http://evil.example"], "");
    assert_eq!((posted.status, &posted.json()["error"]["code"]), (403, &"foreign_origin".into()));
    assert_eq!(running.drains.load(Ordering::Relaxed), 0);
}

#[test]
fn a_reload_reports_what_became_of_it() {
    let running = start(settings(None, true));
    let applied = running.ask("POST /-/reload", &[], "");
    assert_eq!((applied.status, &applied.json()["reloaded"]), (200, &true.into()));
    let errors = vec!["headway.yaml:3:5: unknown key `lisen`".to_owned()];
    *running.outcome.lock().unwrap() = ReloadOutcome::Refused { errors: errors.clone() };
    let refused = running.ask("POST /-/reload", &[], "");
    assert_eq!((refused.status, &refused.json()["error"]["details"]), (422, &errors.into()));
}

#[test]
fn backends_and_headway_itself_can_be_drained() {
    let running = start(settings(None, true));
    assert_eq!(running.ask("POST /api/v1/backends/h100/drain", &[], "").json()["state"], "draining");
    assert_eq!(running.fleet.backends()[0].state().as_str(), "draining");
    assert_eq!(running.get("/api/v1/backends").json()["backends"][0]["draining"], true);
    assert_eq!(running.ask("POST /api/v1/backends/h100/undrain", &[], "").json()["draining"], false);
    assert_eq!(running.ask("POST /-/drain", &[], "").status, 202);
    assert_eq!(running.drains.load(Ordering::Relaxed), 1);
}

#[test]
fn the_log_level_takes_json_with_a_known_level() {
    let running = start(settings(None, true));
    let put =
        |kind: &str, body: &str| running.ask("PUT /api/v1/log-level", &[&format!("Content-Type: {kind}")], body).status;
    assert_eq!(put("application/json", r#"{"level": "debug"}"#), 200);
    assert_eq!(put("application/json", r#"{"level": "loud"}"#), 400);
    assert_eq!(put("application/json", &"x".repeat(10_000)), 400);
    assert_eq!(put("text/plain", r#"{"level": "debug"}"#), 415);
}

#[test]
fn routes_show_their_promises_and_backends() {
    let running = start(settings(None, true));
    running.telemetry.record(Arc::new(exchange("a")), SystemClock.now());
    let route = &running.get("/api/v1/routes").json()["routes"][0];
    assert_eq!((&route["name"], &route["policy"]), (&"chat".into(), &"cheapest_within_slo".into()));
    assert_eq!(
        (&route["objectives"][0]["threshold_ms"], &route["objectives"][0]["attainment"]),
        (&300.0.into(), &1.0.into())
    );
    assert_eq!(route["backends"][0]["backend"], "h100");
}

#[test]
fn figures_are_of_what_ended_and_absent_before_anything_did() {
    let running = start(settings(None, true));
    let of = |running: &Running, what: &str| running.get(&format!("/api/v1/{what}")).json()[what][0].clone();
    let (route, backend) = (of(&running, "routes"), of(&running, "backends"));
    let objective = &route["objectives"][0];
    assert_eq!((&objective["judged"], objective.get("attainment"), objective.get("met")), (&0.into(), None, None));
    assert_eq!(objective.get("budget_left"), None);
    for one in [&route, &backend] {
        assert_eq!((&one["last_minute"]["requests"], one["last_minute"].get("ttft")), (&0.into(), None), "{one}");
        assert_eq!((&one["requests"], &one["cost"]), (&0.into(), &0.0.into()), "{one}");
    }
    let mut late = exchange("late");
    (late.verdicts.ttft, late.cost) = (Some(false), Some(0.5));
    (late.attempts[0].reason, late.attempts[0].cost) = (Some("probe"), late.cost);
    running.telemetry.record(Arc::new(late), SystemClock.now());
    running.telemetry.record(Arc::new(exchange("in time")), SystemClock.now());
    let (route, backend) = (of(&running, "routes"), of(&running, "backends"));
    let objective = &route["objectives"][0];
    assert_eq!((&objective["good"], &objective["judged"], &objective["met"]), (&1.into(), &2.into(), &false.into()));
    // Half missed of a twentieth that may: ten times too fast, nine budgets overspent.
    let nearly = |value: &serde_json::Value, expected: f64| (value.as_f64().unwrap() - expected).abs() < 1e-6;
    assert!(nearly(&objective["burn_rate"]["5m"], 10.0) && nearly(&objective["budget_left"], -9.0), "{objective}");
    let minute = &route["last_minute"];
    assert_eq!(minute["outcomes"], serde_json::json!({ "complete": 2 }));
    let tries = |reason: serde_json::Value| serde_json::json!({ "backend": "h100", "reason": reason, "tries": 1 });
    assert_eq!(minute["sent"], serde_json::json!([tries("probe".into()), tries(serde_json::Value::Null)]));
    assert_eq!(minute["ttft"]["samples"], 2);
    assert!((minute["ttft"]["p95_ms"].as_f64().unwrap() - 123.0).abs() < 1.3, "{minute}");
    // The backend's own, from the beginning of the try.
    assert!((backend["last_minute"]["ttft"]["p50_ms"].as_f64().unwrap() - 120.0).abs() < 1.3, "{backend}");
    assert_eq!((&route["cost"], &backend["cost"], &backend["routes"][0]), (&0.5.into(), &0.5.into(), &"chat".into()));
    assert!(backend["requests_per_second"].as_f64().unwrap() > 0.0);
    assert_eq!(route["backends"][0]["requests"], 2);
}

#[test]
fn the_version_tells_the_configuration_and_what_became_of_its_last_reload() {
    let running = start(settings(None, true));
    let config = &running.get("/api/v1/version").json()["config"];
    assert_eq!((&config["hash"], &config["last_reload"]["ok"]), (&"cafe".into(), &true.into()));
    let before = running.configuration.lock().unwrap().clone();
    let errors = vec!["headway.yaml:3:5: unknown key `lisen`".to_owned()];
    *running.configuration.lock().unwrap() =
        Arc::new(ConfigStatus { trigger: "watch", errors: errors.clone(), ..(*before).clone() });
    let last = &running.get("/api/v1/version").json()["config"]["last_reload"];
    assert_eq!((&last["ok"], &last["trigger"], &last["errors"]), (&false.into(), &"watch".into(), &errors.into()));
}
