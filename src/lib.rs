//! headway: a reverse proxy that measures what LLM users feel, and routes by it.
//!
//! `measure` turns bytes and instants into latencies. `route` turns a snapshot into a decision. Both are pure, so the
//! proxy and the load generator share one definition of "time to first token", and what is simulated is what is served.
//!
//! ```text
//! request ─▶ inspect, understand ─▶ RequestFacts ─┐
//! Fleet::dispatch gathers ─▶ [Candidate] ─────────┴▶ Policy::choose ─▶ Decision ─▶ attempt(s) on a backend
//! backend bytes ─▶ StreamReader (SseDecoder ─▶ ChunkReading ─▶ Timeline) ─▶ ExchangeRecord ─▶ fleet, metrics, log, API
//! ```
//!
//! Two things leave an exchange: progress (dispatched, first token, tokens, ended) to [`fleet`], through the in-flight
//! guard; and one [`measure::exchange::ExchangeRecord`], written once, at the end, to everyone else.
//!
//! # Invariants
//!
//! 1. `wire`, `measure`, `route`, `planner`, `engine`, `nim` have no IO, no locks, no `async`, no clock.
//! 2. Only [`clock`] reads the machine clock; everything else takes `now` as an argument.
//! 3. What requests share and change lies in few places: [`fleet`] (what is counted and learned, of callers too), [`telemetry`] (counters,
//!    the latest exchanges), [`config::Reloader`] (the settings in force), and in [`proxy`] the pool of idle connections,
//!    the memory budget, the places of listeners and the life of the process. The simulator and the load generator have state of their own.
//! 4. serde stays at the edges (admin views, reports, logs, the simulator); domain types do not derive it.
//! 5. The proxy forwards the backend's bytes unchanged (the one exception, a usage chunk the client did not ask for, is
//!    removed whole, in doubt not at all). Measuring may be wrong without a client ever noticing: observing returns
//!    nothing.
//! 6. A policy reads nothing but its arguments.
//! 7. Everything that can grow has a bound: bodies, lines, events, queues, label sets, decision log.
//! 8. A bad new configuration never replaces a good old one.
//! 9. Whatever is counted while alive (in-flight, queue places, permits) is a guard released by `Drop`.
//!
//! # Modules, in reading order
//!
//! Imports point downward only; `tests/architecture.rs` holds the table of who may import whom.
//!
//! | module | what it is |
//! |---|---|
//! | [`units`], [`clock`], [`random`], [`trace`] | durations, sizes and shares; the time; seeded random numbers; recorded arrivals |
//! | [`wire`] | what the APIs look like: requests, chunks, answers, errors |
//! | [`measure`] | from bytes and instants to latencies, outcomes and the record of an exchange |
//! | [`route`] | what is known of backends, the rules that choose among them, prices, admission, ejection |
//! | [`engine`] | the model of an inference engine that the simulator runs |
//! | [`planner`] | which profile for which route, up to which load, how many, at which price |
//! | [`nim`] | NIM's model profiles: what they are called, which one a NIM starts, whether it fits |
//! | [`config`] | the file, its mistakes, reloading |
//! | [`fleet`] | backends and routes, alive: dispatching, health, what was learned |
//! | [`telemetry`] | metrics and logs |
//! | [`proxy`] | the data path |
//! | [`admin`] | the admin listener |
//! | [`nim_simulator`] | a NIM without a GPU |
//! | [`mod@bench`] | the load generator |
//! | [`mod@conformance`] | whether any proxy does right by its clients, before a scripted backend |
//! | [`policy_simulator`] | policies against each other in virtual time |
//! | [`cli`], [`commands`] | the command line, and what wires all of this together |
//! | `fuzzing`, and `fuzz` in each module | what must hold for any bytes; compiled for tests and with the feature `fuzzing` |

pub mod clock;
pub mod random;
mod svg;
pub mod trace;
pub mod units;
mod yaml;

pub mod engine;
pub mod measure;
pub mod nim;
pub mod planner;
pub mod route;
pub mod wire;

pub mod config;

pub mod fleet;
pub mod telemetry;

pub mod admin;
pub mod bench;
pub mod conformance;
pub mod nim_simulator;
pub mod policy_simulator;
pub mod proxy;

pub mod cli;
pub mod commands;

#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
