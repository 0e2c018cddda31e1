//! Who may call, how much, and from which web pages.
//!
//! Of a key the file holds its SHA-256 only: whoever reads the file cannot call. A fast digest does for keys that are
//! random and long, and a slow one would be paid for by every request, a stranger's included.

use std::fmt;
use std::sync::Arc;

use ring::digest::{SHA256, digest};

/// Callers and web pages that are let in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Access {
    /// Who may call; `None` lets everyone.
    pub keys: Option<Vec<Arc<ApiKey>>>,
    /// Which web pages may call; `None` says nothing to browsers.
    pub cors: Option<Cors>,
}

/// One caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKey {
    /// The name in the access log.
    pub name: Arc<str>,
    /// What its key is recognised by.
    pub digest: KeyDigest,
    /// The routes it may use, by their index in [`Settings::routes`](super::settings::Settings::routes); `None` is all.
    pub routes: Option<Vec<usize>>,
    /// How much it may use.
    pub limits: KeyLimits,
}

/// How much one caller may use; `None` is without limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct KeyLimits {
    /// Requests in any minute.
    pub requests_per_minute: Option<u64>,
    /// Input and output tokens in any minute.
    pub tokens_per_minute: Option<u64>,
    /// Requests under way at once.
    pub concurrency: Option<u32>,
}

/// The SHA-256 of a key.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct KeyDigest([u8; 32]);

impl KeyDigest {
    /// The digest of a key.
    #[must_use]
    pub fn of(key: &[u8]) -> Self {
        let mut bytes = [0; 32];
        bytes.iter_mut().zip(digest(&SHA256, key).as_ref()).for_each(|(to, from)| *to = *from);
        Self(bytes)
    }

    /// Reads 64 hexadecimal digits.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; 32];
        if text.len() != 64 {
            return None;
        }
        for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
            let digits = std::str::from_utf8(pair).ok().filter(|pair| !pair.starts_with('+'))?;
            *byte = u8::from_str_radix(digits, 16).ok()?;
        }
        Some(Self(bytes))
    }

    /// Whether both are the same, found out in a time that does not depend on how much of them is.
    #[must_use]
    pub fn same(&self, other: &Self) -> bool {
        let differing = self.0.iter().zip(other.0).fold(0, |differing, (one, other)| differing | (one ^ other));
        std::hint::black_box(differing) == 0
    }
}

/// A digest tells nothing of a good key, and all of a weak one.
impl fmt::Debug for KeyDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyDigest([redacted])")
    }
}

/// Which web pages may call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cors {
    /// Their origins, such as `https://app.example.com`; `*` is any.
    pub origins: Vec<Arc<str>>,
}

impl Cors {
    /// What lets in pages from everywhere.
    pub const ANY: &'static str = "*";

    /// Whether a page of this origin may call.
    #[must_use]
    pub fn allows(&self, origin: &str) -> bool {
        self.origins.iter().any(|one| &**one == Self::ANY || &**one == origin)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// FIPS 180-2, appendix B.1.
    const OF_ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn a_key_is_known_by_its_digest_alone() {
        let digest = KeyDigest::parse(OF_ABC).expect("64 digits");
        assert!(digest.same(&KeyDigest::of(b"abc")) && digest == KeyDigest::of(b"abc"));
        assert_eq!(KeyDigest::parse(&OF_ABC.to_uppercase()), Some(digest));
        for other in [&b""[..], b"abd", b"abc\n"] {
            assert!(!digest.same(&KeyDigest::of(other)));
        }
        assert_eq!(format!("{digest:?}"), "KeyDigest([redacted])");
    }

    #[test]
    fn what_is_no_digest_is_refused() {
        let long = format!("{OF_ABC}00");
        for bad in ["", "abc", &OF_ABC[1..], &long, &OF_ABC.replace("ba", "+a"), &OF_ABC.replace("ba", "é")] {
            assert_eq!(KeyDigest::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn pages_are_let_in_by_their_whole_origin() {
        let cors = Cors { origins: vec!["https://app.example.com".into()] };
        assert!(cors.allows("https://app.example.com"));
        for other in ["http://app.example.com", "https://app.example.com.evil.test", "https://example.com", "null", "*"]
        {
            assert!(!cors.allows(other), "{other}");
        }
        assert!(Cors { origins: vec!["*".into()] }.allows("https://anywhere.test"));
    }
}
