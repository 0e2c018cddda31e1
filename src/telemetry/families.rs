//! Every metric family that headway exports: one table that drives registration, the page and the documentation.
//!
//! A family that is not in [`FAMILIES`] cannot be exported, and a test exports every one that is.

use prometheus::core::Desc;
use prometheus::proto::MetricType;

/// What a family's samples are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows; ends in `_total`.
    Counter,
    /// Goes up and down.
    Gauge,
    /// A distribution in cumulative buckets.
    Histogram,
}

impl Kind {
    pub(super) fn field_type(self) -> MetricType {
        match self {
            Self::Counter => MetricType::COUNTER,
            Self::Gauge => MetricType::GAUGE,
            Self::Histogram => MetricType::HISTOGRAM,
        }
    }
}

/// One metric family.
#[derive(Debug, Clone, Copy)]
pub struct Family {
    /// Its name, unit and suffix included.
    pub name: &'static str,
    /// What its samples are.
    pub kind: Kind,
    /// Its labels; their values come from the configuration or from closed sets.
    pub labels: &'static [&'static str],
    /// One sentence.
    pub help: &'static str,
}

impl Family {
    /// The registry's description of the family; `None` if the table holds a name that Prometheus refuses.
    pub(super) fn desc(&self) -> Option<Desc> {
        let labels = self.labels.iter().map(|&label| label.to_owned()).collect();
        Desc::new(self.name.to_owned(), self.help.to_owned(), labels, std::collections::HashMap::new()).ok()
    }
}

/// Declares the families as constants, and the table of them all.
macro_rules! families {
    ($($id:ident = $kind:ident $name:literal [$($label:literal),*] $help:literal;)*) => {
        $(pub(super) const $id: Family =
            Family { name: $name, kind: Kind::$kind, labels: &[$($label),*], help: $help };)*

        /// Every family, by name in the order of the documentation.
        pub const FAMILIES: &[Family] = &[$($id),*];
    };
}

families! {
    REQUESTS = Counter "headway_requests_total" ["route", "backend", "api", "outcome"]
        "Exchanges by how they ended.";
    REQUEST_DURATION = Histogram "headway_request_duration_seconds" ["route", "backend"]
        "From the complete request to the last content response, or to the end of an unstreamed answer; completed exchanges.";
    FIRST_TOKEN = Histogram "headway_time_to_first_token_seconds" ["route", "backend"]
        "TTFT: from the complete request to the first content response; completed streamed exchanges.";
    FIRST_OUTPUT_TOKEN = Histogram "headway_time_to_first_output_token_seconds" ["route", "backend"]
        "TTFO: like TTFT, reasoning left out; completed streamed exchanges.";
    INTER_TOKEN = Histogram "headway_inter_token_latency_seconds" ["route", "backend"]
        "ITL: (end to end - TTFT) / (output tokens - 1), one observation per completed streamed exchange.";
    INTER_CHUNK = Histogram "headway_inter_chunk_latency_seconds" ["route", "backend"]
        "Every gap between consecutive content responses of completed streamed exchanges.";
    LONGEST_STALL = Histogram "headway_longest_stall_seconds" ["route", "backend"]
        "The longest gap between content responses; completed streamed exchanges.";
    FIRST_BYTE = Histogram "headway_time_to_first_byte_seconds" ["route", "backend"]
        "From the complete request to the first byte of the answer's body; completed exchanges.";
    OVERHEAD = Histogram "headway_overhead_seconds" ["route", "phase"]
        "What headway itself added to latencies; phase request: before the request left for the backend, waiting apart, of which hash: naming the prompt's blocks, and decide: choosing the backend; first_token and token: from reading a token to having written it.";
    QUEUE = Histogram "headway_queue_seconds" ["route"]
        "How long requests waited for a place, of those that had to.";
    INPUT_TOKENS = Counter "headway_input_tokens_total" ["route", "backend"]
        "Prompt tokens, as the backends' usage states them.";
    OUTPUT_TOKENS = Counter "headway_output_tokens_total" ["route", "backend"]
        "Output tokens, reasoning included, as the backends' usage states them.";
    NO_FIRST_TOKEN = Counter "headway_no_first_token_total" ["route", "backend", "outcome"]
        "Streamed exchanges that reached for a backend and ended without a content response.";
    SLO_REQUESTS = Counter "headway_slo_requests_total" ["route", "latency", "result"]
        "Exchanges judged by the route's objectives: good or bad; latency joint: by all of them.";
    SLO_TARGET = Gauge "headway_slo_target_ratio" ["route", "latency"]
        "Share of exchanges that the objective is promised to: 0.95 for a p95.";
    SLO_THRESHOLD = Gauge "headway_slo_threshold_seconds" ["route", "latency"]
        "The latency that the objective promises to that share.";
    SLO_ATTAINMENT = Gauge "headway_slo_attainment_ratio" ["route", "latency"]
        "Share of good exchanges in the route's window.";
    SLO_BUDGET_LEFT = Gauge "headway_slo_budget_left_ratio" ["route", "latency"]
        "Share of the error budget of the route's budget period that is left; below 0 when overspent.";
    SLO_BURN_RATE = Gauge "headway_slo_burn_rate" ["route", "latency", "window"]
        "How fast the error budget is used: 1 uses it up exactly by the end of the budget period.";
    DECISIONS = Counter "headway_decisions_total" ["route", "backend", "reason"]
        "Routing decisions, one per try, by why the backend was chosen.";
    PREDICTED = Gauge "headway_predicted_seconds" ["route", "backend", "latency"]
        "The calibrated bound that a usual request of the route would get at the backend now: what is compared with the objective.";
    PREDICTION_MISS = Gauge "headway_prediction_miss_ratio" ["route", "backend", "latency"]
        "Share of the completed requests of the last five minutes that took longer than the bound predicted of them.";
    COST = Counter "headway_cost_total" ["route", "backend"]
        "What answers cost, in the configuration's currency, by the tokens that the backends state.";
    SHADOW_DECISIONS = Counter "headway_shadow_decisions_total" ["route", "backend", "agrees", "predicted"]
        "What the route's shadow policy would have decided: whether it agreed with the policy in force, and whether its choice was expected to keep the promise.";
    SHADOW_COST = Counter "headway_shadow_cost_total" ["route", "backend"]
        "What the choices of the route's shadow policy were expected to cost.";
    SPLIT_REQUESTS = Counter "headway_split_requests_total" ["route", "group"]
        "Exchanges by the group that they were assigned to, on routes that split their requests.";
    SPLIT_FELL_OVER = Counter "headway_split_fell_over_total" ["route", "group", "reason"]
        "Those of them that another group was asked for, by why: unusable, refused, failed or hedged.";
    SPLIT_SLO_REQUESTS = Counter "headway_split_slo_requests_total" ["route", "group", "latency", "result"]
        "Those of them that the route's objectives judged, since the comparison began: good or bad; what failed in its group and was made good by another is bad.";
    SPLIT_SHARE = Gauge "headway_split_share_ratio" ["route", "group"]
        "The share that requests are drawn by now; 0 for a group that was rolled back.";
    SPLIT_ROLLED_BACK = Gauge "headway_split_rolled_back" ["route", "group"]
        "1 for a group that was rolled back, and gets nothing more.";
    ATTEMPTS = Counter "headway_attempts_total" ["route", "backend", "result"]
        "Tries on backends by how they ended; an exchange may have more than one.";
    SHED = Counter "headway_shed_total" ["route", "reason"]
        "Exchanges refused because of load.";
    BACKEND_IN_FLIGHT = Gauge "headway_backend_in_flight" ["backend"]
        "Requests in flight on the backend.";
    BACKEND_WAITING_TOKENS = Gauge "headway_backend_waiting_tokens" ["backend"]
        "Estimated prompt tokens of the backend's requests that await their first token.";
    BACKEND_DEMAND = Gauge "headway_backend_demand_ratio" ["backend", "profile"]
        "The load that is asked of the backend over the most it could carry with its routes' promises kept, as predicted: above 1, more of its kind are needed. Absent while it is out of service, and where it could not keep them even when idle.";
    UNPLACED = Counter "headway_unplaced_requests_total" ["route"]
        "Requests that found no place when they were first decided on: no backend was expected to keep the promise, or room was made for others.";
    BACKEND_SLOW = Gauge "headway_backend_slow" ["backend"]
        "1 while it is much slower than it used to be, and the others are not.";
    BACKEND_BUFFERING = Gauge "headway_backend_buffering" ["backend"]
        "1 while something between the engine and headway holds the backend's tokens back: most of its latest streams came in bursts.";
    BUFFERED_STREAMS = Counter "headway_buffered_streams_total" ["backend"]
        "Completed streams whose tokens were held back and came in bursts; their latencies are not learned.";
    ENGINE_RUNNING = Gauge "headway_engine_running" ["backend"]
        "Requests in the engine's batch, whoever sent them, by its own metrics; where they are asked for.";
    ENGINE_WAITING = Gauge "headway_engine_waiting" ["backend"]
        "Requests in the engine's queue, whoever sent them, by its own metrics.";
    ENGINE_KV_CACHE = Gauge "headway_engine_kv_cache_ratio" ["backend"]
        "Share of the engine's key/value cache in use, by its own metrics.";
    GPU_UTILIZATION = Gauge "headway_gpu_utilization_ratio" ["gpu", "backend"]
        "Share of time in which something ran on the GPU: how busy it is, not how full.";
    GPU_MEMORY_USED = Gauge "headway_gpu_memory_used_bytes" ["gpu", "backend"]
        "GPU memory that is allocated.";
    GPU_MEMORY_TOTAL = Gauge "headway_gpu_memory_total_bytes" ["gpu", "backend"]
        "GPU memory that there is.";
    GPU_POWER = Gauge "headway_gpu_power_watts" ["gpu", "backend"]
        "What the GPU draws.";
    GPU_TEMPERATURE = Gauge "headway_gpu_temperature_celsius" ["gpu", "backend"]
        "How hot the GPU is.";
    GPU_CLOCK = Gauge "headway_gpu_clock_hertz" ["gpu", "backend"]
        "The clock of the GPU's multiprocessors.";
    GPU_THROTTLED = Gauge "headway_gpu_throttled" ["gpu", "backend"]
        "Whether heat or hardware slows the GPU; its power cap alone does not count.";
    BACKEND_STATE = Gauge "headway_backend_state" ["backend", "state"]
        "1 for the state the backend is in, 0 for the others.";
    RELOAD_SUCCESSFUL = Gauge "headway_config_last_reload_successful" []
        "Whether the last reading of the configuration succeeded.";
    RELOAD_TIMESTAMP = Gauge "headway_config_last_reload_success_timestamp_seconds" []
        "When the configuration was last read with success.";
    CERTIFICATE_EXPIRY = Gauge "headway_certificate_expiry_timestamp_seconds" ["listener", "backend", "role"]
        "When a certificate that is in use stops working, since the Unix epoch; role own: shown, with its chain, of which the first to end counts; authority: trusted, of which the last to end counts.";
    HANDSHAKES_FAILED = Counter "headway_tls_handshakes_failed_total" []
        "Connections of clients that came to no TLS: too old a version, no or a wrong certificate, too slow, no TLS at all.";
    PARSE_SKIPPED = Counter "headway_parse_skipped_total" []
        "Parts of answers that were forwarded without being read, because of their size or form.";
    SERIES_DROPPED = Counter "headway_series_dropped_total" []
        "Observations counted as `other` because what they are about has no series: it left the configuration, or the configuration names more than series are kept for.";
    PANICS = Counter "headway_panics_total" []
        "Panics that were caught; each ended one exchange.";
    ACCESS_LOG_DROPPED = Counter "headway_access_log_dropped_total" []
        "Access log lines dropped because the log could not be written fast enough.";
    LOG_DROPPED = Counter "headway_log_dropped_total" []
        "Lines of headway's own log dropped because standard error could not be written fast enough.";
    SPANS_EXPORTED = Counter "headway_spans_exported_total" []
        "Spans that the collector has taken.";
    SPANS_DROPPED = Counter "headway_spans_dropped_total" ["reason"]
        "Spans that did not reach the collector, by why.";
    BUILD_INFO = Gauge "headway_build_info" ["version"]
        "Always 1; the label says which headway this is.";
    PROCESS_CPU = Counter "process_cpu_seconds_total" []
        "User and system CPU time.";
    PROCESS_RESIDENT = Gauge "process_resident_memory_bytes" []
        "Resident memory.";
    PROCESS_VIRTUAL = Gauge "process_virtual_memory_bytes" []
        "Virtual memory.";
    PROCESS_OPEN_FDS = Gauge "process_open_fds" []
        "Open file descriptors.";
    PROCESS_MAX_FDS = Gauge "process_max_fds" []
        "Most file descriptors the process may open.";
    PROCESS_THREADS = Gauge "process_threads" []
        "Threads.";
    PROCESS_START_TIME = Gauge "process_start_time_seconds" []
        "When the process started, since the Unix epoch.";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_family_follows_the_naming_rules() {
        for family in FAMILIES {
            assert!(family.name.starts_with("headway_") || family.name.starts_with("process_"), "{}", family.name);
            assert_eq!(family.name.ends_with("_total"), family.kind == Kind::Counter, "{}", family.name);
            assert!(family.kind != Kind::Histogram || family.name.ends_with("_seconds"), "{}", family.name);
            assert!(family.help.ends_with('.') && family.desc().is_some(), "{}", family.name);
        }
        let mut names: Vec<_> = FAMILIES.iter().map(|family| family.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), FAMILIES.len(), "a name stands twice");
    }
}
