//! `/api/v1/version`: which headway this is, since when, and with which configuration.

use serde::Serialize;

use super::Services;
use crate::telemetry::time::rfc3339;

#[derive(Debug, Serialize)]
pub(super) struct VersionView {
    name: &'static str,
    version: &'static str,
    /// The machine's time of day.
    now: String,
    config: ConfigView,
}

#[derive(Debug, Serialize)]
struct ConfigView {
    /// Of what the configuration in force means, secrets left out: replicas that agree show the same.
    hash: String,
    applied_at: String,
    age_s: f64,
    last_reload: ReloadView,
}

#[derive(Debug, Serialize)]
struct ReloadView {
    at: String,
    age_s: f64,
    /// `start`, `signal`, `request` or `watch`.
    trigger: &'static str,
    /// Whether what was read is in force.
    ok: bool,
    /// Each with its place in the file.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    notes: Vec<String>,
}

pub(super) fn version(services: &Services) -> VersionView {
    let (status, now) = ((services.configuration)(), services.clock.wall());
    let age = |at| now.duration_since(at).unwrap_or_default().as_secs_f64();
    VersionView {
        name: env!("CARGO_PKG_NAME"),
        version: env!("CARGO_PKG_VERSION"),
        now: rfc3339(now),
        config: ConfigView {
            hash: status.hash.clone(),
            applied_at: rfc3339(status.applied_at),
            age_s: age(status.applied_at),
            last_reload: ReloadView {
                at: rfc3339(status.read_at),
                age_s: age(status.read_at),
                trigger: status.trigger,
                ok: status.errors.is_empty(),
                errors: status.errors.clone(),
                notes: status.notes.clone(),
            },
        },
    }
}
