//! Spans against the record they are made of; sampling; the queue's bound.

use std::collections::HashMap;

use opentelemetry::trace::{SpanKind, Status};
use opentelemetry_sdk::trace::SpanData;

use super::super::testing::{self, millis};
use super::*;
use crate::measure::course::{Course, TryCourse};
use crate::measure::exchange::DecisionSummary;
use crate::measure::objective::Verdicts;
use crate::wire::EngineTimings;

const TRACE: TraceId = *b"0123456789abcdef";
const SERVER: SpanId = *b"server00";
const CALLER: SpanId = *b"caller00";

/// [`testing::complete`] as the proxy would have noted it: 2 ms of queue in 3 ms before the first try, which fails to
/// connect; the second waits 100 ms for its first token.
fn traced() -> ExchangeRecord {
    let mut record = testing::complete();
    record.trace = Some(TraceContext {
        trace_id: TRACE,
        span_id: SERVER,
        parent: Some(CALLER),
        sampled: true,
        kept: Some(Kept::Head),
        state: Some("a=b".into()),
    });
    record.phases.queue = millis(2);
    record.course = Course {
        method: "POST",
        queued: millis(1) / 2,
        blocked: Some((millis(300), millis(500))),
        stall_ended: Some(millis(400)),
        ended: millis(2_010),
        ..Course::default()
    };
    record.attempts[0].course = TryCourse {
        span_id: Some(*b"client-1"),
        began: millis(3),
        connecting: Some(millis(3)),
        ..TryCourse::default()
    };
    record.attempts[1].course = TryCourse {
        span_id: Some(*b"client-2"),
        began: millis(5),
        connecting: Some(millis(6)),
        connected: Some(millis(7)),
        sent: Some(millis(8)),
        head: Some(millis(10)),
        first_event: Some(millis(100)),
        first_token: Some(millis(108)),
        last_token: Some(millis(2_002)),
        status: Some(200),
        ..TryCourse::default()
    };
    record
}

fn made(record: &ExchangeRecord) -> Vec<SpanData> {
    let mut made = Vec::new();
    spans::of(record, &Ids::default(), &mut made);
    made
}

/// Name, parent's name, and the offsets of both ends in microseconds from the request being complete.
fn outline(record: &ExchangeRecord) -> Vec<(String, String, i128, i128)> {
    let made = made(record);
    let names: HashMap<_, _> = made.iter().map(|span| (span.span_context.span_id(), span.name.to_string())).collect();
    let offset = |at: std::time::SystemTime| match at.duration_since(record.started) {
        Ok(after) => i128::try_from(after.as_micros()).unwrap(),
        Err(before) => -i128::try_from(before.duration().as_micros()).unwrap(),
    };
    let parent = |span: &SpanData| names.get(&span.parent_span_id).cloned().unwrap_or_else(|| "-".to_owned());
    made.iter()
        .map(|span| (span.name.to_string(), parent(span), offset(span.start_time), offset(span.end_time)))
        .collect()
}

#[test]
fn a_record_becomes_a_tree_whose_bars_are_its_phases() {
    let (server, model) = ("POST /v1/chat/completions", "chat meta/llama-3.1-8b-instruct");
    let expected = [
        (server, "-", -3_000, 2_010_000),
        (model, server, 3_000, 4_500),
        (model, server, 5_000, 2_005_000),
        ("upload", server, -3_000, 0),
        ("headway", server, 0, 500),
        ("queue", server, 500, 2_500),
        ("headway", server, 2_500, 3_000),
        ("connect", model, 3_000, 4_500),
        ("connect", model, 6_000, 7_000),
        ("send", model, 7_000, 8_000),
        ("backend wait", model, 8_000, 108_000),
        ("engine queue", "backend wait", 18_000, 23_000),
        ("engine prefill", "backend wait", 23_000, 108_000),
        ("decode", model, 108_000, 2_002_000),
        ("client back-pressure", server, 300_000, 500_000),
    ];
    let outline = outline(&traced());
    let outline: Vec<_> = outline.iter().map(|(a, b, from, to)| (a.as_str(), b.as_str(), *from, *to)).collect();
    assert_eq!(outline, expected);
}

#[test]
fn as_many_spans_are_made_as_were_counted() {
    let mut unmeasured = traced();
    (unmeasured.engine, unmeasured.course.blocked, unmeasured.phases.queue) = (None, None, Duration::ZERO);
    unmeasured.phases.upload = Duration::ZERO;
    let refused = ExchangeRecord { trace: traced().trace, ..testing::refused() };
    for record in [traced(), unmeasured, refused] {
        assert_eq!(made(&record).len(), spans::count(&record));
    }
}

#[test]
fn a_span_says_who_called_what_kind_it_is_and_how_it_ended() {
    let made = made(&traced());
    let (server, first, second) = (&made[0], &made[1], &made[2]);
    assert_eq!(server.parent_span_id.to_bytes(), CALLER);
    assert!(server.parent_span_is_remote && !first.parent_span_is_remote);
    assert!(made.iter().all(|span| span.span_context.trace_id().to_bytes() == TRACE));
    assert!(made.iter().all(|span| span.span_context.trace_state().get("a") == Some("b")));
    assert_eq!((&server.span_kind, &second.span_kind), (&SpanKind::Server, &SpanKind::Client));
    assert!(made[3..].iter().all(|span| span.span_kind == SpanKind::Internal));
    assert_eq!((&server.status, &first.status), (&Status::Unset, &Status::error("connect_failed")));
    let events = |span: &SpanData| span.events.iter().map(|event| event.name.to_string()).collect::<Vec<_>>();
    assert_eq!(events(server), ["decision", "decision"]);
    assert_eq!(events(first), Vec::<String>::new());
    assert_eq!(events(second), ["first_byte", "first_token", "last_token"]);
}

#[test]
fn a_request_that_is_turned_away_says_why_on_its_only_span() {
    let decision = testing::complete().decision.map(|one| DecisionSummary { reason: "doomed", ..one });
    let record = ExchangeRecord { trace: traced().trace, decision, ..testing::refused() };
    let made = made(&record);
    let server = &made[0];
    let attribute =
        |name: &str| server.attributes.iter().find(|one| one.key.as_str() == name).map(|one| one.value.to_string());
    let told = ["reason", "number", "candidates"].map(|name| attribute(&format!("headway.decision.{name}")));
    assert_eq!(told, ["doomed", "7", "2"].map(|value| Some(value.to_owned())));
    let event = server.events.iter().find(|event| event.name == "decision").unwrap();
    let told: Vec<_> = event.attributes.iter().map(|one| (one.key.as_str(), one.value.to_string())).collect();
    assert_eq!(told, [("headway.decision.reason", "doomed".to_owned()), ("headway.decision.number", "7".to_owned())]);
    assert!(made.iter().all(|span| span.span_kind != SpanKind::Client));
}

#[test]
fn an_engine_that_claims_more_than_the_wait_is_not_believed() {
    let mut record = traced();
    record.engine = Some(EngineTimings { queue: Some(millis(1)), prefill: millis(100), inter_token: None });
    assert!(outline(&record).iter().all(|(name, ..)| !name.starts_with("engine")));
}

#[test]
fn a_silence_is_a_stall_when_it_is_long_and_unusual() {
    let stalls = |longest| {
        let mut record = traced();
        record.latencies.longest_stall = Some(longest);
        made(&record)[2].events.iter().filter(|event| event.name == "stall").count()
    };
    // The usual gap is 20 ms.
    assert_eq!([millis(79), millis(99), millis(100), millis(2_000)].map(stalls), [0, 0, 1, 1]);
}

#[track_caller]
fn head(sampler: Sampler, parent: Option<bool>, expected: f64) {
    let ids = Ids::default();
    let chosen = (0..20_000).filter(|_| chooses(sampler, ids.trace(), parent)).count();
    #[allow(clippy::cast_precision_loss, reason = "a few thousand")]
    let share = chosen as f64 / 20_000.0;
    assert!((share - expected).abs() < 0.02, "{sampler:?} {parent:?}: {share}");
}

#[test]
fn the_head_is_the_callers_choice_or_a_share() {
    for ratio in [0.0, 0.05, 0.5, 1.0] {
        let sampler = Sampler { follows_parent: true, ratio };
        head(sampler, None, ratio);
        head(sampler, Some(true), 1.0);
        head(sampler, Some(false), 0.0);
        head(Sampler { follows_parent: false, ..sampler }, Some(true), ratio);
    }
}

#[test]
fn a_share_is_taken_of_the_lower_half_of_the_trace_id() {
    let sampler = Sampler { follows_parent: true, ratio: 0.5 };
    let id = |upper: u64, lower: u64| (u128::from(upper) << 64 | u128::from(lower)).to_be_bytes();
    assert!(chooses(sampler, id(u64::MAX, u64::MAX / 2 - 10_000), None));
    assert!(!chooses(sampler, id(0, u64::MAX / 2 + 10_000), None));
}

#[test]
fn what_is_kept_is_decided_at_the_end() {
    let kept = |always, change: fn(&mut ExchangeRecord)| {
        let settings = Otlp { always_sample: always, ..settings() };
        let tracer = Tracer::start(&settings, Arc::default()).unwrap();
        let mut record = traced();
        record.attempts.remove(0);
        record.trace = record.trace.map(|trace| TraceContext { sampled: false, ..trace });
        change(&mut record);
        tracer.judge(&record)
    };
    let (none, all) = (AlwaysSample::default(), AlwaysSample { slo_miss: true, error: true });
    let missed =
        |record: &mut ExchangeRecord| record.verdicts = Verdicts { ttft: Some(false), itl: Some(true), e2e: None };
    let broken =
        |record: &mut ExchangeRecord| (record.outcome, record.verdicts) = (Outcome::Truncated, Verdicts::default());
    let mended = |record: &mut ExchangeRecord| record.attempts.insert(0, testing::complete().attempts.remove(0));
    let left = |record: &mut ExchangeRecord| record.outcome = Outcome::ClientCancelled;
    let chosen = |record: &mut ExchangeRecord| record.trace.as_mut().unwrap().sampled = true;
    assert_eq!(kept(none, missed), None);
    assert_eq!(kept(none, broken), None);
    assert_eq!(kept(none, chosen), Some(Kept::Head));
    assert_eq!(kept(all, |_| {}), None);
    assert_eq!(kept(all, missed), Some(Kept::SloMiss));
    assert_eq!(kept(all, broken), Some(Kept::Error));
    assert_eq!(kept(all, mended), Some(Kept::Error));
    assert_eq!(kept(all, left), None);
    assert_eq!(kept(all, chosen), Some(Kept::Head));
}

fn settings() -> Otlp {
    use crate::config::otlp::{OtlpProtocol, OtlpTls, SpanLimits, SpanQueue};
    use crate::config::settings::BackendUrl;
    Otlp {
        endpoint: BackendUrl { https: false, host: "127.0.0.1".into(), port: 1, base_path: "/v1/traces".into() },
        protocol: OtlpProtocol::HttpProtobuf,
        headers: Vec::new(),
        tls: OtlpTls::default(),
        timeout: Duration::from_secs(5),
        sampler: Sampler::DEFAULT,
        always_sample: AlwaysSample::default(),
        queue: SpanQueue { spans: 40, batch: 20, delay: Duration::from_secs(3_600) },
        limits: SpanLimits::default(),
        gzip: false,
        propagates: true,
        resource: Vec::new(),
    }
}

#[test]
fn every_span_is_sent_or_counted_as_lost() {
    let counts = Arc::<SpanCounts>::default();
    let tracer = Tracer::start(&settings(), Arc::clone(&counts)).unwrap();
    let (record, pushed) = (Arc::new(traced()), 50);
    (0..pushed).for_each(|_| tracer.record(&record));
    tracer.start_closing(Duration::from_secs(20));
    assert!(tracer.closed(Duration::from_secs(20)));
    let lost: Vec<_> = DropReason::ALL.iter().map(|reason| counts.dropped(*reason)).collect();
    assert_eq!(lost.iter().sum::<u64>(), pushed * spans::count(&record) as u64, "{lost:?}");
    assert!(counts.dropped(DropReason::QueueFull) > 0 && counts.dropped(DropReason::ExportFailed) > 0, "{lost:?}");
    tracer.record(&record);
    assert_eq!(counts.dropped(DropReason::Shutdown), spans::count(&record) as u64);
}

#[test]
fn a_try_says_how_busy_its_backend_was_and_what_was_expected_of_it() {
    let made = made(&traced());
    let told = |name: &str| {
        let value = made[2].attributes.iter().find(|one| one.key.as_str() == name).map(|one| one.value.to_string());
        value.unwrap_or_else(|| panic!("{name} in {:?}", made[2].attributes))
    };
    let busy = ["gpu_utilization", "kv_cache_ratio", "running", "waiting"];
    assert_eq!(busy.map(|name| told(&format!("headway.backend.{name}"))), ["0.87", "0.25", "7", "2"]);
    let decided = ["candidates", "predicted.ttft", "bound.ttft", "price", "prefix_tokens"];
    let decided = decided.map(|name| told(&format!("headway.decision.{name}")));
    assert_eq!(decided, ["2", "0.11", "0.131", "0.00125", "256"]);
}

#[test]
fn what_goes_beyond_the_limits_of_a_span_is_left_out_and_counted() {
    use crate::config::otlp::SpanLimits;
    let whole = &made(&traced())[0];
    let held = |limits| {
        let mut span = whole.clone();
        limits::hold(&mut span, limits);
        span
    };
    let none = SpanLimits::default();
    let same = held(none);
    assert_eq!((&same.attributes, same.dropped_attributes_count), (&whole.attributes, 0));
    assert_eq!((same.events.events.len(), same.events.dropped_count), (whole.events.events.len(), 0));
    let few = held(SpanLimits { attributes: 3, text: 2, events: 1, event_attributes: 1 });
    assert_eq!(few.attributes.len() + few.dropped_attributes_count as usize, whole.attributes.len());
    assert_eq!(few.attributes.iter().map(|one| one.value.to_string()).collect::<Vec<_>>(), ["PO", "ht", "/v"]);
    assert_eq!((few.events.len(), few.events.dropped_count as usize), (1, whole.events.len() - 1));
    let event = &few.events.events[0];
    assert_eq!(
        event.attributes.len() + event.dropped_attributes_count as usize,
        whole.events.events[0].attributes.len()
    );
}
