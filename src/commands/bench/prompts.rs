//! Asks each server how many tokens it counts for two prompts, so that synthetic prompts have the length they should.

use std::io::{self, Write};
use std::time::Duration;

use super::Bench;
use super::plan::shape;
use crate::bench::client::{Call, Client};
use crate::bench::record::Phase;
use crate::bench::request::{PromptScale, RequestBuilder};
use crate::bench::schedule::Planned;

/// Words of the two prompts: far enough apart that a token more or less does not show.
const WORDS: [u32; 2] = [32, 288];

impl Bench {
    /// Finds the scale of every server; where one counts nothing, a word is taken for a token.
    pub(super) async fn measure_prompts(&mut self) -> io::Result<()> {
        if self.args.no_prompt_calibration {
            return Ok(());
        }
        let builder = RequestBuilder::new(shape(&self.args, !self.args.random_seed, PromptScale::default()));
        for (place, server) in self.servers.iter_mut().enumerate() {
            let id = format!("{}-{place}-prompts", self.run);
            let found = scale(&server.client, &builder, &id, self.clock.now()).await;
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

async fn scale(client: &Client, builder: &RequestBuilder, id: &str, now: std::time::Instant) -> Option<PromptScale> {
    let mut counted = [(0, 0); 2];
    for (words, place) in WORDS.into_iter().zip(&mut counted) {
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
        *place = (words, record.usage.input_tokens.filter(|_| record.is_valid())?);
    }
    let [shorter, longer] = counted;
    PromptScale::through(shorter, longer)
}
