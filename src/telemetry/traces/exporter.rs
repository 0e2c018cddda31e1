//! OpenTelemetry's exporter, told everything: what it would read from the environment by itself has been read already.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::KeyValue;
use opentelemetry_otlp::tonic_types::transport::{Certificate, ClientTlsConfig, Identity};
use opentelemetry_otlp::{Compression, Protocol, SpanExporter, WithExportConfig, WithHttpConfig, WithTonicConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SpanExporter as _;
use secrecy::ExposeSecret;
use tonic::Request;
use tonic::metadata::MetadataMap;

use super::client::Client;
use super::queue::SpanCounts;
use crate::config::otlp::{Otlp, OtlpProtocol};

const GRPC: [(&str, &str); 2] = [("content-type", "application/grpc"), ("te", "trailers")];
/// The same where messages are compressed.
const GRPC_GZIP: [(&str, &str); 3] = [GRPC[0], GRPC[1], ("grpc-encoding", "gzip")];

/// The exporter that `settings` ask for. Call it within the runtime that it is to work on.
///
/// # Errors
/// When a certificate cannot be used.
pub(super) fn build(settings: &Otlp, counts: &Arc<SpanCounts>) -> io::Result<SpanExporter> {
    let mut exporter = match settings.protocol {
        OtlpProtocol::HttpProtobuf => over_http(settings, counts)?,
        OtlpProtocol::Grpc => over_grpc(settings)?,
    };
    exporter.set_resource(&resource(settings));
    Ok(exporter)
}

fn over_http(settings: &Otlp, counts: &Arc<SpanCounts>) -> io::Result<SpanExporter> {
    let client = Client::new(settings, headers(settings)?, Arc::clone(counts))?;
    let exporter = SpanExporter::builder().with_http().with_http_client(client).with_protocol(Protocol::HttpBinary);
    let exporter = exporter.with_endpoint(url(settings)).with_timeout(settings.timeout);
    let exporter = if settings.gzip { exporter.with_compression(Compression::Gzip) } else { exporter };
    exporter.build().map_err(io::Error::other)
}

fn over_grpc(settings: &Otlp) -> io::Result<SpanExporter> {
    let headers = headers(settings)?;
    let of_protocol: &'static [_] = if settings.gzip { &GRPC_GZIP } else { &GRPC };
    let with_headers = move |mut request: Request<()>| {
        *request.metadata_mut() = MetadataMap::from_headers(fields(of_protocol, &headers));
        Ok(request)
    };
    let exporter = SpanExporter::builder().with_tonic().with_protocol(Protocol::Grpc).with_interceptor(with_headers);
    let exporter = exporter.with_endpoint(url(settings)).with_timeout(settings.timeout);
    let exporter = if settings.gzip { exporter.with_compression(Compression::Gzip) } else { exporter };
    let exporter = if settings.endpoint.https { exporter.with_tls_config(tls(settings)?) } else { exporter };
    exporter.build().map_err(io::Error::other)
}

fn tls(settings: &Otlp) -> io::Result<ClientTlsConfig> {
    let mut tls = ClientTlsConfig::new().domain_name(&*settings.endpoint.host);
    tls = match &settings.tls.ca {
        Some(ca) => tls.ca_certificate(Certificate::from_pem(read(ca)?)),
        None => tls.with_enabled_roots(),
    };
    if let Some((certificate, key)) = &settings.tls.identity {
        tls = tls.identity(Identity::from_pem(read(certificate)?, read(key)?));
    }
    Ok(tls)
}

/// The fields of a request: what the protocol wants beside the body, and `own`; nothing that the exporter made.
///
/// The exporter adds the environment's headers by itself, whichever collector it sends to. A token in them is meant for
/// the environment's collector; where they may go has been decided already, and `own` holds them then. That a body is
/// compressed has to be said here.
pub(super) fn fields(of_protocol: &[(&'static str, &'static str)], own: &HeaderMap) -> HeaderMap {
    let ours = ("user-agent", concat!("headway/", env!("CARGO_PKG_VERSION")));
    let mut fields = HeaderMap::new();
    for (name, value) in of_protocol.iter().chain([&ours]) {
        fields.insert(*name, HeaderValue::from_static(value));
    }
    for (name, value) in own {
        fields.insert(name, value.clone());
    }
    fields
}

fn headers(settings: &Otlp) -> io::Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    for (name, value) in &settings.headers {
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(io::Error::other)?;
        let mut value = HeaderValue::from_str(value.expose_secret()).map_err(io::Error::other)?;
        value.set_sensitive(true);
        headers.insert(name, value);
    }
    Ok(headers)
}

fn url(settings: &Otlp) -> String {
    let endpoint = &settings.endpoint;
    let scheme = if endpoint.https { "https" } else { "http" };
    format!("{scheme}://{}{}", endpoint.authority(), endpoint.base_path)
}

/// What describes this process; the environment's attributes go before ours.
fn resource(settings: &Otlp) -> Resource {
    let own = [("service.name", "headway"), ("service.version", env!("CARGO_PKG_VERSION"))];
    let own = own.into_iter().map(|(name, value)| KeyValue::new(name, value));
    let given = settings.resource.iter().map(|(name, value)| KeyValue::new(name.clone(), value.clone()));
    Resource::builder_empty().with_attributes(own).with_attributes(given).build()
}

/// A file, with its name in the error.
pub(super) fn read(path: &Path) -> io::Result<Vec<u8>> {
    fs::read(path).map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}
