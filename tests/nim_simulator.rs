//! The simulated NIM on real sockets: the bytes of vLLM, honest cancellation, and every fault as announced.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use headway::clock::{Clock, SystemClock};
use headway::engine::Profile;
use headway::nim_simulator::{Faults, Simulator, SimulatorOptions, TruthRecord};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const PATIENCE: Duration = Duration::from_secs(20);

fn options() -> SimulatorOptions {
    SimulatorOptions {
        models: vec!["tiny".to_owned(), "tiny-reason".to_owned()],
        speed: 50.0,
        ..SimulatorOptions::new(Profile::named("h100-latency").expect("known"))
    }
}

async fn start(options: SimulatorOptions) -> Simulator {
    Simulator::start(options, Arc::new(SystemClock)).await.expect("a free port")
}

async fn with_faults(faults: &[&str]) -> Simulator {
    start(SimulatorOptions { faults: Faults::parse(faults).expect("known faults"), ..options() }).await
}

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// A whole answer came.
    Whole,
    /// The connection was closed before.
    Closed,
    /// The connection was reset before.
    Reset,
    /// Nothing came for a while.
    Silent,
}

#[derive(Debug)]
struct Reply {
    head: String,
    /// The HTTP chunks, or the body as one.
    chunks: Vec<Vec<u8>>,
    end: End,
}

impl Reply {
    fn status(&self) -> u16 {
        self.head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0)
    }

    fn body(&self) -> String {
        String::from_utf8_lossy(&self.chunks.concat()).into_owned()
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.body()).unwrap_or_else(|error| panic!("{error}: {}", self.body()))
    }

    /// The payloads of the `data` lines, `[DONE]` included.
    fn data(&self) -> Vec<String> {
        self.body().lines().filter_map(|line| line.strip_prefix("data: ")).map(str::to_owned).collect()
    }

    fn content_tokens(&self) -> usize {
        self.data().iter().filter(|data| data.contains("\"content\":\"") && !data.contains("\"role\"")).count()
    }

    fn parse(bytes: &[u8], mut end: End) -> Self {
        let Some(split) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
            return Self { head: String::new(), chunks: Vec::new(), end };
        };
        let head = String::from_utf8_lossy(&bytes[..split]).to_lowercase();
        let mut rest = &bytes[split + 4..];
        let mut chunks = Vec::new();
        if head.contains("transfer-encoding: chunked") {
            while let Some(line) = rest.windows(2).position(|window| window == b"\r\n") {
                let size = usize::from_str_radix(&String::from_utf8_lossy(&rest[..line]), 16).expect("a chunk size");
                rest = &rest[line + 2..];
                if size == 0 {
                    end = End::Whole;
                    break;
                }
                let Some(chunk) = rest.get(..size) else { break };
                chunks.push(chunk.to_vec());
                rest = rest.get(size + 2..).unwrap_or_default();
            }
        } else {
            let length = head.split("content-length: ").nth(1).and_then(|rest| rest.split("\r\n").next());
            if length.and_then(|length| length.parse().ok()) == Some(rest.len()) {
                end = End::Whole;
            }
            chunks.push(rest.to_vec());
        }
        Self { head, chunks, end }
    }

    fn is_whole(bytes: &[u8]) -> bool {
        Self::parse(bytes, End::Closed).end == End::Whole
    }
}

async fn connect(simulator: &Simulator) -> TcpStream {
    TcpStream::connect(simulator.address).await.expect("it listens")
}

fn request(path: &str, body: &str) -> String {
    let length = body.len();
    format!("POST {path} HTTP/1.1\r\nhost: nim\r\nx-request-id: req-7\r\ncontent-length: {length}\r\n\r\n{body}")
}

async fn read_reply(stream: &mut TcpStream, patience: Duration) -> Reply {
    let mut bytes = Vec::new();
    let end = loop {
        let mut buffer = [0; 65536];
        match tokio::time::timeout(patience, stream.read(&mut buffer)).await {
            Err(_) => break End::Silent,
            Ok(Err(_)) => break End::Reset,
            Ok(Ok(0)) => break End::Closed,
            Ok(Ok(count)) => bytes.extend_from_slice(&buffer[..count]),
        }
        if Reply::is_whole(&bytes) {
            break End::Whole;
        }
    };
    Reply::parse(&bytes, end)
}

async fn post_text(simulator: &Simulator, path: &str, body: &str) -> Reply {
    let mut stream = connect(simulator).await;
    stream.write_all(request(path, body).as_bytes()).await.expect("it reads");
    read_reply(&mut stream, PATIENCE).await
}

async fn post(simulator: &Simulator, path: &str, body: Value) -> Reply {
    post_text(simulator, path, &body.to_string()).await
}

async fn get(simulator: &Simulator, path: &str) -> Reply {
    let mut stream = connect(simulator).await;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: nim\r\n\r\n").as_bytes()).await.expect("it reads");
    read_reply(&mut stream, PATIENCE).await
}

fn chat(more: Value) -> Value {
    let mut body = json!({
        "model": "tiny", "messages": [{ "role": "user", "content": "Tell me about trains." }],
        "stream": true, "max_tokens": 12, "ignore_eos": true,
    });
    for (key, value) in more.as_object().expect("an object") {
        body[key] = value.clone();
    }
    body
}

/// Waits for the record of the request that was sent.
async fn truth(simulator: &Simulator, condition: impl Fn(&TruthRecord) -> bool) -> TruthRecord {
    tokio::time::timeout(PATIENCE, simulator.truth_log().wait_for(condition)).await.expect("a record in time")
}

/// A JSON text with its keys and punctuation in order, strings as `s` and numbers as `0`.
fn shape(text: &str) -> String {
    let (mut shape, mut rest) = (String::new(), text);
    while let Some(first) = rest.chars().next() {
        if first == '"' {
            let mut end = 1;
            while rest.as_bytes()[end] != b'"' {
                end += if rest.as_bytes()[end] == b'\\' { 2 } else { 1 };
            }
            let is_key = rest[end + 1..].starts_with(':');
            shape.push_str(if is_key { &rest[..=end] } else { "s" });
            rest = &rest[end + 1..];
        } else if first.is_ascii_digit() || first == '-' {
            shape.push('0');
            rest = rest.trim_start_matches(|c: char| c.is_ascii_digit() || "+-.eE".contains(c));
        } else {
            shape.push(first);
            rest = &rest[first.len_utf8()..];
        }
    }
    shape
}

/// The shapes of a stream's events, repeated ones once.
fn shapes<'a>(events: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let mut shapes: Vec<String> = events.into_iter().map(shape).collect();
    shapes.dedup();
    shapes
}

#[track_caller]
fn check_shapes(reply: &Reply, recorded: &[&str]) {
    assert_eq!(reply.end, End::Whole);
    let data = reply.data();
    assert_eq!(shapes(data.iter().map(String::as_str)), shapes(recorded.iter().copied()));
}

// Recorded from vLLM 0.32.0; repeated events left out.
const ROLE: &str = r#"{"id":"chatcmpl-a42cfeb23a5faab5","object":"chat.completion.chunk","created":1795313149,"model":"tiny","choices":[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}],"prompt_token_ids":null,"prompt_text":null}"#;
const CONTENT: &str = r#"{"id":"chatcmpl-a42cfeb23a5faab5","object":"chat.completion.chunk","created":1795313149,"model":"tiny","choices":[{"index":0,"delta":{"content":" Le"},"logprobs":null,"finish_reason":null,"token_ids":null}]}"#;
const LAST: &str = r#"{"id":"chatcmpl-a42cfeb23a5faab5","object":"chat.completion.chunk","created":1795313149,"model":"tiny","choices":[{"index":0,"delta":{"content":" Rem"},"logprobs":null,"finish_reason":"length","stop_reason":null,"token_ids":null}]}"#;
const LAST_WITHOUT_USAGE: &str = r#"{"id":"chatcmpl-9116c92867599fad","object":"chat.completion.chunk","created":1795313149,"model":"tiny","choices":[{"index":0,"delta":{"content":" Rem"},"logprobs":null,"finish_reason":"length","stop_reason":null,"token_ids":null}],"system_fingerprint":"vllm-0.32.0-efd4fd04"}"#;
const USAGE: &str = r#"{"id":"chatcmpl-a42cfeb23a5faab5","object":"chat.completion.chunk","created":1795313149,"model":"tiny","choices":[],"usage":{"prompt_tokens":19,"total_tokens":31,"completion_tokens":12},"system_fingerprint":"vllm-0.32.0-efd4fd04"}"#;
const ROLE_WITH_USAGE: &str = r#"{"id":"chatcmpl-8295da7eddd49570","object":"chat.completion.chunk","created":1795313149,"model":"tiny","choices":[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}],"usage":{"prompt_tokens":19,"total_tokens":19,"completion_tokens":0,"completion_tokens_details":null},"prompt_token_ids":null,"prompt_text":null}"#;
const CONTENT_WITH_USAGE: &str = r#"{"id":"chatcmpl-8295da7eddd49570","object":"chat.completion.chunk","created":1795313149,"model":"tiny","choices":[{"index":0,"delta":{"content":" Le"},"logprobs":null,"finish_reason":null,"token_ids":null}],"usage":{"prompt_tokens":19,"total_tokens":21,"completion_tokens":2,"completion_tokens_details":null}}"#;
const LAST_WITH_USAGE: &str = r#"{"id":"chatcmpl-8295da7eddd49570","object":"chat.completion.chunk","created":1795313149,"model":"tiny","choices":[{"index":0,"delta":{"content":" Rem"},"logprobs":null,"finish_reason":"length","stop_reason":null,"token_ids":null}],"usage":{"prompt_tokens":19,"total_tokens":31,"completion_tokens":12,"completion_tokens_details":null}}"#;
const REASONING: &str = r#"{"id":"chatcmpl-8c19e9c889f38af9","object":"chat.completion.chunk","created":1795313452,"model":"tiny","choices":[{"index":0,"delta":{"reasoning":"ient"},"logprobs":null,"finish_reason":null,"token_ids":null}]}"#;
const TOOL_NAME: &str = r#"{"id":"chatcmpl-9210d6fee1957368","object":"chat.completion.chunk","created":1795313577,"model":"tiny","choices":[{"index":0,"delta":{"content":null,"tool_calls":[{"id":"chatcmpl-tool-aa18a66d40a0f34f","type":"function","index":0,"function":{"name":"get_weather"}}]},"logprobs":null,"finish_reason":null,"token_ids":null}]}"#;
const TOOL_ARGUMENTS: &str = r#"{"id":"chatcmpl-9210d6fee1957368","object":"chat.completion.chunk","created":1795313577,"model":"tiny","choices":[{"index":0,"delta":{"content":null,"tool_calls":[{"index":0,"function":{"arguments":"2007"}}]},"logprobs":null,"finish_reason":null,"token_ids":null}]}"#;
const TOOL_LAST: &str = r#"{"id":"chatcmpl-9210d6fee1957368","object":"chat.completion.chunk","created":1795313577,"model":"tiny","choices":[{"index":0,"delta":{"content":null,"tool_calls":[{"index":0,"function":{"arguments":"90"}}]},"logprobs":null,"finish_reason":"length","stop_reason":null,"token_ids":null}]}"#;
const UNARY: &str = r#"{"id":"chatcmpl-bf5cf8049e1d3c75","object":"chat.completion","created":1795313158,"model":"tiny","choices":[{"index":0,"message":{"role":"assistant","content":"Rem","refusal":null,"annotations":null,"audio":null,"function_call":null,"reasoning":null},"logprobs":null,"finish_reason":"length","stop_reason":null,"token_ids":null,"routed_experts":null}],"service_tier":null,"system_fingerprint":"vllm-0.32.0-efd4fd04","usage":{"prompt_tokens":19,"total_tokens":31,"completion_tokens":12,"prompt_tokens_details":null,"completion_tokens_details":null},"prompt_logprobs":null,"prompt_token_ids":null,"prompt_text":null,"kv_transfer_params":null,"ec_transfer_params":null,"metrics":null}"#;
const COMPLETION: &[&str] = &[
    r#"{"id":"cmpl-8da75d6c42e8a56a","object":"text_completion","created":1795313158,"model":"tiny","choices":[{"index":0,"text":"called","logprobs":null,"finish_reason":null,"stop_reason":null,"prompt_token_ids":null,"token_ids":null}]}"#,
    r#"{"id":"cmpl-8da75d6c42e8a56a","object":"text_completion","created":1795313158,"model":"tiny","choices":[{"index":0,"text":"ST","logprobs":null,"finish_reason":"length","stop_reason":null,"prompt_token_ids":null,"token_ids":null}]}"#,
    r#"{"id":"cmpl-8da75d6c42e8a56a","object":"text_completion","created":1795313158,"model":"tiny","choices":[],"usage":{"prompt_tokens":4,"total_tokens":12,"completion_tokens":8},"system_fingerprint":"vllm-0.32.0-efd4fd04"}"#,
    "[DONE]",
];
const MESSAGE: &[&str] = &[
    r#"{"type":"message_start","message":{"id":"chatcmpl-9c6995718c4c6392","type":"message","role":"assistant","content":[],"model":"tiny","stop_reason":null,"stop_sequence":null,"usage":{"input_tokens":19,"output_tokens":0}}}"#,
    r#"{"type":"content_block_start","content_block":{"type":"text","text":""},"index":0}"#,
    r#"{"type":"content_block_delta","delta":{"type":"text_delta","text":" https"},"index":0}"#,
    r#"{"type":"content_block_stop","index":0}"#,
    r#"{"type":"message_delta","delta":{"stop_reason":"max_tokens","stop_sequence":null},"usage":{"input_tokens":19,"output_tokens":8}}"#,
    r#"{"type":"message_stop"}"#,
];
const THINKING: &[&str] = &[
    r#"{"type":"content_block_start","content_block":{"type":"thinking","thinking":""},"index":0}"#,
    r#"{"type":"content_block_delta","delta":{"type":"thinking_delta","thinking":" 2009"},"index":0}"#,
    r#"{"type":"content_block_delta","delta":{"type":"signature_delta","signature":"fa1aed5637884352af11e1ea03f32732"},"index":0}"#,
    r#"{"type":"content_block_stop","index":0}"#,
];
const RESPONSE: &[&str] = &[
    r#"{"response":{"id":"resp_a67cca39528a4ae5","created_at":1795313158,"incomplete_details":null,"instructions":null,"metadata":null,"model":"tiny","object":"response","output":[],"parallel_tool_calls":true,"temperature":0.7,"tool_choice":"none","tools":[],"top_p":1.0,"background":false,"max_output_tokens":16,"max_tool_calls":null,"previous_response_id":null,"prompt":null,"reasoning":null,"service_tier":"auto","status":"in_progress","text":null,"top_logprobs":null,"truncation":"disabled","usage":null,"user":null,"presence_penalty":0.0,"frequency_penalty":0.0,"kv_transfer_params":null,"ec_transfer_params":null,"input_messages":null,"output_messages":null},"sequence_number":0,"type":"response.created"}"#,
    r#"{"item":{"id":"msg_80d6a4b74cba064e","content":[],"role":"assistant","status":"in_progress","type":"message","phase":null},"output_index":0,"sequence_number":2,"type":"response.output_item.added"}"#,
    r#"{"content_index":0,"item_id":"msg_80d6a4b74cba064e","output_index":0,"part":{"annotations":[],"text":"","type":"output_text","logprobs":[]},"sequence_number":3,"type":"response.content_part.added"}"#,
    r#"{"content_index":0,"delta":"ond","item_id":"msg_80d6a4b74cba064e","logprobs":[],"output_index":0,"sequence_number":4,"type":"response.output_text.delta"}"#,
    r#"{"content_index":0,"item_id":"msg_80d6a4b74cba064e","logprobs":[],"output_index":0,"sequence_number":18,"text":"ond","type":"response.output_text.done"}"#,
    r#"{"content_index":0,"item_id":"msg_80d6a4b74cba064e","output_index":0,"part":{"annotations":[],"text":"ond","type":"output_text","logprobs":null},"sequence_number":19,"type":"response.content_part.done"}"#,
    r#"{"item":{"id":"msg_80d6a4b74cba064e","content":[{"annotations":[],"text":"ond","type":"output_text","logprobs":null}],"role":"assistant","status":"completed","type":"message","phase":null},"output_index":0,"sequence_number":20,"type":"response.output_item.done"}"#,
    r#"{"response":{"id":"resp_a67cca39528a4ae5","created_at":1795313158,"incomplete_details":{"reason":"max_output_tokens"},"instructions":null,"metadata":null,"model":"tiny","object":"response","output":[{"id":"msg_80d6a4b74cba064e","content":[{"annotations":[],"text":"ond","type":"output_text","logprobs":null}],"role":"assistant","status":"completed","type":"message","phase":null}],"parallel_tool_calls":true,"temperature":0.7,"tool_choice":"none","tools":[],"top_p":1.0,"background":false,"max_output_tokens":16,"max_tool_calls":null,"previous_response_id":null,"prompt":null,"reasoning":null,"service_tier":"auto","status":"incomplete","text":null,"top_logprobs":null,"truncation":"disabled","usage":{"input_tokens":19,"input_tokens_details":{"cached_tokens":0,"cache_write_tokens":0,"input_tokens_per_turn":[],"cached_tokens_per_turn":[]},"output_tokens":16,"output_tokens_details":{"reasoning_tokens":0,"tool_output_tokens":0,"output_tokens_per_turn":[],"tool_output_tokens_per_turn":[]},"total_tokens":35},"user":null,"presence_penalty":0.0,"frequency_penalty":0.0,"kv_transfer_params":null,"ec_transfer_params":null,"input_messages":null,"output_messages":null},"sequence_number":21,"type":"response.completed"}"#,
];
const RESPONSE_REASONING: &[&str] = &[
    r#"{"item":{"id":"rs_81aab69a175dd6a5","summary":[],"type":"reasoning","content":null,"encrypted_content":null,"status":"in_progress"},"output_index":0,"sequence_number":2,"type":"response.output_item.added"}"#,
    r#"{"content_index":0,"item_id":"rs_81aab69a175dd6a5","output_index":0,"part":{"text":"","type":"reasoning_text"},"sequence_number":3,"type":"response.content_part.added"}"#,
    r#"{"content_index":0,"delta":" Comput","item_id":"rs_81aab69a175dd6a5","output_index":0,"sequence_number":4,"type":"response.reasoning_text.delta"}"#,
    r#"{"content_index":0,"item_id":"rs_81aab69a175dd6a5","output_index":0,"sequence_number":9,"text":" Comput","type":"response.reasoning_text.done"}"#,
    r#"{"content_index":0,"item_id":"rs_81aab69a175dd6a5","output_index":0,"part":{"text":" Comput","type":"reasoning_text"},"sequence_number":10,"type":"response.content_part.done"}"#,
    r#"{"item":{"id":"rs_81aab69a175dd6a5","summary":[],"type":"reasoning","content":[{"text":" Comput","type":"reasoning_text"}],"encrypted_content":null,"status":"completed"},"output_index":0,"sequence_number":11,"type":"response.output_item.done"}"#,
];

#[tokio::test]
async fn a_chat_stream_has_the_shape_of_vllm_with_one_chunk_for_each_event() {
    let simulator = start(options()).await;
    let reply =
        post(&simulator, "/v1/chat/completions", chat(json!({ "stream_options": { "include_usage": true } }))).await;
    check_shapes(&reply, &[ROLE, CONTENT, LAST, USAGE, "[DONE]"]);
    assert!(reply.head.contains("content-type: text/event-stream; charset=utf-8"), "{}", reply.head);
    assert!(reply.head.contains("x-request-id: req-7"), "{}", reply.head);
    assert_eq!((reply.chunks.len(), reply.content_tokens()), (1 + 12 + 2, 12));
    assert!(reply.chunks.iter().all(|chunk| chunk.ends_with(b"\n\n")));

    let plain = post(&simulator, "/v1/chat/completions", chat(json!({}))).await;
    check_shapes(&plain, &[ROLE, CONTENT, LAST_WITHOUT_USAGE, "[DONE]"]);
    let record = truth(&simulator, |record| record.tokens == 12).await;
    assert_eq!(record.x_request_id.as_deref(), Some("req-7"));
    assert_eq!((record.outcome, record.status, record.prompt_tokens, record.stream), ("completed", 200, 6, true));
}

#[tokio::test]
async fn continuous_usage_counts_up_on_every_chunk() {
    let simulator = start(options()).await;
    let usage = json!({ "stream_options": { "include_usage": true, "continuous_usage_stats": true } });
    let reply = post(&simulator, "/v1/chat/completions", chat(usage)).await;
    check_shapes(&reply, &[ROLE_WITH_USAGE, CONTENT_WITH_USAGE, LAST_WITH_USAGE, USAGE, "[DONE]"]);
    let counts: Vec<u64> = reply
        .data()
        .iter()
        .filter_map(|data| serde_json::from_str::<Value>(data).ok()?["usage"]["completion_tokens"].as_u64())
        .collect();
    assert_eq!(counts, (0..=12).chain([12]).collect::<Vec<_>>());
}

#[tokio::test]
async fn several_choices_share_one_stream_and_one_usage() {
    let simulator = start(options()).await;
    let more = json!({ "n": 2, "stream_options": { "include_usage": true } });
    let reply = post(&simulator, "/v1/chat/completions", chat(more)).await;
    let events: Vec<Value> = reply.data().iter().filter_map(|data| serde_json::from_str(data).ok()).collect();
    for index in 0..2 {
        let of_choice = events.iter().filter(|event| event["choices"][0]["index"] == index);
        assert_eq!(of_choice.count(), 13, "a role and 12 tokens of choice {index}");
    }
    assert!(events[..2].iter().all(|event| event["choices"][0]["delta"]["role"] == "assistant"));
    assert_eq!(events.last().expect("usage")["usage"]["completion_tokens"], 24);
}

#[tokio::test]
async fn reasoning_comes_first_where_it_is_asked_for() {
    let simulator = start(options()).await;
    for more in [json!({ "chat_template_kwargs": { "enable_thinking": true } }), json!({ "model": "tiny-reason" })] {
        let reply = post(&simulator, "/v1/chat/completions", chat(more)).await;
        check_shapes(&reply, &[ROLE, REASONING, CONTENT, LAST_WITHOUT_USAGE, "[DONE]"]);
        assert_eq!(reply.data().iter().filter(|data| data.contains("\"reasoning\":")).count(), 4);
    }
}

#[tokio::test]
async fn a_required_tool_is_called_in_pieces() {
    let simulator = start(options()).await;
    let tools = json!([{ "type": "function", "function": { "name": "get_weather" } }]);
    let more = json!({ "tools": tools, "tool_choice": "required", "stream_options": { "include_usage": true } });
    let reply = post(&simulator, "/v1/chat/completions", chat(more)).await;
    check_shapes(&reply, &[ROLE, TOOL_NAME, TOOL_ARGUMENTS, TOOL_LAST, USAGE, "[DONE]"]);

    let natural = json!({ "tools": tools, "tool_choice": "required", "max_tokens": null, "stream": false });
    let reply = post(&simulator, "/v1/chat/completions", chat(natural)).await.json();
    let call = &reply["choices"][0]["message"]["tool_calls"][0]["function"];
    assert_eq!((&call["name"], &reply["choices"][0]["finish_reason"]), (&json!("get_weather"), &json!("tool_calls")));
    let arguments = call["arguments"].as_str().expect("a text");
    assert!(serde_json::from_str::<Value>(arguments).expect("JSON").is_object(), "{arguments}");
}

#[tokio::test]
async fn an_answer_that_ends_by_itself_ends_with_an_empty_token() {
    let simulator = start(options()).await;
    let reply =
        post(&simulator, "/v1/chat/completions", chat(json!({ "ignore_eos": false, "max_tokens": 4000 }))).await;
    let last: Value = serde_json::from_str(&reply.data()[reply.data().len() - 2]).expect("JSON");
    assert_eq!(last["choices"][0]["finish_reason"], "stop");
    assert_eq!(last["choices"][0]["delta"], json!({ "content": "" }));
    let again =
        post(&simulator, "/v1/chat/completions", chat(json!({ "ignore_eos": false, "max_tokens": 4000 }))).await;
    assert_eq!(reply.content_tokens(), again.content_tokens(), "the length follows from the prompt and the seed");
}

#[tokio::test]
async fn every_other_api_has_the_shape_of_vllm() {
    let simulator = start(options()).await;
    let usage = json!({ "include_usage": true });
    let body = json!({ "model": "tiny", "prompt": "Once", "stream": true, "max_tokens": 8, "ignore_eos": true, "stream_options": usage });
    check_shapes(&post(&simulator, "/v1/completions", body).await, COMPLETION);

    let messages = json!([{ "role": "user", "content": "Tell me about trains." }]);
    let body = json!({ "model": "tiny", "messages": messages, "stream": true, "max_tokens": 8, "ignore_eos": true });
    let reply = post(&simulator, "/v1/messages", body).await;
    check_shapes(&reply, MESSAGE);
    assert!(reply.body().starts_with("event: message_start\ndata: {"));

    let body =
        json!({ "model": "tiny-reason", "messages": messages, "stream": true, "max_tokens": 9, "ignore_eos": true });
    let data = post(&simulator, "/v1/messages", body).await.data();
    assert_eq!(shapes(data[1..].iter().map(String::as_str))[..4], shapes(THINKING.iter().copied()));

    let body =
        json!({ "model": "tiny", "input": "Tell me.", "stream": true, "max_output_tokens": 16, "ignore_eos": true });
    let reply = post(&simulator, "/v1/responses", body).await;
    check_shapes(&reply, RESPONSE);
    let types: Vec<Value> =
        reply.data().iter().map(|data| serde_json::from_str::<Value>(data).expect("JSON")["type"].clone()).collect();
    assert_eq!(types[..2], ["response.created", "response.in_progress"]);
    assert_eq!(types.iter().filter(|kind| **kind == "response.output_text.delta").count(), 16);

    let body = json!({ "model": "tiny-reason", "input": "Tell me.", "stream": true, "max_output_tokens": 16, "ignore_eos": true });
    let data = post(&simulator, "/v1/responses", body).await.data();
    assert_eq!(shapes(data[2..].iter().map(String::as_str))[..6], shapes(RESPONSE_REASONING.iter().copied()));
}

#[tokio::test]
async fn triton_streams_text_and_ends_without_a_mark() {
    let simulator = start(options()).await;
    let body = json!({ "text_input": "Once", "max_tokens": 5, "ignore_eos": true, "stream": true });
    let reply = post(&simulator, "/v2/models/tiny/generate_stream", body.clone()).await;
    check_shapes(&reply, &[r#"{"model_name":"ensemble","model_version":"1","text_output":" the"}"#]);
    assert_eq!(reply.data().len(), 5);
    let whole = post(&simulator, "/v2/models/tiny/generate", body).await.json();
    assert!(whole["text_output"].as_str().expect("a text").len() > 4);
    let unknown = post(&simulator, "/v2/models/nope/generate_stream", json!({ "text_input": "x" })).await;
    assert_eq!((unknown.status(), unknown.json()["error"].is_string()), (404, true));
}

#[tokio::test]
async fn unary_answers_are_whole() {
    let simulator = start(options()).await;
    let reply = post(&simulator, "/v1/chat/completions", chat(json!({ "stream": false }))).await;
    assert_eq!(shape(&reply.body()), shape(UNARY));
    assert_eq!(
        reply.json()["usage"],
        json!({ "prompt_tokens": 6, "total_tokens": 18, "completion_tokens": 12, "prompt_tokens_details": null, "completion_tokens_details": null })
    );

    let body = json!({ "model": "tiny", "prompt": "Once", "max_tokens": 8, "ignore_eos": true });
    assert_eq!(post(&simulator, "/v1/completions", body).await.json()["choices"][0]["finish_reason"], "length");
    let body = json!({ "model": "tiny", "max_tokens": 8, "ignore_eos": true, "messages": [{ "role": "user", "content": "Hi" }] });
    let message = post(&simulator, "/v1/messages", body).await.json();
    assert_eq!((&message["stop_reason"], &message["content"][0]["type"]), (&json!("max_tokens"), &json!("text")));
    let body = json!({ "model": "tiny", "input": "Hi", "max_output_tokens": 8, "ignore_eos": true });
    let response = post(&simulator, "/v1/responses", body).await.json();
    assert_eq!((&response["status"], &response["usage"]["output_tokens"]), (&json!("incomplete"), &json!(8)));
    let body = json!({ "model": "tiny", "input": ["one", "two"] });
    assert_eq!(post(&simulator, "/v1/embeddings", body).await.json()["data"].as_array().map(Vec::len), Some(2));
    let body = json!({ "model": "tiny", "query": { "text": "q" }, "passages": [{ "text": "a" }, { "text": "b" }, { "text": "c" }] });
    assert_eq!(post(&simulator, "/v1/ranking", body).await.json()["rankings"].as_array().map(Vec::len), Some(3));
}

#[tokio::test]
async fn a_request_that_cannot_be_served_is_refused_as_vllm_does() {
    let simulator = start(options()).await;
    let unknown = post(&simulator, "/v1/chat/completions", chat(json!({ "model": "nope" }))).await;
    let expected = r#"{"error":{"message":"The model `nope` does not exist. Valid aliases: tiny, tiny-reason.","type":"NotFoundError","param":"model","code":404}}"#;
    assert_eq!((unknown.status(), unknown.body().as_str()), (404, expected));
    let cut = post_text(&simulator, "/v1/chat/completions", r#"{"model": "tiny", "messages": ["#).await;
    assert_eq!((cut.status(), &cut.json()["error"]["code"]), (400, &json!(400)));
    let long = post(&simulator, "/v1/chat/completions", chat(json!({ "max_tokens": 10_000_000 }))).await;
    assert_eq!((long.status(), &long.json()["error"]["type"]), (400, &json!("BadRequestError")));
    assert_eq!(simulator.stats().rejected, 3);
    assert_eq!(get(&simulator, "/nowhere").await.status(), 404);
    assert_eq!(get(&simulator, "/v1/chat/completions").await.status(), 405);
}

#[tokio::test]
async fn the_pages_of_a_nim_are_there() {
    let simulator = start(options()).await;
    for path in ["/v1/health/live", "/v1/health/ready", "/health", "/v1/manifest", "/v1/license", "/v1/version"] {
        assert_eq!(get(&simulator, path).await.status(), 200, "{path}");
    }
    let models = get(&simulator, "/v1/models").await.json();
    assert_eq!((&models["object"], &models["data"][1]["id"]), (&json!("list"), &json!("tiny-reason")));
    let metadata = get(&simulator, "/v1/metadata").await.json();
    assert_eq!(metadata["selectedModelProfileId"].as_str().map(str::len), Some(64));

    let warming = start(SimulatorOptions { warmup: Duration::from_secs(1000), ..options() }).await;
    assert_eq!(get(&warming, "/v1/health/ready").await.status(), 503);
    assert_eq!(get(&warming, "/v1/health/live").await.status(), 200);
}

#[tokio::test]
async fn the_metrics_page_counts_in_nim_names() {
    let simulator = start(options()).await;
    post(&simulator, "/v1/chat/completions", chat(json!({}))).await;
    truth(&simulator, |record| record.outcome == "completed").await;
    let page = get(&simulator, "/v1/metrics").await.body();
    for line in page.lines().filter(|line| !line.starts_with('#')) {
        let (series, value) = line.rsplit_once(' ').expect("a series and a value");
        assert!(value.parse::<f64>().is_ok() && series.contains("model_name=\"tiny"), "{line}");
    }
    for line in [
        "generation_tokens_total{model_name=\"tiny\"} 12",
        "prompt_tokens_total{model_name=\"tiny\"} 6",
        "request_success_total{model_name=\"tiny\"} 1",
        "request_failure_total{model_name=\"tiny\"} 0",
        "request_finish_total{finished_reason=\"length\",model_name=\"tiny\"} 1",
        "num_request_max{model_name=\"tiny\"} 48",
        "num_requests_running{model_name=\"tiny\"} 0",
        "num_requests_waiting{model_name=\"tiny\"} 0",
        "gpu_cache_usage_perc{model_name=\"tiny\"} 0",
        "time_to_first_token_seconds_count{model_name=\"tiny\"} 1",
        "time_per_output_token_seconds_count{model_name=\"tiny\"} 11",
        "e2e_request_latency_seconds_count{model_name=\"tiny\"} 1",
    ] {
        assert!(page.lines().any(|have| have == line), "{line} in\n{page}");
    }
    assert_eq!(get(&simulator, "/metrics").await.status(), 200);
}

#[tokio::test]
async fn one_connection_serves_many_requests() {
    let simulator = start(options()).await;
    let mut stream = connect(&simulator).await;
    for _ in 0..3 {
        let body = chat(json!({})).to_string();
        stream.write_all(request("/v1/chat/completions", &body).as_bytes()).await.expect("it reads");
        assert_eq!(read_reply(&mut stream, PATIENCE).await.content_tokens(), 12);
    }
    assert_eq!((simulator.stats().connections, simulator.stats().completed), (1, 3));
}

#[tokio::test]
async fn the_pace_is_the_profiles() {
    let options = SimulatorOptions { noise: 0.0, speed: 1.0, ..options() };
    let simulator = start(options).await;
    post(&simulator, "/v1/chat/completions", chat(json!({ "max_tokens": 60 }))).await;
    let record = truth(&simulator, |record| record.outcome == "completed").await;
    let itl = record.itl_ms.expect("60 tokens");
    // A step of the profile takes 6.5 ms and little more; a busy machine may add to a token, not to each.
    assert!((6.3..10.0).contains(&itl), "{itl} ms");
    assert!(record.ttft_ms.expect("a token") >= 6.5);
}

/// Milliseconds since 1970, from the clock the server stamps with.
fn wall_ms() -> f64 {
    SystemClock.wall().duration_since(UNIX_EPOCH).expect("after 1970").as_secs_f64() * 1e3
}

/// How long after `left` the server saw the client go.
fn noticed_after(record: &TruthRecord, left: f64) -> f64 {
    record.received_unix_ms + record.aborted_ms.expect("aborted") - left
}

#[track_caller]
fn check_abort(simulator: &Simulator, record: &TruthRecord, left: f64) {
    let after = noticed_after(record, left);
    assert!((-1.0..500.0).contains(&after), "noticed after {after} ms");
    let stats = simulator.stats();
    assert_eq!((stats.aborted, stats.in_flight, stats.running, stats.waiting), (1, 0, 0, 0));
    assert_eq!(stats.kv_ratio, 0.0);
}

#[tokio::test]
async fn a_client_that_leaves_frees_the_engine_at_once() {
    for (stream_it, speed) in [(true, 1.0), (false, 1.0)] {
        let simulator = start(SimulatorOptions { speed, ..options() }).await;
        let mut stream = connect(&simulator).await;
        let body = chat(json!({ "max_tokens": 20_000, "stream": stream_it })).to_string();
        stream.write_all(request("/v1/chat/completions", &body).as_bytes()).await.expect("it reads");
        if stream_it {
            assert!(stream.read(&mut [0; 4096]).await.expect("the head") > 0);
        } else {
            while simulator.stats().running == 0 {
                tokio::task::yield_now().await;
            }
        }
        let left = wall_ms();
        drop(stream);
        let record = truth(&simulator, |record| record.outcome == "aborted").await;
        check_abort(&simulator, &record, left);
        assert!(record.tokens < 1000, "{} tokens", record.tokens);
    }
}

async fn h2_client(
    simulator: &Simulator,
) -> hyper::client::conn::http2::SendRequest<http_body_util::Full<bytes::Bytes>> {
    let socket = hyper_util::rt::TokioIo::new(connect(simulator).await);
    let executor = hyper_util::rt::TokioExecutor::new();
    let (sender, connection) = hyper::client::conn::http2::handshake(executor, socket).await.expect("h2");
    tokio::spawn(connection);
    sender
}

fn h2_request(simulator: &Simulator, body: &Value) -> http::Request<http_body_util::Full<bytes::Bytes>> {
    http::Request::post(format!("{}/v1/chat/completions", simulator.url()))
        .body(http_body_util::Full::from(body.to_string()))
        .expect("a request")
}

#[tokio::test]
async fn h2_without_tls_serves_streams_and_sees_a_reset_stream() {
    use http_body_util::BodyExt;
    let simulator = start(options()).await;
    let mut sender = h2_client(&simulator).await;
    let answer = sender.send_request(h2_request(&simulator, &chat(json!({})))).await.expect("an answer");
    let body = answer.into_body().collect().await.expect("a whole body").to_bytes();
    assert!(body.ends_with(b"data: [DONE]\n\n"));

    let simulator = start(SimulatorOptions { speed: 1.0, ..options() }).await;
    let mut sender = h2_client(&simulator).await;
    let long = chat(json!({ "max_tokens": 20_000 }));
    let mut answer = sender.send_request(h2_request(&simulator, &long)).await.expect("an answer");
    answer.frame().await.expect("an event").expect("no error");
    let left = wall_ms();
    drop(answer);
    let record = truth(&simulator, |record| record.outcome == "aborted").await;
    check_abort(&simulator, &record, left);
}

/// Fills an engine that runs one request and lets one wait, and hands back the two connections.
async fn full_engine(keep_alive: Option<Duration>) -> (Simulator, Vec<TcpStream>) {
    let mut options = SimulatorOptions { max_queue: 1, speed: 1.0, sse_keep_alive: keep_alive, ..options() };
    options.profile.max_sequences = 1;
    let simulator = start(options).await;
    let mut busy = Vec::new();
    for waiting in 0..2 {
        let mut stream = connect(&simulator).await;
        let body = chat(json!({ "max_tokens": 20_000 })).to_string();
        stream.write_all(request("/v1/chat/completions", &body).as_bytes()).await.expect("it reads");
        while (simulator.stats().running, simulator.stats().waiting) != (1, waiting) {
            tokio::task::yield_now().await;
        }
        busy.push(stream);
    }
    (simulator, busy)
}

#[tokio::test]
async fn a_full_queue_refuses_with_503() {
    let (simulator, _busy) = full_engine(None).await;
    let refused = post(&simulator, "/v1/chat/completions", chat(json!({}))).await;
    let expected = r#"{"error":{"message":"The engine is currently busy and cannot accept new requests. Please try again later or on a different instance.","type":"Service Unavailable","param":null,"code":503}}"#;
    assert_eq!((refused.status(), refused.body().as_str()), (503, expected));
    assert_eq!(truth(&simulator, |record| record.status == 503).await.outcome, "refused");
}

#[tokio::test]
async fn with_keep_alive_comments_a_full_queue_refuses_inside_a_200() {
    let (simulator, mut busy) = full_engine(Some(Duration::from_millis(20))).await;
    let refused = post(&simulator, "/v1/chat/completions", chat(json!({}))).await;
    assert_eq!((refused.status(), refused.end), (200, End::Whole));
    assert_eq!(refused.data().len(), 2);
    assert!(refused.data()[0].contains("\"code\":503"), "{}", refused.body());
    // The one that waits gets comments, and the head has long been sent.
    let mut waiting = Vec::new();
    let waiter = busy.last_mut().expect("two");
    while !String::from_utf8_lossy(&waiting).contains(": keep-alive\n\n") {
        let mut buffer = [0; 4096];
        let count = tokio::time::timeout(PATIENCE, waiter.read(&mut buffer)).await.expect("a comment").expect("open");
        waiting.extend_from_slice(&buffer[..count]);
    }
    assert!(waiting.starts_with(b"HTTP/1.1 200") && !String::from_utf8_lossy(&waiting).contains("data:"));
}

/// Sends one chat request to a server with that fault.
async fn struck(fault: &str, more: Value) -> (Reply, TruthRecord) {
    let simulator = with_faults(&[fault]).await;
    let mut stream = connect(&simulator).await;
    stream.write_all(request("/v1/chat/completions", &chat(more).to_string()).as_bytes()).await.expect("it reads");
    // What ends is waited for; only what is to be silent is listened to for a short while.
    let is_silent = ["hang", "stall"].iter().any(|silent| fault.starts_with(silent));
    let reply = read_reply(&mut stream, if is_silent { Duration::from_millis(400) } else { PATIENCE }).await;
    drop(stream);
    let record = truth(&simulator, |_| true).await;
    (reply, record)
}

#[track_caller]
fn check_fault((reply, record): &(Reply, TruthRecord), status: u16, end: End, tokens: usize, outcome: &str) {
    assert_eq!((reply.status(), &reply.end), (status, &end), "{record:?}\n{}", reply.body());
    assert_eq!((reply.content_tokens(), record.outcome), (tokens, outcome), "{record:?}\n{}", reply.body());
    assert!(record.fault.is_some(), "{record:?}");
}

#[tokio::test]
async fn faults_of_the_connection_do_what_they_say() {
    check_fault(&struck("reset-before-first-token", json!({})).await, 0, End::Reset, 0, "fault");
    check_fault(&struck("reset-after-head", json!({})).await, 200, End::Reset, 0, "fault");
    check_fault(&struck("reset-after-first-token", json!({})).await, 200, End::Reset, 1, "fault");
    check_fault(&struck("hang", json!({})).await, 0, End::Silent, 0, "aborted");
    check_fault(&struck("hang-after-head", json!({})).await, 200, End::Silent, 0, "aborted");
    check_fault(&struck("stall=5", json!({})).await, 200, End::Silent, 5, "aborted");
    check_fault(&struck("truncate=4", json!({})).await, 200, End::Whole, 4, "fault");
    check_fault(&struck("empty", json!({})).await, 200, End::Whole, 0, "fault");
    let cut = struck("close-mid-event=2", json!({})).await;
    assert!(!cut.0.body().ends_with("\n\n") && cut.0.data().len() == 1 + 2 + 1, "{}", cut.0.body());
    check_fault(&cut, 200, End::Closed, 2, "fault");
}

#[tokio::test]
async fn faults_of_the_content_do_what_they_say() {
    check_fault(&struck("refuse", json!({})).await, 503, End::Whole, 0, "fault");
    let first = struck("error-event", json!({})).await;
    check_fault(&first, 200, End::Whole, 0, "fault");
    assert!(first.0.data()[0].starts_with(r#"{"error":{"#) && first.0.data()[1] == "[DONE]");
    let mid = struck("error-event-mid=3", json!({})).await;
    check_fault(&mid, 200, End::Whole, 3, "fault");
    assert!(mid.0.data()[4].starts_with(r#"{"error":{"#));
    let json = struck("json-error-200", json!({})).await;
    check_fault(&json, 200, End::Whole, 0, "fault");
    assert!(json.0.head.contains("application/json") && json.0.json()["error"]["code"] == 500);
    let garbage = struck("garbage", json!({})).await;
    check_fault(&garbage, 200, End::Whole, 0, "fault");
    assert!(garbage.0.data().iter().any(|data| serde_json::from_str::<Value>(data).is_err() && data != "[DONE]"));
}

#[tokio::test]
async fn faults_strike_answers_in_one_piece_too() {
    let unary = || json!({ "stream": false });
    check_fault(&struck("reset-after-first-token", unary()).await, 0, End::Reset, 0, "fault");
    check_fault(&struck("stall", unary()).await, 0, End::Silent, 0, "aborted");
    check_fault(&struck("error-event-mid", unary()).await, 500, End::Whole, 0, "fault");
    let empty = struck("empty", unary()).await;
    assert_eq!((empty.0.status(), empty.0.body().as_str()), (200, ""));
    let broken = struck("garbage", unary()).await;
    assert!(serde_json::from_str::<Value>(&broken.0.body()).is_err(), "{}", broken.0.body());
}

#[tokio::test]
async fn a_refused_connection_is_reset() {
    let simulator = with_faults(&["refuse-connection:1x"]).await;
    let mut stream = connect(&simulator).await;
    let _ = stream.write_all(b"GET /health HTTP/1.1\r\n").await;
    assert_eq!(read_reply(&mut stream, PATIENCE).await.end, End::Reset);
    assert_eq!(get(&simulator, "/health").await.status(), 200, "the count is spent");
}

#[tokio::test]
async fn faults_change_at_run_time() {
    let simulator = start(SimulatorOptions { speed: 1.0, noise: 0.0, ..options() }).await;
    simulator.set_faults(Faults::parse(&["refuse:1x"]).expect("known"));
    assert_eq!(post(&simulator, "/v1/chat/completions", chat(json!({}))).await.status(), 503);
    assert_eq!(post(&simulator, "/v1/chat/completions", chat(json!({}))).await.status(), 200);
    assert_eq!(simulator.faults(), Faults::parse(&["refuse:0x"]).expect("known"));

    let set = post(&simulator, "/_faults", json!(["slow=5"])).await;
    assert_eq!((set.status(), simulator.faults().slow()), (200, 5.0));
    post(&simulator, "/v1/chat/completions", chat(json!({ "max_tokens": 20 }))).await;
    let record = truth(&simulator, |record| record.tokens == 20).await;
    assert!(record.itl_ms.expect("20 tokens") > 30.0, "{record:?}");
    let unknown = post(&simulator, "/_faults", json!(["explode"])).await;
    assert!(unknown.status() == 400 && unknown.body().contains("hang-after-head"));
}

#[tokio::test]
async fn the_truth_file_tells_times_and_no_text() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("truth.jsonl");
    let simulator = start(SimulatorOptions { truth: Some(path.clone()), ..options() }).await;
    let reply = post(&simulator, "/v1/chat/completions", chat(json!({}))).await;
    assert_eq!(reply.end, End::Whole);
    truth(&simulator, |record| record.outcome == "completed").await;
    simulator.shutdown().await;
    let text = std::fs::read_to_string(&path).expect("written");
    let record: Value = serde_json::from_str(text.trim()).expect("one line of JSON");
    assert_eq!(
        (&record["x_request_id"], &record["tokens"], &record["api"]),
        (&json!("req-7"), &json!(12), &json!("chat"))
    );
    assert!(record["ttft_ms"].as_f64() <= record["last_ms"].as_f64() && record["itl_ms"].is_f64());
    assert!(!text.contains("trains"), "{text}");
}

#[tokio::test]
async fn a_taken_address_is_an_error_that_names_it() {
    let simulator = start(options()).await;
    let taken = SimulatorOptions { listen: simulator.address, ..options() };
    let error = Simulator::start(taken, Arc::new(SystemClock)).await.map(|_| ()).expect_err("taken").to_string();
    assert!(error.contains(&simulator.address.to_string()), "{error}");
    let idle = SimulatorOptions { speed: 0.0, ..options() };
    assert!(Simulator::start(idle, Arc::new(SystemClock)).await.is_err());
}

#[tokio::test]
async fn a_stopped_server_takes_no_connection() {
    let simulator = start(options()).await;
    let address = simulator.address;
    let mut open = connect(&simulator).await;
    simulator.shutdown().await;
    assert_ne!(read_reply(&mut open, PATIENCE).await.end, End::Silent);
    assert!(TcpStream::connect(address).await.is_err());
}
