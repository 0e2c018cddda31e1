//! Where traces go, and which: `telemetry.otlp` and OpenTelemetry's own environment variables, as one meaning.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};

use super::settings::BackendUrl;

/// Where traces go, and which.
#[derive(Debug, Clone)]
pub struct Otlp {
    /// The collector; its path is the whole path of the request, where there is one.
    pub endpoint: BackendUrl,
    /// How it is spoken to.
    pub protocol: OtlpProtocol,
    /// Fields of every request to it.
    pub headers: Vec<(Arc<str>, SecretString)>,
    /// For https: what is trusted and shown.
    pub tls: OtlpTls,
    /// Longest time for one batch, tries again included.
    pub timeout: Duration,
    /// Which traces are chosen at their head.
    pub sampler: Sampler,
    /// Which are kept whatever was chosen.
    pub always_sample: AlwaysSample,
    /// How many spans wait, and how long.
    pub queue: SpanQueue,
    /// How much one span holds.
    pub limits: SpanLimits,
    /// Whether batches are sent gzipped.
    pub gzip: bool,
    /// Whether a caller's trace is joined and backends are told of it; else what a caller says is only passed on.
    pub propagates: bool,
    /// What describes this process beside its name and version.
    pub resource: Vec<(String, String)>,
}

/// How a collector is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OtlpProtocol {
    /// Protobuf in the bodies of HTTP/1.1 requests.
    #[default]
    HttpProtobuf,
    /// gRPC.
    Grpc,
}

impl OtlpProtocol {
    /// Both, in the order of the documentation.
    pub const ALL: [Self; 2] = [Self::HttpProtobuf, Self::Grpc];

    /// The name in the configuration and in the environment.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::HttpProtobuf => "http/protobuf",
            Self::Grpc => "grpc",
        }
    }

    /// The port that collectors listen on.
    #[must_use]
    pub fn port(self) -> u16 {
        match self {
            Self::HttpProtobuf => 4318,
            Self::Grpc => 4317,
        }
    }
}

/// Files for TLS towards a collector, PEM.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OtlpTls {
    /// Authority to trust instead of the built-in ones.
    pub ca: Option<PathBuf>,
    /// Our own certificate and key.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// Which traces are chosen at their head, where nothing is known of how they will end.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampler {
    /// Whether a caller's choice is followed; else it is made anew.
    pub follows_parent: bool,
    /// Share of the others, by trace id, so that every service chooses the same.
    pub ratio: f64,
}

impl Sampler {
    /// OpenTelemetry's default: a caller's choice, and all that have no caller.
    pub const DEFAULT: Self = Self { follows_parent: true, ratio: 1.0 };
}

/// Which traces are kept whatever was chosen at their head, once it is known how they ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AlwaysSample {
    /// Exchanges that missed an objective.
    pub slo_miss: bool,
    /// Exchanges that ended in an error, or had a try that did.
    pub error: bool,
}

/// How many spans wait for the collector, and how long; OpenTelemetry's `OTEL_BSP_*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpanQueue {
    /// Most spans waiting; beyond, they are dropped and counted.
    pub spans: usize,
    /// Most spans of one request to the collector.
    pub batch: usize,
    /// Longest wait for a batch to fill up.
    pub delay: Duration,
}

impl Default for SpanQueue {
    fn default() -> Self {
        Self { spans: 2_048, batch: 512, delay: Duration::from_secs(5) }
    }
}

/// How much one span holds; OpenTelemetry's `OTEL_SPAN_*_LIMIT` and `OTEL_ATTRIBUTE_*_LIMIT`. There are no links.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpanLimits {
    /// Most attributes of a span.
    pub attributes: usize,
    /// Most characters of an attribute's text.
    pub text: usize,
    /// Most events of a span.
    pub events: usize,
    /// Most attributes of an event.
    pub event_attributes: usize,
}

impl Default for SpanLimits {
    fn default() -> Self {
        Self { attributes: 128, text: usize::MAX, events: 128, event_attributes: 128 }
    }
}

impl PartialEq for Otlp {
    fn eq(&self, other: &Self) -> bool {
        fn shown(headers: &[(Arc<str>, SecretString)]) -> Vec<(&str, &str)> {
            headers.iter().map(|(name, value)| (&**name, value.expose_secret())).collect()
        }
        (&self.endpoint, self.protocol, &self.tls, self.timeout)
            == (&other.endpoint, other.protocol, &other.tls, other.timeout)
            && (self.sampler, self.always_sample, self.queue, &self.resource)
                == (other.sampler, other.always_sample, other.queue, &other.resource)
            && (self.limits, self.gzip, self.propagates) == (other.limits, other.gzip, other.propagates)
            && shown(&self.headers) == shown(&other.headers)
    }
}
