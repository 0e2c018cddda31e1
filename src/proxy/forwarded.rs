//! What backends are told about the client: built anew, from the connection and from what trusted proxies say.

use std::net::IpAddr;

use http::header::{HeaderMap, HeaderValue};
use pingora_core::protocols::http::server::Session;
use pingora_http::RequestHeader;

use super::inspect::is_secure;
use crate::config::settings::Settings;
use crate::wire::forwarded::{Claims, Way, host};

/// Who asks, over what and whom, in every spelling that servers look for. Nothing where no address is known.
#[derive(Debug, Clone)]
pub(super) struct Forwarded(Vec<(&'static str, HeaderValue)>);

impl Forwarded {
    /// Of a request that came over this connection.
    pub(super) fn of(session: &Session, settings: &Settings, head: &RequestHeader) -> Self {
        let Some(peer) = client_address(session) else { return Self::nobody() };
        let trusted = |address| settings.trusted_proxies.iter().any(|network| network.contains(address));
        let own = if is_secure(session) { "https" } else { "http" };
        Self::on(peer, own, head, trusted)
    }

    /// The same, by what is known of the connection.
    pub(super) fn on(peer: IpAddr, own: &'static str, head: &RequestHeader, trusted: impl Fn(IpAddr) -> bool) -> Self {
        let claims = if trusted(peer) { claims(&head.headers) } else { Claims::default() };
        let way = Way::of(peer.to_canonical(), &claims, trusted);
        let (proto, host) = (way.proto.unwrap_or(own), way.host.or_else(|| asked(head)));
        // Addresses and plain names are always values.
        let list = HeaderValue::try_from(way.list()).ok();
        let client = match &*way.hops {
            [_] => list.clone(),
            _ => way.client().and_then(|client| HeaderValue::try_from(client.to_string()).ok()),
        };
        let fields = [
            ("x-forwarded-for", list),
            ("x-forwarded-proto", Some(HeaderValue::from_static(proto))),
            ("x-forwarded-host", host.and_then(|host| HeaderValue::from_str(host).ok())),
            ("x-real-ip", client),
            ("forwarded", HeaderValue::try_from(way.elements(proto, host)).ok()),
        ];
        Self(fields.into_iter().filter_map(|(name, value)| Some((name, value?))).collect())
    }

    /// Of a connection without an address.
    pub(super) const fn nobody() -> Self {
        Self(Vec::new())
    }

    /// The fields, each once.
    pub(super) fn fields(&self) -> impl Iterator<Item = (&'static str, &HeaderValue)> {
        self.0.iter().map(|(name, value)| (*name, value))
    }
}

fn claims(headers: &HeaderMap) -> Claims<'_> {
    // What is not readable says nothing, and ends the list where it stands: nothing left of it is believed.
    let of = |name| headers.get_all(name).iter().map(|value| value.to_str().unwrap_or_default()).collect();
    Claims {
        addresses: of("x-forwarded-for"),
        protos: of("x-forwarded-proto"),
        hosts: of("x-forwarded-host"),
        forwarded: of("forwarded"),
    }
}

/// Whom the request itself names.
fn asked(head: &RequestHeader) -> Option<&str> {
    let field = head.headers.get("host").and_then(|value| value.to_str().ok());
    field.or_else(|| head.uri.authority().map(http::uri::Authority::as_str)).and_then(host)
}

/// The client's address, as the connection says it.
fn client_address(session: &Session) -> Option<IpAddr> {
    Some(session.client_addr()?.as_inet()?.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(peer: &str, sent: &[(&'static str, &str)], expected: [&str; 5]) {
        let mut head = RequestHeader::build("POST", b"/v1/chat/completions", None).unwrap();
        for (name, value) in sent {
            head.append_header(*name, *value).unwrap();
        }
        let trusted = |address: IpAddr| address == IpAddr::from([10, 0, 0, 1]);
        let forwarded = Forwarded::on(peer.parse().unwrap(), "http", &head, trusted);
        let of = |name| {
            forwarded.fields().find(|(field, _)| *field == name).map_or("", |(_, value)| value.to_str().unwrap())
        };
        let names = ["x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-real-ip", "forwarded"];
        assert_eq!(names.map(of), expected, "{peer} {sent:?}");
    }

    #[test]
    fn everything_is_said_anew() {
        let claims = [
            ("host", "api.example"),
            ("x-forwarded-for", "6.6.6.6, 1.1.1.1"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "front.example"),
            ("x-real-ip", "6.6.6.6"),
        ];
        let own = "for=203.0.113.9;proto=http;host=\"api.example\"";
        check("203.0.113.9", &claims, ["203.0.113.9", "http", "api.example", "203.0.113.9", own]);
        let through = "for=1.1.1.1;proto=https;host=\"front.example\", for=10.0.0.1";
        let list = "1.1.1.1, 10.0.0.1";
        check("10.0.0.1", &claims, [list, "https", "front.example", "1.1.1.1", through]);
        check("::ffff:203.0.113.9", &claims, ["203.0.113.9", "http", "api.example", "203.0.113.9", own]);
    }

    #[test]
    fn a_line_that_is_not_readable_hides_none_before_it() {
        let mut head = RequestHeader::build("GET", b"/", None).unwrap();
        head.append_header("x-forwarded-for", "6.6.6.6").unwrap();
        head.append_header("x-forwarded-for", HeaderValue::from_bytes(b"1.1.1.1, \xff").unwrap()).unwrap();
        let forwarded = Forwarded::on("10.0.0.1".parse().unwrap(), "http", &head, |_| true);
        let client = forwarded.fields().find(|(name, _)| *name == "x-real-ip").unwrap().1;
        assert_eq!(client, "10.0.0.1");
    }

    #[test]
    fn a_host_that_is_no_plain_name_is_not_passed_on() {
        let quoted = [("host", "a\";for=6.6.6.6")];
        check("203.0.113.9", &quoted, ["203.0.113.9", "http", "", "203.0.113.9", "for=203.0.113.9;proto=http"]);
    }
}
