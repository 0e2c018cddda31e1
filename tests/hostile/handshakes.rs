//! Handshakes that must come to nothing: old versions, certificates whose time is over, wrong names, no TLS at all.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use headway::clock::SystemClock;
use headway::measure::outcome::Outcome;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::support::authority::{Authority, Leaf, tls};
use crate::support::backend::{Backend, Script, stream};
use crate::support::client::{chat, connect, read_reply, read_until, request, send};
use crate::support::process::Process;
use crate::support::{Headway, backend, config, patiently, until};

/// A client's first message in that version of TLS (1 is 1.0, 3 is 1.2), with the cipher suites of all times.
fn hello(minor: u8) -> Vec<u8> {
    let version = [3, minor];
    let suites = [0xc0, 0x2b, 0xc0, 0x09, 0xc0, 0x13, 0xc0, 0x14, 0x00, 0x2f, 0x00, 0x35];
    let name = b"localhost";
    let name_length = u8::try_from(name.len()).unwrap();
    let server_name = [&[0, 0, 0, name_length + 5, 0, name_length + 3, 0, 0, name_length][..], name].concat();
    let groups = [0, 10, 0, 6, 0, 4, 0, 0x17, 0, 0x1d];
    let points = [0, 11, 0, 2, 1, 0];
    let signatures = [0, 13, 0, 6, 0, 4, 4, 3, 8, 4];
    let extensions = [&server_name[..], &groups, &points, &signatures].concat();
    let mut body = [&version[..], &[7; 32], &[0], &[0, 12], &suites, &[1, 0]].concat();
    body.extend(u16::try_from(extensions.len()).unwrap().to_be_bytes());
    body.extend(extensions);
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    let message = [&[1][..], &length[1..], &body].concat();
    let length = u16::try_from(message.len()).unwrap().to_be_bytes();
    [&[22, 3, 1][..], &length, &message].concat()
}

/// What a TLS server answers to these first bytes before it closes.
async fn answered(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = connect(address).await;
    stream.write_all(bytes).await.expect("it reads");
    let mut answer = Vec::new();
    let _ = patiently("the end of a handshake", stream.read_to_end(&mut answer)).await;
    answer
}

#[tokio::test]
async fn old_versions_of_tls_are_refused() {
    let authority = Authority::new();
    let backend_ = Backend::start(Script::events(&stream(1), true)).await;
    let text = config(&[backend("m", backend_.address)], "", &authority.listener(""));
    let headway = Headway::start(&text).await;
    for minor in [0, 1, 2] {
        let answer = answered(headway.address, &hello(minor)).await;
        // A fatal alert (2): handshake_failure or protocol_version, <https://www.rfc-editor.org/rfc/rfc8446#section-6>.
        assert!(matches!(answer[..], [21, 3, _, 0, 2, 2, 40 | 70]), "3.{minor}: {answer:?}");
    }
    // It is the version alone: the same in 1.2 is answered with a handshake message.
    let mut stream = connect(headway.address).await;
    stream.write_all(&hello(3)).await.expect("it reads");
    assert_eq!(patiently("a server's hello", stream.read_u8()).await.expect("an answer"), 22);
    drop(stream);
    for nonsense in [&b"GET / HTTP/1.1\r\nhost: h\r\n\r\n"[..], &[22, 3, 1, 0xff, 0xff], &[0x80, 0x2e, 1, 0, 2]] {
        let answer = answered(headway.address, nonsense).await;
        assert!(answer.is_empty() || answer[0] == 21, "{answer:?}");
    }
    let failed = async || headway.metric("headway_tls_handshakes_failed_total", &[]).await;
    patiently("seven failures", async {
        while failed().await < 7.0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(headway.server.telemetry().recent().newest(1).is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nonsense_after_a_handshake_writes_nothing_into_the_log() {
    let authority = Authority::new();
    let backend_ = Backend::start(Script::events(&stream(1), true)).await;
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("headway.yaml");
    std::fs::write(&file, config(&[backend("m", backend_.address)], "", &authority.listener(""))).expect("a file");
    let (process, data, _) = Process::serving(&file).await;
    for (protocol, text) in [(&b"h2"[..], "GET / HTTP/1.1\r\nhost: h\r\n\r\n"), (b"http/1.1", "NONSENSE\r\n\r\n")] {
        for _ in 0..10 {
            let mut client = tls(&authority.connector(protocol, None), data).await.expect("a handshake");
            client.write_all(text.repeat(4).as_bytes()).await.expect("it reads");
            let _ = patiently("the end of nonsense", client.read_to_end(&mut Vec::new())).await;
        }
    }
    process.signal("HUP");
    until("a line that comes after them", || process.log().contains("trigger=\"signal\"")).await;
    assert!(!process.log().contains("pingora"), "{}", process.log());
}

/// What a client is told of a backend that is there and with which there is no TLS, and why in the admin's words.
async fn check(tls: Option<TlsAcceptor>, keys: &str, why: &str) {
    let backend_ = Backend::start_with(Script::events(&stream(1), true), tls).await;
    let stanza = backend("m", backend_.address).replace("http://", "https://");
    let text = config(&[format!("{stanza}, tls: {{ {keys} }}")], "", "");
    let headway = Headway::unready(&text, Arc::new(SystemClock)).await;
    let fleet = headway.server.fleet();
    until("a health check", || fleet.backends()[0].last_check().is_some()).await;
    let reply = read_reply(&mut send(headway.address, &request("r", &chat("m"))).await).await;
    let told = reply.text.contains("\"upstream_tls\"") && reply.text.contains("x-should-retry: false");
    assert!(reply.status == 502 && told, "{why}: {reply:?}");
    let reasons = fleet.readiness().reasons.concat();
    assert!(reasons.contains(why), "{why}: {reasons}");
    let record = headway.record("r").await;
    assert_eq!((record.outcome, record.status, record.attempts.len()), (Outcome::ConnectFailed, 502, 0));
    assert_eq!(backend_.seen("r").requests, 0);
}

#[tokio::test]
async fn a_backend_without_a_certificate_to_trust_is_told_apart() {
    let (authority, other) = (Authority::new(), Authority::new());
    authority.issue("old-", Leaf::expired());
    let keys = |whose: &Authority, name: &str| format!("ca: \"{}\", server_name: {name}", whose.path("ca.pem"));
    let acceptor = |prefix: &str| Some(authority.acceptor(prefix, None, b"http/1.1"));
    check(acceptor("old-"), &keys(&authority, "localhost"), "expired").await;
    check(acceptor(""), &keys(&authority, "example.com"), "for another name").await;
    check(acceptor(""), &keys(&other, "localhost"), "not signed by an authority").await;
    check(None, &keys(&authority, "localhost"), "no TLS with it").await;
}

/// A server of TLS 1.1: it says so in its first message.
async fn old_server(listener: TcpListener) {
    let body = [&[3, 2][..], &[7; 32], &[0, 0xc0, 0x13, 0]].concat();
    let message = [&[2, 0, 0, u8::try_from(body.len()).unwrap()][..], &body].concat();
    let record = [&[22, 3, 2, 0, u8::try_from(message.len()).unwrap()][..], &message].concat();
    while let Ok((mut stream, _)) = listener.accept().await {
        let mut buffer = [0; 4096];
        let _ = stream.read(&mut buffer).await;
        let _ = stream.write_all(&record).await;
        let _ = stream.read(&mut buffer).await;
    }
}

#[tokio::test]
async fn a_backend_of_an_old_version_gets_nothing() {
    let authority = Authority::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let stanza = backend("m", listener.local_addr().expect("an address")).replace("http://", "https://");
    tokio::spawn(old_server(listener));
    let tls = format!("ca: \"{}\", server_name: localhost", authority.path("ca.pem"));
    let headway =
        Headway::unready(&config(&[format!("{stanza}, tls: {{ {tls} }}")], "", ""), Arc::new(SystemClock)).await;
    let fleet = headway.server.fleet();
    until("a health check", || fleet.backends()[0].last_check().is_some()).await;
    let reply = read_reply(&mut send(headway.address, &request("r", &chat("m"))).await).await;
    assert!(reply.status == 502 && reply.text.contains("\"upstream_tls\""), "{reply:?}");
}

/// A healthy server of one request per connection, whose certificate expires when it is told so.
async fn expiring(listener: TcpListener, acceptors: [TlsAcceptor; 2], over: Arc<AtomicBool>) {
    while let Ok((tcp, _)) = listener.accept().await {
        let acceptor = acceptors[usize::from(over.load(Ordering::SeqCst))].clone();
        tokio::spawn(async move { serve_once(tcp, acceptor).await });
    }
}

async fn serve_once(tcp: TcpStream, acceptor: TlsAcceptor) -> std::io::Result<()> {
    let mut stream = acceptor.accept(tcp).await?;
    read_until(&mut stream, "\r\n\r\n").await;
    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}";
    stream.write_all(answer).await?;
    stream.shutdown().await
}

#[tokio::test]
async fn a_certificate_that_expires_between_two_checks_is_told_by_the_request() {
    let authority = Authority::new();
    authority.issue("old-", Leaf::expired());
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let stanza = backend("m", listener.local_addr().expect("an address")).replace("http://", "https://");
    let over = Arc::new(AtomicBool::new(false));
    let acceptors = ["", "old-"].map(|prefix| authority.acceptor(prefix, None, b"http/1.1"));
    tokio::spawn(expiring(listener, acceptors, Arc::clone(&over)));
    let tls = format!("ca: \"{}\", server_name: localhost", authority.path("ca.pem"));
    let stanza = format!("{stanza}, tls: {{ {tls} }}");
    // Paths that headway understands, and one that it only carries.
    let route = ", match: { paths: [/v1/chat/completions, /v1/files] }";
    let headway = Headway::start(&config(&[stanza], route, "")).await;
    over.store(true, Ordering::SeqCst);
    for (id, path) in [("chat", "/v1/chat/completions"), ("files", "/v1/files")] {
        let text = request(id, &chat("m")).replace("/v1/chat/completions", path);
        let reply = read_reply(&mut send(headway.address, &text).await).await;
        assert!(reply.status == 502 && reply.text.contains("\"upstream_tls\""), "{id}: {reply:?}");
        let record = headway.record(id).await;
        assert_eq!((record.outcome, record.attempts.len()), (Outcome::ConnectFailed, 1), "{id}");
    }
}
