//! Every key of the configuration: what it holds and what it is for. The reference, read by all that judges a file.
//! Those of a route stand in [`super::route_keys`].

use super::route_keys::ROUTE;
use super::shape::{Key, Kind, Shape};
use crate::config::otlp::OtlpProtocol;
use crate::config::settings::RetryCause;
use crate::nim::{Engine, Precision};

/// Most of anything that is counted in a configuration.
pub(super) const MANY: u64 = 1_000_000;

/// The whole file.
pub(super) const ROOT: Shape = Shape::Map(&[
    Key::required("listeners", Shape::List(&LISTENER), "Where clients connect. Fixed until restart."),
    Key::optional(
        "trusted_proxies",
        Shape::List(&Shape::One(Kind::Network)),
        "Networks whose X-Forwarded-* fields are believed. Default: none.",
    ),
    Key::optional("limits", LIMITS, "What one client may use."),
    Key::optional("shutdown", SHUTDOWN, "How headway ends after SIGTERM."),
    Key::one(
        "threads",
        Kind::Threads,
        "Data-path workers; auto is the CPUs this process may use. Fixed until restart.",
    ),
    Key::optional("admin", ADMIN, "The admin listener: metrics, probes, API."),
    Key::optional("telemetry", TELEMETRY, "Traces and logs."),
    Key::optional("state", STATE, "Keeps what was learned across restarts. Default: it is forgotten."),
    Key::one("baselines", Kind::File, "Measurements that backends start from. Default: neutral guesses."),
    Key::optional("defaults", DEFAULTS, "What routes use unless they say otherwise."),
    Key::required("backends", Shape::List(&BACKEND), "The model servers."),
    Key::required("routes", Shape::List(&ROUTE), "The routes; the first that matches serves."),
    Key::optional("keys", Shape::List(&KEY), "Who may call, and how much. Default: everyone, without limit."),
    Key::optional("cors", CORS, "Which web pages may call. Default: none is told that it may."),
    Key::not_built("cluster"),
]);

const KEY: Shape = Shape::Map(&[
    Key::required("name", Shape::One(Kind::Name), "The name in the access log."),
    Key::required("sha256", Shape::One(Kind::Sha256), "SHA-256 of the key: `printf %s \"$KEY\" | sha256sum`."),
    Key::optional("routes", Shape::List(&Shape::One(Kind::Name)), "The routes it may use. Default: all."),
    Key::one("requests_per_minute", Kind::Count, "Most requests in any minute. Default: no limit."),
    Key::one("tokens_per_minute", Kind::Count, "Most input and output tokens in any minute. Default: no limit."),
    Key::one("concurrency", Kind::Count, "Most requests under way at once. Default: no limit."),
]);

const CORS: Shape = Shape::Map(&[Key::required(
    "origins",
    Shape::List(&Shape::One(Kind::Origin)),
    "Their origins, such as https://app.example.com; `*` is any.",
)]);

const LISTENER: Shape = Shape::Map(&[
    Key::required("address", Shape::One(Kind::Address), "Address and port to bind; port 0 takes a free one."),
    Key::optional("tls", LISTENER_TLS, "Serve TLS (HTTP/1.1 and HTTP/2)."),
    Key::one("h2c", Kind::Switch, "Accept HTTP/2 with prior knowledge on plain TCP. Default: false."),
]);

const LISTENER_TLS: Shape = Shape::Map(&[
    Key::required("certificate", Shape::One(Kind::File), "Certificate chain, PEM."),
    Key::required("key", Shape::One(Kind::File), "Private key, PEM."),
    Key::one("client_ca", Kind::File, "Authority that client certificates must chain to; makes them required."),
]);

const LIMITS: Shape = Shape::Map(&[
    Key::one("body", Kind::Size, "Largest request body. Default: 32MiB."),
    Key::one("header", Kind::Size, "Largest request head. Default: 64KiB."),
    Key::one("headers", Kind::Integer(1, 10_000), "Most header fields. Default: 100."),
    Key::one("header_deadline", Kind::Duration, "Longest time for a complete request head. Default: 10s."),
    Key::one("body_idle", Kind::Duration, "Longest pause while a request body arrives. Default: 30s."),
    Key::one("connections", Kind::Integer(1, MANY), "Most client connections at once. Default: 10000."),
    Key::one("write_idle", Kind::Duration, "Longest time a client may leave a pending write unread. Default: 60s."),
    Key::one("memory", Kind::Size, "Most bytes held by all request bodies together. Default: 2GiB."),
]);

const SHUTDOWN: Shape = Shape::Map(&[
    Key::one("pre_drain", Kind::DurationOrZero, "Not ready, but still accepting. Default: 0s."),
    Key::one("drain", Kind::DurationOrZero, "Longest wait for running streams. Default: 10m."),
]);

const ADMIN: Shape = Shape::Map(&[
    Key::one("address", Kind::Address, "Address to bind. Default: 127.0.0.1:9090. Fixed until restart."),
    Key::optional("token", SECRET, "Token that callers must bring; required unless the address is loopback."),
    Key::one("open_metrics", Kind::Switch, "Whether /metrics needs no token. Default: true."),
    Key::one(
        "trace_url",
        Kind::TraceUrl,
        "Where the dashboard's links to traces lead; {trace_id} stands for the id. Default: no links.",
    ),
]);

const SECRET: Shape = Shape::OneOrMap(
    Kind::Secret,
    &[Key::required("file", Shape::One(Kind::File), "File that holds the secret; white space around it is dropped.")],
);

const TELEMETRY: Shape = Shape::Map(&[
    Key::optional(
        "otlp",
        OTLP,
        "Traces. What is not said here is taken from OpenTelemetry's environment variables. Default: none, unless \
         OTEL_EXPORTER_OTLP_ENDPOINT is set.",
    ),
    Key::optional("access_log", ACCESS_LOG, "One line per exchange. Default: off."),
    Key::optional("log", LOG, "Headway's own log, on standard error."),
    Key::optional("gpu", GPU, "How the GPUs of this host are asked, where backends name some under `gpus`."),
]);

const OTLP: Shape = Shape::Map(&[
    Key::one(
        "endpoint",
        Kind::Url,
        "The collector; over HTTP, /v1/traces is added where it is missing. Default: http://localhost:4318, or :4317 \
         for grpc.",
    ),
    Key::one(
        "protocol",
        Kind::Choice(|| OtlpProtocol::ALL.map(OtlpProtocol::as_str).to_vec()),
        "Default: http/protobuf.",
    ),
    Key::one(
        "sample_ratio",
        Kind::Share,
        "Share of traces chosen at their head, where the caller has not chosen. Default: 100%.",
    ),
    Key::optional(
        "always_sample",
        Shape::List(&Shape::One(Kind::Choice(|| vec!["slo_miss", "error"]))),
        "Traces that are kept whatever was chosen, decided at their end. Default: both.",
    ),
    Key::optional("headers", Shape::Table(Kind::HeaderName, &SECRET), "Fields of every request to the collector."),
    Key::optional("tls", OTLP_TLS, "For https: what is trusted and shown."),
]);

const OTLP_TLS: Shape = Shape::Map(&[
    Key::one("ca", Kind::File, "Authority to trust instead of the built-in ones, PEM."),
    Key::one("certificate", Kind::File, "Our own certificate, PEM; needs key."),
    Key::one("key", Kind::File, "Our own private key, PEM; needs certificate."),
]);

const ACCESS_LOG: Shape = Shape::Map(&[
    Key::one("format", Kind::Choice(|| vec!["json"]), "Default: json."),
    Key::one("path", Kind::File, "`stdout`, or a file that is appended to. Default: stdout."),
]);

const GPU: Shape = Shape::Map(&[
    Key::one(
        "nvml",
        Kind::File,
        "NVIDIA's management library: `auto` loads the system's, `off` none; or a file. Default: auto.",
    ),
    Key::one("interval", Kind::Duration, "Time between two questions, from 1s to 1m. Default: 1s."),
]);

const LOG: Shape = Shape::Map(&[Key::one(
    "level",
    Kind::Choice(|| vec!["error", "warn", "info", "debug", "trace"]),
    "Default: info.",
)]);

const STATE: Shape = Shape::Map(&[
    Key::required("path", Shape::One(Kind::File), "The file; its folder must exist and be writable."),
    Key::one("interval", Kind::Duration, "How often it is written, besides at the end. Default: 30s."),
]);

const DEFAULTS: Shape = Shape::Map(&[
    Key::optional("timeouts", TIMEOUTS, "Named timers."),
    Key::optional("retry", RETRY, "When a second backend is tried."),
]);

pub(super) const TIMEOUTS: Shape = Shape::Map(&[
    Key::one("connect", Kind::Duration, "To a connection, TLS included. Default: 2s."),
    Key::one("first_token", Kind::Duration, "Per attempt, to the first token of a stream. Default: 120s."),
    Key::one("idle", Kind::Duration, "Between two bytes of a stream. Default: 60s."),
    Key::one("total", Kind::Duration, "Over all attempts. Default: 1h."),
]);

pub(super) const RETRY: Shape = Shape::Map(&[
    Key::one("attempts", Kind::Integer(1, 2), "Most tries of one request, the first included. Default: 2."),
    Key::one("budget", Kind::Share, "Most retries, as a share of active requests. Default: 20%."),
    Key::optional(
        "causes",
        Shape::List(&RETRY_CAUSE),
        "Failures before the first token that another backend may heal.",
    ),
]);

const RETRY_CAUSE: Shape = Shape::One(Kind::Choice(|| {
    let mut causes: Vec<_> = RetryCause::DEFAULT.iter().map(|cause| cause.as_str()).collect();
    causes.push(RetryCause::Status5xx.as_str());
    causes
}));

const BACKEND: Shape = Shape::Map(&[
    Key::required("name", Shape::One(Kind::Name), "The name in routes, metrics and logs."),
    Key::required("url", Shape::One(Kind::Url), "Where it answers; host names are resolved again by their TTL."),
    Key::one(
        "allow_link_local",
        Kind::Switch,
        "Whether its address, or what its name leads to, may be link-local, where clouds keep credentials. Default: false.",
    ),
    Key::optional("tls", BACKEND_TLS, "For https: what is trusted and shown."),
    Key::one("http2", Kind::Switch, "Speak HTTP/2 to it. Default: false."),
    Key::optional(
        "profile",
        PROFILE,
        "The NIM profile it runs, by name or id (`headway profiles` lists them), or its parts; held against what a NIM \
         says at /v1/metadata.",
    ),
    Key::optional(
        "models",
        Shape::List(&Shape::One(Kind::Text)),
        "The models it serves, `*` for any run of characters. Default: asked from /v1/models.",
    ),
    Key::optional(
        "rename",
        Shape::Table(Kind::Text, &Shape::One(Kind::Text)),
        "Alias (or LoRA name) to what this backend calls the model.",
    ),
    Key::optional("price", PRICE, "What it costs: per_gpu_hour and gpus, or per million tokens."),
    Key::one("max_in_flight", Kind::Integer(1, MANY), "Most requests at once. Default: no limit."),
    Key::one("context_length", Kind::Integer(1, 1 << 40), "Longest context. Default: asked from /v1/models."),
    Key::optional("features", Shape::List(&FEATURE), "What it can do. Default: all."),
    Key::optional("api_key", SECRET, "Sent to it as a bearer token."),
    Key::one("forward_authorization", Kind::Switch, "Send it the client's own credential. Default: false."),
    Key::optional("health", HEALTH, "How its health is asked."),
    Key::optional(
        "metrics",
        METRICS,
        "The engine's own view of its load, where others use it too. Default: not asked.",
    ),
    Key::optional(
        "gpus",
        Shape::List(&Shape::One(Kind::Gpu)),
        "The GPUs it runs on, by index or UUID (a MIG instance by its own UUID, or as GPU/INSTANCE with `dcgm`): of \
         this host, or with `dcgm` of that one. Default: none, with `dcgm` all.",
    ),
    Key::one("dcgm", Kind::Url, "The page of the DCGM exporter on its host, such as http://10.0.0.11:9400/metrics."),
]);

const PROFILE: Shape = Shape::OneOrMap(
    Kind::Text,
    &[
        Key::one("id", Kind::Text, "Its id, 64 hexadecimal digits: what a NIM says of itself is held against it."),
        Key::one("name", Kind::Text, "Its name, as shown. Default: put together from the parts, else the id."),
        Key::one("engine", Kind::Choice(|| Engine::ALL.map(Engine::as_str).to_vec()), "The serving software."),
        Key::one("gpu", Kind::Text, "The GPU it was compiled for."),
        Key::one("precision", Kind::Choice(|| Precision::ALL.map(Precision::as_str).to_vec()), "Of the weights."),
        Key::one("tp", Kind::Integer(1, 1024), "Tensor parallelism."),
        Key::one("pp", Kind::Integer(1, 1024), "Pipeline parallelism."),
        Key::one("target", Kind::Choice(|| vec!["latency", "throughput"]), "What it was built for."),
        Key::one("lora", Kind::Switch, "Whether it takes LoRA adapters. Default: false."),
    ],
);

const BACKEND_TLS: Shape = Shape::Map(&[
    Key::one("ca", Kind::File, "Authority to trust instead of the built-in ones, PEM."),
    Key::one("certificate", Kind::File, "Our own certificate, PEM; needs key."),
    Key::one("key", Kind::File, "Our own private key, PEM; needs certificate."),
    Key::one("server_name", Kind::Text, "Name to verify instead of the host; needed when the host is an address."),
]);

const PRICE: Shape = Shape::Map(&[
    Key::one("per_gpu_hour", Kind::Money, "One GPU for one hour."),
    Key::one("gpus", Kind::Integer(1, 100_000), "How many GPUs it uses. Default: as many as its profile, else 1."),
    Key::one("input_per_mtok", Kind::Money, "One million input tokens."),
    Key::one("cached_input_per_mtok", Kind::Money, "One million cached input tokens. Default: as input."),
    Key::one("output_per_mtok", Kind::Money, "One million output tokens."),
]);

const FEATURE: Shape = Shape::One(Kind::Choice(|| vec!["tools", "vision", "structured_output"]));

const HEALTH: Shape = Shape::Map(&[
    Key::one("path", Kind::UrlPath, "Path to ask. Default: /v1/health/ready, then /health."),
    Key::one("interval", Kind::Duration, "Time between two questions. Default: 2s."),
    Key::one(
        "slow_start",
        Kind::DurationOrZero,
        "How long a backend that is new, or back, takes from a tenth to its whole share. Default: 60s.",
    ),
    Key::one(
        "eject_slow",
        Kind::Switch,
        "Whether it is left alone for a while when it stays three times as slow as it was, alone. Default: true.",
    ),
]);

const METRICS: Shape = Shape::Map(&[
    Key::required("path", Shape::One(Kind::UrlPath), "Its Prometheus page: /v1/metrics of a NIM, /metrics of vLLM."),
    Key::one("interval", Kind::Duration, "Time between two questions, at most 4s. Default: 1s."),
]);
