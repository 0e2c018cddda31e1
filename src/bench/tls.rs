//! TLS of the load generator: whom it trusts, and what it shows.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsConnector;

/// What is trusted and shown.
#[derive(Debug, Clone, Default)]
pub struct TlsOptions {
    /// Authorities to trust beside the public ones.
    pub extra_roots: Vec<CertificateDer<'static>>,
    /// Whether the public ones are not trusted.
    pub only_extra: bool,
    /// Our own certificates and their key, where the server asks for them.
    pub identity: Option<Arc<Identity>>,
    /// The name that the server's certificate is to be for, where it is not the host's.
    pub server_name: Option<String>,
}

/// Certificates and their key.
#[derive(Debug)]
pub struct Identity {
    /// The certificate and its chain.
    pub certificates: Vec<CertificateDer<'static>>,
    /// The key.
    pub key: PrivateKeyDer<'static>,
}

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The certificates cannot be used.
    #[error("cannot trust the certificates: {0}")]
    Tls(#[from] rustls::Error),
    /// The file of certificates cannot be read.
    #[error("cannot read certificates from {file}: {why}")]
    Certificates {
        /// The file.
        file: String,
        /// What is wrong with it.
        why: String,
    },
}

/// Reads a PEM file of certificates to trust.
///
/// # Errors
/// When it cannot be read or has none.
pub fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, ClientError> {
    let wrong = |why: String| ClientError::Certificates { file: path.display().to_string(), why };
    let read = CertificateDer::pem_file_iter(path).map_err(|error| wrong(error.to_string()))?;
    let certificates: Vec<_> = read.collect::<Result<_, _>>().map_err(|error| wrong(error.to_string()))?;
    if certificates.is_empty() { Err(wrong("there is none in it".to_owned())) } else { Ok(certificates) }
}

impl TlsOptions {
    pub(super) fn connector(&self) -> Result<TlsConnector, rustls::Error> {
        let public = if self.only_extra { Vec::new() } else { webpki_roots::TLS_SERVER_ROOTS.to_vec() };
        let mut roots = rustls::RootCertStore { roots: public };
        for certificate in &self.extra_roots {
            roots.add(certificate.clone())?;
        }
        let config = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots);
        let config = match &self.identity {
            Some(own) => config.with_client_auth_cert(own.certificates.clone(), own.key.clone_key())?,
            None => config.with_no_client_auth(),
        };
        Ok(TlsConnector::from(Arc::new(config)))
    }
}
