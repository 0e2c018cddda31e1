//! What the metrics page shows of the present moment, filled in by whoever asks for the page.
//!
//! Counters live here in telemetry; what is true *now* lives in the fleet, which telemetry does not know.

use std::sync::Arc;

/// Every state a backend can be in, as the `state` label and the API write it.
pub const BACKEND_STATES: [&str; 7] = ["ready", "warming", "down", "ejected", "probing", "draining", "unknown"];

/// The figures of one moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LiveFigures {
    /// Every backend of the configuration.
    pub backends: Vec<BackendFigures>,
    /// Every objective of every route, and each route's joint one.
    pub objectives: Vec<ObjectiveFigures>,
}

/// One backend at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct BackendFigures {
    /// Its name in the configuration.
    pub name: Arc<str>,
    /// Requests in flight there.
    pub in_flight: u64,
    /// Estimated prompt tokens of requests there that await their first token.
    pub waiting_tokens: u64,
    /// One of [`BACKEND_STATES`].
    pub state: &'static str,
}

/// One objective at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct ObjectiveFigures {
    /// The route's name.
    pub route: Arc<str>,
    /// `ttft`, `itl`, `e2e` or `joint`.
    pub latency: &'static str,
    /// Share of good exchanges in the route's window; `None` while it holds none.
    pub attainment: Option<f64>,
    /// Burn rate by the name of its window, such as `5m`.
    pub burn: Vec<(&'static str, f64)>,
}
