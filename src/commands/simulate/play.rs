//! Plays every game with every contender, on all cores. What comes out depends on the games alone, not on the cores.

use std::io::{IsTerminal, Write, stderr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::available_parallelism;

use super::traffic::Game;
use crate::clock::{Clock, SystemClock};
use crate::policy_simulator::contender::Contender;
use crate::policy_simulator::report::{Column, Configuration, Group};
use crate::policy_simulator::scene::Scene;
use crate::policy_simulator::score::Score;

/// Plays all of it.
pub(super) fn play(games: Vec<Game>, contenders: &[Contender]) -> Vec<Group> {
    let jobs: Vec<(&Contender, &Scene)> = games
        .iter()
        .flat_map(|game| {
            contenders.iter().flat_map(|contender| game.scenes.iter().map(move |scene| (contender, scene)))
        })
        .collect();
    let mut scores = scores(&jobs).into_iter();
    let mut column = |contender: &Contender, runs: usize| Column {
        contender: contender.clone(),
        scores: scores.by_ref().take(runs).collect(),
    };
    let mut group = |game: Game| Group {
        columns: contenders.iter().map(|contender| column(contender, game.scenes.len())).collect(),
        configurations: game.scenes.iter().map(Configuration::of).collect(),
        name: game.name,
        about: game.about,
    };
    games.into_iter().map(&mut group).collect()
}

/// The scores of all jobs, in their order.
fn scores(jobs: &[(&Contender, &Scene)]) -> Vec<Score> {
    // Virtual time starts at any instant; only differences count.
    let base = SystemClock.now();
    let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let work = || {
        let mut own = Vec::new();
        while let Some((number, (contender, scene))) = take(&next, jobs) {
            own.push((number, Score::of(scene, &contender.play(scene, base))));
            progress(done.fetch_add(1, Ordering::Relaxed) + 1, jobs.len());
        }
        own
    };
    let workers = available_parallelism().map_or(1, usize::from).min(jobs.len().max(1));
    let mut all: Vec<(usize, Score)> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        workers
            .into_iter()
            .flat_map(|worker| worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    });
    all.sort_by_key(|(number, _)| *number);
    all.into_iter().map(|(_, score)| score).collect()
}

fn take<'a, T>(next: &AtomicUsize, jobs: &'a [T]) -> Option<(usize, &'a T)> {
    let number = next.fetch_add(1, Ordering::Relaxed);
    jobs.get(number).map(|job| (number, job))
}

/// One line that is written over, on a terminal only.
fn progress(done: usize, of: usize) {
    let mut err = stderr().lock();
    if err.is_terminal() {
        let end = if done == of { "\r\x1b[K" } else { "" };
        let _ = write!(err, "\rsimulating: {done} of {of} runs{end}");
        let _ = err.flush();
    }
}
