//! Authorities and the certificates they sign, in files; both sides of TLS that use them.

use std::path::Path;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SerialNumber, date_time_ymd};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::client::connect;
use super::{Headway, patiently};

/// An authority and a certificate of its own for `localhost`, in a folder: `ca.pem`, `cert.pem`, `key.pem`.
pub(crate) struct Authority {
    folder: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

/// What a certificate of `localhost` is like besides.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Leaf {
    /// Its serial number, by which it is told from others.
    pub(crate) serial: u64,
    /// The last year of its time.
    pub(crate) year: i32,
}

impl Leaf {
    /// Good for a long time.
    pub(crate) fn numbered(serial: u64) -> Self {
        Self { serial, year: 4000 }
    }

    /// Its time is over.
    pub(crate) fn expired() -> Self {
        Self { serial: 1, year: 2020 }
    }
}

impl Authority {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut params = CertificateParams::new(Vec::new()).expect("names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        std::fs::write(folder.path().join("ca.pem"), params.self_signed(&key).expect("a certificate").pem()).unwrap();
        let authority = Self { folder, issuer: Issuer::new(params, key) };
        authority.issue("", Leaf::numbered(1));
        authority
    }

    /// Signs a certificate with a key of its own, as `PREFIXcert.pem` and `PREFIXkey.pem`; each file is replaced whole.
    pub(crate) fn issue(&self, prefix: &str, leaf: Leaf) {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).expect("names");
        params.serial_number = Some(SerialNumber::from(leaf.serial));
        (params.not_before, params.not_after) = (date_time_ymd(2000, 1, 1), date_time_ymd(leaf.year, 1, 1));
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        self.write(&format!("{prefix}cert.pem"), &certificate.pem());
        self.write(&format!("{prefix}key.pem"), &key.serialize_pem());
    }

    /// Puts a text in a file's place, whole.
    pub(crate) fn write(&self, name: &str, text: &str) {
        let new = self.folder.path().join("new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, self.path(name)).unwrap();
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    pub(crate) fn certificates(&self, name: &str) -> Vec<CertificateDer<'static>> {
        let pem = std::fs::read(Path::new(&self.path(name))).unwrap();
        CertificateDer::pem_slice_iter(&pem).map(|one| one.unwrap()).collect()
    }

    pub(crate) fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificates("ca.pem").remove(0)).unwrap();
        roots
    }

    fn key(&self, prefix: &str) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from_pem_slice(&std::fs::read(self.path(&format!("{prefix}key.pem"))).unwrap()).unwrap()
    }

    /// A backend's acceptor; with `clients`, for clients with a certificate of that authority alone.
    pub(crate) fn acceptor(&self, prefix: &str, clients: Option<&Self>, protocol: &[u8]) -> TlsAcceptor {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions();
        let builder = builder.unwrap();
        let builder = if let Some(clients) = clients {
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(clients.roots()), provider);
            builder.with_client_cert_verifier(verifier.build().unwrap())
        } else {
            builder.with_no_client_auth()
        };
        let chain = self.certificates(&format!("{prefix}cert.pem"));
        let mut config = builder.with_single_cert(chain, self.key(prefix)).unwrap();
        config.alpn_protocols = vec![protocol.to_vec()];
        TlsAcceptor::from(Arc::new(config))
    }

    /// How a client connects that trusts this authority, and shows a certificate of `own` if there is one.
    pub(crate) fn connector(&self, protocol: &[u8], own: Option<&Self>) -> TlsConnector {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let builder = builder.with_root_certificates(self.roots());
        let mut config = match own {
            Some(own) => builder.with_client_auth_cert(own.certificates("cert.pem"), own.key("")).unwrap(),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![protocol.to_vec()];
        TlsConnector::from(Arc::new(config))
    }

    /// A client's connection to headway; with `mutual`, it shows a certificate of this authority.
    pub(crate) async fn client(&self, headway: &Headway, protocol: &[u8], mutual: bool) -> TlsStream<TcpStream> {
        let connector = self.connector(protocol, mutual.then_some(self));
        tls(&connector, headway.address).await.expect("a handshake")
    }

    /// The listener of a configuration, with more keys of its `tls`.
    pub(crate) fn listener(&self, more: &str) -> String {
        let (certificate, key) = (self.path("cert.pem"), self.path("key.pem"));
        format!(
            "listeners: [{{ address: 127.0.0.1:0, tls: {{ certificate: \"{certificate}\", key: \"{key}\"{more} }} }}]"
        )
    }
}

/// TLS over a fresh connection.
pub(crate) async fn tls(
    connector: &TlsConnector,
    address: std::net::SocketAddr,
) -> std::io::Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from("localhost").unwrap();
    patiently("TLS", connector.connect(name, connect(address).await)).await
}
