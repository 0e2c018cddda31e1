//! `telemetry.otlp` together with OpenTelemetry's environment variables.
//!
//! What the file says wins, key by key; the environment fills in what it does not say. Without `telemetry.otlp` an
//! endpoint in the environment is enough, so that what injects these variables into every process works here too.
//! Headers of the environment hold what its own collector wants to see, a token mostly: they go to no other.
//! A variable that makes no sense is warned of and passed over, as OpenTelemetry's specification wants it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;

use super::Builder;
use crate::config::diagnostic::Code;
use crate::config::environment::Lookup;
use crate::config::file::scalar;
use crate::config::file::view::View;
use crate::config::network;
use crate::config::otlp::{AlwaysSample, Otlp, OtlpProtocol, OtlpTls, Sampler, SpanLimits, SpanQueue};
use crate::config::settings::BackendUrl;

/// Where collectors take traces over HTTP.
const PATH: &str = "/v1/traces";
/// Longest wait that OpenTelemetry allows a batch by default.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Most spans that may be asked to wait: some 100 MiB.
const MOST_SPANS: usize = 100_000;
/// Where the environment has what its collector wants to see, the more particular first.
const HEADERS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS"];
/// Most headers and resource attributes taken from the environment.
const MOST_PAIRS: usize = 64;

pub(super) fn otlp(view: &View<'_>, builder: &mut Builder<'_, '_, '_>) -> Option<Otlp> {
    let mut variables = Variables { builder, view };
    if variables.switch("OTEL_SDK_DISABLED") {
        return None;
    }
    if !view.is_set() && !variables.name_an_endpoint() {
        return None;
    }
    let protocol = variables.protocol(&view.key("protocol"));
    let (endpoint, of_environment) = variables.endpoint(protocol);
    let timeout = variables.timeout();
    let sampler = variables.sampler(&view.key("sample_ratio"));
    let queue = variables.queue();
    let resource = variables.resource();
    let from_environment = if of_environment { variables.headers() } else { variables.keep_headers_back() };
    let tls = if of_environment { variables.tls() } else { OtlpTls::default() };
    let (limits, gzip, propagates) = (variables.limits(), variables.gzip(), variables.propagates());
    let headers = headers(&view.key("headers"), from_environment, builder);
    let tls = own_tls(&view.key("tls"), &endpoint, builder).unwrap_or(tls);
    Some(Otlp {
        endpoint,
        protocol,
        headers,
        tls,
        timeout,
        sampler,
        always_sample: always_sample(view),
        queue,
        limits,
        gzip,
        propagates,
        resource,
    })
}

/// Where only the environment asks for traces it gets what it asks for, no more.
fn always_sample(view: &View<'_>) -> AlwaysSample {
    let kinds = view.key("always_sample");
    if !kinds.is_set() {
        return AlwaysSample { slo_miss: view.is_set(), error: view.is_set() };
    }
    let has = |kind: &str| kinds.items().any(|item| item.text() == Some(kind));
    AlwaysSample { slo_miss: has("slo_miss"), error: has("error") }
}

fn headers(
    view: &View<'_>,
    from_environment: Vec<(String, String)>,
    builder: &mut Builder<'_, '_, '_>,
) -> Vec<(Arc<str>, SecretString)> {
    let mut headers: Vec<(Arc<str>, SecretString)> = Vec::new();
    for (name, _, value) in view.entries() {
        if let (Ok(name), Some(secret)) = (scalar::header_name(name), builder.secret(&value)) {
            headers.push((name.as_str().into(), secret));
        }
    }
    for (name, value) in from_environment {
        let Ok(name) = scalar::header_name(&name) else { continue };
        if headers.iter().all(|(own, _)| **own != *name.as_str()) {
            headers.push((name.as_str().into(), value.into()));
        }
    }
    headers
}

/// Files that the configuration names; `None` when it names none.
fn own_tls(view: &View<'_>, endpoint: &BackendUrl, builder: &mut Builder<'_, '_, '_>) -> Option<OtlpTls> {
    if !view.is_set() {
        return None;
    }
    if !endpoint.https {
        let hint = "write `https://` in `endpoint`, or remove `tls`";
        builder.error(view, Code::Conflict, "`tls` has no meaning for an `http://` collector", hint);
    }
    let identity = builder.own_identity(view);
    Some(OtlpTls { ca: builder.authority(&view.key("ca")), identity })
}

/// OpenTelemetry's variables; `view` is where warnings of them are placed.
struct Variables<'b, 's, 'text, 'e, 'v> {
    builder: &'b mut Builder<'s, 'text, 'e>,
    view: &'b View<'v>,
}

impl Variables<'_, '_, '_, '_, '_> {
    /// The first of these that is set and not empty.
    fn first(&self, names: &[&'static str]) -> Option<(&'static str, String)> {
        names.iter().find_map(|name| match self.builder.environment.variable(name) {
            Lookup::Found(value) if !value.trim().is_empty() => Some((*name, value.trim().to_owned())),
            _ => None,
        })
    }

    fn passed_over(&mut self, name: &str, wanted: &str) {
        let message = format!("`{name}` in the environment makes no sense and is passed over");
        self.builder.warning(self.view, Code::InvalidValue, message, wanted);
    }

    fn switch(&self, name: &'static str) -> bool {
        self.first(&[name]).is_some_and(|(_, value)| value.eq_ignore_ascii_case("true"))
    }

    /// Whether the environment alone asks for traces.
    fn name_an_endpoint(&self) -> bool {
        let none = self.first(&["OTEL_TRACES_EXPORTER"]).is_some_and(|(_, value)| value != "otlp");
        !none && self.first(&["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"]).is_some()
    }

    fn protocol(&mut self, own: &View<'_>) -> OtlpProtocol {
        let meant = |text: &str| OtlpProtocol::ALL.into_iter().find(|protocol| protocol.as_str() == text);
        if let Some(protocol) = own.text().and_then(meant) {
            return protocol;
        }
        let set = self.first(&["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"]);
        let Some((name, text)) = set else { return OtlpProtocol::default() };
        meant(&text).unwrap_or_else(|| {
            self.passed_over(name, "`http/protobuf` and `grpc` are spoken");
            OtlpProtocol::default()
        })
    }

    /// The file's endpoint, the environment's, or a collector on this machine; whether it is the environment's.
    fn endpoint(&mut self, protocol: OtlpProtocol) -> (BackendUrl, bool) {
        let view = self.view.key("endpoint");
        if let Some(own) = view.read(scalar::url) {
            self.builder.refuse_link_local(&view, &own, "name the collector by an address or name of its own");
            return (complete(own, protocol), false);
        }
        if let Some(url) = self.endpoint_from_environment(protocol) {
            return (url, true);
        }
        let url = BackendUrl { https: false, host: "localhost".into(), port: protocol.port(), base_path: "".into() };
        (complete(url, protocol), false)
    }

    fn endpoint_from_environment(&mut self, protocol: OtlpProtocol) -> Option<BackendUrl> {
        let of_traces = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";
        let (name, mut text) = self.first(&[of_traces, "OTEL_EXPORTER_OTLP_ENDPOINT"])?;
        if protocol == OtlpProtocol::Grpc && !text.contains("://") {
            let names = ["OTEL_EXPORTER_OTLP_TRACES_INSECURE", "OTEL_EXPORTER_OTLP_INSECURE"];
            let insecure = self.first(&names).is_some_and(|(_, value)| value.eq_ignore_ascii_case("true"));
            text = format!("{}://{text}", if insecure { "http" } else { "https" });
        }
        match scalar::url(&text) {
            // The variable for traces alone is the whole address.
            Ok(url) if url.host.parse().is_ok_and(network::is_link_local) => {
                self.passed_over(name, "name the collector by an address or name of its own");
                None
            }
            Ok(url) if name == of_traces => Some(url),
            Ok(url) => Some(complete(url, protocol)),
            Err(_) => {
                self.passed_over(name, "write it as `http://127.0.0.1:4318`");
                None
            }
        }
    }

    fn millis(&mut self, names: &[&'static str]) -> Option<Duration> {
        self.number(names).map(Duration::from_millis)
    }

    fn number(&mut self, names: &[&'static str]) -> Option<u64> {
        let (name, text) = self.first(names)?;
        let number = text.parse().ok();
        if number.is_none() {
            self.passed_over(name, "write a whole number");
        }
        number
    }

    /// One batch is one export here, so whichever of the two is shorter holds.
    fn timeout(&mut self) -> Duration {
        let export = self.millis(&["OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT"]);
        let batch = self.millis(&["OTEL_BSP_EXPORT_TIMEOUT"]);
        let of = |timeout: Option<Duration>| timeout.filter(|timeout| !timeout.is_zero());
        of(export).unwrap_or(TIMEOUT).min(of(batch).unwrap_or(Duration::MAX))
    }

    fn limits(&mut self) -> SpanLimits {
        let default = SpanLimits::default();
        let mut limit = |names: &[&'static str], default: usize| {
            self.number(names).map_or(default, |number| usize::try_from(number).unwrap_or(usize::MAX))
        };
        let (count, length) = ("OTEL_ATTRIBUTE_COUNT_LIMIT", "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT");
        SpanLimits {
            attributes: limit(&["OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", count], default.attributes),
            text: limit(&["OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT", length], default.text),
            events: limit(&["OTEL_SPAN_EVENT_COUNT_LIMIT"], default.events),
            event_attributes: limit(&["OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT", count], default.event_attributes),
        }
    }

    fn gzip(&mut self) -> bool {
        let names = ["OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", "OTEL_EXPORTER_OTLP_COMPRESSION"];
        let Some((name, text)) = self.first(&names) else { return false };
        let known = ["gzip", "none"].into_iter().find(|known| text.eq_ignore_ascii_case(known));
        if known.is_none() {
            self.passed_over(name, "`gzip` and `none` are spoken");
        }
        known == Some("gzip")
    }

    /// What is spoken between services is W3C trace context; baggage is passed on unread in any case.
    fn propagates(&mut self) -> bool {
        let Some((name, text)) = self.first(&["OTEL_PROPAGATORS"]) else { return true };
        let named: Vec<_> = text.split(',').map(str::trim).collect();
        if !named.iter().all(|one| ["tracecontext", "baggage", "none"].contains(one)) {
            self.passed_over(name, "`tracecontext`, `baggage` and `none` are known");
            return true;
        }
        named.contains(&"tracecontext")
    }

    fn sampler(&mut self, own: &View<'_>) -> Sampler {
        if let Some(ratio) = own.read(scalar::share) {
            return Sampler { follows_parent: true, ratio };
        }
        let Some((name, text)) = self.first(&["OTEL_TRACES_SAMPLER"]) else { return Sampler::DEFAULT };
        let (follows_parent, rule) = text.strip_prefix("parentbased_").map_or((false, &*text), |rule| (true, rule));
        let ratio = match rule {
            "always_on" => 1.0,
            "always_off" => 0.0,
            "traceidratio" => self.ratio(),
            _ => {
                self.passed_over(
                    name,
                    "always_on, always_off and traceidratio, with or without parentbased_, are known",
                );
                return Sampler::DEFAULT;
            }
        };
        Sampler { follows_parent, ratio }
    }

    fn ratio(&mut self) -> f64 {
        let Some((name, text)) = self.first(&["OTEL_TRACES_SAMPLER_ARG"]) else { return 1.0 };
        text.parse().ok().filter(|ratio| (0.0..=1.0).contains(ratio)).unwrap_or_else(|| {
            self.passed_over(name, "write a share from 0 to 1");
            1.0
        })
    }

    fn queue(&mut self) -> SpanQueue {
        let default = SpanQueue::default();
        let mut count = |name, default: usize| {
            let number = self.number(&[name]).and_then(|number| usize::try_from(number).ok());
            number.filter(|number| *number > 0).map_or(default, |number| number.min(MOST_SPANS))
        };
        let spans = count("OTEL_BSP_MAX_QUEUE_SIZE", default.spans);
        let batch = count("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", default.batch).min(spans);
        let delay = self.millis(&["OTEL_BSP_SCHEDULE_DELAY"]).filter(|delay| !delay.is_zero());
        SpanQueue { spans, batch, delay: delay.unwrap_or(default.delay) }
    }

    /// No headers; whoever set some learns that they are not sent.
    fn keep_headers_back(&mut self) -> Vec<(String, String)> {
        if let Some((name, _)) = self.first(&HEADERS) {
            let message = format!("`{name}` in the environment is not sent, for the endpoint is not the environment's");
            self.builder.warning(self.view, Code::Unused, message, "write what this collector wants under `headers`");
        }
        Vec::new()
    }

    fn headers(&mut self) -> Vec<(String, String)> {
        let Some((name, text)) = self.first(&HEADERS) else { return Vec::new() };
        let pairs = pairs(&text);
        let sendable = |(name, value): &(String, String)| {
            scalar::header_name(name).is_ok() && http::HeaderValue::from_str(value).is_ok()
        };
        let all = pairs.as_ref().is_some_and(|pairs| pairs.iter().all(sendable));
        if !all {
            self.passed_over(name, "write it as `name=value,name=value`");
            return Vec::new();
        }
        pairs.unwrap_or_default()
    }

    /// `OTEL_SERVICE_NAME` goes before a `service.name` among the attributes.
    fn resource(&mut self) -> Vec<(String, String)> {
        let mut resource = Vec::new();
        if let Some((name, text)) = self.first(&["OTEL_RESOURCE_ATTRIBUTES"]) {
            match pairs(&text) {
                Some(pairs) => resource = pairs,
                None => self.passed_over(name, "write it as `name=value,name=value`"),
            }
        }
        if let Some((_, name)) = self.first(&["OTEL_SERVICE_NAME"]) {
            resource.retain(|(key, _)| key != "service.name");
            resource.push(("service.name".to_owned(), name));
        }
        resource
    }

    fn tls(&self) -> OtlpTls {
        let file = |names: &[&'static str]| self.first(names).map(|(_, path)| PathBuf::from(path));
        let certificate =
            file(&["OTEL_EXPORTER_OTLP_TRACES_CLIENT_CERTIFICATE", "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE"]);
        let key = file(&["OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY", "OTEL_EXPORTER_OTLP_CLIENT_KEY"]);
        OtlpTls {
            ca: file(&["OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE", "OTEL_EXPORTER_OTLP_CERTIFICATE"]),
            identity: certificate.zip(key),
        }
    }
}

/// A collector's base address, with the path of traces where HTTP is spoken.
fn complete(mut url: BackendUrl, protocol: OtlpProtocol) -> BackendUrl {
    if protocol == OtlpProtocol::HttpProtobuf && !url.base_path.ends_with(PATH) {
        url.base_path = format!("{}{PATH}", url.base_path).into();
    }
    url
}

/// `name=value,name=value`, values percent-encoded, as in W3C Baggage; `None` when it is anything else.
fn pairs(text: &str) -> Option<Vec<(String, String)>> {
    let pairs = text.split(',').filter(|pair| !pair.trim().is_empty()).map(|pair| {
        let (name, value) = pair.split_once('=')?;
        Some((name.trim().to_owned(), decoded(value.trim())?)).filter(|(name, _)| !name.is_empty())
    });
    pairs.collect::<Option<Vec<_>>>().filter(|pairs| pairs.len() <= MOST_PAIRS)
}

fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digits = [rest.next()?, rest.next()?];
            bytes.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}
