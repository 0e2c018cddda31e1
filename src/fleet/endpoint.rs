//! One resolved address of a backend, and how pingora connects to it.
//!
//! This is the only constructor of peers: pingora's own defaults are no timeouts at all, h1 only, one h2 stream per
//! connection, and silently no verification when the server name is empty.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pingora_core::protocols::TcpKeepalive;
use pingora_core::upstreams::peer::{ALPN, HttpPeer};

use super::tls::TlsMaterial;
use crate::config::settings::{Backend, BackendUrl};

/// How long an idle connection is kept: below uvicorn's keep-alive of 5 s, so that a pooled one is rarely one that the
/// server is closing.
pub const KEPT_IDLE: Duration = Duration::from_secs(4);
/// What we ask for at most on one h2 connection; the server's own limit holds as well.
const H2_STREAMS: usize = 100;
const H2_PING: Duration = Duration::from_secs(15);

/// One resolved address of a backend.
#[derive(Debug)]
pub struct Endpoint {
    address: SocketAddr,
    peer: HttpPeer,
    healthy: AtomicBool,
}

impl Endpoint {
    pub(super) fn new(address: SocketAddr, backend: &Backend, tls: &TlsMaterial, connect: Duration) -> Self {
        Self { address, peer: peer(address, backend, tls, connect), healthy: AtomicBool::new(false) }
    }

    /// The address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How to connect; completely set up.
    pub fn peer(&self) -> &HttpPeer {
        &self.peer
    }

    /// Whether plain HTTP/1.1 is spoken.
    pub fn is_plain_h1(&self) -> bool {
        !self.peer.is_tls() && !self.is_h2()
    }

    /// Whether HTTP/2 is spoken.
    pub fn is_h2(&self) -> bool {
        self.peer.options.alpn.get_max_http_version() == 2
    }

    /// Whether the latest active check of this address passed.
    pub fn healthy(&self) -> bool {
        self.healthy.load(Ordering::Relaxed)
    }

    pub(super) fn set_healthy(&self, healthy: bool) {
        self.healthy.store(healthy, Ordering::Relaxed);
    }
}

/// How to connect to something that is no backend: an exporter of a backend's host.
pub(super) fn plain_peer(address: SocketAddr, url: &BackendUrl, connect: Duration) -> HttpPeer {
    let mut peer = HttpPeer::new(address, url.https, url.host.to_string());
    let options = &mut peer.options;
    options.connection_timeout = Some(connect);
    options.total_connection_timeout = Some(connect);
    options.idle_timeout = Some(KEPT_IDLE);
    options.alpn = ALPN::H1;
    peer
}

fn peer(address: SocketAddr, backend: &Backend, tls: &TlsMaterial, connect: Duration) -> HttpPeer {
    let name = backend.tls.server_name.as_ref().unwrap_or(&backend.url.host);
    let mut peer = HttpPeer::new(address, backend.url.https, name.to_string());
    // The pool tells peers apart by a hash that leaves the authority out.
    peer.group_key = tls.group;
    peer.client_cert_key.clone_from(&tls.identity);
    let options = &mut peer.options;
    options.ca.clone_from(&tls.ca);
    options.connection_timeout = Some(connect);
    options.total_connection_timeout = Some(connect);
    options.idle_timeout = Some(KEPT_IDLE);
    options.alpn = if backend.http2 { ALPN::H2 } else { ALPN::H1 };
    options.max_h2_streams = H2_STREAMS;
    options.h2_ping_interval = backend.http2.then_some(H2_PING);
    options.tcp_keepalive = Some(TcpKeepalive {
        idle: Duration::from_secs(15),
        interval: Duration::from_secs(5),
        count: 3,
        #[cfg(target_os = "linux")]
        user_timeout: Duration::from_secs(30),
    });
    peer
}
