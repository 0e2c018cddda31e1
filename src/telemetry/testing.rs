//! Settings and records that tests of this folder share.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::config::access::Access;
use crate::config::settings::{
    Admin, Backend, BackendTls, BackendUrl, ClientSlo, Commit, Credential, Features, Health, Limits, PrefixAffinity,
    Retry, Route, RouteMatch, Settings, Shutdown, Telemetry, Timeouts,
};
use crate::measure::course::{Course, TryCourse};
use crate::measure::exchange::{Attempt, BackendLoad, DecisionSummary, ExchangeRecord, Latencies, Phases};
use crate::measure::group::{Assignment, FellOver, GroupIndex};
use crate::measure::objective::{Latency, Objective, Objectives, Verdicts};
use crate::measure::outcome::{Blame, Outcome};
use crate::route::admission::OnOverload;
use crate::route::policy::PolicyKind;
use crate::units::Quantile;
use crate::wire::{Api, EngineTimings, FinishReason, Usage};

/// The line of [`complete`].
pub(super) const COMPLETE_LINE: &str = include_str!("testdata/complete.jsonl");
/// The line of [`refused`].
pub(super) const REFUSED_LINE: &str = include_str!("testdata/refused.jsonl");

pub(super) fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Routes `chat` (backends `fast`, `cheap`; ttft 137 ms, itl 41 ms) and `batch` (`cheap`; no promise).
pub(super) fn settings() -> Settings {
    Settings {
        listeners: Vec::new(),
        limits: Limits::default(),
        shutdown: Shutdown::default(),
        threads: 1,
        trusted_proxies: Vec::new(),
        admin: Admin { address: ([127, 0, 0, 1], 0).into(), token: None, open_metrics: true, trace_url: None },
        telemetry: Telemetry::default(),
        state: None,
        baselines: None,
        access: Access::default(),
        backends: vec![backend("fast"), backend("cheap")],
        routes: vec![route("chat", &[0, 1], promise()), route("batch", &[1], Objectives::default())],
    }
}

fn promise() -> Objectives {
    let within =
        |latency, threshold| Some(Objective { latency, quantile: Quantile::P95, threshold: millis(threshold) });
    Objectives { ttft: within(Latency::TimeToFirstToken, 137), itl: within(Latency::InterToken, 41), e2e: None }
}

pub(super) fn backend(name: &str) -> Arc<Backend> {
    Arc::new(Backend {
        name: name.into(),
        url: BackendUrl { https: false, host: "127.0.0.1".into(), port: 1, base_path: "".into() },
        allow_link_local: false,
        tls: BackendTls::default(),
        http2: false,
        profile: None,
        profile_id: None,
        models: None,
        rename: Vec::new(),
        price: None,
        max_in_flight: None,
        context_length: None,
        features: Features::default(),
        credential: Credential::None,
        health: Health::default(),
        metrics: None,
        gpus: Vec::new(),
        dcgm: None,
    })
}

pub(super) fn route(name: &str, backends: &[usize], objectives: Objectives) -> Arc<Route> {
    Arc::new(Route {
        name: name.into(),
        matches: RouteMatch::default(),
        backends: backends.iter().map(|&index| (index, 1)).collect(),
        objectives,
        window: Duration::from_secs(300),
        budget_period: Duration::from_secs(86_400),
        policy: PolicyKind::default(),
        split: None,
        shadow_policy: None,
        priority: 0,
        on_overload: OnOverload::default(),
        prefix_affinity: PrefixAffinity::default(),
        timeouts: Timeouts::default(),
        retry: Retry::default(),
        commit: Commit::default(),
        hedge: None,
        heartbeat: None,
        expose: false,
        client_slo: ClientSlo::default(),
    })
}

fn attempt(
    (backend, reason): (&str, &'static str),
    (outcome, blame): (Outcome, Blame),
    duration: Duration,
    first_token: Option<Duration>,
) -> Attempt {
    let profile = Some("vllm-a100-bf16-tp1-throughput".into());
    Attempt {
        backend: backend.into(),
        profile,
        reason: Some(reason),
        decision: None,
        outcome,
        blame,
        duration,
        first_token,
        hedge: false,
        cost: None,
        course: TryCourse::default(),
    }
}

/// A streamed chat that failed over from `fast` to `cheap` and has every field.
pub(super) fn complete() -> ExchangeRecord {
    ExchangeRecord {
        started: SystemTime::UNIX_EPOCH + Duration::from_micros(1_767_225_600_123_456),
        request_id: "req-1".into(),
        trace_id: Some(0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c_u128.to_be_bytes()),
        trace: None,
        key: Some("team-a".into()),
        route: Some("chat".into()),
        group: Some(Assignment { group: GroupIndex(1), name: "canary".into(), fell_over: Some(FellOver::Failed) }),
        api: Some(Api::Chat),
        model: Some("meta/llama-3.1-8b-instruct".into()),
        attempts: vec![
            attempt(("fast", "probe"), (Outcome::ConnectFailed, Blame::Fault), Duration::from_micros(1_500), None),
            Attempt {
                cost: Some(0.0011),
                ..attempt(
                    ("cheap", "cheapest_within_slo"),
                    (Outcome::Complete, Blame::Success),
                    millis(2_000),
                    Some(millis(120)),
                )
            },
        ],
        status: 200,
        outcome: Outcome::Complete,
        stream: true,
        choices: 1,
        latencies: Latencies {
            first_byte: Some(millis(100)),
            first_token: Some(Duration::from_micros(123_457)),
            first_output: Some(millis(150)),
            second_token: Some(millis(20)),
            inter_token: Some(Duration::from_micros(20_250)),
            end_to_end: Some(millis(2_002)),
            longest_stall: Some(millis(75)),
        },
        gaps: Some(Box::new(gaps())),
        usage: Usage {
            input_tokens: Some(310),
            cached_tokens: Some(256),
            output_tokens: Some(94),
            reasoning_tokens: Some(12),
        },
        engine: Some(EngineTimings { queue: Some(millis(5)), prefill: millis(85), inter_token: Some(millis(20)) }),
        finish_reason: Some(FinishReason::Stop),
        course: Course::default(),
        phases: phases(),
        bytes_in: 1_240,
        bytes_out: 19_870,
        decision: Some(decision()),
        cost: Some(0.0011),
        shed: None,
        verdicts: Verdicts { ttft: Some(true), itl: Some(true), e2e: None },
    }
}

fn decision() -> DecisionSummary {
    DecisionSummary {
        number: 7,
        reason: "cheapest_within_slo",
        feasible: true,
        predicted_ttft: Some(millis(110)),
        bound_ttft: Some(millis(131)),
        predicted_itl: Some(millis(19)),
        bound_itl: Some(Duration::from_micros(22_500)),
        predicted_e2e: None,
        bound_e2e: None,
        price: Some(0.00125),
        prefix_tokens: 256.0,
        candidates: 2,
        load: busy(),
    }
}

fn busy() -> BackendLoad {
    BackendLoad { gpu_utilization: Some(0.87), kv_cache_ratio: Some(0.25), running: Some(7.0), waiting: Some(2.0) }
}

fn phases() -> Phases {
    Phases {
        upload: millis(3),
        queue: Duration::ZERO,
        connect: Duration::from_micros(800),
        backend_wait: millis(95),
        backpressure: Duration::ZERO,
        overhead: Duration::from_nanos(142_300),
        hash: Duration::from_nanos(1_200),
        decide: Duration::from_nanos(2_500),
        relay_first: Some(Duration::from_micros(61)),
        relay: Some(Duration::from_micros(18)),
        backpressured: false,
        held_back: false,
    }
}

/// A request that matched nothing.
pub(super) fn refused() -> ExchangeRecord {
    let of = complete();
    let begun = ExchangeRecord::begun(of.started, of.request_id);
    ExchangeRecord { status: 404, outcome: Outcome::RejectedRequest, bytes_in: 17, bytes_out: 160, ..begun }
}

/// Names as hostile as a careless configuration could make them.
pub(super) fn hostile() -> ExchangeRecord {
    ExchangeRecord { request_id: "\"}\n\u{1b}[2J".into(), model: Some("\u{0}".repeat(10_000).into()), ..complete() }
}

fn gaps() -> crate::measure::gaps::GapHistogram {
    let mut gaps = crate::measure::gaps::GapHistogram::default();
    for gap in [20, 20, 21, 75] {
        gaps.record(millis(gap));
    }
    gaps
}
