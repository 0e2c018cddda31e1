//! Whether a backend has users: measuring would hurt them, and they would spoil the measurement.

use anyhow::bail;
use serde_json::Value;
use tokio::time::sleep;

use super::visit::Visit;
use crate::commands::ask::Admin;
use crate::config::settings::{Backend, EngineMetrics, Settings};

/// Fewer requests than this are none.
const NOBODY: f64 = 0.5;

/// Looks at its metrics, an interval apart, before what they say is believed: the latest may be of our own load.
const LOOKS: u32 = 3;

/// Refuses a backend that has users.
///
/// # Errors
/// When a headway of this configuration sends it requests, or its engine has some that are not ours.
pub(super) async fn idle(visit: &Visit, settings: &Settings, place: usize) -> anyhow::Result<()> {
    let Some(backend) = settings.backends.get(place) else { return Ok(()) };
    if let Some((admin, state)) = served_by(settings, backend).await {
        let name = &backend.name;
        bail!(
            "a running headway ({admin}) has it in service ({state}); drain it there first \
             (curl -X POST http://{admin}/api/v1/backends/{name}/drain), or measure it nevertheless with --in-service"
        );
    }
    let Some(mut load) = visit.engine(place).await else { return Ok(()) };
    for _ in 0..LOOKS {
        if load.running + load.waiting <= NOBODY {
            return Ok(());
        }
        sleep(EngineMetrics::INTERVAL).await;
        load = visit.engine(place).await.unwrap_or(load);
    }
    bail!(
        "its engine has {:.0} requests running and {:.0} waiting that are not ours; measure it nevertheless with \
         --in-service",
        load.running,
        load.waiting
    );
}

/// The admin address of a running headway that sends it requests, and its state there.
async fn served_by(settings: &Settings, backend: &Backend) -> Option<(String, String)> {
    let address = settings.admin.address;
    if address.port() == 0 {
        return None;
    }
    let admin = Admin::at(address, settings.admin.token.as_ref());
    let answer = admin.get("/api/v1/backends").await.ok()?;
    let state = state(&answer, backend)?;
    (state != "draining").then(|| (admin.address().to_owned(), state))
}

/// What a headway says of a backend: of the one at the same URL.
fn state(answer: &Value, backend: &Backend) -> Option<String> {
    let scheme = if backend.url.https { "https" } else { "http" };
    let url = format!("{scheme}://{}{}", backend.url.authority(), backend.url.base_path);
    let all = answer.get("backends").and_then(Value::as_array)?;
    let same = all.iter().find(|one| one.get("url").and_then(Value::as_str) == Some(&*url))?;
    same.get("state").and_then(Value::as_str).map(str::to_owned)
}
