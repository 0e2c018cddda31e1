//! What a backend's TLS needs from files, read once per configuration so that a bad file is an error then, and not at
//! the first connection.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::catch_unwind;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use pingora_core::ErrorType::{HandshakeError, InvalidCert, TLSHandshakeFailure, TLSHandshakeTimedout};
use pingora_core::protocols::tls::CaType;
use pingora_core::utils::tls::{CertKey, WrappedX509, parse_x509};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::FleetError;
use crate::config::certificates::{Role, certificates, private_key};
use crate::config::settings::Backend;

/// Certificates and keys of one backend, parsed.
#[derive(Debug, Clone, Default)]
pub(super) struct TlsMaterial {
    /// Authorities to trust instead of the system's.
    pub(super) ca: Option<Arc<CaType>>,
    /// Our own certificate and key.
    pub(super) identity: Option<Arc<CertKey>>,
    /// Differs where connections must not be shared: where the files hold something else, too.
    pub(super) group: u64,
    /// When the certificates stop working, by what they are for.
    pub(super) expiries: Vec<(Role, SystemTime)>,
}

impl TlsMaterial {
    pub(super) fn load(backend: &Backend) -> Result<Self, FleetError> {
        let mut group = DefaultHasher::new();
        (&backend.name, &backend.url.host, backend.url.port, backend.http2).hash(&mut group);
        backend.tls.server_name.hash(&mut group);
        let mut material = Self::default();
        if backend.url.https {
            let broken = |file: &Path| {
                let (backend, file) = (backend.name.to_string(), file.display().to_string());
                move |problem: String| FleetError::Tls { backend, file, problem }
            };
            if let Some(file) = &backend.tls.ca {
                let certificates = certificates(file).map_err(broken(file))?;
                certificates.hash(&mut group);
                material.expires(Role::Authority, &certificates);
                material.ca = Some(authorities(&certificates).map_err(broken(file))?);
            }
            if let Some((file, key)) = &backend.tls.identity {
                let certificates = certificates(file).map_err(broken(file))?;
                let private = key_of(key).map_err(broken(key))?;
                (&certificates, private.secret_der()).hash(&mut group);
                material.expires(Role::Own, &certificates);
                material.identity = Some(identity(certificates, private).map_err(broken(file))?);
            }
        }
        material.group = group.finish();
        Ok(material)
    }

    fn expires(&mut self, role: Role, certificates: &[CertificateDer<'_>]) {
        self.expiries.extend(role.expires(certificates).map(|at| (role, at)));
    }
}

fn key_of(file: &Path) -> Result<PrivateKeyDer<'static>, String> {
    let key = private_key(file)?;
    // pingora guesses the key's form from its bytes, at the first connection: the guess must work.
    PrivateKeyDer::try_from(key.secret_der()).map_err(str::to_owned)?;
    Ok(key)
}

fn authorities(certificates: &[CertificateDer<'static>]) -> Result<Arc<CaType>, String> {
    let mut store = rustls::RootCertStore::empty();
    for certificate in certificates {
        store.add(certificate.clone()).map_err(|error| error.to_string())?;
    }
    let wrap = || certificates.iter().map(|one| WrappedX509::new(one.to_vec(), parse_x509)).collect::<Vec<_>>();
    Ok(parsed(wrap)?.into())
}

fn identity(certificates: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Result<Arc<CertKey>, String> {
    let raw = (certificates.iter().map(|one| one.to_vec()).collect(), key.secret_der().to_vec());
    rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_client_auth_cert(certificates, key)
        .map_err(|error| error.to_string())?;
    let (certificates, key) = raw;
    parsed(move || Arc::new(CertKey::new(certificates, key)))
}

/// Why there is no TLS with a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsProblem {
    /// Its certificate has expired, or is not valid yet.
    Expired,
    /// Its certificate is for another name.
    WrongName,
    /// No authority that is trusted has signed its certificate.
    Untrusted,
    /// Anything else: an old version, our own certificate, no TLS at all.
    Handshake,
}

impl TlsProblem {
    /// Of an error in connecting; `None` where it has nothing to do with TLS.
    pub(super) fn of(error: &pingora_core::Error) -> Option<Self> {
        // pingora keeps of rustls's error only its words.
        let words = is_tls_failure(error).then(|| error.to_string())?;
        let says = |text: &[&str]| text.iter().any(|text| words.contains(text));
        Some(if says(&["certificate expired", "certificate not valid yet"]) {
            Self::Expired
        } else if says(&["not valid for name"]) {
            Self::WrongName
        } else if says(&["UnknownIssuer", "BadSignature"]) {
            Self::Untrusted
        } else {
            Self::Handshake
        })
    }

    /// In words, for people.
    #[must_use]
    pub fn describe(self) -> &'static str {
        match self {
            Self::Expired => "its certificate has expired, or is not valid yet",
            Self::WrongName => "its certificate is for another name",
            Self::Untrusted => "its certificate is not signed by an authority that is trusted",
            Self::Handshake => "no TLS with it",
        }
    }
}

/// Whether an error in connecting is that there is no TLS.
#[must_use]
pub fn is_tls_failure(error: &pingora_core::Error) -> bool {
    matches!(error.etype(), TLSHandshakeFailure | TLSHandshakeTimedout | InvalidCert | HandshakeError)
}

/// pingora's certificate types panic on what their parser does not accept; here that is one more bad file.
fn parsed<T>(parse: impl FnOnce() -> T + std::panic::UnwindSafe) -> Result<T, String> {
    catch_unwind(parse).map_err(|_| "a certificate in it cannot be parsed".to_owned())
}
