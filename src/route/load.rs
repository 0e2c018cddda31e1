//! What is in flight at one backend, by our own books: moved when a request is sent, not when the backend confirms.
//!
//! Dead reckoning needs no scrape and has no delay, so requests decided one after the other never herd to the same idle
//! backend. What others send there is added: from what replicas share, and from what the engine reports.
//!
//! A request that is not streamed shows no first token. It is counted as waiting and as decoding in the shares of its
//! life that it probably spends so: right on average, without a timer.

use std::collections::VecDeque;

use super::moment::Moment;

/// Time constant of rates, in seconds.
const RATE: f64 = 5.0;
/// The most requests whose first token is waited for one by one; more are counted, but no longer watched.
const WATCHED: usize = 4_096;
/// After so many seconds without a report, what an engine said is no longer believed.
const REPORT_LIFE: f64 = 5.0;
/// More than any backend holds, of anything.
const MOST: f64 = 1e12;
/// How fast the usual size of a request follows: about twenty requests.
const GAIN: f64 = 0.05;

/// Load, whoever caused it.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Load {
    /// Estimated uncached prompt tokens that await a first token.
    pub waiting_tokens: f64,
    /// Requests that await a first token.
    pub awaiting: f64,
    /// Requests that are decoding.
    pub streams: f64,
    /// Tokens in the key/value cache.
    pub kv_tokens: f64,
}

/// What other replicas have in flight at a backend; zero without sharing.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct OtherLoad {
    /// Their load.
    pub load: Load,
    /// How many other replicas there are.
    pub replicas: u32,
}

/// What an engine says of itself.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct EngineReport {
    /// Requests in its batch.
    pub running: u32,
    /// Requests in its queue.
    pub waiting: u32,
    /// Tokens in its key/value cache, where its capacity is known.
    pub kv_tokens: Option<f64>,
}

/// What happens per second, forgotten over about five.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    amount: f64,
    at: Moment,
}

impl Rate {
    /// Nothing has happened.
    #[must_use]
    pub fn new(now: Moment) -> Self {
        Self { amount: 0.0, at: now }
    }

    /// So much happens.
    pub fn add(&mut self, amount: f64, now: Moment) {
        *self = Self { amount: self.faded(now) + amount, at: now.max(self.at) };
    }

    /// How much per second.
    #[must_use]
    pub fn per_second(&self, now: Moment) -> f64 {
        self.faded(now) / RATE
    }

    /// Whether it is at least so much per second. Asks for the exponential only where its tangent leaves it open.
    #[must_use]
    pub fn reaches(&self, per_second: f64, now: Moment) -> bool {
        let wanted = per_second * RATE;
        if self.amount < wanted {
            return false;
        }
        let age = now.since(self.at) / RATE;
        self.amount * (1.0 - age) >= wanted || self.amount * fade(age) >= wanted
    }

    fn faded(&self, now: Moment) -> f64 {
        if self.amount == 0.0 {
            return 0.0;
        }
        self.amount * fade(now.since(self.at) / RATE)
    }
}

/// A request whose first token is waited for.
#[derive(Debug, Clone, Copy)]
struct Awaited {
    id: u64,
    sent: Moment,
    /// What was expected when it was sent, in seconds.
    expected: f64,
}

/// The books of one backend.
#[derive(Debug, Clone)]
pub struct BackendLoad {
    own: Load,
    in_flight: u32,
    /// Streams of which a token has come.
    decoding: u32,
    awaited: VecDeque<Awaited>,
    /// Unstreamed answers of which it is known how long they may take.
    answers: VecDeque<Awaited>,
    prefill: Rate,
    last_token: Moment,
    others: OtherLoad,
    /// What neither we nor the other replicas sent, as the last two reports agree.
    hidden: Load,
    reported: Option<(Load, Moment)>,
    /// Uncached prompt tokens, and tokens in the cache, of a usual request.
    usual: (f64, f64),
}

impl BackendLoad {
    /// Nothing is in flight.
    #[must_use]
    pub fn new(now: Moment) -> Self {
        Self {
            own: Load::default(),
            in_flight: 0,
            decoding: 0,
            awaited: VecDeque::new(),
            answers: VecDeque::new(),
            prefill: Rate::new(now),
            last_token: now,
            others: OtherLoad::default(),
            hidden: Load::default(),
            reported: None,
            usual: (500.0, 1_000.0),
        }
    }

    /// All load that is known of.
    #[must_use]
    pub fn total(&self, now: Moment) -> Load {
        let known = self.own.plus(&self.others.load);
        if self.reported.is_some_and(|(_, at)| is_fresh(at, now)) { known.plus(&self.hidden) } else { known }
    }

    /// What this replica has sent itself.
    #[must_use]
    pub fn own(&self) -> Load {
        self.own
    }

    /// Requests of this replica in flight.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.in_flight
    }

    /// Streams of this replica that await their first token.
    #[must_use]
    pub fn awaited(&self) -> u32 {
        u32::try_from(self.awaited.len()).unwrap_or(u32::MAX)
    }

    /// How many replicas send requests, this one included.
    #[must_use]
    pub fn replicas(&self) -> u32 {
        self.others.replicas.saturating_add(1)
    }

    /// Prompt tokens sent per second, lately.
    #[must_use]
    pub fn prefill_rate(&self, now: Moment) -> f64 {
        self.prefill.per_second(now)
    }

    /// How many times as long as expected the stream that was sent first has already waited for its first token; `None`
    /// when none is awaited.
    #[must_use]
    pub fn overdue(&self, now: Moment) -> Option<f64> {
        self.awaited.front().map(|one| now.since(one.sent) / one.expected.max(0.01))
    }

    /// The longest wait for a first token that was expected of any stream that still waits for one, in seconds.
    #[must_use]
    pub fn longest_first_token(&self) -> Option<f64> {
        longest(&self.awaited)
    }

    /// The longest wait that was expected of any unstreamed answer in flight, in seconds; `None` where nothing is known.
    #[must_use]
    pub fn longest_answer(&self) -> Option<f64> {
        longest(&self.answers)
    }

    /// For how long no stream has brought a token, in seconds; `None` when none of ours is decoding.
    #[must_use]
    pub fn standing(&self, now: Moment) -> Option<f64> {
        (self.decoding > 0).then(|| now.since(self.last_token))
    }

    /// A request is sent, with so many prompt tokens to compute. `watch` names a stream and says when its first token is
    /// expected, in seconds.
    pub fn sent(&mut self, load: &Load, uncached_tokens: f64, watch: Option<(u64, f64)>, now: Moment) {
        self.in_flight = self.in_flight.saturating_add(1);
        self.own = self.own.plus(load);
        self.prefill.add(uncached_tokens, now);
        self.usual.0 += GAIN * (uncached_tokens - self.usual.0);
        self.usual.1 += GAIN * (load.kv_tokens - self.usual.1);
        if let Some((id, expected)) = watch.filter(|_| self.awaited.len() < WATCHED) {
            self.awaited.push_back(Awaited { id, sent: now, expected });
        }
    }

    /// The request of that number, which is not streamed and was [sent](Self::sent), may take so many seconds.
    pub fn answer_expected(&mut self, id: u64, expected: f64, now: Moment) {
        if self.answers.len() < WATCHED {
            self.answers.push_back(Awaited { id, sent: now, expected });
        }
    }

    /// The first token of a stream came: from waiting it goes to decoding.
    pub fn first_token(&mut self, id: u64, load: &mut Load, now: Moment) {
        let after = Load { waiting_tokens: 0.0, awaiting: 0.0, streams: 1.0, ..*load };
        self.own = self.own.minus(load).plus(&after);
        *load = after;
        self.decoding = self.decoding.saturating_add(1);
        self.unwatch(id);
        self.progressed(now);
    }

    /// So many output tokens of a stream were added to the cache.
    pub fn tokens(&mut self, count: f64, load: &mut Load) {
        load.kv_tokens += count;
        self.own.kv_tokens += count;
    }

    /// Bytes of a stream came.
    pub fn progressed(&mut self, now: Moment) {
        self.last_token = self.last_token.max(now);
    }

    /// A request is over; `decoding` says whether its first token had come. When nothing is left the books are exactly
    /// zero, whatever was rounded on the way.
    pub fn ended(&mut self, id: u64, load: &Load, decoding: bool) {
        self.in_flight = self.in_flight.saturating_sub(1);
        self.decoding = self.decoding.saturating_sub(u32::from(decoding));
        self.own = if self.in_flight == 0 { Load::default() } else { self.own.minus(load) };
        self.unwatch(id);
    }

    /// All is void: the backend was taken out of service.
    pub fn clear(&mut self) {
        (self.own, self.in_flight, self.decoding) = (Load::default(), 0, 0);
        self.awaited.clear();
        self.answers.clear();
        (self.hidden, self.reported) = (Load::default(), None);
    }

    /// What other replicas have in flight there.
    pub fn others(&mut self, others: OtherLoad) {
        self.others = OtherLoad { load: others.load.sane(), ..others };
    }

    /// What the engine says is in it. Only what two reports in a row show beyond what is known of counts: one alone may
    /// have crossed an answer on the way.
    pub fn engine_reported(&mut self, report: EngineReport, now: Moment) {
        let excess = self.excess(&report);
        let before = self.reported.filter(|(_, at)| is_fresh(*at, now)).map_or(Load::default(), |(load, _)| load);
        self.hidden = excess.least(&before);
        self.reported = Some((excess, now));
    }

    fn excess(&self, report: &EngineReport) -> Load {
        let known = self.own.plus(&self.others.load);
        let (running, waiting) = (f64::from(report.running), f64::from(report.waiting));
        let more = (running + waiting - known.awaiting - known.streams).max(0.0);
        let awaiting = (waiting - known.awaiting).clamp(0.0, more);
        let kv = report.kv_tokens.filter(|kv| kv.is_finite()).map(|kv| (kv.min(MOST) - known.kv_tokens).max(0.0));
        Load {
            waiting_tokens: awaiting * self.usual.0,
            awaiting,
            streams: more - awaiting,
            kv_tokens: kv.unwrap_or(more * self.usual.1),
        }
    }

    fn unwatch(&mut self, id: u64) {
        for watched in [&mut self.awaited, &mut self.answers] {
            if let Ok(place) = watched.binary_search_by_key(&id, |one| one.id) {
                watched.remove(place);
            }
        }
    }
}

fn longest(watched: &VecDeque<Awaited>) -> Option<f64> {
    watched.iter().map(|one| one.expected).reduce(f64::max)
}

impl Load {
    fn map2(&self, other: &Self, f: impl Fn(f64, f64) -> f64) -> Self {
        Self {
            waiting_tokens: f(self.waiting_tokens, other.waiting_tokens),
            awaiting: f(self.awaiting, other.awaiting),
            streams: f(self.streams, other.streams),
            kv_tokens: f(self.kv_tokens, other.kv_tokens),
        }
    }

    /// Both together.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        self.map2(other, |one, other| one + other)
    }

    /// What is left, not below zero.
    #[must_use]
    pub fn minus(&self, other: &Self) -> Self {
        self.map2(other, |one, other| (one - other).max(0.0))
    }

    fn least(&self, other: &Self) -> Self {
        self.map2(other, f64::min)
    }

    /// Without what is no number, and within what can be.
    fn sane(&self) -> Self {
        self.map2(self, |one, _| if one.is_finite() { one.clamp(0.0, MOST) } else { 0.0 })
    }
}

/// `exp(-age)`: by its series while that is exact to five digits, as it mostly is on a busy backend.
fn fade(age: f64) -> f64 {
    if age < 0.125 { 1.0 - age * (1.0 - age / 2.0 * (1.0 - age / 3.0)) } else { (-age).exp() }
}

fn is_fresh(reported: Moment, now: Moment) -> bool {
    now.since(reported) <= REPORT_LIFE
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn prompt(tokens: f64) -> Load {
        Load { waiting_tokens: tokens, awaiting: 1.0, streams: 0.0, kv_tokens: tokens }
    }

    fn report(running: u32, waiting: u32) -> EngineReport {
        EngineReport { running, waiting, kv_tokens: None }
    }

    #[test]
    fn load_moves_from_waiting_to_decoding_to_nothing() {
        let now = Moment::START;
        let mut books = BackendLoad::new(now);
        let mut load = prompt(300.0);
        books.sent(&load, 300.0, Some((1, 0.2)), now);
        assert_eq!((books.own(), books.in_flight(), books.awaited()), (load, 1, 1));
        books.first_token(1, &mut load, now);
        books.tokens(16.0, &mut load);
        assert_eq!(books.own(), Load { waiting_tokens: 0.0, awaiting: 0.0, streams: 1.0, kv_tokens: 316.0 });
        books.ended(1, &load, true);
        assert_eq!((books.own(), books.in_flight(), books.awaited()), (Load::default(), 0, 0));
        assert_eq!(books.standing(now), None);
    }

    #[test]
    fn the_oldest_stream_that_awaits_its_first_token_says_how_overdue_the_backend_is() {
        let now = Moment::START;
        let mut books = BackendLoad::new(now);
        books.sent(&prompt(1.0), 1.0, Some((1, 0.5)), now);
        books.sent(&prompt(1.0), 1.0, Some((2, 2.0)), now);
        assert_eq!(books.overdue(now + SECOND), Some(2.0));
        books.ended(1, &prompt(1.0), false);
        assert_eq!(books.overdue(now + SECOND), Some(0.5));
        books.ended(2, &prompt(1.0), false);
        assert_eq!(books.overdue(now + SECOND), None);
    }

    #[test]
    fn the_longest_wait_in_flight_is_known_apart_for_streams_and_whole_answers() {
        let now = Moment::START;
        let mut books = BackendLoad::new(now);
        assert_eq!((books.longest_first_token(), books.longest_answer()), (None, None));
        for (id, expected) in [(1, 10.0), (2, 5.0), (3, 3.0)] {
            books.sent(&prompt(1.0), 1.0, Some((id, expected)), now);
        }
        books.answer_expected(4, 70.0, now);
        books.answer_expected(5, 60.0, now);
        assert_eq!((books.longest_first_token(), books.longest_answer()), (Some(10.0), Some(70.0)));
        books.first_token(1, &mut prompt(1.0), now);
        books.ended(4, &prompt(1.0), false);
        assert_eq!((books.longest_first_token(), books.longest_answer()), (Some(5.0), Some(60.0)));
        books.clear();
        assert_eq!((books.longest_first_token(), books.longest_answer()), (None, None));
    }

    #[test]
    fn fading_is_exponential() {
        for age in [0.0, 0.01, 0.1, 0.1249, 0.1251, 1.0, 9.0_f64] {
            assert!((fade(age) / (-age).exp() - 1.0).abs() < 2e-5, "{age}");
        }
    }

    #[test]
    fn rates_fade() {
        let now = Moment::START;
        let mut rate = Rate::new(now);
        (0..200).for_each(|step| rate.add(10.0, now + SECOND * step));
        assert!((rate.per_second(now + SECOND * 199) - 11.0).abs() < 0.1, "{rate:?}");
        assert!(rate.per_second(now + SECOND * 240) < 0.01);
        for second in 190..260 {
            let (at, limit) = (now + SECOND * second, 0.2);
            assert_eq!(rate.reaches(limit, at), rate.per_second(at) >= limit, "{second}");
        }
    }

    #[test]
    fn what_the_engine_reports_beyond_what_is_known_is_load_once_two_reports_agree() {
        let now = Moment::START;
        let mut books = BackendLoad::new(now);
        books.sent(&prompt(100.0), 100.0, Some((1, 0.2)), now);
        books.engine_reported(report(8, 3), now);
        assert_eq!(books.total(now), books.own(), "one report alone may be stale");
        books.engine_reported(report(6, 3), now + SECOND);
        let hidden = books.total(now + SECOND).minus(&books.own());
        assert!((hidden.awaiting - 2.0).abs() < 1e-9 && (hidden.streams - 6.0).abs() < 1e-9, "{hidden:?}");
        assert!(hidden.waiting_tokens > 500.0 && hidden.kv_tokens > 1_000.0);
        assert_eq!(books.total(now + SECOND * 9), books.own(), "reports that stopped coming are forgotten");
    }

    #[test]
    fn what_others_sent_is_taken_to_be_of_the_usual_size() {
        let now = Moment::START;
        let mut books = BackendLoad::new(now);
        for id in 0..300 {
            let load = Load { kv_tokens: 3_000.0, ..prompt(2_000.0) };
            books.sent(&load, 2_000.0, Some((id, 1.0)), now);
            books.ended(id, &load, false);
        }
        (0..2).for_each(|_| books.engine_reported(report(1, 2), now));
        let hidden = books.total(now);
        assert!((hidden.waiting_tokens - 2.0 * 2_000.0).abs() < 1.0, "{hidden:?}");
        assert!((hidden.kv_tokens - 3.0 * 3_000.0).abs() < 1.0, "{hidden:?}");
    }

    #[test]
    fn what_is_known_already_is_not_counted_twice() {
        let now = Moment::START;
        let mut books = BackendLoad::new(now);
        let others = Load { streams: 4.0, awaiting: 1.0, ..Load::default() };
        books.others(OtherLoad { load: others, replicas: 3 });
        books.sent(&prompt(100.0), 100.0, None, now);
        for _ in 0..3 {
            books.engine_reported(EngineReport { kv_tokens: Some(100.0), ..report(5, 1) }, now);
        }
        assert_eq!((books.total(now), books.replicas()), (books.own().plus(&others), 4));
    }
}
