//! Every name in a span. The `GenAI` ones are still in development upstream, so they stand in one place.
//!
//! HTTP: <https://opentelemetry.io/docs/specs/semconv/http/http-spans/>. `GenAI`:
//! <https://github.com/open-telemetry/semantic-conventions-genai>; TTFT under the name that vLLM's own spans use, since
//! the conventions' first chunk counts chunks without a token. `headway.*` is ours; times are in seconds.

macro_rules! names {
    ($($id:ident = $name:literal;)*) => { $(pub(super) const $id: &str = $name;)* };
}

// Stretches.
names! {
    UPLOAD = "upload";
    OWN = "headway";
    QUEUE = "queue";
    CONNECT = "connect";
    SEND = "send";
    WAIT = "backend wait";
    ENGINE_QUEUE = "engine queue";
    ENGINE_PREFILL = "engine prefill";
    DECODE = "decode";
    BODY = "body";
    BACKPRESSURE = "client back-pressure";
}

// Events.
names! {
    EVENT_DECISION = "decision";
    EVENT_HEAD = "head";
    EVENT_FIRST_BYTE = "first_byte";
    EVENT_FIRST_TOKEN = "first_token";
    EVENT_STALL = "stall";
    EVENT_LAST_TOKEN = "last_token";
}

// HTTP and general conventions.
names! {
    METHOD = "http.request.method";
    SCHEME = "url.scheme";
    ROUTE_PATH = "http.route";
    STATUS = "http.response.status_code";
    PROTOCOL_NAME = "network.protocol.name";
    PROTOCOL_VERSION = "network.protocol.version";
    BYTES_IN = "http.request.body.size";
    BYTES_OUT = "http.response.body.size";
    RESEND = "http.request.resend_count";
    ERROR = "error.type";
    SERVER_ADDRESS = "server.address";
    SERVER_PORT = "server.port";
}

// GenAI conventions.
names! {
    OPERATION = "gen_ai.operation.name";
    PROVIDER = "gen_ai.provider.name";
    MODEL = "gen_ai.request.model";
    STREAM = "gen_ai.request.stream";
    CHOICES = "gen_ai.request.choice.count";
    MAX_TOKENS = "gen_ai.request.max_tokens";
    FINISH = "gen_ai.response.finish_reasons";
    FIRST_CHUNK = "gen_ai.response.time_to_first_chunk";
    INPUT_TOKENS = "gen_ai.usage.input_tokens";
    OUTPUT_TOKENS = "gen_ai.usage.output_tokens";
    REASONING_TOKENS = "gen_ai.usage.reasoning.output_tokens";
    CACHED_TOKENS = "gen_ai.usage.cache_read.input_tokens";
    TTFT = "gen_ai.latency.time_to_first_token";
    ENGINE_TIME_IN_QUEUE = "gen_ai.latency.time_in_queue";
}

// Ours.
names! {
    REQUEST_ID = "headway.request_id";
    ROUTE = "headway.route";
    GROUP = "headway.group";
    BACKEND = "headway.backend";
    PROFILE = "headway.profile";
    GPU_UTILIZATION = "headway.backend.gpu_utilization";
    KV_CACHE = "headway.backend.kv_cache_ratio";
    RUNNING = "headway.backend.running";
    WAITING = "headway.backend.waiting";
    OUTCOME = "headway.outcome";
    KEPT = "headway.kept";
    TRIES = "headway.attempts";
    REUSED = "headway.connection.reused";
    HEDGE = "headway.hedge";
    SHED = "headway.shed.reason";
    COST = "headway.cost";
    ITL = "headway.inter_token_latency";
    E2E = "headway.end_to_end";
    OVERHEAD = "headway.overhead";
    PENDING = "headway.backpressure";
    STALL = "headway.stall.duration";
    ENGINE_FIRST_TOKEN = "headway.engine.time_to_first_token";
    OUTSIDE_ENGINE = "headway.engine.outside";
    SLO_TTFT = "headway.slo.ttft";
    SLO_ITL = "headway.slo.itl";
    SLO_E2E = "headway.slo.e2e";
    DECISION_NUMBER = "headway.decision.number";
    DECISION_REASON = "headway.decision.reason";
    DECISION_CANDIDATES = "headway.decision.candidates";
    DECISION_FEASIBLE = "headway.decision.feasible";
    DECISION_PRICE = "headway.decision.price";
    DECISION_PREFIX_TOKENS = "headway.decision.prefix_tokens";
    OBJECTIVE_TTFT = "headway.decision.objective.ttft";
    OBJECTIVE_ITL = "headway.decision.objective.itl";
    OBJECTIVE_E2E = "headway.decision.objective.e2e";
    PREDICTED_TTFT = "headway.decision.predicted.ttft";
    PREDICTED_ITL = "headway.decision.predicted.itl";
    PREDICTED_E2E = "headway.decision.predicted.e2e";
    BOUND_TTFT = "headway.decision.bound.ttft";
    BOUND_ITL = "headway.decision.bound.itl";
    BOUND_E2E = "headway.decision.bound.e2e";
    HEADROOM_TTFT = "headway.decision.headroom.ttft";
    HEADROOM_ITL = "headway.decision.headroom.itl";
    HEADROOM_E2E = "headway.decision.headroom.e2e";
}

/// Who answers, as far as is known: something that speaks like a NIM.
pub(super) const PROVIDER_NAME: &str = "nvidia_nim";
