//! What a backend's TLS needs from files, read once per configuration so that a bad file is an error then, and not at
//! the first connection.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::catch_unwind;
use std::path::Path;
use std::sync::Arc;

use pingora_core::protocols::tls::CaType;
use pingora_core::utils::tls::{CertKey, WrappedX509, parse_x509};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::FleetError;
use crate::config::settings::Backend;

/// The largest certificate or key file that is read.
const LARGEST: u64 = 1 << 20;

/// Certificates and keys of one backend, parsed.
#[derive(Debug, Clone, Default)]
pub(super) struct TlsMaterial {
    /// Authorities to trust instead of the system's.
    pub(super) ca: Option<Arc<CaType>>,
    /// Our own certificate and key.
    pub(super) identity: Option<Arc<CertKey>>,
    /// Differs where connections must not be shared.
    pub(super) group: u64,
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
                material.ca = Some(authorities(certificates).map_err(broken(file))?);
            }
            if let Some((file, key)) = &backend.tls.identity {
                let certificates = certificates(file).map_err(broken(file))?;
                let key = private_key(key).map_err(broken(key))?;
                (&certificates, &key).hash(&mut group);
                material.identity = Some(identity(certificates, key).map_err(broken(file))?);
            }
        }
        material.group = group.finish();
        Ok(material)
    }
}

fn read(file: &Path) -> Result<Vec<u8>, String> {
    let size = std::fs::metadata(file).map_err(|error| error.to_string())?.len();
    if size > LARGEST {
        return Err(format!("larger than {LARGEST} bytes"));
    }
    std::fs::read(file).map_err(|error| error.to_string())
}

fn certificates(file: &Path) -> Result<Vec<Vec<u8>>, String> {
    let pem = read(file)?;
    let certificates: Result<Vec<_>, _> =
        CertificateDer::pem_slice_iter(&pem).map(|one| one.map(|one| one.as_ref().to_vec())).collect();
    match certificates {
        Ok(certificates) if certificates.is_empty() => Err("no certificate in it".to_owned()),
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(error.to_string()),
    }
}

fn private_key(file: &Path) -> Result<Vec<u8>, String> {
    let key = PrivateKeyDer::from_pem_slice(&read(file)?).map_err(|error| error.to_string())?;
    let der = key.secret_der().to_vec();
    // pingora guesses the key's form from its bytes, at the first connection: the guess must work.
    PrivateKeyDer::try_from(der.clone()).map_err(str::to_owned)?;
    Ok(der)
}

fn authorities(certificates: Vec<Vec<u8>>) -> Result<Arc<CaType>, String> {
    let mut store = rustls::RootCertStore::empty();
    for certificate in &certificates {
        store.add(CertificateDer::from(certificate.as_slice())).map_err(|error| error.to_string())?;
    }
    let wrap = || certificates.into_iter().map(|raw| WrappedX509::new(raw, parse_x509)).collect::<Vec<_>>();
    Ok(parsed(wrap)?.into())
}

fn identity(certificates: Vec<Vec<u8>>, key: Vec<u8>) -> Result<Arc<CertKey>, String> {
    let chain = certificates.iter().map(|one| CertificateDer::from(one.clone())).collect();
    let der = PrivateKeyDer::try_from(key.clone()).map_err(str::to_owned)?;
    rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_client_auth_cert(chain, der)
        .map_err(|error| error.to_string())?;
    parsed(move || Arc::new(CertKey::new(certificates, key)))
}

/// pingora's certificate types panic on what their parser does not accept; here that is one more bad file.
fn parsed<T>(parse: impl FnOnce() -> T + std::panic::UnwindSafe) -> Result<T, String> {
    catch_unwind(parse).map_err(|_| "a certificate in it cannot be parsed".to_owned())
}
