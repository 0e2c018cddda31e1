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
use headway::bench::tls::TlsOptions;
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

/// On one thread, which something else holds for a while: requests are sent late, and their users would have waited.
#[tokio::test]
async fn what_an_open_loop_sends_late_is_felt_as_late() {
    const HELD: Duration = Duration::from_millis(300);
    let simulator = simulator(10.0, Faults::none()).await;
    let (url, load) = (simulator.url(), Load::Constant { per_second: 100.0 });
    let holding = async {
        tokio::task::yield_now().await;
        std::thread::sleep(HELD);
    };
    let (records, ()) = tokio::join!(measure(&url, traffic(Api::Chat, true, load, 20)), holding);
    let late = records.iter().max_by_key(|record| record.lag).expect("records");
    assert!(late.lag >= HELD / 2, "{late:?}");
    for record in &records {
        // It counts from its place in the schedule, so what it was late by is in what was felt.
        assert_eq!(record.offset, Duration::from_millis(10 * record.index));
        assert!(record.latencies.first_token.expect("a token") >= record.lag, "{record:?}");
        assert!(record.latencies.end_to_end.expect("an end") >= record.latencies.first_token.expect("a token"));
    }
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
        for record in &records {
            collector.add(record);
        }
        assert_eq!((collector.report().valid(), collector.report().error_count()), (0, 2));
    }
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound");
    let records =
        measure(&format!("http://{nobody}"), traffic(Api::Chat, true, Load::Closed { concurrency: 1 }, 1)).await;
    assert_eq!(records[0].error.as_deref(), Some("connect"));
}

/// Answers each connection once with a stream of two tokens and closes it, whatever its head promised.
async fn serve_once<S>(mut socket: S)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut request = Vec::new();
    while !request.ends_with(b"}") {
        if socket.read_buf(&mut request).await.unwrap_or(0) == 0 {
            return;
        }
    }
    let chunk = |text: &str, finish: &str| {
        format!(
            "data: {{\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{text}\"}},\"finish_reason\":{finish}}}]}}\n\n"
        )
    };
    let usage = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":100,\"completion_tokens\":2}}\n\ndata: [DONE]\n\n";
    let body = format!("{}{}{usage}", chunk("a", "null"), chunk("b", "\"length\""));
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: keep-alive\r\n";
    let answer = format!("{head}content-length: {}\r\n\r\n{body}", body.len());
    let _ = socket.write_all(answer.as_bytes()).await;
    let _ = socket.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_closed_behind_our_back_is_replaced() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            tokio::spawn(serve_once(socket));
        }
    });
    let records = measure(&url, traffic(Api::Chat, true, Load::Closed { concurrency: 1 }, 5)).await;
    let errors: Vec<_> = records.iter().map(|record| record.error.clone()).collect();
    assert_eq!(errors, vec![None; 5]);
    // Both tokens came in one read, so they share its stamp.
    assert!(records.iter().all(|record| record.latencies.second_token == Some(Duration::ZERO)));
}

#[tokio::test(flavor = "multi_thread")]
async fn https_is_verified_and_an_own_authority_can_be_trusted() {
    let key = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let (certificate, pem) = (key.cert.der().clone(), key.cert.pem());
    let secret = rustls::pki_types::PrivateKeyDer::try_from(key.signing_key.serialize_der()).expect("a key");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate], secret)
        .expect("a pair");
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("https://localhost:{}", listener.local_addr().expect("bound").port());
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                if let Ok(socket) = acceptor.accept(socket).await {
                    serve_once(socket).await;
                }
            });
        }
    });
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("ca.pem");
    std::fs::write(&file, pem).expect("written");
    let trusted = headway::bench::tls::read_certificates(&file).expect("certificates");
    for (extra_roots, error) in [(Vec::new(), Some("connect")), (trusted, None)] {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let target = Target::parse(&url, None, Api::Chat).expect("a URL");
        let tls = TlsOptions { extra_roots, ..TlsOptions::default() };
        let options = ClientOptions { tls, ..ClientOptions::new(target) };
        let client = Arc::new(Client::new(options, Arc::clone(&clock)).expect("a client"));
        let (sender, mut records) = tokio::sync::mpsc::channel(4);
        let start = clock.now();
        drive(client, traffic(Api::Chat, true, Load::Closed { concurrency: 1 }, 1), clock, start, sender).await;
        let record = records.recv().await.expect("a record");
        assert_eq!(record.error.as_deref(), error);
    }
}
