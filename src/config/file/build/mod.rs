//! From a checked tree to [`Settings`]: defaults filled in, names resolved, and what no single value can tell.
//!
//! The checker has reported every value that is wrong by itself; here such a value reads as absent, so each mistake is
//! reported once and the rest of the file is still judged.

mod access;
mod backend;
mod files;
mod lint;
mod otlp;
mod profile;
mod route;
mod split;

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;

use super::scalar::{self, Wrong};
use super::sink::Sink;
use super::view::View;
use crate::config::baselines::Baselines;
use crate::config::diagnostic::Code;
use crate::config::environment::Environment;
use crate::config::file;
use crate::config::network;
use crate::config::settings::{
    AccessLog, Admin, BackendUrl, GpuTelemetry, Level, Limits, Listener, ListenerTls, NvmlLibrary, Retry, RetryCause,
    Settings, Shutdown, StateFile, Telemetry, Timeouts,
};
use crate::units::format_duration;

/// Where the admin listener is unless the file says otherwise.
const ADMIN_ADDRESS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9090);

/// What building needs besides the tree.
pub(super) struct Builder<'s, 'text, 'e> {
    pub(super) sink: &'s mut Sink<'text>,
    pub(super) environment: &'e dyn Environment,
    /// Folder that relative paths start from.
    pub(super) base: &'e Path,
}

/// The settings that the file means. Without errors in the sink they can be used.
pub(super) fn settings(root: &View<'_>, builder: &mut Builder<'_, '_, '_>) -> Settings {
    let defaults = root.key("defaults");
    let timeouts = timeouts(&defaults.key("timeouts"), Timeouts::default());
    let retry = retry(&defaults.key("retry"), Retry::default());
    let backends = backend::backends(&root.key("backends"), builder);
    let names: Vec<_> = backends.iter().map(|backend| backend.name.to_string()).collect();
    let routes = route::routes(&root.key("routes"), &route::Context { names, timeouts, retry }, builder);
    let route_names: Vec<_> = routes.iter().map(|route| route.name.to_string()).collect();
    let settings = Settings {
        listeners: listeners(&root.key("listeners"), builder),
        trusted_proxies: root.key("trusted_proxies").items().filter_map(|item| item.read(scalar::network)).collect(),
        limits: limits(&root.key("limits"), builder),
        shutdown: shutdown(&root.key("shutdown")),
        threads: threads(&root.key("threads")),
        admin: admin(&root.key("admin"), builder),
        telemetry: telemetry(&root.key("telemetry"), builder),
        state: state(&root.key("state"), builder),
        baselines: baselines(&root.key("baselines"), builder).map(Arc::new),
        access: access::access(root, &route_names, builder),
        backends,
        routes,
    };
    lint::settings(&settings, root, builder);
    access::lint(&settings, root, builder);
    settings
}

impl Builder<'_, '_, '_> {
    /// Reports that `view` is wrong together with something else.
    fn error(&mut self, view: &View<'_>, code: Code, message: impl Into<String>, hint: impl Into<String>) {
        self.sink.error(view.at, &view.path, code, Wrong::new(message, hint));
    }

    /// Reports that `view` works, and is probably not meant.
    fn warning(&mut self, view: &View<'_>, code: Code, message: impl Into<String>, hint: impl Into<String>) {
        self.sink.warning(view.at, &view.path, code, Wrong::new(message, hint));
    }

    /// Reports an address of the link, where clouds keep credentials: who can change the configuration could read them.
    fn refuse_link_local(&mut self, view: &View<'_>, url: &BackendUrl, hint: &str) {
        if url.host.parse().is_ok_and(network::is_link_local) {
            let message = format!("`{}` is a link-local address, where clouds keep credentials", url.host);
            self.error(view, Code::InvalidValue, message, hint);
        }
    }

    /// Reports a list that may not be empty.
    fn require_items(&mut self, view: &View<'_>, what: &str) {
        if view.is_set() && !view.is_unknown() && view.items().next().is_none() {
            self.error(view, Code::Missing, format!("there is no {what}"), format!("add a {what}"));
        }
    }

    /// Reports values of a list that are there twice, each at its second place.
    fn unique<'v>(&mut self, views: impl Iterator<Item = View<'v>>, what: &str) {
        let mut first: HashMap<&str, usize> = HashMap::new();
        for view in views {
            let Some(text) = view.text() else { continue };
            if let Some(line) = first.get(text) {
                let message = format!("the {what} `{text}` is there twice, first on line {line}");
                self.error(&view, Code::Duplicate, message, format!("give each {what} once"));
            } else {
                first.insert(text, view.at.line);
            }
        }
    }
}

fn listeners(view: &View<'_>, builder: &mut Builder<'_, '_, '_>) -> Vec<Listener> {
    builder.require_items(view, "listener");
    let mut listeners: Vec<Listener> = Vec::new();
    for item in view.items() {
        let address = item.key("address");
        let Some(bound) = address.read(scalar::address) else { continue };
        if listeners.iter().any(|other| collide(other.address, bound)) {
            builder.error(
                &address,
                Code::Duplicate,
                format!("`{bound}` is already taken by another listener"),
                "give each listener a port of its own",
            );
        }
        let tls = item.key("tls");
        let h2c = item.key("h2c").read(scalar::switch).unwrap_or(false);
        if h2c && tls.is_set() {
            let hint = "remove `h2c`; with TLS, HTTP/2 is agreed on in the handshake";
            builder.error(&item.key("h2c"), Code::Conflict, "`h2c` is HTTP/2 without TLS, and there is `tls`", hint);
        }
        let tls = if tls.is_set() { listener_tls(&tls, builder) } else { None };
        listeners.push(Listener { address: bound, tls, h2c });
    }
    listeners
}

fn listener_tls(view: &View<'_>, builder: &mut Builder<'_, '_, '_>) -> Option<ListenerTls> {
    let (certificate, key) = builder.identity(&view.key("certificate"), &view.key("key"))?;
    Some(ListenerTls { certificate, key, client_ca: builder.authority(&view.key("client_ca")) })
}

/// Whether two addresses cannot both be bound: the same port, on the same address or on all of them.
fn collide(a: SocketAddr, b: SocketAddr) -> bool {
    a.port() != 0
        && a.port() == b.port()
        && (a.ip() == b.ip() || (a.is_ipv4() == b.is_ipv4() && (a.ip().is_unspecified() || b.ip().is_unspecified())))
}

fn limits(view: &View<'_>, builder: &mut Builder<'_, '_, '_>) -> Limits {
    let default = Limits::default();
    let count = |name: &str| view.key(name).read(|text| scalar::integer(text, 1, u64::MAX));
    let count = |name: &str, default| count(name).and_then(|count| usize::try_from(count).ok()).unwrap_or(default);
    let size = |name: &str, default| view.key(name).read(scalar::size).unwrap_or(default);
    let duration = |name: &str, default| view.key(name).read(scalar::duration).unwrap_or(default);
    let limits = Limits {
        body: size("body", default.body),
        header: size("header", default.header),
        headers: count("headers", default.headers),
        header_deadline: duration("header_deadline", default.header_deadline),
        body_idle: duration("body_idle", default.body_idle),
        connections: count("connections", default.connections),
        write_idle: duration("write_idle", default.write_idle),
        memory: size("memory", default.memory),
    };
    if limits.memory < limits.body {
        let place = if view.key("memory").is_set() { view.key("memory") } else { view.key("body") };
        let message = "`memory` holds all bodies together, and is smaller than one `body` may be";
        builder.error(&place, Code::Conflict, message, "raise `memory`, or lower `body`");
    }
    limits
}

fn shutdown(view: &View<'_>) -> Shutdown {
    let default = Shutdown::default();
    Shutdown {
        pre_drain: view.key("pre_drain").read(scalar::duration_or_zero).unwrap_or(default.pre_drain),
        drain: view.key("drain").read(scalar::duration_or_zero).unwrap_or(default.drain),
    }
}

/// `auto` is what the process may use: affinity and cgroup quota count, not the machine.
fn threads(view: &View<'_>) -> usize {
    let available = || std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    view.read(scalar::threads).flatten().unwrap_or_else(available)
}

fn admin(view: &View<'_>, builder: &mut Builder<'_, '_, '_>) -> Admin {
    let at = view.key("address");
    let token = view.key("token");
    let address = at.read(scalar::address).unwrap_or(ADMIN_ADDRESS);
    if !address.ip().to_canonical().is_loopback() && !token.is_set() {
        builder.error(
            &at,
            Code::Missing,
            format!("`{address}` can be reached from elsewhere, so the admin listener needs a `token`"),
            "add `token: \"${HEADWAY_ADMIN_TOKEN}\"`, or use `127.0.0.1:9090`",
        );
    }
    Admin {
        address,
        token: builder.secret(&token),
        open_metrics: view.key("open_metrics").read(scalar::switch).unwrap_or(true),
        trace_url: view.key("trace_url").read(scalar::trace_url).map(str::to_owned),
    }
}

fn telemetry(view: &View<'_>, builder: &mut Builder<'_, '_, '_>) -> Telemetry {
    let log = view.key("access_log");
    let access_log = log.is_set().then(|| match log.key("path").text() {
        None | Some("stdout") => AccessLog::Stdout,
        Some(path) => AccessLog::File(builder.base.join(path)),
    });
    let level = view.key("log").key("level").text().and_then(Level::named).unwrap_or_default();
    Telemetry { otlp: otlp::otlp(&view.key("otlp"), builder), access_log, level, gpu: gpu(&view.key("gpu"), builder) }
}

fn gpu(view: &View<'_>, builder: &mut Builder<'_, '_, '_>) -> GpuTelemetry {
    let default = GpuTelemetry::default();
    let at = view.key("interval");
    let interval = at.read(scalar::duration).unwrap_or(default.interval);
    let (shortest, longest) = GpuTelemetry::INTERVALS;
    if !(shortest..=longest).contains(&interval) {
        let (shortest, longest) = (format_duration(shortest), format_duration(longest));
        let message = format!("GPUs are asked every {shortest} to {longest}");
        builder.error(&at, Code::InvalidValue, message, "write `1s`");
    }
    let nvml = match view.key("nvml").text() {
        None | Some("auto") => NvmlLibrary::Auto,
        Some("off") => NvmlLibrary::Off,
        Some(path) => NvmlLibrary::File(builder.base.join(path)),
    };
    GpuTelemetry { nvml, interval }
}

fn state(view: &View<'_>, builder: &Builder<'_, '_, '_>) -> Option<StateFile> {
    let path = builder.base.join(view.key("path").text()?);
    let interval = view.key("interval").read(scalar::duration).unwrap_or(StateFile::INTERVAL);
    Some(StateFile { path, interval })
}

/// The file is judged like the configuration itself, each mistake at its place in that file.
fn baselines(view: &View<'_>, builder: &mut Builder<'_, '_, '_>) -> Option<Baselines> {
    let path = builder.base.join(view.text()?);
    let Some((path, contents)) = builder.baselines(view) else {
        return Some(Baselines { path, entries: Vec::new() });
    };
    let name = path.to_string_lossy();
    let Ok(text) = String::from_utf8(contents.bytes) else {
        let message = format!("`{name}` is not UTF-8 text");
        builder.error(view, Code::File, message, "name a file of measurements");
        return None;
    };
    let (entries, found) = file::baselines::judge(&name, &text);
    builder.sink.elsewhere(found);
    Some(Baselines { path, entries })
}

fn timeouts(view: &View<'_>, default: Timeouts) -> Timeouts {
    let read = |name: &str, default| view.key(name).read(scalar::duration).unwrap_or(default);
    Timeouts {
        connect: read("connect", default.connect),
        first_token: read("first_token", default.first_token),
        idle: read("idle", default.idle),
        total: read("total", default.total),
    }
}

fn retry(view: &View<'_>, default: Retry) -> Retry {
    let attempts = view.key("attempts").read(|text| scalar::integer(text, 1, 2));
    let causes = view.key("causes");
    let known = || RetryCause::DEFAULT.into_iter().chain([RetryCause::Status5xx]);
    let meant = |text: &str| known().find(|cause| cause.as_str() == text);
    Retry {
        attempts: attempts.and_then(|count| u32::try_from(count).ok()).unwrap_or(default.attempts),
        budget: view.key("budget").read(scalar::share).unwrap_or(default.budget),
        causes: if causes.is_set() {
            causes.items().filter_map(|item| meant(item.text()?)).collect()
        } else {
            default.causes
        },
    }
}
