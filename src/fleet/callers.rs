//! Who calls, and how much each caller has used of what it may.
//!
//! What a caller has used is kept under its name and outlives reloads, a new key or another limit included. Everything
//! that is counted while a request is under way is one guard, [`Admission`].

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::Fleet;
use crate::config::access::{ApiKey, KeyDigest};
use crate::route::quota::{Left, Quota, Short, Taken};

/// When whoever has as many requests under way as it may is told to come back.
const SOON: Duration = Duration::from_secs(1);

/// How fast the output that a caller is expected to take falls to what its answers take.
const FALL: u64 = 16;

/// The callers of one configuration generation; `None` lets everyone in.
#[derive(Debug, Default)]
pub(super) struct Callers(Option<Known>);

#[derive(Debug)]
struct Known {
    callers: Vec<Arc<Caller>>,
    /// Theirs, side by side: all of them are looked at for each request.
    digests: Vec<KeyDigest>,
}

/// One caller, in one configuration generation.
#[derive(Debug)]
pub struct Caller {
    key: Arc<ApiKey>,
    used: Arc<Used>,
}

/// What a caller has used; shared by the generations.
#[derive(Debug)]
struct Used {
    lately: Mutex<Lately>,
    under_way: AtomicU32,
    /// Output tokens that its answers took at most lately, of those that nothing bounded.
    output: AtomicU64,
}

#[derive(Debug)]
struct Lately {
    requests: Quota,
    tokens: Quota,
}

/// Why a caller has to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limited {
    /// Of what it has had enough.
    pub what: Limit,
    /// When there may be more; `None` when the request alone is more than the limit.
    pub retry_after: Option<Duration>,
}

/// What may be limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// Requests in a minute.
    Requests,
    /// Tokens in a minute.
    Tokens,
    /// Requests at once.
    Concurrency,
}

/// What is left of the limits that a caller has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Allowance {
    /// Of requests in a minute.
    pub requests: Option<Left>,
    /// Of tokens in a minute.
    pub tokens: Option<Left>,
}

/// A request of a caller that was let in; what it holds is released by `Drop`.
#[derive(Debug)]
pub struct Admission {
    caller: Arc<Caller>,
    request: Option<Taken>,
    tokens: Option<(Taken, Reserved)>,
}

/// How many tokens were set aside.
#[derive(Debug, Clone, Copy)]
struct Reserved {
    all: u64,
    /// Whether the request did not say how long its answer may be.
    guessed: bool,
}

/// How long an answer may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MostOutput {
    /// As the request says.
    Bound(u64),
    /// It does not say; such answers usually take so much.
    Usually(u64),
}

/// What a request has used in the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spent {
    /// headway did not serve it, for its own reasons or the caller's limits: it does not count.
    Nothing,
    /// So many tokens.
    Tokens {
        /// Of the prompt.
        input: u64,
        /// Of the answer.
        output: u64,
    },
}

impl Callers {
    /// What callers of the same name have used goes on.
    pub(super) fn of(keys: Option<&[Arc<ApiKey>]>, old: Option<&Self>, now: Instant) -> Self {
        let before = |name: &str| old?.0.as_ref()?.callers.iter().find(|one| *one.key.name == *name);
        let caller = |key: &Arc<ApiKey>| {
            let used = before(&key.name).map_or_else(|| Arc::new(Used::new(now)), |one| Arc::clone(&one.used));
            Arc::new(Caller { key: Arc::clone(key), used })
        };
        Self(keys.map(|keys| Known {
            callers: keys.iter().map(caller).collect(),
            digests: keys.iter().map(|key| key.digest).collect(),
        }))
    }
}

impl Fleet {
    /// Whether only those may call that have a key.
    pub fn asks_for_keys(&self) -> bool {
        self.callers.0.is_some()
    }

    /// Whose key this is. Every key is compared, and each wholly: how long it takes says nothing about them.
    pub fn caller(&self, digest: &KeyDigest) -> Option<&Arc<Caller>> {
        let known = self.callers.0.as_ref()?;
        let found = known.digests.iter().enumerate().fold(
            None,
            |found, (index, one)| {
                if one.same(digest) { Some(index) } else { found }
            },
        );
        known.callers.get(found?)
    }
}

impl Caller {
    /// Its name in the configuration.
    pub fn name(&self) -> &Arc<str> {
        &self.key.name
    }

    /// Whether it may use a route, by its place in the settings.
    pub fn may_use(&self, route: usize) -> bool {
        self.key.routes.as_ref().is_none_or(|routes| routes.contains(&route))
    }

    /// Requests of it under way.
    pub fn under_way(&self) -> u32 {
        self.used.under_way.load(Ordering::Acquire)
    }

    /// Lets one more request in, if its limits allow.
    ///
    /// # Errors
    /// Which limit does not, and when it may; nothing was counted then.
    pub fn admit(self: &Arc<Self>, now: Instant) -> Result<Admission, Limited> {
        let most = self.key.limits.concurrency.unwrap_or(u32::MAX);
        let one_more = |count: u32| count.checked_add(1).filter(|count| *count <= most);
        if self.used.under_way.fetch_update(Ordering::AcqRel, Ordering::Acquire, one_more).is_err() {
            return Err(Limited { what: Limit::Concurrency, retry_after: Some(SOON) });
        }
        // From here on the guard's drop undoes the count.
        let mut admission = Admission { caller: Arc::clone(self), request: None, tokens: None };
        if let Some(limit) = self.key.limits.requests_per_minute {
            let taken = self.used.lately().requests.take(1, limit, now);
            admission.request = Some(taken.map_err(|short| Limited::new(Limit::Requests, short))?);
        }
        Ok(admission)
    }

    #[cfg(test)]
    pub(super) fn used_output(&self, output: u64) {
        self.used.learn_output(output);
    }

    /// What is left of its limits.
    pub fn allowance(&self, now: Instant) -> Allowance {
        let (limits, mut lately) = (&self.key.limits, self.used.lately());
        Allowance {
            requests: limits.requests_per_minute.map(|limit| lately.requests.left(limit, now)),
            tokens: limits.tokens_per_minute.map(|limit| lately.tokens.left(limit, now)),
        }
    }
}

impl Used {
    fn new(now: Instant) -> Self {
        let lately = Lately { requests: Quota::new(now), tokens: Quota::new(now) };
        Self { lately: Mutex::new(lately), under_way: AtomicU32::new(0), output: AtomicU64::new(0) }
    }

    fn lately(&self) -> MutexGuard<'_, Lately> {
        self.lately.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next answer that nothing bounds is expected to be as long as the longest lately.
    fn learn_output(&self, output: u64) {
        let follow = |before: u64| Some(output.max(before - before.saturating_sub(output).div_ceil(FALL)));
        let _ = self.output.fetch_update(Ordering::Relaxed, Ordering::Relaxed, follow);
    }
}

impl Limited {
    fn new(what: Limit, short: Short) -> Self {
        let retry_after = match short {
            Short::For(wait) => Some(wait),
            Short::Always => None,
        };
        Self { what, retry_after }
    }
}

impl Admission {
    /// Whose request it is.
    pub fn caller(&self) -> &Arc<Caller> {
        &self.caller
    }

    /// Sets tokens aside for a prompt and its answer, where the caller's tokens are limited. How long the prompt is, and an
    /// answer of which the request does not say it, are guesses: they are not held to more than the whole limit, and
    /// what is used beyond it counts in the end.
    ///
    /// # Errors
    /// When the limit does not allow it, and when it may: never, where the answer alone may be longer than the limit.
    pub fn reserve(&mut self, input: u64, output: MostOutput, now: Instant) -> Result<(), Limited> {
        let Some(limit) = self.caller.key.limits.tokens_per_minute else { return Ok(()) };
        let within = |output: u64| input.saturating_add(output).min(limit);
        let reserved = match output {
            MostOutput::Bound(most) => Reserved { all: within(most).max(most), guessed: false },
            MostOutput::Usually(usual) => {
                let most = usual.max(self.caller.used.output.load(Ordering::Relaxed));
                Reserved { all: within(most), guessed: true }
            }
        };
        let taken = self.caller.used.lately().tokens.take(reserved.all, limit, now);
        self.tokens = Some((taken.map_err(|short| Limited::new(Limit::Tokens, short))?, reserved));
        Ok(())
    }

    /// The request is over: what was set aside and not used is given back, what was used beyond it counts from now.
    pub fn settle(&mut self, spent: Spent, now: Instant) {
        let (request, tokens) = (self.request.take(), self.tokens.take());
        if request.is_none() && tokens.is_none() {
            return;
        }
        let mut lately = self.caller.used.lately();
        let Spent::Tokens { input, output } = spent else {
            if let Some(taken) = request {
                lately.requests.give_back(taken, 1);
            }
            if let Some((taken, reserved)) = tokens {
                lately.tokens.give_back(taken, reserved.all);
            }
            return;
        };
        let Some((taken, reserved)) = tokens else { return };
        let spent = input.saturating_add(output);
        lately.tokens.give_back(taken, reserved.all.saturating_sub(spent));
        if spent > reserved.all {
            lately.tokens.add(spent - reserved.all, now);
        }
        drop(lately);
        if reserved.guessed {
            self.caller.used.learn_output(output);
        }
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.caller.used.under_way.fetch_sub(1, Ordering::AcqRel);
    }
}
