//! What the admin listener says at one moment, as far as the view shows it. A field that an older or newer headway
//! does not tell is absent, and its cell empty.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::super::ask::Admin;

/// How many decisions are asked for: more than fit on a screen.
const DECISIONS: usize = 50;

/// One moment.
#[derive(Debug, Clone, Default)]
pub(super) struct Snapshot {
    pub(super) version: String,
    pub(super) routes: Vec<Route>,
    pub(super) backends: Vec<Backend>,
    /// The newest first.
    pub(super) decisions: Vec<Decision>,
}

/// One route.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Route {
    pub(super) name: String,
    pub(super) objectives: Vec<Objective>,
    pub(super) backends: Vec<Member>,
    pub(super) requests_per_second: Option<f64>,
    pub(super) cost: Option<f64>,
    pub(super) last_minute: LastMinute,
    /// Absent where requests are not split.
    pub(super) split: Option<Split>,
}

/// The groups of a route.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Split {
    pub(super) groups: Vec<Group>,
}

/// One group.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Group {
    pub(super) name: String,
    pub(super) state: String,
    pub(super) effective_share: f64,
}

/// One promise of a route.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Objective {
    pub(super) latency: String,
    /// Absent for the joint one.
    pub(super) quantile: Option<f64>,
    pub(super) threshold_ms: Option<f64>,
    pub(super) attainment: Option<f64>,
    pub(super) budget_left: Option<f64>,
    /// By the length of the window.
    pub(super) burn_rate: BTreeMap<String, f64>,
}

/// A backend as a route sees it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Member {
    pub(super) backend: String,
    pub(super) requests: u64,
    pub(super) predicted: Option<Predictions>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Predictions {
    pub(super) ttft: Option<Predicted>,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(default)]
pub(super) struct Predicted {
    pub(super) expected_ms: f64,
    pub(super) bound_ms: f64,
}

/// What was measured in the last minute.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct LastMinute {
    pub(super) requests: u64,
    pub(super) ttft: Option<Quantiles>,
    pub(super) itl: Option<Quantiles>,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(default)]
pub(super) struct Quantiles {
    pub(super) p95_ms: f64,
}

/// One backend.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Backend {
    pub(super) name: String,
    pub(super) profile: Option<String>,
    pub(super) state: String,
    pub(super) in_flight: u32,
    pub(super) max_in_flight: Option<u32>,
    pub(super) engine: Option<Engine>,
    /// Where its GPUs' figures are from.
    pub(super) gpu: Option<String>,
    pub(super) gpus: Vec<Gpu>,
    pub(super) price: Option<Price>,
    pub(super) cost: Option<f64>,
    pub(super) last_minute: LastMinute,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(default)]
pub(super) struct Engine {
    pub(super) kv_cache_ratio: Option<f64>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Gpu {
    pub(super) utilization: Option<f64>,
    pub(super) throttled: Option<bool>,
}

/// By time or by token.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(default)]
pub(super) struct Price {
    pub(super) per_gpu_hour: Option<f64>,
    pub(super) gpus: Option<f64>,
    pub(super) input_per_mtok: Option<f64>,
    pub(super) output_per_mtok: Option<f64>,
}

/// One decision.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Decision {
    pub(super) at: String,
    pub(super) request_id: Option<String>,
    pub(super) route: String,
    pub(super) input_tokens: Option<u64>,
    pub(super) backend: Option<String>,
    pub(super) reason: Option<String>,
    pub(super) turned_away: Option<String>,
    pub(super) candidates: Vec<Candidate>,
    pub(super) happened: Option<Happened>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Candidate {
    pub(super) backend: String,
    pub(super) ttft: Option<Predicted>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Happened {
    pub(super) outcome: String,
    pub(super) ttft_ms: Option<f64>,
    pub(super) e2e_ms: Option<f64>,
    pub(super) kept: Option<bool>,
}

impl Snapshot {
    /// Asks for everything at once.
    pub(super) async fn ask(admin: &Admin) -> anyhow::Result<Self> {
        let newest = format!("/api/v1/decisions?limit={DECISIONS}");
        let (version, routes, backends, decisions) = tokio::try_join!(
            admin.get("/api/v1/version"),
            admin.get("/api/v1/routes"),
            admin.get("/api/v1/backends"),
            admin.get(&newest),
        )?;
        Self::read(&version, &routes, &backends, &decisions)
    }

    /// Reads the four answers.
    pub(super) fn read(version: &Value, routes: &Value, backends: &Value, decisions: &Value) -> anyhow::Result<Self> {
        Ok(Self {
            version: version.get("version").and_then(Value::as_str).unwrap_or_default().to_owned(),
            routes: list(routes, "routes")?,
            backends: list(backends, "backends")?,
            decisions: list(decisions, "decisions")?,
        })
    }
}

fn list<T: DeserializeOwned>(answer: &Value, name: &str) -> serde_json::Result<Vec<T>> {
    answer.get(name).map_or_else(|| Ok(Vec::new()), Vec::deserialize)
}
