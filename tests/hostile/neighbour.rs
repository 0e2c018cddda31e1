//! A client that means no harm, and how it fares beside those that do.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use crate::support::backend::Script;
use crate::support::client::{self, chat};
use crate::support::{metric, now, page, patiently};

/// What its backend answers: a whole answer that is not streamed.
pub(crate) fn whole() -> Script {
    let body = r#"{"id":"c","choices":[{"index":0,"message":{"content":"a"},"finish_reason":"stop"}]}"#;
    Script::pieces(vec![bytes::Bytes::from_static(body.as_bytes())], "application/json")
}

/// Asks the model `n` again and again; every request must be answered.
pub(crate) struct Neighbour {
    stop: Arc<AtomicBool>,
    asking: JoinHandle<Vec<Duration>>,
}

/// How long its requests took.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Took {
    pub(crate) median: Duration,
    pub(crate) p99: Duration,
    pub(crate) requests: usize,
}

impl Neighbour {
    pub(crate) fn start(address: SocketAddr) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let asking = tokio::spawn(async move {
            let (mut stream, mut took) = (client::connect(address).await, Vec::new());
            let body = chat("n").replace("true", "false");
            while !stopped.load(Ordering::SeqCst) || took.len() < 20 {
                let began: Instant = now();
                let reply = client::ask(&mut stream, &client::request(&format!("n-{}", took.len()), &body)).await;
                assert!(reply.status == 200 && reply.whole, "{reply:?}");
                took.push(began.elapsed());
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            took.sort_unstable();
            took
        });
        Self { stop, asking }
    }

    pub(crate) async fn end(self) -> Took {
        self.stop.store(true, Ordering::SeqCst);
        let took = patiently("a neighbour", self.asking).await.expect("every request was answered");
        Took { median: took[took.len() / 2], p99: took[took.len() * 99 / 100], requests: took.len() }
    }
}

/// A gauge of the process.
pub(crate) async fn gauge(admin: SocketAddr, family: &str) -> f64 {
    metric(&page(admin, "GET", "/metrics").await.1, family, &[])
}

/// Waits until a gauge of the process is no more than that.
pub(crate) async fn falls(admin: SocketAddr, family: &str, most: f64) {
    patiently(format!("{family} of at most {most}"), async {
        while gauge(admin, family).await > most {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}
