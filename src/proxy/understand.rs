//! What a request asks, of whom: its whole body, its reading, its route.

use std::sync::Arc;

use bytes::Bytes;
use pingora_core::protocols::http::server::Session;
use pingora_http::RequestHeader;

use super::Proxy;
use super::body::{self, BodyError, Held};
use super::exchange::Exchange;
use super::forwarded::Forwarded;
use super::inference::Turned;
use super::inspect;
use super::refuse::Refusal;
use crate::config::settings::Settings;
use crate::fleet::{Needs, RouteMatchResult};
use crate::measure::group::GroupIndex;
use crate::route::prefix::{BLOCK_BYTES, Prefix};
use crate::route::snapshot::{BackendIndex, RequestFacts};
use crate::wire::Api;
use crate::wire::request::{RequestReading, splice};

/// A request that is understood.
pub(super) struct Understood {
    pub(super) api: Api,
    pub(super) reading: RequestReading,
    pub(super) model: String,
    pub(super) body: Bytes,
    _held: Held,
    pub(super) route: usize,
    /// Backends of the route that cannot serve it, because they lack what it continues.
    pub(super) excluded: Vec<BackendIndex>,
    /// The group it was assigned to.
    pub(super) group: Option<GroupIndex>,
    pub(super) facts: RequestFacts,
    blocks: Blocks,
    /// The body as it goes to a backend that knows the model by the client's name for it.
    pub(super) outgoing: Bytes,
    pub(super) asked_for_usage: bool,
    pub(super) client: RequestHeader,
    pub(super) forwarded: Forwarded,
}

impl Understood {
    /// The blocks of its prompt.
    pub(super) fn prefix(&self) -> Prefix<'_> {
        Prefix { blocks: &self.blocks.names, block_tokens: self.blocks.tokens }
    }

    pub(super) fn needs(&self) -> Needs {
        let features = self.reading.features;
        Needs { tools: features.tools, vision: features.vision, structured_output: features.structured_output }
    }
}

/// The blocks of a prompt, each named by a hash.
#[derive(Debug, Default)]
struct Blocks {
    names: Vec<u64>,
    /// Estimated tokens of one.
    tokens: f64,
}

/// Reads the body and finds out what is asked, of which route.
pub(super) async fn understand(
    proxy: &Arc<Proxy>,
    session: &mut Session,
    exchange: &mut Exchange,
    api: Api,
    path_model: Option<String>,
) -> Result<Understood, Turned> {
    let settings = Arc::clone(exchange.fleet.settings());
    exchange.note(|record| record.api = Some(api));
    let waits = inspect::expects_continue(&session.req_header().headers) && !session.is_http2();
    if waits && !body::declared_too_large(session, &settings.limits) {
        session.write_continue_response().await.map_err(|_| Turned::Gone)?;
    }
    let whole =
        body::read(session, &settings.limits, &proxy.ladder.memory, &*proxy.clock).await.map_err(
            |error| match error {
                BodyError::Refused(refusal) => refusal.into(),
                BodyError::ClientGone => Turned::Gone,
            },
        )?;
    exchange.request_complete(proxy.clock.now());
    exchange.note(|record| record.bytes_in = whole.bytes.len() as u64);

    let reading = RequestReading::read(api, &whole.bytes)
        .map_err(|error| Refusal::bad_request(400, "invalid_body", error.to_string()).about(error.param()))?;
    exchange.note(|record| (record.stream, record.choices) = (reading.stream, reading.choices));
    let Some(model) = path_model.or_else(|| reading.model.clone()) else {
        let message = "the request names no model";
        return Err(Refusal::bad_request(400, "model_missing", message).about(Some("model")).into());
    };
    let client = session.req_header().clone();
    let route = find_route(exchange, &client, &model)?;
    let excluded = not_continuing(exchange, route, &reading)?;
    let facts = facts(exchange, &settings, route, &client, &reading, &model);
    exchange.reserve((api, route), &reading, facts.input_tokens, proxy.clock.now())?;
    let group = exchange.assign(route, &excluded);
    let blocks = name_blocks(proxy, exchange, route, (&reading, &whole.bytes, &model));
    let usage = if reading.stream && api.has_choices() { reading.ask_for_usage() } else { None };
    let outgoing = match &usage {
        Some(edit) => Bytes::from(splice(&whole.bytes, std::slice::from_ref(edit))),
        None => whole.bytes.clone(),
    };
    exchange.note(|record| {
        (record.course.max_tokens, record.course.objectives) = (facts.max_tokens, facts.objectives);
    });
    Ok(Understood {
        api,
        model,
        route,
        excluded,
        group,
        facts,
        blocks,
        outgoing,
        asked_for_usage: usage.is_some(),
        forwarded: Forwarded::of(session, &settings, &client),
        client,
        reading,
        body: whole.bytes,
        _held: whole.held,
    })
}

fn find_route(exchange: &mut Exchange, client: &RequestHeader, model: &str) -> Result<usize, Refusal> {
    let fleet = Arc::clone(&exchange.fleet);
    let known = fleet.serves_model(model);
    exchange.note(|record| record.model = known);
    let field = |name: &str| client.headers.get(name).and_then(|value| value.to_str().ok());
    let route = match fleet.match_route(client.uri.path(), field, Some(model), exchange.caller.as_deref()) {
        RouteMatchResult::Found(route) => route,
        RouteMatchResult::NoSuchModel => return Err(Refusal::unknown_model(model)),
        RouteMatchResult::NoRoute => return Err(Refusal::not_found(true)),
        RouteMatchResult::NotAllowed => return Err(Refusal::forbidden()),
    };
    exchange.route = Some(route);
    let name = fleet.settings().routes.get(route).map(|route| Arc::clone(&route.name));
    exchange.note(|record| record.route = name);
    Ok(route)
}

/// A stored response is known to the backend that made it alone.
fn not_continuing(exchange: &Exchange, route: usize, reading: &RequestReading) -> Result<Vec<BackendIndex>, Refusal> {
    let Some(previous) = reading.previous_response else { return Ok(Vec::new()) };
    exchange.fleet.not_holding(route, previous).ok_or_else(|| {
        let message = "it is not known here which backend made this response, and only that one can continue it; \
                       send the whole conversation instead";
        Refusal::bad_request(400, "previous_response_unknown", message).about(Some("previous_response_id"))
    })
}

fn facts(
    exchange: &Exchange,
    settings: &Settings,
    route: usize,
    client: &RequestHeader,
    reading: &RequestReading,
    model: &str,
) -> RequestFacts {
    let objectives = settings
        .routes
        .get(route)
        .map(|route| inspect::effective_objectives(route, &client.headers))
        .unwrap_or_default();
    RequestFacts {
        input_tokens: exchange.fleet.estimate_tokens(model, reading.prompt_bytes),
        max_tokens: reading.max_tokens,
        stream: reading.stream,
        objectives,
        ..RequestFacts::default()
    }
}

/// Names the blocks of the prompt, once per request, and notes how long that took. A prompt without a whole block, and a
/// route that does not look at prefixes, cost nothing.
fn name_blocks(
    proxy: &Proxy,
    exchange: &mut Exchange,
    route: usize,
    (reading, body, model): (&RequestReading, &[u8], &str),
) -> Blocks {
    let fleet = Arc::clone(&exchange.fleet);
    let wanted = fleet.routes().get(route).is_some_and(|route| route.follows_prefixes());
    if !wanted || reading.prompt_bytes < BLOCK_BYTES as u64 {
        return Blocks::default();
    }
    let began = proxy.clock.now();
    let (mut hasher, mut names) = (fleet.block_hasher(model), Vec::new());
    reading.prompt_text.feed(body, |part| hasher.write(part, &mut names));
    let took = proxy.clock.now().saturating_duration_since(began);
    exchange.note(|record| record.phases.hash = took);
    #[allow(clippy::cast_precision_loss, reason = "a few hundred tokens")]
    let tokens = fleet.estimate_tokens(model, BLOCK_BYTES as u64) as f64;
    Blocks { names, tokens }
}
