//! What the configuration names but does not hold: secrets, certificates, keys.

use std::path::{Path, PathBuf};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use secrecy::SecretString;

use super::Builder;
use crate::config::certificates::{self, Ending, Role};
use crate::config::diagnostic::Code;
use crate::config::environment::{Contents, Lookup};
use crate::config::file::scalar::{self, Wrong};
use crate::config::file::view::View;

/// Most that others may be allowed to do with a file that holds a secret.
const SECRET_MODE: u32 = 0o640;

impl Builder<'_, '_, '_> {
    /// A credential: the text itself, or the file that holds it.
    pub(super) fn secret(&mut self, view: &View<'_>) -> Option<SecretString> {
        if let Some(scalar) = view.scalar() {
            if scalar.written.is_none() {
                let hint = "write `\"${VARIABLE}\"` or `{ file: … }`";
                self.warning(view, Code::Unsafe, "a secret stands in the configuration itself", hint);
            }
            return view.read(scalar::secret).map(SecretString::from);
        }
        let file = view.key("file");
        let (path, contents) = self.contents(&file)?;
        self.judge_mode(&file, &path, &contents);
        let text = String::from_utf8_lossy(&contents.bytes);
        match scalar::secret(&text) {
            Ok(secret) => Some(SecretString::from(secret)),
            Err(Wrong { message, .. }) => {
                let message = format!("`{}` cannot be used: {message}", path.display());
                self.error(&file, Code::File, message, "the file should hold the secret and nothing else");
                None
            }
        }
    }

    /// A certificate chain and its key, both readable and made for each other.
    pub(super) fn identity(&mut self, certificate: &View<'_>, key: &View<'_>) -> Option<(PathBuf, PathBuf)> {
        let chain = self.certificates(certificate, Role::Own);
        let path = key.text().map(|path| self.base.join(path))?;
        if let Some((_, contents)) = self.contents(key) {
            self.judge_mode(key, &path, &contents);
            if let Ok(private) = PrivateKeyDer::from_pem_slice(&contents.bytes) {
                self.judge_pair(certificate, chain, private);
            } else {
                let message = format!("`{}` holds no private key", path.display());
                self.error(key, Code::File, message, "it should be PEM: `-----BEGIN PRIVATE KEY-----`");
            }
        }
        Some((self.base.join(certificate.text()?), path))
    }

    /// Our own `certificate` and `key`, where both or neither must be named.
    pub(super) fn own_identity(&mut self, view: &View<'_>) -> Option<(PathBuf, PathBuf)> {
        let (certificate, key) = (view.key("certificate"), view.key("key"));
        match (certificate.is_set(), key.is_set()) {
            (false, false) => None,
            (true, true) => self.identity(&certificate, &key),
            (has_certificate, _) => {
                let (there, absent) = if has_certificate { (&certificate, "key") } else { (&key, "certificate") };
                self.error(there, Code::Missing, format!("`{absent}` is missing beside it"), format!("add `{absent}`"));
                None
            }
        }
    }

    /// A file of certificates, readable.
    pub(super) fn authority(&mut self, view: &View<'_>) -> Option<PathBuf> {
        let path = self.base.join(view.text()?);
        self.certificates(view, Role::Authority);
        Some(path)
    }

    fn certificates(&mut self, view: &View<'_>, role: Role) -> Option<Vec<CertificateDer<'static>>> {
        let (path, contents) = self.contents(view)?;
        let Ok(certificates) = certificates::parse(&contents.bytes) else {
            let message = format!("`{}` holds no certificate", path.display());
            self.error(view, Code::File, message, "it should be PEM: `-----BEGIN CERTIFICATE-----`");
            return None;
        };
        let end = role.expires(&certificates).zip(self.environment.wall());
        if let Some(ending) = end.and_then(|(expires, now)| Ending::of(expires, now)) {
            let message = format!("the certificate in `{}` {ending}", path.display());
            self.warning(view, Code::Expiring, message, "renew it; a running headway reads the new file by itself");
        }
        Some(certificates)
    }

    /// A pair that does not belong together would be found by the first client otherwise.
    fn judge_pair(
        &mut self,
        view: &View<'_>,
        chain: Option<Vec<CertificateDer<'static>>>,
        key: PrivateKeyDer<'static>,
    ) {
        let provider = rustls::crypto::ring::default_provider();
        let Some(Err(error)) = chain.map(|chain| CertifiedKey::from_der(chain, key, &provider)) else { return };
        let message = format!("certificate and key cannot be used together: {error}");
        self.error(view, Code::File, message, "name the certificate that was made for this key");
    }

    pub(super) fn contents(&mut self, view: &View<'_>) -> Option<(PathBuf, Contents)> {
        let path = self.base.join(view.text()?);
        let found = self.environment.file(&path);
        self.found(view, path, found, "relative paths start from the folder of the configuration file")
    }

    /// The same of a file of measurements.
    pub(super) fn baselines(&mut self, view: &View<'_>) -> Option<(PathBuf, Contents)> {
        let path = self.base.join(view.text()?);
        let found = self.environment.baselines(&path);
        let hint = "`headway calibrate` writes it; a relative path starts from the folder of the configuration file";
        self.found(view, path, found, hint)
    }

    fn found(
        &mut self,
        view: &View<'_>,
        path: PathBuf,
        found: Lookup<Contents>,
        hint: &str,
    ) -> Option<(PathBuf, Contents)> {
        match found {
            Lookup::Found(contents) => Some((path, contents)),
            Lookup::Skipped => None,
            Lookup::Missing(why) => {
                let message = format!("`{}` cannot be read: {why}", path.display());
                self.error(view, Code::File, message, hint);
                None
            }
        }
    }

    fn judge_mode(&mut self, view: &View<'_>, path: &Path, contents: &Contents) {
        if let Some(mode) = contents.mode.filter(|mode| mode & !SECRET_MODE != 0) {
            let shown = path.display();
            let message = format!("`{shown}` holds a secret, and its mode {mode:04o} lets others use it");
            self.warning(view, Code::Unsafe, message, format!("chmod 0640 {shown}"));
        }
    }
}
