//! What must hold of the file of what was learned, whatever the bytes.

use std::sync::Arc;
use std::time::{Instant, UNIX_EPOCH};

use super::file;
use crate::config::{NoEnvironment, parse};
use crate::fleet::{Fleet, Request};
use crate::route::snapshot::RequestFacts;

/// Two backends of the names and addresses that the seeds have.
const FLEET: &str = "listeners: [{ address: 127.0.0.1:0 }]\n\
    backends:\n  - { name: a, url: 'http://127.0.0.1:1', models: [m] }\n  - { name: b, url: 'http://127.0.0.1:2', models: [m] }\n\
    routes:\n  - { name: r, backends: [a, b], slo: { ttft: { p95: 300ms }, itl: { p95: 40ms }, e2e: { p99: 9s } } }\n";

/// It is read or refused, what is read is written and read again, and a fleet that goes on
/// from it still decides.
pub(crate) fn kept(bytes: &[u8], now: Instant) {
    let Ok((_, kept)) = file::read(bytes) else { return };
    let written = file::write(&kept, UNIX_EPOCH).unwrap_or_default();
    assert!(file::is_ours(&written) && file::read(&written).is_ok(), "what was read can be written and read again");
    let Ok(loaded) = parse("fuzz.yaml", FLEET, &NoEnvironment) else { return };
    let Ok(fleet) = Fleet::new(Arc::new(loaded.settings), now) else { return };
    fleet.resume(&kept, now);
    let facts = RequestFacts { input_tokens: 500, stream: true, ..RequestFacts::default() };
    let _ = fleet.explain("r", &Request { model: "m", facts, ..Request::default() }, now);
    let _ = fleet.learned();
}
