//! Which of several profiles a route should use, and why.

use super::capacity::Capacity;
use crate::measure::objective::Latency;

/// One profile, as it serves a route.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Alternative<'a> {
    /// What it is called.
    pub name: &'a str,
    /// The highest load at which the route's objectives hold; else what is missed by a single client, and by which
    /// factor.
    pub capacity: Result<Capacity, Option<(Latency, f64)>>,
    /// What a million output tokens cost at that load.
    pub cost: Option<f64>,
    /// GPUs it uses.
    pub gpus: Option<u32>,
}

/// Which one, and why.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Choice {
    /// The cheapest per token of those that keep the objectives.
    Cheapest {
        /// Its place.
        place: usize,
        /// The next one, where there is one.
        next: Option<usize>,
    },
    /// Of those that keep the objectives, the one with the most tokens per second and GPU: not all of them have a price.
    MostPerGpu {
        /// Its place.
        place: usize,
    },
    /// None keeps the objectives; this one misses them the least.
    None {
        /// Its place, where any was measured.
        nearest: Option<usize>,
    },
}

/// Chooses.
#[must_use]
pub fn choose(options: &[Alternative<'_>]) -> Choice {
    let kept: Vec<(usize, &Alternative<'_>, &Capacity)> = options
        .iter()
        .enumerate()
        .filter_map(|(place, option)| Some((place, option, option.capacity.as_ref().ok()?)))
        .collect();
    if kept.is_empty() {
        let missed = options.iter().enumerate().filter_map(|(place, option)| match option.capacity {
            Err(Some((_, ratio))) => Some((place, ratio)),
            _ => None,
        });
        let nearest = missed.min_by(|one, other| one.1.total_cmp(&other.1)).map(|(place, _)| place);
        return Choice::None { nearest };
    }
    let priced: Option<Vec<(usize, f64)>> =
        kept.iter().map(|(place, option, _)| Some((*place, option.cost?))).collect();
    if let Some(mut priced) = priced {
        priced.sort_by(|one, other| one.1.total_cmp(&other.1));
        let mut places = priced.into_iter().map(|(place, _)| place);
        if let Some(place) = places.next() {
            return Choice::Cheapest { place, next: places.next() };
        }
    }
    let per_gpu = |option: &Alternative<'_>, capacity: &Capacity| {
        capacity.tokens_per_second / f64::from(option.gpus.unwrap_or(1).max(1))
    };
    let best = kept.iter().max_by(|one, other| per_gpu(one.1, one.2).total_cmp(&per_gpu(other.1, other.2)));
    best.map_or(Choice::None { nearest: None }, |(place, ..)| Choice::MostPerGpu { place: *place })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::planner::Extent;

    const KEPT: Capacity = Capacity {
        extent: Extent::AtLeast,
        concurrency: 8.0,
        requests_per_second: 4.0,
        tokens_per_second: 400.0,
        input_tokens: 200.0,
        output_tokens: 100.0,
    };

    fn kept(cost: Option<f64>, tokens_per_second: f64, gpus: u32) -> Alternative<'static> {
        let capacity = Ok(Capacity { tokens_per_second, ..KEPT });
        Alternative { name: "kept", capacity, cost, gpus: Some(gpus) }
    }

    fn missed(ratio: f64) -> Alternative<'static> {
        Alternative { name: "missed", capacity: Err(Some((Latency::InterToken, ratio))), cost: Some(0.01), gpus: None }
    }

    #[test]
    fn the_cheapest_that_keeps_the_promise_is_chosen_and_the_next_is_named() {
        let all = [missed(1.1), kept(Some(3.0), 900.0, 1), kept(Some(1.0), 400.0, 1), kept(Some(2.0), 500.0, 1)];
        assert_eq!(choose(&all), Choice::Cheapest { place: 2, next: Some(3) });
        assert_eq!(choose(&all[..2]), Choice::Cheapest { place: 1, next: None });
    }

    #[test]
    fn without_prices_what_a_gpu_gives_decides() {
        assert_eq!(choose(&[kept(None, 900.0, 2), kept(Some(9.0), 500.0, 1)]), Choice::MostPerGpu { place: 1 });
    }

    #[test]
    fn where_none_keeps_the_promise_the_nearest_is_named() {
        assert_eq!(choose(&[missed(3.0), missed(1.2)]), Choice::None { nearest: Some(1) });
        let unmeasured = Alternative { capacity: Err(None), ..missed(1.0) };
        assert_eq!(choose(&[unmeasured]), Choice::None { nearest: None });
        assert_eq!(choose(&[]), Choice::None { nearest: None });
    }
}
