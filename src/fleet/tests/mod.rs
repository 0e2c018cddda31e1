//! The fleet without sockets: dispatching, guards, ejection, generations.

mod callers;
mod deciding;
mod learning;
mod outliers;
mod slow_start;
mod split;
mod waiting;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::backend::CheckOutcome;
use super::*;
use crate::clock::{Clock, ManualClock};
use crate::config::access::Access;
use crate::config::settings::*;
use crate::measure::objective::Objectives;
use crate::measure::outcome::Blame;
use crate::random::Random;
use crate::route::admission::OnOverload;
use crate::route::load::Load;
use crate::route::policy::PolicyKind;
use crate::route::snapshot::RequestFacts;

const SECOND: Duration = Duration::from_secs(1);

pub(super) fn now() -> Instant {
    ManualClock::new().now()
}

fn backend(name: &str) -> Backend {
    let port = 9000 + u16::from(name.as_bytes()[0]);
    Backend {
        name: name.into(),
        url: BackendUrl { https: false, host: "127.0.0.1".into(), port, base_path: "".into() },
        allow_link_local: false,
        tls: BackendTls::default(),
        http2: false,
        profile: None,
        profile_id: None,
        models: Some(vec![ModelPattern("m".into())]),
        rename: Vec::new(),
        price: None,
        max_in_flight: None,
        context_length: None,
        features: Features::default(),
        credential: Credential::None,
        health: Health::default(),
        metrics: None,
        gpus: Vec::new(),
        dcgm: None,
    }
}

fn route(name: &str, members: &[usize]) -> Route {
    Route {
        name: name.into(),
        matches: RouteMatch::default(),
        backends: members.iter().map(|&index| (index, 1)).collect(),
        objectives: Objectives::default(),
        window: SECOND * 300,
        budget_period: SECOND * 86_400,
        policy: PolicyKind::LeastInFlight,
        split: None,
        shadow_policy: None,
        priority: 0,
        on_overload: OnOverload::default(),
        prefix_affinity: PrefixAffinity::default(),
        timeouts: Timeouts::default(),
        retry: Retry::default(),
        commit: Commit::default(),
        hedge: None,
        heartbeat: None,
        expose: false,
        client_slo: ClientSlo::default(),
    }
}

fn settings(backends: Vec<Backend>, routes: Vec<Route>) -> Arc<Settings> {
    Arc::new(Settings {
        listeners: Vec::new(),
        limits: Limits::default(),
        shutdown: Shutdown::default(),
        threads: 1,
        trusted_proxies: Vec::new(),
        admin: Admin { address: ([127, 0, 0, 1], 0).into(), token: None, open_metrics: true, trace_url: None },
        telemetry: Telemetry::default(),
        state: None,
        baselines: None,
        access: Access::default(),
        backends: backends.into_iter().map(Arc::new).collect(),
        routes: routes.into_iter().map(Arc::new).collect(),
    })
}

/// A fleet with one route over these backends, all ready.
fn fleet(backends: Vec<Backend>, now: Instant) -> Fleet {
    let members: Vec<_> = (0..backends.len()).collect();
    let fleet = Fleet::new(settings(backends, vec![route("r", &members)]), now).unwrap();
    fleet.backends().iter().for_each(|one| one.shared.checked(CheckOutcome::Passed, now));
    fleet
}

/// A fleet whose backends are configured with these ids of profiles.
pub(super) fn fleet_of_profiles(ids: &[&str], now: Instant) -> Fleet {
    let of = |id: &&str| Backend {
        profile: Some((*id).into()),
        profile_id: crate::nim::ProfileId::parse(id),
        ..backend("p")
    };
    fleet(ids.iter().map(of).collect(), now)
}

fn request(model: &str) -> Request<'_> {
    let facts = RequestFacts { input_tokens: 100, max_tokens: Some(50), stream: true, ..RequestFacts::default() };
    Request { model, facts, ..Request::default() }
}

fn send(fleet: &Fleet, now: Instant) -> Dispatched {
    fleet.dispatch(0, &request("m"), &[], now).unwrap()
}

#[track_caller]
fn check_idle(fleet: &Fleet) {
    for backend in fleet.backends() {
        assert_eq!((backend.in_flight(), backend.waiting_tokens()), (0, 0), "{}", backend.name());
        assert_eq!(backend.shared.streaming.load(Ordering::Relaxed), 0);
        let (model, nothing) = (backend.shared.model(), Load::default());
        assert_eq!((model.load().in_flight(), model.load().own()), (0, nothing), "{}", backend.name());
    }
    for route in fleet.routes() {
        assert_eq!((route.active(), route.retrying()), (0, 0));
    }
}

#[test]
fn what_is_in_flight_is_released_exactly_once_however_it_ends() {
    let now = now();
    let fleet = fleet(vec![backend("a")], now);
    let (dropped, mut answered, ended) = (send(&fleet, now), send(&fleet, now), send(&fleet, now));
    assert_eq!((fleet.backends()[0].in_flight(), fleet.backends()[0].waiting_tokens()), (3, 300));
    answered.in_flight.first_token(now);
    answered.in_flight.first_token(now);
    assert_eq!(fleet.backends()[0].waiting_tokens(), 200);
    drop((dropped, answered));
    ended.in_flight.ended(Blame::Success, now);
    check_idle(&fleet);
}

#[test]
fn places_are_never_oversold_and_none_leaks_under_concurrency() {
    const THREADS: u64 = 16;
    const EACH: u64 = 6_250;
    let now = now();
    let limited = |name, most| Backend { max_in_flight: Some(most), ..backend(name) };
    let mut route = route("r", &[0, 1]);
    route.policy = PolicyKind::CheapestWithinSlo;
    let fleet = Fleet::new(settings(vec![limited("a", 3), limited("b", 4)], vec![route]), now).unwrap();
    fleet.backends().iter().for_each(|one| one.shared.checked(CheckOutcome::Passed, now));
    let inside = [AtomicU32::new(0), AtomicU32::new(0)];
    let (served, refused) = (AtomicU64::new(0), AtomicU64::new(0));
    let work = |seed| {
        let mut random = Random::seeded(seed);
        for _ in 0..EACH {
            let Ok(mut given) = fleet.dispatch(0, &request("m"), &[], now) else {
                refused.fetch_add(1, Ordering::Relaxed);
                std::thread::yield_now();
                continue;
            };
            let most = given.backend.settings().max_in_flight.unwrap();
            let before = inside[given.index.0].fetch_add(1, Ordering::SeqCst);
            assert!(before < most, "{before} of {most}");
            if random.below(2) == 0 {
                given.in_flight.first_token(now);
            }
            let permit = fleet.retry_permit(0);
            if random.below(4) == 0 {
                std::thread::yield_now();
            }
            inside[given.index.0].fetch_sub(1, Ordering::SeqCst);
            match random.below(3) {
                0 => given.in_flight.ended(Blame::Success, now),
                1 => given.in_flight.ended(Blame::Neutral, now),
                _ => drop(given),
            }
            drop(permit);
            served.fetch_add(1, Ordering::Relaxed);
        }
    };
    std::thread::scope(|scope| {
        (0..THREADS).for_each(|seed| drop(scope.spawn(move || work(seed))));
    });
    assert_eq!(served.into_inner() + refused.into_inner(), THREADS * EACH);
    check_idle(&fleet);
    assert_eq!(fleet.decisions(usize::MAX, |_| true).len(), decisions::REMEMBERED);
}

#[test]
fn a_full_backend_is_passed_over_until_a_place_is_free() {
    let now = now();
    let one = Backend { max_in_flight: Some(1), ..backend("a") };
    let fleet = fleet(vec![one], now);
    let first = send(&fleet, now);
    let refused = fleet.dispatch(0, &request("m"), &[], now).unwrap_err();
    assert_eq!(refused, NoCandidate::AllFull { retry_after: SECOND });
    drop(first);
    send(&fleet, now);
}

#[track_caller]
fn check_refused(
    change: impl Fn(&mut Backend),
    request: &Request<'_>,
    exclude: &[BackendIndex],
    expected: NoCandidate,
) {
    let now = now();
    let mut one = backend("a");
    change(&mut one);
    let refused = fleet(vec![one], now).dispatch(0, request, exclude, now).unwrap_err();
    assert_eq!(refused, expected);
}

#[test]
fn a_refusal_names_its_reason() {
    let needs = Needs { vision: true, ..Needs::default() };
    let picture = Request { needs, ..request("m") };
    let blind = |one: &mut Backend| one.features.vision = false;
    check_refused(|_| {}, &request("other"), &[], NoCandidate::NoSuchModel);
    check_refused(blind, &picture, &[], NoCandidate::MissingFeature("vision"));
    check_refused(|one| one.context_length = Some(149), &request("m"), &[], NoCandidate::TooLong { limit: 149 });
    check_refused(|_| {}, &request("m"), &[BackendIndex(0)], NoCandidate::Excluded);
    check_refused(|one| one.models = None, &request("m"), &[], NoCandidate::Loading { retry_after: RETRY_AFTER });
}

#[test]
fn health_decides_what_a_client_is_told() {
    let now = now();
    let fleet = Fleet::new(settings(vec![backend("a")], vec![route("r", &[0])]), now).unwrap();
    let shared = &fleet.backends()[0].shared;
    let told = || fleet.dispatch(0, &request("m"), &[], now).err();
    let (loading, down) =
        (NoCandidate::Loading { retry_after: RETRY_AFTER }, NoCandidate::NoneHealthy { retry_after: RETRY_AFTER });
    assert_eq!((told(), fleet.readiness().ready), (Some(loading), false));
    shared.checked(CheckOutcome::NotReady(503), now);
    assert_eq!((told(), fleet.backends()[0].state()), (Some(loading), BackendState::Warming));
    shared.checked(CheckOutcome::Passed, now);
    assert_eq!((told(), fleet.readiness().ready), (None, true));
    shared.checked(CheckOutcome::TimedOut, now);
    assert_eq!(told(), None, "one late answer is not yet an outage");
    shared.checked(CheckOutcome::NotReady(503), now);
    assert_eq!((told(), fleet.backends()[0].state()), (Some(down), BackendState::Down));
    shared.checked(CheckOutcome::Unreachable, now);
    shared.checked(CheckOutcome::NotReady(503), now);
    assert_eq!(fleet.backends()[0].state(), BackendState::Warming, "it started anew and loads");
    fleet.backends()[0].drain();
    shared.checked(CheckOutcome::Passed, now);
    assert_eq!((told(), fleet.backends()[0].state()), (Some(down), BackendState::Draining));
    fleet.backends()[0].undrain();
    assert_eq!(told(), None);
}

fn fail(fleet: &Fleet, index: usize, now: Instant) {
    let others: Vec<_> = (0..fleet.backends().len()).filter(|&one| one != index).map(BackendIndex).collect();
    for _ in 0..5 {
        if let Ok(given) = fleet.dispatch(0, &request("m"), &others, now) {
            given.in_flight.ended(Blame::Fault, now);
        }
    }
}

#[test]
fn at_most_half_of_a_pool_is_ejected_and_never_the_last() {
    let now = now();
    let states = |fleet: &Fleet| fleet.backends().iter().map(|one| one.state().as_str()).collect::<Vec<_>>();
    let pool = fleet(vec![backend("a"), backend("b"), backend("c")], now);
    (0..3).for_each(|index| fail(&pool, index, now));
    assert_eq!(states(&pool), ["ejected", "ready", "ready"]);
    let pair = fleet(vec![backend("a"), backend("b")], now);
    pair.backends()[1].shared.checked(CheckOutcome::Unreachable, now);
    fail(&pair, 0, now);
    assert_eq!(states(&pair), ["ready", "down"]);
    let single = fleet(vec![backend("a")], now);
    fail(&single, 0, now);
    assert_eq!(states(&single), ["ready"]);
}

#[test]
fn an_ejected_backend_serves_when_all_others_are_down() {
    let now = now();
    let fleet = fleet(vec![backend("a"), backend("b")], now);
    fail(&fleet, 0, now);
    assert_eq!(send(&fleet, now).index, BackendIndex(1));
    fleet.backends()[1].shared.checked(CheckOutcome::Unreachable, now);
    assert_eq!(send(&fleet, now).index, BackendIndex(0));
}

#[test]
fn the_way_back_from_ejection_is_one_request_wide() {
    let now = now();
    let fleet = fleet(vec![backend("a"), backend("b")], now);
    fail(&fleet, 0, now);
    let later = now + SECOND * 7;
    for _ in 0..2 {
        fleet.backends()[0].shared.checked(CheckOutcome::Passed, later);
    }
    assert_eq!(fleet.backends()[0].state(), BackendState::Probing);
    let only_a = |fleet: &Fleet| fleet.dispatch(0, &request("m"), &[BackendIndex(1)], later);
    let probe = only_a(&fleet).unwrap();
    assert_eq!(only_a(&fleet).unwrap_err(), NoCandidate::Excluded);
    drop(probe);
    let probe = only_a(&fleet).unwrap();
    probe.in_flight.ended(Blame::Success, later);
    assert_eq!(fleet.backends()[0].state(), BackendState::Ready);
    check_idle(&fleet);
}

#[test]
fn a_backend_that_owes_answers_and_is_silent_is_ejected() {
    let start = now();
    let fleet = fleet(vec![backend("a"), backend("b")], start);
    let (first, _second) = (send(&fleet, start), send(&fleet, start));
    first.in_flight.sent(start);
    assert_eq!(fleet.eject_stalled(start + SECOND * 20), 0);
    first.in_flight.progressed(start + SECOND * 15);
    let silent = &fleet.backends()[1 - first.index.0];
    assert_eq!(fleet.eject_stalled(start + SECOND * 21), 1);
    assert_eq!(silent.state(), BackendState::Ejected);
    assert_eq!(fleet.eject_stalled(start + SECOND * 60), 0, "the last one stays");
}

#[test]
fn patience_is_three_times_what_was_expected_of_what_is_in_flight() {
    let start = now();
    let fleet = fleet(vec![backend("a"), backend("b")], start);
    // 200,000 tokens at the prior's 0.1 ms each: the first token is expected after 20 s.
    let facts = RequestFacts { input_tokens: 200_000, ..request("m").facts };
    let long = Request { facts, ..request("m") };
    let mut sent = fleet.dispatch(0, &long, &[], start).unwrap();
    assert_eq!(fleet.eject_stalled(start + SECOND * 59), 0);
    sent.in_flight.first_token(start + SECOND * 59);
    sent.in_flight.progressed(start + SECOND * 59);
    assert_eq!(fleet.eject_stalled(start + SECOND * 78), 0);
    assert_eq!(fleet.eject_stalled(start + SECOND * 80), 1, "it awaits no first token");
}

#[test]
fn an_unstreamed_answer_is_waited_for_as_such_answers_take() {
    let start = now();
    let fleet = fleet(vec![backend("a"), backend("b")], start);
    let facts = RequestFacts { stream: false, max_tokens: None, ..request("m").facts };
    let unstreamed = Request { facts, ..request("m") };
    let send = |now| fleet.dispatch(0, &unstreamed, &[BackendIndex(1)], now).unwrap().in_flight;
    let unknown = send(start);
    assert_eq!(fleet.eject_stalled(start + SECOND * 600), 0, "nothing is known of such answers");
    drop(unknown);
    let mut now = start;
    for _ in 0..200 {
        let one = send(now);
        now += SECOND * 30;
        one.served(&Served { output_tokens: Some(100), mean_gap: None, held_back: false }, now);
    }
    let _silent = send(now);
    assert_eq!(fleet.eject_stalled(now + SECOND * 60), 0);
    assert_eq!(fleet.eject_stalled(now + SECOND * 900), 1);
}

#[test]
fn silence_that_a_client_is_the_cause_of_is_no_fault() {
    let start = now();
    let fleet = fleet(vec![backend("a"), backend("b")], start);
    let mut slow = send(&fleet, start);
    slow.in_flight.sent(start);
    slow.in_flight.excuse();
    let late = start + SECOND * 60;
    assert_eq!(fleet.eject_stalled(late), 0, "it is not listened to");
    slow.in_flight.listen(late);
    assert_eq!(fleet.eject_stalled(late + SECOND * 19), 0);
    slow.in_flight.excuse();
    // The clock of the next one does not begin with the slow one's last byte.
    let next = fleet.dispatch(0, &request("m"), &[BackendIndex(1 - slow.index.0)], late + SECOND * 60).unwrap();
    next.in_flight.sent(late + SECOND * 60);
    assert_eq!(fleet.eject_stalled(late + SECOND * 61), 0);
    assert_eq!(fleet.eject_stalled(late + SECOND * 81), 1);
    drop((slow, next));
    check_idle(&fleet);
}

#[test]
fn a_new_generation_keeps_what_is_the_same_and_forgets_what_is_not() {
    let now = now();
    let old = fleet(vec![backend("a"), backend("b")], now);
    let held = old.dispatch(0, &request("m"), &[BackendIndex(1)], now).unwrap();
    let mut moved = backend("b");
    moved.url.port = 1;
    let limited = Backend { max_in_flight: Some(1), ..backend("a") };
    let new = old.rebuilt(settings(vec![moved, limited], vec![route("r", &[1, 0])]), now).unwrap();
    assert_eq!(old.backends()[0].shared.latest.load().max_in_flight, None, "nothing changes until it is settled");
    new.settle();
    let states = new.backends().iter().map(|one| (one.state(), one.in_flight())).collect::<Vec<_>>();
    assert_eq!(states, [(BackendState::Unknown, 0), (BackendState::Ready, 1)]);
    assert_eq!(new.routes()[0].active(), 1);
    let full = NoCandidate::AllFull { retry_after: SECOND };
    assert_eq!(new.dispatch(0, &request("m"), &[], now).unwrap_err(), full, "the place taken before counts");
    drop(held);
    let given = new.dispatch(0, &request("m"), &[], now).unwrap();
    assert_eq!((given.index, &**given.backend.name()), (BackendIndex(1), "a"));
    drop(given);
    check_idle(&new);
}

#[test]
fn a_broken_certificate_file_is_an_error_and_changes_nothing() {
    let now = now();
    let old = fleet(vec![backend("a")], now);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
    for ca in [file.path().to_path_buf(), "/nowhere/ca.pem".into()] {
        let mut broken = backend("b");
        broken.url.https = true;
        broken.tls.ca = Some(ca);
        let limited = Backend { max_in_flight: Some(1), ..backend("a") };
        let error = old.rebuilt(settings(vec![limited, broken], vec![route("r", &[0, 1])]), now).unwrap_err();
        assert!(error.to_string().starts_with("backend `b`: "), "{error}");
    }
    assert_eq!(old.backends()[0].shared.latest.load().max_in_flight, None);
}

#[test]
fn retries_are_a_share_of_what_is_active_and_a_few_in_any_case() {
    let now = now();
    let fleet = fleet(vec![backend("a")], now);
    let permits = || std::iter::from_fn(|| fleet.retry_permit(0)).collect::<Vec<_>>();
    assert_eq!(permits().len(), 3);
    let active: Vec<_> = (0..50).map(|_| send(&fleet, now)).collect();
    // A fifth of the 42 others: what is tried again is among those that are active.
    assert_eq!(permits().len(), 8);
    drop(active);
    check_idle(&fleet);
}

#[test]
fn an_alias_is_sent_under_the_backends_own_name() {
    let now = now();
    let one = Backend { rename: vec![("short".into(), "m".into())], ..backend("a") };
    let fleet = fleet(vec![one], now);
    let given = fleet.dispatch(0, &request("short"), &[], now).unwrap();
    assert_eq!(given.model_name.as_deref(), Some("m"));
    assert_eq!(send(&fleet, now).model_name, None);
    assert_eq!(fleet.models(|_| None, None), ["m".into(), "short".into()]);
}

#[track_caller]
fn check_match(path: &str, tier: Option<&'static str>, model: Option<&str>, expected: RouteMatchResult) {
    let mut chat = route("chat", &[0]);
    chat.matches.models = vec![ModelPattern("m".into())];
    chat.matches.headers = vec![("x-tier".into(), "fast".into())];
    let mut own = route("own", &[0]);
    own.matches.paths = vec!["/own".into()];
    let any = route("any", &[0]);
    let fleet = Fleet::new(settings(vec![backend("a")], vec![chat, own, any]), now()).unwrap();
    let headers = |name: &str| tier.filter(|_| name == "x-tier");
    assert_eq!(fleet.match_route(path, headers, model, None), expected, "{path} {tier:?} {model:?}");
}

#[test]
fn the_first_route_that_fits_serves() {
    const CHAT: &str = "/v1/chat/completions";
    check_match(CHAT, Some("fast"), Some("m"), RouteMatchResult::Found(0));
    check_match(CHAT, Some("slow"), Some("m"), RouteMatchResult::Found(2));
    check_match(CHAT, None, Some("m"), RouteMatchResult::Found(2));
    check_match(CHAT, None, Some("unknown"), RouteMatchResult::NoSuchModel);
    check_match("/own", None, None, RouteMatchResult::Found(1));
    check_match("/v1/files", None, None, RouteMatchResult::NoRoute);
    check_match("/v2/models/m/infer", None, Some("m"), RouteMatchResult::Found(2));
}

#[test]
fn addresses_that_are_not_allowed_any_more_are_not_kept() {
    let now = now();
    let named = |allow_link_local| {
        let mut backend = Backend { allow_link_local, ..backend("a") };
        backend.url.host = "metadata.test".into();
        settings(vec![backend], vec![route("r", &[0])])
    };
    let old = Fleet::new(named(true), now).unwrap();
    old.backends()[0].shared.set_addresses(&["169.254.169.254:80".parse().unwrap()]);
    let addresses = |fleet: &Fleet| fleet.backends()[0].endpoints().len();
    assert_eq!(addresses(&old.rebuilt(named(true), now).unwrap()), 1);
    assert_eq!(addresses(&old.rebuilt(named(false), now).unwrap()), 0);
}

#[test]
fn prompt_sizes_are_learned_per_known_model() {
    let fleet = fleet(vec![backend("a")], now());
    assert_eq!(fleet.estimate_tokens("m", 1_000), 250);
    for _ in 0..200 {
        fleet.learn_prompt_size("m", 1_000, 500);
        fleet.learn_prompt_size("unknown", 1_000, 500);
    }
    assert_eq!((fleet.estimate_tokens("m", 1_000), fleet.estimate_tokens("unknown", 1_000)), (500, 250));
    assert_eq!((fleet.serves_model("m").as_deref(), fleet.serves_model("x")), (Some("m"), None));
    (0..200).for_each(|_| fleet.learn_prompt_size("m", 1_000, 1_000_000));
    assert_eq!(fleet.estimate_tokens("m", 1_000), 1_000, "text has no more tokens than bytes");
}
