//! What is held against a backend and what is not; how much retrying costs when nothing works; who is still loading.

use std::sync::Arc;
use std::time::Duration;

use headway::fleet::BackendState;
use headway::measure::outcome::Blame;
use headway::route::ejection::{CONSECUTIVE_FAULTS, Standing};

use crate::support::backend::{Script, Scripted, Step};
use crate::support::client::Client;
use crate::support::headway::{Headway, Setup};
use crate::support::texts::{CHAT, STREAM, json, post, streamed, with_fields};
use crate::support::until;

fn number(name: &str, usual: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}

/// Sends so many requests by clients that keep their connections.
async fn ask(headway: &Arc<Headway>, clients: usize, requests: usize) -> Vec<u16> {
    let asking = (0..clients).map(|_| {
        let headway = Arc::clone(headway);
        tokio::spawn(async move {
            let mut statuses = Vec::new();
            let mut client: Option<Client> = None;
            for _ in 0..requests / clients {
                let mut one = match client.take() {
                    Some(client) => client,
                    None => headway.connect().await,
                };
                one.send(post(CHAT, STREAM)).await;
                let reply = one.reply().await;
                client = Some(one).filter(|_| reply.field("connection").as_deref() != Some("close"));
                statuses.push(reply.status);
            }
            statuses
        })
    });
    let asking: Vec<_> = asking.collect();
    let mut statuses = Vec::new();
    for one in asking {
        statuses.extend(one.await.expect("no panic"));
    }
    statuses
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_and_back_pressure_are_held_against_nobody() {
    let full = include_str!("../fixtures/recorded/vllm-overload.json");
    let each = number("HEADWAY_REFUSALS", 2_000) / 4;
    for (script, status) in [
        (json("400 Bad Request", "{}"), 400),
        (json("404 Not Found", "{}"), 404),
        (with_fields("429 Too Many Requests", "retry-after: 1\r\n", "{}"), 429),
        (json("503 Service Unavailable", full), 503),
    ] {
        let (a, b) = (Scripted::start(script.clone()).await, Scripted::start(script).await);
        let headway = Setup::default().backend("a", &a, "").backend("b", &b, "").start().await;
        let headway = Arc::new(headway);
        let statuses = ask(&headway, 8, each).await;
        assert!(statuses.iter().all(|one| *one == status), "{statuses:?}");
        for backend in headway.server.fleet().backends() {
            assert_eq!(backend.ejection(), (Standing::Closed, 0), "{status}: {}", backend.name());
        }
    }
}

#[tokio::test]
async fn five_faults_in_a_row_take_a_backend_out_before_the_next_request() {
    let (bad, good) = (Scripted::start(json("500 Oops", "{}")).await, Scripted::start(streamed()).await);
    let headway = Setup::default().backend("bad", &bad, "").backend("good", &good, "").start().await;
    for _ in 0..40 {
        headway.stream().await;
    }
    let most = usize::try_from(CONSECUTIVE_FAULTS).unwrap() + 1;
    assert!(bad.count() <= most, "{} requests", bad.count());
    assert_eq!(headway.server.fleet().backends()[0].state(), BackendState::Ejected);
    let records = headway.records(40).await;
    let blamed = records.iter().flat_map(|one| &one.attempts).filter(|one| one.blame == Blame::Fault).count();
    assert_eq!(blamed, bad.count());
}

#[tokio::test]
async fn the_last_one_is_asked_however_often_it_fails() {
    let bad = Scripted::start(json("500 Oops", "{}")).await;
    let headway = Headway::before(&bad).await;
    for _ in 0..30 {
        assert_eq!(headway.stream().await.status, 500);
    }
    assert_eq!((bad.count(), headway.server.fleet().backends()[0].state()), (30, BackendState::Ready));
}

/// Every backend fails, each time after a moment; how many requests reached backends for each that came.
async fn amplification(script: Script, clients: usize, requests: usize) -> f64 {
    let mut backends = Vec::new();
    for _ in 0..4 {
        backends.push(Scripted::start(script.clone()).await);
    }
    let names = ["a", "b", "c", "d"];
    let setup =
        names.into_iter().zip(&backends).fold(Setup::default(), |setup, (name, one)| setup.backend(name, one, ""));
    let headway = Arc::new(setup.route("policy: least_in_flight").start().await);
    let statuses = ask(&headway, clients, requests).await;
    assert!(statuses.iter().all(|one| *one >= 500), "{statuses:?}");
    let reached: usize = backends.iter().map(Scripted::count).sum();
    headway.idle().await;
    assert_eq!(headway.server.fleet().routes()[0].retrying(), 0);
    #[allow(clippy::cast_precision_loss, reason = "a few thousand")]
    let ratio = reached as f64 / statuses.len() as f64;
    ratio
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_nothing_works_retries_add_a_fifth_at_most() {
    let requests = number("HEADWAY_AMPLIFIED", 1_600);
    let moment = Step::Wait(Duration::from_millis(30));
    for (name, clients, script) in [
        ("status 503", 80, [vec![moment.clone()], json("503 Service Unavailable", "down")].concat()),
        ("reset", 80, vec![moment.clone(), crate::support::texts::begun(""), Step::Reset]),
    ] {
        let ratio = amplification(script, clients, requests).await;
        println!("amplification with every backend failing ({name}, {clients} clients): {ratio:.3}");
        assert!(ratio <= 1.2, "{name}: {ratio}");
        assert!(ratio > 1.02, "{name}: {ratio}: some are tried again");
    }
}

#[tokio::test]
async fn a_backend_that_loads_gets_nothing_and_is_blamed_for_nothing() {
    let (loading, ready) = (Scripted::start(streamed()).await, Scripted::start(streamed()).await);
    loading.ready(false);
    let health = "health: { path: /health, interval: 50ms }";
    let stanza = |name, backend: &Scripted| {
        format!("  - {{ name: {name}, url: \"http://{}\", models: [m, {name}], {health} }}\n", backend.address)
    };
    let text = format!(
        "listeners: [{{ address: \"127.0.0.1:0\" }}]\nadmin: {{ address: \"127.0.0.1:0\" }}\nbackends:\n{}{}\
         routes:\n  - {{ name: r, backends: [loading, ready], policy: round_robin }}\n",
        stanza("loading", &loading),
        stanza("ready", &ready)
    );
    let headway = Headway::start(&text).await;
    let fleet = headway.server.fleet();
    let state = |index: usize| fleet.backends()[index].state();
    until("one loading, one ready", || (state(0), state(1)) == (BackendState::Warming, BackendState::Ready)).await;
    for _ in 0..20 {
        assert_eq!(headway.stream().await.status, 200);
    }
    let alone = headway.post(CHAT, &STREAM.replace("\"m\"", "\"loading\"")).await;
    assert_eq!((alone.status, &*alone.error_code()), (503, "model_loading"));
    assert!(alone.field("retry-after").is_some() && alone.field("x-should-retry").as_deref() == Some("true"));
    assert_eq!((loading.count(), ready.count()), (0, 20));
    assert_eq!(fleet.backends()[0].ejection(), (Standing::Closed, 0));
    loading.ready(true);
    until("it is loaded", || state(0) == BackendState::Ready).await;
    assert_eq!(headway.post(CHAT, &STREAM.replace("\"m\"", "\"loading\"")).await.status, 200);
}
