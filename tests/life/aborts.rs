//! A client that leaves is noticed at every stage, over every protocol, and its backend hears of it.

use std::sync::Arc;
use std::time::Duration;

use headway::measure::outcome::Outcome;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use crate::support::backend::{Backend, DONE, Script, finish, token};
use crate::support::client::{self, chat};
use crate::support::h2_client::{Connection, Stream};
use crate::support::{Headway, backend, config, now, until};

/// How a client leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leave {
    Fin,
    Rst,
    HalfClose,
    ResetStream,
    DropConnection,
}

/// When it leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    MidHead,
    MidBody,
    BeforeHead,
    BeforeToken,
    MidStream,
    AfterDone,
}

#[derive(Debug, Clone, Copy)]
struct Case {
    leave: Leave,
    stage: Stage,
    h2_upstream: bool,
}

impl Case {
    fn all() -> Vec<Self> {
        use {Leave::*, Stage::*};
        let mut all = Vec::new();
        for h2_upstream in [false, true] {
            for leave in [Fin, Rst, HalfClose, ResetStream, DropConnection] {
                for stage in [MidHead, MidBody, BeforeHead, BeforeToken, MidStream, AfterDone] {
                    all.push(Self { leave, stage, h2_upstream });
                }
            }
        }
        // A stream begins with a whole head.
        all.retain(|case| !(case.stage == MidHead && case.leave == ResetStream));
        all
    }

    fn model(self) -> String {
        let stage = match self.stage {
            Stage::MidHead | Stage::MidBody | Stage::BeforeHead => "silent",
            Stage::BeforeToken => "headed",
            Stage::MidStream => "midway",
            Stage::AfterDone => "done",
        };
        format!("{stage}-{}", if self.h2_upstream { "h2" } else { "h1" })
    }

    /// What the client waits for before it leaves.
    fn sign(self) -> Option<&'static str> {
        match self.stage {
            Stage::MidStream => Some("first"),
            Stage::AfterDone => Some("[DONE]"),
            _ => None,
        }
    }
}

struct World {
    headway: Headway,
    backends: Vec<(String, Backend)>,
}

impl World {
    async fn new() -> Self {
        let scripts = [
            ("silent", Script::Silent),
            ("headed", Script::events(&[": waiting\n\n".to_owned()], false)),
            ("midway", Script::events(&[token("first")], false)),
            ("done", Script::events(&[token("first"), finish(), DONE.to_owned()], false)),
        ];
        let (mut backends, mut stanzas) = (Vec::new(), Vec::new());
        for (name, script) in scripts {
            for (protocol, http2) in [("h1", false), ("h2", true)] {
                let name = format!("{name}-{protocol}");
                let running = Backend::start(script.clone()).await;
                stanzas.push(format!("{}, http2: {http2}", backend(&name, running.address)));
                backends.push((name, running));
            }
        }
        let headway = Headway::start(&config(&stanzas, "", "")).await;
        Self { headway, backends }
    }

    fn backend(&self, name: &str) -> &Backend {
        &self.backends.iter().find(|(other, _)| other == name).expect("a backend").1
    }

    /// One client that leaves; how long until its backend saw it, if it had one.
    async fn abort(&self, case: Case, id: &str) -> Option<Duration> {
        let backend = self.backend(&case.model());
        let mut client = Client::begin(self, case, id).await;
        let reached = !matches!(case.stage, Stage::MidHead | Stage::MidBody);
        if reached {
            backend.wait(id, "arrives", |seen| seen.requests == 1).await;
        }
        if case.stage == Stage::BeforeToken {
            backend.wait(id, "is answered", |seen| seen.sent > 0).await;
        }
        if let Some(sign) = case.sign() {
            client.read_until(sign).await;
        }
        let left = now();
        let left_behind = client.leave(case.leave).await;
        let gone = if reached {
            let seen = backend.wait(id, "is gone", |seen| seen.gone.is_some()).await;
            assert_eq!(seen.requests, 1, "{case:?}: one try");
            seen.gone.map(|gone| gone.saturating_duration_since(left))
        } else {
            None
        };
        drop(left_behind);
        gone
    }
}

enum Client {
    H1(TcpStream),
    H2(Connection, Option<Stream>),
}

impl Client {
    async fn begin(world: &World, case: Case, id: &str) -> Self {
        let address = world.headway.address;
        let body = chat(&case.model());
        let is_h2 = matches!(case.leave, Leave::ResetStream | Leave::DropConnection);
        match (is_h2, case.stage) {
            (false, Stage::MidHead) => {
                let head = client::head(id, body.len());
                Self::H1(client::send(address, &head[..head.len() / 2]).await)
            }
            (false, Stage::MidBody) => {
                // Its permission to go on says that headway waits for the body.
                let head = client::head(id, body.len()).replace("\r\n\r\n", "\r\nexpect: 100-continue\r\n\r\n");
                let mut stream = client::send(address, &head).await;
                client::read_until(&mut stream, "100 Continue").await;
                stream.write_all(&body.as_bytes()[..body.len() / 2]).await.expect("it reads");
                Self::H1(stream)
            }
            (false, _) => Self::H1(client::send(address, &client::request(id, &body)).await),
            (true, Stage::MidHead) => Self::H2(Connection::open(address).await, None),
            (true, stage) => {
                let connection = Connection::open(address).await;
                let whole = (stage != Stage::MidBody).then_some(body.as_str());
                let mut stream = connection.send(id, whole).await;
                if stage == Stage::MidBody {
                    // More than the first window holds: the rest goes only once headway has begun to read.
                    stream.send_part(&vec![b' '; 100_000]).await;
                }
                Self::H2(connection, Some(stream))
            }
        }
    }

    async fn read_until(&mut self, text: &str) {
        match self {
            Self::H1(stream) => drop(client::read_until(stream, text).await),
            Self::H2(_, stream) => {
                let stream = stream.as_mut().expect("a stream");
                stream.head().await.expect("a head");
                stream.read_until(text).await;
            }
        }
    }

    /// Leaves; what must be kept for it to be this way of leaving and no other.
    async fn leave(self, leave: Leave) -> Option<Self> {
        match (self, leave) {
            (Self::H1(mut stream), Leave::HalfClose) => {
                stream.shutdown().await.expect("it closes");
                Some(Self::H1(stream))
            }
            (Self::H1(stream), Leave::Rst) => {
                client::reset_on_close(&stream);
                None
            }
            (Self::H2(connection, Some(mut stream)), Leave::ResetStream) => {
                stream.reset();
                Some(Self::H2(connection, Some(stream)))
            }
            _ => None,
        }
    }
}

fn expected(stage: Stage) -> Option<Outcome> {
    match stage {
        Stage::MidHead => None,
        Stage::AfterDone => Some(Outcome::Complete),
        _ => Some(Outcome::ClientCancelled),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_way_to_leave_is_noticed_and_recorded_once() {
    let world = World::new().await;
    for (number, case) in Case::all().into_iter().enumerate() {
        let id = format!("case-{number}");
        world.abort(case, &id).await;
        world.headway.idle().await;
        let Some(outcome) = expected(case.stage) else {
            assert!(world.headway.records(&id).is_empty(), "{case:?}");
            continue;
        };
        let record = world.headway.record(&id).await;
        assert_eq!(record.outcome, outcome, "{case:?}");
        let reached = usize::from(case.stage != Stage::MidBody);
        assert_eq!((record.attempts.len(), record.attempts.iter().all(|one| one.outcome == outcome)), (reached, true));
        let fleet = world.headway.server.fleet();
        assert!(fleet.backends().iter().all(|one| one.usable()), "{case:?}: no backend is to blame");
    }
    assert_eq!(world.headway.metric("headway_backend_in_flight", &[]).await, 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_h2_backend_keeps_its_connection_when_streams_are_cancelled() {
    let world = World::new().await;
    let case = Case { leave: Leave::Rst, stage: Stage::MidStream, h2_upstream: true };
    for number in 0..40 {
        world.abort(case, &format!("cancel-{number}")).await;
        world.headway.idle().await;
    }
    let connections = world.backend("midway-h2").connections();
    assert!(connections <= 2, "{connections} connections for 40 cancelled streams");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_aborts_leave_nothing_behind() {
    let aborts = std::env::var("HEADWAY_ABORTS").ok().and_then(|n| n.parse().ok()).unwrap_or(2_000);
    let world = Arc::new(World::new().await);
    let (cases, at_once) = (Case::all(), Arc::new(Semaphore::new(16)));
    let mut running = tokio::task::JoinSet::new();
    let mut counted = (0.0, 0.0, 0);
    let mut delays = Vec::new();
    for number in 0..aborts {
        let case = cases[number % cases.len()];
        match expected(case.stage) {
            Some(Outcome::Complete) => counted.1 += 1.0,
            Some(_) => counted.0 += 1.0,
            None => {}
        }
        counted.2 += usize::from(!matches!(case.stage, Stage::MidHead | Stage::MidBody));
        let place = Arc::clone(&at_once).acquire_owned().await.expect("a place");
        let world = Arc::clone(&world);
        running.spawn(async move {
            let delay = world.abort(case, &format!("bulk-{number}")).await;
            drop(place);
            delay
        });
        while let Some(done) = running.try_join_next() {
            delays.extend(done.expect("no panic"));
        }
    }
    while let Some(done) = running.join_next().await {
        delays.extend(done.expect("no panic"));
    }
    assert_eq!(delays.len(), counted.2, "every abort of a request that had a backend was seen there");
    world.headway.idle().await;
    let cancelled = world.headway.metric("headway_requests_total", &["outcome=\"client_cancelled\""]).await;
    let complete = world.headway.metric("headway_requests_total", &["outcome=\"complete\""]).await;
    assert_eq!((cancelled, complete), (counted.0, counted.1), "each is recorded once");
    assert_eq!(world.headway.metric("headway_backend_in_flight", &[]).await, 0.0);
    until("h1 connections to be closed", || world.backend("silent-h1").open() <= 1).await;
    delays.sort_unstable();
    let (p50, p99) = (delays[delays.len() / 2], delays[delays.len() * 99 / 100]);
    println!("{aborts} aborts: backend saw the client go after p50 {p50:?}, p99 {p99:?}, most {:?}", delays.last());
    if std::env::var("HEADWAY_ASSERT_TIMES").is_ok_and(|value| value == "1") {
        assert!(p99 <= Duration::from_millis(50), "p99 {p99:?}");
    }
}
