//! Which path means what.

use http::Method;

use super::assets::Asset;

/// Everything the admin listener answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Endpoint {
    /// A file of the dashboard, the page itself among them.
    Asset(&'static Asset),
    Events,
    Index,
    Metrics,
    Healthz,
    Readyz,
    Backends,
    Routes,
    Decisions,
    Explain,
    Requests,
    Config,
    Version,
    Reload,
    Drain,
    DrainBackend(String),
    UndrainBackend(String),
    /// Of a route, a group.
    RollBackGroup(String, String),
    ResumeGroup(String, String),
    LogLevel,
}

/// The page at `/api` lists these.
pub(super) const LISTED: [(&str, &str, &str); 19] = [
    ("GET", "/", "the dashboard"),
    ("GET", "/metrics", "Prometheus metrics"),
    ("GET", "/healthz", "200 while the process is alive"),
    ("GET", "/readyz?verbose", "200 while requests can be served, with the reasons when not"),
    ("GET", "/api/v1/backends", "backends: state, requests in flight, last check"),
    ("GET", "/api/v1/routes", "routes: objectives, attainment, latencies per backend"),
    ("GET", "/api/v1/decisions?limit=100", "the latest routing decisions: candidates, reason, what happened then"),
    ("GET", "/api/v1/explain?route=NAME&input_tokens=500", "where a request would go now, and why"),
    ("GET", "/api/v1/requests?limit=100", "the latest exchanges, in the access log's fields"),
    ("GET", "/api/v1/events", "what the dashboard shows, once a second, as server-sent events"),
    ("GET", "/api/v1/config", "the configuration in force, secrets redacted"),
    ("GET", "/api/v1/version", "which headway this is, and what became of its configuration's last reload"),
    ("POST", "/-/reload", "reads the configuration again"),
    ("POST", "/-/drain", "not ready, and ends when the last exchange has ended"),
    ("POST", "/api/v1/backends/NAME/drain", "gives a backend nothing new"),
    ("POST", "/api/v1/backends/NAME/undrain", "takes that back"),
    ("POST", "/api/v1/routes/NAME/split/GROUP/rollback", "gives a group of a split route nothing more"),
    ("POST", "/api/v1/routes/NAME/split/GROUP/resume", "takes that back, and begins its comparison anew"),
    ("PUT", "/api/v1/log-level", "{\"level\": \"debug\"}: changes the log's level until the next reload"),
];

impl Endpoint {
    /// The endpoint of a path, without its query.
    pub(super) fn of(path: &str) -> Option<Self> {
        Some(match path {
            "/api" => Self::Index,
            "/api/v1/events" => Self::Events,
            "/metrics" => Self::Metrics,
            "/healthz" => Self::Healthz,
            "/readyz" => Self::Readyz,
            "/api/v1/backends" => Self::Backends,
            "/api/v1/routes" => Self::Routes,
            "/api/v1/decisions" => Self::Decisions,
            "/api/v1/explain" => Self::Explain,
            "/api/v1/requests" => Self::Requests,
            "/api/v1/config" => Self::Config,
            "/api/v1/version" => Self::Version,
            "/api/v1/log-level" => Self::LogLevel,
            "/-/reload" => Self::Reload,
            "/-/drain" => Self::Drain,
            _ => {
                if let Some(asset) = Asset::of(path) {
                    return Some(Self::Asset(asset));
                }
                if let Some(of_group) = path.strip_prefix("/api/v1/routes/") {
                    return Self::of_group(of_group);
                }
                let (name, action) = path.strip_prefix("/api/v1/backends/")?.rsplit_once('/')?;
                let name = percent_decoded(name)?;
                match action {
                    "drain" => Self::DrainBackend(name),
                    "undrain" => Self::UndrainBackend(name),
                    _ => return None,
                }
            }
        })
    }

    /// `NAME/split/GROUP/ACTION`
    fn of_group(path: &str) -> Option<Self> {
        let (path, action) = path.rsplit_once('/')?;
        let (route, group) = path.split_once("/split/")?;
        let (route, group) = (percent_decoded(route)?, percent_decoded(group)?);
        match action {
            "rollback" => Some(Self::RollBackGroup(route, group)),
            "resume" => Some(Self::ResumeGroup(route, group)),
            _ => None,
        }
    }

    /// The methods it answers, as `Allow` writes them.
    pub(super) fn allow(&self) -> &'static str {
        match self {
            Self::Reload
            | Self::Drain
            | Self::DrainBackend(_)
            | Self::UndrainBackend(_)
            | Self::RollBackGroup(..)
            | Self::ResumeGroup(..) => "POST",
            Self::LogLevel => "PUT",
            _ => "GET, HEAD",
        }
    }

    pub(super) fn allows(&self, method: &Method) -> bool {
        self.allow().split(", ").any(|allowed| allowed == method.as_str())
    }

    /// Whether it is answered without the token, so that probes and scrapers need none, and a browser gets the page that
    /// asks for it; the page's files are the same everywhere.
    pub(super) fn is_open(&self, open_metrics: bool) -> bool {
        matches!(self, Self::Healthz | Self::Readyz | Self::Asset(_)) || (open_metrics && *self == Self::Metrics)
    }
}

/// `None` where an escape is not one, or what comes out is not UTF-8.
pub(super) fn percent_decoded(text: &str) -> Option<String> {
    let mut pieces = text.split('%');
    let mut bytes = pieces.next()?.as_bytes().to_vec();
    for piece in pieces {
        let (digits, rest) = piece.split_at_checked(2)?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        bytes.extend_from_slice(rest.as_bytes());
    }
    String::from_utf8(bytes).ok()
}

/// The value of a query's parameter.
pub(super) fn parameter<'a>(query: Option<&'a str>, name: &str) -> Option<&'a str> {
    let pairs = query?.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    pairs.into_iter().find(|(key, _)| *key == name).map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(path: &str, expected: Option<&Endpoint>) {
        assert_eq!(Endpoint::of(path).as_ref(), expected, "{path}");
    }

    #[test]
    fn every_endpoint_is_in_the_readme() {
        for (method, path, _) in LISTED {
            let path = path.split('?').next().unwrap();
            let row = format!("| `{method} {path}` |");
            assert!(include_str!("../../README.md").contains(&row), "{row}");
        }
    }

    #[test]
    fn paths_are_exact_and_backend_names_decoded() {
        check("/metrics", Some(&Endpoint::Metrics));
        check("/metrics/", None);
        check("//metrics", None);
        check("/api/v1/backends/h100/drain", Some(&Endpoint::DrainBackend("h100".to_owned())));
        check("/api/v1/backends/a%2Fb%20c/undrain", Some(&Endpoint::UndrainBackend("a/b c".to_owned())));
        check("/api/v1/backends/a%2/drain", None);
        check("/api/v1/backends/a%é/drain", None);
        check("/api/v1/backends/a/destroy", None);
        let (route, group) = ("a/b".to_owned(), "canary".to_owned());
        let rolled_back = Endpoint::RollBackGroup(route.clone(), group.clone());
        check("/api/v1/routes/a%2Fb/split/canary/rollback", Some(&rolled_back));
        check("/api/v1/routes/a%2Fb/split/canary/resume", Some(&Endpoint::ResumeGroup(route, group)));
        check("/api/v1/routes/a/split/canary/promote", None);
        check("/api/v1/routes/a/canary/resume", None);
    }

    #[test]
    fn every_listed_path_is_an_endpoint_that_allows_its_method() {
        for (method, path, _) in LISTED {
            let endpoint = Endpoint::of(path.split('?').next().unwrap()).expect(path);
            assert!(endpoint.allows(&method.parse().unwrap()), "{path}");
        }
    }

    #[test]
    fn parameters_are_found_by_name() {
        assert_eq!(parameter(Some("verbose"), "verbose"), Some(""));
        assert_eq!(parameter(Some("a=1&limit=20"), "limit"), Some("20"));
        assert_eq!(parameter(Some("limits=20"), "limit"), None);
        assert_eq!(parameter(None, "limit"), None);
    }
}
