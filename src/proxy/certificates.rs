//! What TLS listeners show and trust: read from files, and read again while connections go on.
//!
//! A handshake takes what is in force when it begins. A reload reads the files of every listener first and swaps only
//! when all of them can be used; a connection that is open keeps what it was made with.

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use pingora_core::listeners::tls::Acceptor;
use rustls::RootCertStore;
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ServerConfig, WebPkiClientVerifier};

use super::listener::BindError;
use crate::config::certificates::{Expiry, Owner, Role, certificates, private_key};
use crate::config::settings::{ListenerTls, Settings};

/// The certificates of all listeners that speak TLS.
#[derive(Debug)]
pub struct Certificates(Vec<Option<Arc<Presented>>>);

/// What one listener shows and trusts now.
pub(super) type Presented = ArcSwap<Material>;

/// Certificates that were read for every listener and can be used; not in force yet.
#[derive(Debug)]
#[must_use]
pub struct PreparedCertificates(Vec<Option<Arc<Material>>>);

/// What the files of one listener held.
pub(super) struct Material {
    /// Makes TLS of a connection.
    pub(super) acceptor: Acceptor,
    /// Of all that was read.
    digest: u64,
    expiries: Vec<(Role, SystemTime)>,
}

impl fmt::Debug for Material {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Material").field("expiries", &self.expiries).finish_non_exhaustive()
    }
}

impl Certificates {
    /// Reads those of every listener. Blocking.
    pub(super) fn load(settings: &Settings) -> Result<Self, BindError> {
        let read = |listener: &Option<ListenerTls>| listener.as_ref().map(load).transpose();
        let one = |tls| Ok(read(tls)?.map(|material| Arc::new(ArcSwap::from_pointee(material))));
        settings.listeners.iter().map(|listener| one(&listener.tls)).collect::<Result<_, _>>().map(Self)
    }

    /// Reads the files again, which the settings may name anew; nothing that is in force changes. Blocking.
    ///
    /// # Errors
    /// Names the file that cannot be used.
    pub fn prepare(&self, settings: &Settings) -> Result<PreparedCertificates, BindError> {
        let read = |(presented, listener): (&Option<Arc<Presented>>, _)| match (presented, listener) {
            (Some(presented), Some(tls)) => {
                let (new, current) = (load(tls)?, presented.load_full());
                // The same again stays in force, with the sessions that clients may resume.
                Ok(Some(if new.digest == current.digest { current } else { Arc::new(new) }))
            }
            _ => Ok(None),
        };
        let listeners = settings.listeners.iter().map(|listener| listener.tls.as_ref());
        self.0.iter().zip(listeners).map(read).collect::<Result<_, _>>().map(PreparedCertificates)
    }

    /// Lets new handshakes use what was prepared.
    pub fn apply(&self, prepared: PreparedCertificates) {
        for (presented, new) in self.0.iter().zip(prepared.0) {
            if let (Some(presented), Some(new)) = (presented, new) {
                presented.store(new);
            }
        }
    }

    /// When those in force stop working, by the listeners of the settings.
    pub fn expiries(&self, settings: &Settings) -> Vec<Expiry> {
        let of = |(presented, address): (&Option<Arc<Presented>>, String)| {
            let (owner, material) = (Owner::Listener(address.into()), presented.as_ref()?.load_full());
            let expiry = |&(role, at): &(Role, SystemTime)| Expiry { owner: owner.clone(), role, at };
            Some(material.expiries.iter().map(expiry).collect::<Vec<_>>())
        };
        let addresses = settings.listeners.iter().map(|listener| listener.address.to_string());
        self.0.iter().zip(addresses).filter_map(of).flatten().collect()
    }

    /// Those of one listener, by its place in the settings.
    pub(super) fn of(&self, listener: usize) -> Option<Arc<Presented>> {
        self.0.get(listener)?.clone()
    }
}

fn load(tls: &ListenerTls) -> Result<Material, BindError> {
    let chain = certificates(&tls.certificate).map_err(problem(&tls.certificate))?;
    let key = private_key(&tls.key).map_err(problem(&tls.key))?;
    let authorities = match &tls.client_ca {
        Some(file) => Some((file.as_path(), certificates(file).map_err(problem(file))?)),
        None => None,
    };
    let mut digest = DefaultHasher::new();
    (&chain, key.secret_der(), authorities.as_ref().map(|(_, authorities)| authorities)).hash(&mut digest);
    let own = Role::Own.expires(&chain).map(|at| (Role::Own, at));
    let theirs = authorities.as_ref().and_then(|(_, all)| Some((Role::Authority, Role::Authority.expires(all)?)));
    Ok(Material {
        acceptor: acceptor(tls, chain, key, authorities)?,
        digest: digest.finish(),
        expiries: own.into_iter().chain(theirs).collect(),
    })
}

/// TLS 1.2 and 1.3, h2 and h1 by ALPN; with authorities, only for clients that show a certificate of theirs.
fn acceptor(
    tls: &ListenerTls,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    authorities: Option<(&Path, Vec<CertificateDer<'static>>)>,
) -> Result<Acceptor, BindError> {
    let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(problem(&tls.certificate))?;
    let builder = match authorities {
        None => builder.with_no_client_auth(),
        Some((file, authorities)) => {
            let roots = Arc::new(roots(authorities).map_err(problem(file))?);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, Arc::new(ring::default_provider()));
            builder.with_client_cert_verifier(verifier.build().map_err(problem(file))?)
        }
    };
    let mut config = builder.with_single_cert(chain, key).map_err(problem(&tls.key))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Acceptor::from_server_config(Arc::new(config)))
}

fn roots(authorities: Vec<CertificateDer<'static>>) -> Result<RootCertStore, rustls::Error> {
    let mut roots = RootCertStore::empty();
    for authority in authorities {
        roots.add(authority)?;
    }
    Ok(roots)
}

fn problem<E: fmt::Display>(file: &Path) -> impl Fn(E) -> BindError {
    let file = file.display().to_string();
    move |problem| BindError::Tls { file: file.clone(), problem: problem.to_string() }
}
