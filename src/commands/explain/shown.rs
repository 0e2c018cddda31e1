//! What the admin listener answers, as far as it is told; what is not known is absent.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// One decision, past or present.
#[derive(Deserialize)]
pub(super) struct Shown {
    pub(super) route: String,
    pub(super) at: Option<String>,
    pub(super) request_id: Option<String>,
    pub(super) input_tokens: Option<u64>,
    #[serde(flatten)]
    pub(super) decided: Decided,
    /// Why there is nothing to choose from.
    pub(super) refused: Option<String>,
    pub(super) candidates: Vec<Candidate>,
    /// How busy the chosen backend was.
    #[serde(default)]
    pub(super) load: Load,
    pub(super) shadow: Option<Decided>,
    pub(super) happened: Option<Happened>,
}

impl Shown {
    /// The candidate that was chosen.
    pub(super) fn chosen(&self) -> Option<&Candidate> {
        self.candidates.iter().find(|one| Some(&one.backend) == self.decided.backend.as_ref())
    }
}

#[derive(Deserialize)]
pub(super) struct Decided {
    pub(super) backend: Option<String>,
    pub(super) reason: Option<String>,
    pub(super) turned_away: Option<String>,
    pub(super) cause: Option<String>,
    pub(super) retry_after_ms: Option<f64>,
}

#[derive(Deserialize)]
pub(super) struct Candidate {
    pub(super) backend: String,
    pub(super) verdict: String,
    pub(super) in_flight: u32,
    pub(super) ttft: Option<Predicted>,
    pub(super) itl: Option<Predicted>,
    pub(super) e2e: Predicted,
    pub(super) headroom: f64,
    pub(super) price: Option<f64>,
    pub(super) prefix_tokens: f64,
}

#[derive(Deserialize, Clone, Copy)]
pub(super) struct Predicted {
    pub(super) expected_ms: f64,
    pub(super) bound_ms: f64,
}

#[derive(Deserialize, Clone, Copy, Default)]
#[serde(default)]
pub(super) struct Load {
    pub(super) gpu_utilization: Option<f64>,
    pub(super) kv_cache_ratio: Option<f64>,
    pub(super) running: Option<f64>,
    pub(super) waiting: Option<f64>,
}

#[derive(Deserialize)]
pub(super) struct Happened {
    pub(super) outcome: String,
    pub(super) ttft_ms: Option<f64>,
    pub(super) itl_ms: Option<f64>,
    pub(super) e2e_ms: Option<f64>,
    pub(super) kept: Option<bool>,
}

/// What else is known.
#[derive(Default)]
pub(super) struct Beside {
    pub(super) routes: Vec<Route>,
    pub(super) backends: Vec<Backend>,
    /// What the access log says of the request.
    pub(super) exchange: Option<Exchange>,
}

#[derive(Deserialize)]
pub(super) struct Route {
    pub(super) name: String,
    pub(super) objectives: Vec<Objective>,
}

#[derive(Deserialize)]
pub(super) struct Objective {
    pub(super) latency: String,
    /// Absent for the joint one.
    pub(super) quantile: Option<f64>,
    pub(super) threshold_ms: Option<f64>,
}

#[derive(Deserialize)]
pub(super) struct Backend {
    pub(super) name: String,
    pub(super) engine: Option<Load>,
    /// Where the figures of its GPUs are from.
    #[serde(rename = "gpu")]
    pub(super) source: Option<String>,
    #[serde(default)]
    pub(super) gpus: Vec<Gpu>,
}

#[derive(Deserialize)]
pub(super) struct Gpu {
    #[serde(rename = "gpu")]
    pub(super) id: String,
    pub(super) utilization: Option<f64>,
    #[serde(default)]
    pub(super) slowdowns: Vec<String>,
    pub(super) temperature_celsius: Option<f64>,
}

/// One line of the access log.
#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct Exchange {
    pub(super) trace_id: Option<String>,
    pub(super) status: Option<u16>,
    pub(super) outcome: String,
    pub(super) attempts: Vec<Attempt>,
    pub(super) upload_ms: f64,
    pub(super) queue_ms: f64,
    pub(super) overhead_us: f64,
    pub(super) connect_ms: Option<f64>,
    pub(super) backend_wait_ms: Option<f64>,
    pub(super) backpressure_ms: Option<f64>,
    pub(super) ttft_ms: Option<f64>,
    pub(super) e2e_ms: Option<f64>,
    pub(super) input_tokens: Option<u64>,
    pub(super) cached_tokens: Option<u64>,
    pub(super) output_tokens: Option<u64>,
    pub(super) finish_reason: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct Attempt {
    pub(super) backend: String,
    pub(super) outcome: String,
    pub(super) ms: f64,
}

impl Beside {
    /// From the answers that there were.
    pub(super) fn read(routes: Option<Value>, backends: Option<Value>, requests: Option<Value>) -> Self {
        Self {
            routes: list(routes, "routes"),
            backends: list(backends, "backends"),
            exchange: list(requests, "requests").into_iter().next(),
        }
    }

    pub(super) fn route(&self, name: &str) -> Option<&Route> {
        self.routes.iter().find(|route| route.name == name)
    }

    pub(super) fn backend(&self, name: &str) -> Option<&Backend> {
        self.backends.iter().find(|backend| backend.name == name)
    }
}

/// What cannot be read is as good as not there.
fn list<T: DeserializeOwned>(answer: Option<Value>, name: &str) -> Vec<T> {
    let items = answer.and_then(|mut answer| Some(answer.get_mut(name)?.take()));
    items.and_then(|items| serde_json::from_value(items).ok()).unwrap_or_default()
}
