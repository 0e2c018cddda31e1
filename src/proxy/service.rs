//! pingora's hooks: which request takes which path, and what pingora itself must not do.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use http::Version;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_core::{Error, ErrorType, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::{FailToProxy, ProxyHttp, Session};

use super::Proxy;
use super::caller::identify;
use super::client::{linger, read_small_body};
use super::cors::Reader;
use super::exchange::Exchange;
use super::inference::{self, Downstream};
use super::inspect::{self, Plan};
use super::panics::Caught;
use super::refuse::Refusal;
use super::stamp::Stamp;
use super::stock::Stock;
use super::{cors, models, stream};
use crate::measure::outcome::Outcome;

/// How long an idle client connection is kept, in seconds.
pub(super) const KEEP_ALIVE: u64 = 75;

/// Says, as an error, that the connection must be closed and that everything else is done.
const CLOSE: ErrorType = ErrorType::new("headway closes this connection");

/// headway as pingora's application.
pub(super) struct Service(pub(super) Arc<Proxy>);

/// What pingora carries from hook to hook; empty for requests that our own loop serves.
#[derive(Default)]
pub(super) struct Context {
    stock: Option<Box<Stock>>,
}

impl Drop for Context {
    fn drop(&mut self) {
        // pingora was stopped before it came to the end.
        if let Some(stock) = self.stock.take() {
            stock.abandoned();
        }
    }
}

/// What is to become of a request after our own code has seen it.
enum Next {
    /// The response is sent, or given up.
    Over(Downstream),
    /// pingora's stock proxy goes on.
    Stock(Box<Stock>),
}

impl Service {
    /// What is put on an answer of which the exchange was lost.
    fn stamp(&self, head: &RequestHeader, request_id: &Arc<str>) -> Stamp {
        let (proxy, fleet) = (&self.0, self.0.fleet.load());
        let caller = identify(&fleet, &head.headers).ok().flatten();
        let allowance = caller.map(|caller| caller.allowance(proxy.clock.now())).unwrap_or_default();
        let reader = Reader::of(fleet.settings().access.cors.as_ref(), &head.headers);
        Stamp { allowance, reader, asks_for_keys: fleet.asks_for_keys(), ..Stamp::of(request_id) }
    }

    /// Sets `begun` once there is an exchange that will leave a record, whatever becomes of it.
    async fn handle(&self, session: &mut Session, request_id: Arc<str>, begun: &AtomicBool) -> Next {
        let proxy = &self.0;
        let now = proxy.clock.now();
        // An older client that did not ask for it reads until the connection ends.
        if proxy.lifecycle.is_closing() {
            session.set_keepalive(None);
        } else if session.req_header().version != Version::HTTP_10 {
            session.set_keepalive(proxy.keeps_alive().then_some(KEEP_ALIVE));
        }
        let mut exchange = Exchange::new(proxy, request_id, now);
        begun.store(true, Ordering::Relaxed);
        let down = &mut session.downstream_session;
        exchange.received(down);
        let fleet = Arc::clone(&exchange.fleet);
        let settings = fleet.settings();
        let plan = inspect::one_framing(down)
            .and_then(|()| inspect::plan(down.req_header(), &settings.limits, settings.access.cors.as_ref()))
            .and_then(|plan| let_in(&mut exchange, down.req_header(), plan, now));
        match plan {
            Ok(Plan::Inference { api, model }) => Next::Over(inference::serve(proxy, down, exchange, api, model).await),
            Ok(Plan::Preflight) => Next::Over(cors::serve(down, exchange).await),
            Ok(Plan::Models) => Next::Over(models::serve(down, exchange).await),
            Ok(Plan::Other) => match Stock::dispatch(&mut exchange, down, now) {
                Ok(picked) => {
                    let stock = picked.with(exchange, proxy);
                    stock.bound(down);
                    Next::Stock(Box::new(stock))
                }
                Err(refusal) => Next::Over(refuse(down, exchange, &refusal).await),
            },
            Err(refusal) => Next::Over(refuse(down, exchange, &refusal).await),
        }
    }
}

/// Who asks, and whether that caller may ask now. To look at the list of models costs nothing, and a browser's question
/// comes without a key.
fn let_in(exchange: &mut Exchange, head: &RequestHeader, plan: Plan, now: Instant) -> Result<Plan, Refusal> {
    if plan == Plan::Preflight {
        return Ok(plan);
    }
    exchange.identify(&head.headers)?;
    if plan != Plan::Models {
        exchange.admit(now)?;
    }
    Ok(plan)
}

async fn refuse(
    session: &mut pingora_core::protocols::http::server::Session,
    mut exchange: Exchange,
    refusal: &Refusal,
) -> Downstream {
    exchange.note(|record| record.status = refusal.status);
    // A body that was not read would be taken for the next request. Whoever is to ask again soon keeps the connection.
    let no_body = match refusal.outcome {
        Outcome::RateLimited => read_small_body(session).await,
        _ => session.is_body_empty(),
    };
    let sent = inference::respond(session, &exchange.stamp(), refusal, no_body).await;
    exchange.note(|record| record.bytes_out = sent.as_ref().copied().unwrap_or(0));
    exchange.finish(refusal.outcome);
    if sent.is_ok() && !no_body {
        linger(session).await;
    }
    if sent.is_ok() && no_body { Downstream::Reusable } else { Downstream::Close }
}

#[async_trait]
impl ProxyHttp for Service {
    type CTX = Context;

    fn new_ctx(&self) -> Context {
        Context::default()
    }

    async fn early_request_filter(&self, session: &mut Session, _: &mut Context) -> Result<()> {
        if let Some(stream) = session.downstream_session.stream() {
            stream::head_complete(stream);
        }
        Ok(())
    }

    async fn request_filter(&self, session: &mut Session, ctx: &mut Context) -> Result<bool> {
        let request_id = self.0.ids.of(&session.req_header().headers);
        let begun = AtomicBool::new(false);
        match Caught(Box::pin(self.handle(session, Arc::clone(&request_id), &begun))).await {
            Ok(Next::Over(Downstream::Reusable)) => Ok(true),
            Ok(Next::Over(Downstream::Close)) => Err(Error::new_in(CLOSE)),
            Ok(Next::Stock(stock)) => {
                ctx.stock = Some(stock);
                Ok(false)
            }
            Err(_) => {
                self.0.telemetry.metrics().panicked();
                let refusal = Refusal::internal();
                if !begun.load(Ordering::Relaxed) {
                    let mut exchange = Exchange::new(&self.0, Arc::clone(&request_id), self.0.clock.now());
                    exchange.note(|record| record.status = refusal.status);
                    exchange.finish(refusal.outcome);
                }
                if session.response_written().is_none() {
                    let stamp = self.stamp(session.req_header(), &request_id);
                    let _ = inference::respond(session, &stamp, &refusal, false).await;
                }
                Err(Error::new_in(CLOSE))
            }
        }
    }

    async fn upstream_peer(&self, _: &mut Session, ctx: &mut Context) -> Result<Box<HttpPeer>> {
        let stock = ctx.stock.as_ref().ok_or_else(|| Error::new_in(CLOSE))?;
        Ok(Box::new(stock.peer(self.0.clock.now())))
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        upstream: &mut RequestHeader,
        ctx: &mut Context,
    ) -> Result<()> {
        match &ctx.stock {
            Some(stock) => stock.upstream_head(session, upstream),
            None => Err(Error::new_in(CLOSE)),
        }
    }

    async fn request_body_filter(
        &self,
        _: &mut Session,
        body: &mut Option<Bytes>,
        end_of_stream: bool,
        ctx: &mut Context,
    ) -> Result<()> {
        if let Some(stock) = &mut ctx.stock {
            stock.sends(body.as_ref().map_or(0, Bytes::len), self.0.clock.now())?;
        }
        // An h2 request that ends in an empty DATA frame would reach an h1 backend with two terminators, the second of
        // which spoils the connection's next request: https://github.com/cloudflare/pingora/issues/935.
        if end_of_stream && body.as_ref().is_some_and(Bytes::is_empty) {
            *body = None;
        }
        Ok(())
    }

    async fn response_filter(&self, _: &mut Session, head: &mut ResponseHeader, ctx: &mut Context) -> Result<()> {
        match &mut ctx.stock {
            Some(stock) => stock.downstream_head(head, self.0.clock.now()),
            None => Ok(()),
        }
    }

    fn response_body_filter(
        &self,
        _: &mut Session,
        body: &mut Option<Bytes>,
        _: bool,
        ctx: &mut Context,
    ) -> Result<Option<Duration>> {
        if let Some(stock) = &mut ctx.stock {
            stock.receives(body.as_ref().map_or(0, Bytes::len), self.0.clock.now())?;
        }
        Ok(None)
    }

    async fn fail_to_proxy(&self, session: &mut Session, error: &Error, ctx: &mut Context) -> FailToProxy {
        let untold = error.etype() != &CLOSE && session.response_written().is_none();
        let Some(stock) = ctx.stock.as_mut().filter(|_| untold) else {
            return FailToProxy { error_code: 0, can_reuse_downstream: false };
        };
        let refusal = stock.failed(error);
        let sent = inference::respond(session, &stock.stamp(), &refusal, false).await;
        if sent.is_ok() && refusal.status == 413 {
            linger(session).await;
        }
        FailToProxy { error_code: refusal.status, can_reuse_downstream: false }
    }

    fn suppress_error_log(&self, _: &Session, _: &Context, _: &Error) -> bool {
        // The access log says how every exchange ended, in one vocabulary; pingora's own lines would name paths.
        true
    }

    async fn logging(&self, session: &mut Session, error: Option<&Error>, ctx: &mut Context) {
        if let Some(stock) = ctx.stock.take() {
            stock.finish(session, error, self.0.clock.now());
        }
        if let Some(stream) = session.downstream_session.stream() {
            stream::await_next_head(stream);
        }
    }
}
