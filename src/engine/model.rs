//! A continuous-batching engine in virtual time: chunked prefill mixed with decoding, admission by key/value memory,
//! preemption, prefix cache.
//!
//! The engine works in steps, as vLLM and TensorRT-LLM do: each step decodes one token of every sequence that is past
//! its prompt, and spends what is left of its token budget on prompts. A step's duration is linear in the work done,
//! which is what makes a long prompt next door stretch everyone's inter-token latency. The last step of a prompt yields
//! the first token, so a request of one token has no gaps.
//!
//! Time is the [`Duration`] since the engine started. Whoever drives the model calls [`Model::advance`] up to `now`
//! before telling it what happened at `now`.

use std::collections::VecDeque;
use std::time::Duration;

use crate::engine::prefix::{BLOCK_TOKENS, PrefixCache};
use crate::engine::profiles::Profile;
use crate::random::Random;

/// Prefill tokens a step may always do, however many sequences decode.
const LEAST_PREFILL: u32 = 64;
/// Prompt tokens that are computed even when the whole prompt is cached.
const LEAST_UNCACHED: u32 = 16;
/// Prompts and answers beyond this count as this long, so that sums of tokens never overflow.
const LONGEST: u32 = 1 << 30;
/// How long a stalled step takes longer, in seconds.
const STALL: f64 = 0.3;

/// What an engine is asked to do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Request {
    /// Names the request in events; unique among those alive.
    pub id: u64,
    /// Prompt tokens.
    pub input_tokens: u32,
    /// Tokens to make; 0 counts as 1.
    pub output_tokens: u32,
    /// The prompt's blocks of 512 tokens, each a hash of all up to its end; empty leaves the prefix cache alone.
    pub blocks: Vec<u64>,
}

/// What an engine did, in the order in which it did it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A token is out.
    Token {
        /// Whose.
        id: u64,
        /// Whether it is the request's first.
        first: bool,
        /// When.
        at: Duration,
    },
    /// The request's last token is out, and its memory free.
    Done {
        /// Whose.
        id: u64,
        /// When.
        at: Duration,
    },
}

/// How a request would fare; see [`Model::foresee`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Foreseen {
    /// To its first token.
    pub first: Duration,
    /// To its last token.
    pub last: Duration,
}

/// The engine's queue is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{waiting} requests are waiting already")]
pub struct Refused {
    /// Requests that wait.
    pub waiting: usize,
}

#[derive(Debug, Clone)]
struct Sequence {
    id: u64,
    /// Prompt tokens still to compute.
    left: u32,
    /// Tokens in the key/value cache. The engine's `kv` is the sum of `left + context` of all that run.
    context: u32,
    output_left: u32,
    started: bool,
    /// Prompt tokens the running step computes.
    planned: u32,
}

impl Sequence {
    fn decodes(&self) -> bool {
        self.left == 0
    }

    fn reserved(&self) -> u32 {
        self.left + self.context
    }

    fn is_done(&self) -> bool {
        self.decodes() && self.output_left == 0
    }
}

/// The engine's state; see the module.
#[derive(Debug, Clone)]
pub struct Model {
    profile: Profile,
    random: Random,
    waiting: VecDeque<Sequence>,
    running: Vec<Sequence>,
    /// Tokens reserved in the key/value cache.
    kv: u32,
    prefix: PrefixCache,
    step_ends: Option<Duration>,
    /// When the running step began, or the last one.
    step_began: Duration,
    /// Time spent in steps that have ended.
    stepped: Duration,
    queue_limit: usize,
    slow: f64,
    dead: bool,
    noise: f64,
    stall: f64,
    preemptions: u64,
}

impl Model {
    /// An idle engine of that profile; every draw follows from `random`.
    #[must_use]
    pub fn new(profile: Profile, random: Random) -> Self {
        Self {
            profile,
            random,
            waiting: VecDeque::new(),
            running: Vec::new(),
            kv: 0,
            prefix: PrefixCache::new(profile.prefix_blocks()),
            step_ends: None,
            step_began: Duration::ZERO,
            stepped: Duration::ZERO,
            queue_limit: usize::MAX,
            slow: 1.0,
            dead: false,
            noise: 0.05,
            stall: 0.0,
            preemptions: 0,
        }
    }

    /// Refuses arrivals while a step runs and this many requests wait.
    #[must_use]
    pub fn queue_limit(mut self, limit: usize) -> Self {
        self.queue_limit = limit;
        self
    }

    /// Sets the relative standard deviation of a step's duration; 0 makes every step exact.
    #[must_use]
    pub fn noise(mut self, noise: f64) -> Self {
        self.noise = noise.max(0.0);
        self
    }

    /// Sets the probability with which a step takes 0.3 s longer.
    #[must_use]
    pub fn stall(mut self, probability: f64) -> Self {
        self.stall = probability.clamp(0.0, 1.0);
        self
    }

    /// The generator of the engine's draws. Whoever runs several engines on one generator swaps it in before each call
    /// and out after it.
    pub fn random_mut(&mut self) -> &mut Random {
        &mut self.random
    }

    /// Makes every later step that many times as long.
    pub fn set_slow(&mut self, factor: f64) {
        self.slow = if factor.is_finite() { factor.max(0.0) } else { 1.0 };
    }

    /// A dead engine finishes the running step and starts no other; a revived one goes on at `now`.
    pub fn set_dead(&mut self, dead: bool, now: Duration) {
        self.dead = dead;
        self.start_if_idle(now);
    }

    /// Takes a request; tells how many tokens of its prompt were cached.
    ///
    /// # Errors
    /// When the queue is full; nothing has changed then.
    pub fn arrive(&mut self, now: Duration, request: &Request) -> Result<u32, Refused> {
        if self.step_ends.is_some() && self.waiting.len() >= self.queue_limit {
            return Err(Refused { waiting: self.waiting.len() });
        }
        let input = request.input_tokens.clamp(1, LONGEST);
        let cached = self.look_up(&request.blocks).min(input.saturating_sub(LEAST_UNCACHED));
        self.waiting.push_back(Sequence {
            id: request.id,
            left: input - cached,
            context: cached,
            output_left: request.output_tokens.clamp(1, LONGEST),
            started: false,
            planned: 0,
        });
        self.start_if_idle(now);
        Ok(cached)
    }

    /// Forgets a request and frees its memory; tells whether it was there.
    pub fn abort(&mut self, id: u64) -> bool {
        if let Some(place) = self.running.iter().position(|sequence| sequence.id == id) {
            let sequence = self.running.remove(place);
            self.kv -= sequence.reserved();
            return true;
        }
        let before = self.waiting.len();
        self.waiting.retain(|sequence| sequence.id != id);
        self.waiting.len() < before
    }

    /// When the running step ends; `None` while idle.
    #[must_use]
    pub fn next_event_at(&self) -> Option<Duration> {
        self.step_ends
    }

    /// Does every step that ends up to `now` and appends what they did.
    pub fn advance(&mut self, now: Duration, events: &mut Vec<Event>) {
        while let Some(end) = self.step_ends.filter(|end| *end <= now) {
            self.finish(end, events);
            self.step_ends = None;
            self.stepped += end.saturating_sub(self.step_began);
            self.start_if_idle(end);
        }
    }

    /// How a request would fare if nothing came after it and no step were random: times from `now`.
    ///
    /// A running step counts as half done, since whoever asks cannot know how it was drawn. `None` when it would never
    /// end, as on a dead engine.
    #[must_use]
    pub fn foresee(&self, now: Duration, request: &Request) -> Option<Foreseen> {
        let mut ahead = self.clone().noise(0.0).stall(0.0);
        ahead.queue_limit = usize::MAX;
        if ahead.step_ends.is_some() {
            ahead.step_ends = Some(now.saturating_add(Duration::from_secs_f64(ahead.work() * ahead.slow / 2.0)));
        }
        ahead.arrive(now, request).ok()?;
        let (mut events, mut first) = (Vec::new(), None);
        while let Some(end) = ahead.step_ends {
            events.clear();
            ahead.advance(end, &mut events);
            for event in &events {
                match *event {
                    Event::Token { id, first: true, at } if id == request.id => first = Some(at.saturating_sub(now)),
                    Event::Done { id, at } if id == request.id => {
                        return first.map(|first| Foreseen { first, last: at.saturating_sub(now) });
                    }
                    _ => {}
                }
            }
        }
        None
    }

    /// Requests that have a place in the batch.
    #[must_use]
    pub fn running(&self) -> usize {
        self.running.len()
    }

    /// Requests that wait for a place.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// The share of the key/value cache that is reserved; above 1 only for one oversized prompt alone.
    #[must_use]
    pub fn kv_ratio(&self) -> f64 {
        f64::from(self.kv) / f64::from(self.profile.kv_capacity.max(1))
    }

    /// Time spent in steps up to `now`: what a GPU's utilisation is made of.
    #[must_use]
    pub fn busy(&self, now: Duration) -> Duration {
        let running = self.step_ends.map(|end| end.min(now).saturating_sub(self.step_began));
        self.stepped + running.unwrap_or_default()
    }

    /// How many times as long every step takes as the profile says.
    #[must_use]
    pub fn slow(&self) -> f64 {
        self.slow
    }

    /// How often a sequence lost its place for lack of memory.
    #[must_use]
    pub fn preemptions(&self) -> u64 {
        self.preemptions
    }

    /// The profile it was made with.
    #[must_use]
    pub fn profile(&self) -> &Profile {
        &self.profile
    }

    fn look_up(&mut self, blocks: &[u64]) -> u32 {
        let cached = u32::try_from(self.prefix.leading(blocks)).unwrap_or(u32::MAX);
        self.prefix.insert(blocks);
        cached.saturating_mul(BLOCK_TOKENS)
    }

    fn start_if_idle(&mut self, now: Duration) {
        if self.step_ends.is_some() || self.dead {
            return;
        }
        self.admit();
        if !self.running.is_empty() {
            let lasts = self.plan();
            self.step_ends = Some(now.saturating_add(Duration::from_secs_f64(lasts)));
            self.step_began = now;
        }
    }

    /// The whole prompt is reserved at once; a prompt larger than the cache runs alone rather than never.
    fn admit(&mut self) {
        while self.running.len() < self.profile.max_sequences {
            let Some(next) = self.waiting.front() else { return };
            let fits = self.kv.saturating_add(next.reserved()) <= self.profile.kv_capacity;
            if !fits && !self.running.is_empty() {
                return;
            }
            let Some(sequence) = self.waiting.pop_front() else { return };
            self.kv += sequence.reserved();
            self.running.push(sequence);
        }
    }

    /// Deals the step's token budget out and tells how long the step takes, in seconds.
    fn plan(&mut self) -> f64 {
        let decoding_tokens = u32::try_from(self.decoding()).unwrap_or(u32::MAX);
        let mut budget = self.profile.chunk.saturating_sub(decoding_tokens).max(LEAST_PREFILL);
        for sequence in &mut self.running {
            sequence.planned = sequence.left.min(budget);
            budget -= sequence.planned;
        }
        (self.work() * self.slow * self.draw_noise() + self.draw_stall()).clamp(0.0, 1e6)
    }

    fn decoding(&self) -> usize {
        self.running.iter().filter(|sequence| sequence.decodes()).count()
    }

    /// How long the planned step takes when nothing is slow or random, in seconds.
    #[allow(clippy::cast_precision_loss, reason = "batches are far below 2^52")]
    fn work(&self) -> f64 {
        let prefill: u32 = self.running.iter().map(|sequence| sequence.planned).sum();
        self.profile.step_base
            + self.profile.step_per_sequence * self.decoding() as f64
            + self.profile.step_per_token * f64::from(self.kv)
            + f64::from(prefill) / self.profile.prefill_rate
    }

    fn draw_noise(&mut self) -> f64 {
        if self.noise == 0.0 { 1.0 } else { (1.0 + self.noise * self.random.gauss()).max(0.5) }
    }

    fn draw_stall(&mut self) -> f64 {
        if self.stall > 0.0 && self.random.share() < self.stall { STALL } else { 0.0 }
    }

    fn finish(&mut self, at: Duration, events: &mut Vec<Event>) {
        self.decode(at, events);
        self.prefill(at, events);
        self.release(at, events);
        self.preempt();
    }

    fn decode(&mut self, at: Duration, events: &mut Vec<Event>) {
        for sequence in self.running.iter_mut().filter(|sequence| sequence.decodes()) {
            sequence.output_left = sequence.output_left.saturating_sub(1);
            sequence.context += 1;
            self.kv += 1;
            events.push(Event::Token { id: sequence.id, first: false, at });
        }
    }

    fn prefill(&mut self, at: Duration, events: &mut Vec<Event>) {
        for sequence in self.running.iter_mut().filter(|sequence| sequence.planned > 0) {
            let done = std::mem::take(&mut sequence.planned);
            sequence.left -= done;
            sequence.context += done;
            if sequence.decodes() && !sequence.started {
                sequence.started = true;
                sequence.output_left = sequence.output_left.saturating_sub(1);
                events.push(Event::Token { id: sequence.id, first: true, at });
            }
        }
    }

    fn release(&mut self, at: Duration, events: &mut Vec<Event>) {
        let kv = &mut self.kv;
        self.running.retain(|sequence| {
            if sequence.is_done() {
                *kv -= sequence.context;
                events.push(Event::Done { id: sequence.id, at });
            }
            !sequence.is_done()
        });
    }

    /// The youngest loses its place and computes everything again later, as vLLM does it.
    fn preempt(&mut self) {
        while self.kv > self.profile.kv_capacity && self.running.len() > 1 {
            let Some(mut youngest) = self.running.pop() else { return };
            self.kv -= youngest.reserved();
            youngest.left = youngest.reserved();
            youngest.context = 0;
            self.waiting.push_front(youngest);
            self.preemptions += 1;
        }
    }
}

#[cfg(test)]
mod tests;
