//! What a backend's model does with what happens: the books move, and the predictors learn.

use std::time::{Duration, Instant};

use super::pair::BIAS_RANGE;
use super::view::View;
use super::{Asking, BackendModel, Fall, How, Ticket, features};
use crate::route::calibrate::Stride;
use crate::route::decision::Reason;
use crate::route::load::Load;
use crate::route::moment::Moment;

/// Gain of the ITL bias, and that of a probe's.
const ITL_BIAS_GAIN: (f64, f64) = (0.05, 0.5);
/// What the ITL bias may learn from one sample.
const ITL_BIAS_RANGE: (f64, f64) = (-1.5, 2.0);
/// How far a probe that proved its backend sets the TTFT bias, at most.
const PROBE_BIAS: (f64, f64) = (-1.5, 1.5);
/// Gaps in a full sample.
const SAMPLE: f64 = 16.0;
/// The fewest gaps of a whole stream that teach anything.
const FEWEST_GAPS: u64 = 2;
/// Latencies below this are measurement noise, in seconds.
const LEAST: f64 = 1e-4;
/// What differs from backend to backend is learned so much more slowly than what is usual on the route.
const OWN_SHARE: f64 = 0.15;
/// How fast the usual gap follows.
const GAP_GAIN: f64 = 0.05;

impl BackendModel {
    /// The request is sent: its load counts from here on. `reason` says whether it is a probe.
    pub fn dispatched(&mut self, asking: &Asking<'_>, reason: Reason, now: Instant) -> Ticket {
        let now = self.moment(now);
        let view = self.view(asking, now);
        self.requests += 1;
        let id = self.requests;
        let whole_base = self.whole_base(asking, &view, now);
        let (facts, probe) = (asking.facts, reason == Reason::Probe);
        let load = Self::load_of(asking, &view);
        let (tuning, offsets) = (self.tuning, self.offsets(asking));
        let ttft_bias = if self.tuning.bias { self.ttft_bias.value() } else { 0.0 };
        let watch = facts.stream.then(|| (id, view.ttft * ttft_bias.exp()));
        self.load.sent(&load, view.uncached_tokens, watch, now);
        if !facts.stream && self.pair(asking.route).is_some_and(|pair| pair.unstreamed_samples > 0) {
            self.load.answer_expected(id, whole_base, now);
        }
        if self.tuning.prefix {
            self.prefix.insert(asking.prefix.blocks);
        }
        self.ttft_bounds.follow(view.alphas.ttft);
        if let Some(pair) = self.pair_mut(asking.route, &view.alphas, now) {
            pair.follow(&view.alphas, &tuning);
            pair.arrivals.add(1.0, now);
            if facts.stream {
                pair.promised_itl = facts.objectives.itl.map(|promise| promise.threshold.as_secs_f64());
            }
        }
        if probe {
            self.probing.sent(id, self.load.replicas(), &self.tuning, now);
        }
        Ticket {
            id,
            books: self.books,
            route: asking.route,
            stream: facts.stream,
            probe,
            sent: now,
            load,
            alphas: view.alphas,
            ttft_features: view.ttft_features,
            ttft: view.ttft,
            ttft_bias,
            itl: view.gap.expected,
            whole_base,
            offsets,
            weight: if reason.is_unpromised() { self.tuning.unpromised_weight } else { 1.0 },
            first_token: false,
            sampled: false,
        }
    }

    /// A stream waits until its first token; an unstreamed answer is spread over its life, and its output too.
    fn load_of(asking: &Asking<'_>, view: &View) -> Load {
        if asking.facts.stream {
            let waiting_tokens = view.uncached_tokens;
            return Load { waiting_tokens, awaiting: 1.0, streams: 0.0, kv_tokens: view.prompt_tokens };
        }
        let (ttft, output) = (view.first.expected, asking.output.mean.max(1.0));
        let share = ttft / (ttft + output * view.gap.expected);
        Load {
            waiting_tokens: view.uncached_tokens * share,
            awaiting: share,
            streams: 1.0 - share,
            kv_tokens: view.prompt_tokens + output * (1.0 - share) / 2.0,
        }
    }

    /// The first token of a stream came. Later calls, and calls for what is not streamed, change nothing.
    pub fn first_token(&mut self, ticket: &mut Ticket, now: Instant) {
        let Some(now) = self.arrived(ticket, now) else { return };
        self.held_back = false;
        let actual = now.since(ticket.sent);
        let lateness = (actual.max(LEAST) / ticket.ttft).ln();
        self.ttft_bounds.observe(lateness - ticket.ttft_bias, self.stride(ticket));
        self.ttft_bias.learn(lateness, self.tuning.bias_gain, BIAS_RANGE);
        self.ttft.learn(&ticket.ttft_features, actual, first_token_weight(ticket.ttft));
        self.observed = self.observed.max(now);
        if ticket.probe {
            let proven = self.probing.answered(lateness, &self.tuning);
            let bias = if proven {
                lateness.clamp(PROBE_BIAS.0, PROBE_BIAS.1)
            } else {
                self.ttft_bias.value().max(lateness.min(BIAS_RANGE.1))
            };
            self.ttft_bias.set(bias);
            self.probing.over(ticket.id);
        }
    }

    /// The first token of a stream came, but something on its way holds tokens back: the books move, nothing is learned.
    pub fn first_token_held_back(&mut self, ticket: &mut Ticket, now: Instant) {
        if self.arrived(ticket, now).is_some() {
            self.held_back = true;
            self.probing.over(ticket.id);
        }
    }

    /// Moves the books at a stream's first token; `None` where it is none.
    fn arrived(&mut self, ticket: &mut Ticket, now: Instant) -> Option<Moment> {
        let old = ticket.books != self.books;
        if old || !ticket.stream || std::mem::replace(&mut ticket.first_token, true) {
            return None;
        }
        let now = self.moment(now);
        self.load.first_token(ticket.id, &mut ticket.load, now);
        Some(now)
    }

    /// Bytes of any stream came. One store; lets standing streams be told from slow ones between two calls of
    /// [`Self::tokens`].
    pub fn progressed(&mut self, now: Instant) {
        self.load.progressed(self.moment(now));
    }

    /// So many more tokens of a stream came, at this mean gap: to be called every 16 gaps.
    pub fn tokens(&mut self, ticket: &mut Ticket, count: u32, mean_gap: Duration, now: Instant) {
        self.counted(ticket, count, now);
        if ticket.books == self.books {
            self.learn_gap(mean_gap.as_secs_f64(), ticket.probe, 1.0, self.moment(now));
            ticket.sampled = true;
        }
    }

    /// So many more tokens of a stream came, at the client's pace: they fill the cache and teach nothing.
    pub fn counted(&mut self, ticket: &mut Ticket, count: u32, now: Instant) {
        if ticket.books == self.books {
            self.load.tokens(f64::from(count), &mut ticket.load);
            self.load.progressed(self.moment(now));
        }
    }

    /// The request is over; its load is taken off the books. Answers what its route is to learn of it, if anything.
    #[allow(clippy::needless_pass_by_value, reason = "a ticket ends once")]
    pub fn ended(&mut self, ticket: Ticket, how: How, now: Instant) -> Option<Fall> {
        let now = self.moment(now);
        self.end(&ticket, how, now)
    }

    /// The request is gone and nobody says how: as [`How::Cancelled`], without an instant.
    #[allow(clippy::needless_pass_by_value, reason = "a ticket ends once")]
    pub fn dropped(&mut self, ticket: Ticket) {
        let nothing = self.end(&ticket, How::Cancelled, ticket.sent);
        debug_assert!(nothing.is_none(), "nobody says how it ended");
    }

    fn end(&mut self, ticket: &Ticket, how: How, now: Moment) -> Option<Fall> {
        if ticket.books != self.books {
            return None;
        }
        self.load.ended(ticket.id, &ticket.load, ticket.stream && ticket.first_token);
        if ticket.stream && !ticket.first_token {
            if how == How::Outrun {
                self.outrun(ticket, now);
            } else {
                self.waited_in_vain(ticket, now);
            }
        }
        let mut fall = None;
        if let How::Completed { output_tokens, mean_gap, paced_by_client: false } = how {
            if ticket.stream {
                fall = self.streamed(ticket, output_tokens, mean_gap, now);
            } else {
                self.unstreamed(ticket, output_tokens, now);
            }
        }
        self.probing.over(ticket.id);
        fall
    }

    /// How far the bounds' trackers move by it.
    fn stride(&self, ticket: &Ticket) -> Stride {
        self.tuning.stride().times(ticket.weight)
    }

    /// A stream ended without a token. Where it had waited for longer than its bound, its first token would have come
    /// later still: less is not known, and that much is believed.
    fn waited_in_vain(&mut self, ticket: &Ticket, now: Moment) {
        let lateness = (now.since(ticket.sent).max(LEAST) / ticket.ttft).ln();
        let bound = self.ttft_bounds.factor(ticket.alphas.ttft).ln();
        if self.tuning.censored_evidence && !self.held_back && lateness - ticket.ttft_bias > bound {
            self.ttft_bounds.observe(lateness - ticket.ttft_bias, self.stride(ticket));
            self.ttft_bias.learn(lateness, self.tuning.bias_gain, BIAS_RANGE);
            self.observed = self.observed.max(now);
        }
    }

    /// A stream was given up for another one's sake when it was late: without what is known of it, the late ones would
    /// be missing from what is learned, bounds would shrink, and ever more would count as late.
    fn outrun(&mut self, ticket: &Ticket, now: Moment) {
        if self.held_back {
            return;
        }
        let actual = now.since(ticket.sent).max(LEAST);
        let lateness = (actual / ticket.ttft).ln();
        self.ttft_bounds.observe_at_least(lateness - ticket.ttft_bias, self.stride(ticket));
        if lateness > ticket.ttft_bias {
            self.ttft_bias.learn(lateness, self.tuning.bias_gain, BIAS_RANGE);
            self.ttft.learn(&ticket.ttft_features, actual, first_token_weight(ticket.ttft));
            self.observed = self.observed.max(now);
        }
    }

    fn streamed(
        &mut self,
        ticket: &Ticket,
        output_tokens: Option<u64>,
        mean_gap: Option<Duration>,
        now: Moment,
    ) -> Option<Fall> {
        if !ticket.first_token {
            return None;
        }
        let gaps = output_tokens.unwrap_or(0).saturating_sub(1);
        let gap = mean_gap.map(|gap| gap.as_secs_f64()).filter(|_| gaps >= FEWEST_GAPS);
        let whole = now.since(ticket.sent).max(LEAST);
        let fall = Fall {
            itl: gap.map(|gap| (gap / ticket.itl).max(1e-3).ln()),
            e2e: Some((whole / ticket.whole_base).ln()),
            alphas: ticket.alphas,
            stride: self.stride(ticket),
        };
        let own = fall.stride.times(if self.tuning.pooling { OWN_SHARE } else { 1.0 });
        if let Some(pair) = self.pair_mut(ticket.route, &ticket.alphas, now) {
            if let Some(residual) = fall.itl {
                pair.itl.observe(residual - ticket.offsets.itl.value, own);
            }
            if let Some(residual) = fall.e2e {
                pair.e2e.observe(residual - ticket.offsets.e2e.value, own);
            }
        }
        if let Some(gap) = gap.filter(|_| !ticket.sampled && self.tuning.short_streams) {
            #[allow(clippy::cast_precision_loss, reason = "a handful")]
            self.learn_gap(gap, ticket.probe, (gaps as f64 / SAMPLE).min(1.0), now);
        }
        self.tuning.pooling.then_some(fall)
    }

    /// Learned as a whole: how long the answer took beside what streams would make of its length.
    fn unstreamed(&mut self, ticket: &Ticket, output_tokens: Option<u64>, now: Moment) {
        let (bias_on, gain, stride) = (self.tuning.bias, self.tuning.bias_gain, self.stride(ticket));
        let whole = now.since(ticket.sent).max(LEAST);
        let probe = ticket.probe;
        let Some(pair) = self.pair_mut(ticket.route, &ticket.alphas, now) else { return };
        pair.unstreamed.observe((whole / ticket.whole_base).ln(), stride);
        pair.unstreamed_at = pair.unstreamed_at.max(now);
        pair.unstreamed_samples = pair.unstreamed_samples.saturating_add(1);
        #[allow(clippy::cast_precision_loss, reason = "token counts are far below 2^52")]
        let Some(output) = output_tokens.map(|tokens| tokens.max(1) as f64).filter(|_| bias_on) else { return };
        let lateness = (whole / (ticket.ttft * ticket.ttft_bias.exp() + output * ticket.itl)).ln();
        pair.unstreamed_bias.learn(lateness, if probe { 1.0 } else { gain }, BIAS_RANGE);
        if probe {
            self.probing.answered(lateness, &self.tuning);
        }
    }

    fn learn_gap(&mut self, gap: f64, probe: bool, share: f64, now: Moment) {
        let load = self.load.total(now);
        let x = features::itl(load.streams, load.kv_tokens, self.load.prefill_rate(now));
        let expected = self.itl.predict(&x);
        let gain = if probe { ITL_BIAS_GAIN.1 } else { ITL_BIAS_GAIN.0 };
        self.itl_bias.learn((gap.max(LEAST) / expected).ln(), gain * share, ITL_BIAS_RANGE);
        self.gap += GAP_GAIN * share * (gap - self.gap);
        self.itl.learn(&x, gap, share * 1e-4 / (expected * expected));
    }
}

/// What a first token counts for that was expected after so many seconds: errors count by their share of it, but below
/// about 50 ms they are noise as often as news.
pub(super) fn first_token_weight(expected: f64) -> f64 {
    0.01 / (expected * expected + 0.0025)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_tokens_count_less_the_later_they_are_expected() {
        for (expected, weight) in [(0.0, 4.0), (0.05, 2.0), (0.2, 0.235), (1.0, 0.01), (10.0, 1e-4)] {
            let found = first_token_weight(expected);
            assert!((found / weight - 1.0).abs() < 0.01, "{found} at {expected} s");
        }
    }
}
