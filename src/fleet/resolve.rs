//! From a backend's name to its addresses, again whenever the records have grown too old.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::LookupIpStrategy;
use tokio::time::timeout;

use super::backend::Shared;
use crate::clock::Clock;
use crate::config::network::is_link_local;

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

    /// The addresses of a name; `None` when it cannot be looked up.
    pub(super) async fn look_up(&self, host: &str, port: u16, link_local: bool, clock: &dyn Clock) -> Option<Found> {
        let (found, lifetime): (Vec<IpAddr>, _) = if let Some(resolver) = &self.0 {
            let answer = resolver.lookup_ip(host).await.ok()?;
            (answer.iter().collect(), answer.valid_until().saturating_duration_since(clock.now()))
        } else {
            let answer = tokio::net::lookup_host((host, port)).await.ok()?;
            (answer.map(|address| address.ip()).collect(), Duration::from_secs(30))
        };
        Some(Found::of(&found, port, link_local, lifetime))
    }
}

/// What a look-up found.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// Where to connect to, sorted; may be empty.
    pub(super) addresses: Vec<SocketAddr>,
    /// How long that may be used.
    lifetime: Duration,
    /// Whether the name leads to link-local addresses, which are left out: instance metadata lives there.
    refused: bool,
}

impl Found {
    fn of(found: &[IpAddr], port: u16, link_local: bool, lifetime: Duration) -> Self {
        let refuses = |address: &IpAddr| !link_local && is_link_local(*address);
        let usable = found.iter().filter(|address| !address.to_canonical().is_unspecified() && !refuses(address));
        let mut addresses: Vec<_> = usable.map(|&address| SocketAddr::new(address, port)).collect();
        addresses.sort_unstable();
        addresses.dedup();
        addresses.truncate(MOST);
        Self { addresses, lifetime: lifetime.clamp(LIFETIME.0, LIFETIME.1), refused: found.iter().any(refuses) }
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
    let mut told = false;
    loop {
        let link_local = shared.latest.load().allow_link_local;
        let looking = Box::pin(names.look_up(&url.host, url.port, link_local, clock));
        let found = timeout(LONGEST, looking).await.ok().flatten();
        let refused = found.as_ref().is_some_and(|found| found.refused);
        if refused && !told {
            tracing::warn!(
                backend = %shared.latest.load().name,
                "its name leads to a link-local address, which is not used unless `allow_link_local` says so"
            );
        }
        told = refused;
        let wait = match found {
            Some(found) if !found.addresses.is_empty() => {
                shared.set_addresses(&found.addresses);
                found.lifetime
            }
            _ => AGAIN,
        };
        shared.resolved.notify_one();
        tokio::time::sleep(wait).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(found: &[&str], link_local: bool, expected: (&[&str], bool)) {
        let parsed: Vec<IpAddr> = found.iter().map(|address| address.parse().unwrap()).collect();
        let kept = Found::of(&parsed, 80, link_local, Duration::from_secs(30));
        let addresses: Vec<_> = kept.addresses.iter().map(|address| address.ip().to_string()).collect();
        assert_eq!((addresses, kept.refused), (expected.0.iter().map(ToString::to_string).collect(), expected.1));
    }

    #[test]
    fn a_name_does_not_lead_to_the_metadata_of_a_cloud() {
        check(&["10.0.0.2", "10.0.0.1", "10.0.0.2"], false, (&["10.0.0.1", "10.0.0.2"], false));
        check(&["169.254.169.254"], false, (&[], true));
        check(&["169.254.169.254", "10.0.0.1"], false, (&["10.0.0.1"], true));
        check(&["::ffff:169.254.169.254", "fe80::1", "fd00:ec2::254"], false, (&[], true));
        check(&["169.254.1.1", "fe80::1"], true, (&["169.254.1.1", "fe80::1"], false));
        check(&["0.0.0.0", "::", "::ffff:0.0.0.0"], true, (&[], false));
    }
}
