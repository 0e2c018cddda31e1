//! What browsers need to be told before a page of another origin may call headway and read its answers,
//! <https://fetch.spec.whatwg.org/#http-cors-protocol>.
//!
//! Calls carry their key in a field, never in a cookie, so credentials in the standard's sense are not allowed.

use bytes::Bytes;
use http::header::{HeaderMap, HeaderValue};
use http::{Method, StatusCode};
use pingora_core::protocols::http::server::Session;
use pingora_http::{RequestHeader, ResponseHeader};

use super::exchange::Exchange;
use super::inference::{Downstream, REFUSAL_PATIENCE};
use super::stamp::{Stamp, remove};
use crate::config::access::Cors;
use crate::measure::outcome::Outcome;

/// What a page may read of an answer's head.
const EXPOSED: &str = "x-request-id, retry-after, retry-after-ms, x-should-retry, x-ratelimit-limit-requests, \
                       x-ratelimit-remaining-requests, x-ratelimit-reset-requests, x-ratelimit-limit-tokens, \
                       x-ratelimit-remaining-tokens, x-ratelimit-reset-tokens, x-headway-backend, \
                       x-headway-decision, server-timing";

const METHODS: &str = "GET, POST, DELETE";

/// How long a browser may remember the answer to a preflight, in seconds: no browser does for longer.
const MAX_AGE: &str = "7200";

/// Longest list of fields that a page may announce.
const LONGEST_LIST: usize = 2048;

/// The page that asks, if one does.
#[derive(Debug, Clone, Default)]
pub(super) struct Reader {
    /// Whether the configuration says anything about pages: then the backend's own words about them do not count.
    decided: bool,
    /// What may read the answer.
    allowed: Option<HeaderValue>,
}

impl Reader {
    /// Who asks, as the request says, and whether it may.
    pub(super) fn of(cors: Option<&Cors>, headers: &HeaderMap) -> Self {
        let Some(cors) = cors else { return Self::default() };
        let origin = headers.get("origin").filter(|_| headers.get_all("origin").iter().count() == 1);
        let allowed = origin.filter(|origin| origin.to_str().is_ok_and(|origin| cors.allows(origin))).cloned();
        Self { decided: true, allowed }
    }

    /// Tells the browser.
    pub(super) fn put(&self, head: &mut ResponseHeader) -> pingora_core::Result<()> {
        if !self.decided {
            return Ok(());
        }
        remove(head, "access-control-");
        // Caches must not show one page's answer to another.
        head.append_header("vary", "origin")?;
        if let Some(origin) = &self.allowed {
            head.insert_header("access-control-allow-origin", origin)?;
            head.insert_header("access-control-expose-headers", EXPOSED)?;
        }
        Ok(())
    }
}

/// Whether a request is a browser's question about one to come, which headway answers itself.
pub(super) fn is_preflight(cors: Option<&Cors>, head: &RequestHeader) -> bool {
    cors.is_some()
        && head.method == Method::OPTIONS
        && head.headers.contains_key("origin")
        && head.headers.contains_key("access-control-request-method")
}

/// Answers a browser's question. It asks without a key, so none is wanted; what it asks about will need one.
pub(super) async fn serve(session: &mut Session, mut exchange: Exchange) -> Downstream {
    exchange.note(|record| record.status = StatusCode::NO_CONTENT.as_u16());
    // A body that was not read would be taken for the next request.
    let no_body = session.is_body_empty();
    if !no_body {
        session.set_keepalive(None);
    }
    let asked = session.req_header().headers.get("access-control-request-headers").cloned();
    let sent = write(session, &exchange.stamp(), asked.as_ref()).await;
    exchange.finish(if sent.is_ok() { Outcome::Complete } else { Outcome::ClientCancelled });
    if sent.is_ok() && no_body { Downstream::Reusable } else { Downstream::Close }
}

async fn write(session: &mut Session, stamp: &Stamp, asked: Option<&HeaderValue>) -> pingora_core::Result<()> {
    let mut head = ResponseHeader::build(StatusCode::NO_CONTENT, Some(8))?;
    stamp.put(&mut head)?;
    if stamp.reader.allowed.is_some() {
        head.insert_header("access-control-allow-methods", METHODS)?;
        head.insert_header("access-control-max-age", MAX_AGE)?;
        // SDKs send fields of their own, and more with each version: what may be sent on is decided elsewhere.
        if let Some(fields) = asked.filter(|fields| is_list(fields)) {
            head.insert_header("access-control-allow-headers", fields)?;
        }
    }
    session.set_write_timeout(Some(REFUSAL_PATIENCE));
    session.write_response_header(Box::new(head)).await?;
    session.write_response_body(Bytes::new(), true).await?;
    session.finish_body().await
}

/// Whether this is a list of field names and no more.
fn is_list(fields: &HeaderValue) -> bool {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b',' | b' ');
    fields.len() <= LONGEST_LIST && fields.as_bytes().iter().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(origins: &[&'static str], expected: Option<&str>) {
        let mut headers = HeaderMap::new();
        for origin in origins {
            headers.append("origin", HeaderValue::from_static(origin));
        }
        let cors = Cors { origins: vec!["https://a.test".into()] };
        let mut head = ResponseHeader::build(200, None).unwrap();
        head.insert_header("access-control-allow-origin", "*").unwrap();
        head.insert_header("access-control-allow-credentials", "true").unwrap();
        head.insert_header("vary", "accept").unwrap();
        Reader::of(Some(&cors), &headers).put(&mut head).unwrap();
        let allowed = head.headers.get("access-control-allow-origin").map(|value| value.to_str().unwrap());
        assert_eq!(allowed, expected, "{origins:?}");
        assert!(!head.headers.contains_key("access-control-allow-credentials"), "the backend's words do not count");
        assert_eq!(head.headers.get_all("vary").iter().count(), 2);
    }

    #[test]
    fn only_pages_that_are_named_are_told_that_they_may() {
        check(&["https://a.test"], Some("https://a.test"));
        check(&["https://b.test"], None);
        check(&["https://a.test", "https://b.test"], None);
        check(&[], None);
    }

    #[test]
    fn without_a_word_in_the_configuration_the_backend_decides() {
        let mut head = ResponseHeader::build(200, None).unwrap();
        head.insert_header("access-control-allow-origin", "*").unwrap();
        Reader::of(None, &HeaderMap::new()).put(&mut head).unwrap();
        assert!(head.headers.contains_key("access-control-allow-origin") && !head.headers.contains_key("vary"));
    }
}
