//! What is fuzzed: every place where headway reads bytes of strangers, with what must hold for any bytes.
//!
//! Each entry stands beside the code it tries; this is their list. `fuzz/` runs them under libFuzzer, which looks for new
//! paths; the tests here run them on what was found before, on the recorded streams, and on random changes of both, so
//! that any machine with stable Rust tries them a little at every change.

use crate::clock::{Clock, ManualClock};
use crate::{admin, config, fleet, measure, nim, proxy, wire};

/// One thing that is fuzzed.
pub struct Target {
    /// Its name: of its program in `fuzz/fuzz_targets` and of its folder in `fuzz/corpus`.
    pub name: &'static str,
    /// Panics when what must hold does not hold.
    pub run: fn(&[u8]),
    /// Folders and files of the project that are inputs for it too.
    pub seeds: &'static [&'static str],
}

/// All of them.
pub const TARGETS: &[Target] = &[
    Target { name: "sse", run: measure::fuzz::sse, seeds: &["tests/fixtures/streams", "tests/fixtures/recorded"] },
    Target { name: "stream", run: stream, seeds: &["tests/fixtures/streams", "tests/fixtures/recorded"] },
    Target { name: "chunk", run: wire::fuzz::chunk, seeds: &["tests/fixtures/recorded"] },
    Target { name: "request", run: wire::fuzz::request, seeds: &[] },
    Target { name: "config", run: config::fuzz::text, seeds: &["config/headway.yaml", "examples"] },
    Target { name: "head", run: head, seeds: &[] },
    Target { name: "response", run: proxy::fuzz::response, seeds: &[] },
    Target { name: "page", run: page, seeds: &["tests/fixtures/recorded"] },
    Target { name: "profiles", run: profiles, seeds: &["tests/fixtures/nim_profiles"] },
    Target { name: "admin", run: admin::fuzz::asked, seeds: &[] },
];

/// Runs one of them on these bytes.
///
/// # Panics
/// When what must hold does not hold.
pub fn run(name: &str, bytes: &[u8]) {
    let target = TARGETS.iter().find(|target| target.name == name);
    assert!(target.is_some(), "there is no target `{name}`");
    if let Some(target) = target {
        (target.run)(bytes);
    }
}

fn stream(bytes: &[u8]) {
    measure::fuzz::stream(bytes, ManualClock::new().now());
}

/// The head of a request, and a `traceparent` by itself.
fn head(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        wire::fuzz::traceparent(text);
    }
    proxy::fuzz::head(bytes);
}

/// What a NIM says of its profiles.
fn profiles(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        nim::fuzz::text(text);
    }
}

/// What backends and files say besides answers: metrics, models, what was learned, recorded arrivals.
fn page(bytes: &[u8]) {
    fleet::fuzz::models(bytes);
    fleet::state::fuzz::kept(bytes, ManualClock::new().now());
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    wire::fuzz::page(text);
    let _ = (crate::trace::read_trace(text), crate::trace::read_prompts(text));
}

#[cfg(test)]
mod tests;
