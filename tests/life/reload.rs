//! Reloading under load: nobody notices, a broken file changes nothing, and what has not changed keeps its state.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use headway::fleet::Request;

use crate::support::backend::{Backend, DONE, Script, stream};
use crate::support::client::{self, chat, read_reply, read_until, request, send};
use crate::support::h2_client::Connection;
use crate::support::process::Process;
use crate::support::{Headway, backend, config, metric, now, page, patiently, settings, until};

/// How long reloads go on.
fn lasting() -> Duration {
    let seconds = std::env::var("HEADWAY_RELOAD_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(5))
}

/// How long it stays as it is in between.
fn pause() -> Duration {
    let milliseconds = std::env::var("HEADWAY_RELOAD_PAUSE_MS").ok().and_then(|text| text.parse().ok());
    Duration::from_millis(milliseconds.unwrap_or(100))
}

/// Memory of a process that is nobody else's, in KiB.
fn memory(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).expect("a process");
    let anonymous = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("a line");
    anonymous.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// Clients of both protocols that ask again and again; every answer must be whole.
struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    clients: Vec<tokio::task::JoinHandle<()>>,
}

impl Load {
    fn start(address: SocketAddr) -> Self {
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let clients = (0..6)
            .map(|number| {
                let (stop, answered) = (Arc::clone(&stop), Arc::clone(&answered));
                tokio::spawn(async move {
                    let mut h1 = client::connect(address).await;
                    let h2 = Connection::open(address).await;
                    while !stop.load(Ordering::Relaxed) {
                        let count = answered.fetch_add(1, Ordering::Relaxed);
                        let id = format!("load-{number}-{count}");
                        if number % 2 == 0 {
                            let reply = client::ask(&mut h1, &request(&id, &chat("m"))).await;
                            assert!(reply.status == 200 && reply.whole && reply.text.contains(DONE), "{id}: {reply:?}");
                        } else {
                            let (status, text, end) = h2.send(&id, Some(&chat("m"))).await.reply().await;
                            assert!(
                                status == 200 && text.ends_with(DONE) && end.is_ok(),
                                "{id}: {status} {text} {end:?}"
                            );
                        }
                    }
                })
            })
            .collect();
        Self { stop, answered, clients }
    }

    /// Ends it; how many answers there were, all of them good.
    async fn end(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            patiently("a client's end", client).await.expect("no failed request");
        }
        self.answered.load(Ordering::Relaxed)
    }
}

/// One configuration or the other: timers, a second backend and a second route come and go.
fn variant(first: SocketAddr, second: SocketAddr, other: bool) -> String {
    if !other {
        return config(&[backend("m", first)], "", "");
    }
    let stanzas = [backend("m", first), backend("n", second)];
    config(&stanzas, ", timeouts: { idle: 7s }, policy: round_robin", "limits: { body: 1MiB }")
}

fn quick() -> Script {
    Script::events(&stream(5), true).paced(Duration::from_millis(2))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_notices_settings_that_change_all_the_time() {
    let (first, second) = (Backend::start(quick()).await, Backend::start(quick()).await);
    let headway = Headway::start(&variant(first.address, second.address, false)).await;
    let load = Load::start(headway.address);
    let (began, mut reloads) = (now(), 0_u64);
    while began.elapsed() < lasting() {
        headway.server.apply(settings(&variant(first.address, second.address, reloads % 2 == 0))).expect("it applies");
        assert!(headway.server.fleet().backends()[0].usable(), "an unchanged backend keeps its health");
        reloads += 1;
        tokio::time::sleep(pause()).await;
    }
    let answered = load.end().await;
    println!("{reloads} reloads, {answered} requests");
    assert!(answered > reloads);
    headway.idle().await;
    let failed: Vec<_> =
        headway.server.telemetry().recent().newest(usize::MAX).iter().map(|record| record.outcome).collect();
    assert!(failed.iter().all(|outcome| outcome.as_str() == "complete"), "{failed:?}");
    assert!(first.connections() < 40, "{} connections: the pool outlives a reload", first.connections());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_that_leaves_finishes_its_streams() {
    let slow = Script::events(&stream(20), true).paced(Duration::from_millis(30));
    let (first, second) = (Backend::start(quick()).await, Backend::start(slow).await);
    let headway = Headway::start(&variant(first.address, second.address, true)).await;
    let mut live = send(headway.address, &request("live", &chat("n"))).await;
    read_until(&mut live, "t0").await;
    headway.server.apply(settings(&variant(first.address, second.address, false))).expect("it applies");
    assert_eq!(headway.server.fleet().backends().len(), 1);
    let mut late = send(headway.address, &request("late", &chat("n"))).await;
    assert_eq!(read_reply(&mut late).await.status, 404);
    assert!(read_until(&mut live, "\r\n0\r\n\r\n").await.contains(DONE));
    assert_eq!(headway.record("live").await.outcome.as_str(), "complete");
    headway.idle().await;
}

#[tokio::test]
async fn a_refused_reload_changes_nothing() {
    let (first, second) = (Backend::start(quick()).await, Backend::start(quick()).await);
    let headway = Headway::start(&variant(first.address, second.address, false)).await;
    let folder = tempfile::tempdir().expect("a folder");
    let new = |log: &Path| {
        let rest = format!("telemetry: {{ log: {{ level: trace }}, access_log: {{ path: \"{}\" }} }}", log.display());
        let stanza = backend("m", first.address) + ", max_in_flight: 7";
        let timeouts = ", timeouts: { connect: 123ms }, policy: round_robin";
        settings(&config(&[stanza, backend("n", second.address)], timeouts, &rest))
    };
    // How it connects lies in what the generations share.
    let connects_within = || {
        let request = Request { model: "m", ..Request::default() };
        let given = headway.server.fleet().dispatch(0, &request, &[], now()).expect("a backend");
        given.endpoint.peer().options.connection_timeout
    };
    let (fleet, connect) = (headway.server.fleet(), connects_within());
    assert!(headway.server.apply(new(folder.path())).is_err(), "a folder is no file");
    assert!(Arc::ptr_eq(&fleet, &headway.server.fleet()));
    assert_eq!(connects_within(), connect);
    let known = page(headway.server.admin_address(), "GET", "/metrics").await.1;
    assert!(!known.contains("backend=\"n\""), "{known}");
    headway.server.apply(new(&folder.path().join("log"))).expect("it applies");
    assert_eq!((connects_within(), headway.server.fleet().backends().len()), (Some(Duration::from_millis(123)), 2));
}

/// Puts a text in the file's place, whole.
fn replace(file: &Path, text: &str) {
    let new = file.with_extension("new");
    std::fs::write(&new, text).expect("a file");
    std::fs::rename(new, file).expect("a file");
}

async fn successful(admin: SocketAddr) -> bool {
    metric(&page(admin, "GET", "/metrics").await.1, "headway_config_last_reload_successful", &[]) > 0.5
}

/// Whether the process has this backend.
async fn knows(admin: SocketAddr, name: &str) -> bool {
    page(admin, "GET", "/api/v1/backends").await.1.contains(&format!("\"{name}\""))
}

async fn becomes(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    patiently(what, async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_is_applied_however_it_is_announced_and_refused_when_broken() {
    let (first, second) = (Backend::start(quick()).await, Backend::start(quick()).await);
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("headway.yaml");
    let text = |other| variant(first.address, second.address, other);
    replace(&file, &text(false));
    let (mut process, data, admin) = Process::serving(&file).await;
    let load = Load::start(data);

    // The watch alone.
    assert!(!knows(admin, "n").await);
    replace(&file, &text(true));
    becomes("the new file", async || knows(admin, "n").await).await;

    // A broken file.
    replace(&file, &text(false).replace("backends:", "backnds:"));
    let (status, answer) = page(admin, "POST", "/-/reload").await;
    assert!(status == 422 && answer.contains("headway.yaml:"), "{answer}");
    assert!(!successful(admin).await && knows(admin, "n").await);
    process.signal("HUP");
    until("a refusal in the log", || process.log().matches("trigger=\"signal\"").count() > 0).await;
    assert!(!successful(admin).await && knows(admin, "n").await);
    assert_eq!(page(admin, "GET", "/readyz").await.0, 200);

    // A good one again, by request and by signal.
    replace(&file, &text(false));
    assert_eq!(page(admin, "POST", "/-/reload").await.0, 200);
    assert!(successful(admin).await && !knows(admin, "n").await);
    replace(&file, &text(true));
    process.signal("HUP");
    becomes("the signal's reload", async || knows(admin, "n").await).await;

    let (began, mut reloads) = (now(), 0_u64);
    while began.elapsed() < lasting() {
        replace(&file, &text(reloads % 2 == 0));
        match reloads % 3 {
            0 => process.signal("HUP"),
            1 => assert_eq!(page(admin, "POST", "/-/reload").await.0, 200),
            _ => {}
        }
        reloads += 1;
        tokio::time::sleep(pause()).await;
    }
    let answered = load.end().await;
    println!("{reloads} reloads of the file, {answered} requests");
    assert!(answered > reloads && !process.has_ended());

    // Of what was in force before, nothing is left: without load, memory stands still.
    let before = memory(process.id());
    for number in 0..200 {
        replace(&file, &text(number % 2 == 0));
        assert_eq!(page(admin, "POST", "/-/reload").await.0, 200);
    }
    let grown = memory(process.id()).saturating_sub(before);
    println!("200 more reloads, {grown} KiB more memory");
    assert!(grown < 1 << 10, "{grown} KiB");
    process.signal("TERM");
    assert_eq!(process.code().await, Some(0));
}
