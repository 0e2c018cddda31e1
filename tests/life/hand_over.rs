//! One process after the other on the same listening sockets: nobody notices, and what goes wrong changes nothing.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::support::backend::{Backend, DONE, Script, stream};
use crate::support::client::{self, chat, read_reply, read_until, request, send};
use crate::support::h2_client::Connection;
use crate::support::process::Process;
use crate::support::{backend, config, now, page, patiently, until};

/// How long clients ask, between the hand-overs and after them.
fn lasting() -> Duration {
    let seconds = std::env::var("HEADWAY_HAND_OVER_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(2))
}

fn write(folder: &tempfile::TempDir, text: &str) -> PathBuf {
    let (path, new) = (folder.path().join("headway.yaml"), folder.path().join("new"));
    std::fs::write(&new, text).expect("a file");
    std::fs::rename(&new, &path).expect("a file");
    path
}

/// A process and those that succeed it; they end with this.
struct Line {
    first: Process,
}

impl Line {
    /// Who took over, in order.
    fn successors(&self) -> Vec<u32> {
        let log = self.first.log();
        let numbers = log.lines().filter(|line| line.contains("handed over"));
        numbers.filter_map(|line| line.split("process=").nth(1)?.split(' ').next()?.parse().ok()).collect()
    }

    fn signal(process: u32, name: &str) {
        assert!(Command::new("kill").args(["-s", name, &process.to_string()]).status().expect("kill runs").success());
    }

    /// Has the latest process hand over, and waits until it has.
    async fn hand_over(&self) {
        let before = self.successors();
        Self::signal(*before.last().unwrap_or(&self.first.id()), "QUIT");
        until("a successor", || self.successors().len() > before.len()).await;
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        for process in self.successors() {
            let _ = Command::new("kill")
                .args(["-s", "KILL", &process.to_string()])
                .stderr(std::process::Stdio::null())
                .status();
        }
    }
}

/// Whether a process is still there.
fn lives(process: u32) -> bool {
    let status = std::fs::read_to_string(Path::new("/proc").join(process.to_string()).join("stat"));
    status.is_ok_and(|text| !text.rsplit(')').next().unwrap_or("").starts_with(" Z"))
}

/// What clients of all kinds saw.
#[derive(Default)]
struct Seen {
    stop: AtomicBool,
    answered: AtomicU64,
    connections: AtomicU64,
}

impl Seen {
    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    fn answer(&self) {
        self.answered.fetch_add(1, Ordering::Relaxed);
    }

    async fn connect(&self, address: SocketAddr) -> TcpStream {
        self.connections.fetch_add(1, Ordering::Relaxed);
        client::connect(address).await
    }
}

/// A connection for each request.
async fn afresh(address: SocketAddr, seen: Arc<Seen>, name: String) {
    let mut count = 0;
    while seen.goes_on() {
        count += 1;
        let mut tcp = seen.connect(address).await;
        let reply = client::ask(&mut tcp, &request(&format!("{name}-{count}"), &chat("m"))).await;
        assert!(reply.status == 200 && reply.whole && reply.text.contains(DONE), "{name}-{count}: {reply:?}");
        seen.answer();
    }
}

/// One connection for all requests, until it is told to close it.
async fn kept(address: SocketAddr, seen: Arc<Seen>, name: String) {
    let (mut count, mut told) = (0, 0);
    let mut tcp = seen.connect(address).await;
    while seen.goes_on() {
        count += 1;
        let reply = client::ask(&mut tcp, &request(&format!("{name}-{count}"), &chat("m"))).await;
        assert!(reply.status == 200 && reply.whole && reply.text.contains(DONE), "{name}-{count}: {reply:?}");
        seen.answer();
        if reply.text.to_lowercase().contains("connection: close") {
            told += 1;
            tcp = seen.connect(address).await;
        }
    }
    assert!(told > 0, "{name} asked on, and was never told that its process ends");
}

/// One HTTP/2 connection for all requests, until it goes away.
async fn multiplexed(address: SocketAddr, seen: Arc<Seen>, name: String) {
    let (mut count, mut gone) = (0, 0);
    let mut connection = Connection::open(address).await;
    while seen.goes_on() {
        if patiently("a stream", connection.sender.clone().ready()).await.is_err() {
            gone += 1;
            connection = Connection::open(address).await;
        }
        count += 1;
        let (status, text, end) = connection.send(&format!("{name}-{count}"), Some(&chat("m"))).await.reply().await;
        // Told before it was looked at: the protocol's own way of saying "ask the next one".
        if let Err(error) = &end
            && status == 0
            && (error.is_go_away() || error.reason() == Some(h2::Reason::REFUSED_STREAM))
        {
            gone += 1;
            connection = Connection::open(address).await;
            continue;
        }
        assert!(status == 200 && text.ends_with(DONE) && end.is_ok(), "{name}-{count}: {status} {text} {end:?}");
        seen.answer();
    }
    assert!(gone > 0, "{name}'s connection never went away");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_notices_a_hand_over() {
    let quick = Backend::start(Script::events(&stream(3), true)).await;
    let slow = Backend::start(Script::events(&stream(60), true).paced(Duration::from_millis(50))).await;
    let folder = tempfile::tempdir().expect("a folder");
    let text = config(&[backend("m", quick.address), backend("slow", slow.address)], "", "");
    let (first, data, admin) = Process::serving(&write(&folder, &text)).await;
    let mut line = Line { first };

    let seen = Arc::new(Seen::default());
    let mut clients = tokio::task::JoinSet::new();
    for number in 0..2 {
        clients.spawn(afresh(data, Arc::clone(&seen), format!("afresh-{number}")));
        clients.spawn(kept(data, Arc::clone(&seen), format!("kept-{number}")));
        clients.spawn(multiplexed(data, Arc::clone(&seen), format!("multiplexed-{number}")));
    }
    let began = now();
    let mut long = Vec::new();
    for generation in 0..2 {
        let mut h1 = send(data, &request(&format!("long-{generation}"), &chat("slow"))).await;
        read_until(&mut h1, "t0").await;
        let mut h2 = Connection::open(data).await.send("h2", Some(&chat("slow"))).await;
        let connection = Connection::open(data).await;
        drop(std::mem::replace(&mut h2, connection.send(&format!("long-h2-{generation}"), Some(&chat("slow"))).await));
        h2.head().await.expect("a head");
        long.push((h1, h2, connection));
        line.hand_over().await;
        tokio::time::sleep(lasting()).await;
    }
    for (h1, h2, _connection) in &mut long {
        assert!(read_until(h1, "\r\n0\r\n\r\n").await.contains(DONE), "a long stream is whole");
        assert!(h2.read_until(DONE).await.contains("t5"));
    }
    seen.stop.store(true, Ordering::Relaxed);
    while let Some(ended) = patiently("a client's end", clients.join_next()).await {
        ended.expect("no failed request");
    }
    let (answered, connections) = (seen.answered.load(Ordering::Relaxed), seen.connections.load(Ordering::Relaxed));
    let rate = Duration::as_secs_f64(&began.elapsed());
    println!(
        "2 hand-overs, {answered} requests ({:.0}/s), {connections} connections",
        f64::from(u32::try_from(answered).unwrap()) / rate
    );
    assert!(answered > 100);

    assert_eq!(line.first.code().await, Some(0), "the first one has ended");
    let [second, third] = line.successors()[..] else { panic!("{:?}", line.successors()) };
    until("the end of the second", || !lives(second)).await;
    assert_eq!(page(admin, "GET", "/readyz").await.0, 200, "the third has the admin address too");
    Line::signal(third, "TERM");
    until("the end of the third", || !lives(third)).await;
    assert!(TcpStream::connect(data).await.is_err(), "nobody listens any more");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_waits_to_be_accepted_is_served_by_the_successor() {
    let quick = Backend::start(Script::events(&stream(3), true)).await;
    let silent = Backend::start(Script::Silent).await;
    let folder = tempfile::tempdir().expect("a folder");
    let text = config(
        &[backend("m", quick.address), backend("silent", silent.address)],
        "",
        "limits: { connections: 1 }\nshutdown: { drain: 1m }",
    );
    let (first, data, _) = Process::serving(&write(&folder, &text)).await;
    let mut line = Line { first };
    let holder = send(data, &request("holder", &chat("silent"))).await;
    silent.wait("holder", "arrives", |seen| seen.requests == 1).await;
    // They are in the kernel's queue: the one place is taken.
    let mut waiting = Vec::new();
    for number in 0..5 {
        waiting.push(send(data, &request(&format!("waiting-{number}"), &chat("m"))).await);
    }
    line.hand_over().await;
    for (number, mut one) in waiting.into_iter().enumerate() {
        let mut reply = read_reply(&mut one).await;
        // Where the hand-over takes longer than the full one lets them wait, it turned them away: they ask again.
        if reply.status == 503 && reply.text.contains("too_many_connections") {
            one = send(data, &request(&format!("again-{number}"), &chat("m"))).await;
            reply = read_reply(&mut one).await;
        }
        assert!(reply.status == 200 && reply.whole, "{reply:?}");
    }
    assert!(!line.first.has_ended(), "the first one still has its stream");
    drop(holder);
    assert_eq!(line.first.code().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hand_over_that_fails_changes_nothing() {
    let quick = Backend::start(Script::events(&stream(3), true)).await;
    let folder = tempfile::tempdir().expect("a folder");
    let good = config(&[backend("m", quick.address)], "", "");
    let (first, data, admin) = Process::serving(&write(&folder, &good)).await;
    let mut line = Line { first };
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let occupied = taken.local_addr().expect("an address");
    let and_occupied = format!("listeners: [{{ address: 127.0.0.1:0 }}, {{ address: \"{occupied}\" }}]");
    let unbindable = config(&[backend("m", quick.address)], "", &and_occupied);
    for (text, status) in [(good.replace("backends:", "backnds:"), "exit status: 78"), (unbindable, "exit status: 69")]
    {
        write(&folder, &text);
        line.first.signal("QUIT");
        until(status, || {
            line.first.log().contains(&format!(
                "not handed over, this process goes on: the new process ended before it was ready ({status})"
            ))
        })
        .await;
        assert_eq!(page(admin, "GET", "/readyz").await.0, 200);
        let mut tcp = client::connect(data).await;
        assert!(client::ask(&mut tcp, &request("still", &chat("m"))).await.whole);
    }
    write(&folder, &good);
    line.hand_over().await;
    assert_eq!(line.first.code().await, Some(0));
    let mut tcp = client::connect(data).await;
    assert!(client::ask(&mut tcp, &request("after", &chat("m"))).await.whole);
}

#[tokio::test]
async fn nobody_takes_over_without_being_asked() {
    let folder = tempfile::tempdir().expect("a folder");
    let text = config(&[backend("m", "127.0.0.1:1".parse().expect("an address"))], "", "");
    let path = write(&folder, &text);
    let mut process = Process::run(&["serve", "--take-over", "--config", path.to_str().expect("a path")]);
    assert_eq!(process.code().await, Some(1));
    until("the reason", || process.log().contains("no process hands its listeners over to this one")).await;
}

/// A backend whose health checks wait until a gate is open.
struct Gated {
    address: SocketAddr,
    checks: Arc<AtomicU64>,
    gate: watch::Sender<bool>,
}

impl Gated {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (checks, gate) = (Arc::new(AtomicU64::new(0)), watch::channel(true).0);
        let (counted, opens) = (Arc::clone(&checks), gate.subscribe());
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                drop(tokio::spawn(Self::serve(tcp, Arc::clone(&counted), opens.clone())));
            }
        });
        Self { address, checks, gate }
    }

    async fn serve(mut tcp: TcpStream, checks: Arc<AtomicU64>, mut opens: watch::Receiver<bool>) {
        let mut read = Vec::new();
        while !read.ends_with(b"\r\n\r\n") && !read.ends_with(b"}") {
            if !matches!(tcp.read_buf(&mut read).await, Ok(1..)) {
                return;
            }
        }
        let (kind, body) = if read.starts_with(b"GET") {
            checks.fetch_add(1, Ordering::SeqCst);
            let _ = opens.wait_for(|open| *open).await;
            ("application/json", "{}".to_owned())
        } else {
            ("text/event-stream", stream(3).concat())
        };
        let head = format!("HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n", body.len());
        let _ = tcp.write_all(format!("{head}connection: close\r\n\r\n{body}").as_bytes()).await;
    }

    fn checks(&self) -> u64 {
        self.checks.load(Ordering::SeqCst)
    }

    /// A process that serves it alone, and then one that is to succeed that and waits for its first health check.
    async fn with_a_successor_that_waits(&self, folder: &tempfile::TempDir) -> (Line, SocketAddr, SocketAddr) {
        let text = config(&[backend("m", self.address)], "", "");
        let (first, data, admin) = Process::serving(&write(folder, &text)).await;
        let before = self.checks();
        self.gate.send_replace(false);
        first.signal("QUIT");
        until("the successor's health check", || self.checks() > before).await;
        (Line { first }, data, admin)
    }
}

/// The processes that this one has started.
fn children(process: u32) -> Vec<u32> {
    let tasks = std::fs::read_dir(format!("/proc/{process}/task")).expect("it lives");
    let lists = tasks.flatten().filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    lists.flat_map(|list| list.split(' ').filter_map(|id| id.parse().ok()).collect::<Vec<_>>()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_asks_whether_it_is_ready_hears_yes_all_the_time() {
    let gated = Gated::start().await;
    let folder = tempfile::tempdir().expect("a folder");
    let (mut line, _, admin) = gated.with_a_successor_that_waits(&folder).await;
    for _ in 0..40 {
        let (status, text) = page(admin, "GET", "/readyz?verbose").await;
        assert_eq!(status, 200, "the successor is not warm, and does not answer: {text}");
    }
    assert!(line.successors().is_empty(), "it waits");
    gated.gate.send_replace(true);
    while line.successors().is_empty() {
        assert_eq!(page(admin, "GET", "/readyz").await.0, 200);
    }
    assert_eq!(line.first.code().await, Some(0));
    assert_eq!(page(admin, "GET", "/readyz").await.0, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_successor_serves_although_its_predecessor_has_died() {
    let gated = Gated::start().await;
    let folder = tempfile::tempdir().expect("a folder");
    let (line, data, admin) = gated.with_a_successor_that_waits(&folder).await;
    let [successor] = children(line.first.id())[..] else { panic!("one successor") };
    line.first.signal("KILL");
    until("its end", || !lives(line.first.id())).await;
    gated.gate.send_replace(true);
    let mut tcp = client::connect(data).await;
    let reply = client::ask(&mut tcp, &request("orphan", &chat("m"))).await;
    assert!(reply.status == 200 && reply.text.contains(DONE), "{reply:?}\n{}", line.first.log());
    assert_eq!(page(admin, "GET", "/readyz").await.0, 200);
    until("the reason", || line.first.log().contains("the process that handed over is gone")).await;
    Line::signal(successor, "TERM");
    until("the end of the successor", || !lives(successor)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_has_handed_over_ends_with_its_last_stream_whatever_it_is_told() {
    let slow = Backend::start(Script::events(&stream(60), true).paced(Duration::from_millis(50))).await;
    let folder = tempfile::tempdir().expect("a folder");
    let access = folder.path().join("access.log");
    let rest = format!("telemetry: {{ access_log: {{ path: \"{}\" }} }}", access.display());
    let text = config(&[backend("slow", slow.address)], "", &rest);
    let (first, data, _) = Process::serving(&write(&folder, &text)).await;
    let mut line = Line { first };
    let mut long = send(data, &request("long", &chat("slow"))).await;
    read_until(&mut long, "t0").await;
    line.hand_over().await;
    std::fs::rename(&access, folder.path().join("access.log.1")).expect("a log");
    line.first.signal("USR1");
    // A service manager tells all processes of a service, and once more when the main one has ended.
    for times in 1..=2 {
        line.first.signal("TERM");
        until("that nothing changes", || line.first.log().matches("this one drains already").count() == times).await;
    }
    line.first.signal("QUIT");
    until("a warning", || line.first.log().contains("not handed over: this process drains already")).await;
    assert!(read_until(&mut long, "\r\n0\r\n\r\n").await.contains(DONE), "the stream is whole");
    assert_eq!(line.first.code().await, Some(0));
    let written = std::fs::read_to_string(&access).expect("opened again after it was moved");
    assert!(written.contains("\"long\""), "{written}");
}
