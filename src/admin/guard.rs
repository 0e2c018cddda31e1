//! Who may ask: the token, and what a browser can be tricked into.
//!
//! A page from anywhere can make a browser send requests to `127.0.0.1`, and by a name of its own that resolves there
//! (DNS rebinding) even read the answers. Such requests carry a foreign `Host` or `Origin`, and are refused.

use std::net::{IpAddr, SocketAddr};

use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, ORIGIN};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use secrecy::ExposeSecret;

use super::endpoint::Endpoint;
use crate::config::settings::Admin;

/// Why a request is not answered: status, code and a sentence with the remedy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) code: &'static str,
    pub(super) message: &'static str,
}

const FOREIGN_HOST: Refusal = Refusal {
    status: StatusCode::FORBIDDEN,
    code: "foreign_host",
    message: "the Host header names another host; use localhost or the configured admin address",
};
const FOREIGN_ORIGIN: Refusal = Refusal {
    status: StatusCode::FORBIDDEN,
    code: "foreign_origin",
    message: "changes are not taken from other web pages",
};
const NOT_JSON: Refusal = Refusal {
    status: StatusCode::UNSUPPORTED_MEDIA_TYPE,
    code: "not_json",
    message: "a body must be sent with Content-Type: application/json",
};
const NO_TOKEN: Refusal = Refusal {
    status: StatusCode::UNAUTHORIZED,
    code: "token_required",
    message: "send Authorization: Bearer with the admin token of the configuration",
};
const UNPROTECTED: Refusal = Refusal {
    status: StatusCode::FORBIDDEN,
    code: "token_not_configured",
    message: "admin.token must be configured when the admin address is not loopback",
};

/// Whether this request may be answered. `local` is the address it came in on.
pub(super) fn check(
    admin: &Admin,
    local: SocketAddr,
    endpoint: &Endpoint,
    method: &Method,
    headers: &HeaderMap,
) -> Result<(), Refusal> {
    let loopback = local.ip().to_canonical().is_loopback();
    if loopback && !host(headers).is_some_and(|host| is_ours(host, admin.address)) {
        return Err(FOREIGN_HOST);
    }
    let changes = *method != Method::GET && *method != Method::HEAD;
    if changes && !same_origin(headers) {
        return Err(FOREIGN_ORIGIN);
    }
    if changes && headers.get(CONTENT_TYPE).is_some_and(|kind| !is_json(kind.as_bytes())) {
        return Err(NOT_JSON);
    }
    if endpoint.is_open(admin.open_metrics) {
        return Ok(());
    }
    match &admin.token {
        Some(token) if !has_token(headers, token.expose_secret()) => Err(NO_TOKEN),
        None if !loopback => Err(UNPROTECTED),
        _ => Ok(()),
    }
}

fn host(headers: &HeaderMap) -> Option<&str> {
    let mut all = headers.get_all(HOST).iter();
    // Two Host fields are two opinions about where the request goes.
    let only = all.next().filter(|_| all.next().is_none())?;
    only.to_str().ok()
}

/// Whether `host` (with or without a port) is this machine by a name that nobody else can own.
fn is_ours(host: &str, configured: SocketAddr) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') && (name.starts_with('[') || !name.contains(':')) => name,
        _ => host,
    };
    let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    name.eq_ignore_ascii_case("localhost")
        || bare.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback() || ip == configured.ip())
}

/// No `Origin` (no browser), or that of our own page. Browsers say the same in a second field, which no page can set.
fn same_origin(headers: &HeaderMap) -> bool {
    let site = headers.get("sec-fetch-site").map(HeaderValue::as_bytes);
    if site.is_some_and(|site| !matches!(site, b"same-origin" | b"none")) {
        return false;
    }
    let Some(origin) = headers.get(ORIGIN) else { return true };
    let authority = origin.to_str().ok().and_then(|origin| origin.split_once("://")).map(|(_, authority)| authority);
    authority.is_some() && authority == host(headers)
}

fn is_json(kind: &[u8]) -> bool {
    let essence = kind.split(|&byte| byte == b';').next().unwrap_or_default();
    essence.trim_ascii().eq_ignore_ascii_case(b"application/json")
}

fn has_token(headers: &HeaderMap, token: &str) -> bool {
    let brought = headers.get(AUTHORIZATION).map_or(&b""[..], |value| value.as_bytes());
    let Some((scheme, brought)) = brought.split_at_checked("Bearer ".len()) else { return false };
    scheme.eq_ignore_ascii_case(b"Bearer ") && same(brought.trim_ascii(), token.as_bytes())
}

/// Compares in a time that depends on the lengths alone, so that a token cannot be guessed byte by byte.
fn same(one: &[u8], other: &[u8]) -> bool {
    let differing =
        one.iter().zip(other).fold(one.len() ^ other.len(), |differing, (a, b)| differing | usize::from(a ^ b));
    std::hint::black_box(differing) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCAL: &str = "127.0.0.1:9090";
    const PUBLIC: &str = "10.1.2.3:9090";

    fn admin(address: &str, token: Option<&str>, open_metrics: bool) -> Admin {
        Admin { address: address.parse().unwrap(), token: token.map(Into::into), open_metrics, trace_url: None }
    }

    #[track_caller]
    fn check_one(admin: &Admin, request: (&str, &str), headers: &[(&str, &str)], expected: Result<(), Refusal>) {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(http::HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
        }
        let (method, path) = request;
        let endpoint = Endpoint::of(path).expect(path);
        let result = check(admin, admin.address, &endpoint, &method.parse().unwrap(), &map);
        assert_eq!(result, expected, "{request:?} {headers:?}");
    }

    #[test]
    fn on_loopback_only_our_own_names_are_answered() {
        let admin = admin(LOCAL, None, true);
        for host in ["localhost", "LOCALHOST:9090", "127.0.0.1:9090", "127.8.8.8", "[::1]:9090", "[::1]"] {
            check_one(&admin, ("GET", "/metrics"), &[("host", host)], Ok(()));
        }
        for host in ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example:9090", "10.0.0.1", "", "[::2]:1"]
        {
            check_one(&admin, ("GET", "/metrics"), &[("host", host)], Err(FOREIGN_HOST));
        }
        check_one(&admin, ("GET", "/metrics"), &[], Err(FOREIGN_HOST));
        check_one(&admin, ("GET", "/"), &[("host", "localhost"), ("host", "evil.example")], Err(FOREIGN_HOST));
    }

    #[test]
    fn changes_from_other_pages_are_refused() {
        let admin = admin(LOCAL, None, true);
        let host = ("host", "localhost:9090");
        check_one(&admin, ("POST", "/-/reload"), &[host], Ok(()));
        check_one(&admin, ("POST", "/-/reload"), &[host, ("origin", "http://localhost:9090")], Ok(()));
        for origin in ["http://evil.example", "null", "http://localhost:3000"] {
            check_one(&admin, ("POST", "/-/reload"), &[host, ("origin", origin)], Err(FOREIGN_ORIGIN));
        }
        for (site, expected) in [
            ("same-origin", Ok(())),
            ("none", Ok(())),
            ("same-site", Err(FOREIGN_ORIGIN)),
            ("cross-site", Err(FOREIGN_ORIGIN)),
        ] {
            check_one(&admin, ("POST", "/-/drain"), &[host, ("sec-fetch-site", site)], expected);
        }
        check_one(&admin, ("PUT", "/api/v1/log-level"), &[host, ("content-type", "text/plain")], Err(NOT_JSON));
        let json = ("content-type", "application/json; charset=utf-8");
        check_one(&admin, ("PUT", "/api/v1/log-level"), &[host, json], Ok(()));
    }

    #[test]
    fn the_token_is_needed_but_for_probes_and_open_metrics() {
        let with = admin(PUBLIC, Some("s3cret"), true);
        let host = ("host", "anything");
        check_one(&with, ("GET", "/healthz"), &[host], Ok(()));
        check_one(&with, ("GET", "/readyz"), &[host], Ok(()));
        check_one(&with, ("GET", "/metrics"), &[host], Ok(()));
        check_one(&admin(PUBLIC, Some("s3cret"), false), ("GET", "/metrics"), &[host], Err(NO_TOKEN));
        for wrong in ["Bearer s3cre", "Bearer s3cretx", "Bearer ", "s3cret", "Basic s3cret", ""] {
            check_one(&with, ("GET", "/api/v1/config"), &[host, ("authorization", wrong)], Err(NO_TOKEN));
        }
        check_one(&with, ("GET", "/api/v1/config"), &[host, ("authorization", "bearer s3cret")], Ok(()));
        check_one(&admin(PUBLIC, None, true), ("GET", "/api/v1/config"), &[host], Err(UNPROTECTED));
    }
}
