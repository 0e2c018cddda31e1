//! Idle plain connections to backends, kept for the next request.
//!
//! pingora's own pool serves TLS and HTTP/2. Plain HTTP/1.1, which model servers mostly speak, is our own from the socket
//! up (`docs/decisions/0010-own-plain-connections.md`), and has this one.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::net::TcpStream;

use super::h1::is_quiet;
use crate::fleet::endpoint::KEPT_IDLE;

/// Most idle connections kept for one address.
const MOST_PER_ADDRESS: usize = 1024;

/// The idle connections of one data path.
#[derive(Debug, Default)]
pub(super) struct Pool {
    idle: Mutex<HashMap<SocketAddr, VecDeque<Idle>>>,
}

#[derive(Debug)]
struct Idle {
    stream: TcpStream,
    since: Instant,
}

impl Pool {
    /// The connection that was used last and is still good.
    pub(super) fn take(&self, address: SocketAddr, now: Instant) -> Option<TcpStream> {
        // Sockets are looked at, and closed, apart from the lock.
        loop {
            let Idle { stream, since } = self.lock().get_mut(&address)?.pop_back()?;
            if now.saturating_duration_since(since) < KEPT_IDLE && is_quiet(&stream) {
                return Some(stream);
            }
        }
    }

    /// Keeps a connection whose response is complete.
    pub(super) fn put(&self, address: SocketAddr, stream: TcpStream, now: Instant) {
        let mut idle = self.lock();
        let queue = idle.entry(address).or_default();
        let evicted = if queue.len() >= MOST_PER_ADDRESS { queue.pop_front() } else { None };
        queue.push_back(Idle { stream, since: now });
        drop(idle);
        drop(evicted);
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.lock().values().map(VecDeque::len).sum()
    }

    /// Closes the one that has been idle for longest; whether there was one.
    pub(super) fn close_oldest(&self) -> bool {
        let mut idle = self.lock();
        let oldest = idle
            .values_mut()
            .filter(|queue| !queue.is_empty())
            .min_by_key(|queue| queue.front().map(|idle| idle.since));
        let closed = oldest.and_then(VecDeque::pop_front);
        drop(idle);
        closed.is_some()
    }

    /// Closes what has been idle for too long, and forgets addresses without connections.
    pub(super) fn sweep(&self, now: Instant) {
        let mut old = Vec::new();
        self.lock().retain(|_, queue| {
            let aged = queue.iter().take_while(|idle| now.saturating_duration_since(idle.since) >= KEPT_IDLE).count();
            old.extend(queue.drain(..aged));
            !queue.is_empty()
        });
        drop(old);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SocketAddr, VecDeque<Idle>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    use super::*;
    use crate::clock::{Clock, ManualClock};

    async fn pair() -> (TcpStream, TcpStream, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (near, far) = tokio::join!(TcpStream::connect(address), listener.accept());
        (near.unwrap(), far.unwrap().0, address)
    }

    #[tokio::test]
    async fn a_good_connection_is_given_again_and_an_old_one_is_not() {
        let (clock, pool) = (ManualClock::new(), Pool::default());
        let (stream, _far, address) = pair().await;
        pool.put(address, stream, clock.now());
        let stream = pool.take(address, clock.now()).expect("it is there");
        assert!(pool.take(address, clock.now()).is_none());
        pool.put(address, stream, clock.now());
        clock.advance(KEPT_IDLE);
        assert!(pool.take(address, clock.now()).is_none());
    }

    #[tokio::test]
    async fn a_connection_that_spoke_or_closed_is_not_given() {
        let (clock, pool) = (ManualClock::new(), Pool::default());
        for speaks in [true, false] {
            let (stream, mut far, address) = pair().await;
            if speaks {
                far.write_all(b"408").await.unwrap();
            } else {
                drop(far);
            }
            // Readiness comes from the runtime's own poll.
            while is_quiet(&stream) {
                tokio::task::yield_now().await;
            }
            pool.put(address, stream, clock.now());
            assert!(pool.take(address, clock.now()).is_none());
        }
    }

    #[tokio::test]
    async fn the_oldest_makes_way() {
        let (clock, pool) = (ManualClock::new(), Pool::default());
        assert!(!pool.close_oldest());
        let ((older, _far_1, address), (newer, _far_2, other)) = (pair().await, pair().await);
        pool.put(address, older, clock.now());
        clock.advance(KEPT_IDLE / 2);
        pool.put(other, newer, clock.now());
        assert!(pool.len() == 2 && pool.close_oldest() && pool.len() == 1);
        assert!(pool.take(address, clock.now()).is_none() && pool.take(other, clock.now()).is_some());
    }

    #[tokio::test]
    async fn sweeping_closes_what_is_old() {
        let (clock, pool) = (ManualClock::new(), Pool::default());
        let (stream, _far, address) = pair().await;
        pool.put(address, stream, clock.now());
        pool.sweep(clock.now());
        assert_eq!(pool.lock().len(), 1);
        clock.advance(KEPT_IDLE);
        pool.sweep(clock.now());
        assert_eq!(pool.lock().len(), 0);
    }
}
