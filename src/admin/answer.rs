//! One request, one answer.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{
    ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_NONE_MATCH, REFERRER_POLICY,
    RETRY_AFTER, VARY, WWW_AUTHENTICATE,
};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use serde::Serialize;
use serde_json::json;

use super::assets::{Asset, POLICY};
use super::body::AnswerBody;
use super::decision_view::{DecisionView, ExplanationView};
use super::endpoint::{Endpoint, LISTED, parameter, percent_decoded};
use super::events::Audience;
use super::guard::{self, Refusal};
use super::moment::Moment;
use super::split_view::{self, SplitView};
use super::view::{self, BackendView, Probe, Requests, ResourceView, WantedLevel};
use super::{ReloadOutcome, ResourceUse, Services, version};
use crate::config;
use crate::config::settings::Level;
use crate::fleet::{Fleet, NoGroup, Request as Question};
use crate::route::snapshot::RequestFacts;
use crate::telemetry::{logs, openmetrics};

/// Largest request body.
const BODY_BYTES: usize = 4 << 10;
/// For a request body to arrive.
const BODY_DEADLINE: Duration = Duration::from_secs(5);
/// How many entries of a list are shown unless `limit` says otherwise.
const LIST: usize = 100;
const PROMETHEUS_TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
const PLAIN: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";

type Answer = Response<AnswerBody>;

/// Answers one request that came in on the address `local`.
pub(super) async fn answer(
    services: &Arc<Services>,
    audience: &Arc<Audience>,
    local: SocketAddr,
    request: Request<Incoming>,
) -> Answer {
    let Some(endpoint) = Endpoint::of(request.uri().path()) else {
        return error(StatusCode::NOT_FOUND, "not_found", "there is nothing here; `/api` lists what there is");
    };
    let fleet = (services.fleet)();
    let admin = &fleet.settings().admin;
    if let Err(refusal) = guard::check(admin, local, &endpoint, request.method(), request.headers()) {
        return refused(refusal);
    }
    if !endpoint.allows(request.method()) {
        let mut answer = error(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "see the Allow header");
        answer.headers_mut().insert(ALLOW, HeaderValue::from_static(endpoint.allow()));
        return answer;
    }
    match endpoint {
        Endpoint::Reload => reload(services).await,
        Endpoint::Drain => drain(services),
        Endpoint::DrainBackend(name) => drain_backend(services, &name, true),
        Endpoint::UndrainBackend(name) => drain_backend(services, &name, false),
        Endpoint::RollBackGroup(route, group) => change_group(services, (&route, &group), true),
        Endpoint::ResumeGroup(route, group) => change_group(services, (&route, &group), false),
        Endpoint::LogLevel => log_level(request).await,
        Endpoint::Events => events(services, audience),
        Endpoint::Asset(asset) => file(asset, request.headers()),
        Endpoint::Metrics => metrics(services, request.headers()),
        shown => show(services, &shown, request.uri().query()),
    }
}

/// The metrics page, in the format that the scraper prefers.
fn metrics(services: &Services, headers: &HeaderMap) -> Answer {
    let figures = view::live_figures(services, &(services.fleet)());
    let wishes: Vec<_> = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect();
    let metrics = services.telemetry.metrics();
    let mut answer = if openmetrics::is_preferred(&wishes.join(",")) {
        with_body(StatusCode::OK, openmetrics::CONTENT_TYPE, metrics.render_open(&figures))
    } else {
        with_body(StatusCode::OK, PROMETHEUS_TEXT, metrics.render(&figures))
    };
    answer.headers_mut().insert(VARY, HeaderValue::from_static("accept"));
    answer
}

/// What is only looked at.
fn show(services: &Services, endpoint: &Endpoint, query: Option<&str>) -> Answer {
    let fleet = (services.fleet)();
    let now = services.clock.now();
    let limit = parameter(query, "limit").and_then(|limit| limit.parse().ok()).unwrap_or(LIST);
    match endpoint {
        Endpoint::Healthz => with_body(StatusCode::OK, PLAIN, "ok\n"),
        Endpoint::Readyz => ready(services, parameter(query, "verbose").is_some()),
        Endpoint::Backends => shown(&json!({ "backends": Moment::new(services, &fleet, now).backends() })),
        Endpoint::Routes => shown(&json!({ "routes": Moment::new(services, &fleet, now).routes() })),
        Endpoint::Decisions => {
            let (route, id) = (parameter(query, "route"), parameter(query, "request_id"));
            let newest = fleet.decisions(limit, |one| {
                let of = |wanted: Option<&str>, is: Option<&str>| wanted.is_none() || wanted == is;
                of(route, Some(&one.route)) && of(id, one.request_id.as_deref())
            });
            let exchange = id.and_then(|id| services.telemetry.recent().find(id));
            let view = |one: &Arc<_>| DecisionView::new(one, services, exchange.as_deref());
            let views: Vec<_> = newest.iter().map(view).collect();
            shown(&json!({ "decisions": views }))
        }
        Endpoint::Explain => explain(&fleet, query, now),
        Endpoint::Requests => requests(services, parameter(query, "id"), limit),
        Endpoint::Config => shown(&config::dump(fleet.settings())),
        Endpoint::Version => shown(&version::version(services)),
        _ => index(),
    }
}

fn ready(services: &Services, verbose: bool) -> Answer {
    let probe = probe(services);
    let status = if probe.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    if !verbose {
        return with_body(status, PLAIN, if probe.ready { "ready\n" } else { "not ready\n" });
    }
    as_json(status, &probe)
}

/// Whether requests can be served, and why not.
pub(super) fn probe(services: &Services) -> Probe {
    let readiness = (services.fleet)().readiness();
    let draining = services.draining.load(Ordering::Relaxed);
    let mut reasons = readiness.reasons;
    if draining {
        reasons.insert(0, "headway is draining".to_owned());
    }
    let view = |ResourceUse { resource, used, most, high }| ResourceView { resource, used, most, high };
    let resources = (services.resources)().into_iter().map(view).collect();
    Probe { ready: readiness.ready && !draining, draining, reasons, resources }
}

/// What happens, as it happens, for one more viewer.
fn events(services: &Arc<Services>, audience: &Arc<Audience>) -> Answer {
    let Some(viewer) = audience.admit(services) else {
        let message = "as many look on as may; close a dashboard, or try again";
        let mut answer = error(StatusCode::SERVICE_UNAVAILABLE, "too_many_viewers", message);
        answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("5"));
        return answer;
    };
    let mut answer = with_body(StatusCode::OK, "text/event-stream", Bytes::new());
    *answer.body_mut() = AnswerBody::Events(Box::new(viewer));
    answer
}

/// A file of the dashboard, unless the browser has it already.
fn file(asset: &Asset, asked: &HeaderMap) -> Answer {
    let tag = Asset::tag();
    let has_it = asked.get(IF_NONE_MATCH).is_some_and(|known| known.as_bytes() == tag.as_bytes());
    let mut answer = if has_it {
        with_body(StatusCode::NOT_MODIFIED, asset.kind, "")
    } else {
        with_body(StatusCode::OK, asset.kind, asset.text)
    };
    let headers = answer.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    if let Ok(tag) = HeaderValue::from_str(tag) {
        headers.insert(ETAG, tag);
    }
    answer
}

/// Where a request of such a size would go now.
fn explain(fleet: &Fleet, query: Option<&str>, now: Instant) -> Answer {
    let number = |name: &str| match parameter(query, name) {
        None => Ok(None),
        Some(text) => text.parse::<u64>().map(Some).map_err(|_| name.to_owned()),
    };
    let name =
        parameter(query, "route").map_or(Ok(String::new()), |name| percent_decoded(name).ok_or("route".to_owned()));
    let read = name.and_then(|name| Ok((name, number("input_tokens")?, number("max_tokens")?)));
    let (name, input_tokens, max_tokens) = match read {
        Ok(read) => read,
        Err(name) => return error(StatusCode::BAD_REQUEST, "invalid_parameter", &format!("`{name}` cannot be read")),
    };
    let Some(route) = fleet.routes().iter().find(|route| **route.name() == *name) else {
        return error(StatusCode::NOT_FOUND, "no_such_route", "no route of that name; see /api/v1/routes");
    };
    let usual = route.usual_request();
    let stream = parameter(query, "stream") != Some("false");
    let input_tokens = input_tokens.unwrap_or(usual.input_tokens);
    let facts = RequestFacts { input_tokens, max_tokens, stream, ..usual };
    let Ok(group) = split_view::asked(route, parameter(query, "group")) else {
        return error(StatusCode::NOT_FOUND, "no_such_group", "no group of that name; see /api/v1/routes");
    };
    let explanation = fleet.explain(&name, &Question { facts, group, ..Question::default() }, now);
    explanation.map_or_else(index, |explanation| shown(&ExplanationView::new(&explanation, input_tokens)))
}

fn requests(services: &Services, id: Option<&str>, limit: usize) -> Answer {
    let recent = services.telemetry.recent();
    let records = match id {
        Some(id) => recent.find(id).into_iter().collect(),
        None => recent.newest(limit),
    };
    shown(&Requests { requests: records.iter().filter_map(|record| view::request(record)).collect() })
}

async fn reload(services: &Services) -> Answer {
    let reload = Arc::clone(&services.reload);
    match tokio::task::spawn_blocking(move || reload()).await {
        Ok(ReloadOutcome::Applied { notes }) => shown(&json!({ "reloaded": true, "notes": notes })),
        Ok(ReloadOutcome::Refused { errors }) => {
            let message = "the configuration is not valid; the old one goes on";
            let body = json!({ "error": { "code": "invalid_configuration", "message": message, "details": errors } });
            as_json(StatusCode::UNPROCESSABLE_ENTITY, &body)
        }
        Err(_panicked) => error(StatusCode::INTERNAL_SERVER_ERROR, "internal_error", "the reload failed"),
    }
}

fn drain(services: &Services) -> Answer {
    tracing::info!("drain asked for on the admin port");
    (services.drain)();
    as_json(StatusCode::ACCEPTED, &json!({ "draining": true }))
}

fn drain_backend(services: &Services, name: &str, drain: bool) -> Answer {
    let fleet = (services.fleet)();
    let Some(backend) = fleet.backends().iter().find(|backend| &**backend.name() == name) else {
        return error(StatusCode::NOT_FOUND, "no_such_backend", "no backend of that name; see /api/v1/backends");
    };
    tracing::info!(backend = %backend.name(), drain, "backend drain changed on the admin port");
    if drain {
        backend.drain();
    } else {
        backend.undrain();
    }
    shown(&BackendView::new(backend, &Moment::new(services, &fleet, services.clock.now())))
}

fn change_group(services: &Services, (route, group): (&str, &str), rolled_back: bool) -> Answer {
    let fleet = (services.fleet)();
    let changed = if rolled_back {
        fleet.roll_back(route, group, services.clock.wall())
    } else {
        fleet.resume_group(route, group)
    };
    let code = match changed {
        Ok(()) => {
            let of = fleet.routes().iter().find(|one| &**one.name() == route);
            return shown(&of.and_then(|route| SplitView::new(route, &fleet, services.clock.now())));
        }
        Err(NoGroup::Route) => "no_such_route",
        Err(NoGroup::Group) => "no_such_group",
    };
    error(StatusCode::NOT_FOUND, code, "no group of that name on a route of that name; see /api/v1/routes")
}

async fn log_level(request: Request<Incoming>) -> Answer {
    let body = Limited::new(request.into_body(), BODY_BYTES).collect();
    let body = tokio::time::timeout(BODY_DEADLINE, body).await;
    let wanted = body.ok().and_then(Result::ok).and_then(|body| {
        let wanted: WantedLevel = serde_json::from_slice(&body.to_bytes()).ok()?;
        Level::named(&wanted.level)
    });
    let Some(level) = wanted else {
        let message = "send {\"level\": \"info\"}, with one of error, warn, info, debug, trace";
        return error(StatusCode::BAD_REQUEST, "invalid_level", message);
    };
    logs::set_level(level);
    tracing::info!(level = level.as_str(), "log level changed on the admin port");
    shown(&json!({ "level": level.as_str() }))
}

fn index() -> Answer {
    let row = |&(method, path, what): &(&str, &str, &str)| {
        let name = format!("{method} {path}");
        let name = if method == "GET" { format!("<a href=\"{path}\">{name}</a>") } else { name };
        format!("<tr><td><code>{name}</code></td><td>{what}</td></tr>\n")
    };
    let rows: String = LISTED.iter().map(row).collect();
    let page = format!(
        "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><title>headway</title>\n\
         <h1>headway {}</h1>\n<table>\n{rows}</table>\n</html>\n",
        env!("CARGO_PKG_VERSION")
    );
    let mut answer = with_body(StatusCode::OK, "text/html; charset=utf-8", page);
    answer
        .headers_mut()
        .insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'"));
    answer
}

fn refused(refusal: Refusal) -> Answer {
    let mut answer = error(refusal.status, refusal.code, refusal.message);
    if refusal.status == StatusCode::UNAUTHORIZED {
        answer.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    answer
}

fn error(status: StatusCode, code: &str, message: &str) -> Answer {
    as_json(status, &json!({ "error": { "code": code, "message": message } }))
}

fn shown(value: &impl Serialize) -> Answer {
    as_json(StatusCode::OK, value)
}

fn as_json(status: StatusCode, value: &impl Serialize) -> Answer {
    let mut text = serde_json::to_vec(value).unwrap_or_default();
    text.push(b'\n');
    with_body(status, JSON, text)
}

fn with_body(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(AnswerBody::from(body.into()));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    answer
}
