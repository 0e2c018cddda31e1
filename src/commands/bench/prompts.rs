//! How many words make a token: of a tokenizer's file, or asked of each server, so that synthetic prompts have the length
//! they should.

use std::borrow::Cow;
use std::io::{self, Write};
use std::time::{Duration, Instant};

use super::Bench;
use super::plan::shape;
use crate::bench::client::{Call, Client};
use crate::bench::record::Phase;
use crate::bench::request::{PromptScale, RequestBuilder};
use crate::bench::schedule::Planned;
use crate::bench::tokenizer::scale_of;

impl Bench {
    /// Finds the scale of every server: that of the tokenizer's file where one is given, else what the server counts; where
    /// it counts nothing, a word is taken for a token.
    pub(super) async fn measure_prompts(&mut self) -> anyhow::Result<()> {
        let builder = RequestBuilder::new(shape(&self.args, !self.args.random_seed, PromptScale::default()));
        if let Some(file) = self.args.tokenizer_file() {
            let scale = scale_of(&file, |words| builder.text(words.into(), words))?;
            self.servers.iter_mut().for_each(|server| server.scale = scale);
            return Ok(());
        }
        if self.args.no_prompt_calibration {
            return Ok(());
        }
        for (place, server) in self.servers.iter_mut().enumerate() {
            let id = format!("{}-{place}-prompts", self.run);
            let found = scale(&server.client, &builder, &id, self.clock.now()).await.scale();
            server.scale = found.unwrap_or_default();
            if self.args.verbose {
                let url = self.plan.servers.get(place).map_or("", String::as_str);
                let mut out = io::stderr().lock();
                match found {
                    Some(PromptScale { per_word, template }) => {
                        writeln!(out, "{url}: {per_word:.3} tokens per word, {template:.0} of the template")?;
                    }
                    None => writeln!(out, "{url}: counts no tokens of prompts; a word is taken for one")?,
                }
            }
        }
        Ok(())
    }
}

/// What a server makes of prompts.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::commands) enum Counted {
    /// It counts their tokens.
    Tokens(PromptScale),
    /// It answers, and counts none; or nothing that a tokenizer counts.
    Nothing,
    /// It does not answer; the error's class.
    Failed(Cow<'static, str>),
}

impl Counted {
    fn scale(&self) -> Option<PromptScale> {
        match self {
            Self::Tokens(scale) => Some(*scale),
            Self::Nothing | Self::Failed(_) => None,
        }
    }
}

/// Sends two prompts of different length, and sees how many tokens the server counts.
pub(in crate::commands) async fn scale(client: &Client, builder: &RequestBuilder, id: &str, now: Instant) -> Counted {
    let mut counted = [None; 2];
    for (words, place) in PromptScale::WORDS.into_iter().zip(&mut counted) {
        let planned = Planned { index: words.into(), at: Duration::ZERO, input_tokens: words, output_tokens: Some(2) };
        let call = Call {
            index: planned.index,
            request_id: format!("{id}-{words}"),
            phase: Phase::Warmup,
            label: "",
            api: builder.api(),
            stream: builder.stream(),
            body: builder.body(&planned),
            input_tokens: words,
            output_tokens: planned.output_tokens,
            headers: http::HeaderMap::new(),
        };
        let record = client.measure(call, now).await;
        if let Some(error) = record.error {
            return Counted::Failed(error);
        }
        *place = record.usage.input_tokens.map(|tokens| (words, tokens));
    }
    let [Some(shorter), Some(longer)] = counted else { return Counted::Nothing };
    PromptScale::through(shorter, longer).map_or(Counted::Nothing, Counted::Tokens)
}
