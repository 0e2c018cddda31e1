//! Anthropic's `/v1/messages`, as vLLM speaks it: blocks that open with their first delta, and no end mark.

use bytes::Bytes;
use serde::Serialize;

use super::{Answer, Dialect, Null, event, json};
use crate::nim_simulator::request::Piece;

#[derive(Serialize)]
struct MessageStart<'a> {
    r#type: &'static str,
    message: Message<'a>,
}

#[derive(Serialize)]
struct Message<'a> {
    id: String,
    r#type: &'static str,
    role: &'static str,
    content: Vec<Block>,
    model: &'a str,
    stop_reason: Option<&'static str>,
    stop_sequence: Null,
    usage: Usage,
}

#[derive(Serialize)]
struct Usage {
    #[serde(rename = "input_tokens")]
    input: u32,
    #[serde(rename = "output_tokens")]
    output: u32,
    #[serde(rename = "cache_read_input_tokens", skip_serializing_if = "Option::is_none")]
    cached: Option<u32>,
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Block {
    Text { text: String },
    Thinking { thinking: String },
    ToolUse { id: String, name: String, input: Input },
}

/// A tool's input is an empty object while it streams.
#[derive(Serialize)]
#[serde(untagged)]
enum Input {
    Open {},
    Whole(serde_json::Value),
}

#[derive(Serialize)]
struct BlockStart {
    r#type: &'static str,
    content_block: Block,
    index: usize,
}

#[derive(Serialize)]
struct BlockDelta {
    r#type: &'static str,
    delta: Delta,
    index: usize,
}

#[derive(Serialize)]
#[serde(tag = "type")]
enum Delta {
    #[serde(rename = "text_delta")]
    Text { text: String },
    #[serde(rename = "thinking_delta")]
    Thinking { thinking: String },
    #[serde(rename = "input_json_delta")]
    Input { partial_json: String },
    #[serde(rename = "signature_delta")]
    Signature { signature: String },
}

#[derive(Serialize)]
struct BlockStop {
    r#type: &'static str,
    index: usize,
}

#[derive(Serialize)]
struct MessageDelta {
    r#type: &'static str,
    delta: Stop,
    usage: Usage,
}

#[derive(Serialize)]
struct Stop {
    stop_reason: &'static str,
    stop_sequence: Null,
}

#[derive(Serialize)]
struct MessageStop {
    r#type: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Thinking,
    Text,
    Tool,
}

/// Writes the events of one message.
pub(super) struct Messages {
    answer: Answer,
    open: Option<Kind>,
    /// The index of the open block, or of the next one.
    index: usize,
}

impl Messages {
    pub(super) fn new(answer: Answer) -> Self {
        Self { answer, open: None, index: 0 }
    }

    fn open(&mut self, kind: Kind, content_block: Block) -> Vec<Bytes> {
        if self.open == Some(kind) {
            return Vec::new();
        }
        let mut events = self.close();
        self.open = Some(kind);
        let start = BlockStart { r#type: "content_block_start", content_block, index: self.index };
        events.push(event("content_block_start", &start));
        events
    }

    /// A block of thinking is signed before it closes.
    fn close(&mut self) -> Vec<Bytes> {
        let Some(kind) = self.open.take() else { return Vec::new() };
        let mut events = Vec::new();
        if kind == Kind::Thinking {
            events.push(self.delta(Delta::Signature { signature: self.answer.id.repeat(2) }));
        }
        events.push(event("content_block_stop", &BlockStop { r#type: "content_block_stop", index: self.index }));
        self.index += 1;
        events
    }

    fn delta(&self, delta: Delta) -> Bytes {
        event("content_block_delta", &BlockDelta { r#type: "content_block_delta", delta, index: self.index })
    }
}

/// Cached tokens are not part of the input here, unlike in the OpenAI APIs.
fn usage(answer: &Answer, output: u32) -> Usage {
    let cached = answer.cached;
    Usage { input: answer.job.prompt_tokens.saturating_sub(cached), output, cached: (cached > 0).then_some(cached) }
}

fn message(answer: &Answer, output_tokens: u32) -> Message<'_> {
    Message {
        id: format!("chatcmpl-{}", answer.id),
        r#type: "message",
        role: "assistant",
        content: Vec::new(),
        model: &answer.job.model,
        stop_reason: None,
        stop_sequence: None,
        usage: usage(answer, output_tokens),
    }
}

fn stop_reason(answer: &Answer) -> &'static str {
    let calls = answer.choice(0).is_some_and(|choice| choice.tool.is_some());
    match answer.finish_reason(0) {
        "length" => "max_tokens",
        _ if calls => "tool_use",
        _ => "end_turn",
    }
}

fn tool_use(answer: &Answer, name: String, input: Input) -> Block {
    Block::ToolUse { id: format!("chatcmpl-tool-{}", answer.id), name, input }
}

impl Dialect for Messages {
    fn opening(&mut self) -> Vec<Bytes> {
        let message = message(&self.answer, 0);
        vec![event("message_start", &MessageStart { r#type: "message_start", message })]
    }

    fn token(&mut self, choice: usize, index: u32) -> Vec<Bytes> {
        let (piece, _) = self.answer.piece(choice, index);
        let (mut events, delta) = match piece {
            Piece::End => return Vec::new(),
            Piece::Reasoning(thinking) => {
                let block = Block::Thinking { thinking: String::new() };
                (self.open(Kind::Thinking, block), Delta::Thinking { thinking })
            }
            Piece::Content(text) => (self.open(Kind::Text, Block::Text { text: String::new() }), Delta::Text { text }),
            Piece::ToolName(name) => {
                let block = tool_use(&self.answer, name, Input::Open {});
                return self.open(Kind::Tool, block);
            }
            Piece::ToolArguments(partial_json) => (Vec::new(), Delta::Input { partial_json }),
        };
        events.push(self.delta(delta));
        events
    }

    fn closing(&mut self) -> Vec<Bytes> {
        let mut events = self.close();
        let delta = MessageDelta {
            r#type: "message_delta",
            delta: Stop { stop_reason: stop_reason(&self.answer), stop_sequence: None },
            usage: usage(&self.answer, self.answer.job.total_tokens()),
        };
        events.push(event("message_delta", &delta));
        events.push(event("message_stop", &MessageStop { r#type: "message_stop" }));
        events
    }
}

/// The unary answer.
pub(super) fn whole(answer: &Answer) -> Vec<u8> {
    let parts = answer.whole(0);
    let mut content = Vec::new();
    if !parts.reasoning.is_empty() {
        content.push(Block::Thinking { thinking: parts.reasoning });
    }
    if !parts.content.is_empty() {
        content.push(Block::Text { text: parts.content });
    }
    if !parts.tool.is_empty() {
        let input = serde_json::from_str(&parts.arguments).unwrap_or_default();
        content.push(tool_use(answer, parts.tool, Input::Whole(input)));
    }
    let stop = Some(stop_reason(answer));
    json(&Message { content, stop_reason: stop, ..message(answer, answer.job.total_tokens()) })
}
