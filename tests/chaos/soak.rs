//! Hours of it, at a pace that leaves a machine room: faults and reloads under load, and how memory and descriptors move.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use super::faults::TOTAL;
use super::mixed::{number, play};
use super::plan::{Dice, Plan};
use super::stage::World;
use super::verdict::judge;
use crate::life::{now, page};

/// Between two looks at the process.
const LOOK: Duration = Duration::from_secs(5);
/// Between two reloads.
const RELOAD: Duration = Duration::from_secs(10);

/// Most descriptors that may come to be open in an hour, where bounds are asked for: a leak of one in a thousand requests
/// is more.
const DESCRIPTORS: f64 = 60.0;

/// One look.
#[derive(Debug, Clone, Copy)]
struct Look {
    /// Seconds since the start.
    at: f64,
    resident_kib: f64,
    descriptors: f64,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes as long as HEADWAY_SOAK says"]
async fn soak() {
    let lasts = std::env::var("HEADWAY_SOAK").unwrap_or_else(|_| "1m".to_owned());
    let lasts = headway::units::parse_duration(&lasts).expect("a duration, such as 30m");
    let (rate, drawn_from) = (number("HEADWAY_SOAK_RATE", 25), number("HEADWAY_CHAOS_SEED", 1));
    println!("soak: {lasts:?} at {rate} requests per second, seed {drawn_from}, a reload every {RELOAD:?}");
    let world = Arc::new(World::start().await);
    let began = now();
    let mut dice = Dice(drawn_from);
    let (mut ticks, mut looks, mut reloads) =
        (tokio::time::interval(Duration::from_micros(1_000_000 / rate)), Vec::new(), 0_u32);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut running, mut count, mut wrong) = (JoinSet::new(), 0_usize, Vec::new());
    let mut next = (began + LOOK, began + RELOAD);
    while now() < began + lasts {
        ticks.tick().await;
        let plan = Plan::draw(count, &mut dice, &world.faults);
        count += 1;
        let of = Arc::clone(&world);
        running.spawn(async move {
            let verdict = match play(&of, &plan).await {
                None => Err("hung".to_owned()),
                Some(seen) => judge(&plan, &seen),
            };
            // What was told is not needed any more.
            of.ledger.lock().unwrap().remove(&plan.number);
            verdict.map_err(|why| format!("{} {:?} {:?}: {why}", plan.id(), plan.speaks, plan.behaves))
        });
        while let Some(done) = running.try_join_next() {
            wrong.extend(done.expect("no client panics").err());
        }
        if now() >= next.0 {
            next.0 += LOOK;
            looks.push(look(&world, now().saturating_duration_since(began)));
        }
        if now() >= next.1 {
            next.1 += RELOAD;
            reloads += 1;
            world.subject.rewrite(&world.config(TOTAL + Duration::from_millis(u64::from(reloads % 7))));
            let (status, text) = page(world.subject.admin, "POST", "/-/reload").await;
            assert_eq!(status, 200, "{text}");
        }
    }
    while let Some(done) = running.join_next().await {
        wrong.extend(done.expect("no client panics").err());
    }
    let slopes = report(count, reloads, &wrong, &looks);
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong[..wrong.len().min(12)].join("\n"));
    left(&world).await;
    if let Some(most) = std::env::var("HEADWAY_SOAK_MOST").ok().and_then(|most| most.parse::<f64>().ok()) {
        let (memory, descriptors) = slopes.expect("it lasted for some looks");
        assert!(memory <= most, "memory grows by {memory:.2} MiB per hour");
        assert!(descriptors <= DESCRIPTORS, "{descriptors:.1} descriptors more per hour");
    }
}

/// Waits until nothing is under way: the last clients have just left.
async fn left(world: &World) {
    let idle = async {
        while world.subject.metric("headway_backend_in_flight", &[]).await != 0.0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(10), idle).await.is_ok(), "some are in flight for ever");
    assert!(world.subject.metric("headway_panics_total", &[]).await == 0.0, "a panic");
}

fn look(world: &World, since: Duration) -> Look {
    let (resident, descriptors) = (world.subject.resident_kib(), world.subject.descriptors());
    Look { at: since.as_secs_f64(), resident_kib: resident as f64, descriptors: descriptors as f64 }
}

/// The slopes per hour, of memory in MiB and of descriptors, are of the second half: pools and caches fill in the first.
fn report(count: usize, reloads: u32, wrong: &[String], looks: &[Look]) -> Option<(f64, f64)> {
    let half = &looks[looks.len() / 2..];
    let slope = |of: fn(&Look) -> f64| 3_600.0 * slope(half, of);
    let (first, last) = half.first().zip(looks.last())?;
    let (memory, descriptors) = (slope(|look| look.resident_kib / 1024.0), slope(|look| look.descriptors));
    println!("soak: {count} requests, {reloads} reloads, {} wrong", wrong.len());
    println!(
        "soak: memory {:.1} MiB at half time, {:.1} MiB at the end, slope {memory:+.2} MiB per hour; descriptors {} and {}, slope {descriptors:+.1} per hour",
        first.resident_kib / 1024.0,
        last.resident_kib / 1024.0,
        first.descriptors,
        last.descriptors,
    );
    Some((memory, descriptors))
}

/// Least squares, per second.
fn slope(looks: &[Look], of: fn(&Look) -> f64) -> f64 {
    let mean = |value: &dyn Fn(&Look) -> f64| looks.iter().map(value).sum::<f64>() / looks.len() as f64;
    let (at, value) = (mean(&|look| look.at), mean(&of));
    let above = looks.iter().map(|look| (look.at - at) * (of(look) - value)).sum::<f64>();
    let below = looks.iter().map(|look| (look.at - at).powi(2)).sum::<f64>();
    if below > 0.0 { above / below } else { 0.0 }
}
