//! `/v1/responses`: numbered events around items, and no end mark.

use bytes::Bytes;
use serde::Serialize;

use super::{Answer, Dialect, Null, event, json};
use crate::nim_simulator::request::{Finish, Piece};

/// An event: its own keys, then its number and type. vLLM sorts the keys, so a text stands after the number.
#[derive(Serialize)]
struct Numbered<'a, T: Serialize> {
    #[serde(flatten)]
    body: T,
    sequence_number: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
    r#type: &'a str,
}

#[derive(Serialize)]
struct OfResponse<'a> {
    response: Response<'a>,
}

#[derive(Serialize)]
struct OfItem {
    item: Item,
    output_index: usize,
}

#[derive(Serialize)]
struct OfPart<'a> {
    content_index: usize,
    item_id: &'a str,
    output_index: usize,
    part: Part,
}

#[derive(Serialize)]
struct OfDelta<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    content_index: Option<usize>,
    delta: &'a str,
    item_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    logprobs: Option<[(); 0]>,
    output_index: usize,
}

#[derive(Serialize)]
struct OfText<'a> {
    content_index: usize,
    item_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    logprobs: Option<[(); 0]>,
    output_index: usize,
}

#[derive(Serialize)]
struct OfArguments<'a> {
    arguments: &'a str,
    item_id: &'a str,
    name: &'a str,
    output_index: usize,
}

/// The numbers every response repeats are vLLM's defaults; simulated answers do not depend on them.
#[derive(Serialize)]
struct Response<'a> {
    id: String,
    created_at: u64,
    incomplete_details: Option<Incomplete>,
    instructions: Null,
    metadata: Null,
    model: &'a str,
    object: &'static str,
    output: Vec<Item>,
    parallel_tool_calls: bool,
    temperature: f64,
    tool_choice: &'static str,
    tools: [(); 0],
    top_p: f64,
    background: bool,
    max_output_tokens: Option<u32>,
    max_tool_calls: Null,
    previous_response_id: Null,
    prompt: Null,
    reasoning: Null,
    service_tier: &'static str,
    status: &'static str,
    text: Null,
    top_logprobs: Null,
    truncation: &'static str,
    usage: Option<Usage>,
    user: Null,
    presence_penalty: f64,
    frequency_penalty: f64,
    kv_transfer_params: Null,
    ec_transfer_params: Null,
    input_messages: Null,
    output_messages: Null,
}

#[derive(Serialize)]
struct Incomplete {
    reason: &'static str,
}

#[derive(Serialize)]
struct Usage {
    input_tokens: u32,
    input_tokens_details: InputDetails,
    output_tokens: u32,
    output_tokens_details: OutputDetails,
    total_tokens: u32,
}

#[derive(Serialize)]
struct InputDetails {
    cached_tokens: u32,
    cache_write_tokens: u32,
    input_tokens_per_turn: [(); 0],
    cached_tokens_per_turn: [(); 0],
}

#[derive(Serialize)]
struct OutputDetails {
    reasoning_tokens: u32,
    tool_output_tokens: u32,
    output_tokens_per_turn: [(); 0],
    tool_output_tokens_per_turn: [(); 0],
}

#[derive(Clone, Serialize)]
#[serde(untagged)]
enum Item {
    Message {
        id: String,
        content: Vec<Part>,
        role: &'static str,
        status: &'static str,
        r#type: &'static str,
        phase: Null,
    },
    Reasoning {
        id: String,
        summary: [(); 0],
        r#type: &'static str,
        content: Option<Vec<Part>>,
        encrypted_content: Null,
        status: &'static str,
    },
    Call {
        arguments: String,
        call_id: String,
        name: String,
        r#type: &'static str,
        id: String,
        status: &'static str,
    },
}

#[derive(Clone, Serialize)]
#[serde(untagged)]
enum Part {
    Text { annotations: [(); 0], text: String, r#type: &'static str, logprobs: Option<[(); 0]> },
    Reasoning { text: String, r#type: &'static str },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Reasoning,
    Text,
    Call,
}

impl Kind {
    fn part(self, text: String, done: bool) -> Part {
        match self {
            Self::Reasoning => Part::Reasoning { text, r#type: "reasoning_text" },
            Self::Text | Self::Call => {
                let logprobs = if done { None } else { Some([]) };
                Part::Text { annotations: [], text, r#type: "output_text", logprobs }
            }
        }
    }

    fn logprobs(self) -> Option<[(); 0]> {
        (self == Self::Text).then_some([])
    }
}

/// The item that is being written.
struct Open {
    kind: Kind,
    id: String,
    name: String,
    text: String,
}

impl Open {
    fn item(&self, done: bool) -> Item {
        let status = if done { "completed" } else { "in_progress" };
        let id = self.id.clone();
        let parts: Vec<Part> = done.then(|| self.kind.part(self.text.clone(), true)).into_iter().collect();
        match self.kind {
            Kind::Text => {
                Item::Message { id, content: parts, role: "assistant", status, r#type: "message", phase: None }
            }
            Kind::Reasoning => Item::Reasoning {
                id,
                summary: [],
                r#type: "reasoning",
                content: done.then_some(parts),
                encrypted_content: None,
                status,
            },
            Kind::Call => Item::Call {
                arguments: self.text.clone(),
                call_id: id.replacen("fc_", "call_", 1),
                name: self.name.clone(),
                r#type: "function_call",
                id,
                status,
            },
        }
    }
}

/// Writes the events of one response.
pub(super) struct Responses {
    answer: Answer,
    sequence: u32,
    open: Option<Open>,
    output: Vec<Item>,
}

impl Responses {
    pub(super) fn new(answer: Answer) -> Self {
        Self { answer, sequence: 0, open: None, output: Vec::new() }
    }

    fn numbered<T: Serialize>(&mut self, name: &str, body: T) -> Bytes {
        self.numbered_with_text(name, body, None)
    }

    fn numbered_with_text<T: Serialize>(&mut self, name: &str, body: T, text: Option<&str>) -> Bytes {
        let sequence_number = self.sequence;
        self.sequence += 1;
        event(name, &Numbered { body, sequence_number, text, r#type: name })
    }

    fn open(&mut self, kind: Kind, name: String) -> Vec<Bytes> {
        if self.open.as_ref().is_some_and(|open| open.kind == kind) {
            return Vec::new();
        }
        let mut events = self.close();
        let output_index = self.output.len();
        let prefix = match kind {
            Kind::Reasoning => "rs",
            Kind::Text => "msg",
            Kind::Call => "fc",
        };
        let open = Open { kind, id: format!("{prefix}_{}", self.answer.id), name, text: String::new() };
        events.push(self.numbered("response.output_item.added", OfItem { item: open.item(false), output_index }));
        if kind != Kind::Call {
            let part =
                OfPart { content_index: 0, item_id: &open.id, output_index, part: kind.part(String::new(), false) };
            events.push(self.numbered("response.content_part.added", part));
        }
        self.open = Some(open);
        events
    }

    fn delta(&mut self, text: &str) -> Vec<Bytes> {
        let output_index = self.output.len();
        let Some(mut open) = self.open.take() else { return Vec::new() };
        open.text.push_str(text);
        let (name, content_index) = match open.kind {
            Kind::Reasoning => ("response.reasoning_text.delta", Some(0)),
            Kind::Text => ("response.output_text.delta", Some(0)),
            Kind::Call => ("response.function_call_arguments.delta", None),
        };
        let body =
            OfDelta { content_index, delta: text, item_id: &open.id, logprobs: open.kind.logprobs(), output_index };
        let events = vec![self.numbered(name, body)];
        self.open = Some(open);
        events
    }

    fn close(&mut self) -> Vec<Bytes> {
        let Some(open) = self.open.take() else { return Vec::new() };
        let output_index = self.output.len();
        let mut events = vec![self.text_done(&open, output_index)];
        if open.kind != Kind::Call {
            let part = open.kind.part(open.text.clone(), true);
            let part = OfPart { content_index: 0, item_id: &open.id, output_index, part };
            events.push(self.numbered("response.content_part.done", part));
        }
        let item = open.item(true);
        events.push(self.numbered("response.output_item.done", OfItem { item: item.clone(), output_index }));
        self.output.push(item);
        events
    }

    fn text_done(&mut self, open: &Open, output_index: usize) -> Bytes {
        let item_id = &open.id;
        let (text, logprobs) = (&open.text, open.kind.logprobs());
        match open.kind {
            Kind::Call => {
                let body = OfArguments { arguments: text, item_id, name: &open.name, output_index };
                self.numbered("response.function_call_arguments.done", body)
            }
            Kind::Text | Kind::Reasoning => {
                let name = if open.kind == Kind::Text { "output_text" } else { "reasoning_text" };
                let body = OfText { content_index: 0, item_id, logprobs, output_index };
                self.numbered_with_text(&format!("response.{name}.done"), body, Some(text))
            }
        }
    }

    fn whole_event(&mut self, name: &str, status: &'static str, output: Vec<Item>) -> Bytes {
        let answer = self.answer.clone();
        self.numbered(name, OfResponse { response: response(&answer, status, output) })
    }
}

fn response<'a>(answer: &'a Answer, status: &'static str, output: Vec<Item>) -> Response<'a> {
    Response {
        id: format!("resp_{}", answer.id),
        created_at: answer.created,
        incomplete_details: (status == "incomplete").then_some(Incomplete { reason: "max_output_tokens" }),
        instructions: None,
        metadata: None,
        model: &answer.job.model,
        object: "response",
        output,
        parallel_tool_calls: true,
        temperature: 1.0,
        tool_choice: if answer.choice(0).is_some_and(|choice| choice.tool.is_some()) { "required" } else { "none" },
        tools: [],
        top_p: 1.0,
        background: false,
        max_output_tokens: answer.job.max_tokens,
        max_tool_calls: None,
        previous_response_id: None,
        prompt: None,
        reasoning: None,
        service_tier: "auto",
        status,
        text: None,
        top_logprobs: None,
        truncation: "disabled",
        usage: (status != "in_progress").then(|| usage(answer)),
        user: None,
        presence_penalty: 0.0,
        frequency_penalty: 0.0,
        kv_transfer_params: None,
        ec_transfer_params: None,
        input_messages: None,
        output_messages: None,
    }
}

fn usage(answer: &Answer) -> Usage {
    let (input, output) = (answer.job.prompt_tokens, answer.job.total_tokens());
    Usage {
        input_tokens: input,
        input_tokens_details: InputDetails {
            cached_tokens: answer.cached,
            cache_write_tokens: 0,
            input_tokens_per_turn: [],
            cached_tokens_per_turn: [],
        },
        output_tokens: output,
        output_tokens_details: OutputDetails {
            reasoning_tokens: answer.job.reasoning_tokens(),
            tool_output_tokens: 0,
            output_tokens_per_turn: [],
            tool_output_tokens_per_turn: [],
        },
        total_tokens: input.saturating_add(output),
    }
}

/// An answer that was cut by its limit is `incomplete`; vLLM's event is called `response.completed` all the same.
fn final_status(answer: &Answer) -> &'static str {
    let cut = answer.choice(0).is_some_and(|choice| choice.finish == Finish::Length);
    if cut { "incomplete" } else { "completed" }
}

impl Dialect for Responses {
    fn accepted(&mut self) -> Vec<Bytes> {
        let created = self.whole_event("response.created", "in_progress", Vec::new());
        vec![created, self.whole_event("response.in_progress", "in_progress", Vec::new())]
    }

    fn token(&mut self, choice: usize, index: u32) -> Vec<Bytes> {
        let (mut events, text) = match self.answer.piece(choice, index).0 {
            Piece::Reasoning(text) => (self.open(Kind::Reasoning, String::new()), text),
            Piece::Content(text) => (self.open(Kind::Text, String::new()), text),
            Piece::ToolName(name) => return self.open(Kind::Call, name),
            Piece::ToolArguments(text) => (Vec::new(), text),
            Piece::End => return Vec::new(),
        };
        events.extend(self.delta(&text));
        events
    }

    fn closing(&mut self) -> Vec<Bytes> {
        let mut events = self.close();
        let output = std::mem::take(&mut self.output);
        let status = final_status(&self.answer);
        events.push(self.whole_event("response.completed", status, output));
        events
    }
}

/// The unary answer.
pub(super) fn whole(answer: &Answer) -> Vec<u8> {
    let mut writer = Responses::new(answer.clone());
    for index in 0..answer.choice(0).map_or(0, |choice| choice.tokens) {
        writer.token(0, index);
    }
    writer.close();
    json(&response(answer, final_status(answer), writer.output))
}
