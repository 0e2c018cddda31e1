//! What reading one event of a stream costs, beside parsing the same text into a tree.

#![allow(missing_docs, reason = "criterion's macros write the functions")]

use std::hint::black_box;
use std::time::Instant;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use headway::clock::{Clock, SystemClock};
use headway::measure::reader::StreamReader;
use headway::wire::Api;
use headway::wire::chunk::read_chunk;
use headway::wire::request::RequestReading;

/// A chat chunk as vLLM writes it: 280 bytes with its framing.
const EVENT: &str = concat!(
    r#"data: {"id":"chatcmpl-8a4b1a8e5d6c4b7f9e0d1c2b3a495867","object":"chat.completion.chunk","created":1795308785,"#,
    r#""model":"meta/llama-3.1-8b-instruct","choices":[{"index":0,"delta":{"content":" the"},"logprobs":null,"#,
    r#""finish_reason":null,"token_ids":null}],"kv_transfer_params":null}"#,
    "\n\n"
);

fn reader(now: Instant) -> StreamReader {
    StreamReader::new(Api::Chat, now)
}

fn events(c: &mut Criterion) {
    let now = SystemClock.now();
    let payload = EVENT.trim_end().trim_start_matches("data: ").as_bytes();
    let mut group = c.benchmark_group("chat event");
    group.throughput(Throughput::Bytes(EVENT.len() as u64));
    let mut one = reader(now);
    group.bench_function("observe", |b| b.iter(|| one.observe(black_box(EVENT.as_bytes()), now)));
    let mut halves = reader(now);
    let (front, back) = EVENT.split_at(EVENT.len() / 2);
    group.bench_function("observe in two reads", |b| {
        b.iter(|| {
            halves.observe(black_box(front.as_bytes()), now);
            halves.observe(black_box(back.as_bytes()), now);
        });
    });
    group.bench_function("payload alone", |b| b.iter(|| read_chunk(Api::Chat, b"", black_box(payload))));
    group.bench_function("serde_json::Value", |b| {
        b.iter(|| serde_json::from_slice::<serde_json::Value>(black_box(payload)));
    });
    group.bench_function("serde_json::IgnoredAny", |b| {
        b.iter(|| serde_json::from_slice::<serde::de::IgnoredAny>(black_box(payload)));
    });
    group.finish();
}

fn reads(c: &mut Criterion) {
    let now = SystemClock.now();
    let many = EVENT.repeat(64);
    let mut group = c.benchmark_group("64 events in a read");
    group.throughput(Throughput::Elements(64));
    let mut one = reader(now);
    group.bench_function("observe", |b| b.iter(|| one.observe(black_box(many.as_bytes()), now)));
    group.finish();
}

fn requests(c: &mut Criterion) {
    let text = "All work and no play makes a dull prompt. ".repeat(100);
    let body = format!(r#"{{"model":"m","messages":[{{"role":"user","content":"{text}"}}],"stream":true}}"#);
    let mut group = c.benchmark_group("4 KiB request");
    group.throughput(Throughput::Bytes(body.len() as u64));
    group.bench_function("read", |b| b.iter(|| RequestReading::read(Api::Chat, black_box(body.as_bytes()))));
    group.finish();
}

criterion_group!(benches, events, reads, requests);
criterion_main!(benches);
