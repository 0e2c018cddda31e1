//! Certificates and keys in PEM files, and when certificates expire.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::environment::{read_bounded, reason};

/// How long before its end a certificate is worth a warning.
pub(super) const SOON: Duration = Duration::from_secs(14 * 86_400);

/// What a certificate is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Shown to the other side, with its chain.
    Own,
    /// What the other side's must chain to.
    Authority,
}

impl Role {
    /// The name in metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Own => "own",
            Self::Authority => "authority",
        }
    }

    /// When certificates of that role stop working: a chain with its first to end, authorities with their last, since one
    /// that follows another stands beside it for a while.
    #[must_use]
    pub fn expires(self, certificates: &[CertificateDer<'_>]) -> Option<SystemTime> {
        let ends = certificates.iter().filter_map(|one| expires(one));
        match self {
            Self::Own => ends.min(),
            Self::Authority => ends.max(),
        }
    }
}

/// When the certificates of one file stop working.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expiry {
    /// Who uses them.
    pub owner: Owner,
    /// What for.
    pub role: Role,
    /// When they stop working.
    pub at: SystemTime,
}

/// Who uses certificates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Owner {
    /// The data listener of this address.
    Listener(Arc<str>),
    /// The backend of this name.
    Backend(Arc<str>),
}

/// The certificates of a PEM file, at least one. Blocking.
///
/// # Errors
/// Why it cannot be read, or that it holds none.
pub fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    parse(&read(file)?)
}

/// The certificates of a PEM text, at least one.
pub(super) fn parse(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match all {
        Ok(all) if all.is_empty() => Err("it holds no certificate".to_owned()),
        Ok(all) => Ok(all),
        Err(error) => Err(error.to_string()),
    }
}

/// The private key of a PEM file. Blocking.
///
/// # Errors
/// Why it cannot be read, or that it holds none.
pub fn private_key(file: &Path) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_slice(&read(file)?).map_err(|error| error.to_string())
}

fn read(file: &Path) -> Result<Vec<u8>, String> {
    read_bounded(file).map(|contents| contents.bytes).map_err(|error| reason(&error))
}

/// The end of a certificate's time; `None` for what is no certificate.
fn expires(der: &CertificateDer<'_>) -> Option<SystemTime> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let seconds = u64::try_from(certificate.validity().not_after.timestamp()).unwrap_or(0);
    UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

/// What is worth saying about the end of a certificate's time, for people.
pub(super) struct Ending {
    left: Result<Duration, Duration>,
}

impl Ending {
    /// `None` while there is time enough.
    pub(super) fn of(expires: SystemTime, now: SystemTime) -> Option<Self> {
        let left = expires.duration_since(now).map_err(|error| error.duration());
        left.map_or(true, |left| left < SOON).then_some(Self { left })
    }
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let days = |time: Duration| match time.as_secs() / 86_400 {
            0 => "less than a day".to_owned(),
            1 => "1 day".to_owned(),
            days => format!("{days} days"),
        };
        match self.left {
            Ok(left) => write!(f, "expires in {}", days(left)),
            Err(ago) => write!(f, "expired {} ago", days(ago)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    #[track_caller]
    fn check(before: u32, after: u32, expected: Option<&str>) {
        let now = UNIX_EPOCH + 1_000 * DAY;
        let ending = Ending::of(now - before * DAY + after * DAY, now).map(|ending| ending.to_string());
        assert_eq!(ending.as_deref(), expected);
    }

    #[test]
    fn the_end_is_told_when_it_is_near_or_past() {
        check(0, 15, None);
        check(0, 14, None);
        check(0, 13, Some("expires in 13 days"));
        check(0, 1, Some("expires in 1 day"));
        check(0, 0, Some("expires in less than a day"));
        check(3, 0, Some("expired 3 days ago"));
    }

    /// A certificate whose time ends so many days after 1970.
    fn ending(days: u32) -> CertificateDer<'static> {
        let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.not_before = (UNIX_EPOCH).into();
        params.not_after = (UNIX_EPOCH + days * DAY).into();
        params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().der().clone()
    }

    #[test]
    fn a_chain_ends_with_its_first_and_authorities_with_their_last() {
        let all = [ending(20_000), ending(10_000), CertificateDer::from(b"no certificate".as_slice())];
        assert_eq!(Role::Own.expires(&all), Some(UNIX_EPOCH + 10_000 * DAY));
        assert_eq!(Role::Authority.expires(&all), Some(UNIX_EPOCH + 20_000 * DAY));
        assert_eq!(Role::Own.expires(&all[2..]), None);
    }
}
