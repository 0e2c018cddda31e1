//! Callers: recognised by their keys, held to their limits, given back what they did not use.

use super::*;
use crate::config::access::{ApiKey, KeyDigest, KeyLimits};
use crate::fleet::callers::{Caller, Limit, Limited, MostOutput, Spent};
use crate::route::quota::MINUTE;

const NO_LIMITS: KeyLimits = KeyLimits { requests_per_minute: None, tokens_per_minute: None, concurrency: None };

fn key(name: &str, secret: &str, routes: Option<Vec<usize>>, limits: KeyLimits) -> Arc<ApiKey> {
    Arc::new(ApiKey { name: name.into(), digest: KeyDigest::of(secret.as_bytes()), routes, limits })
}

fn with_keys(keys: Vec<Arc<ApiKey>>) -> Arc<Settings> {
    let mut settings = Settings::clone(&settings(vec![backend("a")], vec![route("r", &[0]), route("s", &[0])]));
    settings.access.keys = Some(keys);
    Arc::new(settings)
}

fn limited(limits: KeyLimits, now: Instant) -> (Fleet, Arc<Caller>) {
    let fleet = Fleet::new(with_keys(vec![key("team", "k", None, limits)]), now).unwrap();
    let caller = Arc::clone(called(&fleet, "k").expect("a key"));
    (fleet, caller)
}

fn called<'f>(fleet: &'f Fleet, secret: &str) -> Option<&'f Arc<Caller>> {
    fleet.caller(&KeyDigest::of(secret.as_bytes()))
}

fn tokens(caller: &Caller, now: Instant) -> u64 {
    caller.allowance(now).tokens.expect("limited").remaining
}

#[test]
fn a_caller_is_known_by_its_key_and_may_use_its_routes() {
    let keys = vec![key("one", "k1", Some(vec![1]), NO_LIMITS), key("two", "k2", None, NO_LIMITS)];
    let fleet = Fleet::new(with_keys(keys), now()).unwrap();
    let may = |secret: &str| called(&fleet, secret).map(|one| (&**one.name(), one.may_use(0), one.may_use(1)));
    assert_eq!(may("k1"), Some(("one", false, true)));
    assert_eq!(may("k2"), Some(("two", true, true)));
    assert!(may("k3").is_none() && may("").is_none() && fleet.asks_for_keys());
    assert!(!super::fleet(vec![backend("a")], now()).asks_for_keys());
}

#[test]
fn requests_at_once_are_counted_by_guards() {
    let now = now();
    let (_fleet, caller) = limited(KeyLimits { concurrency: Some(2), ..NO_LIMITS }, now);
    let (first, _second) = (caller.admit(now).unwrap(), caller.admit(now).unwrap());
    let full = caller.admit(now).map(drop);
    assert_eq!(full, Err(Limited { what: Limit::Concurrency, retry_after: Some(SECOND) }));
    drop(first);
    assert!(caller.admit(now).is_ok() && caller.under_way() == 1);
}

#[test]
fn a_request_that_was_not_served_does_not_count() {
    let now = now();
    let limits = KeyLimits { requests_per_minute: Some(1), tokens_per_minute: Some(100), ..NO_LIMITS };
    let (_fleet, caller) = limited(limits, now);
    for _ in 0..3 {
        let mut shed = caller.admit(now).unwrap();
        shed.reserve(60, MostOutput::Bound(40), now).unwrap();
        assert_eq!(caller.admit(now).map(drop).unwrap_err().what, Limit::Requests);
        shed.settle(Spent::Nothing, now);
    }
    assert_eq!(caller.under_way(), 0, "a refused request holds no place");
    caller.admit(now).unwrap().settle(Spent::Tokens { input: 0, output: 0 }, now);
    let refused = caller.admit(now + SECOND).map(drop).unwrap_err();
    assert!(refused.what == Limit::Requests && refused.retry_after.is_some_and(|wait| wait < MINUTE));
}

#[test]
fn what_was_set_aside_and_not_used_is_given_back() {
    let now = now();
    let (_fleet, caller) = limited(KeyLimits { tokens_per_minute: Some(1_000), ..NO_LIMITS }, now);
    let mut one = caller.admit(now).unwrap();
    one.reserve(100, MostOutput::Bound(700), now).unwrap();
    assert_eq!(tokens(&caller, now), 200);
    let refused = caller.admit(now).unwrap().reserve(100, MostOutput::Bound(200), now).unwrap_err();
    assert!(refused.what == Limit::Tokens && refused.retry_after.is_some());
    one.settle(Spent::Tokens { input: 90, output: 10 }, now);
    assert_eq!(tokens(&caller, now), 900);
    let alone = |input, output| caller.admit(now).unwrap().reserve(input, output, now).unwrap_err().retry_after;
    assert_eq!(alone(1, MostOutput::Bound(1_001)), None, "more than a minute's limit never fits");
    // How long a prompt is, is a guess: nobody is refused for ever because of it.
    for output in [MostOutput::Bound(1_000), MostOutput::Bound(0), MostOutput::Usually(5_000)] {
        assert_eq!(alone(5_000, output), Some(MINUTE), "{output:?}");
    }
    let empty = now + MINUTE * 2;
    assert!(caller.admit(empty).unwrap().reserve(5_000, MostOutput::Bound(10), empty).is_ok());
}

#[test]
fn what_was_used_beyond_it_is_the_next_requests_business() {
    let now = now();
    let (_fleet, caller) = limited(KeyLimits { tokens_per_minute: Some(1_000), ..NO_LIMITS }, now);
    let mut one = caller.admit(now).unwrap();
    one.reserve(100, MostOutput::Usually(50), now).unwrap();
    assert_eq!(tokens(&caller, now), 850);
    one.settle(Spent::Tokens { input: 100, output: 2_000 }, now);
    assert_eq!(tokens(&caller, now), 0);
    assert!(caller.admit(now).unwrap().reserve(1, MostOutput::Bound(0), now).is_err());
    // The next of its kind is expected to be as long, and still fits into a limit that nothing else has used.
    let later = now + MINUTE * 2;
    let mut next = caller.admit(later).unwrap();
    next.reserve(100, MostOutput::Usually(50), later).unwrap();
    assert_eq!(tokens(&caller, later), 0);
    for _ in 0..200 {
        caller.used_output(10);
    }
    next.settle(Spent::Nothing, later);
    next.reserve(100, MostOutput::Usually(50), later).unwrap();
    assert_eq!(tokens(&caller, later), 850, "and that is forgotten");
}

#[test]
fn what_was_used_outlives_a_reload_and_a_new_key_under_the_same_name() {
    let now = now();
    let limits = |most| KeyLimits { requests_per_minute: Some(most), concurrency: Some(2), ..NO_LIMITS };
    let old = Fleet::new(with_keys(vec![key("team", "k1", None, limits(2))]), now).unwrap();
    let under_way = called(&old, "k1").unwrap().admit(now).unwrap();
    let keys = vec![key("other", "k1", None, limits(1)), key("team", "k2", None, limits(3))];
    let new = old.rebuilt(with_keys(keys), now).unwrap();
    let caller = called(&new, "k2").unwrap();
    let left = caller.allowance(now).requests.unwrap();
    assert_eq!((left.limit, left.remaining, caller.under_way()), (3, 2, 1));
    assert_eq!(called(&new, "k1").unwrap().allowance(now).requests.unwrap().remaining, 1);
    drop(under_way);
    assert_eq!(caller.under_way(), 0);
}

#[test]
fn many_threads_never_take_more_than_there_is() {
    let now = now();
    let limits = KeyLimits { requests_per_minute: Some(1_000), tokens_per_minute: Some(5_000), concurrency: Some(7) };
    let (_fleet, caller) = limited(limits, now);
    let work = || {
        let mut let_in = 0;
        for _ in 0..500 {
            let Ok(mut one) = caller.admit(now) else { continue };
            assert!(caller.under_way() <= 7);
            if one.reserve(5, MostOutput::Bound(15), now).is_ok() {
                one.settle(Spent::Tokens { input: 5, output: 5 }, now);
                let_in += 1;
            } else {
                one.settle(Spent::Nothing, now);
            }
        }
        let_in
    };
    let let_in: u64 = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(work)).collect();
        threads.into_iter().map(|one| one.join().unwrap()).sum()
    });
    let left = caller.allowance(now);
    assert!(let_in <= 500 && caller.under_way() == 0);
    assert_eq!(left.requests.unwrap().remaining, 1_000 - let_in);
    assert_eq!(left.tokens.unwrap().remaining, 5_000 - let_in * 10);
}
