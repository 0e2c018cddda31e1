//! Every stream in `tests/fixtures` is read as its expectation says: whole, byte by byte, and cut at every place.

#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a test may fail loudly")]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use headway::clock::{Clock, ManualClock};
use headway::measure::bursts::Delivery;
use headway::measure::outcome::Outcome;
use headway::measure::reader::StreamReader;
use headway::measure::sieve::UsageSieve;
use headway::measure::timeline::Stamp;
use headway::wire::answer::read_answer;
use headway::wire::error::{StreamError, read_error};
use headway::wire::request::{RequestError, RequestReading};
use headway::wire::{Api, EngineTimings, FinishReason};
use serde_json::{Value, json};

fn fixtures(folder: &str, extension: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(folder);
    let mut paths: Vec<PathBuf> =
        fs::read_dir(folder).expect("fixtures").map(|entry| entry.expect("an entry").path()).collect();
    paths.retain(|path| path.extension().is_some_and(|ending| ending == extension));
    paths.sort();
    assert!(!paths.is_empty());
    paths
}

fn beside(path: &Path, ending: &str) -> Vec<u8> {
    fs::read(path.with_extension(ending)).expect("the file beside it")
}

/// Reads `parts` one after the other, a millisecond apart, to a clean end.
fn read<'a>(api: Api, parts: impl IntoIterator<Item = &'a [u8]>, start: Instant) -> StreamReader {
    let mut reader = StreamReader::new(api, start);
    let mut now = start;
    for part in parts {
        now += Duration::from_millis(1);
        reader.observe(part, now);
    }
    reader.finish(true, now);
    reader.finish(false, now);
    reader
}

/// What a reader found, in the words of the expectations.
fn describe(name: &str, reader: &StreamReader) -> Value {
    let event = |stamp: Option<Stamp>| stamp.map(|stamp| stamp.event);
    let timeline = reader.timeline();
    let mut described = json!({
        "api": name,
        "events": reader.events(),
        "comments": reader.comments(),
        "content_events": reader.content_responses(),
        "first_token_event": event(timeline.first_token),
        "first_output_token_event": event(timeline.first_output),
        "last_token_event": event(timeline.last_token),
        "first_token_event_tokens": reader.first_event_tokens(),
        "input_tokens": reader.usage().input_tokens,
        "output_tokens": reader.usage().output_tokens,
        "reasoning_tokens": reader.usage().reasoning_tokens,
        "choices": reader.choices_seen(),
        "finish_reason": reader.finish_reason().map(FinishReason::as_str),
        "done_marker": reader.done_marker_seen(),
        "complete": reader.ended() == Some(Outcome::Complete),
        "error_code": reader.error().map(error_code),
    });
    if reader.choices_seen() > 1 {
        let mut clocks = reader.choices().to_vec();
        clocks.sort_by_key(|clock| clock.index);
        let each = clocks.iter().map(|clock| {
            json!({
                "index": clock.index,
                "first_token_event": event(clock.first),
                "last_token_event": event(clock.last),
                "content_events": clock.content,
                "finish_reason": clock.finish.map(FinishReason::as_str),
            })
        });
        described["per_choice"] = each.collect();
    }
    described
}

fn error_code(error: &StreamError) -> Value {
    error.code().map_or_else(|| json!(error.label()), |code| json!(code))
}

/// Reads `body` in every way, and checks each.
#[track_caller]
fn every_way(what: &str, api: Api, body: &[u8], check: impl Fn(&StreamReader, &str)) {
    let start = ManualClock::new().now();
    check(&read(api, [body], start), &format!("{what}, whole"));
    check(&read(api, body.chunks(1), start), &format!("{what}, byte by byte"));
    for cut in 1..body.len() {
        let (front, back) = body.split_at(cut);
        check(&read(api, [front, back], start), &format!("{what}, cut at {cut}"));
    }
}

#[test]
fn every_constructed_stream_gives_its_expectation() {
    for path in fixtures("streams", "sse") {
        let what = path.file_stem().expect("a name").to_string_lossy().into_owned();
        let mut expected: Value = serde_json::from_slice(&beside(&path, "expected.json")).expect("JSON");
        expected.as_object_mut().expect("an object").remove("note");
        let name = expected["api"].as_str().expect("a name").to_owned();
        let api = match name.as_str() {
            "chat" => Api::Chat,
            "completions" => Api::Completions,
            "responses" => Api::Responses,
            "messages" => Api::Messages,
            "triton" => Api::GenerateStream,
            other => panic!("{other}"),
        };
        every_way(&what, api, &fs::read(&path).expect("a body"), |reader, how| {
            assert_eq!(describe(&name, reader), expected, "{how}");
        });
    }
}

/// Reads a body event by event, at a pace, and several events at once each time, as engines that guess ahead send them.
fn paced(api: Api, body: &[u8], pace: Duration, at_once: usize) -> StreamReader {
    let start = ManualClock::new().now();
    let (mut reader, mut now) = (StreamReader::new(api, start), start + Duration::from_secs(2));
    let text = String::from_utf8_lossy(body);
    let events: Vec<&str> = text.split_inclusive("\n\n").collect();
    for together in events.chunks(at_once) {
        reader.observe(together.concat().as_bytes(), now);
        now += pace;
    }
    reader.finish(true, now);
    reader
}

#[test]
fn no_stream_at_an_engines_pace_looks_held_back() {
    let mut told = 0;
    for path in fixtures("streams", "sse").into_iter().chain(fixtures("recorded", "sse")) {
        let (name, body) = (path.file_stem().expect("a name").to_string_lossy(), fs::read(&path).expect("a body"));
        let apis = [
            ("completions", Api::Completions),
            ("responses", Api::Responses),
            ("messages", Api::Messages),
            ("triton", Api::GenerateStream),
        ];
        let api = apis.into_iter().find(|(word, _)| name.contains(word)).map_or(Api::Chat, |(_, api)| api);
        for pace in [1, 2, 20, 60, 180, 1_000] {
            for at_once in 1..=3 {
                let reader = paced(api, &body, Duration::from_millis(pace), at_once);
                let delivery = reader.delivery(ManualClock::new().now());
                assert_ne!(delivery, Some(Delivery::HeldBack), "{name}, {at_once} every {pace} ms");
                told += u32::from(delivery.is_some());
            }
        }
    }
    assert!(told > 40, "most are too short to tell, but not all: {told}");
}

/// One row of the table in the recordings' README.
struct Row {
    name: String,
    events: u64,
    comments: u64,
    content: u64,
    output_tokens: Option<u64>,
    done: bool,
}

fn recorded_table() -> Vec<Row> {
    let readme = include_str!("fixtures/recorded/README.md");
    let cells = |line: &str| line.split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
    let rows = readme.lines().filter(|line| line.starts_with("| vllm-") || line.starts_with("| llamacpp-")).map(cells);
    rows.map(|cells| Row {
        name: cells[1].clone(),
        events: cells[3].parse().expect("events"),
        comments: cells[4].parse().expect("comments"),
        content: cells[5].parse().expect("content events"),
        output_tokens: cells[6].parse().ok(),
        done: cells[7] == "yes",
    })
    .collect()
}

#[test]
fn every_recorded_stream_gives_the_row_of_its_table() {
    let rows = recorded_table();
    assert_eq!(rows.len(), fixtures("recorded", "sse").len());
    for row in rows {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/recorded").join(&row.name);
        let path = path.with_extension("sse");
        let meta: Value = serde_json::from_slice(&beside(&path, "meta.json")).expect("JSON");
        let (api, _) = Api::from_path(meta["request"]["path"].as_str().expect("a path")).expect("an API");
        every_way(&row.name, api, &fs::read(&path).expect("a body"), |reader, how| {
            let seen = (reader.events(), reader.comments(), reader.content_responses());
            assert_eq!(seen, (row.events, row.comments, row.content), "{how}");
            assert_eq!(reader.usage().output_tokens, row.output_tokens, "{how}");
            assert_eq!(reader.done_marker_seen(), row.done, "{how}");
            let overload = row.name == "vllm-overload-inside-200";
            let outcome = if overload { Outcome::UpstreamError } else { Outcome::Complete };
            assert_eq!(reader.ended(), Some(outcome), "{how}");
            assert_eq!(reader.error().and_then(StreamError::status), overload.then_some(503), "{how}");
        });
    }
}

#[test]
fn every_recorded_error_body_is_an_error() {
    let errors = fixtures("recorded", "json").into_iter().filter(|path| {
        let name = path.file_stem().expect("a name").to_string_lossy();
        (name.contains("-error-") || name.ends_with("-overload")) && !name.ends_with(".meta")
    });
    for path in errors {
        let body = fs::read(&path).expect("a body");
        let meta: Value = serde_json::from_slice(&beside(&path, "meta.json")).expect("JSON");
        let error = read_error(&body).expect("JSON").expect("an error");
        assert_eq!(error.status().map(u64::from), meta["status"].as_u64(), "{}", path.display());
        assert_eq!(read_answer(Api::Chat, &body).expect("JSON").error, Some(error), "{}", path.display());
    }
}

#[test]
fn every_recorded_unary_answer_states_its_counts() {
    for name in ["vllm-chat-unary", "llamacpp-chat-unary"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/recorded").join(name);
        let answer = read_answer(Api::Chat, &beside(&path, "json")).expect("JSON");
        assert_eq!((answer.usage.input_tokens, answer.usage.output_tokens), (Some(19), Some(12)), "{name}");
        assert_eq!(answer.finish_reason.map(FinishReason::as_str), Some("length"), "{name}");
        assert!(answer.content && answer.error.is_none(), "{name}");
    }
}

/// Microseconds: the engine's queue, from there to the first token, from token to token.
fn micros(timings: Option<EngineTimings>) -> Option<(Option<u128>, u128, Option<u128>)> {
    let micros = |time: Option<Duration>| time.map(|time| time.as_micros());
    timings.map(|told| (micros(told.queue), told.prefill.as_micros(), micros(told.inter_token)))
}

#[test]
fn the_engines_own_times_are_read_wherever_it_writes_them() {
    let told = [
        (Api::Chat, "llamacpp-chat-usage", (None, 465, Some(407))),
        // Without a usage event they are on the one with the finish reason.
        (Api::Chat, "llamacpp-chat", (None, 2_928, Some(458))),
        (Api::Completions, "llamacpp-completions-usage", (None, 539, Some(376))),
        (Api::Responses, "llamacpp-responses", (None, 469, Some(266))),
        (Api::Chat, "vllm-request-metrics", (Some(10), 2_529, Some(1_926))),
    ];
    let recorded = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/recorded");
    for (api, name, expected) in told {
        let body = beside(&recorded.join(name), "sse");
        every_way(name, api, &body, |reader, how| assert_eq!(micros(reader.timings()), Some(expected), "{how}"));
    }
    let whole = read_answer(Api::Chat, &beside(&recorded.join("llamacpp-chat-unary"), "json")).expect("JSON");
    assert_eq!(micros(whole.timings), Some((None, 482, Some(434))));
}

/// What is left of `parts`, and how many events were taken out.
fn sieve<'a>(parts: impl IntoIterator<Item = &'a [u8]>, now: Instant) -> (Vec<u8>, u64) {
    let mut reader = StreamReader::new(Api::Chat, now);
    let mut sieve = UsageSieve::new();
    let mut out = Vec::new();
    for part in parts {
        reader.observe(part, now);
        sieve.pass(Bytes::copy_from_slice(part), reader.marks(), |bytes| out.extend_from_slice(&bytes));
    }
    sieve.flush(|bytes| out.extend_from_slice(&bytes));
    (out, sieve.removed())
}

#[test]
fn the_sieve_takes_the_usage_events_out_of_every_stream_however_it_is_cut() {
    let now = ManualClock::new().now();
    let mut taken = 0;
    for path in fixtures("streams", "sse").into_iter().chain(fixtures("recorded", "sse")) {
        let body = fs::read(&path).expect("a body");
        let text = String::from_utf8_lossy(&body);
        let usage_only = |event: &&str| event.contains("\"choices\":[],") && event.contains("\"usage\":{");
        let (whole, removed) = sieve([body.as_slice()], now);
        if !text.contains('\r') {
            let kept: String = text.split_inclusive("\n\n").filter(|event| !usage_only(event)).collect();
            assert_eq!(String::from_utf8_lossy(&whole), kept, "{}", path.display());
        }
        taken += removed;
        assert_eq!(sieve(body.chunks(1), now), (whole.clone(), removed), "{}, byte by byte", path.display());
        for cut in (1..body.len()).rev().take(1500) {
            let (front, back) = body.split_at(cut);
            assert_eq!(sieve([front, back], now), (whole.clone(), removed), "{} cut at {cut}", path.display());
        }
    }
    assert!(taken > 20, "{taken}");
}

#[test]
fn every_recorded_request_is_read() {
    for path in fixtures("recorded", "json").into_iter().filter(|path| path.to_string_lossy().ends_with(".meta.json")) {
        let meta: Value = serde_json::from_slice(&fs::read(&path).expect("a file")).expect("JSON");
        let (api, _) = Api::from_path(meta["request"]["path"].as_str().expect("a path")).expect("an API");
        let body = &meta["request"]["body"];
        if let Some(text) = body.as_str() {
            let error = RequestReading::read(api, text.as_bytes()).expect_err("cut off");
            assert!(matches!(error, RequestError::Malformed(_)), "{}", path.display());
            continue;
        }
        let reading = RequestReading::read(api, body.to_string().as_bytes()).expect("a request");
        assert_eq!(reading.model.as_deref(), body["model"].as_str(), "{}", path.display());
        assert_eq!(reading.stream, body["stream"] == true, "{}", path.display());
        assert_eq!(reading.ask_for_usage().is_none(), body["stream_options"]["include_usage"] == true);
        assert!(reading.prompt_bytes > 5, "{}", path.display());
        assert_eq!(reading.features.tools, body["tools"].is_array(), "{}", path.display());
    }
}
