//! An inference request, read once: what routing needs to know, and where to splice.
//!
//! The body is forwarded as it came. Where it must differ (usage asked for, another model name), bytes are spliced in
//! and every other byte stays, so a field headway has never heard of reaches the backend as it was written.

use std::ops::Range;

use super::Api;
use super::json::{Kind, Malformed, Scanner, Text, name_buffer, push_string};

/// A prompt of token ids counts this many bytes for each, so that it weighs like text.
const BYTES_PER_TOKEN_ID: u64 = 4;

/// Why a body is not a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// Not JSON; carries the place, never the content.
    #[error("the body is not valid JSON (byte {})", .0.at)]
    Malformed(#[from] Malformed),
    /// JSON, but no object.
    #[error("the body is not a JSON object")]
    NotAnObject,
    /// A field that is read has another type than it should.
    #[error("`{param}` must be {expected}")]
    WrongType {
        /// The field.
        param: &'static str,
        /// What it should be.
        expected: &'static str,
    },
    /// `model` is there twice: backends would disagree which one counts.
    #[error("`model` is given twice")]
    DuplicateModel,
}

impl RequestError {
    /// The field that is wrong, as the error body's `param`.
    #[must_use]
    pub fn param(&self) -> Option<&'static str> {
        match self {
            Self::WrongType { param, .. } => Some(param),
            Self::DuplicateModel => Some("model"),
            Self::Malformed(_) | Self::NotAnObject => None,
        }
    }
}

/// Whether the client asked for the usage event, and where to ask in its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IncludeUsage {
    /// `stream_options.include_usage` is true.
    Asked,
    /// It is false or null: the value to replace.
    Refused(Range<usize>),
    /// `stream_options` is an object without it: where its first member would go, and whether others follow.
    NoKey {
        /// Just after the opening bracket.
        at: usize,
        /// Whether a comma is needed.
        others: bool,
    },
    /// `stream_options` is null: the value to replace.
    NullOptions(Range<usize>),
    /// There is no `stream_options`: where it would go, and whether other members follow.
    NoOptions {
        /// Just after the body's opening bracket.
        at: usize,
        /// Whether a comma is needed.
        others: bool,
    },
}

/// What a request needs of its backend.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Features {
    /// Tools are offered to the model.
    pub tools: bool,
    /// A message contains an image or a video.
    pub vision: bool,
    /// The answer must follow a schema or grammar.
    pub structured_output: bool,
}

/// What an inference request says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestReading {
    /// The model's name; for Triton it is in the path instead.
    pub model: Option<String>,
    /// Where the model's name stands in the body, quotes included.
    pub model_span: Option<Range<usize>>,
    /// Whether a streamed answer is asked for.
    pub stream: bool,
    /// `n`, at least 1.
    pub choices: u32,
    /// The limit of output tokens, in the dialect's own field.
    pub max_tokens: Option<u64>,
    /// Whether usage is asked for.
    pub include_usage: IncludeUsage,
    /// Bytes of message text, data URLs excluded.
    pub prompt_bytes: u64,
    /// What the backend must be able to do.
    pub features: Features,
    /// `previous_response_id` of the responses API: only the backend that gave it knows it.
    pub previous_response_id: Option<String>,
}

/// One change of a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edit {
    /// The bytes that go; empty for an insertion.
    pub span: Range<usize>,
    /// The bytes that come.
    pub text: Vec<u8>,
}

/// The body with `edits` made, every other byte untouched. An edit that does not fit, or overlaps one before it, is
/// left out.
#[must_use]
pub fn splice(body: &[u8], edits: &[Edit]) -> Vec<u8> {
    let mut order: Vec<&Edit> = edits.iter().collect();
    order.sort_by_key(|edit| edit.span.start);
    let added: usize = edits.iter().map(|edit| edit.text.len()).sum();
    let mut out = Vec::with_capacity(body.len() + added);
    let mut at = 0;
    for edit in order {
        let fits = edit.span.start <= edit.span.end && edit.span.end <= body.len();
        let Some(kept) = body.get(at..edit.span.start).filter(|_| fits) else { continue };
        out.extend_from_slice(kept);
        out.extend_from_slice(&edit.text);
        at = edit.span.end;
    }
    out.extend_from_slice(body.get(at..).unwrap_or_default());
    out
}

impl RequestReading {
    /// Reads a request body.
    ///
    /// # Errors
    /// When it is not a JSON object, or a field that matters here has the wrong type.
    pub fn read(api: Api, body: &[u8]) -> Result<Self, RequestError> {
        Reader::new(api).read(body)
    }

    /// The edit that asks for the usage event; `None` when the client asked for it itself.
    #[must_use]
    pub fn ask_for_usage(&self) -> Option<Edit> {
        let comma = |others: &bool| if *others { "," } else { "" };
        let (span, text) = match &self.include_usage {
            IncludeUsage::Asked => return None,
            IncludeUsage::Refused(span) => (span.clone(), "true".to_owned()),
            IncludeUsage::NoKey { at, others } => (*at..*at, format!("\"include_usage\":true{}", comma(others))),
            IncludeUsage::NullOptions(span) => (span.clone(), "{\"include_usage\":true}".to_owned()),
            IncludeUsage::NoOptions { at, others } => {
                (*at..*at, format!("\"stream_options\":{{\"include_usage\":true}}{}", comma(others)))
            }
        };
        Some(Edit { span, text: text.into_bytes() })
    }

    /// The edit that names another model; `None` when the body names none, or this one.
    #[must_use]
    pub fn rename(&self, model: &str) -> Option<Edit> {
        let span = self.model_span.clone()?;
        if self.model.as_deref() == Some(model) {
            return None;
        }
        let mut text = Vec::with_capacity(model.len() + 2);
        push_string(&mut text, model);
        Some(Edit { span, text })
    }
}

/// A request while it is read.
struct Reader {
    api: Api,
    reading: RequestReading,
    /// `max_completion_tokens`, which wins over `max_tokens`.
    max_completion_tokens: Option<u64>,
}

type Step = Result<(), RequestError>;

impl Reader {
    fn new(api: Api) -> Self {
        let reading = RequestReading {
            model: None,
            model_span: None,
            stream: api == Api::GenerateStream,
            choices: 1,
            max_tokens: None,
            include_usage: IncludeUsage::NoOptions { at: 0, others: false },
            prompt_bytes: 0,
            features: Features::default(),
            previous_response_id: None,
        };
        Self { api, reading, max_completion_tokens: None }
    }

    fn read(mut self, body: &[u8]) -> Result<RequestReading, RequestError> {
        let mut scanner = Scanner::new(body);
        let start = scanner.offset();
        if scanner.peek()? != Kind::Object {
            scanner.skip()?;
            scanner.end()?;
            return Err(RequestError::NotAnObject);
        }
        let mut others = false;
        // A body that is not JSON is told so, even when a field before the fault has the wrong type.
        let mut wrong = None;
        scanner.object(|scanner, key| {
            others = true;
            match self.member(scanner, key.name(&mut name_buffer())) {
                Err(RequestError::Malformed(malformed)) => Err(malformed),
                Err(other) => {
                    wrong = wrong.or(Some(other));
                    Ok(())
                }
                Ok(()) => Ok(()),
            }
        })?;
        scanner.end()?;
        if let Some(wrong) = wrong {
            return Err(wrong);
        }
        if let IncludeUsage::NoOptions { .. } = self.reading.include_usage {
            self.reading.include_usage = IncludeUsage::NoOptions { at: start + 1, others };
        }
        self.reading.max_tokens = self.max_completion_tokens.or(self.reading.max_tokens);
        Ok(self.reading)
    }

    fn member(&mut self, scanner: &mut Scanner<'_>, key: &[u8]) -> Step {
        match key {
            b"model" => self.model(scanner),
            b"stream" if self.api != Api::GenerateStream => {
                self.reading.stream = flag(scanner, "stream")?.unwrap_or(false);
                Ok(())
            }
            b"n" if self.api.has_choices() => {
                let n = count(scanner, "n")?.unwrap_or(1);
                self.reading.choices = u32::try_from(n).unwrap_or(u32::MAX).max(1);
                Ok(())
            }
            b"max_completion_tokens" if self.api == Api::Chat => {
                self.max_completion_tokens = count(scanner, "max_completion_tokens")?;
                Ok(())
            }
            b"max_output_tokens" if self.api == Api::Responses => {
                self.reading.max_tokens = count(scanner, "max_output_tokens")?;
                Ok(())
            }
            b"max_tokens" if self.api != Api::Responses => {
                self.reading.max_tokens = count(scanner, "max_tokens")?;
                Ok(())
            }
            b"stream_options" if self.api.has_choices() => self.stream_options(scanner),
            b"previous_response_id" if self.api == Api::Responses => {
                self.reading.previous_response_id = scanner.text()?.map(|id| id.to_owned_string());
                Ok(())
            }
            _ => self.feature_or_prompt(scanner, key),
        }
    }

    fn model(&mut self, scanner: &mut Scanner<'_>) -> Step {
        if self.reading.model_span.is_some() {
            scanner.skip()?;
            return Err(RequestError::DuplicateModel);
        }
        let start = scanner.offset();
        let text = scanner.text()?;
        self.reading.model_span = Some(start..scanner.offset());
        let text = text.ok_or(RequestError::WrongType { param: "model", expected: "a string" })?;
        self.reading.model = Some(text.to_owned_string());
        Ok(())
    }

    fn stream_options(&mut self, scanner: &mut Scanner<'_>) -> Step {
        let start = scanner.offset();
        match scanner.peek()? {
            Kind::Null => {
                scanner.skip()?;
                self.reading.include_usage = IncludeUsage::NullOptions(start..scanner.offset());
            }
            Kind::Object => {
                let mut state = IncludeUsage::NoKey { at: start + 1, others: false };
                let mut wrong = None;
                scanner.object(|scanner, key| {
                    if let IncludeUsage::NoKey { others, .. } = &mut state {
                        *others = true;
                    }
                    if key.name(&mut name_buffer()) != b"include_usage" {
                        return Ok::<(), Malformed>(());
                    }
                    let value = scanner.offset();
                    match flag(scanner, "stream_options.include_usage") {
                        Ok(Some(true)) => state = IncludeUsage::Asked,
                        Ok(_) => state = IncludeUsage::Refused(value..scanner.offset()),
                        Err(RequestError::Malformed(malformed)) => return Err(malformed),
                        Err(other) => wrong = Some(other),
                    }
                    Ok(())
                })?;
                self.reading.include_usage = state;
                wrong.map_or(Ok(()), Err)?;
            }
            _ => {
                scanner.skip()?;
                return Err(RequestError::WrongType { param: "stream_options", expected: "an object" });
            }
        }
        Ok(())
    }

    fn feature_or_prompt(&mut self, scanner: &mut Scanner<'_>, key: &[u8]) -> Step {
        let features = &mut self.reading.features;
        match (self.api, key) {
            (Api::Chat | Api::Responses | Api::Messages, b"tools" | b"functions") => {
                scanner.array_or_skip(|_| {
                    features.tools = true;
                    Ok::<(), Malformed>(())
                })?;
            }
            (_, b"response_format" | b"text" | b"output_format" | b"output_config") if self.api != Api::Ranking => {
                features.structured_output |= asks_for_schema(scanner)?;
            }
            (_, b"guided_json" | b"guided_regex" | b"guided_choice" | b"guided_grammar" | b"structured_outputs") => {
                features.structured_output |= scanner.peek()? != Kind::Null;
            }
            (Api::Chat | Api::Messages, b"messages")
            | (Api::Messages, b"system")
            | (Api::Responses | Api::Embeddings, b"input")
            | (Api::Responses, b"instructions")
            | (Api::Completions, b"prompt")
            | (Api::Ranking, b"query" | b"passages")
            | (Api::GenerateStream, b"text_input") => {
                let mut prompt = Prompt::default();
                prompt.value(scanner)?;
                self.reading.prompt_bytes = self.reading.prompt_bytes.saturating_add(prompt.bytes);
                features.vision |= prompt.vision;
            }
            _ => {}
        }
        Ok(())
    }
}

/// Whether a `response_format` (or its like in other dialects) asks for anything but plain text.
fn asks_for_schema(scanner: &mut Scanner<'_>) -> Result<bool, Malformed> {
    let mut asks = false;
    scanner.object_or_skip(|scanner, key| {
        match key.raw() {
            b"type" => asks |= scanner.text()?.is_some_and(|kind| kind.raw() != b"text"),
            b"format" => asks |= asks_for_schema(scanner)?,
            _ => {}
        }
        Ok::<(), Malformed>(())
    })?;
    Ok(asks)
}

/// Text found in messages, at any depth the scanner allows.
#[derive(Default)]
struct Prompt {
    bytes: u64,
    vision: bool,
}

impl Prompt {
    fn value(&mut self, scanner: &mut Scanner<'_>) -> Result<(), Malformed> {
        match scanner.peek()? {
            Kind::String => {
                if let Some(text) = scanner.text()? {
                    self.text(text);
                }
                Ok(())
            }
            Kind::Number => {
                self.bytes = self.bytes.saturating_add(BYTES_PER_TOKEN_ID);
                scanner.skip()
            }
            Kind::Array => scanner.array(|scanner| self.value(scanner)),
            Kind::Object => scanner.object(|scanner, key| self.member(scanner, key.name(&mut name_buffer()))),
            Kind::Bool | Kind::Null => scanner.skip(),
        }
    }

    /// One member of a message, of a part of it, or of a tool call in it.
    fn member(&mut self, scanner: &mut Scanner<'_>, key: &[u8]) -> Result<(), Malformed> {
        match key {
            b"content" | b"text" | b"arguments" | b"thinking" | b"reasoning" | b"reasoning_content" | b"tool_calls"
            | b"function" | b"function_call" | b"name" | b"output" | b"partial_json" => self.value(scanner),
            b"image_url" | b"video_url" => {
                self.vision = true;
                scanner.skip()
            }
            b"type" => {
                let kind = scanner.text()?;
                self.vision |= kind.is_some_and(|kind| matches!(kind.raw(), b"image" | b"input_image"));
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn text(&mut self, text: Text<'_>) {
        if !text.raw().starts_with(b"data:") {
            self.bytes = self.bytes.saturating_add(text.unescaped_len() as u64);
        }
    }
}

fn flag(scanner: &mut Scanner<'_>, param: &'static str) -> Result<Option<bool>, RequestError> {
    let kind = scanner.peek()?;
    let flag = scanner.flag()?;
    if matches!(kind, Kind::Bool | Kind::Null) {
        return Ok(flag);
    }
    Err(RequestError::WrongType { param, expected: "true or false" })
}

fn count(scanner: &mut Scanner<'_>, param: &'static str) -> Result<Option<u64>, RequestError> {
    let kind = scanner.peek()?;
    let count = scanner.count()?;
    if kind == Kind::Null || count.is_some() {
        return Ok(count);
    }
    Err(RequestError::WrongType { param, expected: "a whole number" })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn read(api: Api, body: &str) -> RequestReading {
        RequestReading::read(api, body.as_bytes()).expect(body)
    }

    #[track_caller]
    fn refused(body: &str, expected: &str, param: Option<&str>) {
        let error = RequestReading::read(Api::Chat, body.as_bytes()).expect_err(body);
        assert_eq!((error.to_string().as_str(), error.param()), (expected, param), "{body}");
    }

    #[test]
    fn a_chat_request_is_read_once() {
        let body = r#"{"model":"meta/llama","stream":true,"n":2,"max_tokens":9,"max_completion_tokens":100,
            "messages":[{"role":"system","content":"été"},{"role":"user","content":[{"type":"text","text":"a\nb"},
            {"type":"image_url","image_url":{"url":"data:image/png;base64,AAAA"}}]}],
            "tools":[{"type":"function"}],"response_format":{"type":"json_schema"},"stream_options":{"include_usage":true}}"#;
        let reading = read(Api::Chat, body);
        assert_eq!(reading.model.as_deref(), Some("meta/llama"));
        assert_eq!(&body[reading.model_span.clone().unwrap()], "\"meta/llama\"");
        assert_eq!((reading.stream, reading.choices, reading.max_tokens), (true, 2, Some(100)));
        assert_eq!(reading.include_usage, IncludeUsage::Asked);
        assert_eq!(reading.ask_for_usage(), None);
        assert_eq!(reading.prompt_bytes, 5 + 3);
        assert_eq!(reading.features, Features { tools: true, vision: true, structured_output: true });
    }

    #[test]
    fn each_dialect_has_its_own_prompt_and_limit() {
        let prompt = |api, body: &str| read(api, body).prompt_bytes;
        assert_eq!(prompt(Api::Completions, r#"{"prompt":["abc","d"]}"#), 4);
        assert_eq!(prompt(Api::Completions, r#"{"prompt":[[1,2],[3]]}"#), 12);
        assert_eq!(prompt(Api::Responses, r#"{"input":"abc","instructions":"de"}"#), 5);
        assert_eq!(
            prompt(Api::Responses, r#"{"input":[{"role":"user","content":[{"type":"input_text","text":"abc"}]}]}"#),
            3
        );
        assert_eq!(prompt(Api::Messages, r#"{"system":"ab","messages":[{"role":"user","content":"cd"}]}"#), 4);
        assert_eq!(prompt(Api::Embeddings, r#"{"input":["ab","c"]}"#), 3);
        assert_eq!(prompt(Api::Ranking, r#"{"query":{"text":"ab"},"passages":[{"text":"cde"}]}"#), 5);
        let triton = read(Api::GenerateStream, r#"{"text_input":"abcd","max_tokens":7}"#);
        assert_eq!((triton.stream, triton.prompt_bytes, triton.max_tokens), (true, 4, Some(7)));
        let responses =
            read(Api::Responses, r#"{"max_output_tokens":5,"max_tokens":9,"previous_response_id":"resp_1"}"#);
        assert_eq!((responses.max_tokens, responses.previous_response_id.as_deref()), (Some(5), Some("resp_1")));
        assert!(
            read(Api::Messages, r#"{"messages":[{"content":[{"type":"image","source":{"data":"AA"}}]}]}"#)
                .features
                .vision
        );
        assert!(read(Api::Responses, r#"{"text":{"format":{"type":"json_schema"}}}"#).features.structured_output);
        assert!(!read(Api::Chat, r#"{"response_format":{"type":"text"},"tools":[]}"#).features.structured_output);
    }

    #[test]
    fn what_is_wrong_is_named_and_never_quoted() {
        refused(r#"{"model":"m","messages":["#, "the body is not valid JSON (byte 25)", None);
        refused("[1]", "the body is not a JSON object", None);
        refused(r#"{"model":7}"#, "`model` must be a string", Some("model"));
        refused(r#"{"model":null}"#, "`model` must be a string", Some("model"));
        refused(r#"{"stream":"yes"}"#, "`stream` must be true or false", Some("stream"));
        refused(r#"{"n":-1}"#, "`n` must be a whole number", Some("n"));
        refused(r#"{"max_tokens":"10"}"#, "`max_tokens` must be a whole number", Some("max_tokens"));
        refused(r#"{"stream_options":[]}"#, "`stream_options` must be an object", Some("stream_options"));
        refused(
            r#"{"stream_options":{"include_usage":1}}"#,
            "`stream_options.include_usage` must be true or false",
            Some("stream_options.include_usage"),
        );
        refused(r#"{"model":"a","mod\u0065l":"b"}"#, "`model` is given twice", Some("model"));
        // The first fault that is no JSON wins over an earlier field of the wrong type.
        refused(r#"{"n":-1"#, "the body is not valid JSON (byte 7)", None);
        refused(&"[".repeat(100_000), "the body is not valid JSON (byte 127)", None);
        refused(
            &format!("{{\"messages\":{}", "[{\"content\":".repeat(100_000)),
            "the body is not valid JSON (byte 768)",
            None,
        );
    }

    #[track_caller]
    fn spliced(body: &str, expected: &str) {
        let reading = read(Api::Chat, body);
        let edits: Vec<Edit> =
            [reading.ask_for_usage(), reading.rename("new \"name\"")].into_iter().flatten().collect();
        assert_eq!(String::from_utf8(splice(body.as_bytes(), &edits)).unwrap(), expected);
    }

    #[test]
    fn usage_is_asked_for_wherever_it_is_missing() {
        spliced("{}", r#"{"stream_options":{"include_usage":true}}"#);
        spliced(r#" { "stream":true}"#, r#" {"stream_options":{"include_usage":true}, "stream":true}"#);
        spliced(r#"{"stream_options":null}"#, r#"{"stream_options":{"include_usage":true}}"#);
        spliced(r#"{"stream_options":{ }}"#, r#"{"stream_options":{"include_usage":true }}"#);
        spliced(r#"{"stream_options":{"x":1}}"#, r#"{"stream_options":{"include_usage":true,"x":1}}"#);
        spliced(
            r#"{"stream_options":{"x":1,"include_usage": false }}"#,
            r#"{"stream_options":{"x":1,"include_usage": true }}"#,
        );
        spliced(
            r#"{"stream_options":{"include_usage":true},"a":1.50}"#,
            r#"{"stream_options":{"include_usage":true},"a":1.50}"#,
        );
    }

    #[test]
    fn the_model_is_renamed_and_every_other_byte_stays() {
        spliced(
            r#"{"a" : 1e2,"model" : "old" ,"stream_options":{"include_usage":true}}"#,
            r#"{"a" : 1e2,"model" : "new \"name\"" ,"stream_options":{"include_usage":true}}"#,
        );
    }

    #[test]
    fn edits_that_do_not_fit_are_left_out() {
        let edit = |span, text: &str| Edit { span, text: text.into() };
        assert_eq!(splice(b"abc", &[edit(5..6, "x"), edit(1..2, "B"), edit(0..2, "?")]), b"?c");
        #[allow(clippy::reversed_empty_ranges, reason = "that is the point")]
        let reversed = edit(2..1, "x");
        assert_eq!(splice(b"abc", &[reversed]), b"abc");
    }

    fn options() -> impl Strategy<Value = Option<Value>> {
        prop::option::of(prop_oneof![
            Just(Value::Null),
            Just(json!({})),
            Just(json!({"continuous_usage_stats": true})),
            Just(json!({"include_usage": null, "x": 1})),
            Just(json!({"x": [1], "include_usage": false})),
            Just(json!({"include_usage": true})),
        ])
    }

    proptest! {
        #[test]
        fn only_what_was_spliced_differs(
            model in prop::option::of(any::<String>()),
            name in any::<String>(),
            options in options(),
            others in prop::collection::btree_map("[a-l]{1,3}", any::<String>(), 0..5),
            pretty in any::<bool>(),
        ) {
            let mut request = serde_json::Map::new();
            request.extend(others.into_iter().map(|(key, text)| (key, Value::from(text))));
            request.extend(model.map(|model| ("model".to_owned(), model.into())));
            request.extend(options.map(|options| ("stream_options".to_owned(), options)));
            let before = Value::Object(request);
            let body = if pretty { serde_json::to_vec_pretty(&before) } else { serde_json::to_vec(&before) }.unwrap();
            let reading = RequestReading::read(Api::Chat, &body).unwrap();
            let edits: Vec<Edit> = [reading.rename(&name), reading.ask_for_usage()].into_iter().flatten().collect();
            let mut expected = before;
            if expected.get("model").is_some() {
                expected["model"] = name.into();
            }
            if expected.get("stream_options").is_none_or(Value::is_null) {
                expected["stream_options"] = json!({});
            }
            expected["stream_options"]["include_usage"] = true.into();
            let after = splice(&body, &edits);
            prop_assert_eq!(serde_json::from_slice::<Value>(&after).unwrap(), expected);
            prop_assert_eq!(RequestReading::read(Api::Chat, &after).unwrap().include_usage, IncludeUsage::Asked);
        }

        #[test]
        fn no_bytes_whatever_make_it_panic(body in prop::collection::vec(any::<u8>(), 0..200), cut in any::<prop::sample::Index>()) {
            for api in Api::ALL {
                let _ = RequestReading::read(api, &body);
                let sample = br#"{"model":"m","messages":[{"content":[{"text":"\u00e9"}]}],"stream_options":{"include_usage":null}}"#;
                let _ = RequestReading::read(api, &sample[..cut.index(sample.len())]);
            }
        }
    }
}
