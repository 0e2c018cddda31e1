//! What must hold of what the admin listener is asked, whatever the bytes.

use std::net::SocketAddr;

use http::header::HOST;
use http::{HeaderMap, HeaderValue, Method};

use super::endpoint::{Endpoint, parameter, percent_decoded};
use super::guard;
use super::view::WantedLevel;
use crate::config::settings::{Admin, Level};
use crate::telemetry::openmetrics;

/// One text in every place that takes one: path and query, a JSON body, `Accept`, `Host`.
pub(crate) fn asked(bytes: &[u8]) {
    if let Ok(wanted) = serde_json::from_slice::<WantedLevel>(bytes) {
        let _ = Level::named(&wanted.level);
    }
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let _ = openmetrics::is_preferred(text);
    let (path, query) = text.split_once('?').map_or((text, None), |(path, query)| (path, Some(query)));
    for name in ["route", "limit", "input_tokens", "request_id"] {
        let _ = parameter(query, name).and_then(percent_decoded);
    }
    if let Some(endpoint) = Endpoint::of(path) {
        assert!(path.starts_with('/'));
        assert!(endpoint.allows(&Method::GET) != (endpoint.allows(&Method::POST) || endpoint.allows(&Method::PUT)));
    }
    named(text);
}

/// A browser that was led here by a name of somebody else's is sent away.
fn named(host: &str) {
    let Ok(value) = HeaderValue::from_str(host) else { return };
    let local = SocketAddr::from(([127, 0, 0, 1], 9090));
    let headers = HeaderMap::from_iter([(HOST, value)]);
    let admin = Admin { address: local, token: None, open_metrics: true, trace_url: None };
    if guard::check(&admin, local, &Endpoint::Config, &Method::GET, &headers).is_ok() {
        let bare = host.to_ascii_lowercase();
        let ours =
            bare.starts_with("localhost") || bare.starts_with("127.") || bare.starts_with('[') || bare.contains("::");
        assert!(ours, "{host:?} is not this machine");
    }
}
