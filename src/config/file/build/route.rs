//! Routes: what they match, which backends they use, what they promise.

use std::sync::Arc;
use std::time::Duration;

use super::backend::patterns;
use super::{Builder, retry, split, timeouts};
use crate::config::diagnostic::Code;
use crate::config::file::scalar::{self, Wrong};
use crate::config::file::suggest::nearest;
use crate::config::file::view::View;
use crate::config::settings::{ClientSlo, Commit, PrefixAffinity, Retry, Route, RouteMatch, Timeouts};
use crate::measure::objective::{Latency, Objective, Objectives};
use crate::route::admission::OnOverload;
use crate::route::hedge::Hedge;
use crate::route::policy::PolicyKind;

/// How many requests may wait for a place, and how long, unless the configuration says otherwise.
const QUEUE: (u64, Duration) = (64, Duration::from_secs(2));

/// What routes take from the rest of the file.
pub(super) struct Context {
    /// Backend names, in the order of [`crate::config::settings::Settings::backends`].
    pub(super) names: Vec<String>,
    pub(super) timeouts: Timeouts,
    pub(super) retry: Retry,
}

pub(super) fn routes(view: &View<'_>, context: &Context, builder: &mut Builder<'_, '_, '_>) -> Vec<Arc<Route>> {
    builder.require_items(view, "route");
    builder.unique(view.items().map(|item| item.key("name")), "route name");
    view.items().map(|item| Arc::new(route(&item, context, builder))).collect()
}

fn route(view: &View<'_>, context: &Context, builder: &mut Builder<'_, '_, '_>) -> Route {
    let policy = policy(&view.key("policy")).unwrap_or_default();
    let slo = view.key("slo");
    let duration = |name: &str, default| slo.key(name).read(scalar::duration).unwrap_or(default);
    let mut backends = Vec::new();
    members(&view.key("backends"), &context.names, &mut backends, builder);
    let split = split::split(view, &context.names, &mut backends, builder);
    Route {
        name: view.key("name").text().unwrap_or_default().into(),
        matches: matches(&view.key("match"), builder),
        backends,
        split,
        objectives: Objectives {
            ttft: objective(&slo, Latency::TimeToFirstToken, builder),
            itl: objective(&slo, Latency::InterToken, builder),
            e2e: objective(&slo, Latency::EndToEnd, builder),
        },
        window: duration("window", Duration::from_secs(300)),
        budget_period: duration("budget_period", Duration::from_secs(30 * 86_400)),
        policy,
        shadow_policy: shadow_policy(&view.key("shadow_policy"), policy, builder),
        priority: priority(&view.key("priority")),
        on_overload: on_overload(&view.key("on_overload")),
        prefix_affinity: match view.key("prefix_affinity").text() {
            Some("off") => PrefixAffinity::Off,
            _ => PrefixAffinity::Auto,
        },
        timeouts: timeouts(&view.key("timeouts"), context.timeouts),
        retry: retry(&view.key("retry"), context.retry.clone()),
        commit: if view.key("commit").text() == Some("headers") { Commit::Headers } else { Commit::FirstToken },
        hedge: hedge(view, builder),
        heartbeat: view.key("heartbeat").read(scalar::duration),
        expose: view.key("expose").read(scalar::switch).unwrap_or(false),
        client_slo: client_slo(view, builder),
    }
}

fn policy(view: &View<'_>) -> Option<PolicyKind> {
    let name = view.text()?;
    PolicyKind::ALL.into_iter().find(|kind| kind.as_str() == name)
}

fn shadow_policy(view: &View<'_>, policy: PolicyKind, builder: &mut Builder<'_, '_, '_>) -> Option<PolicyKind> {
    let shadow = self::policy(view)?;
    if shadow == policy {
        let message =
            format!("`{}` is what decides here; in its own shadow there is nothing to compare", policy.as_str());
        builder.warning(view, Code::Unused, message, "name another policy, or remove `shadow_policy`");
    }
    Some(shadow)
}

fn priority(view: &View<'_>) -> i32 {
    view.read(|text| scalar::integer(text, 0, 1_000)).and_then(|priority| i32::try_from(priority).ok()).unwrap_or(0)
}

/// Serving late is the default: a promise that is too tight must not become an outage unless the operator says so.
fn on_overload(view: &View<'_>) -> OnOverload {
    let queue = view.key("queue");
    match view.text() {
        Some("shed") => return OnOverload::Shed,
        Some("queue") => {}
        _ if queue.is_set() => {}
        _ => return OnOverload::default(),
    }
    let depth = queue.key("depth").read(|text| scalar::integer(text, 1, u64::MAX)).unwrap_or(QUEUE.0);
    OnOverload::Queue {
        depth: usize::try_from(depth).unwrap_or(usize::MAX),
        wait: queue.key("wait").read(scalar::duration).unwrap_or(QUEUE.1),
    }
}

/// Where heads are shown at once, the first head would win, and a head says nothing of a token.
fn hedge(view: &View<'_>, builder: &mut Builder<'_, '_, '_>) -> Option<Hedge> {
    let hedge = view.key("hedge");
    if !hedge.is_set() {
        return None;
    }
    if view.key("commit").text() == Some("headers") {
        let message = "a route that shows the first head it gets cannot wait for the first token of two backends";
        builder.error(&hedge, Code::Conflict, message, "remove `hedge`, or write `commit: first_token`");
    }
    Some(Hedge {
        after: hedge.key("after").read(scalar::quantile).unwrap_or(Hedge::DEFAULT.after),
        budget: hedge.key("budget").read(scalar::share).unwrap_or(Hedge::DEFAULT.budget),
    })
}

fn matches(view: &View<'_>, builder: &mut Builder<'_, '_, '_>) -> RouteMatch {
    for name in ["models", "paths"] {
        // An empty list would match everything, which nobody means by it.
        builder.require_items(&view.key(name), name.trim_end_matches('s'));
        builder.unique(view.key(name).items(), name.trim_end_matches('s'));
    }
    let headers = view.key("headers");
    let mut fields: Vec<(Arc<str>, Arc<str>)> = Vec::new();
    for (name, at, value) in headers.entries() {
        let (Ok(name), Some(value_text)) = (scalar::header_name(name), value.text()) else { continue };
        if fields.iter().any(|(other, _)| **other == *name.as_str()) {
            let wrong = Wrong::new(format!("the header `{name}` is there twice"), "header names ignore case; keep one");
            builder.sink.error(at, &value.path, Code::Duplicate, wrong);
        }
        fields.push((name.as_str().into(), value_text.into()));
    }
    RouteMatch {
        models: patterns(&view.key("models")),
        paths: view.key("paths").items().filter_map(|item| item.read(scalar::url_path)).map(Arc::from).collect(),
        headers: fields,
    }
}

/// Names become indices here, so nobody has to look them up again. They are added to `used`, which holds what the route
/// names already: a backend belongs to one group, or what was measured of two could not be told apart.
pub(super) fn members(
    view: &View<'_>,
    names: &[String],
    used: &mut Vec<(usize, u32)>,
    builder: &mut Builder<'_, '_, '_>,
) -> Vec<usize> {
    builder.require_items(view, "backend");
    let (before, mut members) = (used.len(), Vec::new());
    for item in view.items() {
        let place = if item.text().is_some() { item.clone() } else { item.key("name") };
        let Some(name) = place.text() else { continue };
        let weight = item.key("weight").read(|text| scalar::integer(text, 0, u64::from(u32::MAX)));
        let weight = weight.and_then(|weight| u32::try_from(weight).ok()).unwrap_or(1);
        let Some(index) = names.iter().position(|known| known == name) else {
            undefined(&place, name, ("backend", names), builder);
            continue;
        };
        match used.iter().position(|(other, _)| *other == index) {
            None => {
                used.push((index, weight));
                members.push(index);
            }
            Some(earlier) if earlier < before => {
                let message = format!("the backend `{name}` is in another group of this route");
                builder.error(&place, Code::Duplicate, message, "name each backend in one group only");
            }
            Some(_) => {
                let message = format!("the backend `{name}` is there twice");
                builder.error(&place, Code::Duplicate, message, "name each backend once; use `weight` to prefer it");
            }
        }
    }
    let own = used.get(before..).unwrap_or_default();
    if !own.is_empty() && own.iter().all(|(_, weight)| *weight == 0) {
        builder.error(view, Code::Conflict, "the weights sum to 0, so no backend would be chosen", "raise one weight");
    }
    members
}

/// A name of this kind that nothing defines.
pub(super) fn undefined(
    view: &View<'_>,
    name: &str,
    (kind, names): (&str, &[String]),
    builder: &mut Builder<'_, '_, '_>,
) {
    let known: Vec<_> = names.iter().map(|name| format!("`{name}`")).collect();
    let hint = if known.is_empty() {
        format!("define `{name}` under `{kind}s`")
    } else {
        format!("{kind}s that are defined: {}", known.join(", "))
    };
    let mut wrong = Wrong::new(format!("no {kind} is called `{name}`"), hint);
    wrong.suggestion = nearest(name, names.iter().map(String::as_str)).map(str::to_owned);
    builder.sink.error(view.at, &view.path, Code::UndefinedName, wrong);
}

fn objective(slo: &View<'_>, latency: Latency, builder: &mut Builder<'_, '_, '_>) -> Option<Objective> {
    let view = slo.key(latency.as_str());
    if view.is_set() && !view.is_unknown() && view.entries().next().is_none() && view.text().is_none() {
        builder.error(&view, Code::Missing, "this objective says nothing", "such as `{ p95: 300ms }`");
    }
    if let Some((_, at, second)) = view.entries().nth(1) {
        let wrong = Wrong::new(
            format!("`{}` has more than one objective", latency.as_str()),
            "a route promises one quantile per latency; make a second route for another",
        );
        builder.sink.error(at, &second.path, Code::Duplicate, wrong);
    }
    let (quantile, _, threshold) = view.entries().next()?;
    let quantile = scalar::quantile(quantile).ok()?;
    Some(Objective { latency, quantile, threshold: threshold.read(scalar::duration)? })
}

fn client_slo(view: &View<'_>, builder: &mut Builder<'_, '_, '_>) -> ClientSlo {
    let floor = view.key("client_slo_floor");
    if view.key("client_slo").text() == Some("ignore") {
        if floor.is_set() {
            let message = "`client_slo_floor` has no meaning while client objectives are ignored";
            builder.error(&floor, Code::Conflict, message, "remove it, or write `client_slo: tighten`");
        }
        return ClientSlo::Ignore;
    }
    let read = |name: &str, default| floor.key(name).read(scalar::duration).unwrap_or(default);
    ClientSlo::Tighten {
        ttft_floor: read("ttft", Duration::from_millis(100)),
        itl_floor: read("itl", Duration::from_millis(10)),
    }
}
