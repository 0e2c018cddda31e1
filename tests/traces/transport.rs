//! How the collector is reached: http and https, with fields, and what it answers.

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::{WantsServerCert, WebPkiClientVerifier};
use rustls::{ConfigBuilder, ServerConfig};
use tokio_rustls::TlsAcceptor;

use crate::collector::Collector;
use crate::shape::{ended, log_file, traced};
use crate::support::backend::Scripted;
use crate::support::headway::Setup;
use crate::support::texts::streamed;
use crate::support::until;

/// Spans of one streamed answer.
const SPANS: u64 = 8;

/// An authority, and what it signed for `localhost`.
pub(crate) struct Pki {
    pub(crate) folder: tempfile::TempDir,
    /// Asks for a certificate of the client's.
    acceptor: TlsAcceptor,
    /// Asks for none.
    pub(crate) server_only: TlsAcceptor,
}

pub(crate) fn pki() -> Pki {
    let folder = tempfile::tempdir().unwrap();
    let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_key = KeyPair::generate().unwrap();
    let ca = params.clone().self_signed(&ca_key).unwrap();
    let issuer = Issuer::new(params, ca_key);
    let signed = |name: &str| {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
        (certificate, key)
    };
    let ((server, server_key), (client, client_key)) = (signed("localhost"), signed("headway"));
    for (name, text) in [("ca.crt", ca.pem()), ("client.crt", client.pem()), ("client.key", client_key.serialize_pem())]
    {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(ca.der().clone()).unwrap();
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build().unwrap();
    let acceptor = |builder: ConfigBuilder<ServerConfig, WantsServerCert>, alpn: &[&[u8]]| {
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(server_key.serialize_der()));
        let mut config = builder.with_single_cert(vec![server.der().clone()], key).unwrap();
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        TlsAcceptor::from(Arc::new(config))
    };
    let builder = || {
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider));
        builder.with_safe_default_protocol_versions().unwrap()
    };
    Pki {
        folder,
        acceptor: acceptor(builder().with_client_cert_verifier(verifier), &[b"h2", b"http/1.1"]),
        server_only: acceptor(builder().with_no_client_auth(), &[]),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn both_protocols_speak_tls_with_our_certificate_and_fields() {
    for protocol in ["http/protobuf", "grpc"] {
        let pki = pki();
        let collector = Collector::start_with(Some(pki.acceptor.clone())).await;
        let (_folder, log) = log_file();
        let backend = Scripted::start(streamed()).await;
        let file = |name: &str| pki.folder.path().join(name).display().to_string();
        let more = traced(&collector, protocol, &log)
            .replace(&collector.url(), &format!("https://localhost:{}", collector.address.port()))
            .replace(
                "sample_ratio",
                &format!(
                    "headers: {{ authorization: Bearer-7 }}, tls: {{ ca: {}, certificate: {}, key: {} }}, sample_ratio",
                    file("ca.crt"),
                    file("client.crt"),
                    file("client.key")
                ),
            );
        let headway = Setup::default().backend("a", &backend, "").more(&more).start().await;
        headway.stream().await;
        ended(headway, &log).await;
        assert_eq!(collector.spans().len() as u64, SPANS, "{protocol}");
        let export = &collector.exports()[0];
        assert_eq!(export.headers["authorization"], "Bearer-7", "{protocol}");
        assert_eq!(export.path, if protocol == "grpc" { "" } else { "/v1/traces" });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_with_a_strange_certificate_gets_nothing() {
    for protocol in ["http/protobuf", "grpc"] {
        let pki = pki();
        let collector = Collector::start_with(Some(pki.acceptor.clone())).await;
        let (_folder, log) = log_file();
        let backend = Scripted::start(streamed()).await;
        let more = traced(&collector, protocol, &log)
            .replace(&collector.url(), &format!("https://localhost:{}", collector.address.port()));
        let headway = Setup::default().backend("a", &backend, "").more(&more).start().await;
        headway.stream().await;
        let telemetry = Arc::clone(headway.server.telemetry());
        ended(headway, &log).await;
        let page = telemetry.metrics().render(&headway::telemetry::live::LiveFigures::default());
        let line = format!("headway_spans_dropped_total{{reason=\"export_failed\"}} {SPANS}\n");
        assert!(
            page.contains(&line) || page.contains(&line.replace("export_failed", "shutdown")),
            "{protocol}: {page}"
        );
        assert!(collector.exports().is_empty(), "{protocol}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_collector_says_of_a_batch_is_counted() {
    let (collector, (_folder, log)) = (Collector::start().await, log_file());
    let backend = Scripted::start(streamed()).await;
    let more = traced(&collector, "http/protobuf", &log);
    let headway = Setup::default().backend("a", &backend, "").more(&more).start().await;
    collector.rejects(3);
    headway.stream().await;
    headway.idle().await;
    let telemetry = Arc::clone(headway.server.telemetry());
    ended(headway, &log).await;
    let page = telemetry.metrics().render(&headway::telemetry::live::LiveFigures::default());
    assert!(page.contains("headway_spans_dropped_total{reason=\"rejected\"} 3\n"), "{page}");
    assert!(page.contains(&format!("headway_spans_exported_total {}\n", SPANS - 3)), "{page}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_busy_is_asked_again() {
    let (collector, (_folder, log)) = (Collector::start().await, log_file());
    let backend = Scripted::start(streamed()).await;
    let more = traced(&collector, "http/protobuf", &log);
    let headway = Setup::default().backend("a", &backend, "").more(&more).start().await;
    collector.next_status(503);
    headway.stream().await;
    ended(headway, &log).await;
    assert_eq!(collector.spans().len() as u64, SPANS);
    assert_eq!(collector.connections(), 1, "the connection is kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_turns_traces_on_and_off_and_to_another_collector() {
    let (one, two, (_folder, log)) = (Collector::start().await, Collector::start().await, log_file());
    let backend = Scripted::start(streamed()).await;
    let setup = |more: String| Setup::default().backend("a", &backend, "").more(&more);
    let to = |collector: &Collector| traced(collector, "http/protobuf", &log);
    let off = format!("telemetry: {{ access_log: {{ path: {} }} }}\n", log.display());
    let settings =
        |text: &str| headway::config::parse("t", text, &headway::config::SystemEnvironment).unwrap().settings;
    let headway = setup(off.clone()).start().await;
    for more in [off.clone(), to(&one), to(&two), off] {
        headway.server.apply(settings(&setup(more).text())).unwrap();
        let fleet = headway.server.fleet();
        until("a ready backend", || fleet.backends()[0].usable()).await;
        headway.stream().await;
        headway.idle().await;
    }
    one.has(8).await;
    two.has(8).await;
    let lines = ended(headway, &log).await;
    let traced: Vec<_> = lines.iter().map(|line| line["trace_id"].is_string()).collect();
    assert_eq!(traced, [false, true, true, false]);
}
