//! The configuration in force, without its secrets: a secret is shown as there or not there.
//!
//! Written field by field, so that a new setting is hidden until someone decides that it may be shown.

use serde_json::{Value, json};

use crate::config::access::ApiKey;
use crate::config::otlp::{AlwaysSample, Otlp};
use crate::config::settings::{
    AccessLog, Backend, BackendUrl, ClientSlo, Commit, Credential, GpuTelemetry, Level, Listener, NvmlLibrary, Route,
    Settings,
};
use crate::measure::objective::Objective;
use crate::route::price::Price;
use crate::units::{format_duration, format_size};

/// What stands for a secret.
const REDACTED: &str = "[redacted]";

pub(super) fn config(settings: &Settings) -> Value {
    let (limits, shutdown) = (&settings.limits, &settings.shutdown);
    json!({
        "listeners": settings.listeners.iter().map(listener).collect::<Vec<_>>(),
        "limits": {
            "body": format_size(limits.body),
            "header": format_size(limits.header),
            "headers": limits.headers,
            "header_deadline": format_duration(limits.header_deadline),
            "body_idle": format_duration(limits.body_idle),
            "connections": limits.connections,
            "write_idle": format_duration(limits.write_idle),
            "memory": format_size(limits.memory),
        },
        "shutdown": { "pre_drain": format_duration(shutdown.pre_drain), "drain": format_duration(shutdown.drain) },
        "threads": settings.threads,
        "admin": {
            "address": settings.admin.address.to_string(),
            "token": settings.admin.token.as_ref().map(|_| REDACTED),
            "open_metrics": settings.admin.open_metrics,
            "trace_url": settings.admin.trace_url,
        },
        "telemetry": {
            "otlp": settings.telemetry.otlp.as_ref().map(otlp),
            "access_log": settings.telemetry.access_log.as_ref().map(access_log),
            "log": { "level": level_name(settings.telemetry.level) },
            "gpu": gpu(&settings.telemetry.gpu),
        },
        "keys": settings.access.keys.as_ref().map(|keys| {
            keys.iter().map(|one| key(one, settings)).collect::<Vec<_>>()
        }),
        "cors": settings.access.cors.as_ref().map(|cors| {
            json!({ "origins": cors.origins.iter().map(|one| &**one).collect::<Vec<_>>() })
        }),
        "backends": settings.backends.iter().map(|one| backend(one)).collect::<Vec<_>>(),
        "routes": settings.routes.iter().map(|one| route(one, settings)).collect::<Vec<_>>(),
    })
}

/// A digest is all there is to know of a weak key.
fn key(key: &ApiKey, settings: &Settings) -> Value {
    let name = |index: &usize| settings.routes.get(*index).map(|route| &*route.name);
    json!({
        "name": &*key.name,
        "sha256": REDACTED,
        "routes": key.routes.as_ref().map(|routes| routes.iter().filter_map(name).collect::<Vec<_>>()),
        "requests_per_minute": key.limits.requests_per_minute,
        "tokens_per_minute": key.limits.tokens_per_minute,
        "concurrency": key.limits.concurrency,
    })
}

fn listener(listener: &Listener) -> Value {
    let tls = listener
        .tls
        .as_ref()
        .map(|tls| json!({ "certificate": tls.certificate, "key": tls.key, "client_ca": tls.client_ca }));
    json!({ "address": listener.address.to_string(), "tls": tls, "h2c": listener.h2c })
}

fn gpu(gpu: &GpuTelemetry) -> Value {
    let nvml = match &gpu.nvml {
        NvmlLibrary::Auto => json!("auto"),
        NvmlLibrary::Off => json!("off"),
        NvmlLibrary::File(path) => json!(path),
    };
    json!({ "nvml": nvml, "interval": format_duration(gpu.interval) })
}

/// What the file and the environment came to. The value of a header is a secret whoever it is meant for.
fn otlp(otlp: &Otlp) -> Value {
    let AlwaysSample { slo_miss, error } = otlp.always_sample;
    let always = [(slo_miss, "slo_miss"), (error, "error")];
    let headers = otlp.headers.iter().map(|(name, _)| (name.to_string(), Value::from(REDACTED)));
    let (identity, queue) = (otlp.tls.identity.as_ref(), &otlp.queue);
    json!({
        "endpoint": url(&otlp.endpoint),
        "protocol": otlp.protocol.as_str(),
        "follows_parent": otlp.sampler.follows_parent,
        "sample_ratio": otlp.sampler.ratio,
        "always_sample": always.into_iter().filter_map(|(kept, name)| kept.then_some(name)).collect::<Vec<_>>(),
        "headers": headers.collect::<serde_json::Map<_, _>>(),
        "tls": {
            "ca": otlp.tls.ca,
            "certificate": identity.map(|(certificate, _)| certificate),
            "key": identity.map(|(_, key)| key),
        },
        "timeout": format_duration(otlp.timeout),
        "queue": { "spans": queue.spans, "batch": queue.batch, "delay": format_duration(queue.delay) },
    })
}

fn access_log(log: &AccessLog) -> Value {
    match log {
        AccessLog::Stdout => json!({ "format": "json", "path": "stdout" }),
        AccessLog::File(path) => json!({ "format": "json", "path": path }),
    }
}

fn backend(backend: &Backend) -> Value {
    let models = backend.models.as_ref().map(|models| models.iter().map(|model| &*model.0).collect::<Vec<_>>());
    let rename = backend.rename.iter().map(|(alias, name)| (alias.to_string(), Value::from(&**name)));
    let features = &backend.features;
    json!({
        "name": &*backend.name,
        "url": url(&backend.url),
        "tls": {
            "ca": backend.tls.ca,
            "certificate": backend.tls.identity.as_ref().map(|(certificate, _)| certificate),
            "key": backend.tls.identity.as_ref().map(|(_, key)| key),
            "server_name": backend.tls.server_name.as_deref(),
        },
        "http2": backend.http2,
        "profile": backend.profile.as_deref(),
        "models": models,
        "rename": rename.collect::<serde_json::Map<_, _>>(),
        "price": backend.price.as_ref().map(price),
        "max_in_flight": backend.max_in_flight,
        "context_length": backend.context_length,
        "features": {
            "tools": features.tools, "vision": features.vision, "structured_output": features.structured_output,
        },
        "api_key": matches!(backend.credential, Credential::ApiKey(_)).then_some(REDACTED),
        "forward_authorization": matches!(backend.credential, Credential::ForwardClient),
        "health": { "path": backend.health.path.as_deref(), "interval": format_duration(backend.health.interval) },
        "gpus": backend.gpus.iter().map(|gpu| &*gpu.0).collect::<Vec<_>>(),
        "dcgm": backend.dcgm.as_ref().map(|dcgm| url(&dcgm.url)),
    })
}

fn url(url: &BackendUrl) -> String {
    let scheme = if url.https { "https" } else { "http" };
    format!("{scheme}://{}{}", url.authority(), url.base_path)
}

/// A price, in the words of the configuration.
pub(super) fn price(price: &Price) -> Value {
    match *price {
        Price::PerGpuHour { per_gpu_hour, gpus } => json!({ "per_gpu_hour": per_gpu_hour, "gpus": gpus }),
        Price::PerToken { input_per_mtok, cached_input_per_mtok, output_per_mtok } => json!({
            "input_per_mtok": input_per_mtok,
            "cached_input_per_mtok": cached_input_per_mtok,
            "output_per_mtok": output_per_mtok,
        }),
    }
}

fn route(route: &Route, settings: &Settings) -> Value {
    let name = |index: usize| settings.backends.get(index).map(|backend| &*backend.name);
    let members = route.backends.iter().map(|&(index, weight)| json!({ "name": name(index), "weight": weight }));
    let headers = route.matches.headers.iter().map(|(name, value)| (name.to_string(), Value::from(&**value)));
    let (timeouts, retry) = (&route.timeouts, &route.retry);
    json!({
        "name": &*route.name,
        "match": {
            "models": route.matches.models.iter().map(|model| &*model.0).collect::<Vec<_>>(),
            "paths": route.matches.paths.iter().map(|path| &**path).collect::<Vec<_>>(),
            "headers": headers.collect::<serde_json::Map<_, _>>(),
        },
        "backends": members.collect::<Vec<_>>(),
        "slo": slo(route),
        "policy": route.policy.as_str(),
        "timeouts": {
            "connect": format_duration(timeouts.connect),
            "first_token": format_duration(timeouts.first_token),
            "idle": format_duration(timeouts.idle),
            "total": format_duration(timeouts.total),
        },
        "retry": {
            "attempts": retry.attempts,
            "budget": retry.budget,
            "causes": retry.causes.iter().map(|cause| cause.as_str()).collect::<Vec<_>>(),
        },
        "commit": match route.commit { Commit::FirstToken => "first_token", Commit::Headers => "headers" },
        "expose": route.expose,
        "client_slo": match route.client_slo {
            ClientSlo::Ignore => json!("ignore"),
            ClientSlo::Tighten { ttft_floor, itl_floor } => json!({
                "ttft_floor": format_duration(ttft_floor), "itl_floor": format_duration(itl_floor),
            }),
        },
    })
}

fn slo(route: &Route) -> Value {
    let promise = |objective: &Objective| {
        let threshold = Value::from(format_duration(objective.threshold));
        let by_quantile = serde_json::Map::from_iter([(objective.quantile.to_string(), threshold)]);
        (objective.latency.as_str().to_owned(), Value::Object(by_quantile))
    };
    let mut slo: serde_json::Map<_, _> = route.objectives.iter().map(promise).collect();
    slo.insert("window".to_owned(), format_duration(route.window).into());
    slo.insert("budget_period".to_owned(), format_duration(route.budget_period).into());
    Value::Object(slo)
}

/// The name of a level, as the configuration and the API write it.
pub(super) fn level_name(level: Level) -> &'static str {
    match level {
        Level::Error => "error",
        Level::Warn => "warn",
        Level::Info => "info",
        Level::Debug => "debug",
        Level::Trace => "trace",
    }
}

/// The level of a name.
pub(super) fn level_of(name: &str) -> Option<Level> {
    let all = [Level::Error, Level::Warn, Level::Info, Level::Debug, Level::Trace];
    all.into_iter().find(|&level| level_name(level) == name)
}
