//! An answer that was not streamed: one JSON text.

use super::chunk::read_choice;
use super::error::{ErrorFields, StreamError};
use super::json::{Kind, Malformed, Scanner, name_buffer};
use super::responses::ResponseObject;
use super::{Api, EngineTimings, FinishReason, StoredId, Usage};

/// What an unstreamed answer says about itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Answer {
    /// Token counts.
    pub usage: Usage,
    /// The engine's own times, where it states them.
    pub timings: Option<EngineTimings>,
    /// Why the model stopped, of choice 0.
    pub finish_reason: Option<FinishReason>,
    /// An error object in place of an answer, also under status 200.
    pub error: Option<StreamError>,
    /// Whether there is any content: text, a tool call, an embedding, a ranking, an output.
    pub content: bool,
    /// Choices in the answer.
    pub choices: u32,
    /// The response's name (responses).
    pub stored: Option<StoredId>,
}

/// Reads a whole body.
///
/// # Errors
/// When the body is not JSON.
pub fn read_answer(api: Api, body: &[u8]) -> Result<Answer, Malformed> {
    let mut scanner = Scanner::new(body);
    let mut answer = Answer::default();
    let mut errors = ErrorFields::default();
    let mut nested = false;
    let mut response = ResponseObject::default();
    scanner.object_or_skip(|scanner, key| {
        match key.name(&mut name_buffer()) {
            b"error" => {
                errors.read(scanner)?;
                nested = errors.present;
            }
            b"object" => errors.present |= scanner.text()?.is_some_and(|text| text.raw() == b"error"),
            name @ (b"code" | b"type") if !nested => errors.member(scanner, name)?,
            b"usage" => answer.usage = Usage::read(scanner)?.unwrap_or_default(),
            name if EngineTimings::is_told_by(name) => answer.timings = EngineTimings::read(scanner)?,
            name if api == Api::Responses => response.member(scanner, &mut errors, name)?,
            name => answer.member(api, scanner, name)?,
        }
        Ok::<(), Malformed>(())
    })?;
    scanner.end()?;
    if api == Api::Responses {
        answer.content = response.output;
        answer.stored = response.stored;
        answer.finish_reason = response.reason.or(response.status).map(super::chunk::finish_of);
        errors.present |= answer.finish_reason == Some(FinishReason::Failed);
    }
    answer.error = errors.error();
    Ok(answer)
}

impl Answer {
    /// One member of an answer that is no `responses` answer.
    fn member(&mut self, api: Api, scanner: &mut Scanner<'_>, key: &[u8]) -> Result<(), Malformed> {
        match (api, key) {
            (Api::Chat | Api::Completions, b"choices") => self.choices(scanner),
            (Api::Messages, b"stop_reason") => {
                self.finish_reason = super::chunk::read_finish(scanner)?;
                Ok(())
            }
            (Api::GenerateStream, b"text_output") => {
                self.content |= super::chunk::not_empty(scanner)?;
                Ok(())
            }
            (Api::Messages, b"content")
            | (Api::Embeddings, b"data")
            | (Api::Ranking, b"rankings" | b"results")
            | (Api::Infer, b"outputs") => {
                self.content |= scanner.peek()? == Kind::Array && has_elements(scanner)?;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn choices(&mut self, scanner: &mut Scanner<'_>) -> Result<(), Malformed> {
        scanner.array_or_skip(|scanner| {
            let choice = read_choice(scanner, &mut false)?;
            self.content |= choice.is_content();
            if self.choices == 0 || choice.index == 0 {
                self.finish_reason = choice.finish;
            }
            self.choices += 1;
            Ok::<(), Malformed>(())
        })?;
        Ok(())
    }
}

fn has_elements(scanner: &mut Scanner<'_>) -> Result<bool, Malformed> {
    let mut any = false;
    scanner.array(|_| {
        any = true;
        Ok::<(), Malformed>(())
    })?;
    Ok(any)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(api: Api, body: &str, content: bool, finish: Option<FinishReason>, output: Option<u64>) -> Answer {
        let answer = read_answer(api, body.as_bytes()).expect("JSON");
        assert_eq!(
            (answer.content, answer.finish_reason, answer.usage.output_tokens),
            (content, finish, output),
            "{body}"
        );
        answer
    }

    #[test]
    fn each_dialect_states_its_end_and_its_counts() {
        use FinishReason as F;
        let chat = r#"{"choices":[{"index":0,"message":{"role":"assistant","content":"hi"},"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":2}}"#;
        check(Api::Chat, chat, true, Some(F::Stop), Some(2));
        let completions = r#"{"choices":[{"index":1,"text":"","finish_reason":"length"},{"index":0,"text":"a","finish_reason":"stop"}],"usage":null}"#;
        assert_eq!(check(Api::Completions, completions, true, Some(F::Stop), None).choices, 2);
        let messages = r#"{"type":"message","content":[{"type":"text","text":"a"}],"stop_reason":"end_turn","usage":{"input_tokens":1,"cache_read_input_tokens":4,"output_tokens":9}}"#;
        let answer = check(Api::Messages, messages, true, Some(F::EndTurn), Some(9));
        assert_eq!((answer.usage.input_tokens, answer.usage.cached_tokens), (Some(5), Some(4)));
        let responses = r#"{"object":"response","status":"incomplete","error":null,"incomplete_details":{"reason":"max_output_tokens"},"output":[{}],"usage":{"output_tokens":7}}"#;
        check(Api::Responses, responses, true, Some(F::MaxOutputTokens), Some(7));
        check(
            Api::Embeddings,
            r#"{"object":"list","data":[{"embedding":[0.1]}],"usage":{"prompt_tokens":4}}"#,
            true,
            None,
            None,
        );
        check(Api::Ranking, r#"{"rankings":[{"index":0,"logit":1.5}]}"#, true, None, None);
        check(Api::Infer, r#"{"outputs":[]}"#, false, None, None);
    }

    #[test]
    fn an_error_under_status_200_is_an_error() {
        let answer = read_answer(Api::Chat, br#"{"error":{"code":503,"type":"Service Unavailable"}}"#).expect("JSON");
        assert_eq!(answer.error.and_then(|error| error.status()), Some(503));
        let failed = br#"{"object":"response","status":"failed","error":{"code":"server_error","message":"m"}}"#;
        let answer = read_answer(Api::Responses, failed).expect("JSON");
        assert_eq!(answer.error.and_then(|error| error.status()), Some(500));
        assert!(read_answer(Api::Chat, b"<html>").is_err());
        assert!(read_answer(Api::Chat, b"{} {}").is_err());
    }
}
