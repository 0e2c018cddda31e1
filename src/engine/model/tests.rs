use super::*;

const FAR: Duration = Duration::from_secs(100_000);

/// 1,000 tokens/s of prefill, 10 ms a step, 1 ms a decoding sequence: durations one can add up by hand.
fn round() -> Profile {
    let mut profile = Profile::all()[0];
    profile.prefill_rate = 1_000.0;
    profile.step_base = 0.010;
    profile.step_per_sequence = 0.001;
    profile.step_per_token = 0.0;
    profile.chunk = 200;
    profile
}

fn exact(profile: Profile) -> Model {
    Model::new(profile, Random::seeded(1)).noise(0.0)
}

fn request(id: u64, input_tokens: u32, output_tokens: u32) -> Request {
    Request { id, input_tokens, output_tokens, blocks: Vec::new() }
}

fn run(model: &mut Model) -> Vec<Event> {
    let mut events = Vec::new();
    model.advance(FAR, &mut events);
    events
}

#[track_caller]
fn token_times(events: &[Event], of: u64, expected_ms: &[u128]) {
    let times: Vec<u128> = events
        .iter()
        .filter_map(|event| match event {
            // Half a millisecond is added so that a float's tail does not round a whole one down.
            Event::Token { id, at, .. } if *id == of => Some((*at + Duration::from_micros(500)).as_millis()),
            _ => None,
        })
        .collect();
    assert_eq!(times, expected_ms, "of request {of}");
}

#[test]
fn one_request_takes_its_prefill_then_a_step_per_token() {
    let mut model = exact(round());
    model.arrive(Duration::ZERO, &request(1, 100, 4)).expect("room");
    let events = run(&mut model);
    // Prefill: 10 + 100 ms; each further token: 10 + 1 ms.
    token_times(&events, 1, &[110, 121, 132, 143]);
    assert_eq!(events.last(), Some(&Event::Done { id: 1, at: Duration::from_millis(143) }));
    assert!(matches!(events[0], Event::Token { first: true, .. }));
    assert!(events[1..].iter().all(|event| !matches!(event, Event::Token { first: true, .. })));
}

#[test]
fn a_long_prompt_is_computed_in_chunks() {
    let mut model = exact(round());
    model.arrive(Duration::ZERO, &request(1, 500, 1)).expect("room");
    // Two steps of 200 tokens (210 ms each) and one of 100 (110 ms).
    token_times(&run(&mut model), 1, &[530]);
}

#[test]
fn a_prompt_next_door_stretches_the_gap() {
    let mut model = exact(round());
    model.arrive(Duration::ZERO, &request(1, 100, 4)).expect("room");
    let mut events = Vec::new();
    model.advance(Duration::from_millis(110), &mut events);
    model.arrive(Duration::from_millis(115), &request(2, 150, 2)).expect("room");
    events.extend(run(&mut model));
    // The step from 121 ms on decodes one (1 ms) and computes 150 prompt tokens (150 ms): 10 + 1 + 150.
    token_times(&events, 1, &[110, 121, 282, 294]);
    token_times(&events, 2, &[282, 294]);
}

#[test]
fn a_decoding_batch_grows_slower_by_the_sequence() {
    let mut model = exact(round());
    for id in 0..10 {
        model.arrive(Duration::ZERO, &request(id, 1, 3)).expect("room");
    }
    // The first starts at once with 1 token; the nine others join in the second step.
    let events = run(&mut model);
    token_times(&events, 0, &[11, 31, 51]);
    token_times(&events, 9, &[31, 51, 70]);
}

#[test]
fn a_slow_engine_takes_that_many_times_as_long() {
    let mut model = exact(round());
    model.set_slow(3.0);
    model.arrive(Duration::ZERO, &request(1, 100, 2)).expect("room");
    token_times(&run(&mut model), 1, &[330, 363]);
}

#[test]
fn a_dead_engine_says_nothing_until_it_lives_again() {
    let mut model = exact(round());
    model.set_dead(true, Duration::ZERO);
    model.arrive(Duration::ZERO, &request(1, 100, 1)).expect("room");
    assert_eq!((run(&mut model), model.waiting()), (Vec::new(), 1));
    model.set_dead(false, Duration::from_secs(1));
    token_times(&run(&mut model), 1, &[1110]);
}

#[test]
fn a_cached_prefix_is_not_computed_again() {
    let mut model = exact(Profile { chunk: 8192, ..round() });
    let prompt = |id| Request { id, input_tokens: 1124, output_tokens: 1, blocks: vec![11, 12] };
    assert_eq!(model.arrive(Duration::ZERO, &prompt(1)), Ok(0));
    token_times(&run(&mut model), 1, &[1134]);
    assert_eq!(model.arrive(Duration::from_secs(10), &prompt(2)), Ok(1024));
    token_times(&run(&mut model), 2, &[10_110]);
}

#[test]
fn memory_bounds_the_batch_and_preempts_the_youngest() {
    let mut model = exact(Profile { kv_capacity: 120, ..round() });
    model.arrive(Duration::ZERO, &request(1, 50, 40)).expect("room");
    model.arrive(Duration::ZERO, &request(2, 50, 40)).expect("room");
    model.arrive(Duration::ZERO, &request(3, 50, 40)).expect("room");
    let mut events = Vec::new();
    model.advance(Duration::from_millis(130), &mut events);
    assert_eq!((model.running(), model.waiting()), (2, 1));
    events.extend(run(&mut model));
    assert!(model.preemptions() > 0);
    for of in 1..=3 {
        let tokens = events.iter().filter(|e| matches!(e, Event::Token { id, .. } if *id == of)).count();
        let firsts = events.iter().filter(|e| matches!(e, Event::Token { id, first: true, .. } if *id == of));
        assert_eq!((tokens, firsts.count()), (40, 1), "of request {of}");
    }
    assert_eq!(model.kv, 0);
}

#[test]
fn a_prompt_larger_than_the_cache_runs_alone() {
    let mut model = exact(Profile { kv_capacity: 100, ..round() });
    model.arrive(Duration::ZERO, &request(1, 300, 5)).expect("room");
    assert_eq!(run(&mut model).len(), 6);
}

#[test]
fn a_full_queue_refuses_and_changes_nothing() {
    let mut model = exact(Profile { max_sequences: 1, ..round() }).queue_limit(1);
    model.arrive(Duration::ZERO, &request(1, 10, 5)).expect("idle");
    model.arrive(Duration::ZERO, &request(2, 10, 5)).expect("one may wait");
    assert_eq!(model.arrive(Duration::ZERO, &request(3, 10, 5)), Err(Refused { waiting: 1 }));
    let events = run(&mut model);
    assert!(!events.iter().any(|e| matches!(e, Event::Done { id: 3, .. })));
    assert_eq!(events.iter().filter(|e| matches!(e, Event::Done { .. })).count(), 2);
}

#[test]
fn every_arrival_ends_done_or_aborted_and_frees_its_memory() {
    for seed in 0..20 {
        let mut random = Random::seeded(seed);
        let tight = Profile { kv_capacity: 2_000, max_sequences: 8, ..Profile::all()[0] };
        let mut model = Model::new(tight, Random::seeded(seed)).stall(0.01);
        let (mut events, mut aborted) = (Vec::new(), 0);
        for id in 0..200_u64 {
            let now = Duration::from_millis(id * 20);
            model.advance(now, &mut events);
            let mut draw = |bound| u32::try_from(random.below(bound)).expect("small");
            let (input, output) = (1 + draw(900), draw(120));
            model.arrive(now, &request(id, input, output)).expect("no limit");
            let victim = u64::from(draw(200));
            if victim <= id && model.abort(victim) {
                aborted += 1;
            }
        }
        model.advance(FAR, &mut events);
        let done = events.iter().filter(|e| matches!(e, Event::Done { .. })).count();
        assert_eq!((done + aborted, model.running(), model.waiting()), (200, 0, 0), "seed {seed}");
        assert_eq!((model.kv, model.next_event_at()), (0, None), "seed {seed}");
        assert!(events.is_sorted_by_key(|e| match e {
            Event::Token { at, .. } | Event::Done { at, .. } => *at,
        }));
    }
}

#[test]
fn the_same_seed_gives_the_same_events() {
    let events = |seed| {
        let mut model = Model::new(Profile::all()[2], Random::seeded(seed));
        for id in 0..20 {
            model.arrive(Duration::ZERO, &request(id, 300, 30)).expect("room");
        }
        run(&mut model)
    };
    assert_eq!(events(5), events(5));
    assert_ne!(events(5), events(6));
}

#[test]
fn how_often_it_is_advanced_changes_nothing() {
    let mut once = Model::new(Profile::all()[0], Random::seeded(3));
    let mut often = once.clone();
    for model in [&mut once, &mut often] {
        model.arrive(Duration::ZERO, &request(1, 3000, 50)).expect("room");
    }
    let mut events = Vec::new();
    for millis in 0..3000 {
        often.advance(Duration::from_millis(millis), &mut events);
    }
    assert_eq!(run(&mut once), events);
}

#[test]
fn an_engine_is_busy_while_a_step_runs() {
    let mut model = exact(round());
    let millis = Duration::from_millis;
    assert_eq!(model.busy(millis(50)), Duration::ZERO);
    model.advance(millis(50), &mut Vec::new());
    model.arrive(millis(50), &request(1, 100, 2)).expect("room");
    // 110 ms of prefill and 11 ms for the second token; in between, as much as has passed.
    assert_eq!(model.busy(millis(90)), millis(40));
    run(&mut model);
    let within_a_microsecond = model.busy(FAR).abs_diff(millis(121)) < Duration::from_micros(1);
    assert!(within_a_microsecond, "{:?}", model.busy(FAR));
}
