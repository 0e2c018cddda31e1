//! `GET /v1/models`: the union of what the caller's routes serve.

use std::sync::Arc;

use bytes::Bytes;
use http::Method;
use pingora_core::protocols::http::server::Session;
use pingora_http::ResponseHeader;

use super::client::linger;
use super::exchange::Exchange;
use super::inference::{Downstream, REFUSAL_PATIENCE};
use super::stamp::Stamp;
use crate::measure::outcome::Outcome;

/// Answers with OpenAI's list of models.
pub(super) async fn serve(session: &mut Session, mut exchange: Exchange) -> Downstream {
    let headers = session.req_header().headers.clone();
    let field = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let models = exchange.fleet.models(field, exchange.caller.as_deref());
    let body = Bytes::from(list(&models));
    let length = body.len() as u64;
    exchange.note(|record| (record.status, record.bytes_out) = (200, length));
    // A body that was not read would be taken for the next request.
    let no_body = session.is_body_empty();
    if !no_body {
        session.set_keepalive(None);
    }
    let sent = write(session, &exchange.stamp(), body).await;
    exchange.finish(if sent.is_ok() { Outcome::Complete } else { Outcome::ClientCancelled });
    if sent.is_ok() && !no_body {
        linger(session).await;
    }
    if sent.is_ok() && no_body { Downstream::Reusable } else { Downstream::Close }
}

async fn write(session: &mut Session, stamp: &Stamp, body: Bytes) -> pingora_core::Result<()> {
    let mut head = ResponseHeader::build(200, Some(4))?;
    head.insert_header("content-type", "application/json")?;
    head.insert_header("content-length", body.len().to_string())?;
    stamp.put(&mut head)?;
    session.set_write_timeout(Some(REFUSAL_PATIENCE));
    session.write_response_header(Box::new(head)).await?;
    if session.req_header().method != Method::HEAD {
        session.write_response_body(body, true).await?;
    }
    session.finish_body().await
}

fn list(models: &[Arc<str>]) -> Vec<u8> {
    let data: Vec<_> = models
        .iter()
        .map(|id| serde_json::json!({ "id": &**id, "object": "model", "created": 0, "owned_by": "headway" }))
        .collect();
    serde_json::json!({ "object": "list", "data": data }).to_string().into_bytes()
}
