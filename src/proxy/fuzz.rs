//! What must hold of heads and bodies of HTTP messages, whatever the bytes.

use std::net::IpAddr;
use std::sync::LazyLock;

use http::HeaderValue;
use pingora_core::protocols::http::v1::client::http_req_header_to_wire;
use pingora_http::RequestHeader;

use super::forwarded::Forwarded;
pub(crate) use super::h1::fuzz::response;
use super::headers::{Added, TraceFields, traceparent, tracestate, upstream_head};
use super::inspect::{self, RequestIds};
use crate::config::settings::{Backend, Settings};
use crate::config::{NoEnvironment, parse};

const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 7));
const FIELDS: usize = 256;

/// A backend without a key, one with a key, one that gets the client's; the client is a trusted proxy.
static SETTINGS: LazyLock<Option<Settings>> = LazyLock::new(|| {
    let text = "listeners: [{ address: 127.0.0.1:0 }]\ntrusted_proxies: [192.0.2.0/24]\nbackends:\n\
        \x20 - { name: a, url: 'http://10.0.0.1:8000/nim' }\n\
        \x20 - { name: b, url: 'http://10.0.0.1:8000/nim', forward_authorization: true }\n\
        routes:\n  - { name: r, backends: [a, b] }\n";
    parse("fuzz.yaml", text, &NoEnvironment).ok().map(|loaded| loaded.settings)
});

/// A request's head: what goes on to a backend is headway's own, framed once, with nothing of another connection.
pub(crate) fn head(bytes: &[u8]) {
    let (Some(settings), Some(client)) = (SETTINGS.as_ref(), parsed(bytes)) else { return };
    let _ = inspect::plan(&client, &settings.limits, settings.access.cors.as_ref());
    let id = RequestIds::new(1).of(&client.headers);
    assert!((1..=128).contains(&id.len()) && HeaderValue::from_str(&id).is_ok());
    let parent = traceparent(&client.headers);
    if let Some((parent, field)) = parent {
        assert!(field.to_str().is_ok_and(|text| text.contains(parent.field().get(3..52).unwrap_or("-"))));
    }
    assert!(tracestate(&client.headers).is_none_or(|state| state.len() <= 512));
    forwarded(settings, &client);
    for backend in &settings.backends {
        sent(backend, &client, &id);
    }
}

/// A head as pingora would hand it over.
fn parsed(bytes: &[u8]) -> Option<RequestHeader> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS];
    let mut request = httparse::Request::new(&mut fields);
    request.parse(bytes).ok()?.is_complete().then_some(())?;
    let mut head = RequestHeader::build(request.method?, request.path?.as_bytes(), None).ok()?;
    for field in request.headers.iter() {
        head.append_header(field.name.to_owned(), field.value).ok()?;
    }
    Some(head)
}

/// Only a trusted proxy is believed and it is named after whomever it names.
fn forwarded(settings: &Settings, client: &RequestHeader) {
    let of =
        |peer| Forwarded::on(peer, "http", client, |one| settings.trusted_proxies.iter().any(|net| net.contains(one)));
    let said = |of: &Forwarded, name: &str| {
        let mut values = of.fields().filter(|(field, _)| *field == name).filter_map(|(_, value)| value.to_str().ok());
        values.next().map(str::to_owned).unwrap_or_default()
    };
    let stranger = of(IpAddr::from([198, 51, 100, 1]));
    assert_eq!(said(&stranger, "x-forwarded-for"), "198.51.100.1");
    assert_eq!(
        (said(&stranger, "x-real-ip").as_str(), said(&stranger, "x-forwarded-proto").as_str()),
        ("198.51.100.1", "http")
    );
    let trusted = of(CLIENT);
    let chain = said(&trusted, "x-forwarded-for");
    let hops: Vec<Option<IpAddr>> = chain.split(", ").map(|hop| hop.parse().ok()).collect();
    assert!(hops.iter().all(Option::is_some) && hops.last() == Some(&Some(CLIENT)), "{chain:?}");
    assert_eq!(chain.split(", ").next().map(str::to_owned), Some(said(&trusted, "x-real-ip")));
    assert_eq!(said(&trusted, "forwarded").matches("for=").count(), hops.len());
    assert!(matches!(said(&trusted, "x-forwarded-proto").as_str(), "http" | "https"));
    // Whoever believes us reads what we read.
    let mut again = RequestHeader::build("POST", b"/", None).ok();
    if let Some(again) = again.as_mut().filter(|_| hops.len() < 32) {
        let _ = again.insert_header("forwarded", said(&trusted, "forwarded"));
        let read = Forwarded::on(CLIENT, "http", again, |one| hops.contains(&Some(one)));
        assert_eq!(said(&read, "x-real-ip"), said(&trusted, "x-real-ip"));
    }
}

fn sent(backend: &Backend, client: &RequestHeader, id: &str) {
    let forwarded = Forwarded::on(CLIENT, "http", client, |_| false);
    let added = Added { request_id: id, trace: TraceFields::default(), forwarded: &forwarded };
    let Ok(head) = upstream_head(client, backend, 5, &added) else { return };
    let all = |name: &str| head.headers.get_all(name).iter().map(HeaderValue::as_bytes).collect::<Vec<_>>();
    assert_eq!(all("host"), [b"10.0.0.1:8000"]);
    assert_eq!(all("content-length"), [b"5"]);
    assert_eq!(all("x-request-id"), [id.as_bytes()]);
    assert_eq!((all("x-forwarded-for"), all("x-real-ip")), (vec![&b"192.0.2.7"[..]], vec![&b"192.0.2.7"[..]]));
    assert!(all("forwarded").len() == 1 && all("x-forwarded-host").len() <= 1);
    for name in ["transfer-encoding", "connection", "te", "upgrade", "expect", "cookie"] {
        assert!(all(name).is_empty(), "{name} goes on");
    }
    if backend.name.as_ref() == "a" {
        assert!(["authorization", "x-api-key", "api-key"].iter().all(|name| all(name).is_empty()));
    }
    let wire = http_req_header_to_wire(&head).map(|wire| wire.to_vec()).unwrap_or_default();
    let ends = wire.windows(4).filter(|four| four == b"\r\n\r\n").count();
    let lines = memchr::memchr_iter(b'\n', &wire).count();
    let returns = memchr::memchr_iter(b'\r', &wire).count();
    assert!(ends == 1 && wire.ends_with(b"\r\n\r\n"), "one head, and nothing after it");
    assert_eq!((lines, returns), (head.headers.len() + 2, head.headers.len() + 2), "one line for each field");
}
