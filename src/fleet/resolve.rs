//! From a backend's name to its addresses, again whenever the records have grown too old.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::LookupIpStrategy;
use tokio::time::timeout;

use super::backend::Shared;
use crate::clock::Clock;

/// Bounds on how long an answer is used: records of no lifetime would be asked for without pause.
const LIFETIME: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));
/// Until a failed look-up is tried again; the old addresses stay in use.
const AGAIN: Duration = Duration::from_secs(5);
const LONGEST: Duration = Duration::from_secs(10);
/// Most addresses of one name that are used.
const MOST: usize = 16;

/// Looks names up: through hickory, which tells how long an answer lives, or through the system where its
/// configuration cannot be read.
pub(super) struct Names(Option<TokioResolver>);

impl Names {
    pub(super) fn of_the_system() -> Self {
        let builder = TokioResolver::builder_tokio().map(|mut builder| {
            builder.options_mut().ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
            builder
        });
        let resolver = builder.and_then(hickory_resolver::ResolverBuilder::build);
        if let Err(error) = &resolver {
            tracing::warn!(%error, "the resolver's configuration cannot be read; asking the system instead");
        }
        Self(resolver.ok())
    }

    /// The addresses of a name, sorted, and how long they may be used; `None` when there are none.
    pub(super) async fn look_up(
        &self,
        host: &str,
        port: u16,
        clock: &dyn Clock,
    ) -> Option<(Vec<SocketAddr>, Duration)> {
        let (found, lifetime): (Vec<IpAddr>, _) = if let Some(resolver) = &self.0 {
            let answer = resolver.lookup_ip(host).await.ok()?;
            (answer.iter().collect(), answer.valid_until().saturating_duration_since(clock.now()))
        } else {
            let answer = tokio::net::lookup_host((host, port)).await.ok()?;
            (answer.map(|address| address.ip()).collect(), Duration::from_secs(30))
        };
        let mut addresses: Vec<_> =
            found.into_iter().filter(routable).map(|address| SocketAddr::new(address, port)).collect();
        addresses.sort_unstable();
        addresses.dedup();
        addresses.truncate(MOST);
        (!addresses.is_empty()).then_some((addresses, lifetime.clamp(LIFETIME.0, LIFETIME.1)))
    }
}

/// A name must not lead to link-local addresses: instance metadata lives there.
fn routable(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => !address.is_link_local() && !address.is_unspecified(),
        IpAddr::V6(address) => !address.is_unicast_link_local() && !address.is_unspecified(),
    }
}

impl Shared {
    /// A literal address needs no resolving; it is there from the start.
    pub(super) fn resolve_literal(&self) {
        let settings = self.latest.load();
        if let Ok(address) = settings.url.host.parse::<IpAddr>() {
            self.set_addresses(&[SocketAddr::new(address, settings.url.port)]);
        }
    }
}

/// Keeps a backend's addresses fresh for as long as it is polled; returns at once for a literal address.
pub(super) async fn keep_resolved(shared: &Shared, names: &Names, clock: &dyn Clock) {
    let url = shared.latest.load().url.clone();
    if url.host.parse::<IpAddr>().is_ok() {
        return;
    }
    loop {
        let found = timeout(LONGEST, Box::pin(names.look_up(&url.host, url.port, clock))).await.ok().flatten();
        let wait = if let Some((addresses, lifetime)) = found {
            shared.set_addresses(&addresses);
            lifetime
        } else {
            AGAIN
        };
        shared.resolved.notify_one();
        tokio::time::sleep(wait).await;
    }
}
