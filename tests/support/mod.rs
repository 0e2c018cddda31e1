//! What tests of the whole proxy share: a scripted backend, a raw client, a headway in this process, and waiting.

#![allow(dead_code, unreachable_pub, reason = "each test program uses its part")]

pub mod backend;
pub mod client;
pub mod headway;
pub mod texts;

use std::time::Duration;

/// How long anything may take before a test gives up.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until a condition holds.
#[track_caller]
pub fn until(what: &str, condition: impl Fn() -> bool) -> impl Future<Output = ()> {
    let what = format!("{what} ({})", std::panic::Location::caller());
    async move {
        let waiting = async {
            while !condition() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        assert!(tokio::time::timeout(PATIENCE, waiting).await.is_ok(), "waited in vain for {what}");
    }
}
