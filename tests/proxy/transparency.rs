//! What goes through headway is what the backend sent, byte for byte, however it was cut on its way.
//!
//! `HEADWAY_STREAMS` says how many streams are tried; the seeds are fixed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use headway::clock::{Clock, SystemClock};
use headway::measure::outcome::Outcome;
use headway::measure::reader::StreamReader;
use headway::random::Random;
use headway::wire::Api;

use crate::support::backend::{Script, Scripted, Step, send};
use crate::support::client::{Client, End};
use crate::support::headway::Setup;
use crate::support::texts::{CHAT, LAST, chunk, post};

const STREAMS: u64 = 10_000;
const AT_ONCE: usize = 64;

/// One exchange, made of its seed alone.
struct Case {
    path: &'static str,
    request: String,
    /// What the backend gets.
    sent: String,
    /// What the backend answers.
    answer: Vec<u8>,
    /// What the client gets.
    expected: Vec<u8>,
    random: Random,
}

fn below(random: &mut Random, bound: u64) -> u64 {
    random.bits() % bound
}

fn pick<'a>(random: &mut Random, from: &[&'a str]) -> &'a str {
    from[usize::try_from(below(random, from.len() as u64)).unwrap()]
}

const WORDS: [&str; 12] = [
    " train",
    " ",
    "",
    "\\n",
    "\\u00e9",
    "\\\"",
    "é",
    "\u{1F682}",
    "\u{2028}",
    " data: [DONE]",
    " {\\\"choices\\\":[]}",
    "\\\\",
];

impl Case {
    fn of(seed: u64, recorded: &[Recorded]) -> Self {
        let mut random = Random::seeded(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let kind = below(&mut random, 8);
        let asked = below(&mut random, 2) == 0;
        let (path, events, usage) = match kind {
            0..=2 => chat(&mut random),
            3 => completions(&mut random),
            4 => responses(&mut random),
            5 => messages(&mut random),
            6 => generate(&mut random),
            _ => {
                let one = &recorded[usize::try_from(below(&mut random, recorded.len() as u64)).unwrap()];
                return Self::new(seed, one.path, true, vec![one.bytes.clone()], None, random);
            }
        };
        let end = pick(&mut random, &["\n", "\n", "\r\n", "\r"]);
        let mut all: Vec<Vec<u8>> = Vec::new();
        let mut usage_at = None;
        for (place, event) in events.iter().enumerate() {
            if below(&mut random, 10) == 0 {
                all.push(format!(": comment{end}{end}").into_bytes());
            }
            if Some(place) == usage {
                usage_at = Some(all.len());
            }
            all.push(format!("{}{end}{end}", event.replace('\n', end)).into_bytes());
        }
        Self::new(seed, path, asked, all, usage_at, random)
    }

    fn new(
        seed: u64,
        path: &'static str,
        asked: bool,
        events: Vec<Vec<u8>>,
        usage: Option<usize>,
        random: Random,
    ) -> Self {
        let answer = events.concat();
        let splices = path == CHAT || path == "/v1/completions";
        let options = if asked && splices { r#","stream_options":{"include_usage":true}"# } else { "" };
        let request = format!(r#"{{"model":"m","seed":{seed},"stream":true{options}}}"#);
        let sent = if asked || !splices {
            request.clone()
        } else {
            request.replacen('{', r#"{"stream_options":{"include_usage":true},"#, 1)
        };
        let kept = events.into_iter().enumerate().filter(|(place, _)| asked || Some(*place) != usage);
        let expected = kept.flat_map(|(_, event)| event).collect();
        Self { path, request, sent, answer, expected, random }
    }

    /// The answer, framed and cut at random.
    fn script(mut self) -> Script {
        let random = &mut self.random;
        let (framing, fields) = match below(random, 4) {
            0 => (0, format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n", self.answer.len())),
            1 => (1, "HTTP/1.0 200 OK\r\n".to_owned()),
            _ => (2, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n".to_owned()),
        };
        let mut bytes = format!("{fields}content-type: text/event-stream\r\n\r\n").into_bytes();
        let head = bytes.len();
        if framing == 2 {
            for piece in cut(random, &self.answer) {
                bytes.extend(chunk(piece));
            }
            bytes.extend_from_slice(LAST.as_bytes());
        } else {
            bytes.extend_from_slice(&self.answer);
        }
        let mut script = vec![send(&bytes[..head])];
        script.extend(cut(random, &bytes[head..]).into_iter().map(send));
        if framing == 1 {
            script.push(Step::Close);
        }
        script
    }
}

/// Pieces of random sizes: a few large ones, or many small ones.
fn cut<'a>(random: &mut Random, bytes: &'a [u8]) -> Vec<&'a [u8]> {
    let most = [8, 60, 400, 4_000][usize::try_from(below(random, 4)).unwrap()].max(bytes.len() as u64 / 40);
    let mut pieces = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let size = usize::try_from(1 + below(random, most)).unwrap().min(rest.len());
        let (piece, after) = rest.split_at(size);
        pieces.push(piece);
        rest = after;
    }
    pieces
}

/// Path, events without their blank lines, and the place of the usage-only event.
type Dialect = (&'static str, Vec<String>, Option<usize>);

fn tokens(random: &mut Random, shape: &str) -> Vec<String> {
    let count = 1 + below(random, 12);
    let mut events: Vec<_> = (0..count).map(|_| shape.replace("WORD", pick(random, &WORDS))).collect();
    // One that surely is content, so that there is something to wait for.
    events.push(shape.replace("WORD", "x"));
    events
}

fn ended(random: &mut Random, mut events: Vec<String>, finish: &str, path: &'static str) -> Dialect {
    events.push(format!("data: {finish}"));
    let usage = (below(random, 3) > 0).then(|| {
        events.push(r#"data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2}}"#.to_owned());
        events.len() - 1
    });
    if below(random, 4) > 0 {
        events.push("data: [DONE]".to_owned());
    }
    (path, events, usage)
}

fn chat(random: &mut Random) -> Dialect {
    let shape = pick(
        random,
        &[
            r#"data: {"choices":[{"index":0,"delta":{"content":"WORD"},"finish_reason":null}]}"#,
            r#"data: {"choices":[{"index":0,"delta":{"reasoning_content":"WORD"}}],"usage":null}"#,
            r#"data:{"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"WORD"}}]}}]}"#,
            "id: 1\ndata: {\"choices\":[{\"index\":0,\ndata: \"delta\":{\"content\":\"WORD\"}}],\"usage\":{\"completion_tokens\":1}}",
        ],
    );
    let mut events = vec![r#"data: {"choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}"#.to_owned()];
    events.extend(tokens(random, shape));
    ended(random, events, r#"{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#, CHAT)
}

fn completions(random: &mut Random) -> Dialect {
    let events = tokens(random, r#"data: {"choices":[{"index":0,"text":"WORD","finish_reason":null}]}"#);
    ended(random, events, r#"{"choices":[{"index":0,"text":"","finish_reason":"length"}]}"#, "/v1/completions")
}

fn responses(random: &mut Random) -> Dialect {
    let mut events = vec!["event: response.created\ndata: {\"type\":\"response.created\"}".to_owned()];
    let delta = "event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"delta\":\"WORD\"}";
    events.extend(tokens(random, delta));
    events.push("event: response.completed\ndata: {\"type\":\"response.completed\",\"response\":{\"usage\":{\"input_tokens\":1}}}".to_owned());
    ("/v1/responses", events, None)
}

fn messages(random: &mut Random) -> Dialect {
    let mut events = vec!["event: message_start\ndata: {\"type\":\"message_start\",\"message\":{}}".to_owned()];
    let delta = "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"delta\":{\"type\":\"text_delta\",\"text\":\"WORD\"}}";
    events.extend(tokens(random, delta));
    events.push("event: message_stop\ndata: {\"type\":\"message_stop\"}".to_owned());
    ("/v1/messages", events, None)
}

fn generate(random: &mut Random) -> Dialect {
    ("/v2/models/m/generate_stream", tokens(random, r#"data: {"text_output":"WORD"}"#), None)
}

/// A stream from the fixtures that is whole.
struct Recorded {
    path: &'static str,
    bytes: Vec<u8>,
}

fn recorded() -> Vec<Recorded> {
    let mut all = Vec::new();
    for folder in ["recorded", "streams"] {
        let folder = format!("{}/tests/fixtures/{folder}", env!("CARGO_MANIFEST_DIR"));
        let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        for file in files.iter().filter(|file| file.extension().is_some_and(|extension| extension == "sse")) {
            let name = file.file_name().unwrap().to_string_lossy().into_owned();
            let (api, path) = match () {
                () if name.contains("responses") => (Api::Responses, "/v1/responses"),
                () if name.contains("messages") => (Api::Messages, "/v1/messages"),
                () if name.contains("completions") => (Api::Completions, "/v1/completions"),
                () if name.contains("triton") => (Api::GenerateStream, "/v2/models/m/generate_stream"),
                () => (Api::Chat, CHAT),
            };
            let bytes = std::fs::read(file).unwrap();
            let now = SystemClock.now();
            let mut reader = StreamReader::new(api, now);
            reader.observe(&bytes, now);
            reader.finish(true, now);
            if reader.ended() == Some(Outcome::Complete) {
                all.push(Recorded { path, bytes });
            }
        }
    }
    assert!(all.len() > 30, "{}", all.len());
    all
}

fn seed_of(body: &[u8]) -> u64 {
    let text = std::str::from_utf8(body).unwrap();
    let digits = text.split("\"seed\":").nth(1).unwrap().split(',').next().unwrap();
    digits.parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_go_through_unchanged() {
    let streams = std::env::var("HEADWAY_STREAMS").map_or(STREAMS, |text| text.parse().expect("a number"));
    let recorded: Arc<[Recorded]> = recorded().into();
    let backend = Scripted::answering({
        let recorded = Arc::clone(&recorded);
        move |seen| {
            let case = Case::of(seed_of(&seen.body), &recorded);
            assert_eq!(String::from_utf8_lossy(&seen.body), case.sent);
            case.script()
        }
    })
    .await;
    let headway = Setup::default().backend("a", &backend, "").start().await;
    let (began, bytes) = (SystemClock.now(), Arc::new(AtomicU64::new(0)));
    let (address, next) = (headway.address(), Arc::new(AtomicU64::new(0)));
    let mut workers = tokio::task::JoinSet::new();
    for _ in 0..AT_ONCE {
        let (recorded, next, bytes) = (Arc::clone(&recorded), Arc::clone(&next), Arc::clone(&bytes));
        workers.spawn(async move {
            let mut client = Client::connect(address).await;
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= streams {
                    return;
                }
                let case = Case::of(seed, &recorded);
                let request = post(case.path, &case.request);
                // An older client's stream goes through pingora's session, as those over TLS and HTTP/2 do.
                let reply = if seed % 4 == 3 {
                    let mut old = Client::connect(address).await;
                    old.send(request.replacen("HTTP/1.1", "HTTP/1.0", 1)).await;
                    old.reply().await
                } else {
                    client.send(request).await;
                    client.reply().await
                };
                assert_eq!((reply.status, reply.end), (200, End::Clean), "seed {seed}: {}", reply.text());
                bytes.fetch_add(reply.body.len() as u64, Ordering::Relaxed);
                let shown = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                assert!(
                    reply.body == case.expected,
                    "seed {seed}: {}\ninstead of: {}",
                    shown(&reply.body),
                    shown(&case.expected)
                );
            }
        });
    }
    while let Some(worker) = workers.join_next().await {
        worker.expect("no differences");
    }
    headway.idle().await;
    let outcomes = headway.server.telemetry().recent().newest(1_000);
    assert!(outcomes.iter().all(|record| record.outcome == Outcome::Complete));
    assert_eq!(backend.count() as u64, streams);
    let (bytes, took) = (bytes.load(Ordering::Relaxed), SystemClock.now().saturating_duration_since(began));
    println!("{streams} streams, {bytes} bytes of answers, 0 differences, in {took:.1?}");
}
