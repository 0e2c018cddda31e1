//! Backends: where they are, what they can do, what they cost.

use std::net::IpAddr;
use std::sync::Arc;

use super::{Builder, profile};
use crate::config::diagnostic::Code;
use crate::config::file::scalar;
use crate::config::file::view::View;
use crate::config::settings::{
    Backend, BackendTls, BackendUrl, Credential, DcgmExporter, EngineMetrics, Features, GpuId, Health, ModelPattern,
    NamedGpu,
};
use crate::route::price::Price;
use crate::units::format_duration;

/// What to do about a backend on a link-local address.
const LINK_LOCAL_HINT: &str = "name another address, or add `allow_link_local: true` if a model server is there";

pub(super) fn backends(view: &View<'_>, builder: &mut Builder<'_, '_, '_>) -> Vec<Arc<Backend>> {
    builder.require_items(view, "backend");
    builder.unique(view.items().map(|item| item.key("name")), "backend name");
    view.items().filter_map(|item| backend(&item, builder)).map(Arc::new).collect()
}

fn backend(view: &View<'_>, builder: &mut Builder<'_, '_, '_>) -> Option<Backend> {
    let url = view.key("url").read(scalar::url);
    let allow_link_local = view.key("allow_link_local").read(scalar::switch).unwrap_or(false);
    if let Some(url) = url.as_ref().filter(|_| !allow_link_local) {
        builder.refuse_link_local(&view.key("url"), url, LINK_LOCAL_HINT);
    }
    let tls = tls(view, url.as_ref(), builder);
    let profile = profile::profile(&view.key("profile"), builder);
    let price = price(&view.key("price"), profile.gpus, builder);
    let credential = credential(view, builder);
    let rename = rename(&view.key("rename"));
    let health = health(&view.key("health"));
    let metrics = metrics(&view.key("metrics"), builder);
    let features = features(&view.key("features"));
    Some(Backend {
        name: view.key("name").read(scalar::name)?.into(),
        // A URL that is wrong or not known yet was reported; the name must stay known, or routes would seem wrong too.
        url: url.unwrap_or(BackendUrl { https: false, host: "".into(), port: 0, base_path: "".into() }),
        allow_link_local,
        tls,
        http2: view.key("http2").read(scalar::switch).unwrap_or(false),
        profile: profile.name,
        profile_id: profile.id,
        models: models(&view.key("models"), builder),
        rename,
        price,
        max_in_flight: number(&view.key("max_in_flight")).and_then(|most| u32::try_from(most).ok()),
        context_length: number(&view.key("context_length")),
        features,
        credential,
        health,
        metrics,
        gpus: gpus(&view.key("gpus"), builder),
        dcgm: dcgm(view, allow_link_local, builder),
    })
}

/// Indices and UUIDs, each once.
fn gpus(view: &View<'_>, builder: &mut Builder<'_, '_, '_>) -> Vec<GpuId> {
    builder.require_items(view, "GPU");
    builder.unique(view.items(), "GPU");
    view.items().filter_map(|item| item.read(scalar::gpu)).collect()
}

fn dcgm(backend: &View<'_>, allow_link_local: bool, builder: &mut Builder<'_, '_, '_>) -> Option<DcgmExporter> {
    let view = backend.key("dcgm");
    let url = view.read(scalar::url);
    if let Some(url) = url.as_ref().filter(|_| !allow_link_local) {
        builder.refuse_link_local(&view, url, LINK_LOCAL_HINT);
    }
    if let Some(url) = &url
        && url.base_path.is_empty()
    {
        let hint = "an exporter's page is usually `/metrics`";
        builder.error(&view, Code::InvalidValue, "this URL names no page", hint);
    }
    for (item, gpu) in backend.key("gpus").items().filter_map(|item| Some((item.read(scalar::gpu)?, item))) {
        let instance = matches!(item.named(), Some(NamedGpu::Instance { .. }));
        if instance && !view.is_set() {
            let message = "only a DCGM exporter knows a MIG instance by its number";
            builder.error(&gpu, Code::Conflict, message, "give its UUID, as `nvidia-smi -L` shows it");
        }
    }
    url.map(|url| DcgmExporter { url })
}

fn number(view: &View<'_>) -> Option<u64> {
    view.read(|text| scalar::integer(text, 1, u64::MAX))
}

fn tls(backend: &View<'_>, url: Option<&BackendUrl>, builder: &mut Builder<'_, '_, '_>) -> BackendTls {
    let view = backend.key("tls");
    let server_name = view.key("server_name");
    match url {
        Some(url) if !url.https && view.is_set() => {
            let hint = "write `https://` in `url`, or remove `tls`";
            builder.error(&view, Code::Conflict, "`tls` has no meaning for an `http://` backend", hint);
        }
        Some(url) if url.https && url.host.parse::<IpAddr>().is_ok() && !server_name.is_set() => {
            let message = format!("`{}` is an address, so the certificate's name is not known", url.host);
            let hint = "add `tls: { server_name: nim.internal }`, or use the name in `url`";
            builder.error(&backend.key("url"), Code::Missing, message, hint);
        }
        _ => {}
    }
    let identity = builder.own_identity(&view);
    BackendTls { ca: builder.authority(&view.key("ca")), identity, server_name: server_name.text().map(Arc::from) }
}

fn models(view: &View<'_>, builder: &mut Builder<'_, '_, '_>) -> Option<Vec<ModelPattern>> {
    builder.require_items(view, "model");
    builder.unique(view.items(), "model");
    view.is_set().then(|| patterns(view))
}

/// Model names, `*` allowed.
pub(super) fn patterns(view: &View<'_>) -> Vec<ModelPattern> {
    view.items().filter_map(|item| item.text()).map(|text| ModelPattern(text.into())).collect()
}

fn rename(view: &View<'_>) -> Vec<(Arc<str>, Arc<str>)> {
    view.entries().filter_map(|(alias, _, to)| Some((alias.into(), to.text()?.into()))).collect()
}

fn price(view: &View<'_>, of_profile: Option<u32>, builder: &mut Builder<'_, '_, '_>) -> Option<Price> {
    let money = |name: &str| view.key(name).read(scalar::money);
    let set = |name: &str| view.key(name).is_set();
    let by_hour = set("per_gpu_hour") || set("gpus");
    let by_token = set("input_per_mtok") || set("cached_input_per_mtok") || set("output_per_mtok");
    let forms = "write `{ per_gpu_hour: 4.00, gpus: 2 }` or `{ input_per_mtok: 0.20, output_per_mtok: 0.60 }`";
    match (by_hour, by_token) {
        (true, true) => {
            builder.error(view, Code::Conflict, "a price is per GPU-hour or per token, not both", forms);
            None
        }
        (true, false) if !set("per_gpu_hour") => {
            builder.error(view, Code::Missing, "`per_gpu_hour` is missing beside `gpus`", forms);
            None
        }
        (false, true) if !(set("input_per_mtok") && set("output_per_mtok")) => {
            builder.error(view, Code::Missing, "a price per token needs input and output", forms);
            None
        }
        (false, false) if view.is_set() && !view.is_unknown() => {
            builder.error(view, Code::Missing, "this price says nothing", forms);
            None
        }
        (true, false) => {
            let gpus = gpus_paid(&view.key("gpus"), of_profile, builder);
            Some(Price::PerGpuHour { per_gpu_hour: money("per_gpu_hour")?, gpus })
        }
        _ => {
            let input_per_mtok = money("input_per_mtok")?;
            let cached_input_per_mtok = money("cached_input_per_mtok").unwrap_or(input_per_mtok);
            Some(Price::PerToken { input_per_mtok, cached_input_per_mtok, output_per_mtok: money("output_per_mtok")? })
        }
    }
}

/// The GPUs that an hour's price is for: those that are said, else those that the profile uses.
fn gpus_paid(view: &View<'_>, of_profile: Option<u32>, builder: &mut Builder<'_, '_, '_>) -> u32 {
    let said = number(view).and_then(|gpus| u32::try_from(gpus).ok());
    if let (Some(said), Some(used)) = (said, of_profile)
        && said != used
    {
        let message = format!("the price is for {said} GPUs, and the profile uses {used}");
        builder.warning(view, Code::Conflict, message, format!("write `gpus: {used}`, or leave it out"));
    }
    said.or(of_profile).unwrap_or(1)
}

fn features(view: &View<'_>) -> Features {
    if !view.is_set() {
        return Features::default();
    }
    let has = |feature: &str| view.items().any(|item| item.text() == Some(feature));
    Features { tools: has("tools"), vision: has("vision"), structured_output: has("structured_output") }
}

fn credential(view: &View<'_>, builder: &mut Builder<'_, '_, '_>) -> Credential {
    let api_key = view.key("api_key");
    let forward = view.key("forward_authorization");
    let forwards = forward.read(scalar::switch).unwrap_or(false);
    if forwards && api_key.is_set() {
        let message = "a backend gets its own `api_key` or the client's credential, not both";
        builder.error(&forward, Code::Conflict, message, "remove one of the two");
    }
    match builder.secret(&api_key) {
        Some(key) => Credential::ApiKey(key),
        None if forwards => Credential::ForwardClient,
        None => Credential::None,
    }
}

fn health(view: &View<'_>) -> Health {
    Health {
        path: view.key("path").read(scalar::url_path).map(Arc::from),
        interval: view.key("interval").read(scalar::duration).unwrap_or(Health::default().interval),
        slow_start: view.key("slow_start").read(scalar::duration_or_zero).unwrap_or(Health::default().slow_start),
        eject_slow: view.key("eject_slow").read(scalar::switch).unwrap_or(Health::default().eject_slow),
    }
}

fn metrics(view: &View<'_>, builder: &mut Builder<'_, '_, '_>) -> Option<EngineMetrics> {
    let at = view.key("interval");
    let interval = at.read(scalar::duration).unwrap_or(EngineMetrics::INTERVAL);
    if interval > EngineMetrics::SLOWEST {
        let slowest = format_duration(EngineMetrics::SLOWEST);
        let message = format!("`interval` is longer than {slowest}: what an engine said so long ago is not believed");
        builder.error(&at, Code::InvalidValue, message, "write `1s`, or remove `metrics`");
    }
    Some(EngineMetrics { path: view.key("path").read(scalar::url_path)?.into(), interval })
}
