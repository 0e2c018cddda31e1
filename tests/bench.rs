//! The load generator against a simulated NIM that says what it really did.

#![allow(clippy::expect_used, clippy::indexing_slicing, reason = "a test may panic")]

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use headway::bench::client::{Client, ClientOptions};
use headway::bench::drive::{Traffic, drive};
use headway::bench::record::{Metric, Phase, RequestRecord};
use headway::bench::report::Collector;
use headway::bench::request::{RequestBuilder, RequestShape};
use headway::bench::schedule::{Lengths, Limit, Load, Schedule};
use headway::bench::target::Target;
use headway::clock::{Clock, SystemClock};
use headway::engine::Profile;
use headway::nim_simulator::{DEFAULT_MODEL, FaultKind, Faults, Simulator, SimulatorOptions, TruthRecord};
use headway::wire::Api;
use http::HeaderMap;

async fn simulator(speed: f64, faults: Faults) -> Simulator {
    let profile = Profile::named("h100-latency").expect("known");
    let options = SimulatorOptions { speed, faults, ..SimulatorOptions::new(profile) };
    Simulator::start(options, Arc::new(SystemClock)).await.expect("a simulator")
}

fn traffic(api: Api, stream: bool, load: Load, count: u64) -> Traffic {
    let lengths = |mean| Lengths { mean, stddev: 0.0 };
    let limit = Limit { count: Some(count), duration: None };
    let shape = RequestShape { stream, exact_length: true, ..RequestShape::new(api, DEFAULT_MODEL) };
    Traffic {
        schedule: Schedule::new(load, lengths(100.0), Some(lengths(30.0)), limit, 1),
        builder: RequestBuilder::new(shape),
        phase: Phase::Profiling,
        label: "",
        headers: HeaderMap::new(),
        id_prefix: format!("{}-{stream}", api.as_str()),
    }
}

async fn measure(url: &str, traffic: Traffic) -> Vec<RequestRecord> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let target = Target::parse(url, None, traffic.builder.api()).expect("a URL");
    let options = ClientOptions { request_timeout: Duration::from_secs(30), ..ClientOptions::new(target) };
    let client = Arc::new(Client::new(options, Arc::clone(&clock)).expect("a client"));
    let (sender, mut records) = tokio::sync::mpsc::channel(1024);
    let start = clock.now();
    drive(client, traffic, clock, start, sender).await;
    let mut all = Vec::new();
    while let Ok(record) = records.try_recv() {
        all.push(record);
    }
    all
}

fn truths(simulator: &Simulator) -> HashMap<String, TruthRecord> {
    let named = |record: TruthRecord| Some((record.x_request_id.clone()?, record));
    simulator.truth_log().records().into_iter().filter_map(named).collect()
}

/// What must hold however slow the machine is.
#[track_caller]
fn check(record: &RequestRecord, truth: &TruthRecord) {
    let ms = |metric| record.metric(metric).expect("measured");
    assert_eq!(record.error, None);
    assert_eq!((record.usage.output_tokens, truth.tokens), (Some(30), 30));
    assert_eq!(record.usage.input_tokens, Some(u64::from(truth.prompt_tokens)));
    assert_eq!(record.content_responses, 30);
    let (ttft, latency) = (ms(Metric::TimeToFirstToken), ms(Metric::RequestLatency));
    // The client's clock starts before the server has the request, and stops after the server has sent.
    assert!(ttft >= truth.ttft_ms.expect("a first token"), "{ttft} {truth:?}");
    assert!(latency >= truth.last_ms.expect("a last token"), "{latency} {truth:?}");
    assert!(latency <= record.duration.as_secs_f64() * 1e3);
    let defined = (latency - ttft) / 29.0;
    assert!((ms(Metric::InterTokenLatency) - defined).abs() < 1e-3, "{defined}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_request_agrees_with_the_servers_own_record_of_it() {
    let simulator = simulator(1.0, Faults::none()).await;
    for api in [Api::Chat, Api::Completions] {
        let records = measure(&simulator.url(), traffic(api, true, Load::Closed { concurrency: 4 }, 12)).await;
        let truths = truths(&simulator);
        assert_eq!(records.len(), 12);
        for record in &records {
            check(record, truths.get(&record.request_id).expect("in the server's log"));
        }
    }
    // Four places reuse four connections; the two runs have clients of their own.
    assert!(simulator.stats().connections <= 8, "{:?}", simulator.stats());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_loop_sends_at_its_times_whether_or_not_answers_came() {
    let simulator = simulator(1.0, Faults::none()).await;
    let mut records =
        measure(&simulator.url(), traffic(Api::Chat, true, Load::Constant { per_second: 100.0 }, 20)).await;
    records.sort_by_key(|record| record.index);
    // Twenty requests in 0.2 s, each of which takes longer than that: they overlap.
    for (index, record) in (0_u64..).zip(&records) {
        assert_eq!(record.index, index);
        assert!(record.offset >= Duration::from_millis(10 * index), "{record:?}");
    }
    assert!(simulator.stats().connections > 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_not_streamed_has_only_its_whole_latency() {
    let simulator = simulator(10.0, Faults::none()).await;
    for api in [Api::Chat, Api::Completions, Api::Embeddings] {
        let records = measure(&simulator.url(), traffic(api, false, Load::Closed { concurrency: 2 }, 4)).await;
        assert_eq!(records.len(), 4);
        for record in &records {
            assert_eq!(record.error, None, "{api:?}");
            assert!(record.metric(Metric::RequestLatency).is_some(), "{api:?}");
            assert_eq!(record.metric(Metric::TimeToFirstToken), None, "{api:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_failure_has_its_class() {
    let expected = [
        (FaultKind::Refuse, "http_503"),
        (FaultKind::ResetBeforeFirstToken, "connect"),
        (FaultKind::ResetAfterFirstToken, "truncated"),
        (FaultKind::CloseMidEvent(3), "truncated"),
        (FaultKind::Truncate(3), "truncated"),
        (FaultKind::ErrorEvent, "stream_error"),
        (FaultKind::ErrorEventMid(3), "stream_error"),
    ];
    for (fault, class) in expected {
        let simulator = simulator(10.0, Faults::from(vec![fault])).await;
        let records = measure(&simulator.url(), traffic(Api::Chat, true, Load::Closed { concurrency: 1 }, 2)).await;
        let classes: Vec<_> = records.iter().map(|record| record.error.as_deref()).collect();
        assert_eq!(classes, [Some(class), Some(class)], "{fault:?}");
        let mut collector = Collector::new(None);
        records.iter().for_each(|record| collector.add(record));
        assert_eq!((collector.report().valid(), collector.report().error_count()), (0, 2));
    }
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound");
    let records =
        measure(&format!("http://{nobody}"), traffic(Api::Chat, true, Load::Closed { concurrency: 1 }, 1)).await;
    assert_eq!(records[0].error.as_deref(), Some("connect"));
}
