//! From a backend's name to its addresses.

use std::net::{IpAddr, SocketAddr};

use super::backend::Shared;

impl Shared {
    /// A literal address needs no resolving; it is there from the start.
    pub(super) fn resolve_literal(&self) {
        let settings = self.latest.load();
        if let Ok(address) = settings.url.host.parse::<IpAddr>() {
            self.set_addresses(&[SocketAddr::new(address, settings.url.port)]);
        }
    }
}
