//! What headway does when it runs out of connections and descriptors: in steps, told, and over as soon as they are back.

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::net::TcpStream;

use crate::support::backend::{Backend, Script, stream};
use crate::support::client::{Reply, ask, chat, connect, read_reply, request, send};
use crate::support::process::Process;
use crate::support::{Headway, backend, config, metric, now, page, patiently};

const SECOND: Duration = Duration::from_secs(1);

async fn with_connections(backend_: &Backend, most: usize) -> Headway {
    let limits = format!("limits: {{ connections: {most} }}");
    Headway::start(&config(&[backend("m", backend_.address)], "", &limits)).await
}

fn closes(reply: &Reply) -> bool {
    reply.text.to_lowercase().contains("\r\nconnection: close\r\n")
}

/// What `/readyz?verbose` says of a resource: used, most, whether it is nearly used up.
async fn used(admin: SocketAddr, resource: &str) -> (u64, u64, bool) {
    let (status, answer) = page(admin, "GET", "/readyz?verbose").await;
    assert_eq!(status, 200, "{answer}");
    let body: Value = serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).expect("JSON");
    let all = body["resources"].as_array().expect("a list");
    let one = all.iter().find(|one| one["resource"] == resource).unwrap_or_else(|| panic!("{body}"));
    (one["used"].as_u64().unwrap(), one["most"].as_u64().unwrap(), one["high"].as_bool().unwrap())
}

#[tokio::test]
async fn connections_end_with_their_answer_when_places_are_nearly_used_up() {
    let backend = Backend::start(Script::events(&stream(2), true)).await;
    let headway = with_connections(&backend, 3).await;
    let mut first = connect(headway.address).await;
    let reply = ask(&mut first, &request("1", &chat("m"))).await;
    assert!(reply.whole && !closes(&reply), "{reply:?}");
    assert_eq!(used(headway.server.admin_address(), "connections").await, (1, 3, false));
    let mut second = connect(headway.address).await;
    assert!(!closes(&ask(&mut second, &request("2", &chat("m"))).await));
    let mut third = connect(headway.address).await;
    let reply = ask(&mut third, &request("3", &chat("m"))).await;
    assert!(reply.status == 200 && reply.whole && closes(&reply), "{reply:?}");
    let reply = ask(&mut first, &request("4", &chat("m"))).await;
    assert!(reply.whole && !closes(&reply), "a place is free again: {reply:?}");
}

#[tokio::test]
async fn whoever_finds_no_place_for_a_second_is_told_when_to_come_back() {
    let backend = Backend::start(Script::events(&stream(2), true)).await;
    let headway = with_connections(&backend, 1).await;
    let holder = connect(headway.address).await;
    let began = now();
    let mut refused = send(headway.address, &request("refused", &chat("m"))).await;
    let reply = read_reply(&mut refused).await;
    assert_eq!((reply.status, reply.whole), (503, true), "{reply:?}");
    assert!(reply.text.contains("\"code\":\"too_many_connections\"") && closes(&reply), "{reply:?}");
    assert!(reply.text.contains("\r\nretry-after: 1\r\n") && reply.text.contains("\r\nretry-after-ms: 1000\r\n"));
    assert!(now() - began >= SECOND.mul_f64(0.9), "it waited for a place first");
    let began = now();
    let mut refused = send(headway.address, &request("again", &chat("m"))).await;
    assert_eq!(read_reply(&mut refused).await.status, 503);
    assert!(now() - began < SECOND, "nobody waits again while nothing has changed");
    assert!(headway.metric("headway_shed_total", &["unmatched", "connections"]).await >= 2.0);
    assert_eq!(used(headway.server.admin_address(), "connections").await, (1, 1, true));
    drop(holder);
    patiently("a place", async {
        while ask(&mut connect(headway.address).await, &request("served", &chat("m"))).await.status != 200 {}
    })
    .await;
    assert!(headway.records("refused").is_empty() && headway.records("again").is_empty());
}

/// Runs `headway serve` with so many descriptors.
fn with_descriptors(config: &std::path::Path, descriptors: u32) -> Process {
    let limited = format!("ulimit -n {descriptors}; exec \"$0\" \"$@\"");
    let headway = env!("CARGO_BIN_EXE_headway");
    let args = ["-c", &limited, headway, "serve", "--config", config.to_str().expect("a path")];
    Process::run_program("sh", &args, &[], Stdio::null())
}

#[tokio::test]
async fn with_64_descriptors_and_200_clients_the_admin_answers_and_all_is_well_when_they_leave() {
    let backend_ = Backend::start(Script::events(&stream(2), true)).await;
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("headway.yaml");
    std::fs::write(&file, config(&[backend("m", backend_.address)], "", "")).expect("a file");
    let mut process = with_descriptors(&file, 64);
    let (data, admin) = process.ready().await;
    assert_eq!(used(admin, "connections").await.1, 16, "half of the descriptors, less a reserve");
    let mut clients: Vec<TcpStream> = Vec::new();
    for _ in 0..200 {
        clients.push(connect(data).await);
    }
    patiently("the first to be turned away", async {
        while metric(&page(admin, "GET", "/metrics").await.1, "headway_shed_total", &["connections"]) < 1.0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    for path in ["/healthz", "/readyz", "/metrics", "/api/v1/backends"] {
        assert_eq!(page(admin, "GET", path).await.0, 200, "{path}");
    }
    assert_eq!(used(admin, "connections").await, (16, 16, true));
    drop(clients);
    let released = now();
    patiently("full service", async {
        while ask(&mut connect(data).await, &request("back", &chat("m"))).await.status != 200 {}
    })
    .await;
    let back = now() - released;
    println!("served again {} ms after the release", back.as_millis());
    assert!(back < SECOND * 2, "{back:?}");
    let served = (0..10).map(async |_| ask(&mut connect(data).await, &request("after", &chat("m"))).await);
    for served in served {
        let reply = served.await;
        assert!(reply.status == 200 && reply.whole, "{reply:?}");
    }
    assert!(!process.has_ended() && !process.log().contains("could not be accepted"), "{}", process.log());
}
