//! The least of some candidates by a number, and among equals a draw.

use crate::random::Random;

/// Where the least stands, by `key` and then by `then`; `None` when `key` is none everywhere. Equals are drawn, each with
/// the same chance: replicas that know the same must not all send to the first.
pub(super) fn least<T>(
    all: &[T],
    random: &mut Random,
    key: impl Fn(&T) -> Option<f64>,
    then: impl Fn(&T) -> f64,
) -> Option<usize> {
    let mut best: Option<(f64, f64, usize)> = None;
    let mut equals = 1;
    for (place, one) in all.iter().enumerate() {
        let Some(first) = key(one) else { continue };
        let second = then(one);
        let order = best.map(|(one, other, _)| first.total_cmp(&one).then(second.total_cmp(&other)));
        let better = match order {
            None | Some(std::cmp::Ordering::Less) => {
                equals = 1;
                true
            }
            Some(std::cmp::Ordering::Equal) => {
                equals += 1;
                random.below(equals) == 0
            }
            Some(std::cmp::Ordering::Greater) => false,
        };
        if better {
            best = Some((first, second, place));
        }
    }
    best.map(|(_, _, place)| place)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_wins_and_equals_are_drawn_evenly() {
        let mut random = Random::seeded(1);
        let mut draw = |all: &[(f64, f64)]| least(all, &mut random, |one| Some(one.0), |one| one.1);
        assert_eq!(draw(&[(2.0, 0.0), (1.0, 9.0), (3.0, 0.0)]), Some(1));
        assert_eq!(draw(&[(1.0, 2.0), (1.0, 1.0)]), Some(1));
        assert_eq!(draw(&[]), None);
        let mut counts = [0; 3];
        for _ in 0..3_000 {
            counts[draw(&[(1.0, 1.0), (1.0, 1.0), (1.0, 1.0)]).unwrap()] += 1;
        }
        assert!(counts.iter().all(|count| (900..1_100).contains(count)), "{counts:?}");
        assert_eq!(least(&[1, 2], &mut random, |_| None, |_| 0.0), None);
    }
}
