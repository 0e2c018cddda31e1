//! A request body as the engines read it, and the answer it will get.
//!
//! One lenient mirror serves all APIs: each reads the keys it knows, and unknown keys are ignored, as engines do. The
//! whole answer is planned before the engine sees the request, so that its length is known and repeatable.

use std::fmt::Write;

use http::StatusCode;
use serde::Deserialize;
use serde_json::Value;

use crate::nim_simulator::problem::Problem;
use crate::nim_simulator::text;

/// Completions a request may ask for at once.
const MOST_CHOICES: u32 = 16;

/// Which API a request speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Api {
    Chat,
    Completions,
    Responses,
    Messages,
    Generate,
    Embeddings,
    Ranking,
}

impl Api {
    /// The name in the truth log.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Chat => "chat",
            Self::Completions => "completions",
            Self::Responses => "responses",
            Self::Messages => "messages",
            Self::Generate => "generate",
            Self::Embeddings => "embeddings",
            Self::Ranking => "ranking",
        }
    }

    /// Whether it computes a prompt and makes no tokens.
    fn only_prefills(self) -> bool {
        matches!(self, Self::Embeddings | Self::Ranking)
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Body {
    model: Option<String>,
    messages: Value,
    system: Value,
    instructions: Value,
    prompt: Value,
    input: Value,
    text_input: Value,
    query: Value,
    passages: Value,
    stream: Option<bool>,
    n: Option<u32>,
    max_tokens: Option<u32>,
    max_completion_tokens: Option<u32>,
    max_output_tokens: Option<u32>,
    ignore_eos: Option<bool>,
    stream_options: Option<StreamOptions>,
    chat_template_kwargs: Option<TemplateArguments>,
    thinking: Option<Thinking>,
    tools: Option<Vec<Value>>,
    tool_choice: Value,
    parameters: Option<Parameters>,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(default)]
struct StreamOptions {
    include_usage: Option<bool>,
    continuous_usage_stats: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct TemplateArguments {
    enable_thinking: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Thinking {
    r#type: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Parameters {
    max_tokens: Option<u32>,
}

/// What bounds and seeds the answers of one simulator.
#[derive(Debug, Clone)]
pub(super) struct Limits {
    /// Model ids that are served; the first answers requests that name none.
    pub(super) models: Vec<String>,
    /// Tokens of prompt and answer together.
    pub(super) context: u32,
    pub(super) seed: u64,
}

/// A request that can be served, and how it will be answered.
#[derive(Debug, Clone)]
pub(super) struct Job {
    pub(super) api: Api,
    pub(super) model: String,
    pub(super) stream: bool,
    pub(super) prompt_tokens: u32,
    /// Blocks for the prefix cache.
    pub(super) blocks: Vec<u64>,
    pub(super) choices: Vec<Choice>,
    /// A usage chunk at the end of the stream.
    pub(super) usage_at_end: bool,
    /// Usage on every chunk.
    pub(super) usage_on_chunks: bool,
    /// The limit on output tokens, as asked.
    pub(super) max_tokens: Option<u32>,
    /// Inputs to embed, or passages to rank.
    pub(super) items: usize,
    /// Names the answer, and seeds its words.
    pub(super) seed: u64,
}

/// Why an answer ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Finish {
    /// The limit on tokens is reached.
    Length,
    /// The model ends by itself; its last token is the invisible end mark.
    Stop,
}

/// A call the answer consists of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tool {
    pub(super) name: String,
    /// Whether the client named this very function; the engines then say `stop`, not `tool_calls`.
    pub(super) named: bool,
}

/// One planned completion.
#[derive(Debug, Clone)]
pub(super) struct Choice {
    pub(super) tokens: u32,
    /// How many of the first tokens are reasoning.
    pub(super) reasoning: u32,
    pub(super) tool: Option<Tool>,
    pub(super) finish: Finish,
}

/// What one token adds to the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Piece {
    Reasoning(String),
    Content(String),
    ToolName(String),
    ToolArguments(String),
    /// The end mark, which has no text.
    End,
}

impl Choice {
    /// What the token with that index adds; `choice` and `seed` pick the words.
    pub(super) fn piece(&self, seed: u64, choice: usize, index: u32) -> Piece {
        let word = || text::word(seed, choice, index).to_owned();
        if self.finish == Finish::Stop && index + 1 >= self.tokens {
            return Piece::End;
        }
        if index < self.reasoning {
            return Piece::Reasoning(word());
        }
        let Some(tool) = &self.tool else { return Piece::Content(word()) };
        match self.tool_place(index - self.reasoning) {
            Place::Name => Piece::ToolName(tool.name.clone()),
            Place::Whole => Piece::ToolArguments("{}".to_owned()),
            Place::Open => Piece::ToolArguments("{\"query\": \"".to_owned()),
            Place::Close => Piece::ToolArguments("\"}".to_owned()),
            Place::Inside => Piece::ToolArguments(word()),
        }
    }

    /// A call that ends by itself is valid JSON; one that is cut is not, as in life.
    fn tool_place(&self, index: u32) -> Place {
        let visible = self.tokens - self.reasoning - u32::from(self.finish == Finish::Stop);
        let closes = self.finish == Finish::Stop;
        match index {
            0 => Place::Name,
            1 if closes && visible == 2 => Place::Whole,
            1 => Place::Open,
            _ if closes && index + 1 == visible => Place::Close,
            _ => Place::Inside,
        }
    }

    /// The finish reason in OpenAI's words.
    pub(super) fn finish_reason(&self) -> &'static str {
        match (self.finish, &self.tool) {
            (Finish::Length, _) => "length",
            (Finish::Stop, Some(tool)) if !tool.named => "tool_calls",
            (Finish::Stop, _) => "stop",
        }
    }
}

enum Place {
    Name,
    Whole,
    Open,
    Inside,
    Close,
}

impl Job {
    /// Output tokens of all choices.
    pub(super) fn total_tokens(&self) -> u32 {
        self.choices.iter().fold(0, |sum, choice| sum.saturating_add(choice.tokens))
    }

    /// Reasoning tokens of all choices.
    pub(super) fn reasoning_tokens(&self) -> u32 {
        self.choices.iter().fold(0, |sum, choice| sum.saturating_add(choice.reasoning))
    }

    /// Reads a body; `path` carries the model and the streaming of the APIs that have them there.
    pub(super) fn parse(api: Api, bytes: &[u8], path: &PathFacts<'_>, limits: &Limits) -> Result<Self, Problem> {
        let body: Body = serde_json::from_slice(bytes).map_err(|error| Problem::bad_json(&error))?;
        let model = served_model(path.model.or(body.model.as_deref()), limits)?;
        let prompt = body.prompt_text();
        let prompt_tokens = text::tokens(prompt.len());
        let max_tokens = body.max_tokens();
        check_context(prompt_tokens, max_tokens, limits.context)?;
        let seed = text::hash(limits.seed, prompt.as_bytes());
        Ok(Self {
            api,
            stream: !api.only_prefills() && path.stream.unwrap_or_else(|| body.stream.unwrap_or(false)),
            prompt_tokens,
            blocks: text::blocks(prompt.as_bytes()),
            choices: body.choices(api, &model, seed, limits.context - prompt_tokens)?,
            usage_at_end: body.stream_options.and_then(|options| options.include_usage).unwrap_or(false),
            usage_on_chunks: body.stream_options.is_some_and(|options| {
                options.include_usage == Some(true) && options.continuous_usage_stats == Some(true)
            }),
            max_tokens,
            items: body.items(),
            seed,
            model,
        })
    }
}

/// What a request's path says beside the API.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct PathFacts<'a> {
    pub(super) model: Option<&'a str>,
    pub(super) stream: Option<bool>,
}

fn served_model(asked: Option<&str>, limits: &Limits) -> Result<String, Problem> {
    match asked {
        None => Ok(limits.models.first().cloned().unwrap_or_default()),
        Some(asked) if limits.models.iter().any(|model| model == asked) => Ok(asked.to_owned()),
        Some(asked) => Err(Problem::unknown_model(asked, &limits.models)),
    }
}

fn check_context(prompt: u32, max_tokens: Option<u32>, context: u32) -> Result<(), Problem> {
    if max_tokens == Some(0) {
        return Err(Problem::new(StatusCode::BAD_REQUEST, "max_tokens must be at least 1, got 0.").about("max_tokens"));
    }
    if prompt.saturating_add(max_tokens.unwrap_or(1)) > context {
        return Err(Problem::context_overflow(prompt, max_tokens.unwrap_or(1), context));
    }
    Ok(())
}

impl Body {
    fn max_tokens(&self) -> Option<u32> {
        let parameter = self.parameters.as_ref().and_then(|parameters| parameters.max_tokens);
        self.max_completion_tokens.or(self.max_tokens).or(self.max_output_tokens).or(parameter)
    }

    /// All the text the model would read.
    fn prompt_text(&self) -> String {
        let mut text = String::new();
        let parts = [
            &self.system,
            &self.instructions,
            &self.messages,
            &self.prompt,
            &self.input,
            &self.text_input,
            &self.query,
            &self.passages,
        ];
        for part in parts {
            collect_text(part, &mut text);
        }
        text
    }

    fn items(&self) -> usize {
        match (&self.passages, &self.input) {
            (Value::Array(passages), _) => passages.len(),
            (_, Value::Array(inputs)) if !inputs.iter().all(Value::is_number) => inputs.len(),
            _ => 1,
        }
    }

    fn choices(&self, api: Api, model: &str, seed: u64, room: u32) -> Result<Vec<Choice>, Problem> {
        let count = self.n.unwrap_or(1);
        if !(1..=MOST_CHOICES).contains(&count) {
            let message = format!("n must be from 1 to {MOST_CHOICES}, got {count}.");
            return Err(Problem::new(StatusCode::BAD_REQUEST, message).about("n"));
        }
        let tool = self.tool(api);
        let reasons = self.reasons(api, model);
        let choice = |index: u32| self.choice(api, text::hash(seed, &index.to_le_bytes()), room, reasons, tool.clone());
        Ok((0..count).map(choice).collect())
    }

    fn choice(&self, api: Api, seed: u64, room: u32, reasons: bool, tool: Option<Tool>) -> Choice {
        let limit = self.max_tokens().unwrap_or(u32::MAX).min(room).max(1);
        let natural = text::natural_length(seed);
        let (tokens, finish) = if api.only_prefills() {
            (1, Finish::Stop)
        } else if self.ignore_eos == Some(true) && self.max_tokens().is_some() {
            (limit, Finish::Length)
        } else if natural <= limit {
            (natural, Finish::Stop)
        } else {
            (limit, Finish::Length)
        };
        Choice { tokens, reasoning: if reasons { tokens / 3 } else { 0 }, tool, finish }
    }

    fn reasons(&self, api: Api, model: &str) -> bool {
        let asked = self.chat_template_kwargs.as_ref().and_then(|arguments| arguments.enable_thinking);
        let thinking = self.thinking.as_ref().map(|thinking| thinking.r#type == "enabled");
        let speaks = matches!(api, Api::Chat | Api::Responses | Api::Messages);
        speaks && asked.or(thinking).unwrap_or_else(|| model.contains("reason"))
    }

    /// The function to call: the one `tool_choice` names, or the first when some call is required.
    fn tool(&self, api: Api) -> Option<Tool> {
        if !matches!(api, Api::Chat | Api::Responses | Api::Messages) {
            return None;
        }
        let first = self.tools.as_ref()?.first()?;
        let kind = self.tool_choice.as_str().or_else(|| self.tool_choice.get("type")?.as_str());
        if let Some(name) = function_name(&self.tool_choice) {
            return Some(Tool { name: name.to_owned(), named: true });
        }
        let first = function_name(first).unwrap_or("function");
        matches!(kind, Some("required" | "any")).then(|| Tool { name: first.to_owned(), named: false })
    }
}

/// The name in `{"function": {"name"}}` (chat) or `{"name"}` (responses, messages).
fn function_name(value: &Value) -> Option<&str> {
    value.get("function").unwrap_or(value).get("name")?.as_str()
}

/// Appends every text below a value; a number is a token of its own, as in prompts given as token ids.
fn collect_text(value: &Value, text: &mut String) {
    match value {
        Value::String(part) => text.push_str(part),
        Value::Number(token) => {
            // Writing to a string cannot fail.
            let _ = write!(text, "{:04}", token.as_u64().unwrap_or(0) % 10_000);
        }
        Value::Array(parts) => parts.iter().for_each(|part| collect_text(part, text)),
        Value::Object(parts) => {
            for key in ["content", "text", "input", "output", "arguments"] {
                parts.get(key).into_iter().for_each(|part| collect_text(part, text));
            }
        }
        Value::Null | Value::Bool(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Limits {
        Limits { models: vec!["tiny".to_owned(), "tiny-reasoner".to_owned()], context: 1000, seed: 1 }
    }

    #[track_caller]
    fn job(api: Api, body: &str) -> Job {
        Job::parse(api, body.as_bytes(), &PathFacts::default(), &limits()).expect(body)
    }

    #[track_caller]
    fn refused(body: &str, status: u16, part: &str) {
        let problem = Job::parse(Api::Chat, body.as_bytes(), &PathFacts::default(), &limits()).expect_err(body);
        assert_eq!(problem.status.as_u16(), status, "{body}");
        assert!(problem.message.contains(part), "{}", problem.message);
    }

    #[test]
    fn a_prompt_is_counted_in_all_its_forms() {
        for (api, body) in [
            (Api::Chat, r#"{"messages":[{"role":"user","content":"12345678"}]}"#),
            (Api::Chat, r#"{"messages":[{"role":"user","content":[{"type":"text","text":"12345678"}]}]}"#),
            (Api::Completions, r#"{"prompt":"12345678"}"#),
            (Api::Completions, r#"{"prompt":[77,1234567]}"#),
            (Api::Responses, r#"{"instructions":"1234","input":"5678"}"#),
            (Api::Messages, r#"{"system":"1234","messages":[{"role":"user","content":"5678"}]}"#),
            (Api::Generate, r#"{"text_input":"12345678"}"#),
            (Api::Ranking, r#"{"query":{"text":"1234"},"passages":[{"text":"5678"}]}"#),
        ] {
            assert_eq!(job(api, body).prompt_tokens, 2, "{body}");
        }
    }

    #[test]
    fn the_limit_is_reached_exactly_when_the_end_is_ignored() {
        for key in ["max_tokens", "max_completion_tokens", "max_output_tokens"] {
            let job = job(Api::Chat, &format!(r#"{{"{key}":500,"ignore_eos":true}}"#));
            assert_eq!((job.choices[0].tokens, job.choices[0].finish), (500, Finish::Length), "{key}");
        }
        let natural = job(Api::Chat, r#"{"messages":[{"content":"hello"}]}"#);
        assert_eq!(natural.choices[0].finish, Finish::Stop);
        let cut = job(Api::Chat, r#"{"messages":[{"content":"hello"}],"max_tokens":1}"#);
        assert_eq!((cut.choices[0].tokens, cut.choices[0].finish), (1, Finish::Length));
    }

    #[test]
    fn a_third_is_reasoning_where_it_is_asked_for() {
        let asked = r#"{"chat_template_kwargs":{"enable_thinking":true},"max_tokens":30,"ignore_eos":true}"#;
        assert_eq!(job(Api::Chat, asked).choices[0].reasoning, 10);
        assert_eq!(
            job(Api::Chat, r#"{"model":"tiny-reasoner","max_tokens":9,"ignore_eos":true}"#).reasoning_tokens(),
            3
        );
        assert_eq!(job(Api::Completions, asked).reasoning_tokens(), 0);
    }

    #[test]
    fn a_call_that_ends_by_itself_is_valid_json() {
        for tokens in 3..40 {
            let tool = Some(Tool { name: "f".to_owned(), named: false });
            let choice = Choice { tokens, reasoning: 0, tool, finish: Finish::Stop };
            let arguments: String = (0..tokens)
                .filter_map(|index| match choice.piece(1, 0, index) {
                    Piece::ToolArguments(part) => Some(part),
                    _ => None,
                })
                .collect();
            assert!(serde_json::from_str::<Value>(&arguments).is_ok(), "{tokens}: {arguments}");
            assert_eq!(choice.piece(1, 0, tokens - 1), Piece::End);
        }
    }

    #[test]
    fn tools_are_called_when_required_or_named() {
        let tools = r#""tools":[{"type":"function","function":{"name":"weather"}}]"#;
        let with =
            |choice: &str| job(Api::Chat, &format!("{{{tools},\"tool_choice\":{choice}}}")).choices[0].tool.clone();
        assert_eq!(with("\"required\""), Some(Tool { name: "weather".to_owned(), named: false }));
        let named = with(r#"{"type":"function","function":{"name":"other"}}"#);
        assert_eq!(named, Some(Tool { name: "other".to_owned(), named: true }));
        assert_eq!(with("\"auto\""), None);
    }

    #[test]
    fn what_cannot_be_served_is_refused_with_a_reason() {
        refused("{\"model\": ", 400, "json_invalid");
        refused(r#"{"model":"nope"}"#, 404, "`nope` does not exist");
        refused(r#"{"max_tokens":2000}"#, 400, "maximum context length");
        refused(r#"{"max_tokens":0}"#, 400, "at least 1");
        refused(r#"{"n":99}"#, 400, "n must be");
        refused(r#"{"stream":"yes"}"#, 400, "validation error");
    }
}
