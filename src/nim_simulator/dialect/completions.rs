//! `/v1/completions`.

use bytes::Bytes;
use serde::Serialize;

use super::{Answer, Dialect, FINGERPRINT, Null, Usage, data, done, json};
use crate::nim_simulator::request::Piece;

#[derive(Serialize)]
struct Completion<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    choices: Vec<Choice>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Usage>,
    #[serde(skip_serializing_if = "Option::is_none")]
    system_fingerprint: Option<&'static str>,
}

#[derive(Serialize)]
struct Choice {
    index: usize,
    text: String,
    logprobs: Null,
    finish_reason: Option<&'static str>,
    stop_reason: Null,
    prompt_token_ids: Null,
    token_ids: Null,
}

impl Choice {
    fn new(index: usize, text: String, finish_reason: Option<&'static str>) -> Self {
        Self { index, text, logprobs: None, finish_reason, stop_reason: None, prompt_token_ids: None, token_ids: None }
    }
}

/// Writes completion chunks; there is no role chunk.
pub(super) struct Completions {
    answer: Answer,
    id: String,
    finished: usize,
}

impl Completions {
    pub(super) fn new(answer: Answer) -> Self {
        Self { id: format!("cmpl-{}", answer.id), answer, finished: 0 }
    }
}

fn completion<'a>(answer: &'a Answer, id: &'a str, choices: Vec<Choice>) -> Completion<'a> {
    Completion {
        id,
        object: "text_completion",
        created: answer.created,
        model: &answer.job.model,
        choices,
        usage: None,
        system_fingerprint: None,
    }
}

fn text_of(piece: Piece) -> String {
    match piece {
        Piece::Reasoning(text) | Piece::Content(text) | Piece::ToolArguments(text) | Piece::ToolName(text) => text,
        Piece::End => String::new(),
    }
}

impl Dialect for Completions {
    fn token(&mut self, choice: usize, index: u32) -> Vec<Bytes> {
        let (piece, finish_reason) = self.answer.piece(choice, index);
        self.finished += usize::from(finish_reason.is_some());
        let job = &self.answer.job;
        let ends = self.finished == job.choices.len() && !job.usage_at_end;
        let choices = vec![Choice::new(choice, text_of(piece), finish_reason)];
        vec![data(&Completion {
            usage: job.usage_on_chunks.then(|| Usage::so_far(&self.answer, index + 1)),
            system_fingerprint: ends.then_some(FINGERPRINT),
            ..completion(&self.answer, &self.id, choices)
        })]
    }

    fn closing(&mut self) -> Vec<Bytes> {
        let usage = self.answer.job.usage_at_end.then(|| {
            data(&Completion {
                usage: Some(Usage::at_end(&self.answer)),
                system_fingerprint: Some(FINGERPRINT),
                ..completion(&self.answer, &self.id, Vec::new())
            })
        });
        usage.into_iter().chain([done()]).collect()
    }
}

/// The unary answer.
pub(super) fn whole(answer: &Answer) -> Vec<u8> {
    let id = format!("cmpl-{}", answer.id);
    let choice = |index| Choice::new(index, answer.whole(index).content, Some(answer.finish_reason(index)));
    let choices = (0..answer.job.choices.len()).map(choice).collect();
    json(&Completion {
        usage: Some(Usage::whole(answer)),
        system_fingerprint: Some(FINGERPRINT),
        ..completion(answer, &id, choices)
    })
}
