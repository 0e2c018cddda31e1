//! What only the whole file can tell: routes that are never reached, backends that nothing uses.

use super::{Builder, collide};
use crate::config::diagnostic::Code;
use crate::config::file::view::View;
use crate::config::settings::{AccessLog, ModelPattern, NvmlLibrary, RouteMatch, Settings};

pub(super) fn settings(settings: &Settings, root: &View<'_>, builder: &mut Builder<'_, '_, '_>) {
    admin_address(settings, root, builder);
    state_file(settings, root, builder);
    unreachable_routes(settings, root, builder);
    unused_backends(settings, root, builder);
    unknown_measured(settings, root, builder);
    unseen_gpus(settings, root, builder);
}

/// GPUs of this host that nobody asks about.
fn unseen_gpus(settings: &Settings, root: &View<'_>, builder: &mut Builder<'_, '_, '_>) {
    if settings.telemetry.gpu.nvml != NvmlLibrary::Off {
        return;
    }
    for (backend, view) in settings.backends.iter().zip(root.key("backends").items()) {
        if !backend.gpus.is_empty() && backend.dcgm.is_none() {
            let message = "`telemetry.gpu.nvml` is off, so nothing is known of these GPUs";
            builder.warning(&view.key("gpus"), Code::Unused, message, "remove them, or turn `nvml` on");
        }
    }
}

fn admin_address(settings: &Settings, root: &View<'_>, builder: &mut Builder<'_, '_, '_>) {
    let address = settings.admin.address;
    if settings.listeners.iter().any(|listener| collide(listener.address, address)) {
        let message = format!("the admin listener's `{address}` is taken by a data listener");
        builder.error(&root.key("admin").key("address"), Code::Duplicate, message, "give it a port of its own");
    }
}

/// The state file is written over, so nothing else may be there.
fn state_file(settings: &Settings, root: &View<'_>, builder: &mut Builder<'_, '_, '_>) {
    let Some(state) = &settings.state else { return };
    let taken = match &settings.telemetry.access_log {
        Some(AccessLog::File(path)) if *path == state.path => "the access log",
        _ if settings.baselines.as_ref().is_some_and(|baselines| baselines.path == state.path) => "`baselines`",
        _ => return,
    };
    let message = format!("the state would be written over {taken}");
    builder.error(&root.key("state").key("path"), Code::Conflict, message, "give it a file of its own");
}

fn unreachable_routes(settings: &Settings, root: &View<'_>, builder: &mut Builder<'_, '_, '_>) {
    for (index, (route, view)) in settings.routes.iter().zip(root.key("routes").items()).enumerate() {
        let mut earlier = settings.routes.iter().take(index);
        if let Some(first) = earlier.find(|first| covers(&first.matches, &route.matches)) {
            let message = format!("the route `{}` is never reached: `{}` before it takes all", route.name, first.name);
            builder.warning(&view.key("name"), Code::Unused, message, "put the narrower route first");
        }
    }
}

fn unused_backends(settings: &Settings, root: &View<'_>, builder: &mut Builder<'_, '_, '_>) {
    let named = |name: &str| settings.backends.iter().position(|backend| *backend.name == *name);
    for view in root.key("backends").items().map(|item| item.key("name")) {
        let Some(index) = view.text().and_then(named) else { continue };
        if settings.routes.iter().all(|route| route.backends.iter().all(|(used, _)| *used != index)) {
            let message = format!("no route uses the backend `{}`", view.text().unwrap_or_default());
            builder.warning(&view, Code::Unused, message, "name it in a route's `backends`, or remove it");
        }
    }
}

/// Measurements of a backend that is not there are kept, and probably of a name misspelt.
fn unknown_measured(settings: &Settings, root: &View<'_>, builder: &mut Builder<'_, '_, '_>) {
    let Some(baselines) = &settings.baselines else { return };
    let names = || settings.backends.iter().map(|backend| &*backend.name);
    for name in baselines.entries.iter().filter_map(|entry| entry.backend.as_deref()) {
        if names().all(|known| known != name) {
            let message =
                format!("`{}` has measurements of `{name}`, and no backend is called so", baselines.path.display());
            builder.warning(&root.key("baselines"), Code::Unused, message, "rename the entry, or remove it");
        }
    }
}

/// Whether every request of `later` is one of `earlier`.
fn covers(earlier: &RouteMatch, later: &RouteMatch) -> bool {
    // A pattern read as a plain text matches another only if all that it stands for does: its own `*` can only be
    // matched by a `*`.
    let model = |pattern: &ModelPattern| earlier.models.iter().any(|wider| wider.matches(&pattern.0));
    let models = earlier.models.is_empty()
        || (!later.models.is_empty() && later.models.iter().all(model))
        || earlier.models.iter().any(|pattern| &*pattern.0 == "*");
    let paths = earlier.paths.is_empty()
        || (!later.paths.is_empty() && later.paths.iter().all(|path| earlier.paths.contains(path)));
    models && paths && earlier.headers.iter().all(|field| later.headers.contains(field))
}
