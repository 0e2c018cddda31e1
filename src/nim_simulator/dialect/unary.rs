//! `/v1/embeddings` and `/v1/ranking`: one computed prompt, no tokens.

use serde::Serialize;

use super::{Answer, json};
use crate::nim_simulator::text;

/// Numbers in an embedding.
const DIMENSIONS: usize = 8;
/// Inputs that are answered at most.
const MOST_ITEMS: usize = 2048;

#[derive(Serialize)]
struct Embeddings<'a> {
    object: &'static str,
    data: Vec<Embedding>,
    model: &'a str,
    usage: Usage,
}

#[derive(Serialize)]
struct Embedding {
    index: usize,
    object: &'static str,
    #[serde(rename = "embedding")]
    vector: Vec<f64>,
}

#[derive(Serialize)]
struct Usage {
    prompt_tokens: u32,
    total_tokens: u32,
}

#[derive(Serialize)]
struct Ranking {
    rankings: Vec<Rank>,
    usage: Usage,
}

#[derive(Serialize)]
struct Rank {
    index: usize,
    logit: f64,
}

fn usage(answer: &Answer) -> Usage {
    Usage { prompt_tokens: answer.job.prompt_tokens, total_tokens: answer.job.prompt_tokens }
}

fn items(answer: &Answer) -> usize {
    answer.job.items.min(MOST_ITEMS)
}

/// Unit vectors that follow from the input.
pub(super) fn embeddings(answer: &Answer) -> Vec<u8> {
    let embedding = |index: usize| {
        let mut random = text::random(text::hash(answer.job.seed, &index.to_le_bytes()));
        let numbers: Vec<f64> = (0..DIMENSIONS).map(|_| random.gauss()).collect();
        let length = numbers.iter().map(|x| x * x).sum::<f64>().sqrt().max(f64::MIN_POSITIVE);
        Embedding { index, object: "embedding", vector: numbers.iter().map(|x| x / length).collect() }
    };
    json(&Embeddings {
        object: "list",
        data: (0..items(answer)).map(embedding).collect(),
        model: &answer.job.model,
        usage: usage(answer),
    })
}

/// Passages by descending logit, as NIM's reranking answers.
pub(super) fn ranking(answer: &Answer) -> Vec<u8> {
    let rank = |index: usize| {
        let logit = 4.0 * text::random(text::hash(answer.job.seed, &index.to_le_bytes())).gauss();
        Rank { index, logit }
    };
    let mut rankings: Vec<Rank> = (0..items(answer)).map(rank).collect();
    rankings.sort_by(|a, b| b.logit.total_cmp(&a.logit));
    json(&Ranking { rankings, usage: usage(answer) })
}
