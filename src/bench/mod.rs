//! The load generator: when requests are sent, one measured request, and the report.
//!
//! ```text
//! Schedule ─▶ RequestBuilder ─▶ Client ─▶ RequestRecord ─▶ Collector ─▶ Report ─▶ table, JSON, CSV, JSONL
//! ```
//!
//! [`schedule`], [`statistics`], [`goodput`] and [`report`] are pure. Every latency comes from
//! [`StreamReader`](crate::measure::reader::StreamReader), which the proxy uses too: so what a client of headway felt and
//! what headway says it felt are the same definition, taken on the two ends of one wire.

pub mod client;
mod connection;
pub mod drive;
pub mod goodput;
pub mod record;
pub mod report;
pub mod request;
pub mod schedule;
pub mod statistics;
pub mod target;
pub mod tls;
pub mod tokenizer;
pub mod transfer;
