//! What arrives: requests of several routes, made from recorded arrivals.
//!
//! A source is one recorded trace. The mixes scale its times and never its lengths, because what makes these traces
//! hard is their shape: the code trace has seconds with thirteen times its mean rate. A source that ends before the run
//! starts over from its beginning, so that a short excerpt fills an hour; a whole trace never gets that far.

use std::ops::Range;
use std::time::Duration;

use crate::random::Random;
use crate::trace::RecordedPrompt;

/// Prompts longer than this have no place in the batch mix: an 8B engine of the smallest profile could not hold them.
const LONGEST_BATCH: u32 = 16_000;
/// Prompts of this length and beyond are left out of the prefix mix.
const LONGEST_PREFIXED: u32 = 32_000;
/// Mooncake's timestamps are rounded to this many seconds; each arrival is moved by a uniform part of it.
const BUCKET: f64 = 3.0;
/// Standard deviation of the logarithm of estimated ÷ true prompt tokens.
pub const ESTIMATE_ERROR: f64 = 0.12;

/// One request that will come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arrival {
    /// When, from the start of the run.
    pub at: Duration,
    /// On which route, by its index.
    pub route: usize,
    /// True prompt tokens.
    pub input: u32,
    /// What the proxy takes the prompt for.
    pub estimate: u32,
    /// True output tokens.
    pub output: u32,
    /// Most output tokens that the client asks for; a trace does not tell.
    pub max_tokens: Option<u32>,
    /// Whether the answer is streamed.
    pub stream: bool,
    /// Its blocks in [`Workload::blocks`].
    blocks: Range<usize>,
}

/// Everything that arrives in one run, in the order of time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Workload {
    /// The requests.
    pub arrivals: Vec<Arrival>,
    /// Prompt blocks of all of them, end to end.
    blocks: Vec<u64>,
}

/// One recorded trace, as seconds and tokens.
#[derive(Debug, Clone, Default)]
pub struct Source {
    rows: Vec<RecordedPrompt>,
    /// After how many seconds it starts over.
    period: f64,
}

/// How the three public traces are mixed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Mix {
    /// How many times faster than recorded.
    pub speed: f64,
    /// Length of the run, in seconds.
    pub duration: f64,
    /// Where in the traces of chat and code the run starts, in seconds.
    pub offset: f64,
    /// What draws follow from.
    pub seed: u64,
    /// How much of the batch trace's rate there is, beside `speed`.
    pub batch: f64,
    /// Standard deviation of the logarithm of estimated ÷ true prompt tokens.
    pub estimate_error: f64,
}

impl Source {
    /// A source of those rows, which are in the order of time.
    #[must_use]
    #[allow(clippy::cast_precision_loss, reason = "traces have millions of rows at most")]
    pub fn new(rows: Vec<RecordedPrompt>) -> Self {
        let last = rows.last().map_or(0.0, |recorded| recorded.row.at.as_secs_f64());
        let gap = last / rows.len().saturating_sub(1).max(1) as f64;
        Self { rows, period: (last + gap).max(1.0) }
    }

    /// Its rows with their times, over and over.
    fn rows(&self) -> impl Iterator<Item = (f64, &RecordedPrompt)> {
        self.rounds().map(|(_, at, recorded)| (at, recorded))
    }

    /// Its rows with the number of the round and their times, over and over.
    fn rounds(&self) -> impl Iterator<Item = (u32, f64, &RecordedPrompt)> {
        let rounds = 0..if self.rows.is_empty() { 0 } else { u32::MAX };
        rounds.flat_map(|round| {
            let start = f64::from(round) * self.period;
            self.rows.iter().map(move |recorded| (round, start + recorded.row.at.as_secs_f64(), recorded))
        })
    }

    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

/// The three traces of the mixes; an empty one leaves its route without requests.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// Short questions, long answers.
    pub chat: Source,
    /// Long prompts, short answers, in bursts.
    pub code: Source,
    /// Conversations whose prefixes are told.
    pub conversation: Source,
    /// Another trace with prefixes, which no rule was tuned on.
    pub synthetic: Source,
}

impl Workload {
    /// The blocks of an arrival's prompt.
    #[must_use]
    pub fn blocks(&self, arrival: &Arrival) -> &[u64] {
        self.blocks.get(arrival.blocks.clone()).unwrap_or_default()
    }

    /// Chat and code from their traces, the code at half its rate, and batch from the conversations without prefixes.
    #[must_use]
    pub fn mixed(sources: &Sources, mix: &Mix) -> Self {
        let mut random = Random::in_state(mix.seed);
        let mut arrivals = Vec::new();
        for (route, source, speed) in [(0, &sources.chat, mix.speed), (1, &sources.code, 0.5 * mix.speed)] {
            let timed = source.rows().map(|(at, recorded)| ((at - mix.offset) / speed, recorded));
            let here = timed.skip_while(|(at, _)| *at < 0.0).take_while(|(at, _)| *at <= mix.duration);
            arrivals.extend(here.map(|(at, recorded)| (at, Arrival::plain(route, recorded))));
        }
        let batch = sources.conversation.rows().filter(|(_, recorded)| recorded.row.input_tokens <= LONGEST_BATCH);
        let scaled = batch.map(|(at, recorded)| (at / (mix.speed * mix.batch), recorded));
        // One bucket further than the run, so that what is moved by it is drawn for all alike.
        for (at, recorded) in scaled.take_while(|(at, _)| *at <= mix.duration + BUCKET) {
            let at = at + BUCKET * random.share();
            if at <= mix.duration {
                arrivals.push((at, Arrival::plain(2, recorded)));
            }
        }
        Self::new(arrivals, Vec::new(), mix.estimate_error, &mut random)
    }

    /// One route with prefixes.
    #[must_use]
    pub fn prefixed(source: &Source, speed: f64, duration: f64, state: u64) -> Self {
        let mut random = Random::in_state(state);
        let (mut arrivals, mut blocks) = (Vec::new(), Vec::new());
        for (round, at, recorded) in source.rounds().take_while(|(_, at, _)| at / speed < duration) {
            if recorded.row.input_tokens >= LONGEST_PREFIXED {
                continue;
            }
            let at = at / speed + BUCKET * random.share() / speed;
            if at < duration {
                let start = blocks.len();
                // Nobody asks the same again only because a short trace starts over.
                blocks.extend(recorded.blocks.iter().map(|block| hashed(block ^ (u64::from(round) << 40))));
                arrivals.push((at, Arrival { blocks: start..blocks.len(), ..Arrival::plain(0, recorded) }));
            }
        }
        Self::new(arrivals, blocks, ESTIMATE_ERROR, &mut random)
    }

    /// Sorts, then draws what the proxy takes each prompt for.
    fn new(mut timed: Vec<(f64, Arrival)>, blocks: Vec<u64>, error: f64, random: &mut Random) -> Self {
        timed.sort_by(|(one, _), (other, _)| one.total_cmp(other));
        let mut estimated = |(at, arrival): (f64, Arrival)| {
            let estimate = estimated(arrival.input, error, random);
            Arrival { at: Duration::from_secs_f64(at), estimate, ..arrival }
        };
        let arrivals = timed.into_iter().map(&mut estimated).collect();
        Self { arrivals, blocks }
    }

    /// Repeats each request of `from` twice more, at uniform times of `into`: a crowd.
    pub fn crowd(&mut self, from: Range<f64>, into: &Range<f64>, random: &mut Random) {
        let here = |arrival: &&Arrival| from.contains(&arrival.at.as_secs_f64());
        let repeated: Vec<Arrival> = self.arrivals.iter().filter(here).cloned().collect();
        for arrival in repeated {
            for _ in 0..2 {
                let at = into.start + (into.end - into.start) * random.share();
                self.arrivals.push(Arrival { at: Duration::from_secs_f64(at), ..arrival.clone() });
            }
        }
        self.arrivals.sort_by_key(|arrival| arrival.at);
    }

    /// Requests per second over `duration` seconds.
    #[must_use]
    #[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
    pub fn offered(&self, duration: f64) -> f64 {
        self.arrivals.len() as f64 / duration
    }

    /// Requests without blocks, which are put into the order of time.
    #[must_use]
    pub fn of(mut arrivals: Vec<Arrival>) -> Self {
        arrivals.sort_by_key(|arrival| arrival.at);
        Self { arrivals, blocks: Vec::new() }
    }
}

impl Arrival {
    /// A streamed request of those lengths.
    #[must_use]
    pub fn new(at: Duration, route: usize, input: u32, output: u32) -> Self {
        Self { at, route, input, estimate: input, output, max_tokens: None, stream: true, blocks: 0..0 }
    }

    /// The same, with an answer that comes whole.
    #[must_use]
    pub fn unstreamed(self) -> Self {
        Self { stream: false, ..self }
    }

    fn plain(route: usize, recorded: &RecordedPrompt) -> Self {
        Self::new(Duration::ZERO, route, recorded.row.input_tokens.max(8), recorded.row.output_tokens.max(1))
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a float is cut off at the type's bounds")]
fn estimated(input: u32, error: f64, random: &mut Random) -> u32 {
    (f64::from(input) * (error * random.gauss()).exp()).round().max(1.0) as u32
}

/// The traces number their blocks; the proxy's are hashes (the finaliser of `SplitMix64`).
fn hashed(number: u64) -> u64 {
    let mixed = (number ^ (number >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}
