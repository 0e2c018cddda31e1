use super::*;
use crate::clock::ManualClock;
use crate::config::{NoEnvironment, parse};
use crate::fleet::Request;
use crate::fleet::backend::CheckOutcome;
use crate::measure::outcome::Blame;
use crate::route::snapshot::RequestFacts;

const SECOND: Duration = Duration::from_secs(1);
const TEXT: &str = "listeners: [{ address: 127.0.0.1:1 }]
backends:
  - { name: a, url: http://127.0.0.1:2, models: [m], profile: p }
  - { name: b, url: http://127.0.0.1:3, models: [m] }
routes:
  - { name: other, match: { models: [n] }, backends: [b] }
  - { name: chat, backends: [a, b], slo: { ttft: { p95: 1s }, itl: { p99: 50ms } } }
";

fn fleet(text: &str, now: Instant) -> Fleet {
    let loaded = parse("test.yaml", text, &NoEnvironment).unwrap_or_else(|report| panic!("{report}"));
    let fleet = Fleet::new(Arc::new(loaded.settings), now).expect("a fleet");
    fleet.backends().iter().for_each(|one| one.shared.checked(CheckOutcome::Passed, now));
    fleet
}

/// A fleet that has served a while.
fn taught(clock: &ManualClock) -> Fleet {
    let fleet = fleet(TEXT, clock.now());
    for round in 0..200_u32 {
        let facts = RequestFacts { input_tokens: u64::from(100 + round), stream: true, ..RequestFacts::default() };
        let request = Request { model: "m", facts, ..Request::default() };
        let mut given = fleet.dispatch(1, &request, &[], clock.now()).expect("room");
        clock.advance(Duration::from_millis(40));
        given.in_flight.first_token(clock.now());
        clock.advance(SECOND);
        given.in_flight.ended(Blame::Success, clock.now());
        fleet.routes().iter().for_each(|route| route.counts.model().answered(333));
    }
    fleet
}

/// What is expected of a prompt at every backend.
fn expected(fleet: &Fleet, now: Instant) -> Vec<Duration> {
    let facts = RequestFacts { input_tokens: 300, stream: true, ..RequestFacts::default() };
    let explained = fleet.explain("chat", &Request { model: "m", facts, ..Request::default() }, now);
    let candidates = explained.expect("a route").candidates;
    candidates.iter().filter_map(|(_, one)| one.ttft).map(|ttft| ttft.bound()).collect()
}

#[test]
fn what_was_learned_is_there_after_a_restart() {
    let clock = ManualClock::new();
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("state.json");
    let old = taught(&clock);
    let kept = old.learned();
    assert!(kept.backends.iter().any(|backend| backend.learned.ttft.samples > 8 && !backend.pairs.is_empty()));
    save(&path, &kept, clock.wall()).expect("writable");

    // The routes come in another order, so they have other places.
    let text = TEXT.replace("  - { name: other, match: { models: [n] }, backends: [b] }\n", "");
    let text = format!("{text}  - {{ name: other, backends: [b] }}\n");
    let new = fleet(&text, clock.now());
    assert_ne!(expected(&new, clock.now()), expected(&old, clock.now()));
    let read = load(&path, clock.wall()).expect("ours").expect("a file");
    assert_eq!(new.resume(&read, clock.now()), 2);
    let (before, after) = (expected(&old, clock.now()), expected(&new, clock.now()));
    assert!(before.iter().zip(&after).all(|(before, after)| before.abs_diff(*after) < Duration::from_micros(2)));
    assert!((new.routes()[0].expected_output() - 333.0).abs() < 1.0);
    let pairs = |kept: &Kept| kept.backends.iter().map(|one| one.pairs.len()).collect::<Vec<_>>();
    assert_eq!((pairs(&new.learned()), new.learned().routes.len()), (pairs(&kept), 2));
}

#[test]
fn another_server_of_the_same_name_knows_nothing() {
    let clock = ManualClock::new();
    let kept = taught(&clock).learned();
    for (right, wrong) in
        [("127.0.0.1:2", "127.0.0.1:4"), ("[m], profile", "[m2], profile"), ("profile: p", "profile: q")]
    {
        assert_eq!(fleet(&TEXT.replacen(right, wrong, 1), clock.now()).resume(&kept, clock.now()), 1, "{wrong}");
    }
}

#[test]
fn a_file_that_a_reload_names_teaches_those_that_know_nothing() {
    let clock = ManualClock::new();
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("state.json");
    let kept = taught(&clock);
    save(&path, &kept.learned(), clock.wall()).expect("writable");
    let with_file = format!("{TEXT}state: {{ path: {} }}\n", path.display());
    let settings = || Arc::new(parse("test.yaml", &with_file, &NoEnvironment).expect("settings").settings);

    let fresh = fleet(TEXT, clock.now());
    let reloaded = fresh.rebuilt(settings(), clock.now()).expect("a fleet");
    restore_on_reload(&reloaded, &fresh, &clock);
    let near = |one: &Fleet, other: &Fleet| {
        let (one, other) = (expected(one, clock.now()), expected(other, clock.now()));
        one.iter().zip(&other).all(|(one, other)| one.abs_diff(*other) < Duration::from_micros(2))
    };
    assert!(near(&reloaded, &kept) && (reloaded.routes()[1].expected_output() - 333.0).abs() < 1.0);

    // Both backends have served once: what they learned themselves is worth more than a file.
    let busy = fleet(TEXT, clock.now());
    for excluded in [1, 0] {
        let request = Request { model: "m", ..Request::default() };
        drop(busy.dispatch(1, &request, &[crate::route::snapshot::BackendIndex(excluded)], clock.now()).expect("room"));
    }
    let reloaded = busy.rebuilt(settings(), clock.now()).expect("a fleet");
    restore_on_reload(&reloaded, &busy, &clock);
    assert!(near(&reloaded, &busy) && !near(&reloaded, &kept));
}

#[track_caller]
fn refused(contents: &[u8], replaced: bool) {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("state.json");
    std::fs::write(&path, contents).expect("writable");
    let clock = ManualClock::new();
    assert!(load(&path, clock.wall()).is_err(), "{contents:?}");
    assert_eq!(save(&path, &Kept::default(), clock.wall()).is_ok(), replaced, "{contents:?}");
    assert_eq!(std::fs::read(&path).expect("a file") != contents, replaced);
}

#[test]
fn broken_files_are_replaced_and_files_of_others_are_left_alone() {
    refused(b"{\"headway_state\":2,\"saved\":0,", true);
    refused(b"{\"headway_state\":1,\"saved\":0,\"backends\":[],\"routes\":[]}", true);
    refused(b"{\"headway_state\":3,\"what\":\"ever\"}", true);
    refused(b"{\"headway_state\":2,\"saved\":18446744073709551615,\"backends\":[],\"routes\":[]}", true);
    refused(b"{\"headway_state\":2,\"saved\":0,\"backends\":[],\"routes\":[]}", true);
    refused(b"# a shopping list", false);
    refused(b"{}", false);
}

#[test]
fn old_files_are_forgotten_and_missing_ones_are_no_mistake() {
    let (clock, folder) = (ManualClock::new(), tempfile::tempdir().expect("folder"));
    let path = folder.path().join("state.json");
    assert!(matches!(load(&path, clock.wall()), Ok(None)));
    assert!(matches!(load(folder.path(), clock.wall()), Err(StateError::Unreadable(_))));
    std::fs::write(&path, b"").expect("writable");
    assert!(matches!(load(&path, clock.wall()), Ok(None)));
    save(&path, &taught(&clock).learned(), clock.wall()).expect("writable");
    assert!(load(&path, clock.wall() + OLDEST - SECOND).expect("ours").is_some());
    assert!(matches!(load(&path, clock.wall() + OLDEST + SECOND), Err(StateError::Old(_))));
    assert!(load(&path, clock.wall() - SECOND * 3_600).expect("ours").is_some(), "a clock that was set back");
}

#[tokio::test(start_paused = true)]
async fn a_fleet_is_kept_now_and_then_and_at_the_end() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("state.json");
    let clock = Arc::new(ManualClock::new());
    let text = format!("{TEXT}state: {{ path: {}, interval: 30s }}\n", path.display());
    let fleet = Arc::new(fleet(&text, clock.now()));
    let (generations, shutdown) = (watch::channel(Arc::clone(&fleet)), watch::channel(false));
    let keeping = tokio::spawn(keep(generations.1, clock.clone(), shutdown.1));
    let written = |answers| {
        let clock = Arc::clone(&clock);
        let path = path.clone();
        move || {
            let kept = load(&path, clock.wall()).ok().flatten().unwrap_or_default();
            kept.routes.iter().any(|(_, route)| route.answers == answers)
        }
    };
    let until = |condition: Box<dyn Fn() -> bool>| async move {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    until(Box::new(written(0))).await;
    fleet.routes()[0].counts.model().answered(5);
    until(Box::new(written(1))).await;
    fleet.routes()[0].counts.model().answered(5);
    shutdown.0.send_replace(true);
    keeping.await.expect("it ends");
    assert!(written(2)(), "what was learned last is kept");
}

#[test]
fn a_rolled_back_group_is_still_so_after_a_restart_unless_its_split_has_changed() {
    use crate::measure::attainment::Attainment;
    use crate::measure::exchange::ExchangeRecord;
    use crate::measure::group::{Assignment, GroupIndex};
    use crate::measure::objective::Verdicts;

    let text =
        TEXT.replace("backends: [a, b], slo", "backends: [a], split: { canary: { backends: [b], share: 50% } }, slo");
    let clock = ManualClock::new();
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("state.json");
    let old = fleet(&text, clock.now());
    let ended = |group, good| ExchangeRecord {
        route: Some("chat".into()),
        group: Some(Assignment { group: GroupIndex(group), name: "g".into(), fell_over: None, epoch: 0 }),
        verdicts: Verdicts { ttft: Some(good), ..Verdicts::default() },
        ..ExchangeRecord::begun(clock.wall(), "id".into())
    };
    for (group, good) in [(0, true), (1, false)] {
        (0..60).for_each(|_| old.record(&ended(group, good), clock.now()));
    }
    let canary = |fleet: &Fleet| fleet.routes()[1].groups().remove(1).rolled_back;
    let before = canary(&old).expect("rolled back");
    save(&path, &old.learned(), clock.wall()).expect("writable");

    let kept = load(&path, clock.wall()).expect("readable").expect("kept");
    let new = fleet(&text, clock.now());
    new.resume(&kept, clock.now());
    let after = canary(&new).expect("still rolled back");
    let (why, was) = (after.why.expect("by itself"), before.why.expect("by itself"));
    assert_eq!((why.group, why.latency, why.own, why.baseline), (was.group, was.latency, was.own, was.baseline));
    assert_eq!(why.baseline, Attainment { good: 60, total: 60 });
    assert!((why.allowed - was.allowed).abs() < 1e-12);
    assert!(before.at.duration_since(after.at).expect("whole seconds") < SECOND);

    let other = fleet(&text.replace("50%", "40%"), clock.now());
    other.resume(&kept, clock.now());
    assert_eq!(canary(&other), None);
}
