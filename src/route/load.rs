//! What is in flight at one backend, by our own books: moved when a request is sent, not when the backend confirms.
//!
//! Dead reckoning needs no scrape and has no delay, so requests decided one after the other never herd to the same idle
//! backend. What others send there is added from what replicas share and from what the engine reports.

/// What other replicas have in flight at a backend; zero without sharing.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct OtherLoad {
    /// Estimated uncached prompt tokens that await a first token.
    pub waiting_tokens: f64,
    /// Streams that are decoding.
    pub streams: f64,
    /// Tokens in the key/value cache.
    pub kv_tokens: f64,
    /// Requests in flight.
    pub in_flight: f64,
    /// How many other replicas there are.
    pub replicas: u32,
}

/// What an engine says of itself.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct EngineReport {
    /// Requests in its batch.
    pub running: u32,
    /// Requests in its queue.
    pub waiting: u32,
    /// Tokens in its key/value cache, where its capacity is known.
    pub kv_tokens: Option<f64>,
}
