//! What becomes of a backend that began to serve not long ago, rule by rule.

use super::*;

/// Which share of the requests each backend gets, when the second has come so far; nothing ever stays in flight for
/// longer than the next two requests.
fn shares(kind: PolicyKind, ramp: f64) -> f64 {
    let mut state = PolicyState::seeded(5);
    let (mut second, mut under_way) = (0_u32, std::collections::VecDeque::new());
    let requests = 8_000_u32;
    for _ in 0..requests {
        let in_flight = |index| u32::try_from(under_way.iter().filter(|one| **one == index).count()).unwrap();
        // The second one is the cheaper and the faster.
        let mut both = [known(0, 100.0, 10.0, 2.0), known(1, 90.0, 9.0, 1.0)];
        for (index, one) in both.iter_mut().enumerate() {
            one.in_flight = in_flight(index);
        }
        both[1].ramp = ramp;
        kind.hold_back(&mut both, &mut state);
        let (chosen, _) = choose(kind, &both, &mut state).expect("somebody is open");
        second += u32::from(chosen == 1);
        under_way.push_back(chosen);
        if under_way.len() > 20 {
            under_way.pop_front();
        }
    }
    f64::from(second) / f64::from(requests)
}

#[test]
fn who_began_not_long_ago_gets_more_and_more_under_every_policy() {
    for kind in PolicyKind::ALL {
        let steps: Vec<f64> = [0.1, 0.3, 0.5, 0.7, 0.9, 1.0].map(|ramp| shares(kind, ramp)).to_vec();
        let whole = *steps.last().unwrap();
        assert!(steps.windows(2).all(|pair| pair[0] < pair[1] + 0.02), "{}: {steps:?}", kind.as_str());
        assert!(steps[0] > 0.02 && steps[0] < 0.25 * whole, "{}: {steps:?}", kind.as_str());
        assert!(steps[2] < 0.75 * whole && steps[4] > 0.75 * whole, "{}: {steps:?}", kind.as_str());
        println!("{}: {steps:.3?}", kind.as_str());
    }
}
