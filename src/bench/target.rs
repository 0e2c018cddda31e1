//! Where requests go: an address, whether TLS is spoken, a path.

use std::fmt;

use crate::wire::Api;

/// A server and the path of its API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Whether TLS is spoken.
    pub tls: bool,
    /// The host's name or address, without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
    /// The path with its query, beginning with a slash.
    pub path: String,
}

/// Why a text is no target.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// It is no URL.
    #[error("`{0}` is no URL; write it as http://127.0.0.1:8000")]
    Url(String),
    /// The scheme is neither of the two.
    #[error("`{0}` is neither http nor https")]
    Scheme(String),
}

impl Target {
    /// Reads a URL, with or without `http://`. The path is `endpoint` where one is given, else the URL's own where it
    /// has one, else that of the API.
    ///
    /// # Errors
    /// When it is no http or https URL.
    pub fn parse(url: &str, endpoint: Option<&str>, api: Api) -> Result<Self, TargetError> {
        let malformed = || TargetError::Url(url.to_owned());
        let whole = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
        let uri: http::Uri = whole.parse().map_err(|_| malformed())?;
        let tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            scheme => return Err(TargetError::Scheme(scheme.unwrap_or_default().to_owned())),
        };
        let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(malformed)?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        // A port that does not fit is parsed as none at all.
        let rest = uri.authority().map_or("", http::uri::Authority::as_str).rsplit(']').next().unwrap_or_default();
        if rest.contains(':') && uri.port_u16().is_none() {
            return Err(malformed());
        }
        let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
        let base = uri.path_and_query().map_or("", http::uri::PathAndQuery::as_str).trim_end_matches('/');
        let path = match endpoint.map(|endpoint| endpoint.trim_start_matches('/')) {
            Some(endpoint) => format!("{base}/{endpoint}"),
            None if base.is_empty() => default_path(api).to_owned(),
            None => base.to_owned(),
        };
        Ok(Self { tls, host, port, path })
    }

    /// The value of the `Host` header.
    #[must_use]
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        let implied = if self.tls { 443 } else { 80 };
        if self.port == implied { host } else { format!("{host}:{}", self.port) }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority(), self.path)
    }
}

fn default_path(api: Api) -> &'static str {
    match api {
        Api::Completions => "/v1/completions",
        Api::Responses => "/v1/responses",
        Api::Messages => "/v1/messages",
        Api::Embeddings => "/v1/embeddings",
        _ => "/v1/chat/completions",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(url: &str, endpoint: Option<&str>, expected: &str) {
        let target = Target::parse(url, endpoint, Api::Chat).expect(url);
        assert_eq!(target.to_string(), expected, "{url}");
    }

    #[test]
    fn a_url_may_lack_its_scheme_its_port_and_its_path() {
        check("localhost:8000", None, "http://localhost:8000/v1/chat/completions");
        check("http://10.0.0.1:8000/", None, "http://10.0.0.1:8000/v1/chat/completions");
        check("https://nim.internal", None, "https://nim.internal/v1/chat/completions");
        check("http://[::1]:8000", None, "http://[::1]:8000/v1/chat/completions");
        check("localhost:8000", Some("v1/completions"), "http://localhost:8000/v1/completions");
        check("localhost:8000/proxy", Some("/v1/completions"), "http://localhost:8000/proxy/v1/completions");
        check("localhost:8000/my/chat", None, "http://localhost:8000/my/chat");
    }

    #[test]
    fn what_is_no_http_url_is_refused() {
        for bad in ["", "http://", "ftp://host", "grpc://host:8001", "http://host:99999", "a b"] {
            assert!(Target::parse(bad, None, Api::Chat).is_err(), "{bad}");
        }
    }
}
