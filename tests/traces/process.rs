//! headway as a process of its own: OpenTelemetry's environment variables, and signals.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::collector::{Collector, map};
use crate::support::backend::Scripted;
use crate::support::client::Client;
use crate::support::headway::Setup;
use crate::support::texts::{CHAT, STREAM, post, post_with, streamed};
use crate::support::until;

/// A running process; dropping it kills it.
pub(crate) struct Process {
    child: Mutex<Child>,
    log: Arc<Mutex<String>>,
}

impl Drop for Process {
    fn drop(&mut self) {
        let child = self.child.get_mut().unwrap();
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// A configuration in a file.
pub(crate) fn config_file(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::Builder::new().suffix(".yaml").tempfile().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

impl Process {
    /// Runs `headway serve` on that file, with these variables and no other of OpenTelemetry's, until it is ready; its
    /// data and admin addresses.
    pub(crate) async fn serving(config: &Path, variables: &[(&str, &str)]) -> (Self, SocketAddr, SocketAddr) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_headway"));
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("OTEL_")) {
            command.env_remove(name);
        }
        command.args(["serve", "--config"]).arg(config).env("NO_COLOR", "1").envs(variables.iter().copied());
        let piped = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = piped.spawn().expect("it runs");
        let log = Arc::new(Mutex::new(String::new()));
        let (into, from) = (Arc::clone(&log), child.stderr.take().expect("piped"));
        std::thread::spawn(move || {
            for line in BufReader::new(from).lines().map_while(Result::ok) {
                into.lock().unwrap().push_str(&(line + "\n"));
            }
        });
        let process = Self { child: Mutex::new(child), log };
        until("its addresses", || process.address(" admin ").is_some()).await;
        let (data, admin) = (process.address(" serving ").unwrap(), process.address(" admin ").unwrap());
        loop {
            let mut client = Client::connect(admin).await;
            client.send("GET /readyz HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
            if client.reply().await.status == 200 {
                return (process, data, admin);
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }

    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    fn address(&self, what: &str) -> Option<SocketAddr> {
        let log = self.log();
        log.lines().find(|line| line.contains(what))?.rsplit("address=").next()?.trim().parse().ok()
    }

    pub(crate) fn signal(&self, name: &str) {
        let id = self.child.lock().unwrap().id().to_string();
        let sent = Command::new("kill").args(["-s", name, &id]).status().expect("kill runs");
        assert!(sent.success());
    }

    /// Waits for its end; its exit code.
    pub(crate) async fn code(&mut self) -> Option<i32> {
        let ended = || self.child.lock().unwrap().try_wait().expect("a child");
        until("the end of headway", || ended().is_some()).await;
        ended().and_then(|status| status.code())
    }
}

/// What a collector got of one request to a headway with these variables and this `telemetry`, and headway's own log.
async fn with(
    collector: &Collector,
    variables: &[(&str, &str)],
    telemetry: &str,
    fields: &str,
) -> (Vec<Value>, String) {
    let backend = Scripted::start(streamed()).await;
    let config = config_file(&Setup::default().backend("a", &backend, "").more(telemetry).text());
    let (mut process, data, _) = Process::serving(config.path(), variables).await;
    let mut client = Client::connect(data).await;
    client.send(if fields.is_empty() { post(CHAT, STREAM) } else { post_with(CHAT, fields, STREAM) }).await;
    assert_eq!(client.reply().await.status, 200);
    process.signal("TERM");
    assert_eq!(process.code().await, Some(0), "{}", process.log());
    let exports = collector.exports().into_iter().map(|export| {
        let resource = export.request.resource_spans[0].resource.clone().expect("a resource");
        let field = |name: &str| export.headers.get(name).map(|value| value.to_str().unwrap().to_owned());
        json!({
            "path": export.path,
            "resource": map(&resource.attributes),
            "a": field("a"),
            "b": field("b"),
            "encoding": field("content-encoding").or(field("grpc-encoding")),
            "spans": export.request.resource_spans[0].scope_spans[0].spans.len(),
        })
    });
    (exports.collect(), process.log())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_environment_alone_is_enough() {
    let collector = Collector::start().await;
    let url = collector.url();
    let variables = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &*url),
        ("OTEL_EXPORTER_OTLP_HEADERS", "a=1,b=two%20words"),
        ("OTEL_SERVICE_NAME", "gateway"),
        ("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=test,service.name=other"),
    ];
    let (exports, _) = with(&collector, &variables, "", "").await;
    let version = env!("CARGO_PKG_VERSION");
    let resource = json!({ "service.name": "gateway", "service.version": version, "deployment.environment": "test" });
    let expected =
        json!({ "path": "/v1/traces", "resource": resource, "a": "1", "b": "two words", "encoding": null, "spans": 8 });
    assert_eq!(exports, [expected]);
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_by_the_environment() {
    for (endpoint, insecure) in [("http://", "false"), ("", "true")] {
        let collector = Collector::start().await;
        let url = format!("{endpoint}{}", collector.address);
        let variables = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &*url),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
            ("OTEL_EXPORTER_OTLP_INSECURE", insecure),
            ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "a=1"),
        ];
        let (exports, log) = with(&collector, &variables, "", "").await;
        assert_eq!(exports.len(), 1, "{log}");
        assert_eq!((&exports[0]["path"], &exports[0]["a"], &exports[0]["spans"]), (&json!(""), &json!("1"), &json!(8)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn spans_go_out_gzipped_where_the_environment_says_so() {
    for (protocol, value, encoding) in [
        ("http/protobuf", "gzip", json!("gzip")),
        ("grpc", "GZIP", json!("gzip")),
        ("http/protobuf", "none", Value::Null),
        ("grpc", "zstd", Value::Null),
    ] {
        let collector = Collector::start().await;
        let url = collector.url();
        let variables = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &*url),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", value),
        ];
        let (exports, log) = with(&collector, &variables, "", "").await;
        assert_eq!(exports.len(), 1, "{protocol} {value}: {log}");
        assert_eq!((&exports[0]["encoding"], &exports[0]["spans"]), (&encoding, &json!(8)), "{protocol} {value}");
        assert_eq!(log.contains("OTEL_EXPORTER_OTLP_COMPRESSION"), value == "zstd", "{log}");
    }
}

/// Where nothing is propagated a caller's context is carried past, and our spans are a trace of their own.
#[tokio::test(flavor = "multi_thread")]
async fn propagators_say_whether_callers_are_joined() {
    const CALLER: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    for (value, joins, warned) in
        [("tracecontext,baggage", true, false), ("baggage", false, false), ("none", false, false), ("b3", true, true)]
    {
        let collector = Collector::start().await;
        let backend = Scripted::start(streamed()).await;
        let config = config_file(&Setup::default().backend("a", &backend, "").text());
        let url = collector.url();
        let variables = [("OTEL_EXPORTER_OTLP_ENDPOINT", &*url), ("OTEL_PROPAGATORS", value)];
        let (process, data, _) = Process::serving(config.path(), &variables).await;
        let mut client = Client::connect(data).await;
        client.send(post_with(CHAT, &format!("traceparent: {CALLER}\r\n"), STREAM)).await;
        assert_eq!(client.reply().await.status, 200);
        process.signal("TERM");
        let spans = collector.has(8).await;
        assert_eq!(spans.iter().all(|span| CALLER.contains(&span.trace)), joins, "{value}");
        assert_eq!(backend.only().field("traceparent") == CALLER, !joins, "{value}");
        assert_eq!(process.log().contains("OTEL_PROPAGATORS"), warned, "{}", process.log());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_file_goes_before_the_environment_key_by_key() {
    let collector = Collector::start().await;
    for protocol in ["http/protobuf", "grpc"] {
        let telemetry = format!("telemetry: {{ otlp: {{ protocol: {protocol}, headers: {{ a: file }} }} }}\n");
        let url = collector.url();
        let variables = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &*url),
            ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", if protocol == "grpc" { "http/protobuf" } else { "grpc" }),
            ("OTEL_EXPORTER_OTLP_HEADERS", "a=environment,b=2"),
        ];
        let (exports, log) = with(&collector, &variables, &telemetry, "").await;
        let export = exports.last().unwrap_or_else(|| panic!("{log}"));
        assert_eq!((&export["a"], &export["b"]), (&json!("file"), &json!("2")), "{protocol}");
    }
    assert_eq!(collector.exports().len(), 2);
}

/// A token of the environment's collector is nothing for the file's, whether the file has headers or not.
#[tokio::test(flavor = "multi_thread")]
async fn headers_of_the_environment_go_to_its_own_endpoint_alone() {
    for (protocol, headers) in [
        ("http/protobuf", ""),
        ("http/protobuf", ", headers: { a: file }"),
        ("grpc", ""),
        ("grpc", ", headers: { a: file }"),
    ] {
        let collector = Collector::start().await;
        let url = collector.url();
        let telemetry = format!("telemetry: {{ otlp: {{ endpoint: \"{url}\", protocol: {protocol}{headers} }} }}\n");
        let variables = [
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://127.0.0.1:1/elsewhere"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "a=secret-7,b=secret-7,user-agent=secret-7,content-type=secret-7"),
        ];
        let (exports, log) = with(&collector, &variables, &telemetry, "").await;
        assert_eq!(exports.len(), 1, "{protocol}{headers}: {log}");
        let own = if headers.is_empty() { Value::Null } else { json!("file") };
        assert_eq!((&exports[0]["a"], &exports[0]["b"]), (&own, &Value::Null), "{protocol}{headers}");
        for export in collector.exports() {
            let told =
                export.headers.iter().find(|(_, value)| value.to_str().is_ok_and(|value| value.contains("secret-7")));
            assert_eq!(told, None, "{protocol}{headers}");
        }
        let warned = "`OTEL_EXPORTER_OTLP_HEADERS` in the environment is not sent";
        assert!(log.contains(warned) && !log.contains("secret-7"), "{log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_for_traces_alone_is_the_whole_address() {
    let collector = Collector::start().await;
    let url = format!("{}/any/path", collector.url());
    let (exports, _) = with(&collector, &[("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", &url)], "", "").await;
    assert_eq!(exports[0]["path"], "/any/path");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_environment_can_turn_traces_off_and_choose_fewer() {
    let parent = "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n";
    for (variables, fields, sent) in [
        (&[][..], "", 1),
        (&[("OTEL_SDK_DISABLED", "true")], "", 0),
        (&[("OTEL_TRACES_EXPORTER", "none")], "", 0),
        (&[("OTEL_TRACES_SAMPLER", "always_off")], parent, 0),
        (&[("OTEL_TRACES_SAMPLER", "parentbased_always_off")], parent, 1),
        (&[("OTEL_TRACES_SAMPLER", "traceidratio"), ("OTEL_TRACES_SAMPLER_ARG", "0")], parent, 0),
        (&[("OTEL_TRACES_SAMPLER", "traceidratio"), ("OTEL_TRACES_SAMPLER_ARG", "1")], "", 1),
    ] {
        let collector = Collector::start().await;
        let url = collector.url();
        let all: Vec<_> =
            [("OTEL_EXPORTER_OTLP_ENDPOINT", &*url)].into_iter().chain(variables.iter().copied()).collect();
        let (exports, log) = with(&collector, &all, "", fields).await;
        assert_eq!(exports.len(), sent, "{variables:?}: {log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_variable_that_makes_no_sense_is_warned_of_and_passed_over() {
    let collector = Collector::start().await;
    let telemetry = format!("telemetry: {{ otlp: {{ endpoint: \"{}\" }} }}\n", collector.url());
    let variables = [
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon"),
        ("OTEL_TRACES_SAMPLER", "jaeger_remote"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "-1"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "secret-7"),
    ];
    let (exports, log) = with(&collector, &variables, &telemetry, "").await;
    assert_eq!(exports.len(), 1, "{log}");
    for (name, value) in variables {
        assert!(log.contains(name), "{name} is not warned of: {log}");
        assert!(name != "OTEL_EXPORTER_OTLP_HEADERS" || !log.contains(value), "a header is a secret: {log}");
    }
}
