//! `/v1/chat/completions`.

use bytes::Bytes;
use serde::Serialize;

use super::{Answer, Dialect, FINGERPRINT, Key, Null, RequestMetrics, Times, Usage, data, done, json};
use crate::nim_simulator::request::Piece;

#[derive(Serialize)]
struct Chunk<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    choices: Vec<ChunkChoice>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Usage>,
    #[serde(skip_serializing_if = "Key::is_absent")]
    prompt_token_ids: Key<()>,
    #[serde(skip_serializing_if = "Key::is_absent")]
    prompt_text: Key<()>,
    #[serde(skip_serializing_if = "Option::is_none")]
    system_fingerprint: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metrics: Option<RequestMetrics>,
}

#[derive(Serialize)]
struct ChunkChoice {
    index: usize,
    delta: Delta,
    logprobs: Null,
    finish_reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Key::is_absent")]
    stop_reason: Key<()>,
    #[serde(skip_serializing_if = "Key::is_absent")]
    token_ids: Key<()>,
}

#[derive(Default, Serialize)]
struct Delta {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    /// A tool call comes with a null content.
    #[serde(skip_serializing_if = "Key::is_absent")]
    content: Key<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_calls: Option<[ToolDelta; 1]>,
}

#[derive(Default, Serialize)]
struct ToolDelta {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    r#type: Option<&'static str>,
    index: usize,
    function: FunctionDelta,
}

#[derive(Default, Serialize)]
struct FunctionDelta {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    arguments: Option<String>,
}

/// Writes chat chunks.
pub(super) struct Chat {
    answer: Answer,
    id: String,
    finished: usize,
}

impl Chat {
    pub(super) fn new(answer: Answer) -> Self {
        Self { id: format!("chatcmpl-{}", answer.id), answer, finished: 0 }
    }

    fn chunk(&self, choices: Vec<ChunkChoice>) -> Chunk<'_> {
        Chunk {
            id: &self.id,
            object: "chat.completion.chunk",
            created: self.answer.created,
            model: &self.answer.job.model,
            choices,
            usage: None,
            prompt_token_ids: Key::Absent,
            prompt_text: Key::Absent,
            system_fingerprint: None,
            metrics: None,
        }
    }

    fn usage_so_far(&self, completion: u32) -> Option<Usage> {
        self.answer.job.usage_on_chunks.then(|| Usage::so_far(&self.answer, completion))
    }

    fn delta(&self, piece: Piece, choice: usize) -> Delta {
        let call = |tool| Delta { content: Key::Null, tool_calls: Some([tool]), ..Delta::default() };
        match piece {
            Piece::Reasoning(text) => Delta { reasoning: Some(text), ..Delta::default() },
            Piece::Content(text) => Delta { content: Key::Value(text), ..Delta::default() },
            Piece::End => Delta { content: Key::Value(String::new()), ..Delta::default() },
            Piece::ToolName(name) => call(ToolDelta {
                id: Some(tool_id(&self.answer, choice)),
                r#type: Some("function"),
                function: FunctionDelta { name: Some(name), arguments: None },
                ..ToolDelta::default()
            }),
            Piece::ToolArguments(text) => call(ToolDelta {
                function: FunctionDelta { name: None, arguments: Some(text) },
                ..ToolDelta::default()
            }),
        }
    }
}

impl Dialect for Chat {
    /// One role chunk for each choice, before any content.
    fn opening(&mut self) -> Vec<Bytes> {
        let role = |index| {
            let delta = Delta { role: Some("assistant"), content: Key::Value(String::new()), ..Delta::default() };
            let choice = ChunkChoice {
                index,
                delta,
                logprobs: None,
                finish_reason: None,
                stop_reason: Key::Absent,
                token_ids: Key::Absent,
            };
            data(&Chunk {
                usage: self.usage_so_far(0),
                prompt_token_ids: Key::Null,
                prompt_text: Key::Null,
                ..self.chunk(vec![choice])
            })
        };
        (0..self.answer.job.choices.len()).map(role).collect()
    }

    fn token(&mut self, choice: usize, index: u32) -> Vec<Bytes> {
        let (piece, finish_reason) = self.answer.piece(choice, index);
        self.finished += usize::from(finish_reason.is_some());
        let ends = self.finished == self.answer.job.choices.len() && !self.answer.job.usage_at_end;
        let chunk_choice = ChunkChoice {
            index: choice,
            delta: self.delta(piece, choice),
            logprobs: None,
            finish_reason,
            stop_reason: finish_reason.map_or(Key::Absent, |_| Key::Null),
            token_ids: Key::Null,
        };
        vec![data(&Chunk {
            usage: self.usage_so_far(index + 1),
            system_fingerprint: ends.then_some(FINGERPRINT),
            ..self.chunk(vec![chunk_choice])
        })]
    }

    fn timed(&mut self, times: Times) {
        self.answer.times = Some(times);
    }

    fn closing(&mut self) -> Vec<Bytes> {
        let usage = self.answer.job.usage_at_end.then(|| {
            data(&Chunk {
                usage: Some(Usage::at_end(&self.answer)),
                system_fingerprint: Some(FINGERPRINT),
                metrics: self.answer.times.as_ref().map(Times::told),
                ..self.chunk(Vec::new())
            })
        });
        usage.into_iter().chain([done()]).collect()
    }
}

fn tool_id(answer: &Answer, choice: usize) -> String {
    format!("chatcmpl-tool-{}{choice:x}", answer.id)
}

#[derive(Serialize)]
struct Completion<'a> {
    id: String,
    object: &'static str,
    created: u64,
    model: &'a str,
    choices: Vec<CompletionChoice>,
    service_tier: Null,
    system_fingerprint: &'static str,
    usage: Usage,
    prompt_logprobs: Null,
    prompt_token_ids: Null,
    prompt_text: Null,
    kv_transfer_params: Null,
    ec_transfer_params: Null,
    metrics: Option<RequestMetrics>,
}

#[derive(Serialize)]
struct CompletionChoice {
    index: usize,
    message: Message,
    logprobs: Null,
    finish_reason: &'static str,
    stop_reason: Null,
    token_ids: Null,
    routed_experts: Null,
}

#[derive(Serialize)]
struct Message {
    role: &'static str,
    content: Option<String>,
    refusal: Null,
    annotations: Null,
    audio: Null,
    function_call: Null,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<ToolCall>,
    reasoning: Option<String>,
}

#[derive(Serialize)]
struct ToolCall {
    id: String,
    r#type: &'static str,
    function: Function,
}

#[derive(Serialize)]
struct Function {
    name: String,
    arguments: String,
}

/// The unary answer.
pub(super) fn whole(answer: &Answer) -> Vec<u8> {
    json(&Completion {
        id: format!("chatcmpl-{}", answer.id),
        object: "chat.completion",
        created: answer.created,
        model: &answer.job.model,
        choices: (0..answer.job.choices.len()).map(|index| whole_choice(answer, index)).collect(),
        service_tier: None,
        system_fingerprint: FINGERPRINT,
        usage: Usage::whole(answer),
        prompt_logprobs: None,
        prompt_token_ids: None,
        prompt_text: None,
        kv_transfer_params: None,
        ec_transfer_params: None,
        metrics: answer.times.as_ref().map(Times::told),
    })
}

fn whole_choice(answer: &Answer, index: usize) -> CompletionChoice {
    let parts = answer.whole(index);
    let calls = !parts.tool.is_empty();
    let call = calls.then(|| ToolCall {
        id: tool_id(answer, index),
        r#type: "function",
        function: Function { name: parts.tool, arguments: parts.arguments },
    });
    CompletionChoice {
        index,
        message: Message {
            role: "assistant",
            content: (!calls).then_some(parts.content),
            refusal: None,
            annotations: None,
            audio: None,
            function_call: None,
            tool_calls: call.into_iter().collect(),
            reasoning: (!parts.reasoning.is_empty()).then_some(parts.reasoning),
        },
        logprobs: None,
        finish_reason: answer.finish_reason(index),
        stop_reason: None,
        token_ids: None,
        routed_experts: None,
    }
}
