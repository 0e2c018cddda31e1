//! OpenTelemetry's exporter, told everything: what it would read from the environment by itself has been read already.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::KeyValue;
use opentelemetry_otlp::tonic_types::transport::{Certificate, ClientTlsConfig, Identity};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig, WithHttpConfig, WithTonicConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SpanExporter as _;
use secrecy::ExposeSecret;
use tonic::Request;
use tonic::metadata::MetadataMap;

use super::client::Client;
use super::queue::SpanCounts;
use crate::config::otlp::{Otlp, OtlpProtocol};

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
    exporter.with_endpoint(url(settings)).with_timeout(settings.timeout).build().map_err(io::Error::other)
}

fn over_grpc(settings: &Otlp) -> io::Result<SpanExporter> {
    let headers = headers(settings)?;
    // Put in last, so that the exporter's own reading of the environment does not win.
    let with_headers = move |mut request: Request<()>| {
        let mut fields = std::mem::take(request.metadata_mut()).into_headers();
        for (name, value) in &headers {
            fields.insert(name, value.clone());
        }
        *request.metadata_mut() = MetadataMap::from_headers(fields);
        Ok(request)
    };
    let exporter = SpanExporter::builder().with_tonic().with_protocol(Protocol::Grpc).with_interceptor(with_headers);
    let exporter = exporter.with_endpoint(url(settings)).with_timeout(settings.timeout);
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
