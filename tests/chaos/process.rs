//! The headway under test, as the system sees it: its descriptors, its memory, what it says of itself.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::life::process::Process;
use crate::life::{metric, page, until};

/// A running headway with a plain and a TLS listener, and an access log in a folder of its own.
pub(crate) struct Subject {
    process: Process,
    folder: TempDir,
    plain: SocketAddr,
    tls: SocketAddr,
    pub(crate) admin: SocketAddr,
}

impl Subject {
    /// Starts it; `rest` of the configuration are backends, routes and limits.
    pub(crate) async fn start(rest: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        certify(folder.path());
        let config = folder.path().join("headway.yaml");
        write(&config, folder.path(), rest);
        let (process, _, admin) = Process::serving(&config).await;
        until("both listeners", || serving(&process.log()).len() == 2).await;
        let [plain, tls] = serving(&process.log())[..] else { panic!("two listeners") };
        Self { process, folder, plain, tls, admin }
    }

    /// Replaces the configuration's file, as an editor would.
    pub(crate) fn rewrite(&self, rest: &str) {
        write(&self.folder.path().join("headway.yaml"), self.folder.path(), rest);
    }

    pub(crate) async fn connect(&self) -> TcpStream {
        crate::life::client::connect(self.plain).await
    }

    pub(crate) async fn connect_tls(&self, protocol: &[u8]) -> std::io::Result<TlsStream<TcpStream>> {
        let pem = std::fs::read(self.folder.path().join("ca.pem"))?;
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(&pem).expect("a certificate")).expect("an authority");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let mut config = builder.expect("versions").with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![protocol.to_vec()];
        let name = ServerName::try_from("localhost").expect("a name");
        let tcp = crate::life::client::connect(self.tls).await;
        TlsConnector::from(Arc::new(config)).connect(name, tcp).await
    }

    /// Descriptors it has open.
    pub(crate) fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.process.id())).map_or(0, Iterator::count)
    }

    /// Memory that it occupies, in KiB.
    pub(crate) fn resident_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap_or_default();
        let line = status.lines().find(|line| line.starts_with("VmRSS:"));
        line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok()).unwrap_or(0)
    }

    /// The sum of a family on the metrics page.
    pub(crate) async fn metric(&self, family: &str, labels: &[&str]) -> f64 {
        metric(&page(self.admin, "GET", "/metrics").await.1, family, labels)
    }

    /// Second tries beside a first one that was late, as the access log has them.
    pub(crate) fn hedges(&self) -> usize {
        let text = std::fs::read_to_string(self.folder.path().join("access.log")).unwrap_or_default();
        text.matches("\"hedge\":true").count()
    }

    /// All that it has said so far: its log, at debug level, the access log, and every page of the admin side.
    pub(crate) async fn said(&self) -> String {
        let mut said = self.process.log();
        said += &std::fs::read_to_string(self.folder.path().join("access.log")).unwrap_or_default();
        for path in ["/metrics", "/readyz?verbose"] {
            said += &page(self.admin, "GET", path).await.1;
        }
        for view in ["requests", "decisions", "backends", "routes", "config", "version"] {
            said += &page(self.admin, "GET", &format!("/api/v1/{view}")).await.1;
        }
        said
    }

    /// What the access log says of each exchange so far: its name and how it ended.
    pub(crate) fn records(&self) -> Vec<(String, String)> {
        let text = std::fs::read_to_string(self.folder.path().join("access.log")).unwrap_or_default();
        let line = |line: &str| {
            let value: serde_json::Value = serde_json::from_str(line).ok()?;
            Some((value["request_id"].as_str()?.to_owned(), value["outcome"].as_str()?.to_owned()))
        };
        text.lines().filter_map(line).collect()
    }
}

fn write(config: &Path, folder: &Path, rest: &str) {
    let path = |name: &str| folder.join(name).display().to_string();
    let (certificate, key, log) = (path("cert.pem"), path("key.pem"), path("access.log"));
    let text = format!(
        "listeners:\n  - {{ address: \"127.0.0.1:0\", h2c: true }}\n  - {{ address: \"127.0.0.1:0\", tls: {{ \
         certificate: \"{certificate}\", key: \"{key}\" }} }}\nadmin: {{ address: \"127.0.0.1:0\" }}\nthreads: 2\n\
         telemetry: {{ access_log: {{ path: \"{log}\" }}, log: {{ level: debug }} }}\n{rest}"
    );
    let fresh: PathBuf = config.with_extension("new");
    std::fs::write(&fresh, text).expect("a file");
    std::fs::rename(&fresh, config).expect("a file");
}

/// An authority, and a certificate of it for `localhost`.
fn certify(folder: &Path) {
    let mut params = CertificateParams::new(Vec::new()).expect("names");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().expect("a key");
    std::fs::write(folder.join("ca.pem"), params.self_signed(&key).expect("a certificate").pem()).unwrap();
    let issuer = Issuer::new(params, key);
    let key = KeyPair::generate().expect("a key");
    let leaf = CertificateParams::new(vec!["localhost".to_owned()]).expect("names");
    std::fs::write(folder.join("cert.pem"), leaf.signed_by(&key, &issuer).expect("a certificate").pem()).unwrap();
    std::fs::write(folder.join("key.pem"), key.serialize_pem()).unwrap();
}

/// Where it says that it serves clients, in the order of the configuration.
fn serving(log: &str) -> Vec<SocketAddr> {
    let lines = log.lines().filter(|line| line.contains(" serving "));
    lines.filter_map(|line| line.rsplit("address=").next()?.trim().parse().ok()).collect()
}
