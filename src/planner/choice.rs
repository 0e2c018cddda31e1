//! Which of several profiles a route should use, and why.

use super::capacity::{Capacity, Missed};

/// One profile, as it serves a route.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Alternative {
    /// The highest load at which the route's objectives hold; else what is missed.
    pub capacity: Result<Capacity, Missed>,
    /// What a million output tokens cost at that load.
    pub cost: Option<f64>,
    /// GPUs it uses, where that is known.
    pub gpus: Option<u32>,
}

/// Which one, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// The only one that keeps the objectives.
    Only {
        /// Its place.
        place: usize,
    },
    /// The cheapest per token of those that keep the objectives.
    Cheapest {
        /// Its place.
        place: usize,
        /// The next one.
        next: usize,
    },
    /// Of those that keep the objectives, the one with the most tokens per second and GPU: not all of them have a price.
    MostPerGpu {
        /// Its place.
        place: usize,
    },
    /// Several keep the objectives, and neither prices nor numbers of GPUs say which to prefer.
    Undecided,
    /// None keeps the objectives; this one misses them the least.
    None {
        /// Its place, where any was measured.
        nearest: Option<usize>,
    },
}

/// Chooses.
#[must_use]
pub fn choose(options: &[Alternative]) -> Choice {
    let kept: Vec<(usize, &Alternative, &Capacity)> = options
        .iter()
        .enumerate()
        .filter_map(|(place, option)| Some((place, option, option.capacity.as_ref().ok()?)))
        .collect();
    match kept.as_slice() {
        [] => Choice::None { nearest: nearest(options) },
        [(place, ..)] => Choice::Only { place: *place },
        _ => cheapest(&kept).or_else(|| most_per_gpu(&kept)).unwrap_or(Choice::Undecided),
    }
}

type Kept<'a> = (usize, &'a Alternative, &'a Capacity);

fn cheapest(kept: &[Kept<'_>]) -> Option<Choice> {
    let mut priced: Vec<(usize, f64)> =
        kept.iter().map(|(place, option, _)| Some((*place, option.cost?))).collect::<Option<_>>()?;
    priced.sort_by(|one, other| one.1.total_cmp(&other.1));
    let [(place, _), (next, _), ..] = priced.as_slice() else { return None };
    Some(Choice::Cheapest { place: *place, next: *next })
}

fn most_per_gpu(kept: &[Kept<'_>]) -> Option<Choice> {
    let per_gpu = |(place, option, capacity): &Kept<'_>| {
        Some((*place, capacity.tokens_per_second / f64::from(option.gpus?.max(1))))
    };
    let all: Vec<(usize, f64)> = kept.iter().map(per_gpu).collect::<Option<_>>()?;
    let (place, _) = all.into_iter().max_by(|one, other| one.1.total_cmp(&other.1))?;
    Some(Choice::MostPerGpu { place })
}

/// The one that misses by the least; one that failed, or does not show what is promised, is near to nothing.
fn nearest(options: &[Alternative]) -> Option<usize> {
    let missed = options.iter().enumerate().filter_map(|(place, option)| match option.capacity {
        Err(Missed::Objective { ratio, .. }) if ratio.is_finite() => Some((place, ratio)),
        _ => None,
    });
    missed.min_by(|one, other| one.1.total_cmp(&other.1)).map(|(place, _)| place)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::objective::Latency;
    use crate::planner::Extent;

    const KEPT: Capacity = Capacity {
        extent: Extent::AtLeast,
        concurrency: 8.0,
        requests_per_second: 4.0,
        tokens_per_second: 400.0,
        input_tokens: 200.0,
        output_tokens: 100.0,
    };

    fn kept(cost: Option<f64>, tokens_per_second: f64, gpus: u32) -> Alternative {
        let capacity = Ok(Capacity { tokens_per_second, ..KEPT });
        Alternative { capacity, cost, gpus: Some(gpus) }
    }

    fn missed(ratio: f64) -> Alternative {
        let capacity = Err(Missed::Objective { latency: Latency::InterToken, ratio, concurrency: 1 });
        Alternative { capacity, cost: Some(0.01), gpus: None }
    }

    #[test]
    fn the_cheapest_that_keeps_the_promise_is_chosen_and_the_next_is_named() {
        let all = [missed(1.1), kept(Some(3.0), 900.0, 1), kept(Some(1.0), 400.0, 1), kept(Some(2.0), 500.0, 1)];
        assert_eq!(choose(&all), Choice::Cheapest { place: 2, next: 3 });
        assert_eq!(choose(&all[..2]), Choice::Only { place: 1 });
    }

    #[test]
    fn without_prices_what_a_gpu_gives_decides() {
        let both = [kept(None, 900.0, 2), kept(Some(9.0), 500.0, 1)];
        assert_eq!(choose(&both), Choice::MostPerGpu { place: 1 });
        let unknown = Alternative { gpus: None, ..kept(None, 900.0, 1) };
        assert_eq!(choose(&[unknown, kept(Some(9.0), 500.0, 1)]), Choice::Undecided);
    }

    #[test]
    fn where_none_keeps_the_promise_the_nearest_is_named() {
        assert_eq!(choose(&[missed(3.0), missed(1.2)]), Choice::None { nearest: Some(1) });
        let unmeasured = Alternative { capacity: Err(Missed::Unmeasured), ..missed(1.0) };
        assert_eq!(choose(&[missed(f64::INFINITY)]), Choice::None { nearest: None });
        assert_eq!(choose(&[unmeasured]), Choice::None { nearest: None });
        assert_eq!(choose(&[]), Choice::None { nearest: None });
    }
}
