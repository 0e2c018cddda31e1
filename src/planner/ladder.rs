//! Which load to try next: up until objectives are missed by far, then between the last that was kept and the first that
//! was not.

use crate::measure::objective::Objectives;

use super::point::Point;

/// A load is the last one up when every objective is missed by this factor: beyond, a backend is only hurt.
const STOP: f64 = 2.0;
/// Loads closer than this are not told apart.
const CLOSE: f64 = 1.3;

/// The loads of a sweep of one backend with requests of one shape.
#[derive(Debug, Clone, Copy)]
pub struct Ladder<'a> {
    /// Clients at once, ascending.
    pub rungs: &'a [u32],
    /// What the routes promise that the backend is for.
    pub promises: &'a [Objectives],
    /// How many loads between rungs are tried.
    pub between: usize,
}

impl Ladder<'_> {
    /// The next load, after those that were measured; `None` at the end.
    #[must_use]
    pub fn next(&self, measured: &[Point]) -> Option<u32> {
        let failing = measured.iter().any(Point::fails);
        let climbed = self.rungs.iter().take_while(|rung| measured.iter().any(|point| point.concurrency == **rung));
        let climbed = climbed.count();
        let at_top = climbed.checked_sub(1).and_then(|place| self.rungs.get(place)).copied();
        let top = measured.iter().find(|point| Some(point.concurrency) == at_top);
        if top.is_none_or(|top| self.may_climb(top))
            && let Some(rung) = self.rungs.get(climbed)
        {
            return Some(*rung);
        }
        let tried_between = measured.iter().filter(|point| !self.rungs.contains(&point.concurrency)).count();
        // What failed is not asked again, not even for less.
        (tried_between < self.between && !failing).then(|| self.between(measured)).flatten()
    }

    /// Whether some promise is not yet missed by far.
    fn may_climb(&self, top: &Point) -> bool {
        if top.fails() || top.samples.is_empty() {
            return false;
        }
        let mut ratios = self.promises.iter().filter_map(|promise| top.tightest(promise)).map(|(_, ratio)| ratio);
        let laxest = ratios.clone().fold(f64::INFINITY, f64::min);
        ratios.next().is_none() || laxest < STOP
    }

    /// The geometric middle between the highest load that keeps a promise and the lowest that does not, for the promise
    /// where they are the farthest apart.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between two numbers of clients")]
    fn between(&self, measured: &[Point]) -> Option<u32> {
        let gaps = self.promises.iter().filter_map(|promise| bracket(measured, promise));
        let (low, high) = gaps.max_by(|one, other| apart(*one).total_cmp(&apart(*other)))?;
        let middle = (f64::from(low) * f64::from(high)).sqrt().round() as u32;
        (apart((low, high)) > CLOSE && middle > low && middle < high).then_some(middle)
    }
}

fn apart((low, high): (u32, u32)) -> f64 {
    f64::from(high) / f64::from(low.max(1))
}

/// The highest load below the first that misses the promise, and that first one.
fn bracket(measured: &[Point], promise: &Objectives) -> Option<(u32, u32)> {
    let misses = |point: &&Point| point.tightest(promise).is_some_and(|(_, ratio)| ratio > 1.0);
    let high = measured.iter().filter(misses).map(|point| point.concurrency).min()?;
    let low = measured.iter().map(|point| point.concurrency).filter(|load| *load < high).max()?;
    Some((low, high))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::planner::testing::{failure, point, promise};

    const RUNGS: [u32; 4] = [1, 4, 16, 64];

    /// The loads of a sweep of a backend whose TTFT is ten milliseconds a client.
    #[track_caller]
    fn check(promises: &[u64], between: usize, expected: &[u32]) {
        let promises: Vec<_> = promises.iter().map(|ttft| promise(*ttft, 1_000)).collect();
        let ladder = Ladder { rungs: &RUNGS, promises: &promises, between };
        let mut measured = Vec::new();
        while let Some(load) = ladder.next(&measured) {
            assert!(measured.len() < 20, "it goes on");
            measured.push(point(load, u64::from(load) * 10, 1));
        }
        assert_eq!(measured.iter().map(|point| point.concurrency).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn it_stops_where_every_promise_is_missed_by_far() {
        check(&[1_000], 0, &[1, 4, 16, 64]);
        check(&[50], 0, &[1, 4, 16]);
        // The laxest promise decides.
        check(&[50, 200], 0, &[1, 4, 16, 64]);
        check(&[2], 0, &[1]);
        check(&[], 0, &[1, 4, 16, 64]);
    }

    #[test]
    fn it_then_looks_between_what_is_kept_and_what_is_not() {
        check(&[50], 2, &[1, 4, 16, 8, 6]);
        check(&[10_000], 2, &[1, 4, 16, 64]);
        // Nothing lies below one client.
        check(&[2], 2, &[1]);
    }

    #[test]
    fn a_backend_that_fails_is_left_alone() {
        let promises = [promise(1_000, 1_000)];
        let ladder = Ladder { rungs: &RUNGS, promises: &promises, between: 2 };
        let mut failing = point(4, 10, 1);
        failing.samples.extend(vec![failure(1); 3]);
        assert_eq!(ladder.next(&[point(1, 10, 1), failing]), None);
        let mut silent = point(1, 10, 1);
        silent.samples.clear();
        assert_eq!(ladder.next(&[silent]), None);
    }
}
