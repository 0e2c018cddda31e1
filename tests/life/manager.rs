//! What the service manager is told, as `sd_notify(3)` has it.

use std::os::unix::net::UnixDatagram;
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use crate::support::backend::{Backend, Script, stream};
use crate::support::process::Process;
use crate::support::{backend, config, until};

/// Everything that was said, a line each.
fn manager(path: &std::path::Path) -> Arc<Mutex<Vec<String>>> {
    let socket = UnixDatagram::bind(path).expect("a socket");
    let said = Arc::new(Mutex::new(Vec::new()));
    let into = Arc::clone(&said);
    std::thread::spawn(move || {
        let mut bytes = [0; 1024];
        while let Ok(length) = socket.recv(&mut bytes) {
            let text = String::from_utf8_lossy(&bytes[..length]).into_owned();
            into.lock().unwrap().extend(text.lines().map(str::to_owned));
        }
    });
    said
}

#[tokio::test]
async fn the_service_manager_knows_how_it_goes() {
    let backend_ = Backend::start(Script::events(&stream(3), true)).await;
    let folder = tempfile::tempdir().expect("a folder");
    let (file, socket) = (folder.path().join("headway.yaml"), folder.path().join("notify"));
    std::fs::write(&file, config(&[backend("m", backend_.address)], "", "")).expect("a file");
    let said = manager(&socket);
    let variables = [("NOTIFY_SOCKET", socket.to_str().expect("a path")), ("WATCHDOG_USEC", "200000")];
    let args = ["serve", "--config", file.to_str().expect("a path")];
    let mut process = Process::run_with(&args, &variables, Stdio::null());
    process.ready().await;
    let count = |wanted: &str| said.lock().unwrap().iter().filter(|line| line.starts_with(wanted)).count();
    until("that it is ready", || count("READY=1") == 1 && count("STATUS=ready") == 1).await;
    until("signs of life", || count("WATCHDOG=1") > 3).await;
    process.signal("HUP");
    until("that it reloaded", || count("RELOADING=1") == 1 && count("MONOTONIC_USEC=") == 1 && count("READY=1") == 2)
        .await;
    process.signal("QUIT");
    until("who comes next", || count("MAINPID=") == 1).await;
    let next = said.lock().unwrap().iter().find_map(|line| line.strip_prefix("MAINPID=").map(str::to_owned)).unwrap();
    assert_eq!(process.code().await, Some(0));
    assert_eq!(count("STOPPING=1"), 0, "the service goes on");
    assert_eq!(count("STATUS=draining"), 0, "of what is left of the process before, nobody is told");
    let alive = count("WATCHDOG=1");
    until("signs of life of the next", || count("WATCHDOG=1") > alive + 3).await;
    assert!(std::process::Command::new("kill").args(["-s", "TERM", &next]).status().expect("kill runs").success());
    until("the end", || count("STOPPING=1") == 1).await;
}

#[tokio::test]
async fn a_service_that_cannot_serve_says_why() {
    let folder = tempfile::tempdir().expect("a folder");
    let (file, socket) = (folder.path().join("headway.yaml"), folder.path().join("notify"));
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
    std::fs::write(&file, config(&[backend("m", nobody)], "", "")).expect("a file");
    let said = manager(&socket);
    let variables = [("NOTIFY_SOCKET", socket.to_str().expect("a path"))];
    let process = Process::run_with(&["serve", "--config", file.to_str().expect("a path")], &variables, Stdio::null());
    until("why", || {
        let said = said.lock().unwrap();
        said.contains(&"READY=1".to_owned())
            && said.iter().any(|line| line == "STATUS=not ready: route `all` has no usable backend")
    })
    .await;
    drop(process);
}
