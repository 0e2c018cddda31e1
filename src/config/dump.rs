//! The effective configuration, defaults filled in, for people to look at. Secrets are named, never shown.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::access::ApiKey;
use super::otlp::{AlwaysSample, Otlp};
use super::settings::{
    AccessLog, Admin, Backend, BackendUrl, ClientSlo, Commit, Credential, Features, Limits, Listener, NvmlLibrary,
    Retry, Route, Settings, SplitGroup, Telemetry, Timeouts,
};
use crate::measure::group::GroupIndex;
use crate::route::admission::OnOverload;
use crate::route::policy::PolicyKind;
use crate::route::price::Price;
use crate::units::{format_duration, format_size};

/// What stands in place of a secret.
const REDACTED: &str = "[redacted]";

/// The settings in the words of the file.
#[must_use]
pub fn dump(settings: &Settings) -> Value {
    without_nulls(json!({
        "listeners": settings.listeners.iter().map(listener).collect::<Vec<_>>(),
        "trusted_proxies": settings.trusted_proxies.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "limits": limits(&settings.limits),
        "shutdown": {
            "pre_drain": duration(settings.shutdown.pre_drain),
            "drain": duration(settings.shutdown.drain),
        },
        "threads": settings.threads,
        "admin": admin(&settings.admin),
        "telemetry": telemetry(&settings.telemetry),
        "state": settings.state.as_ref().map(|state| json!({
            "path": state.path,
            "interval": duration(state.interval),
        })),
        "baselines": settings.baselines.as_ref().map(|baselines| &baselines.path),
        "keys": settings.access.keys.as_ref().map(|keys| keys.iter().map(|one| key(one, settings)).collect::<Vec<_>>()),
        "cors": settings.access.cors.as_ref().map(|cors| json!({
            "origins": cors.origins.iter().map(|one| &**one).collect::<Vec<_>>(),
        })),
        "backends": settings.backends.iter().map(|backend| self::backend(backend)).collect::<Vec<_>>(),
        "routes": settings.routes.iter().map(|route| self::route(route, settings)).collect::<Vec<_>>(),
    }))
}

/// Names what the settings mean, secrets left out: the same on every machine that has the same.
#[must_use]
pub fn hash(settings: &Settings) -> String {
    let text = dump(settings).to_string();
    let hash = text
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    format!("{hash:016x}")
}

fn duration(duration: Duration) -> Value {
    format_duration(duration).into()
}

fn listener(listener: &Listener) -> Value {
    json!({
        "address": listener.address.to_string(),
        "tls": listener.tls.as_ref().map(|tls| json!({
            "certificate": tls.certificate,
            "key": tls.key,
            "client_ca": tls.client_ca,
        })),
        "h2c": listener.h2c,
    })
}

fn limits(limits: &Limits) -> Value {
    json!({
        "body": format_size(limits.body),
        "header": format_size(limits.header),
        "headers": limits.headers,
        "header_deadline": duration(limits.header_deadline),
        "body_idle": duration(limits.body_idle),
        "connections": limits.connections,
        "write_idle": duration(limits.write_idle),
        "memory": format_size(limits.memory),
    })
}

fn admin(admin: &Admin) -> Value {
    json!({
        "address": admin.address.to_string(),
        "token": admin.token.as_ref().map(|_| REDACTED),
        "open_metrics": admin.open_metrics,
        "trace_url": admin.trace_url,
    })
}

fn telemetry(telemetry: &Telemetry) -> Value {
    let path = telemetry.access_log.as_ref().map(|log| match log {
        AccessLog::Stdout => json!("stdout"),
        AccessLog::File(path) => json!(path),
    });
    json!({
        "otlp": telemetry.otlp.as_ref().map(otlp),
        "access_log": path.map(|path| json!({ "format": "json", "path": path })),
        "log": { "level": telemetry.level.as_str() },
        "gpu": {
            "nvml": match &telemetry.gpu.nvml {
                NvmlLibrary::Auto => json!("auto"),
                NvmlLibrary::Off => json!("off"),
                NvmlLibrary::File(path) => json!(path),
            },
            "interval": duration(telemetry.gpu.interval),
        },
    })
}

/// What the file and the environment came to. The value of a header is a secret whoever it is meant for.
fn otlp(otlp: &Otlp) -> Value {
    let AlwaysSample { slo_miss, error } = otlp.always_sample;
    let always = [(slo_miss, "slo_miss"), (error, "error")];
    let (identity, queue, limits) = (otlp.tls.identity.as_ref(), &otlp.queue, &otlp.limits);
    json!({
        "endpoint": url(&otlp.endpoint),
        "protocol": otlp.protocol.as_str(),
        "follows_parent": otlp.sampler.follows_parent,
        "sample_ratio": otlp.sampler.ratio,
        "always_sample": always.into_iter().filter_map(|(kept, name)| kept.then_some(name)).collect::<Vec<_>>(),
        "headers": otlp.headers.iter().map(|(name, _)| (name.to_string(), json!(REDACTED))).collect::<Map<_, _>>(),
        "tls": {
            "ca": otlp.tls.ca,
            "certificate": identity.map(|(certificate, _)| certificate),
            "key": identity.map(|(_, key)| key),
        },
        "timeout": duration(otlp.timeout),
        "queue": { "spans": queue.spans, "batch": queue.batch, "delay": duration(queue.delay) },
        "limits": {
            "attributes": limits.attributes,
            "text": (limits.text < usize::MAX).then_some(limits.text),
            "events": limits.events,
            "event_attributes": limits.event_attributes,
        },
        "gzip": otlp.gzip,
        "propagates": otlp.propagates,
        "resource": otlp.resource.iter().map(|(name, _)| &**name).collect::<Vec<_>>(),
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

fn backend(backend: &Backend) -> Value {
    let tls = &backend.tls;
    let identity = tls.identity.as_ref();
    let api_key = matches!(backend.credential, Credential::ApiKey(_)).then_some(REDACTED);
    json!({
        "name": &*backend.name,
        "url": url(&backend.url),
        "allow_link_local": backend.allow_link_local,
        "tls": {
            "ca": tls.ca,
            "certificate": identity.map(|(certificate, _)| certificate),
            "key": identity.map(|(_, key)| key),
            "server_name": tls.server_name.as_deref(),
        },
        "http2": backend.http2,
        "profile": profile(backend),
        "models": backend.models.as_ref().map(|models| models.iter().map(|model| &*model.0).collect::<Vec<_>>()),
        "rename": backend.rename.iter().map(|(alias, to)| (alias.to_string(), json!(&**to))).collect::<Map<_, _>>(),
        "price": backend.price.map(price),
        "max_in_flight": backend.max_in_flight,
        "context_length": backend.context_length,
        "features": features(backend.features),
        "api_key": api_key,
        "forward_authorization": matches!(backend.credential, Credential::ForwardClient),
        "health": {
            "path": backend.health.path.as_deref(),
            "interval": duration(backend.health.interval),
            "slow_start": duration(backend.health.slow_start),
            "eject_slow": backend.health.eject_slow,
        },
        "metrics": backend.metrics.as_ref().map(|metrics| json!({
            "path": &*metrics.path,
            "interval": duration(metrics.interval),
        })),
        "gpus": backend.gpus.iter().map(|gpu| &*gpu.0).collect::<Vec<_>>(),
        "dcgm": backend.dcgm.as_ref().map(|dcgm| url(&dcgm.url)),
    })
}

/// By its name, and by its id where that is more than the name.
fn profile(backend: &Backend) -> Value {
    match (backend.profile.as_deref(), &backend.profile_id) {
        (Some(name), Some(id)) if id.as_str() != name => json!({ "name": name, "id": id.as_str() }),
        (name, _) => json!(name),
    }
}

fn url(url: &BackendUrl) -> String {
    let scheme = if url.https { "https" } else { "http" };
    format!("{scheme}://{}{}", url.authority(), url.base_path)
}

/// A price, in the words of the file.
#[must_use]
pub fn price(price: Price) -> Value {
    match price {
        Price::PerGpuHour { per_gpu_hour, gpus } => json!({ "per_gpu_hour": per_gpu_hour, "gpus": gpus }),
        Price::PerToken { input_per_mtok, cached_input_per_mtok, output_per_mtok } => json!({
            "input_per_mtok": input_per_mtok,
            "cached_input_per_mtok": cached_input_per_mtok,
            "output_per_mtok": output_per_mtok,
        }),
    }
}

fn features(features: Features) -> Vec<&'static str> {
    let Features { tools, vision, structured_output } = features;
    let all = [(tools, "tools"), (vision, "vision"), (structured_output, "structured_output")];
    all.into_iter().filter_map(|(has, name)| has.then_some(name)).collect()
}

fn route(route: &Route, settings: &Settings) -> Value {
    let name = |index: usize| settings.backends.get(index).map(|backend| &*backend.name);
    let backend = |&(index, weight): &(usize, u32)| json!({ "name": name(index), "weight": weight });
    let texts = |texts: &[std::sync::Arc<str>]| texts.iter().map(ToString::to_string).collect::<Vec<_>>();
    let headers = route.matches.headers.iter();
    json!({
        "name": &*route.name,
        "match": {
            "models": route.matches.models.iter().map(|model| &*model.0).collect::<Vec<_>>(),
            "paths": texts(&route.matches.paths),
            "headers": headers.map(|(name, value)| (name.to_string(), json!(&**value))).collect::<Map<_, _>>(),
        },
        "backends": route.members(GroupIndex::BASELINE).map(backend).collect::<Vec<_>>(),
        "split": route.split.as_ref().map(|split| {
            let groups = split.groups.iter().enumerate();
            let group = |(place, group): (usize, &SplitGroup)| {
                let members: Vec<_> = route.members(GroupIndex::of(place)).map(backend).collect();
                let rollback = group.rollback.as_str();
                (group.name.to_string(), json!({ "backends": members, "share": group.share, "rollback": rollback }))
            };
            groups.map(group).collect::<Map<_, _>>()
        }),
        "slo": slo(route),
        "policy": route.policy.as_str(),
        "shadow_policy": route.shadow_policy.map(PolicyKind::as_str),
        "priority": route.priority,
        "on_overload": on_overload(route.on_overload),
        "prefix_affinity": route.prefix_affinity.as_str(),
        "timeouts": timeouts(&route.timeouts),
        "retry": retry(&route.retry),
        "commit": match route.commit {
            Commit::FirstToken => "first_token",
            Commit::Headers => "headers",
        },
        "hedge": route.hedge.map(|hedge| json!({ "after": hedge.after.to_string(), "budget": hedge.budget })),
        "heartbeat": route.heartbeat.map(duration),
        "expose": route.expose,
        "client_slo": match route.client_slo {
            ClientSlo::Ignore => "ignore",
            ClientSlo::Tighten { .. } => "tighten",
        },
        "client_slo_floor": match route.client_slo {
            ClientSlo::Ignore => Value::Null,
            ClientSlo::Tighten { ttft_floor, itl_floor } => {
                json!({ "ttft": duration(ttft_floor), "itl": duration(itl_floor) })
            }
        },
    })
}

fn on_overload(on_overload: OnOverload) -> Value {
    match on_overload {
        OnOverload::Queue { depth, wait } => json!({ "queue": { "depth": depth, "wait": duration(wait) } }),
        OnOverload::Shed | OnOverload::Sacrifice => on_overload.as_str().into(),
    }
}

fn slo(route: &Route) -> Value {
    let mut slo: Map<String, Value> = route
        .objectives
        .iter()
        .map(|objective| {
            let promise = json!({ objective.quantile.to_string(): duration(objective.threshold) });
            (objective.latency.as_str().to_owned(), promise)
        })
        .collect();
    slo.insert("window".to_owned(), duration(route.window));
    slo.insert("budget_period".to_owned(), duration(route.budget_period));
    Value::Object(slo)
}

fn timeouts(timeouts: &Timeouts) -> Value {
    json!({
        "connect": duration(timeouts.connect),
        "first_token": duration(timeouts.first_token),
        "idle": duration(timeouts.idle),
        "total": duration(timeouts.total),
    })
}

fn retry(retry: &Retry) -> Value {
    json!({
        "attempts": retry.attempts,
        "budget": retry.budget,
        "causes": retry.causes.iter().map(|cause| cause.as_str()).collect::<Vec<_>>(),
    })
}

/// What is not set is left out.
fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let kept = fields.into_iter().filter(|(_, value)| !value.is_null());
            Value::Object(kept.map(|(name, value)| (name, without_nulls(value))).collect())
        }
        Value::Array(items) => items.into_iter().map(without_nulls).collect(),
        other => other,
    }
}
