//! TLS on both sides: protocols by ALPN for clients, certificates verified towards backends.

use std::path::Path;
use std::sync::Arc;

use headway::clock::SystemClock;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tempfile::TempDir;
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::support::backend::{Backend, DONE, Script, stream};
use crate::support::client::{ask, chat, connect, read_reply, request, send};
use crate::support::h2_client::Connection;
use crate::support::{Headway, backend, config, patiently, until};

/// An authority and a certificate of its own for `localhost`, in a folder: `ca.pem`, `cert.pem`, `key.pem`.
struct Authority(TempDir);

impl Authority {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut params = CertificateParams::new(Vec::new()).expect("names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        std::fs::write(folder.path().join("ca.pem"), params.self_signed(&key).expect("a certificate").pem()).unwrap();
        let issuer = Issuer::new(params, key);
        let key = KeyPair::generate().expect("a key");
        let leaf = CertificateParams::new(vec!["localhost".to_owned()]).expect("names");
        let leaf = leaf.signed_by(&key, &issuer).expect("a certificate");
        std::fs::write(folder.path().join("cert.pem"), leaf.pem()).unwrap();
        std::fs::write(folder.path().join("key.pem"), key.serialize_pem()).unwrap();
        Self(folder)
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }

    fn certificates(&self, name: &str) -> Vec<CertificateDer<'static>> {
        let pem = std::fs::read(Path::new(&self.path(name))).unwrap();
        CertificateDer::pem_slice_iter(&pem).map(|one| one.unwrap()).collect()
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificates("ca.pem").remove(0)).unwrap();
        roots
    }

    fn key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from_pem_slice(&std::fs::read(self.path("key.pem")).unwrap()).unwrap()
    }

    /// A backend's acceptor, that wants to see certificates of its clients or does not.
    fn acceptor(&self, mutual: bool, protocol: &[u8]) -> TlsAcceptor {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions();
        let builder = builder.unwrap();
        let builder = if mutual {
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(self.roots()), provider);
            builder.with_client_cert_verifier(verifier.build().unwrap())
        } else {
            builder.with_no_client_auth()
        };
        let mut config = builder.with_single_cert(self.certificates("cert.pem"), self.key()).unwrap();
        config.alpn_protocols = vec![protocol.to_vec()];
        TlsAcceptor::from(Arc::new(config))
    }

    /// A client's connection to headway.
    async fn client(&self, headway: &Headway, protocol: &[u8], mutual: bool) -> TlsStream<tokio::net::TcpStream> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let builder = builder.with_root_certificates(self.roots());
        let mut config = if mutual {
            builder.with_client_auth_cert(self.certificates("cert.pem"), self.key()).unwrap()
        } else {
            builder.with_no_client_auth()
        };
        config.alpn_protocols = vec![protocol.to_vec()];
        let name = ServerName::try_from("localhost").unwrap();
        let connector = TlsConnector::from(Arc::new(config));
        patiently("TLS", connector.connect(name, connect(headway.address).await)).await.expect("a handshake")
    }

    fn listener(&self, more: &str) -> String {
        let (certificate, key) = (self.path("cert.pem"), self.path("key.pem"));
        format!(
            "listeners: [{{ address: 127.0.0.1:0, tls: {{ certificate: \"{certificate}\", key: \"{key}\"{more} }} }}]"
        )
    }
}

#[tokio::test]
async fn a_tls_listener_speaks_what_alpn_says() {
    let authority = Authority::new();
    let backend_ = Backend::start(Script::events(&stream(3), true)).await;
    let headway = Headway::start(&config(&[backend("m", backend_.address)], "", &authority.listener(""))).await;
    let mut h1 = authority.client(&headway, b"http/1.1", false).await;
    for round in 0..3 {
        let reply = ask(&mut h1, &request(&format!("h1-{round}"), &chat("m"))).await;
        assert!(reply.status == 200 && reply.whole && reply.text.contains(DONE), "{reply:?}");
    }
    let h2 = Connection::over(authority.client(&headway, b"h2", false).await).await;
    let mut streams = Vec::new();
    for number in 0..20 {
        streams.push(h2.send(&format!("h2-{number}"), Some(&chat("m"))).await);
    }
    for mut stream in streams {
        let (status, text, end) = stream.reply().await;
        assert!(status == 200 && text.ends_with(DONE) && end.is_ok(), "{status} {end:?}");
    }
    let mut plain = send(headway.address, &request("plain", &chat("m"))).await;
    assert!(!read_reply(&mut plain).await.whole);
    headway.idle().await;
    assert!(headway.records("plain").is_empty());
}

#[tokio::test]
async fn a_tls_stream_is_cancelled_with_its_client() {
    let authority = Authority::new();
    let first = stream(1).into_iter().take(1).collect::<Vec<_>>();
    let backend_ = Backend::start(Script::events(&first, false)).await;
    let limits = format!("{}\nlimits: {{ header_deadline: 300ms }}", authority.listener(""));
    let headway = Headway::start(&config(&[backend("m", backend_.address)], "", &limits)).await;
    let mut h1 = authority.client(&headway, b"http/1.1", false).await;
    tokio::io::AsyncWriteExt::write_all(&mut h1, request("h1", &chat("m")).as_bytes()).await.unwrap();
    let h2 = Connection::over(authority.client(&headway, b"h2", false).await).await;
    let mut stream = h2.send("h2", Some(&chat("m"))).await;
    crate::support::client::read_until(&mut h1, "t0").await;
    stream.head().await.expect("a head");
    // Both outlive the deadline on heads.
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    assert_eq!((backend_.seen("h1").gone, backend_.seen("h2").gone), (None, None));
    drop(h1);
    stream.reset();
    for id in ["h1", "h2"] {
        backend_.wait(id, "is gone", |seen| seen.gone.is_some()).await;
        assert_eq!(headway.record(id).await.outcome.as_str(), "client_cancelled");
    }
    headway.idle().await;
}

#[tokio::test]
async fn client_certificates_are_wanted_where_configured() {
    let authority = Authority::new();
    let backend_ = Backend::start(Script::events(&stream(1), true)).await;
    let listener = authority.listener(&format!(", client_ca: \"{}\"", authority.path("ca.pem")));
    let headway = Headway::start(&config(&[backend("m", backend_.address)], "", &listener)).await;
    let mut known = authority.client(&headway, b"http/1.1", true).await;
    assert_eq!(ask(&mut known, &request("known", &chat("m"))).await.status, 200);
    let mut stranger = authority.client(&headway, b"http/1.1", false).await;
    let _ = tokio::io::AsyncWriteExt::write_all(&mut stranger, request("stranger", &chat("m")).as_bytes()).await;
    assert!(!read_reply(&mut stranger).await.whole);
    assert!(headway.records("stranger").is_empty());
}

/// Whether a request goes through to a TLS backend that is configured so.
async fn check(authority: &Authority, mutual: bool, h2: bool, tls: &str, expected: bool) {
    let protocol: &[u8] = if h2 { b"h2" } else { b"http/1.1" };
    let backend_ =
        Backend::start_with(Script::events(&stream(2), true), Some(authority.acceptor(mutual, protocol))).await;
    let stanza = backend("m", backend_.address).replace("http://", "https://");
    let stanza = format!("{stanza}, http2: {h2}, tls: {{ {tls} }}");
    let headway = Headway::unready(&config(&[stanza], "", ""), Arc::new(SystemClock)).await;
    let fleet = headway.server.fleet();
    until("a health check", || fleet.backends()[0].last_check().is_some()).await;
    let mut client = send(headway.address, &request("r", &chat("m"))).await;
    let reply = read_reply(&mut client).await;
    if expected {
        assert!(reply.status == 200 && reply.whole && reply.text.contains(DONE), "{tls}: {reply:?}");
    } else {
        assert!(matches!(reply.status, 502 | 503), "{tls}: {reply:?}");
    }
    assert_eq!(backend_.seen("r").requests, usize::from(expected), "{tls}");
}

#[tokio::test]
async fn a_backend_must_show_a_certificate_of_its_authority_for_its_name() {
    let (authority, other) = (Authority::new(), Authority::new());
    let ca = format!("ca: \"{}\"", authority.path("ca.pem"));
    let named = format!("{ca}, server_name: localhost");
    let shown = |whose: &Authority| {
        format!("{named}, certificate: \"{}\", key: \"{}\"", whose.path("cert.pem"), whose.path("key.pem"))
    };
    for h2 in [false, true] {
        check(&authority, false, h2, &named, true).await;
        check(&authority, false, h2, "server_name: localhost", false).await;
        check(&authority, false, h2, &format!("{ca}, server_name: example.com"), false).await;
        check(&authority, true, h2, &shown(&authority), true).await;
        check(&authority, true, h2, &named, false).await;
        check(&authority, true, h2, &shown(&other), false).await;
    }
}
