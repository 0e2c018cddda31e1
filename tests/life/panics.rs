//! A panic anywhere on the data path costs the one request it struck: its guards let go, its neighbours live.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Instant, SystemTime};

use headway::clock::{Clock, SystemClock};
use headway::measure::outcome::Outcome;

use crate::support::backend::{Backend, Script, stream};
use crate::support::client::{self, chat, read_reply, request};
use crate::support::h2_client::Connection;
use crate::support::{Headway, backend, config};

const CORS: &str = "cors: { origins: [\"https://a.test\"] }";

/// A clock that panics once, when it has been asked that many times after it was armed.
struct Bomb(AtomicI64);

impl Clock for Bomb {
    fn now(&self) -> Instant {
        assert!(self.0.fetch_sub(1, Ordering::SeqCst) != 0, "on purpose");
        SystemClock.now()
    }

    fn wall(&self) -> SystemTime {
        SystemClock.wall()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_costs_one_request() {
    let backend_ = Backend::start(Script::events(&stream(3), true)).await;
    let bomb = Arc::new(Bomb(AtomicI64::new(-1)));
    let headway =
        Headway::with_clock(&config(&[backend("m", backend_.address)], "", CORS), Arc::clone(&bomb) as Arc<dyn Clock>)
            .await;
    let (mut struck, mut told, mut untold) = (0.0, 0, 0);
    for moment in 0..12 {
        let neighbour = Connection::open(headway.address).await;
        let (mut h1, h2) = (client::connect(headway.address).await, neighbour.send("before", Some(&chat("m"))).await);
        let mut h2 = h2;
        assert_eq!(h2.reply().await.0, 200);
        headway.idle().await;
        bomb.0.store(moment, Ordering::SeqCst);
        let id = format!("struck-{moment}");
        let from_a_page = request(&id, &chat("m")).replacen("\r\n", "\r\norigin: https://a.test\r\n", 1);
        let reply = client::ask(&mut h1, &from_a_page).await;
        headway.idle().await;
        let exploded = bomb.0.swap(-1, Ordering::SeqCst) < 0;
        if exploded {
            struck += 1.0;
            let record = headway.record(&id).await;
            match (reply.status, reply.whole) {
                (500, true) => {
                    assert!(reply.text.contains("internal_error"), "{reply:?}");
                    let readable = "access-control-allow-origin: https://a.test\r\n";
                    assert!(reply.text.contains(readable), "{reply:?}");
                    assert!(reply.text.contains(&format!("x-request-id: {id}\r\n")), "{reply:?}");
                    assert_eq!((record.status, record.outcome), (500, Outcome::InternalError), "{record:?}");
                    told += 1;
                }
                (200, _) | (0, false) => untold += 1,
                _ => panic!("{reply:?}"),
            }
        }
        assert_eq!(neighbour.send("after", Some(&chat("m"))).await.reply().await.0, 200, "{moment}: the neighbour");
        let mut fresh = client::send(headway.address, &request("fresh", &chat("m"))).await;
        assert!(read_reply(&mut fresh).await.whole, "{moment}: the next");
    }
    assert!(struck >= 5.0 && told >= 3 && untold < 12, "{struck} struck, {told} told");
    assert_eq!(headway.metric("headway_panics_total", &[]).await, struck);
}
