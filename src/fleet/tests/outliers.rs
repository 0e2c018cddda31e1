//! A backend that becomes much slower than it was is told, and taken out when it stays so.

use super::*;

const MS: Duration = Duration::from_millis(1);

/// Serves a stream at each backend every 100 ms, that takes so many times as long as usual; watches every second.
fn serve(fleet: &Fleet, now: &mut Instant, seconds: u32, times: [u32; 2]) -> usize {
    let mut ejected = 0;
    for _ in 0..seconds {
        for _ in 0..10 {
            for (index, times) in times.iter().enumerate() {
                let other = [BackendIndex(1 - index)];
                let Ok(mut sent) = fleet.dispatch(0, &request("m"), &other, *now) else { continue };
                let first = *now + MS * 100 * *times;
                sent.in_flight.first_token(first);
                sent.in_flight.tokens(33, first + MS * 320 * *times);
                let mean_gap = Some(MS * 10 * *times);
                let served = crate::fleet::Served { output_tokens: Some(33), mean_gap, held_back: false };
                sent.in_flight.served(&served, first + MS * 320 * *times);
            }
            *now += MS * 100;
        }
        ejected += fleet.watch_paces(*now);
    }
    ejected
}

fn slow(fleet: &Fleet) -> Vec<bool> {
    fleet.backends().iter().map(|one| one.is_slow()).collect()
}

#[test]
fn one_that_slows_down_alone_is_told_and_then_ejected() {
    let mut now = now();
    let fleet = fleet(vec![backend("a"), backend("b")], now);
    assert_eq!(serve(&fleet, &mut now, 60, [1, 1]), 0);
    assert_eq!(slow(&fleet), [false, false]);
    assert_eq!(serve(&fleet, &mut now, 30, [1, 5]), 0);
    assert_eq!(slow(&fleet), [false, true]);
    assert_eq!(serve(&fleet, &mut now, 60, [1, 5]), 1);
    assert_eq!(fleet.backends()[1].state(), BackendState::Ejected);
    assert_eq!(fleet.backends()[0].state(), BackendState::Ready);
}

#[test]
fn what_slows_all_or_passes_ejects_nobody() {
    let mut now = now();
    let fleet = fleet(vec![backend("a"), backend("b")], now);
    serve(&fleet, &mut now, 60, [1, 1]);
    assert_eq!(serve(&fleet, &mut now, 120, [5, 5]), 0);
    let mut later = now;
    let other = super::fleet(vec![backend("a"), backend("b")], later);
    serve(&other, &mut later, 60, [1, 1]);
    serve(&other, &mut later, 20, [1, 5]);
    assert_eq!(slow(&other), [false, true]);
    assert_eq!(serve(&other, &mut later, 60, [1, 1]), 0);
    assert_eq!(slow(&other), [false, false]);
}

#[test]
fn one_alone_is_told_and_never_ejected_and_a_switch_keeps_the_others() {
    let mut now = now();
    let kept = Health { eject_slow: false, ..Health::default() };
    let fleet = fleet(vec![backend("a"), Backend { health: kept, ..backend("b") }], now);
    serve(&fleet, &mut now, 60, [1, 1]);
    assert_eq!(serve(&fleet, &mut now, 150, [1, 5]), 0);
    assert_eq!(slow(&fleet), [false, true]);
}
