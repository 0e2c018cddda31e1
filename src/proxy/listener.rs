//! Our own accept loop: binds, bounds the number of connections, speaks TLS, and hands each connection to pingora.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use pingora_core::apps::{HttpServerOptions, ServerApp};
use pingora_core::protocols::tls::TlsStream;
use pingora_core::protocols::{ALPN, Ssl as _, Stream};
use pingora_core::server::configuration::ServerConf;
use pingora_proxy::http_proxy;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::Proxy;
use super::bounded::Bounded;
use super::certificates::{Certificates, Presented};
use super::door::{Door, Queue};
use super::lifecycle::turned;
use super::service::{KEEP_ALIVE, Service};
use super::stream::{ClientStream, Plain};
use crate::clock::ACCEPT_PAUSE;
use crate::config::settings::{Listener, Settings};
use crate::fleet::endpoint::KEPT_IDLE;

/// Why a listener cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The address is taken, or not ours.
    #[error("cannot listen on {address}: {error}")]
    Bind {
        /// Where.
        address: SocketAddr,
        /// Why not.
        error: io::Error,
    },
    /// Its certificate or key cannot be used.
    #[error("{file}: {problem}")]
    Tls {
        /// Which file.
        file: String,
        /// What is wrong with it.
        problem: String,
    },
}

/// The data listeners, bound and not yet accepting.
pub struct Listeners {
    bound: Vec<Bound>,
    addresses: Vec<SocketAddr>,
    certificates: Arc<Certificates>,
}

struct Bound {
    /// As the configuration has it: port 0 stays 0.
    configured: SocketAddr,
    tcp: TcpListener,
    tls: Option<Arc<Presented>>,
    h2c: bool,
}

impl Listeners {
    /// Binds every listener of the settings, or none. Where `inherited` gives a socket that listens at an address
    /// already, it is taken.
    ///
    /// # Errors
    /// Names the address or the file that cannot be used.
    pub async fn bind(
        settings: &Settings,
        mut inherited: impl FnMut(SocketAddr) -> Option<std::net::TcpListener>,
    ) -> Result<Self, BindError> {
        let mut bound = Vec::with_capacity(settings.listeners.len());
        let mut addresses = Vec::with_capacity(settings.listeners.len());
        let certificates = Arc::new(Certificates::load(settings)?);
        for (index, listener) in settings.listeners.iter().enumerate() {
            let one = bind(listener, certificates.of(index), inherited(listener.address)).await?;
            let failed = |error| BindError::Bind { address: listener.address, error };
            addresses.push(one.tcp.local_addr().map_err(failed)?);
            bound.push(one);
        }
        Ok(Self { bound, addresses, certificates })
    }

    /// The addresses, with the ports that the system chose.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Handles of their own on the listening sockets, with the addresses that the configuration has.
    ///
    /// # Errors
    /// When there are no descriptors left.
    pub fn handles(&self) -> io::Result<Vec<(SocketAddr, OwnedFd)>> {
        let handle = |one: &Bound| Ok((one.configured, one.tcp.as_fd().try_clone_to_owned()?));
        self.bound.iter().map(handle).collect()
    }

    /// What those that speak TLS show and trust.
    #[must_use]
    pub fn certificates(&self) -> &Arc<Certificates> {
        &self.certificates
    }

    /// Accepts until the proxy's life closes; returns, when the last listener has stopped, the connections that go on
    /// until their exchanges have ended.
    pub async fn run(self, proxy: Arc<Proxy>) -> Connections {
        let door = Door::new(Arc::clone(&proxy.ladder));
        let sweeping = tokio::spawn(sweep(Arc::clone(&proxy)));
        let accepting: Vec<_> = self
            .bound
            .into_iter()
            .map(|one| tokio::spawn(accept(one, Arc::clone(&proxy), Arc::clone(&door))))
            .collect();
        for one in accepting {
            let _ = one.await;
        }
        sweeping.abort();
        Connections(door)
    }
}

/// The connections that outlive their listeners.
pub struct Connections(Arc<Door>);

impl Connections {
    /// Waits until the last one is closed: until then bytes may be on their way to its client.
    pub async fn closed(&self) {
        self.0.empty().await;
    }
}

/// Closes idle connections to backends once their time is up, whether or not another request comes.
async fn sweep(proxy: Arc<Proxy>) {
    loop {
        tokio::time::sleep(KEPT_IDLE / 4).await;
        proxy.backends.sweep(proxy.clock.now());
    }
}

async fn bind(
    listener: &Listener,
    tls: Option<Arc<Presented>>,
    inherited: Option<std::net::TcpListener>,
) -> Result<Bound, BindError> {
    let tcp = match inherited {
        Some(inherited) => inherited.set_nonblocking(true).and_then(|()| TcpListener::from_std(inherited)),
        None => TcpListener::bind(listener.address).await,
    };
    let tcp = tcp.map_err(|error| BindError::Bind { address: listener.address, error })?;
    Ok(Bound { configured: listener.address, tcp, tls, h2c: listener.h2c })
}

async fn accept(bound: Bound, proxy: Arc<Proxy>, door: Arc<Door>) {
    let Bound { tcp, tls, h2c, .. } = bound;
    let app = application(&proxy, h2c);
    let closing = proxy.lifecycle.closing();
    let mut closed = closing.clone();
    let mut queue = Queue::default();
    loop {
        let accepted = tokio::select! {
            () = turned(&mut closed) => break,
            accepted = async { door.wait(&proxy, &mut queue).await; tcp.accept().await } => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let Some(connection) = door.enter(&proxy, &queue) else {
                    door.turn_away(&proxy, stream, tls.is_none());
                    continue;
                };
                let (app, tls, proxy, closing) = (Arc::clone(&app), tls.clone(), Arc::clone(&proxy), closing.clone());
                tokio::spawn(async move {
                    serve(stream, tls, &app, &proxy, &closing).await;
                    drop(connection);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(tcp);
    // Connections that wait for a next request are closed; those that serve one close after it.
    turned(&mut proxy.lifecycle.hanging_up()).await;
    app.cleanup().await;
}

fn application(proxy: &Arc<Proxy>, h2c: bool) -> Arc<Bounded> {
    let conf = Arc::new(ServerConf { max_retries: 1, ..ServerConf::default() });
    let mut app = http_proxy(&conf, Service(Arc::clone(proxy)));
    let mut options = HttpServerOptions::default();
    options.h2c = h2c;
    options.h2_idle_timeout = Some(Duration::from_secs(KEEP_ALIVE));
    app.server_options = Some(options);
    Arc::new(Bounded::new(Arc::new(app), Arc::clone(&proxy.lifecycle)))
}

async fn serve(
    tcp: TcpStream,
    tls: Option<Arc<Presented>>,
    app: &Arc<Bounded>,
    proxy: &Arc<Proxy>,
    closing: &watch::Receiver<bool>,
) {
    let _ = tcp.set_nodelay(true);
    let within = proxy.fleet.load().settings().limits.header_deadline;
    let plain = Plain::new(tcp);
    let stream: Stream = match tls {
        None => Box::new(ClientStream::new(plain, within, proxy)),
        // On the heap: the room that a handshake takes would stay with its connection.
        Some(tls) => match tokio::time::timeout(within, Box::pin(handshake(tls, plain))).await {
            Ok(Ok(tls)) => {
                let h2 = matches!(tls.selected_alpn_proto(), Some(ALPN::H2));
                let mut stream = ClientStream::new(tls, within, proxy);
                if h2 {
                    stream.speaks_h2();
                }
                Box::new(stream)
            }
            Ok(Err(_)) | Err(_) => return proxy.telemetry.metrics().handshake_failed(),
        },
    };
    app.process_new(stream, closing).await;
}

/// With what is in force now; a connection does not keep what it was made with from going.
async fn handshake(presented: Arc<Presented>, plain: Plain) -> pingora_core::Result<TlsStream<Plain>> {
    let material = presented.load_full();
    material.acceptor.tls_handshake(plain).await
}
