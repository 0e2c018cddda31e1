//! The whole fault matrix, mixed at random: nothing hangs, nothing is cut in silence, nothing is generated twice after
//! its first byte, everything is recorded once, and nothing is left behind.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::Semaphore;

use super::client::{self, End, Got};
use super::faults::Told;
use super::plan::{Behaves, Dice, Leave, Plan, Speaks, Stage};
use super::stage::{OUR_KEY, PROMPT, THEIR_KEY, World};
use super::verdict::{Seen, judge, recorded, timed_out};
use crate::life::client::{head, reset_on_close};
use crate::life::h2_client::Connection;
use crate::life::{now, until};

/// Requests at once.
const AT_ONCE: usize = 48;
/// What is wrong with those that a timer ended.
const LATE: &str = "late";
const IN_FLIGHT: &str = "headway_backend_in_flight";
/// No answer of any kind for so long is a hang.
const HUNG: Duration = Duration::from_secs(30);

pub(crate) fn number(name: &str, usual: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_goes_wrong_at_once_nothing_is_lost() {
    let (requests, drawn_from) = (number("HEADWAY_CHAOS", 800), number("HEADWAY_CHAOS_SEED", 1));
    let slack = Duration::from_secs(number("HEADWAY_CHAOS_SLACK", 5));
    println!("chaos: seed {drawn_from}, {requests} requests, {AT_ONCE} at once");
    let world = Arc::new(World::start().await);
    let before = world.subject.descriptors();
    let mut dice = Dice(drawn_from);
    let plans = (0..usize::try_from(requests).unwrap()).map(|number| Plan::draw(number, &mut dice, &world.faults));
    let plans: Vec<Plan> = plans.collect();
    let flapping = flap(&world);
    let ended = run(&world, &plans).await;
    flapping.abort();
    world.backends.iter().for_each(|backend| backend.ready(true));

    let mut wrong = Vec::new();
    let mut late: Vec<Duration> = Vec::new();
    let mut by_timer = 0;
    for (plan, seen) in plans.iter().zip(&ended) {
        match seen {
            None => wrong.push(format!("{} hung: {:?}", plan.id(), plan.behaves)),
            Some((seen, verdict)) => {
                let over = seen.took.saturating_sub(plan.due());
                late.push(over);
                if over > slack {
                    wrong.push(format!("{} took {:?}, due {:?}", plan.id(), seen.took, plan.due()));
                }
                if verdict.as_ref().is_err_and(|why| why == LATE) {
                    by_timer += 1;
                } else if let Err(why) = verdict {
                    wrong.push(format!("{} {:?} {:?}: {why}", plan.id(), plan.speaks, plan.behaves));
                }
            }
        }
    }
    let recorded = wrong_records(&world, &plans).await;
    wrong.extend(recorded);
    figures(&plans, &ended, &mut late);
    for (id, outcome) in world.subject.records() {
        let (named, others): (Vec<_>, Vec<_>) = wrong.into_iter().partition(|one| one.starts_with(&(id.clone() + " ")));
        // A client that is starved for so long was cut off by a timer, too.
        let stalled = |one: &String| outcome == "client_stalled" && one.contains("200, Cut");
        by_timer += named.iter().filter(|one| stalled(one)).count();
        let named = named.into_iter().filter(|one| !stalled(one)).map(|one| format!("{one} [{outcome}]"));
        wrong = others.into_iter().chain(named).collect();
    }
    println!("chaos: {by_timer} were late for a timer since the machine was busy");
    assert!(by_timer * 20 <= plans.len(), "{by_timer} were late: too busy a machine to tell");
    wrong.extend(overtaken(&plans, &ended));
    let some = wrong[..wrong.len().min(25)].join("\n");
    assert!(wrong.is_empty(), "seed {drawn_from}, {} wrong:\n{some}", wrong.len());
    kept_to_itself(&world, &ended).await;
    left_behind(&world, before).await;
    happened(&world, &ended).await;
}

/// What clients and backends say to each other, and their keys, are in nothing that headway says by itself.
async fn kept_to_itself(world: &World, ended: &[Ended]) {
    let said = world.subject.said().await;
    assert!(said.contains(" INFO ") && said.contains("headway_requests_total"), "it says something");
    for canary in [PROMPT, THEIR_KEY, OUR_KEY, "\"delta\"", " train"] {
        let found = said.find(canary).map(|at| said[at.saturating_sub(200)..].chars().take(400).collect::<String>());
        assert_eq!(found, None, "{canary} was said");
    }
    for (seen, _) in ended.iter().flatten() {
        let body = String::from_utf8_lossy(&seen.got.body);
        assert!([PROMPT, THEIR_KEY, OUR_KEY].iter().all(|canary| !body.contains(canary)), "{body}");
    }
    println!("chaos: {} KiB of logs and pages, no prompt, answer or key in them", said.len() >> 10);
}

/// Of broken streams over HTTP/2, a few may lose their head to the reset that follows it.
fn overtaken(plans: &[Plan], ended: &[Ended]) -> Option<String> {
    let broken = |plan: &Plan| plan.is_h2() && plan.stays() && matches!(plan.fault.told, Told::Broken);
    let all: Vec<_> = plans.iter().zip(ended).filter(|(plan, _)| broken(plan)).collect();
    let nothing = all.iter().filter(|(_, seen)| seen.as_ref().is_some_and(|(seen, _)| seen.got.status == 0)).count();
    println!("chaos: of {} broken streams over HTTP/2, {nothing} showed nothing", all.len());
    (nothing * 50 > all.len().max(50)).then(|| format!("{nothing} of {} broken streams showed nothing", all.len()))
}

/// What should have happened on the way, in a run that is long enough for it, did; and what never should, did not.
async fn happened(world: &World, ended: &[Ended]) {
    let panics = world.subject.metric("headway_panics_total", &[]).await;
    assert!(panics == 0.0, "{panics} panics");
    let lost = world.subject.metric("headway_attempts_total", &["result=\"hedge_lost\""]).await;
    let (hedges, beats) = (world.subject.hedges(), ended.iter().flatten().map(|(seen, _)| seen.beats).sum::<usize>());
    println!("chaos: {hedges} hedges, {lost} lost to the other try; {beats} comments before answers");
    if ended.len() >= 800 {
        assert!(hedges > 0 && lost > 0.0 && beats > 0, "{hedges} hedges, {lost} lost, {beats} comments");
    }
}

/// One backend says every second that it is not ready (U36).
fn flap(world: &Arc<World>) -> tokio::task::JoinHandle<()> {
    let world = Arc::clone(world);
    tokio::spawn(async move {
        for turn in 0_u64.. {
            world.backends[3].ready(turn % 2 == 1);
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    })
}

/// How a plan ended, and what is wrong with that; `None` when it hung.
type Ended = Option<(Seen, Result<(), String>)>;

/// Plays every plan.
async fn run(world: &Arc<World>, plans: &[Plan]) -> Vec<Ended> {
    let at_once = Arc::new(Semaphore::new(AT_ONCE));
    let mut running = Vec::with_capacity(plans.len());
    for plan in plans {
        let plan = plan.clone();
        let place = Arc::clone(&at_once).acquire_owned().await.expect("a place");
        let world = Arc::clone(world);
        running.push(tokio::spawn(async move {
            let ended = play(&world, &plan).await.map(|mut seen| {
                let late = timed_out(&seen);
                let verdict = judge(&plan, &seen).map_err(|why| if late { LATE.to_owned() } else { why });
                // It was looked at; ten thousand of them are too much to keep.
                seen.got.body = Vec::new();
                (seen, verdict)
            });
            drop(place);
            ended
        }));
    }
    let mut ended = Vec::with_capacity(plans.len());
    for one in running {
        ended.push(one.await.expect("no client panics"));
    }
    ended
}

/// Plays one plan; `None` when it hung.
pub(crate) async fn play(world: &World, plan: &Plan) -> Option<Seen> {
    let began = now();
    let got = tokio::time::timeout(HUNG, speak(world, plan)).await.ok()?;
    let took = now().saturating_duration_since(began);
    let (got, beats) = if plan.beats { without_comments(got) } else { (got, 0) };
    Some(Seen { got, tries: world.tries(plan.number), beats, took })
}

/// What headway put before an answer, and how often.
fn without_comments(mut got: Got) -> (Got, usize) {
    let mut beats = 0;
    while let Some(rest) = got.body.strip_prefix(b": ping\n\n") {
        got.body = rest.to_vec();
        beats += 1;
    }
    (got, beats)
}

async fn speak(world: &World, plan: &Plan) -> Got {
    let body = format!(
        r#"{{"model":"{}","stream":true,"stream_options":{{"include_usage":true}},"messages":[{{"role":"user","content":"{PROMPT}"}}]}}"#,
        plan.model()
    );
    match plan.speaks {
        Speaks::H1 => {
            let stream = world.subject.connect().await;
            if matches!(plan.behaves, Behaves::Leaves(_, Leave::Rst)) {
                reset_on_close(&stream);
            }
            over_h1(stream, plan, &body).await
        }
        Speaks::H1Tls => match world.subject.connect_tls(b"http/1.1").await {
            Ok(stream) => over_h1(stream, plan, &body).await,
            Err(_) => Got::nothing(),
        },
        Speaks::H2 => over_h2(world.subject.connect().await, plan, &body).await,
        Speaks::H2Tls => match world.subject.connect_tls(b"h2").await {
            Ok(stream) => over_h2(stream, plan, &body).await,
            Err(_) => Got::nothing(),
        },
    }
}

const AT_ONCE_READ: (usize, Duration) = (64 * 1024, Duration::ZERO);

async fn over_h1(mut stream: impl AsyncRead + AsyncWrite + Unpin, plan: &Plan, body: &str) -> Got {
    let key = format!("\r\nauthorization: Bearer {THEIR_KEY}\r\n");
    let head = head(&plan.id(), body.len()).replacen("\r\n", &key, 1);
    let (first, rest) = body.split_at(body.len() / 2);
    let begun: &[&str] = match plan.behaves {
        Behaves::Leaves(Stage::MidHead, _) => &[&head[..head.len() / 2]],
        Behaves::Leaves(Stage::MidBody, _) | Behaves::SendsLate { .. } => &[&head, first],
        _ => &[&head, first, rest],
    };
    if send(&mut stream, &begun.concat()).await.is_err() {
        return Got::nothing();
    }
    match plan.behaves {
        Behaves::Leaves(stage, leave) => {
            wait_until(&mut stream, stage).await;
            leave_h1(stream, leave).await;
            Got::nothing()
        }
        Behaves::SendsLate { too_late } => {
            if !too_late {
                tokio::time::sleep(Duration::from_millis(50)).await;
                let _ = send(&mut stream, rest).await;
            }
            client::read(&mut stream, AT_ONCE_READ).await
        }
        Behaves::ReadsSlowly => client::read(&mut stream, (8 * 1024, Duration::from_millis(2))).await,
        Behaves::StopsReading => {
            tokio::time::sleep(super::faults::WRITE_IDLE * 2).await;
            client::read(&mut stream, AT_ONCE_READ).await
        }
        Behaves::Well => client::read(&mut stream, AT_ONCE_READ).await,
    }
}

async fn send(stream: &mut (impl AsyncWrite + Unpin), text: &str) -> std::io::Result<()> {
    stream.write_all(text.as_bytes()).await?;
    stream.flush().await
}

/// Waits for what the client wants to have seen before it leaves.
async fn wait_until(stream: &mut (impl AsyncRead + Unpin), stage: Stage) {
    let sign = match stage {
        Stage::MidHead | Stage::MidBody => return,
        Stage::After(time) => return tokio::time::sleep(time).await,
        Stage::MidStream => " train",
        Stage::AfterDone => "[DONE]",
    };
    let mut read = Vec::new();
    while !String::from_utf8_lossy(&read).contains(sign) {
        if !matches!(stream.read_buf(&mut read).await, Ok(1..)) {
            return;
        }
    }
}

/// Half a close is followed by waiting for the other half.
async fn leave_h1(mut stream: impl AsyncRead + AsyncWrite + Unpin, leave: Leave) {
    if leave == Leave::HalfClose {
        let _ = stream.shutdown().await;
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
    }
}

async fn over_h2(io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static, plan: &Plan, body: &str) -> Got {
    let connection = Connection::over(io).await;
    let partly = matches!(plan.behaves, Behaves::Leaves(Stage::MidBody, _) | Behaves::SendsLate { .. });
    let mut stream = connection.send(&plan.id(), if partly { None } else { Some(body) }).await;
    let (first, rest) = body.split_at(body.len() / 2);
    if partly {
        stream.send_part(first.as_bytes()).await;
    }
    match plan.behaves {
        Behaves::Leaves(stage, leave) => {
            match stage {
                Stage::MidHead | Stage::MidBody => {}
                Stage::After(time) => tokio::time::sleep(time).await,
                Stage::MidStream | Stage::AfterDone => {
                    let sign = if stage == Stage::MidStream { " train" } else { "[DONE]" };
                    seen_over_h2(&mut stream, sign).await;
                }
            }
            if leave == Leave::Rst {
                stream.reset();
                // The reset is on its way before the connection goes.
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Got::nothing()
        }
        Behaves::SendsLate { too_late } => {
            if !too_late {
                tokio::time::sleep(Duration::from_millis(50)).await;
                let _ = stream.up.send_data(bytes::Bytes::copy_from_slice(rest.as_bytes()), true);
            }
            answer_over_h2(&mut stream, Duration::ZERO).await
        }
        Behaves::ReadsSlowly => answer_over_h2(&mut stream, Duration::from_millis(2)).await,
        Behaves::StopsReading => {
            if stream.head().await.is_ok() {
                tokio::time::sleep(super::faults::WRITE_IDLE * 2).await;
            }
            Got::nothing()
        }
        Behaves::Well => answer_over_h2(&mut stream, Duration::ZERO).await,
    }
}

async fn seen_over_h2(stream: &mut crate::life::h2_client::Stream, sign: &str) {
    if stream.head().await.is_err() {
        return;
    }
    let mut read = Vec::new();
    while let Ok(Some(bytes)) = stream.piece().await {
        read.extend_from_slice(&bytes);
        if String::from_utf8_lossy(&read).contains(sign) {
            return;
        }
    }
}

async fn answer_over_h2(stream: &mut crate::life::h2_client::Stream, pause: Duration) -> Got {
    let Ok(status) = stream.head().await else { return Got::nothing() };
    let mut body = Vec::new();
    loop {
        match stream.piece().await {
            Ok(Some(bytes)) => body.extend_from_slice(&bytes),
            Ok(None) => return Got { status, body, end: End::Clean },
            Err(_) => return Got { status, body, end: End::Cut },
        }
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
    }
}

/// Each exchange is recorded once, and as what it was.
async fn wrong_records(world: &World, plans: &[Plan]) -> Vec<String> {
    // What reached a backend was a request.
    let records = |plan: &Plan| {
        let least = usize::from(world.tries(plan.number) > 0).max(*plan.records().start());
        least..=*plan.records().end()
    };
    let expected: usize = plans.iter().map(|plan| *records(plan).start()).sum();
    let waited = tokio::time::timeout(Duration::from_secs(10), async {
        while world.subject.records().len() < expected || world.subject.metric(IN_FLIGHT, &[]).await != 0.0 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    let mut wrong = Vec::new();
    if waited.await.is_err() {
        wrong.push(format!("{} records of {expected}", world.subject.records().len()));
    }
    let mut by_id: HashMap<String, Vec<String>> = HashMap::new();
    for (id, outcome) in world.subject.records() {
        by_id.entry(id).or_default().push(outcome);
    }
    for plan in plans {
        let found = by_id.remove(&plan.id()).unwrap_or_default();
        let name = || format!("{} {:?} {:?}", plan.id(), plan.speaks, plan.behaves);
        if !records(plan).contains(&found.len()) {
            wrong.push(format!("{}: records {found:?}", name()));
        }
        wrong.extend(found.iter().filter_map(|one| recorded(plan, one).err()).map(|why| format!("{}: {why}", name())));
    }
    wrong
}

fn figures(plans: &[Plan], ended: &[Ended], late: &mut [Duration]) {
    let mut by_speech: BTreeMap<String, usize> = BTreeMap::new();
    let mut told: BTreeMap<String, usize> = BTreeMap::new();
    for (plan, seen) in plans.iter().zip(ended) {
        *by_speech.entry(format!("{:?}", plan.speaks)).or_default() += 1;
        let leaves = matches!(plan.behaves, Behaves::Leaves(_, _));
        let what = match seen {
            None => "hung".to_owned(),
            Some(_) if leaves => "left".to_owned(),
            Some((Seen { got: Got { status: 200, end, .. }, .. }, _)) => format!("200 {end:?}"),
            Some((Seen { got: Got { status, .. }, .. }, _)) => status.to_string(),
        };
        *told.entry(what).or_default() += 1;
    }
    late.sort_unstable();
    let at = |share: usize| late.get(late.len() * share / 100).or(late.last()).copied().unwrap_or_default();
    println!("chaos: by protocol {by_speech:?}; told {told:?}");
    println!("chaos: ended after its timers by p50 {:?}, p99 {:?}, most {:?}", at(50), at(99), late.last());
}

/// Every gauge is back at zero, and every descriptor closed.
async fn left_behind(world: &World, before: usize) {
    for gauge in [IN_FLIGHT, "headway_backend_waiting_tokens"] {
        let left = async {
            while world.subject.metric(gauge, &[]).await != 0.0 {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        assert!(tokio::time::timeout(Duration::from_secs(5), left).await.is_ok(), "{gauge} is not 0");
    }
    // Idle connections to backends are kept for a few seconds.
    until("descriptors back at their baseline", || world.subject.descriptors() <= before).await;
    println!("chaos: gauges 0; descriptors {before} before, {} after", world.subject.descriptors());
}
