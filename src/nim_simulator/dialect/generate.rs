//! Triton's `/v2/models/MODEL/generate_stream`: text deltas, no usage, no finish reason, a clean end of the body.

use bytes::Bytes;
use serde::Serialize;

use super::{Answer, Dialect, data, json};
use crate::nim_simulator::request::Piece;

#[derive(Serialize)]
struct Output<'a> {
    model_name: &'a str,
    model_version: &'static str,
    #[serde(rename = "text_output")]
    text: String,
}

/// Writes Triton's responses.
pub(super) struct Generate {
    answer: Answer,
}

impl Generate {
    pub(super) fn new(answer: Answer) -> Self {
        Self { answer }
    }
}

fn output(answer: &Answer, text: String) -> Output<'_> {
    Output { model_name: &answer.job.model, model_version: "1", text }
}

impl Dialect for Generate {
    fn token(&mut self, choice: usize, index: u32) -> Vec<Bytes> {
        match self.answer.piece(choice, index).0 {
            Piece::Content(text) => vec![data(&output(&self.answer, text))],
            _ => Vec::new(),
        }
    }

    fn closing(&mut self) -> Vec<Bytes> {
        Vec::new()
    }
}

/// The unary answer.
pub(super) fn whole(answer: &Answer) -> Vec<u8> {
    json(&output(answer, answer.whole(0).content))
}
